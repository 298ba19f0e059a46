import itertools
import math

import pytest
import torch

from speechnar.decode.ctc import CtcPath, greedy, prefix_beam_search
from speechnar.decode.lm import HotwordBooster, NgramLm, TokenNgram, WordNgram
from speechnar.errors import ConfigError
from tests.unit.decode.sentences import sentence_log_prob

BLANK = 0
EXACT = {"beam_size": 10_000, "top_k": 100, "beam_threshold": math.inf, "nbest": 10_000}


def lattice(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([rows], dtype=torch.float64).log()


def random_log_probs(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).mul(scale).log_softmax(-1)


def sum_over_alignments(log_probs: torch.Tensor, blank_id: int = BLANK) -> dict[tuple[int, ...], float]:
    """Probability of every token sequence, by listing all V ** T frame paths."""
    probs: dict[tuple[int, ...], float] = {}
    num_frames, vocab = log_probs.shape
    for path in itertools.product(range(vocab), repeat=num_frames):
        tokens = tuple(label for label, _ in itertools.groupby(path) if label != blank_id)
        prob = math.exp(sum(log_probs[t, label].item() for t, label in enumerate(path)))
        probs[tokens] = probs.get(tokens, 0.0) + prob
    return probs


def test_greedy_merges_repeats_and_drops_blanks():
    best = [0, 1, 1, 0, 1, 2, 2, 0]
    log_probs = torch.full((1, len(best), 3), 0.1)
    for t, label in enumerate(best):
        log_probs[0, t, label] = 0.8 if t != 2 else 0.5
    (path,) = greedy(log_probs.log(), torch.tensor([len(best)]), BLANK)
    assert (path.tokens, path.starts, path.ends) == ([1, 1, 2], [1, 4, 5], [3, 5, 7])
    expected = [(math.log(0.8) + math.log(0.5)) / 2, math.log(0.8), math.log(0.8)]
    assert path.scores == pytest.approx(expected, abs=1e-5)
    assert path.total == pytest.approx(7 * math.log(0.8) + math.log(0.5), abs=1e-5)


def test_greedy_batch_equals_one_by_one_next_to_nan():
    log_probs = random_log_probs(4, 20, 5, seed=1)
    lens = torch.tensor([20, 1, 0, 13])
    alone = [greedy(log_probs[i : i + 1, :n], torch.tensor([n]), BLANK)[0] for i, n in enumerate(lens.tolist())]
    for i, n in enumerate(lens.tolist()):
        log_probs[i, n:] = torch.nan
    assert greedy(log_probs, lens, BLANK) == alone
    assert alone[2] == CtcPath([], [], [], [], 0.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("blank_id", [0, 2])
def test_wide_beam_equals_the_sum_over_all_alignments(seed, blank_id):
    log_probs = random_log_probs(1, 5, 3, seed=seed)
    (found,) = prefix_beam_search(log_probs, torch.tensor([5]), blank_id=blank_id, **EXACT)
    expected = sum_over_alignments(log_probs[0], blank_id)
    assert {tuple(hyp.tokens) for hyp in found} == set(expected)
    for hyp in found:
        assert hyp.ctc_score == pytest.approx(math.log(expected[tuple(hyp.tokens)]), abs=1e-9)
        assert hyp.total == hyp.ctc_score
    assert [hyp.total for hyp in found] == sorted((hyp.total for hyp in found), reverse=True)


def test_beam_finds_what_greedy_misses():
    # Graves 2006, figure 2 in numbers: "a" is likelier over its alignments though the best path is all blank.
    log_probs = lattice([0.6, 0.4], [0.6, 0.4])
    ((best,),) = prefix_beam_search(log_probs, torch.tensor([2]), blank_id=BLANK)
    assert greedy(log_probs, torch.tensor([2]), BLANK)[0].tokens == []
    assert best.tokens == [1] and best.total == pytest.approx(math.log(0.64))


def test_peaky_posteriors_give_the_greedy_result_and_its_times():
    log_probs = random_log_probs(3, 40, 6, seed=2, scale=30.0)
    lens = torch.tensor([40, 25, 0])
    log_probs[1, 25:] = torch.nan
    for beam_size in (1, 8):
        found = prefix_beam_search(log_probs, lens, blank_id=BLANK, beam_size=beam_size)
        for (hyp,), path in zip(found, greedy(log_probs, lens, BLANK), strict=True):
            assert (hyp.tokens, hyp.starts, hyp.ends) == (path.tokens, path.starts, path.ends)
            assert hyp.scores == pytest.approx(path.scores, abs=1e-6)


def test_a_narrow_beam_never_overstates_a_score():
    log_probs = random_log_probs(1, 6, 4, seed=5)
    expected = sum_over_alignments(log_probs[0])
    (found,) = prefix_beam_search(log_probs, torch.tensor([6]), blank_id=BLANK, beam_size=4, top_k=2, nbest=4)
    assert len(found) == 4
    for hyp in found:
        assert hyp.total <= math.log(expected[tuple(hyp.tokens)]) + 1e-12


def test_length_bonus_counts_tokens():
    log_probs = random_log_probs(1, 4, 3, seed=6)
    (found,) = prefix_beam_search(log_probs, torch.tensor([4]), blank_id=BLANK, length_bonus=0.7, **EXACT)
    assert all(hyp.total == pytest.approx(hyp.ctc_score + 0.7 * len(hyp.tokens)) for hyp in found)


PIECES = ("<blank>", "▁a", "▁b", "c", "<eng>")
WORD_LM = NgramLm(
    {"<s>": 0, "</s>": 1, "a": 2, "b": 3, "ac": 4},
    {
        **{(0,): (-99.0, -0.5), (1,): (-1.0, 0.0), (2,): (-2.0, -0.1), (3,): (-3.0, -0.2), (4,): (-1.5, 0.0)},
        **{(0, 2): (-0.3, 0.0), (2, 3): (-0.4, 0.0), (4, 1): (-0.2, 0.0)},
    },
    order=2,
)


def word_lm_score(tokens: list[int]) -> float:
    text = "".join(PIECES[token] for token in tokens if token != 4).replace("▁", " ")
    return sentence_log_prob(WORD_LM, text.split())


def test_word_lm_is_added_to_every_hypothesis_exactly():
    log_probs = random_log_probs(1, 4, 5, seed=7)
    plain = sum_over_alignments(log_probs[0])
    lm = WordNgram(WORD_LM, PIECES)
    (found,) = prefix_beam_search(log_probs, torch.tensor([4]), blank_id=BLANK, lm=lm, lm_weight=0.8, **EXACT)
    assert {tuple(hyp.tokens) for hyp in found} == set(plain)
    for hyp in found:
        expected = math.log(plain[tuple(hyp.tokens)]) + 0.8 * word_lm_score(hyp.tokens)
        assert hyp.total == pytest.approx(expected, abs=1e-9)


def test_token_lm_turns_a_hand_lattice():
    # CTC prefers "▁b" by ln(0.5 / 0.4) = 0.223; the model prefers "▁a" after <s> by far more.
    pieces = ("<blank>", "▁a", "▁b")
    lm = NgramLm({"▁a": 0, "▁b": 1}, {(0,): (math.log(0.9), 0.0), (1,): (math.log(0.1), 0.0)}, order=1)
    log_probs = lattice([0.1, 0.4, 0.5])
    arguments = {"blank_id": BLANK, "lm": TokenNgram(lm, pieces)}
    ((weak,),) = prefix_beam_search(log_probs, torch.tensor([1]), lm_weight=0.05, **arguments)
    ((strong,),) = prefix_beam_search(log_probs, torch.tensor([1]), lm_weight=0.5, **arguments)
    assert weak.tokens == [2] and strong.tokens == [1]
    assert strong.total == pytest.approx(math.log(0.4) + 0.5 * math.log(0.9))


def test_hotword_raises_a_listed_word_only():
    log_probs = lattice([0.05, 0.4, 0.55, 1e-9], [0.9, 0.04, 0.03, 0.03])
    lens = torch.tensor([2])
    ((plain,),) = prefix_beam_search(log_probs, lens, blank_id=BLANK)
    ((boosted,),) = prefix_beam_search(log_probs, lens, blank_id=BLANK, hotwords=HotwordBooster([[1]], 1.0))
    assert plain.tokens == [2] and boosted.tokens == [1]
    # A longer phrase that never completes must leave the result and its score alone.
    ((unmatched,),) = prefix_beam_search(log_probs, lens, blank_id=BLANK, hotwords=HotwordBooster([[1, 3, 3]], 1.0))
    assert unmatched == plain


def test_absent_hotwords_leave_confident_text_unchanged():
    log_probs = random_log_probs(2, 60, 8, seed=9, scale=12.0)
    lens = torch.tensor([60, 41])
    hotwords = HotwordBooster([[7, 7, 7, 7], [1, 2, 3, 4, 5]], 2.0)
    plain = prefix_beam_search(log_probs, lens, blank_id=BLANK)
    boosted = prefix_beam_search(log_probs, lens, blank_id=BLANK, hotwords=hotwords)
    for (expected,), (found,) in zip(plain, boosted, strict=True):
        assert (found.tokens, found.starts, found.ends) == (expected.tokens, expected.starts, expected.ends)
        # A phrase in the making may push another rival out of the beam, and with it a little probability.
        assert found.total == pytest.approx(expected.total, abs=0.01)


@pytest.mark.parametrize("seed", range(20))
def test_hotwords_change_only_texts_they_are_in(seed):
    log_probs, lens = random_log_probs(1, 30, 6, seed=seed, scale=3.0), torch.tensor([30])
    phrases = [[1, 2, 3, 4, 5, 1, 2], [2, 1, 3, 1, 1, 4, 4, 4], [5, 4, 5, 4, 3, 3, 3, 3, 2]]
    # Every text begins many phrases, which push the best text out of a small beam before they break off.
    hotwords = HotwordBooster(phrases, 1.0)
    ((plain,),) = prefix_beam_search(log_probs, lens, blank_id=BLANK, beam_size=3)
    ((found,),) = prefix_beam_search(log_probs, lens, blank_id=BLANK, beam_size=3, hotwords=hotwords)
    text = "".join(map(str, found.tokens))
    assert found.tokens == plain.tokens or any("".join(map(str, phrase)) in text for phrase in phrases)
    assert found.total >= plain.total - 1e-9


def test_impossible_frames_do_not_crash():
    log_probs = torch.full((1, 2, 3), -torch.inf)
    ((hyp,),) = prefix_beam_search(log_probs, torch.tensor([2]), blank_id=BLANK)
    assert hyp.tokens == []


@pytest.mark.parametrize(
    "wrong", [{"beam_size": 0}, {"top_k": 0}, {"nbest": 0}, {"beam_threshold": 0.0}, {"lm_weight": -0.1}]
)
def test_options_are_checked(wrong):
    with pytest.raises(ConfigError, match="beam search needs"):
        prefix_beam_search(lattice([0.5, 0.5]), torch.tensor([1]), blank_id=BLANK, **wrong)
