"""Ctrl-C, wherever the command has come."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from speechnar import Transcriber
from speechnar.cli import interrupts
from speechnar.cli.main import main
from speechnar.errors import AudioError
from speechnar.text.transcript import Transcript
from tests.unit.tiny import write_speechlike

pytestmark = pytest.mark.usefixtures("loaded_once")
ROOT = Path(interrupts.__file__).parents[2]
SILENCE = Transcript("a.wav", "tiny", "transcribe", "und", 0.0, 1.0, "", ())


@pytest.mark.slow
def test_sigint_of_the_real_process(recognizer, tmp_path):
    """However far it has come, Ctrl-C ends it within seconds and without a traceback."""
    long = write_speechlike(tmp_path / "long.wav", 29.0)
    argv = [sys.executable, "-m", "speechnar", "transcribe", *[str(long)] * 400, "-m", recognizer]
    # What a shell starts in the background, tests for example, ignores the signal, and so would the process.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.endswith("speechnar: interrupted\n")


def test_sigint_while_torch_is_imported(tmp_path, wav):
    """Its C++ drops the interrupt, as this one does."""
    (tmp_path / "torch.py").write_text(
        "import time\ntry:\n    print('ready', flush=True); time.sleep(30)\nexcept KeyboardInterrupt:\n    pass\n"
    )
    code = f"from speechnar.cli.main import main; sys.exit(main(['transcribe', {wav!r}]))"
    assert interrupted(code, tmp_path) == (130, "speechnar: interrupted\n")


def test_an_interrupt_that_is_dropped_comes_again(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(interrupts, "RAISED_AGAIN_S", 0.05)
    try:
        with pytest.raises(KeyboardInterrupt), interrupts.interruptible():
            with suppress(KeyboardInterrupt):  # a callback from C
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(0.01)
            time.sleep(1)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("becomes", ["another error", "a damaged file", "nothing"])
def test_an_interrupt_that_becomes_something_else_is_one(recognizer, wav, capsys, monkeypatch, becomes):
    """Before Python 3.12 it is a RuntimeError where a class is made; where C reads, the end of a file."""

    def transcribe_as_ready(self, files, **options):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            if becomes == "another error":
                raise RuntimeError("Error calling __set_name__") from None
        yield 0, (AudioError("cut short") if becomes == "a damaged file" else SILENCE)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    monkeypatch.setattr(Transcriber, "transcribe_as_ready", transcribe_as_ready)
    try:
        assert main(["transcribe", wav, "-m", recognizer, "-q"]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.endswith("speechnar: interrupted\n")


@pytest.mark.parametrize("becomes", ["raise", "raise RuntimeError('Error calling __set_name__') from None"])
def test_sigint_while_the_command_itself_is_imported(tmp_path, becomes):
    (tmp_path / "argparse.py").write_text(
        f"import time\ntry:\n    print('ready', flush=True); time.sleep(30)\nexcept KeyboardInterrupt:\n    {becomes}\n"
    )
    code = "from speechnar.__main__ import main; sys.exit(main())"
    assert interrupted(code, tmp_path) == (130, "speechnar: interrupted\n")


def interrupted(code: str, folder: Path) -> tuple[int, str]:
    """Return the status and stderr of a process that runs ``code``, with the modules in ``folder`` before others.

    It is interrupted once it has said that it is ready.
    """
    # What a shell starts in the background ignores the signal, and so would the process.
    code = f"import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); {code}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(folder), str(ROOT)))}
    argv = [sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    return process.returncode, err
