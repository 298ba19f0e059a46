"""All that users give as audio, read twice."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechnar.audio.io import read_audio
from speechnar.audio.source import BLOCK_S, open_audio
from speechnar.errors import AudioError, ConfigError

RATE = 8000


@pytest.fixture(scope="module")
def wav() -> np.ndarray:
    """Return samples that 16 bits hold exactly."""
    return (np.random.default_rng(0).integers(-9000, 9000, 6000) / 32768).astype(np.float32)


@pytest.fixture(scope="module")
def path(wav, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "a.wav"
    soundfile.write(path, wav, RATE, subtype="PCM_16")
    return path


class Unnamed:
    def __init__(self, content: object) -> None:
        self.content = content

    def read(self) -> object:
        return self.content


@pytest.mark.parametrize("form", ["path", "string", "bytes", "file", "unnamed", "array", "tensor"])
def test_every_form_is_the_same_sound_as_often_as_it_is_read(form, wav, path):
    audio = {
        "path": path,
        "string": str(path),
        "bytes": path.read_bytes(),
        "file": path.open("rb"),
        "unnamed": Unnamed(path.read_bytes()),
        "array": wav,
        "tensor": torch.from_numpy(wav).requires_grad_(),
    }[form]
    source = open_audio(audio, RATE if form in ("array", "tensor") else None)
    assert source.name == (str(path) if form in ("path", "string", "file") else None)
    for _ in range(2):
        np.testing.assert_array_equal(np.concatenate(list(source.blocks(RATE))), wav)
    assert sum(map(len, source.blocks(2 * RATE))) == 2 * len(wav)


def test_files_come_in_blocks(tmp_path):
    seconds = 2 * BLOCK_S + 1
    soundfile.write(tmp_path / "long.wav", np.zeros(round(seconds * RATE)), RATE)
    sizes = [len(block) for block in open_audio(tmp_path / "long.wav", None).blocks(RATE)]
    assert len(sizes) > 2
    assert max(sizes) <= BLOCK_S * RATE
    assert sum(sizes) == seconds * RATE


@pytest.mark.parametrize("audio", [3, None, ["a.wav"], Unnamed("text")], ids=["number", "none", "list", "text file"])
def test_anything_else_is_refused(audio):
    name = type(audio).__name__
    with pytest.raises(ConfigError, match=f"audio must be a path, a binary file object, bytes, .* got {name}"):
        open_audio(audio, RATE)


def test_an_array_needs_its_rate(wav):
    for audio in (wav, torch.from_numpy(wav)):
        with pytest.raises(ConfigError, match="an array needs its sample_rate, in Hz"):
            open_audio(audio, None)


@pytest.mark.parametrize("form", ["path", "string", "bytes", "file"])
def test_a_file_has_its_own_rate(form, path):
    audio = {"path": path, "string": str(path), "bytes": path.read_bytes(), "file": path.open("rb")}[form]
    for refuse in (open_audio, lambda audio, rate: read_audio(audio, sample_rate=rate)):
        with pytest.raises(ConfigError, match="a file has its own, leave sample_rate=8000 out"):
            refuse(audio, RATE)


def test_a_file_is_missed_when_it_is_read(tmp_path):
    source = open_audio(tmp_path / "none.wav", None)
    with pytest.raises(AudioError, match=r"none\.wav"):
        list(source.blocks(RATE))
