"""Scoring normalisers."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.errors import ConfigError
from speechnar.text.normalize import NORMALIZERS, get_normalizer


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello,  World!", "hello world"),
        ("Don't ‘stop’ the rock 'n' roll—now.", "don't stop the rock n roll now"),
        ("I’m O'Clock; dogs' 'bout", "i'm o'clock dogs bout"),
        ("ﬁve ＡＢＣ ①", "five abc 1"),
        ("a_b $5 50% 3.5", "a b 5 50 3 5"),
        ("Straße École", "straße école"),
        ("E\u0301cole", "école"),
        ("你好，世界。", "你好 世界"),
        ("हिन्दी!", "हिन्दी"),  # vowel signs are marks and belong to the word
        (" \n ", ""),
        ("?!", ""),
    ],
)
def test_basic(text, expected):
    assert get_normalizer("basic")(text, "eng") == expected


def test_kaldi_upper():
    assert get_normalizer("kaldi-upper")("It's 5 o'clock, Zoë.", "eng") == "IT'S 5 O'CLOCK ZOË"


def test_turkish_keeps_its_two_letters_apart():
    basic, upper = get_normalizer("basic"), get_normalizer("kaldi-upper")
    assert basic("DIŞ İŞ", "tur") == "dış iş"
    assert upper("dış iş", "tur") == "DIŞ İŞ"
    assert basic("DIM", "eng") == "dim"


def test_none_changes_nothing():
    assert get_normalizer("none")(" A,  b ", "eng") == " A,  b "


def test_unknown_name_lists_the_known():
    with pytest.raises(ConfigError, match="none, basic, kaldi-upper, spoken, got 'whisper'"):
        get_normalizer("whisper")


@settings(deadline=None)  # the first text that is spelled out waits for the dictionary
@given(text=st.text(), lang=st.sampled_from(["eng", "tur", "zho"]), name=st.sampled_from(sorted(NORMALIZERS)))
def test_normalisers_are_idempotent(text, lang, name):
    once = NORMALIZERS[name](text, lang)
    assert NORMALIZERS[name](once, lang) == once


@given(text=st.text())
def test_basic_leaves_words_and_single_spaces_only(text):
    out = NORMALIZERS["basic"](text, "eng")
    assert out == " ".join(out.split())
    assert all(c in "' " or unicodedata.category(c)[0] in "LMN" for c in out)
    assert not any(word.startswith("'") or word.endswith("'") for word in out.split())


def test_spoken_writes_english_as_it_is_read():
    spoken = get_normalizer("spoken")
    assert spoken("In 1807, Mr. Brown-Smith paid £5.", "eng") == spoken(
        "in eighteen oh seven mister Brown Smith paid five pounds", "eng"
    )
    assert spoken("5 ñ", "spa") == get_normalizer("basic")("5 ñ", "spa")
