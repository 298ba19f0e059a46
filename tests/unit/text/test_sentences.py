import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.text.sentences import cut_sentences, is_speakable, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hello there.", ["Hello there."]),
        ("Hello there. How are you?  Fine!", ["Hello there.", "How are you?", "Fine!"]),
        ("He said “Go.” Then he left.", ["He said “Go.”", "Then he left."]),
        ("Dr. Smith met J. R. Hartley on St. John's Road.", ["Dr. Smith met J. R. Hartley on St. John's Road."]),
        ("It cost 3.50, i.e. nothing.", ["It cost 3.50, i.e. nothing."]),
        ("Wait... what?", ["Wait...", "what?"]),
        ("One line\nand the next.\n\nA title\n\nText", ["One line and the next.", "A title", "Text"]),
        ("他来了。你呢？", ["他来了。", "你呢？"]),
        ("no mark at the end", ["no mark at the end"]),
        ("... !? \U0001f600 \x00\x07", []),
        ("", []),
        ("a\x00b\tc", ["ab c"]),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


def test_sentences_that_are_not_spoken_stay_and_controls_part_words_where_they_are_space():
    assert cut_sentences("Go! ... ?!\r\n\r\na\x0bb\x00c\ud800") == ["Go!", "...", "?!", "a bc"]
    assert cut_sentences(" \n\n\x00\t") == []


def test_long_sentences_are_cut_at_clauses_then_words_then_letters():
    text = "one two three four five, six seven eight nine ten eleven"
    assert split_sentences(text, 40) == ["one two three four five,", "six seven eight nine ten eleven"]
    assert split_sentences("one two three four", 10) == ["one two", "three four"]
    assert split_sentences("abcdefgh", 3) == ["abc", "def", "gh"]


@given(st.text(max_size=400), st.integers(1, 60))
@settings(max_examples=200, deadline=None)
def test_nothing_that_can_be_spoken_is_lost(text, max_chars):
    pieces = split_sentences(text, max_chars)
    assert all(0 < len(piece) <= max_chars and is_speakable(piece) for piece in pieces)
    spoken = [letter for letter in text if letter.isalnum()]
    assert [letter for piece in pieces for letter in piece if letter.isalnum()] == spoken


def test_ten_thousand_characters():
    text = "The quick brown fox jumps over the lazy dog, twice a day. " * 180
    assert len(split_sentences(text)) == 180
    assert len(split_sentences("a" * 10_000)) == 56
    assert len(split_sentences("word " * 2_000)) > 50
