import math

import pytest

from speechnar.errors import DataError
from speechnar.metrics.simultaneous import (
    StreamedSentence,
    Update,
    average_lagging,
    click_edits,
    computed_delays,
    delays,
    erasures,
    final_from,
    finished_at,
    first_delays,
    masked,
    normalized_erasure,
    score_streams,
    without_stale,
)

SHOWN = ("ein", "ein Mann", "ein Mann in", "ein alter Mann in blau", "ein alter Mann in blauem Hemd")


def streamed(*shown, seconds=0.0, num_source=None):
    """Return a sentence with an update for each source word."""
    updates = tuple(Update(i, tuple(text.split()), seconds) for i, text in enumerate(shown, start=1))
    return StreamedSentence(num_source or len(shown), updates)


def test_erasure_and_lagging_of_a_known_sentence():
    sentence = streamed(*SHOWN)
    assert erasures(sentence) == [0, 0, 2, 1]
    assert normalized_erasure([sentence]) == 0.5
    assert delays(sentence) == [1, 4, 4, 4, 5, 5]
    assert average_lagging(delays(sentence), 5, 6) == pytest.approx(1.9333, abs=1e-4)


def test_lagging_of_wait_3():
    assert average_lagging([3, 4, 5, 5, 5, 5], 5, 6) == pytest.approx(3.1667, abs=1e-4)
    # A translation shorter than its reference is not rewarded: the slope is that of the longer.
    assert average_lagging([3, 4, 5, 5], 5, 8) == pytest.approx((3 + 4 - 5 / 8 + 5 - 10 / 8) / 3)
    assert math.isnan(average_lagging([], 5, 6))


def test_words_may_appear_before_they_are_final():
    sentence = streamed("ein", "ein Mann", "der Mann", "ein Mann geht")
    assert delays(sentence) == [4, 4, 4] and final_from(sentence) == [3, 3, 3]
    assert first_delays(sentence) == [1, 2, 4]
    assert erasures(sentence) == [0, 2, 2]


def test_erasure_of_a_corpus_is_weighted_by_words():
    calm, wild = streamed("a", "a b", "a b c"), streamed("x", "y")
    assert normalized_erasure([calm, wild]) == pytest.approx(1 / 4)
    assert math.isnan(normalized_erasure([streamed("", "")]))


def test_a_full_stop_that_goes_does_not_take_its_word_back():
    sentence = streamed("ein Mann.", "ein Mann in Blau .", "ein Mann in Blau geht.")
    assert normalized_erasure([sentence]) == pytest.approx(2 / 5)
    assert normalized_erasure([sentence], ignore_final_punctuation=True) == 0.0


def test_click_edits_do_not_count_what_stands_behind():
    assert click_edits([streamed(*SHOWN)]) == pytest.approx(((1 + 1) + (1 + 1)) / 6)  # alter; blau to blauem
    assert click_edits([streamed("a b c d", "x b y d")]) == pytest.approx((2 + 2) / 4)
    assert click_edits([streamed("a b", "a b c d")]) == 0.0
    assert click_edits([streamed("a b c d", "a")]) == pytest.approx((3 + 1) / 1)


def test_a_slow_system_falls_behind():
    sentence = streamed("a", "a b", "a b c", seconds=1.5)
    assert finished_at(sentence, word_s=1.0) == [2.5, 4.0, 5.5]
    assert finished_at(streamed("a", "a b", "a b c", seconds=0.5), word_s=1.0) == [1.5, 2.5, 3.5]
    assert computed_delays(sentence, word_s=0.5) == [4.0, 7.0, 10.0]
    score = score_streams([sentence], [3], word_s=1.0)
    assert score.al == 1.0 and score.al_ca == pytest.approx((2.5 + 4.0 - 1 + 5.5 - 2) / 3)


def test_stale_updates_are_left_out():
    sentence = streamed("a", "a b", "a b c", "a b c d", seconds=2.5)
    kept = without_stale(sentence, word_s=1.0)
    # At 3.5 s the first is done and three words are there; at 6 s all are.
    assert [update.num_read for update in kept.updates] == [1, 3, 4]
    assert finished_at(kept, word_s=1.0) == [3.5, 6.0, 8.5]
    fast = streamed("a", "a b", seconds=0.1)
    assert without_stale(fast, word_s=1.0) == fast


def test_the_last_words_are_hidden_until_the_source_is_finished():
    assert masked(["a", "b", "c"], 2, is_final=False) == ("a",)
    assert masked(["a"], 2, is_final=False) == ()
    assert masked(["a", "b", "c"], 2, is_final=True) == ("a", "b", "c")
    assert masked(["a", "b"], 0, is_final=False) == ("a", "b")


def test_scores_are_means_over_sentences_and_quantiles_over_updates():
    first, empty = streamed(*SHOWN, seconds=0.1), streamed("", "", seconds=0.3)
    score = score_streams([first, empty], [8, 2])
    assert score.al == pytest.approx(1.9333, abs=1e-4)  # the empty one has none
    assert score.laal == pytest.approx(average_lagging([1, 4, 4, 4, 5, 5], 5, 8))
    assert score.seconds_per_sentence == pytest.approx((5 * 0.1 + 2 * 0.3) / 2)
    assert (score.updates, score.sentences) == (7, 2)
    assert score.update_p50_s == pytest.approx(0.1) and score.update_p95_s == pytest.approx(0.3)
    assert score.erasure == 0.5


def test_logs_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="ever more of the 3 source words"):
        streamed("a", "b", num_source=3)
    with pytest.raises(DataError, match="ever more"):
        StreamedSentence(2, (Update(2, ()), Update(1, ())))
    with pytest.raises(DataError, match="as many references"):
        score_streams([streamed("a")], [])
