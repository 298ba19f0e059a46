"""The command that makes music and sound: files, recordings that go on, progress, and answers to mistakes."""

import io
import sys

import numpy as np
import pytest
import soundfile

from speechnar.audio.io import to_int16
from speechnar.cli.main import main
from speechnar.hub import DEFAULT_MUSIC_MODEL
from speechnar.models.base import save_model
from speechnar.models.sound.encodec import Encodec, EncodecConfig
from speechnar.sound.generator import Generator
from speechnar.sound.options import GeneratorOptions
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.models.sounds import voice


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "magnet"
    save_model(folder, make_generator("magnet"), WORDS)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """Return a recording at another rate than the model's."""
    path = tmp_path_factory.mktemp("wavs") / "clip.wav"
    soundfile.write(path, voice(22050, pitch_hz=120, formant_hz=500, sample_rate=22050).numpy(), 22050)
    return str(path)


def test_sound_to_a_file(model, tmp_path, capsys):
    out = tmp_path / "a.wav"
    argv = ["generate", "dog barks", "-m", model, "-d", "cpu", "--seconds", "0.7", "--seed", "7", "-o", str(out)]
    assert main([*argv, "--steps", "3,2,1,1", "--guidance", "1.5"]) == 0
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert str(out) in stderr
    assert "0.7 s made in" in stderr
    assert "codebook" not in stderr  # bars are for terminals
    generator, options = Generator.load(model, device="cpu"), GeneratorOptions(guidance=1.5)
    expected = generator.generate("dog barks", seconds=0.7, seed=7, steps=(3, 2, 1, 1), options=options)
    found, rate = soundfile.read(out, dtype="int16")
    assert (len(found), rate) == (11200, 16000)
    np.testing.assert_array_equal(found, to_int16(expected.samples))
    assert main([*argv, "--steps", "6", "-q"]) == 0
    assert capsys.readouterr() == ("", "")
    assert not np.array_equal(soundfile.read(out, dtype="int16")[0], found)


def test_a_recording_goes_on(model, clip, tmp_path):
    out = tmp_path / "b.wav"
    argv = ["generate", "-m", model, "-d", "cpu", "--seconds", "0.5", "-o", str(out)]
    assert main([*argv, "--continue", clip]) == 0
    expected = Generator.load(model, device="cpu").generate(seconds=0.5, continue_from=clip)
    found = soundfile.read(out, dtype="int16")[0]
    np.testing.assert_array_equal(found, to_int16(expected.samples))
    assert len(found) == 16000 + 8000  # its second, at the model's rate, and what was made


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_every_stage_has_a_bar_on_a_terminal(model, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    argv = ["generate", "dog", "-m", model, "-d", "cpu", "--seconds", "0.7", "-o", str(tmp_path / "a.wav")]
    assert main([*argv, "--steps", "4,3,2,1"]) == 0
    shown = sys.stderr.getvalue()
    for codebook, steps in enumerate((4, 3, 2, 1), 1):
        assert f"codebook {codebook} of 4" in shown
        assert f"{2 * steps}/{2 * steps}" in shown  # two windows


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        (["dog", "--seconds", "0"], 2, "seconds must lie in (0, 600], got 0"),
        (["dog", "--seconds", "1e9"], 2, "seconds must lie in (0, 600], got 1000000000"),
        (["dog", "--seconds", "nan"], 2, "seconds must lie in (0, 600], got nan"),
        ([""], 2, "a prompt must have a word; leave it out"),
        ([" \t"], 2, "a prompt must have a word"),
        (["horse"], 2, "the model knows no 'horse'; it knows 3 words: dog, cat, barks"),
        (["dog\x1b[2J"], 2, "the model knows no"),
        (["dog", "--guidance", "nan"], 2, "guidance must lie in [0, 100], got nan"),
        (["dog", "--guidance", "inf"], 2, "guidance must lie in [0, 100], got inf"),
        (["dog", "--steps", "0"], 2, "steps must lie in [4, 1000]"),
        (["dog", "--steps", "16,6"], 2, "steps must be one number for each of 4 codebooks"),
        (["dog", "--seed", "-1"], 2, "seed must be a whole number"),
        (["dog", "--continue", "no.wav"], 1, "no.wav: does not exist"),
        (["dog", "--continue", "SHORT"], 1, "a recording to go on from must last 0.06 s"),
        (["dog", "--continue", "NOISE"], 1, "finite"),
        (["dog", "-o", "/no/such/folder/a.wav"], 1, "cannot be written"),
        (["dog", "-m", "CODEC"], 2, "Encodec does not make music or sound"),
        (["dog", "-m", "no such model"], 2, "no such model"),
    ],
)
def test_mistakes_are_one_line(model, tmp_path, capsys, *, argv, status, message):
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16000)
    soundfile.write(tmp_path / "noise.wav", np.full(9000, np.nan), 16000, subtype="FLOAT")
    save_model(tmp_path / "codec", Encodec(EncodecConfig.debug()), WORDS)
    places = {
        "SHORT": str(tmp_path / "short.wav"),
        "NOISE": str(tmp_path / "noise.wav"),
        "CODEC": str(tmp_path / "codec"),
    }
    given = [places.get(item, item) for item in argv]
    defaults = {"-o": str(tmp_path / "a.wav"), "-m": model, "--seconds": "0.2"}
    extra = [item for option, value in defaults.items() if option not in given for item in (option, value)]
    assert main(["generate", *given, *extra, "-d", "cpu", "-q"]) == status
    stdout, stderr = capsys.readouterr()
    assert stdout == ""
    assert len(stderr.splitlines()) == 1
    assert message in stderr
    assert "\x1b" not in stderr
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["dog"], "the following arguments are required: -o/--output"),
        (["dog", "-o", "a.wav", "--steps", "many"], "must be whole numbers like 30 or 16,6,4,4, got 'many'"),
        (["dog", "-o", "a.wav", "--seconds", "long"], "invalid float value: 'long'"),
    ],
)
def test_wrong_usage_is_explained_before_a_model_is_loaded(capsys, argv, message):
    assert main(["generate", *argv]) == 2
    assert message in capsys.readouterr().err


def test_the_default_model_is_explained(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("speechnar.hub.SHIPPED_FOLDER", tmp_path)
    assert main(["generate", "dog", "-o", str(tmp_path / "a.wav")]) == 2
    assert f"'{DEFAULT_MUSIC_MODEL}' is not part of this version" in capsys.readouterr().err
