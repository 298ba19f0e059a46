"""Tiny models and speech that the verbs are given."""

from pathlib import Path

import pytest

from speechnar.asr.transcriber import Transcriber
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from tests.unit.tiny import save_tiny_joint, save_tiny_model, write_speechlike


@pytest.fixture(scope="session")
def recognizer(tmp_path_factory) -> str:
    """Return the folder of a model that transcribes and translates."""
    return str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="session")
def joint(tmp_path_factory) -> str:
    """Return the folder of a model with every decoder."""
    return str(save_tiny_joint(tmp_path_factory.mktemp("models") / "joint"))


@pytest.fixture(scope="session")
def wav(tmp_path_factory) -> str:
    return str(write_speechlike(tmp_path_factory.mktemp("wavs") / "talk.wav", 3.0))


@pytest.fixture
def loaded_once(monkeypatch) -> None:
    """Keep models in memory between the commands of a test."""
    cache = {}
    load = Transcriber.load

    def cached(name, *, device="auto", precision="auto"):
        if (name, precision) not in cache:
            cache[name, precision] = load(name, device="cpu", precision=precision)
        return cache[name, precision]

    monkeypatch.setattr(Transcriber, "load", cached)


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """Return a directory of three utterances, whose recordings are beside it."""
    utterances = []
    for i, (lang, text) in enumerate([("eng", "the cat sat"), ("deu", "a dog ran"), ("eng", "good day")]):
        path = write_speechlike(tmp_path / f"{i}.wav", 1.0 + i, seed=i)
        translations = {"fra": "le chat"} if i == 0 else {}
        utterances.append(
            Utterance(f"utt-{i}", path, text, "spk", duration_s=1.0 + i, lang=lang, translations=translations)
        )
    write_kaldi_dir(tmp_path / "data", utterances)
    return tmp_path / "data"
