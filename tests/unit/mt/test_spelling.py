"""Capitals and dots do not confuse translation."""

import pytest

from speechnar.mt.spelling import encode_familiar, without_ellipses
from speechnar.text.tokenizer import CharTokenizer, SentencePieceTokenizer


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("A man is riding a bicycle...", "A man is riding a bicycle."),
        ("A man … is riding a bicycle…", "A man is riding a bicycle."),
        ("A man... is riding . . . a bicycle.", "A man is riding a bicycle."),
        ("He waits... She runs.", "He waits. She runs."),
        ("Version 3.5, p. 7, e.g. this.", "Version 3.5, p. 7, e.g. this."),
        ("...", "..."),
        ("…", "…"),
        ("", ""),
    ],
)
def test_dots(text, read):
    assert without_ellipses(text) == read


KNOWN = ["A man is riding a bicycle.", "Riding a bicycle is a man.", "A bicycle is riding.", "A man is a man."]
LETTERS = ["a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z"]


def pieces_of(sentences):
    return SentencePieceTokenizer.train([*sentences * 20, *LETTERS], 90, model_type="bpe")


def test_capitals_are_read_as_the_model_knows_them():
    tokenizer = pieces_of(KNOWN)
    spoken = tokenizer.encode("A man is riding a bicycle.")
    assert len(tokenizer.encode("A MAN IS RIDING A BICYCLE.")) > len(spoken)
    assert encode_familiar("A MAN IS RIDING A BICYCLE.", tokenizer) == spoken
    assert encode_familiar("A man is riding a bicycle.", tokenizer) == spoken


def test_capitals_stay_where_they_are_what_the_model_knows():
    tokenizer = pieces_of([text.upper() for text in KNOWN])
    text = "A MAN IS RIDING A BICYCLE."
    assert len(tokenizer.encode(text)) < len(tokenizer.encode(text.lower()))
    assert encode_familiar(text, tokenizer) == tokenizer.encode(text)


@pytest.mark.parametrize("text", ["USA", "A B", "I", "NATO.", "7 UP", "", "你好 世界"])
def test_what_may_be_an_abbreviation_stays(text):
    tokenizer = CharTokenizer(("<blank>", "<unk>", "▁", *"abupinto.7", "<sop>", "<sos>", "<eos>"))
    assert encode_familiar(text, tokenizer) == tokenizer.encode(text)
