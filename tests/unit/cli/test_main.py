"""The command: exit statuses, what goes where, and answers to mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest

from speechnar.asr.transcriber import Transcriber
from speechnar.cli import main as cli
from speechnar.cli.main import main

pytestmark = pytest.mark.usefixtures("loaded_once")
ROOT = Path(cli.__file__).parents[2]
VERBS = ["transcribe", "translate", "caption", "detect-language", "align", "synthesize", "edit", "generate"]
VERBS += ["models", "convert", "train", "average", "decode", "score", "demo"]


@pytest.mark.parametrize("argv", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_answers_without_torch(argv):
    code = f"import sys; from speechnar.cli.main import main; s = main({argv!r}); sys.exit(s or 'torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout
    assert not found.stderr


def test_import_is_lazy():
    code = "import sys, speechnar; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_options_may_stand_between_files(recognizer, wav, capsys):
    assert main(["transcribe", wav, "-m", recognizer, wav, "-q", wav]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["sing"],
        ["transcribe"],
        ["transcribe", "a.wav", "--no-such-option"],
        ["transcribe", "a.wav", "-f", "doc"],
        ["transcribe", "a.wav", "--hotw", "x"],  # abbreviations would freeze the names of options
        ["translate", "a.wav"],
        ["align", "a.wav"],
        ["train", "conf.yaml"],
    ],
)
def test_wrong_usage(argv, capsys):
    assert main(argv) == 2
    assert capsys.readouterr().out == ""


def test_unknown_model(wav, capsys):
    assert main(["transcribe", wav, "-m", "no such model"]) == 2
    assert "no such model" in capsys.readouterr().err


def test_damaged_model(wav, capsys, tmp_path, recognizer):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for path in Path(recognizer).iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[:100])
    assert main(["transcribe", wav, "-m", str(folder)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_traceback_only_with_debug(recognizer, wav, capsys):
    assert main(["transcribe", wav, "-m", recognizer, "-l", "rus"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    with pytest.raises(cli.ConfigError):
        main(["transcribe", wav, "-m", recognizer, "-l", "rus", "--debug"])


def test_bugs_are_one_line_too(recognizer, wav, capsys, monkeypatch):
    monkeypatch.setattr(Transcriber, "transcribe_as_ready", lambda *args, **options: 1 / 0)
    assert main(["transcribe", wav, "-m", recognizer]) == 1
    err = capsys.readouterr().err
    assert err.startswith("speechnar: internal error (ZeroDivisionError")
    assert err.count("\n") == 1


def test_interrupt_is_clean(recognizer, wav, capsys, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Transcriber, "transcribe_as_ready", interrupt)
    assert main(["transcribe", wav, "-m", recognizer]) == 130
    assert capsys.readouterr().err == "speechnar: interrupted\n"


def test_reader_that_leaves(recognizer, wav):
    command = f"{sys.executable} -m speechnar transcribe {wav} {wav} -m {recognizer} | true"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr


@pytest.mark.parametrize(("verb", "is_ended_at_once"), [("transcribe", True), ("models", False)])
def test_the_program_ends_at_once_where_nothing_is_left_open(verb, is_ended_at_once):
    """But not before what asked to be called at the end was called, and with the status of the verb."""
    code = (
        "import atexit, sys; from speechnar.cli import main as cli; atexit.register(print, 'called'); "
        f"cli.main = lambda: 3; sys.argv = ['speechnar', {verb!r}]; status = cli.run(); print('back'); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout.split() == (["called"] if is_ended_at_once else ["back", "called"])
