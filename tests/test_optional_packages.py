"""Inference needs none of the packages of the extras: each of them may be broken, and only what needs it fails."""

import os

import pytest
import soundfile

from tests.interpreter import ROOT, Interpreter
from tests.unit.tiny import write_speechlike

BROKEN = (
    "accelerate", "av", "gradio", "lhotse", "librosa", "matplotlib", "num2words", "sacrebleu", "scipy", "tensorboard",
    "torchaudio", "transformers",
)  # fmt: skip


@pytest.fixture(scope="module")
def speechnar(tmp_path_factory):
    """Return a function that runs the command in a process in which none of these packages can be imported."""
    folder = tmp_path_factory.mktemp("broken")
    for name in BROKEN:
        (folder / f"{name}.py").write_text(f"raise OSError('lib{name}.so: undefined symbol: broken')\n")
    paths = [str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    with Interpreter({"PYTHONPATH": os.pathsep.join(paths)}) as interpreter:
        yield interpreter.speechnar


def test_speech_is_transcribed(speechnar, tmp_path):
    done = speechnar("transcribe", write_speechlike(tmp_path / "speech.wav", 2.0), "-l", "eng", "-f", "json")
    assert done.returncode == 0, done.stderr
    assert b'"language": "eng"' in done.stdout


def test_text_is_spoken(speechnar, tmp_path):
    done = speechnar("synthesize", "Hello.", "--steps", 1, "-o", tmp_path / "hello.wav")
    assert done.returncode == 0, done.stderr
    assert soundfile.info(tmp_path / "hello.wav").duration > 0.2


def test_music_is_generated(speechnar, tmp_path):
    done = speechnar("generate", "morning coffee", "--seconds", 1, "--steps", 4, "-o", tmp_path / "music.wav")
    assert done.returncode == 0, done.stderr
    assert soundfile.info(tmp_path / "music.wav").duration == pytest.approx(1.0, abs=0.1)


def test_text_is_translated(speechnar):
    done = speechnar("translate", "--from", "eng", "--to", "deu", "--text", "A man is riding a bicycle.")
    assert done.returncode == 0, done.stderr
    assert b"Mann" in done.stdout


@pytest.mark.parametrize(
    ("verb", "extra"),
    [
        (("train", "conf.yaml", "--exp", "exp"), "train"),
        (("mt", "score", "data", "log.jsonl", "--target", "deu"), "eval"),
        (("sound", "score", "data", "out", "--judge", "a", "--reference", "b", "--train", "c"), "eval"),
        (("tts", "score", "data", "out", "--judge", "a", "--verifier", "b"), "eval"),
    ],
)
def test_what_needs_one_says_in_a_line_what_to_install(speechnar, verb, extra):
    done = speechnar(*verb)
    assert done.returncode != 0
    (line,) = done.stderr.decode().splitlines()
    assert f"pip install 'speechnar[{extra}]'" in line and "undefined symbol" in line
