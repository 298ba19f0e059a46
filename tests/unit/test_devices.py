"""Pipes and devices where files are expected: nothing waits for them, or reads them without end."""

import os
import signal

import pytest

from speechnar.data.kaldi import read_kaldi_dir
from speechnar.errors import SpeechnarError
from speechnar.hub import read_kind
from speechnar.interop.files import read_tensors, read_yaml
from speechnar.interop.transformers import read_json
from speechnar.models.base import load_model, read_weights
from speechnar.text.byte_pairs import BytePairTokenizer
from speechnar.text.words import read_words
from speechnar.train.checkpoint import load_checkpoint
from tests.unit.tiny import save_tiny_model

READERS = {
    "checkpoint": load_checkpoint,
    "foreign weights": lambda path: read_tensors(path, ()),
    "foreign yaml": read_yaml,
    "foreign json": read_json,
    "weights": read_weights,
    "words": read_words,
    "byte pairs": BytePairTokenizer.from_json,
}


@pytest.fixture(autouse=True)
def _ends():
    """What waits for a pipe, or reads without end, fails."""

    def fail(*_):
        pytest.fail("does not end")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def place(path, kind):
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("reader", READERS)
def test_no_reader_waits_for_one(tmp_path, reader, kind):
    place(tmp_path / "a", kind)
    with pytest.raises(SpeechnarError):
        READERS[reader](tmp_path / "a")


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokens.txt", "README.md"])
def test_no_model_folder_holds_one(tmp_path, name, kind):
    place(save_tiny_model(tmp_path) / name, kind)
    assert read_kind(tmp_path / "config.json") == ("" if name == "config.json" else "owsm_ctc")
    if name != "README.md":
        with pytest.raises(SpeechnarError, match=name.replace(".", r"\.")):
            load_model(tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("name", ["wav.scp", "text", "utt2spk"])
def test_no_data_directory_holds_one(tmp_path, name, kind):
    for table, content in {"wav.scp": "a a.wav\n", "text": "a the cat\n", "utt2spk": "a a\n"}.items():
        (tmp_path / table).write_text(content)
    place(tmp_path / name, kind)
    with pytest.raises(SpeechnarError, match=rf"{name}: cannot be read \(is a folder or a device\)"):
        read_kaldi_dir(tmp_path)
