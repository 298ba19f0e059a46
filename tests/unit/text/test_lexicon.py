"""Rules for endings and compounds on a dictionary of a few words; expected sounds are Carr's rules, by hand."""

import pytest

from speechnar.text.lexicon import (
    CONSONANTS,
    VOWELS,
    Lexicon,
    add_ed,
    add_ing,
    add_s,
    is_spelled,
    phonemes_of,
    with_stress,
)

SMALL = Lexicon(
    {
        "cat": "kˈæt",
        "bus": "bˈʌs",
        "polish": "pˈɑlɪʃ",
        "Polish": "pˈOlɪʃ",
        "fly": "flˈI",
        "try": "tɹˈI",
        "stop": "stˈɑp",
        "make": "mˈAk",
        "panic": "pˈænɪk",
        "want": "wˈɑnt",
        "the": "ðə",
        "Anna": "ˈænə",
        "pas": "pˈɑ",
        "A": "ˈA",
        "B": "bˈi",
        "T": "tˈi",
        "V": "vˈi",
    },
    {"the": "ðˈi"},
)


def guess(word: str) -> str:
    return f"<{word}>"


@pytest.mark.parametrize(
    ("stem", "plural"), [("kˈæt", "kˈæts"), ("dˈɔɡ", "dˈɔɡz"), ("bˈʌs", "bˈʌsᵻz"), ("sˈi", "sˈiz"), ("lˈæf", "lˈæfs")]
)
def test_s_sounds_as_what_is_before_it(stem, plural):
    assert add_s(stem) == plural


@pytest.mark.parametrize(
    ("stem", "past"),
    [
        ("stˈɑp", "stˈɑpt"),
        ("plˈA", "plˈAd"),
        ("nˈid", "nˈidᵻd"),
        ("wˈɑnt", "wˈɑntᵻd"),
        ("ʃˈWt", "ʃˈWɾᵻd"),
        ("t", "tᵻd"),
    ],
)
def test_ed_sounds_as_what_is_before_it(stem, past):
    assert add_ed(stem) == past


def test_a_t_between_vowels_is_flapped():
    assert [add_ing(stem) for stem in ("sˈɪt", "ˈækt", "ɡˈO")] == ["sˈɪɾɪŋ", "ˈæktɪŋ", "ɡˈOɪŋ"]


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("cats", "kˈæts"),
        ("buses", "bˈʌsᵻz"),
        ("flies", "flˈIz"),
        ("stopped", "stˈɑpt"),
        ("tried", "tɹˈId"),
        ("panicked", "pˈænɪkt"),
        ("making", "mˈAkɪŋ"),
        ("stopping", "stˈɑpɪŋ"),
        ("trying", "tɹˈIɪŋ"),
        ("wanted", "wˈɑntᵻd"),
        ("cat's", "kˈæts"),
        ("cats'", "kˈæts"),
        ("Anna'll", "ˈænəəl"),
        ("cat-bus", "kˈætbˈʌs"),
        ("T-V", "tˌivˈi"),
        ("A-bus", "ˈAbˈʌs"),
        ("CATS", "kˈæts"),
    ],
)
def test_derived_words(word, said):
    assert SMALL.lookup(word) == said


@pytest.mark.parametrize("word", ["dog", "cat-dog", "bs", "ing", "ed", "cat'x", "basis", "pass"])
def test_words_that_no_rule_makes(word):
    assert SMALL.lookup(word) is None


def test_what_is_not_listed_is_guessed_part_by_part():
    assert SMALL.pronounce("cat", guess) == "kˈæt"
    assert SMALL.pronounce("dog", guess) == "<dog>"
    assert SMALL.pronounce("cat-dog", guess) == "kˈæt<dog>"
    assert SMALL.pronounce("dog's", str.lower) == "dogz"
    assert SMALL.pronounce("d9g'q", guess) == "<dgq>"


def test_case_tells_words_apart_but_not_where_a_sentence_starts():
    assert SMALL.lookup("Polish") == "pˈOlɪʃ"
    assert SMALL.lookup("polish") == "pˈɑlɪʃ"
    assert SMALL.lookup("Polish", starts_sentence=True) == "pˈɑlɪʃ"
    assert SMALL.lookup("anna") == SMALL.lookup("ANNA") == "ˈænə"
    assert "cAt" in SMALL
    assert "dog" not in SMALL


def test_some_words_are_stronger_before_a_pause():
    assert SMALL.lookup("the") == "ðə"
    assert SMALL.lookup("the", ends_phrase=True) == "ðˈi"
    assert SMALL.lookup("cat", ends_phrase=True) == "kˈæt"


def test_letters_are_stressed_on_the_last():
    assert SMALL.letters("tv") == "tˌivˈi"
    assert SMALL.letters("a9bt") == "ˌAbˌitˈi"
    assert SMALL.letters("7") == ""


def test_phonemes_keep_their_stress():
    assert phonemes_of("kˈæt ˌO!") == ["k", "ˈæ", "t", "ˌO"]
    assert not set(CONSONANTS) & set(VOWELS)


def test_a_word_has_a_stress():
    assert with_stress("ðə") == "ðˈə"
    assert with_stress("bənænə") == "bˈənænə"
    assert with_stress("kˌæt") == "kˌæt"
    assert with_stress("ʃ") == "ʃ"


def test_words_without_vowels_are_spelled():
    assert [is_spelled(word) for word in ("TV", "hmm", "Sky", "a")] == [True, True, False, False]
