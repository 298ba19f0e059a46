"""Inference needs none of the packages of the extras: each of them may be broken, and only what needs it fails."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

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
    paths = [str(folder), str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "speechnar", *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return run


def test_speech_is_transcribed(speechnar, tmp_path):
    done = speechnar("transcribe", write_speechlike(tmp_path / "speech.wav", 2.0), "-l", "eng", "-f", "json")
    assert done.returncode == 0, done.stderr
    assert '"language": "eng"' in done.stdout


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
    assert "Mann" in done.stdout


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
    assert f"pip install 'speechnar[{extra}]'" in done.stderr and "undefined symbol" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
