"""Cues keep the rules of subtitling."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechnar.errors import ConfigError
from speechnar.text.subtitles import COLUMNS_PER_S, MAX_CUE_S, Cue, columns, lay_out
from speechnar.text.transcript import Segment, Word

SPEECH = (
    "When the sunlight strikes raindrops in the air, they act as a prism and form a rainbow. The rainbow is a division "
    "of white light into many beautiful colors; these take the shape of a long round arch, with its path high above."
)


def said(text, start=0.0, end=4.0, words=None):
    return Segment(0, start, end, text, words=words)


def spoken(text, *, start=0.0, word_s=0.3):
    """Return a segment with a word in every ``word_s`` seconds."""
    words = [Word(start + word_s * i, start + word_s * (i + 1), word, 1.0) for i, word in enumerate(text.split())]
    return Segment(0, start, words[-1].end, text, words=tuple(words))


def shown(cues):
    return [list(cue.lines) for cue in cues]


def test_a_long_sentence_keeps_every_rule_and_breaks_at_clauses():
    segment = spoken(SPEECH)
    cues = lay_out([segment], segment.end)
    assert " ".join(line for cue in cues for line in cue.lines) == SPEECH
    for cue in cues:
        assert len(cue.lines) <= 2 and all(len(line) <= 42 for line in cue.lines)
        assert 1000 <= cue.end_ms - cue.start_ms <= 7000
    assert [cue.lines[-1].split()[-1] for cue in cues] == ["air,", "rainbow.", "colors;", "above."]
    assert cues[0].lines == ("When the sunlight strikes", "raindrops in the air,")


def test_slow_speech_is_cut_after_seven_seconds():
    segment = spoken("one two three four five six seven eight", word_s=1.5)
    cues = lay_out([segment], segment.end)
    assert len(cues) > 1 and all(cue.end_ms - cue.start_ms <= 7000 for cue in cues)
    (stretched,) = lay_out([said("oh", 0.0, 20.0)], 20.0)
    assert stretched == Cue(0, 7000, ("oh",))


def test_short_cues_stay_until_they_are_read_but_not_over_the_next_nor_over_the_end():
    first, second = said("yes", 1.0, 1.2), said("no", 5.0, 5.1)
    assert lay_out([first, second], 5.5) == [Cue(1000, 2000, ("yes",)), Cue(5000, 5500, ("no",))]
    fast = said("x" * 34, 0.0, 0.5)  # two seconds to be read
    assert lay_out([fast], 9.0)[0].end_ms == 1000 * 34 / COLUMNS_PER_S
    assert lay_out([fast, said("next one", 1.5, 3.0)], 9.0)[0].end_ms == 1500


def test_what_would_flash_by_is_shown_with_the_next():
    digits = [said(word, 0.4 * i, 0.4 * i + 0.3) for i, word in enumerate(("one", "two", "three", "four"))]
    cues = lay_out(digits, 1.9)
    assert shown(cues) == [["one two three four"]]
    apart = [said("one", 0.0, 0.4), said("two", 3.0, 3.4)]
    assert shown(lay_out(apart, 9.0)) == [["one"], ["two"]]


def test_wide_letters_count_twice_and_marks_not_at_all():
    assert columns("abc") == 3 and columns("你好") == 4 and columns("e\u0301") == 1 and columns("ｱ") == 1
    text = "今天天气很好，我们一起去公园散步。明天可能会下雨，所以请大家记得带伞、穿外套，早一点出门，不要迟到。"
    cues = lay_out([said(text, 0.0, 14.0)], 14.0)
    assert "".join(line for cue in cues for line in cue.lines) == text
    lines = [line for cue in cues for line in cue.lines]
    assert all(columns(line) <= 42 for line in lines)
    assert all(line[-1] in "。，、" for line in lines), lines
    assert not any(line[0] in "。，、" for line in lines)


def test_chinese_without_punctuation_is_broken_anywhere_but_not_before_its_marks():
    narrow = lay_out([said("你好世界，你好", 0.0, 7.0)], 7.0, max_line_width=6, max_lines=1)
    assert shown(narrow)[0] != ["你好世"] and not any(line[0] == "，" for cue in narrow for line in cue.lines)


def test_latin_words_inside_chinese_stay_whole():
    cues = lay_out([said("我用speechnar做字幕", 0.0, 8.0)], 8.0, max_line_width=10, max_lines=1)
    assert any("speechnar" in cue.lines[0] for cue in cues)


def test_words_of_a_line_are_limited():
    cues = lay_out([spoken("one two three four five", word_s=0.6)], 3.0, max_words_per_line=2)
    assert all(len(line.split()) <= 2 for cue in cues for line in cue.lines)
    single = lay_out([spoken("one two three", word_s=1.2)], 3.6, max_words_per_line=1, max_lines=1)
    assert single == [Cue(0, 1200, ("one",)), Cue(1200, 2400, ("two",)), Cue(2400, 3600, ("three",))]


def test_lines_of_a_cue_are_of_similar_width():
    (cue,) = lay_out([said("This is a sentence that does not fit one line", 0.0, 5.0)], 5.0)
    assert cue.lines == ("This is a sentence that", "does not fit one line")


def test_an_hour_is_laid_out_in_no_time():
    segments = [spoken(SPEECH, start=12.0 * i, word_s=0.28) for i in range(300)]
    started = time.process_time()
    cues = lay_out(segments, 3600.0)
    assert len(cues) > 900 and time.process_time() - started < 10  # about one second


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 3), st.text("ab ,.你，", max_size=60)), max_size=5))
def test_cues_are_in_order_and_lose_nothing(parts):
    clock, segments = 0.0, []
    for gap, length, text in parts:
        segments.append(said(text, clock + gap, clock + gap + length))
        clock += gap + length
    cues = lay_out(segments, clock)
    at = 0
    for cue in cues:
        assert at <= cue.start_ms < cue.end_ms <= cue.start_ms + 1000 * MAX_CUE_S
        at = cue.end_ms
    letters = "".join("".join(segment.text.split()) for segment in segments)
    assert "".join(line for cue in cues for line in cue.lines).replace(" ", "") == letters


@pytest.mark.parametrize("name", ["max_line_width", "max_lines", "max_words_per_line"])
def test_limits_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        lay_out([], 0.0, **{name: 0})
