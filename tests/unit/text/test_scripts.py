"""Where words end, in writing with spaces and without."""

import pytest

from speechnar.text.languages import UNSPACED_LANGUAGES
from speechnar.text.scripts import UNSPACED_LETTER, begins_after, ends_before


@pytest.mark.parametrize(
    ("letters", "expected"), [("aé1я한'’-\u0301", False), (" ,.?!»。，、（你のพ", True)], ids=["inside", "behind"]
)
def test_words_end_before(letters, expected):
    assert [ends_before(letter) for letter in letters] == [expected] * len(letters)


def test_languages_without_spaces_have_letters_without_spaces():
    samples = {"cmn": "你𠀀々", "jpn": "のカ", "tha": "พ", "lao": "ລ", "bod": "བ", "mya": "မ", "khm": "ខ"}
    assert samples.keys() <= UNSPACED_LANGUAGES
    assert all(UNSPACED_LETTER.match(letter) for text in samples.values() for letter in text)
    assert not any(UNSPACED_LETTER.match(letter) for letter in "aя한1，。")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我用Python3写，好。", ["我", "用", "Python3", "写，", "好。"]),
        ("a你b", ["a", "你", "b"]),
        ("，你", ["，", "你"]),
        ("好ok，ok", ["好", "ok，", "ok"]),
    ],
)
def test_text_without_spaces_falls_into_words(text, words):
    found: list[str] = []
    for before, letter in zip(["", *text], text, strict=False):
        if begins_after(before, letter):
            found.append("")
        found[-1] += letter
    assert found == words
