import random

import pytest
import torch

from speechnar.decode.verify import rest_of, verify
from speechnar.errors import ConfigError
from speechnar.models.mt.reta import Reta, RetaConfig
from tests.unit.models.texts import TOKENIZER

SOS, EOS = TOKENIZER.id_of("<sos>"), TOKENIZER.id_of("<eos>")
TEXT = range(2, 11)


def make(seed):
    torch.manual_seed(seed)
    model = Reta.from_config(RetaConfig.debug(), TOKENIZER).eval()
    with torch.no_grad():  # so that attention to the source and to the text decides, and some texts end
        for parameter in model.parameters():
            parameter.mul_(1.7)
        model.head.decoder.output.bias[EOS] += 2.0
    return model


def source(rng, longest=9):
    return torch.tensor([[rng.choice(TEXT) for _ in range(rng.randint(1, longest))]])


def greedy(model, src):
    (tokens,) = model.decode(src, torch.tensor([src.size(1)]))
    return tokens


def run(model, src, draft, **options):
    limit = model.max_len(src.size(1))
    return verify(model.verifier(src), draft, sos_id=SOS, eos_id=EOS, max_len=limit, **options)


def noisy(rng, tokens):
    kept = [rng.choice(TEXT) if rng.random() < 0.2 else token for token in tokens if rng.random() > 0.1]
    return kept[: rng.randint(0, len(kept))] if rng.random() < 0.5 else kept


def test_without_bias_any_draft_ends_in_the_greedy_text():
    lengths, shares = set(), []
    for seed in range(2):
        model, rng = make(seed), random.Random(seed)
        for _ in range(20):
            src = source(rng)
            expected = greedy(model, src)
            proposal = noisy(rng, expected)
            for draft, propose in (
                ([], None),
                (expected, None),
                (noisy(rng, expected), None),
                ([rng.choice(TEXT) for _ in range(30)], None),
                (noisy(rng, expected), lambda accepted, proposal=proposal: rest_of(proposal, accepted)),
            ):
                verified = run(model, src, draft, propose=propose)
                assert verified.tokens == expected
                assert verified.evaluations <= len(expected) + 1
            lengths.add(len(expected))
            shares.append(run(model, src, expected).evaluations)
    assert len(lengths) > 3  # texts that end early among those that are cut off
    assert set(shares) == {1}  # a right draft is read at once


def test_proposals_save_evaluations_behind_a_rejection():
    model, rng = make(0), random.Random(5)
    saved = 0
    for _ in range(20):
        src = source(rng)
        expected = greedy(model, src)
        wrong = [TEXT[0] if token != TEXT[0] else TEXT[1] for token in expected[:1]]
        alone = run(model, src, wrong + expected[1:])
        helped = run(model, src, wrong, propose=lambda accepted, known=expected: rest_of(known, accepted))
        assert alone.tokens == helped.tokens == expected
        saved += alone.evaluations - helped.evaluations
        assert helped.num_drafted >= alone.num_drafted
    assert saved > 0


def fixed(rows):
    """Return a verifier of known distributions by position."""

    class Fixed:
        length = 0

        def __call__(self, tokens):
            first, self.length = self.length, self.length + len(tokens)
            return torch.tensor([rows[min(place, len(rows) - 1)] for place in range(first, self.length)]).log()

        def truncate(self, length):
            self.length = min(self.length, length)

    return Fixed()


def test_a_bias_lets_the_draft_stand_until_it_is_rejected():
    # End, then three tokens; everywhere 1 is best, 2 is 0.2 behind it, 3 is 0.5 behind.
    rows = [[0.0, 0.6, 0.4, 0.1]] * 3 + [[0.9, 0.05, 0.05, 0.0]]

    def run_fixed(draft, bias, **options):
        return verify(fixed(rows), draft, sos_id=9, eos_id=0, max_len=10, bias=bias, **options).tokens

    assert run_fixed([2, 2, 2], 0.0) == [1, 1, 1]
    assert run_fixed([2, 2, 2], 0.15) == [1, 1, 1]  # 0.15 / 0.85 < 0.2
    assert run_fixed([2, 2, 2], 0.2) == [2, 2, 2]  # 0.2 / 0.8 > 0.2
    assert run_fixed([2, 3, 2], 0.2) == [2, 1, 1]
    assert run_fixed([2, 2, 2], 0.2, num_biased=1) == [2, 1, 1]
    assert run_fixed([2, 2, 2], 0.2, num_biased=0) == [1, 1, 1]
    assert run_fixed([2, 2, 2, 2], 0.2) == [2, 2, 2]  # the end is best by far
    assert run_fixed([2, 2, 2, 2], 0.5) == [2, 2, 2, 2]
    assert run_fixed([3, 3, 3], 0.4) == [3, 3, 3]


def test_lengths_are_cut_off_and_wrong_options_refused():
    rows = [[0.0, 0.6, 0.4]]
    for draft in ([], [1, 1], [1] * 9, [2, 2, 2]):
        assert verify(fixed(rows), draft, sos_id=9, eos_id=0, max_len=4).tokens == [1] * 4
    with pytest.raises(ConfigError, match="bias"):
        verify(fixed(rows), [], sos_id=9, eos_id=0, max_len=4, bias=1.0)
    with pytest.raises(ConfigError, match="must not hold the end"):
        verify(fixed(rows), [1, 0], sos_id=9, eos_id=0, max_len=4)


def test_a_proposal_goes_on_where_it_says_the_last_word():
    assert rest_of([1, 2, 3, 2, 4], [7, 9, 9, 2]) == [4]
    assert rest_of([1, 2, 3, 2, 4], [9, 2]) == [3, 2, 4]
    assert rest_of([1, 2, 3], [5]) == [2, 3]
    assert rest_of([1, 2, 3], [5, 5, 5, 5]) == []
    assert rest_of([1, 2, 3], []) == [1, 2, 3]
