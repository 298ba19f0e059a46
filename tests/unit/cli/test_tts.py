"""The commands that speak: files, raw samples on stdout, consent, and answers to mistakes."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechnar.audio.io import to_int16
from speechnar.cli import main as cli
from speechnar.cli.main import main
from speechnar.hub import CONSENT
from speechnar.tts.synthesizer import Synthesizer
from tests.unit.tiny import RATE, save_tiny_model, save_tiny_tts, vowels

ROOT = Path(cli.__file__).parents[2]
TEXT = "Hello there. How are you?"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(save_tiny_tts(tmp_path_factory.mktemp("models") / "tts"))


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("models") / "asr", tasks=False))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("wavs") / "clip.wav"
    soundfile.write(path, vowels(3.0), RATE)
    return str(path)


def test_speech_to_a_file(model, tmp_path, capsys):
    out = tmp_path / "a.wav"
    argv = ["synthesize", TEXT, "-m", model, "--steps", "2", "--seed", "7", "--speed", "1.5", "-d", "cpu"]
    assert main([*argv, "-o", str(out)]) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert str(out) in stderr
    assert "times real time" in stderr
    assert CONSENT not in stderr
    expected = Synthesizer.load(model, device="cpu").synthesize(TEXT, steps=2, seed=7, speed=1.5)
    assert soundfile.info(out).subtype == "PCM_16"
    np.testing.assert_array_equal(soundfile.read(out, dtype="int16")[0], to_int16(expected.samples))


@pytest.mark.parametrize("output", [["-o", "-"], ["--stream"], ["--stream", "-o", "-"]])
def test_raw_samples_on_stdout(interpreter, model, output):
    argv = ["synthesize", "-", "-m", model, "--steps", "1", "-d", "cpu", *output]
    found = interpreter.speechnar(*argv, input=TEXT.encode())
    assert found.returncode == 0, found.stderr
    expected = Synthesizer.load(model, device="cpu").synthesize(TEXT, steps=1)
    np.testing.assert_array_equal(np.frombuffer(found.stdout, "<i2"), to_int16(expected.samples))
    assert b"16000 samples per second" in found.stderr


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_fault_of_ours(model):
    argv = [sys.executable, "-m", "speechnar", "synthesize", "one two three. " * 100, "-m", model, "--stream"]
    argv += ["--steps", "1", "-d", "cpu"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        process.stdout.read(1000)
        process.stdout.close()
        assert process.wait(timeout=60) == cli.FAILED
        assert b"Traceback" not in process.stderr.read()


def test_whoever_gives_a_voice_is_told_of_consent(model, recognizer, clip, tmp_path, capsys):
    argv = ["synthesize", "Hello.", "-m", model, "--recognizer", recognizer, "--voice", clip, "--steps", "1"]
    argv += ["-d", "cpu", "-o", str(tmp_path / "a.flac"), "--voice-text", "the cat sat on the mat", "-q"]
    assert main(argv) == 0
    assert capsys.readouterr() == ("", f"{CONSENT}\n")
    assert soundfile.info(tmp_path / "a.flac").frames > 0
    for verb in ("synthesize", "edit"):
        assert main([verb, "--help"]) == 0
        assert " ".join(CONSENT.split()) in " ".join(capsys.readouterr().out.split())


def test_words_of_a_file_are_changed(model, recognizer, clip, tmp_path, capsys):
    out = tmp_path / "b.wav"
    argv = ["edit", clip, "-m", model, "--recognizer", recognizer, "--old-text", "the cat sat on the mat", "-d", "cpu"]
    argv += ["--steps", "1", "--candidates", "2", "-o", str(out)]
    assert main([*argv, "--text", "The cat ran on the mat.", "--json"]) == 0
    stdout, stderr = capsys.readouterr()
    (change,) = (json.loads(line) for line in stdout.splitlines())
    assert (change["old_text"], change["new_text"]) == ("sat", "ran")
    assert CONSENT in stderr
    assert "'sat' is now" in stderr
    before, after = (soundfile.read(path, dtype="int16")[0] for path in (clip, out))
    old_end, new_end = (round(change[key] * RATE) for key in ("old_end", "new_end"))
    np.testing.assert_array_equal(after[new_end:], before[old_end:])
    assert main([*argv, "--text", "the cat sat on the mat"]) == 0
    assert "nothing is changed" in capsys.readouterr().err
    np.testing.assert_array_equal(soundfile.read(out, dtype="int16")[0], before)


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["synthesize", "Hello."], 2, "say where the speech goes"),
        (["synthesize", "Hello.", "--stream", "-o", "a.wav"], 2, "--stream writes to stdout"),
        (["synthesize", "", "-o", "OUT"], 2, "must have a letter or a digit to speak"),
        (["synthesize", "你好\x1b", "-o", "OUT"], 2, "can speak nothing of the text"),
        (["synthesize", "\U0001f600\x07", "-o", "OUT"], 2, "must have a letter"),
        (["synthesize", "Hello.", "-o", "OUT", "--speed", "3"], 2, "speed must lie in"),
        (["synthesize", "Hello.", "-o", "OUT", "--steps", "0"], 2, "steps must be"),
        (["synthesize", "Hello.", "-o", "OUT", "--voice", "no.wav"], 1, "does not exist"),
        (["synthesize", "Hello.", "-o", "OUT", "--voice-text", "x"], 2, "give the voice, too"),
        (["synthesize", "Hello.", "-o", "/no/such/folder/a.wav"], 1, "cannot be written"),
        (["edit", "no.wav", "--text", "a", "-o", "OUT"], 1, "does not exist"),
        (["edit", "no.wav", "--text", "...", "-o", "OUT"], 2, "the new text must have"),
    ],
)
def test_mistakes_are_one_line(model, tmp_path, capsys, *, argv, status, message):
    argv = [str(tmp_path / "a.wav") if item == "OUT" else item for item in argv]
    extra = [] if "--steps" in argv else ["--steps", "1"]
    assert main([*argv, "-m", model, "-d", "cpu", "-q", *extra]) == status
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    lines = [line for line in stderr.splitlines() if line != CONSENT and "left out" not in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert "\x1b" not in stderr


@pytest.mark.parametrize("package", ["matplotlib.figure", "librosa.sequence"])
def test_scores_say_at_once_what_to_install(package, capsys, monkeypatch):
    """Before anything is read, although the drawings come last."""
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["tts", "score", "no data", "out", "--judge", "none", "--verifier", "none"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "pip install 'speechnar[eval]'" in err and package in err and err.count("\n") == 1


def test_raw_samples_are_not_for_a_terminal(model, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdout", Terminal())
    assert main(["synthesize", "Hello.", "-m", model, "--stream"]) == 2
    assert "not for a terminal" in capsys.readouterr().err
