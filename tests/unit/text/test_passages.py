"""What is spoken at one go, and the silence after it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.text.passages import Passage, read_passages
from speechnar.text.sentences import is_speakable, split_sentences


def test_sentences_have_short_pauses_and_paragraphs_longer_ones():
    assert read_passages("Hello there. How are you?\n\nFine") == [
        Passage("Hello there.", "", 0.25),
        Passage("How are you?", "", 0.5),
        Passage("Fine", ".", 0.5),
    ]


@pytest.mark.parametrize("text", ["Hi", "Yes sir", "OK", "5", "Go 🎉", 'say "no"', "**bold**"])
def test_a_short_text_ends_as_a_sentence_does(text):
    assert [(passage.text, passage.mark) for passage in read_passages(text)] == [(text, ".")]


@pytest.mark.parametrize("text", ["Hi.", "Why?", "Wait…", "well,", 'He said "no."', "so:"])
def test_a_mark_that_is_there_is_enough(text):
    assert [passage.mark for passage in read_passages(text)] == [""]


def test_a_part_of_a_long_sentence_does_not_end_it():
    passages = read_passages("one two three four five six", max_chars=15)
    assert [(passage.text, passage.mark, passage.pause_s) for passage in passages] == [
        *(("one two three", "", 0.1), ("four five six", ".", 0.5)),
    ]


def test_pauses_that_are_asked_for():
    assert read_passages("Hi <break time='2s'/> there.") == [
        Passage("Hi", ",", 2.0, is_break=True),
        Passage("there.", "", 0.5),
    ]
    assert read_passages("🎉<break/>") == [Passage("", "", 0.4, is_break=True)]


def test_emoji_are_named_on_demand():
    assert [passage.text for passage in read_passages("🎉", emoji="named")] == ["party popper"]
    assert read_passages("🎉") == []


def test_spaces_inside_numbers_are_none():
    assert read_passages("1\u202f234\u00a0567 people")[0].text == "1234567 people"


@given(st.text(max_size=200) | st.text(st.sampled_from("aB1 .\n-#*>|=🎉<"), max_size=60))
@settings(max_examples=100, deadline=None)
def test_what_can_be_spoken_is_in_some_passage(text):
    found = read_passages(text)
    assert all(passage.pause_s >= 0 and (is_speakable(passage.text) or passage.is_break) for passage in found)
    if split_sentences(text) and "<" not in text and "#" not in text:
        assert found
