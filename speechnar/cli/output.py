"""What verbs write: results to stdout, and messages, progress and complaints to stderr."""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from speechnar.errors import SpeechnarError

if TYPE_CHECKING:
    from speechnar.sound.generator import Progress


def put(text: str) -> None:
    """Write a result to stdout, whatever its encoding can show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


def put_json(values: dict[str, Any]) -> None:
    """Write an object to a line of stdout."""
    put(json.dumps(values, ensure_ascii=False) + "\n")


def complain(message: str) -> None:
    """Write an error to a line of stderr."""
    sys.stderr.write(f"speechnar: {one_line(message)}\n")


def complain_of(file: str, error: SpeechnarError, *, debug: bool) -> None:
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
