"""Error rates: counts known by hand, an independent edit distance, intervals, and the report."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechnar.errors import ConfigError, DataError
from speechnar.metrics.error_rate import ErrorRate, cer, wer

REFS = ["the cat sat on the mat", "hello world", "yes"]
HYPS = ["The hat sat on mat today.", "Hello, world!", ""]

sentences = st.lists(st.sampled_from("abc"), max_size=6).map(" ".join)


def edit_distance(ref, hyp):
    """Levenshtein by its recurrence, row by row."""
    row = list(range(len(hyp) + 1))
    for i, a in enumerate(ref, start=1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(hyp, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (a != b))
    return row[-1]


def test_counts_known_by_hand():
    result = wer(REFS, HYPS)
    assert (result.substitutions, result.deletions, result.insertions) == (1, 2, 1)
    assert (result.errors, result.ref_len, result.num_utts) == (4, 9, 3)
    assert result.rate == 4 / 9
    assert (result.unit, result.normalizer) == ("word", "basic")


@given(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=4))
def test_errors_equal_the_edit_distance(pairs):
    refs, hyps = zip(*pairs, strict=True)
    result = wer(refs, hyps)
    assert result.errors == sum(edit_distance(r.split(), h.split()) for r, h in pairs)
    assert cer(refs, hyps).errors == sum(edit_distance(r, h) for r, h in pairs)
    assert result.ref_len + result.insertions - result.deletions == sum(len(h.split()) for h in hyps)


def test_the_normalizer_decides_and_is_named():
    assert wer(["Hello, world"], ["hello world"]).errors == 0
    raw = wer(["Hello, world"], ["hello world"], normalizer="none")
    assert (raw.errors, raw.normalizer) == (1, "none")
    assert "normalizer none" in str(raw)
    with pytest.raises(ConfigError, match="normalizer must be one of"):
        wer(["a"], ["a"], normalizer="nope")


def test_characters_count_spaces_only_where_words_are_spaced():
    assert cer(["a b"], ["ab"]).errors == 1 and cer(["a b"], ["ab"]).ref_len == 3
    chinese = cer(["你好，世界"], ["你 好世"], lang="zho")
    assert (chinese.deletions, chinese.errors, chinese.ref_len, chinese.unit) == (1, 1, 4, "character")


@pytest.mark.parametrize(("refs", "hyps", "rate"), [(["", ""], ["", ""], 0.0), (["", ""], ["a", ""], math.inf)])
def test_empty_references(refs, hyps, rate):
    result = wer(refs, hyps)
    assert result.rate == rate and result.interval is None and result.ref_len == 0


def test_interval_of_equal_utterances_has_no_width_and_one_utterance_has_none():
    low, high = wer(["a b"] * 20, ["a c"] * 20).interval
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)
    assert wer(["a b"], ["a c"]).interval is None
    assert wer(["", "a"], ["a", "a"]).interval is None  # a draw may hold nothing but the empty reference


def test_interval_is_seeded_and_near_the_binomial():
    # 400 one-word utterances, a quarter wrong: standard error sqrt(p (1 - p) / n).
    refs, hyps = ["a"] * 400, ["b", "a", "a", "a"] * 100
    first, again, other = (wer(refs, hyps, seed=seed) for seed in (1, 1, 2))
    assert first.interval == again.interval != other.interval
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert first.interval == pytest.approx((0.25 - half, 0.25 + half), abs=0.003)
    assert cer(REFS, HYPS).interval[0] == 0  # the normal approximation would begin below


@pytest.mark.parametrize(("refs", "hyps"), [([], []), (["a"], []), ("a", ["a"]), (["a"], "a")])
def test_unpaired_input_is_refused(refs, hyps):
    for score in (wer, cer):
        with pytest.raises(DataError, match="references and hypotheses must be"):
            score(refs, hyps)


def test_printed_line():
    result = ErrorRate("word", 1, 2, 3, 100, 7, "basic", (0.0412, 0.0799))
    assert str(result) == ("WER 6.00 [4.12, 7.99] (sub 1, del 2, ins 3; 100 words, 7 utterances; normalizer basic)")
