"""What `speechnar` offers, and what is imported for it."""

import subprocess
import sys

import pytest

import speechnar


def models_after(code: str) -> set[str]:
    """Return the modules of models that are imported once ``code`` has run in a new interpreter."""
    code = f"import sys, speechnar; {code}; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = [
        name.removeprefix("speechnar.models.") for name in done.stdout.split() if name.startswith("speechnar.models.")
    ]
    return {name for name in names if "." in name}


@pytest.mark.parametrize("name", speechnar.__all__)
def test_every_name_is_there_and_described(name):
    assert getattr(speechnar, name).__doc__
    assert name in dir(speechnar)


@pytest.mark.parametrize(
    "name", ["Transcriber", "Translator", "Generator", "CaptionStream", "DecodeOptions", "transcribe"]
)
def test_no_model_is_imported_before_it_is_loaded(name):
    assert models_after(f"speechnar.{name}") == set()


@pytest.mark.parametrize(
    ("code", "expected", "others"),
    [
        ("Generator.load('opsound-music', device='cpu')", "sound.magnet", {"sound.enat", "sound.music_ar"}),
        ("Translator.load(device='cpu').translate('Hello.')", "mt.fretna_ctc", {"mt.fretna", "mt.reta", "mt.wait_k"}),
        ("Transcriber.load('asterisk-s2t', device='cpu').stream()", "asr.owsm_ctc", {"asr.cassnat", "asr.paraformer"}),
    ],
)
def test_a_model_that_is_loaded_brings_no_other(code, expected, others):
    found = models_after(f"speechnar.{code}")
    assert expected in found
    assert not found & others
    assert {name.split(".")[0] for name in found} <= {expected.split(".")[0], "tts"}, "a family of another task"
