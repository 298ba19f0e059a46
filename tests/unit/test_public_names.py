"""What `speechnar` offers, and what is imported for it."""

import pytest

import speechnar
from tests.interpreter import Interpreter


def models_after(interpreter: Interpreter, code: str) -> set[str]:
    """Return the modules of models that are imported once ``code`` has run where nothing of ours was imported."""
    done = interpreter.run(f"import speechnar; {code}; print(*sys.modules)")
    assert done.returncode == 0, done.stderr
    names = [name for name in done.stdout.decode().split() if name.startswith("speechnar.models.")]
    return {name.removeprefix("speechnar.models.") for name in names if name.count(".") > 2}


@pytest.mark.parametrize("name", speechnar.__all__)
def test_every_name_is_there_and_described(name):
    assert getattr(speechnar, name).__doc__
    assert name in dir(speechnar)


def test_no_model_is_imported_before_it_is_loaded(interpreter):
    """By any of these names: what one of them imports is there in the end."""
    names = ("Transcriber", "Translator", "Generator", "CaptionStream", "DecodeOptions", "transcribe")
    assert models_after(interpreter, ", ".join(f"speechnar.{name}" for name in names)) == set()


@pytest.mark.parametrize(
    ("code", "expected", "others"),
    [
        ("Generator.load('opsound-music', device='cpu')", "sound.magnet", {"sound.enat", "sound.music_ar"}),
        ("Translator.load(device='cpu').translate('Hello.')", "mt.fretna_ctc", {"mt.fretna", "mt.reta", "mt.wait_k"}),
        ("Transcriber.load(device='cpu').stream()", "asr.owsm_ctc", {"asr.sensevoice", "asr.unienc"}),
    ],
)
def test_a_model_that_is_loaded_brings_no_other(interpreter, code, expected, others):
    found = models_after(interpreter, f"speechnar.{code}")
    assert expected in found
    assert not found & others
    assert {name.split(".")[0] for name in found} <= {expected.split(".")[0], "tts"}, "a family of another task"
