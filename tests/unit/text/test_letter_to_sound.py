"""The network that comes with the package: words of no dictionary."""

import pytest

from speechnar.errors import DataError
from speechnar.text import letter_to_sound
from speechnar.text.letter_to_sound import WEIGHTS_PATH, english_letter_to_sound, letter_ids
from speechnar.text.lexicon import phonemes_of


def test_letters_stand_between_boundaries_and_nothing_else_does():
    assert letter_ids("aZ") == letter_ids("Az") == [1, 2, 27, 1]
    assert letter_ids("é-1") == [1, 1]
    assert english_letter_to_sound()("'") == ""


def test_the_weights_are_small():
    assert WEIGHTS_PATH.stat().st_size < 1_500_000


@pytest.mark.parametrize(
    ("word", "skeleton"),
    [("blorkel", "blɹkl"), ("Sninto", "snntO"), ("grabbish", "ɡɹbʃ"), ("Thimbork", "θmbɹk"), ("vupping", "vpŋ")],
)
def test_made_up_words_have_the_consonants_of_their_letters(word, skeleton):
    said = english_letter_to_sound()(word)
    assert "".join(phonemes_of(said)) == said and ("ˈ" in said or "ˌ" in said)
    kept = set(skeleton) | set("bdfɡhjklmnŋpɹsʃtθvwz")
    assert "".join(p for p in said if p in kept) == skeleton


def test_missing_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(letter_to_sound, "WEIGHTS_PATH", tmp_path / "none.safetensors")
    with pytest.raises(DataError, match=r"none\.safetensors"):
        english_letter_to_sound.__wrapped__()
