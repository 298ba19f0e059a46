"""Scoring normalisers."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.errors import ConfigError, MissingExtraError
from speechnar.text.normalize import NORMALIZERS, _whisper_rules, get_normalizer


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
    with pytest.raises(ConfigError, match="none, basic, kaldi-upper, spoken, whisper, got 'whisker'"):
        get_normalizer("whisker")


@pytest.mark.parametrize(
    ("text", "lang", "expected"),
    [
        ("Mr. Smith won't pay twenty-five dollars", "eng", "mister smith will not pay $25"),
        ("[noise] um, the colour (sic) isn't grey", "eng", "the color is not gray"),
        ("L'École coûte 3,50 €!", "fra", "l école coûte 3 50"),
        ("हिन्दी", "hin", "ह न द"),  # as published: marks become spaces
    ],
)
def test_whisper(text, lang, expected):
    pytest.importorskip("whisper_normalizer")
    assert get_normalizer("whisper")(text, lang) == expected


def test_whisper_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "whisper_normalizer.basic", None)
    _whisper_rules.cache_clear()
    with pytest.raises(MissingExtraError, match=r"speechnar\[eval\]"):
        get_normalizer("whisper")("a", "eng")


@settings(deadline=None)  # the first text that is spelled out waits for the dictionary
@given(
    text=st.text(),
    lang=st.sampled_from(["eng", "tur", "zho"]),
    name=st.sampled_from(sorted(NORMALIZERS.keys() - {"whisper"})),
)
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
