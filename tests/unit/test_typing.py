"""What a type checker says of calls of the public names, and that functions take what the methods take."""

import inspect
import sys
from pathlib import Path
from subprocess import run

import pytest

import speechnar
from speechnar import Generator, Synthesizer, Transcriber

ROOT = Path(__file__).parents[2]
CALLS = Path(__file__).parent / "typed_calls.py"
PAIRS = [
    (speechnar.transcribe, Transcriber.transcribe, Transcriber.load),
    (speechnar.translate, Transcriber.translate, Transcriber.load),
    (speechnar.detect_language, Transcriber.detect_language, Transcriber.load),
    (speechnar.align, Transcriber.align, Transcriber.load),
    (speechnar.synthesize, Synthesizer.synthesize, Synthesizer.load),
    (speechnar.edit, Synthesizer.edit, Synthesizer.load),
    (speechnar.generate, Generator.generate, Generator.load),
]


@pytest.mark.parametrize(("function", "method", "load"), PAIRS, ids=[pair[0].__name__ for pair in PAIRS])
def test_functions_take_what_methods_take_and_say_which_model(function, method, load):
    given = dict(inspect.signature(function).parameters)
    translator = given.pop("translator", None)
    chosen = [given.pop(name) for name in ("model", "device", "precision")]
    expected = dict(inspect.signature(method).parameters)
    del expected["self"]
    assert given.keys() == expected.keys()
    for name, parameter in expected.items():
        assert (given[name].kind, given[name].default) == (parameter.kind, parameter.default)
    loading = inspect.signature(load).parameters
    model = loading["name_or_folder"].default if translator is None else None
    assert [each.default for each in chosen] == [model, *(loading[name].default for name in ("device", "precision"))]


@pytest.mark.slow  # a type checker reads the whole package
def test_wrong_calls_are_errors_to_a_type_checker():
    """Each carries a comment that expects one, and a comment in vain is one."""
    done = run([sys.executable, "-m", "mypy", str(CALLS)], check=False, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert CALLS.read_text().count("# type: ignore[") > 20
