"""What the page says, as HTML."""

import re

import pytest

pytest.importorskip("gradio")

from demo import words
from speechnar import CaptionUpdate, Segment, Transcript, Word


def transcript(*segments, language="eng", text=None, probability=0.98):
    text = " ".join(segment.text for segment in segments) if text is None else text
    return Transcript("a", "m", "transcribe", language, probability, 90.0, text, segments)


TWO = Segment(0, 0.5, 1.0, "<b>cat</b> sat", None, (Word(0.5, 0.7, "<b>cat</b>", 0.9), Word(0.7, 1.0, "sat", 0.1)))
ONE = Segment(1, 61.0, 62.0, "home", None, (Word(61.0, 62.0, "home", 1.0),))


def test_words_have_their_times_and_are_escaped():
    html = words.transcript_html(transcript(TWO, ONE), "some/url?a&b")
    assert re.findall(r'class="sn-word" data-start="([\d.]+)" data-end="([\d.]+)"', html) == [
        ("0.500", "0.700"), ("0.700", "1.000"), ("61.000", "62.000")
    ]  # fmt: skip
    assert "<b>" not in html and "&lt;b&gt;cat&lt;/b&gt;</span> <span" in html
    assert ">1:01</button>" in html and 'src="some/url?a&amp;b"' in html
    assert re.findall(r"--sure: ([\d.]+)", html) == ["0.90", "0.30", "1.00"], "even what is unsure can be read"


def test_what_is_written_without_spaces_is_shown_so():
    chinese = Segment(0, 0.0, 1.0, "你好", None, (Word(0.0, 0.5, "你", 1.0), Word(0.5, 1.0, "好", 1.0)))
    assert "你</span><span" in words.transcript_html(transcript(chinese, language="cmn"), "u")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (transcript(TWO), "English, 98% sure."),
        (transcript(TWO, probability=None), "English."),
        (transcript(TWO, language="und", probability=0.0), "Language unknown."),
        (transcript(), "No speech found."),
    ],
)
def test_the_language_is_named(given, says):
    assert words.language_of(given) == says


def test_silence_has_no_language_and_no_words():
    html = words.transcript_html(transcript(probability=0.98), "u")
    assert "No speech found." in html and "sn-word" not in html


def test_messages_are_escaped_and_short():
    html = words.error("<script>\n" + "x" * 1000)
    assert "&lt;script&gt;" in html and len(html) < 400 and 'role="alert"' in html
    assert words.warnings(["a <b>", "a <b>", "c"]).count("<p") == 2


def test_the_pace_is_said_for_fast_and_for_slow():
    assert "4.0 times as fast" in words.pace(8.0, 2.0, "sound")
    assert "2.0 s for each" in words.pace(2.0, 4.0, "sound")
    assert words.pace(0.0, 1.0, "sound") and words.pace(1.0, 0.0, "sound")


def test_unstable_words_are_grey_until_they_are_final():
    assert words.grey_unstable(CaptionUpdate("the <cat>", "sat", 0, False, None)) == (
        'the &lt;cat&gt; <span class="sn-unstable">sat</span>'
    )
    assert words.grey_unstable(CaptionUpdate("the", "sat", 0, True, None)) == "the sat"


def test_differences_are_marked():
    assert words.mark_words("a <b> c", (True, False, True)) == "a <mark>&lt;b&gt;</mark> c"


def test_changes_are_struck_out_and_underlined():
    html = words.change_html(["The", "cat", "sat,", "home"], ["the", "dog", "sat", "home", "now"])
    assert "<del>cat</del> <ins>dog</ins>" in html and "<ins>now</ins>" in html
    assert "<del>The" not in html and "<del>sat" not in html, "neither case nor marks are words"


@pytest.mark.parametrize(
    ("old", "new", "share"),
    [("a b c d", "a b c d", 0.0), ("a b c d", "a x c d", 0.25), ("a b", "x y z", 1.0), ("a b", "a b c", 0.0)],
)
def test_the_share_that_changes(old, new, share):
    assert words.share_changed(old.split(), new.split()) == share


def test_corrected_lines_keep_the_times_of_words():
    corrected = words.with_lines(transcript(TWO, ONE), "The bat\n\n  home again ")
    first, second = corrected.segments
    assert [(word.start, word.word) for word in first.words] == [(0.5, "The"), (0.7, "bat")]
    assert (second.text, second.words, second.start, second.end) == ("home again", None, 61.0, 62.0)
    assert corrected.text == "The bat home again"
    assert "00:01:01,000 --> 00:01:02,000\nhome again" in corrected.to_srt()
    with pytest.raises(ValueError, match="keep 2 lines, there are 1"):
        words.with_lines(transcript(TWO, ONE), "all of it")
