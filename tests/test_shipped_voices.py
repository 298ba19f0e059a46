"""The shipped voices, as users get them: what they say is understood, and editing changes nothing but the words."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechnar import Synthesizer, Transcriber
from speechnar.data.download import extract_archive
from speechnar.hub import DEFAULT_TTS_MODEL, list_models, resolve_model

ROOT = Path(__file__).parents[1]
RECIPES = {DEFAULT_TTS_MODEL: "ljspeech/tts", "fsdd-tts": "fsdd/tts"}
MAX_BYTES = 22_000_000
MIN_RIGHT = 0.8
"""Of twenty digits (19 and 20 when the voices were shipped)."""
MAX_CLICK = 2.0
"""`click` of a joint (up to 1.45 in 54 edits when the voice was shipped; above 10 in a hard cut)."""
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CLIP, CLIP_TEXT = "LJ002-0131", "three times the amount would be expended."
EDITS = {
    "at the start": "seven times the amount would be expended.",
    "in the middle": "three times the number would be expended.",
    "at the end": "three times the amount would be paid.",
    "put in": "three times the whole amount would be expended.",
    "left out": "three times the amount would be.",
}


@pytest.fixture(scope="module", params=RECIPES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name) -> Synthesizer:
    return Synthesizer.load(name, device="cpu")


def test_the_folder_is_small_safe_and_documented(name):
    folder = resolve_model(name)
    assert {path.name for path in folder.iterdir()} == {"config.json", "model.safetensors", "tokens.txt", "README.md"}
    assert (folder / "model.safetensors").stat().st_size < MAX_BYTES
    (info,) = [info for info in list_models() if info.name == name]
    assert (info.source, info.kind, info.tasks, info.languages) == ("shipped", "tts", ("tts",), ("eng",))
    assert info.license


def test_the_card_is_that_of_the_recipe(name):
    card = (ROOT / "recipes" / RECIPES[name] / "README.md").read_text()
    assert (resolve_model(name) / "README.md").read_text() == card, "pack the model again, or copy the card"


def test_digits_are_understood(model):
    """By the shipped recogniser, which has heard none of what the voices were tested on."""
    listener = Transcriber.load(device="cpu")
    heard = [
        listener.transcribe(speech.samples, sample_rate=speech.sample_rate, language="eng").text
        for speech in (model.synthesize(digit, seed=seed) for seed, digit in enumerate(DIGITS * 2))
    ]
    right = sum(text == digit for text, digit in zip(heard, DIGITS * 2, strict=True))
    assert right >= MIN_RIGHT * len(heard), heard


def test_a_seed_gives_the_same_speech_at_the_pace_of_reading(model):
    text = "one two three four five six seven eight nine"
    speech, again, other = (model.synthesize(text, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(speech.samples, again.samples)
    assert not np.array_equal(speech.samples[:16000], other.samples[:16000])
    assert 2.0 < speech.duration < 9.0
    assert 0.002 < float(np.sqrt(np.mean(speech.samples**2))) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("edit", EDITS)
def test_editing_a_recording_changes_nothing_but_its_words(edit, tmp_path_factory):
    archive = Path(os.environ.get("SPEECHNAR_CORPORA", "/nonexistent")) / "LJSpeech-1.1-part.tar.xz"
    if not archive.is_file():
        pytest.skip("needs LJSpeech-1.1-part.tar.xz in the folder that SPEECHNAR_CORPORA names")
    (path,) = Path(extract_archive(archive, tmp_path_factory.getbasetemp() / "ljspeech")).rglob(f"{CLIP}.wav")
    before, rate = soundfile.read(path, dtype="float32")
    model = Synthesizer.load(device="cpu")
    after = model.edit(path, EDITS[edit], old_text=CLIP_TEXT)
    assert model._listener._transcriber is None, "the voice finds words itself"
    (change,) = after.changes
    assert after.sample_rate == rate
    begin, end = round(change.old_start * rate), len(before) - round(change.old_end * rate)
    assert np.array_equal(after.samples[:begin], before[:begin])
    assert np.array_equal(after.samples[len(after.samples) - end :], before[len(before) - end :])
    assert change.old_end - change.old_start < 1.2
    assert change.click < MAX_CLICK
