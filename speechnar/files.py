"""Files that appear whole or not at all, whatever ends the program that writes them, and files of bounded size."""

import errno
import logging
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from speechnar.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

PREFIX = ".speechnar-"
LOCK_NAME = ".lock"
LEFT_ALONE_S = 3600.0
"""A temporary file that nobody has written to for so long belongs to nobody."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``, which takes its place if all goes well, and else vanishes.

    Its name has the suffix of ``path`` and is short, whatever the length of that one. Where this process writes for the
    first time, what programs that were killed have left there goes, too.
    """
    _tidy(path.parent)
    temporary = path.with_name(f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}{path.suffix[:20]}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Work in ``folder`` alone, as far as others ask for the same; whatever ends this process lets go of it.

    Raises:
        ConfigError: another process works there.
    """
    try:
        import fcntl  # noqa: PLC0415  # of systems that are like Unix
    except ImportError:
        yield
        return
    with (folder / LOCK_NAME).open("a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"{folder}: another process works there; wait for it, or give another folder") from None
        except OSError as error:  # some network folders know no locks
            logger.warning("%s: cannot be locked (%s); see that nothing else works there", folder, error.strerror)
        yield


def check_writable(folder: Path) -> None:
    """Make a file in the folder that goes again.

    Raises:
        OSError: that cannot be done.
    """
    probe = folder / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        probe.write_bytes(b"speechnar")  # where a disk is full, an empty file still has room
    finally:
        probe.unlink(missing_ok=True)


def regular(path: str | Path) -> Path:
    """Return the path of a file that may be anybody's, unless a pipe or a device is there, which need never end.

    Raises:
        OSError: one is, or a folder.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "is a folder or a device", str(path))
    return path


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """Return the bytes of a file that may be anybody's.

    Raises:
        DataError: there are too many.
        OSError: it cannot be read.
    """
    with regular(path).open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise DataError(f"{path}: must hold at most {max_bytes:,} bytes")
    return content


@lru_cache(maxsize=1024)  # once, since it takes as long as there are files
def _tidy(folder: Path) -> None:
    """Remove old temporary files whose programs have ended."""
    for path in folder.glob(f"{PREFIX}*"):
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        try:
            if time.time() - path.stat().st_mtime > LEFT_ALONE_S and not _runs(owner):
                path.unlink()
        except OSError:  # it is somebody else's, or gone
            continue


def _runs(owner: str) -> bool:
    try:
        os.kill(int(owner), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True
