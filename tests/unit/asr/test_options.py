"""Options of decoding: ranges, and that nothing is given in vain."""

import dataclasses

import pytest

from speechnar.asr.options import DecodeOptions
from speechnar.errors import ConfigError


@pytest.mark.parametrize(
    "values",
    [
        {"beam_size": 0},
        {"batch_seconds": 0.0},
        {"batch_seconds": float("inf")},
        {"window_s": 0.0},
        {"hotwords": "dog"},
        {"hotword_weight": float("nan")},
        {"lm_weight": float("inf"), "lm": "lm.arpa"},
        {"lm_weight": 0.5},
        {"hotword_weight": 1.0},
        {"hotword_weight": 1.0, "lm": "lm.arpa"},
        {"num_alignments": 0},
    ],
)
def test_options_out_of_range_or_without_effect(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        DecodeOptions(**values)


def test_phrases_are_kept_as_a_tuple():
    assert DecodeOptions(hotwords=["a dog", "cat"]).hotwords == ("a dog", "cat")
    assert DecodeOptions(hotwords=["a"]) == DecodeOptions(hotwords=("a",))


@pytest.mark.parametrize("values", [{"beam_size": 4}, {"lm": "lm.arpa"}, {"hotwords": ("dog",)}])
def test_some_choices_need_a_search(values):
    assert DecodeOptions(**values).needs_search
    assert not DecodeOptions().needs_search
    assert not DecodeOptions(prompt="so", vad=True, pad=True).needs_search


def test_options_stay_as_they_are():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DecodeOptions().beam_size = 3
