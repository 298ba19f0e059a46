"""What verbs read from stdin, which may be a terminal, hold what is no text, or be closed."""

import io
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, BinaryIO, TextIO

from speechnar.errors import ConfigError

if TYPE_CHECKING:
    from speechnar.audio.source import Recording


def stdin_bytes() -> BinaryIO:
    """Return stdin for bytes.

    Raises:
        ConfigError: it is closed.
    """
    return _stdin().buffer


@contextmanager
def stdin_recording() -> Iterator["Recording"]:
    """Give what is piped into stdin, a file of any kind; it lies on disk meanwhile, since it may be long.

    Raises:
        ConfigError: it is closed.
    """
    from speechnar.asr.results import STDIN_NAME  # noqa: PLC0415
    from speechnar.audio.source import EncodedAudio  # noqa: PLC0415

    source = stdin_bytes()
    with NamedTemporaryFile(prefix="speechnar-") as file:
        shutil.copyfileobj(source, file)
        file.flush()
        yield EncodedAudio(STDIN_NAME, file.name)


def stdin_text() -> str:
    """Return all of stdin; what is no UTF-8 in it is replaced.

    Raises:
        ConfigError: it is closed.
    """
    return "".join(stdin_lines())


def stdin_lines() -> Iterator[str]:
    """Yield lines of stdin as they come; what is no UTF-8 in them is replaced.

    Raises:
        ConfigError: it is closed; at once.
    """
    stdin = _stdin()
    if isinstance(stdin, io.TextIOWrapper):
        stdin.reconfigure(errors="replace")
    return iter(stdin)


def is_terminal() -> bool:
    """Return whether somebody types into stdin."""
    return sys.stdin is not None and sys.stdin.isatty()


def _stdin() -> TextIO:
    if sys.stdin is None:  # so is what the shell has closed: <&-
        raise ConfigError("stdin is closed; pipe something into it, or name a file")
    return sys.stdin
