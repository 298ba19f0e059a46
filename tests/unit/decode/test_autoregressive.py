from itertools import product

import pytest
import torch
from torch.nn import functional as F

from speechnar.decode.autoregressive import CtcPrefixScorer, beam_search, greedy_search
from speechnar.errors import ConfigError

SOS, EOS = 0, 1


class TableStep:
    """Log-probabilities that depend on the utterance and the whole history, by a table of random numbers."""

    def __init__(self, batch, vocab, seed=0):
        self.batch = batch
        self.vocab = vocab
        self.seed = seed
        self.histories = None

    def log_probs(self, utterance, history):
        key = hash((self.seed, utterance, tuple(history)))
        return torch.randn(self.vocab, generator=torch.Generator().manual_seed(key)).mul(2).log_softmax(0)

    def __call__(self, tokens, rows):
        past = [[] for _ in tokens] if self.histories is None else self.histories
        if rows is not None:
            past = [past[row] for row in rows.tolist()]
        self.histories = [[*history, token] for history, token in zip(past, tokens.tolist(), strict=True)]
        per_utterance = len(tokens) // self.batch
        return torch.stack([self.log_probs(n // per_utterance, h[1:]) for n, h in enumerate(self.histories)])


def walk(step, utterance, max_len, min_len=0):
    """Decode one utterance greedily, one token at a time."""
    tokens, total = [], 0.0
    while len(tokens) < max_len:
        log_probs = step.log_probs(utterance, tokens)
        if len(tokens) < min_len:
            log_probs[EOS] = -torch.inf
        best = int(log_probs.argmax())
        total += float(log_probs[best])
        if best == EOS:
            break
        tokens.append(best)
    return tokens, total


@pytest.mark.parametrize("min_len", [0, 4])
def test_greedy_search_takes_the_best_token_again_and_again(min_len):
    max_lens = torch.tensor([9, 2, 12, 1, 9])
    min_lens = torch.full((5,), min_len).minimum(max_lens) if min_len else None
    decoded = greedy_search(TableStep(5, 6), max_lens, sos_id=SOS, eos_id=EOS, min_lens=min_lens)
    for b, max_len in enumerate(max_lens.tolist()):
        tokens, total = walk(TableStep(5, 6), b, max_len, min(min_len, max_len))
        assert decoded.tokens[b, : decoded.lens[b]].tolist() == tokens
        assert float(decoded.totals[b]) == pytest.approx(total, abs=1e-5)
        assert (decoded.tokens[b, decoded.lens[b] :] == EOS).all()
        assert not decoded.token_scores[b, decoded.lens[b] :].any()
    assert decoded.tokens.size(1) == decoded.lens.max()
    assert {0, 2, 12} & set(decoded.lens.tolist()) or min_len  # short, cut off and long ones are among them


def test_nothing_is_decoded_where_nothing_may_be():
    decoded = greedy_search(TableStep(2, 6), torch.tensor([0, 0]), sos_id=SOS, eos_id=EOS)
    assert decoded.tokens.shape == (2, 0) and decoded.lens.tolist() == [0, 0] and decoded.totals.tolist() == [0, 0]


BLANK = 2


def ctc_posteriors(batch, num_frames, vocab, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, num_frames, vocab, generator=generator).mul(2).log_softmax(-1)


def ctc_score(log_probs, tokens):
    """log p(tokens) of one utterance (T, V) by torch."""
    if not tokens:
        return float(log_probs[:, BLANK].double().sum())
    targets = torch.tensor([tokens])
    lens = torch.tensor([len(log_probs)]), torch.tensor([len(tokens)])
    return -float(F.ctc_loss(log_probs.double()[:, None], targets, *lens, BLANK, reduction="sum"))


def all_texts(num_frames, vocab):
    letters = [v for v in range(vocab) if v != BLANK]
    return [list(text) for n in range(num_frames + 1) for text in product(letters, repeat=n)]


def test_prefix_scores_are_sums_over_all_texts():
    num_frames, vocab = 5, 5
    log_probs = ctc_posteriors(1, num_frames, vocab)
    whole = {tuple(text): ctc_score(log_probs[0], text) for text in all_texts(num_frames, vocab)}
    assert torch.tensor(list(whole.values())).logsumexp(0) == pytest.approx(0.0, abs=1e-6)

    letters = torch.tensor([0, 1, 3, 4])
    scorer = CtcPrefixScorer(log_probs, torch.tensor([num_frames]), blank_id=BLANK, beam_size=2)
    texts = [[], []]
    for parents, tokens in (([0, 0], [0, 1]), ([1, 0], [1, 3]), ([0, 0], [1, 4]), ([1, 0], [0, 1]), ([1, 0], [4, 3])):
        prefixes = scorer.prefixes(letters.expand(1, 2, -1))
        for k, text in enumerate(texts):
            assert float(scorer.wholes()[0, k]) == pytest.approx(whole.get(tuple(text), -torch.inf), abs=1e-6)
            for c, letter in enumerate(letters.tolist()):
                begun = [score for t, score in whole.items() if t[: len(text) + 1] == (*text, letter)]
                expected = torch.tensor([*begun, -torch.inf]).logsumexp(0)
                assert float(prefixes[0, k, c]) == pytest.approx(float(expected), abs=1e-6)
        scorer.advance(torch.tensor([parents]), torch.tensor([tokens]))
        texts = [[*texts[parent], token] for parent, token in zip(parents, tokens, strict=True)]


def test_prefix_scores_do_not_see_padding_and_survive_certainty():
    log_probs = ctc_posteriors(2, 9, 5)
    log_probs[:, 3] = torch.tensor([-torch.inf, 0.0, -torch.inf, -torch.inf, -torch.inf])
    lens = torch.tensor([9, 6])
    spoiled = log_probs.clone()
    spoiled[1, 6:] = torch.nan
    together = CtcPrefixScorer(spoiled, lens, blank_id=BLANK, beam_size=2)
    alone = [
        CtcPrefixScorer(log_probs[b : b + 1, :n], lens[b : b + 1], blank_id=BLANK, beam_size=2)
        for b, n in ((0, 9), (1, 6))
    ]
    letters = torch.tensor([0, 1, 3, 4]).expand(2, 2, -1)
    for parents, tokens in (([0, 1], [1, 0]), ([1, 0], [1, 1]), ([0, 0], [3, 4]), ([0, 1], [3, 4])):
        for b in range(2):
            torch.testing.assert_close(together.prefixes(letters)[b], alone[b].prefixes(letters[:1])[0])
            torch.testing.assert_close(together.wholes()[b], alone[b].wholes()[0])
            alone[b].advance(torch.tensor([parents]), torch.tensor([tokens]))
        assert not together.prefixes(letters).isnan().any()
        together.advance(torch.tensor([parents] * 2), torch.tensor([tokens] * 2))


def best_of_all(step, utterance, log_probs, max_len, ctc_weight):
    """Score every text: with its end, or as a prefix where the limit cuts it off."""
    whole = {tuple(text): ctc_score(log_probs, text) for text in all_texts(len(log_probs), step.vocab)}
    found = []
    for text in all_texts(max_len, step.vocab):
        if EOS in text:
            continue
        cut = len(text) == max_len
        decoder = sum(float(step.log_probs(utterance, text[:i])[token]) for i, token in enumerate(text))
        if not cut:
            decoder += float(step.log_probs(utterance, text)[EOS])
        scores = [score for t, score in whole.items() if (t[:max_len] if cut else t) == tuple(text)]
        ctc = float(torch.tensor([*scores, -torch.inf]).logsumexp(0))
        found.append(((1 - ctc_weight) * decoder + (ctc_weight * ctc if ctc_weight else 0.0), text))
    return max(found)


class WithoutBlank(TableStep):
    def log_probs(self, utterance, history):
        return super().log_probs(utterance, history).index_fill(0, torch.tensor([BLANK]), -torch.inf)


@pytest.mark.parametrize("ctc_weight", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_everything_finds_the_best_of_everything(ctc_weight, seed):
    vocab, lens, max_lens = 5, torch.tensor([5, 3, 4]), torch.tensor([4, 3, 2])
    log_probs = ctc_posteriors(3, 5, vocab, seed)
    step = WithoutBlank(3, vocab, seed)
    scorer = CtcPrefixScorer(log_probs, lens, blank_id=BLANK, beam_size=3**4)
    decoded = beam_search(
        step,
        max_lens,
        sos_id=SOS,
        eos_id=EOS,
        beam_size=3**4,
        ctc=scorer if ctc_weight else None,
        ctc_weight=ctc_weight,
    )
    for b in range(3):
        score, text = best_of_all(
            WithoutBlank(3, vocab, seed), b, log_probs[b, : lens[b]], int(max_lens[b]), ctc_weight
        )
        assert decoded.tokens[b, : decoded.lens[b]].tolist() == text
        assert float(decoded.totals[b]) == pytest.approx(score, abs=1e-5)
        gained = decoded.token_scores[b].sum()
        assert gained >= decoded.totals[b] - 1e-6 or ctc_weight  # the end costs the rest


def test_a_beam_of_one_without_ctc_is_greedy():
    max_lens = torch.tensor([9, 2, 12, 1, 9])
    one = beam_search(TableStep(5, 6), max_lens, sos_id=SOS, eos_id=EOS, beam_size=1)
    greedy = greedy_search(TableStep(5, 6), max_lens, sos_id=SOS, eos_id=EOS)
    assert one.tokens.equal(greedy.tokens) and one.lens.equal(greedy.lens)
    torch.testing.assert_close(one.token_scores.float(), greedy.token_scores)
    torch.testing.assert_close(one.totals.float(), greedy.totals)


def test_a_beam_searches_an_utterance_as_if_it_were_alone():
    vocab, lens, max_lens = 9, torch.tensor([14, 6, 9]), torch.tensor([14, 6, 9])
    log_probs = ctc_posteriors(3, 14, vocab)

    def search(utterances):
        step = WithoutBlank(len(utterances), vocab)
        table = step.log_probs
        step.log_probs = lambda utterance, history: table(utterances[utterance], history)
        num_frames = int(lens[utterances].max())
        scorer = CtcPrefixScorer(log_probs[utterances, :num_frames], lens[utterances], blank_id=BLANK, beam_size=4)
        return beam_search(step, max_lens[utterances], sos_id=SOS, eos_id=EOS, beam_size=4, ctc=scorer)

    together = search([0, 1, 2])
    for b in range(3):
        alone = search([b])
        assert together.tokens[b, : together.lens[b]].equal(alone.tokens[0])
        torch.testing.assert_close(together.totals[b : b + 1], alone.totals)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_nothing_ends_before_its_least_length(beam_size):
    max_lens, min_lens = torch.tensor([9, 9, 9]), torch.tensor([0, 4, 9])
    options = {"sos_id": SOS, "eos_id": EOS, "beam_size": beam_size}
    free = beam_search(TableStep(3, 6), max_lens, **options)
    decoded = beam_search(TableStep(3, 6), max_lens, **options, min_lens=min_lens)
    assert (free.lens < min_lens)[1:].all()
    assert decoded.lens[0] == free.lens[0] and decoded.lens[1] >= 4 and decoded.lens[2] == 9


class Shrinking:
    """The end becomes less probable by ``fall`` nats with every token; other tokens are free."""

    def __init__(self, fall):
        self.fall = fall
        self.calls = 0

    def __call__(self, tokens, rows):
        log_probs = torch.full((len(tokens), 4), -torch.inf)
        log_probs[:, 3] = 0.0
        log_probs[:, EOS] = -1.0 - self.fall * self.calls
        self.calls += 1
        return log_probs


def test_the_search_stops_when_longer_hypotheses_are_hopeless():
    step = Shrinking(fall=6.0)
    decoded = beam_search(step, torch.tensor([50]), sos_id=SOS, eos_id=EOS, beam_size=2)
    # The ends after 0, 1, 2, ... tokens score -1, -7, -13, -19, -25: the third to the fifth lie 10 nats behind, and two
    # steps later they are looked at.
    assert step.calls == 7
    assert decoded.lens.tolist() == [0] and decoded.totals.tolist() == [-1.0]
    step = Shrinking(fall=0.01)
    beam_search(step, torch.tensor([50]), sos_id=SOS, eos_id=EOS, beam_size=2)
    assert step.calls == 50


def test_a_beam_needs_places_and_a_share():
    for options in ({"beam_size": 0}, {"beam_size": 2, "ctc_weight": 1.0}, {"beam_size": 2, "ctc_weight": -0.1}):
        with pytest.raises(ConfigError, match="beam search needs"):
            beam_search(TableStep(1, 6), torch.tensor([3]), sos_id=SOS, eos_id=EOS, **options)
