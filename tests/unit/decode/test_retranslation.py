import math

import pytest
import torch

from speechnar.decode.autoregressive import beam_search, greedy_search
from speechnar.decode.retranslation import BiasedStep, Previous
from speechnar.errors import ConfigError

SOS, EOS, V = 0, 1, 5


def fixed(distribution):
    """Return a step whose next token does not depend on what was said."""
    log_probs = torch.tensor(distribution).log()
    return lambda tokens, rows: log_probs.expand(len(tokens), -1)


def previous(rows, bias):
    lens = torch.tensor([len(row) for row in rows])
    tokens = torch.full((len(rows), max(map(len, rows))), -7)
    for row, given in zip(tokens, rows, strict=True):
        row[: len(given)] = torch.tensor(given)
    return Previous(tokens=tokens, lens=lens, bias=bias)


def test_distributions_lean_to_the_previous_token_while_a_hypothesis_repeats_it():
    p = [0.1, 0.1, 0.2, 0.2, 0.4]
    step = BiasedStep(fixed(p), eos_id=EOS, previous=previous([[2, 3], [3]], 0.25))
    first = step(torch.tensor([SOS, SOS, SOS, SOS]), None).exp()  # two hypotheses of each sentence
    leaning = [0.75 * value for value in p]
    for row, token in zip(first, (2, 2, 3, 3), strict=True):
        expected = list(leaning)
        expected[token] += 0.25
        assert row.tolist() == pytest.approx(expected)
    second = step(torch.tensor([2, 4, 3, 2]), torch.tensor([1, 0, 2, 3])).exp()
    assert second[0, 3] == pytest.approx(0.75 * 0.2 + 0.25)
    for row in second[1:]:  # left it, used it up, left it
        assert row.tolist() == pytest.approx(p)
    third = step(torch.tensor([3, 2, 2, 2]), torch.tensor([0, 0, 2, 2])).exp()
    assert third[0].tolist() == pytest.approx(p)


def test_rows_carry_on_whether_a_hypothesis_repeats():
    p = [0.1, 0.1, 0.2, 0.2, 0.4]
    step = BiasedStep(fixed(p), eos_id=EOS, previous=previous([[2, 3, 4]], 0.5))
    step(torch.tensor([SOS, SOS]), None)
    step(torch.tensor([4, 2]), None)
    third = step(torch.tensor([3, 3]), torch.tensor([1, 0])).exp()
    assert third[0, 4] == pytest.approx(0.7) and third[1, 4] == pytest.approx(0.4)


def test_no_bias_changes_nothing_and_a_reward_every_token_but_the_end():
    p = [0.1, 0.3, 0.2, 0.2, 0.2]
    plain = torch.tensor(p).log()
    step = BiasedStep(fixed(p), eos_id=EOS, previous=previous([[2]], 0.0))
    assert torch.equal(step(torch.tensor([SOS]), None)[0], plain)
    rewarded = BiasedStep(fixed(p), eos_id=EOS, token_reward=0.5)(torch.tensor([SOS]), None)[0]
    assert rewarded.tolist() == pytest.approx([math.log(q) + 0.5 * (i != EOS) for i, q in enumerate(p)], abs=1e-6)
    for bias in (-0.1, 1.0):
        with pytest.raises(ConfigError, match="bias"):
            BiasedStep(fixed(p), eos_id=EOS, previous=previous([[2]], bias))


def test_searches_repeat_a_biased_output():
    p = [0.05, 0.3, 0.2, 0.2, 0.25]
    limits = torch.tensor([4])
    for search in (greedy_search, lambda *a, **k: beam_search(*a, beam_size=3, ctc_weight=0.0, **k)):
        plain = search(BiasedStep(fixed(p), eos_id=EOS), limits, sos_id=SOS, eos_id=EOS)
        assert plain.tokens.tolist() == [[]]
        biased = BiasedStep(fixed(p), eos_id=EOS, previous=previous([[2, 3]], 0.7))
        assert search(biased, limits, sos_id=SOS, eos_id=EOS).tokens.tolist() == [[2, 3]]
