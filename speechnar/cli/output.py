"""What verbs write: results to stdout, and messages, progress and complaints to stderr."""

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechnar.errors import SpeechnarError
from speechnar.files import check_writable

if TYPE_CHECKING:
    from speechnar.sound.writer import Progress


STDOUT = "stdout"
"""What errors of writing to it call it."""


def put(text: str) -> None:
    """Write a result to stdout, whatever its encoding can show.

    Raises:
        OSError: of the file name `STDOUT`, as for a full disk.
    """
    encoding = sys.stdout.encoding or "utf-8"
    with _naming_stdout():
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


def flush() -> None:
    """Let whoever reads stdout have what was put.

    Raises:
        OSError: as of `put`.
    """
    with _naming_stdout():
        sys.stdout.flush()


@contextmanager
def _naming_stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a BrokenPipeError is made one again
        raise OSError(error.errno, error.strerror, STDOUT) from None


def open_streams() -> None:
    """Let stdout and stderr lead nowhere where they are closed."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115  # to the end


def close_stdout() -> None:
    """Let stdout lead nowhere, so that Python does not complain once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check_folder(folder: Path) -> None:
    """See that results can be written, before they are computed.

    Raises:
        SpeechnarError: they cannot.
    """
    try:
        check_writable(folder)
    except OSError as error:
        raise SpeechnarError(f"{folder}: cannot be written ({error.strerror}); give another place by -o") from None


def put_json(values: dict[str, Any]) -> None:
    """Write an object to a line of stdout."""
    put(json.dumps(values, ensure_ascii=False) + "\n")


def complain(message: str) -> None:
    """Write an error to a line of stderr."""
    sys.stderr.write(f"speechnar: {one_line(message)}\n")


def complain_of(file: str, error: SpeechnarError | OSError, *, debug: bool) -> None:
    """Complain of a file, with the traceback where ``debug`` asks for it."""
    name, message = one_line(file), one_line(error)
    complain(message if message.startswith(name) else f"{name}: {message}")
    if debug:
        logging.getLogger(__name__).error("traceback", exc_info=error)


def one_line(value: object) -> str:
    """Return text that a terminal shows on one line."""
    shown = " ".join(str(value).split())
    # File names may hold what no terminal should obey, or bytes that are not text.
    return "".join(letter if letter.isprintable() else "?" for letter in shown)


def log() -> logging.Logger:
    """Return the logger of the messages on stderr."""
    return logging.getLogger("speechnar")


def configure_logging(*, quiet: bool) -> None:
    """Send messages to stderr; where it is to be quiet, only warnings and errors."""
    logger = log()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False


def with_progress(outcomes: Iterator[Any], total: int) -> Iterator[Any]:
    """Show a bar over many files on a terminal; otherwise pass through."""
    if total < 2 or not sys.stderr.isatty():
        yield from outcomes
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    yield from track(outcomes, total=total, description="files", console=Console(stderr=True))


@contextmanager
def stages_shown() -> Iterator["Progress | None"]:
    """Yield what shows a bar for each stage on a terminal; elsewhere nothing is shown."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield show
