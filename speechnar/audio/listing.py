"""From what users name to recordings: files as they are, folders and patterns as the recordings that they hold."""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from speechnar.errors import AudioError

STDIN = "-"
SUFFIXES = frozenset({
    ".3gp", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".asf", ".au", ".avi", ".awb", ".caf", ".flac",
    ".flv", ".g722", ".gsm", ".m4a", ".m4b", ".m4v", ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".mpeg", ".mpg",
    ".mts", ".nist", ".oga", ".ogg", ".ogv", ".opus", ".rf64", ".snd", ".sph", ".spx", ".ts", ".tta", ".voc", ".w64",
    ".wav", ".webm", ".wma", ".wmv", ".wv",
})  # fmt: skip
"""Of sound and of films with sound, in lower case: what is taken from folders."""


@dataclass(frozen=True)
class Listing:
    """Recordings in the order in which they were named, and what holds none."""

    recordings: tuple[str, ...]
    """Paths as they were given, below a folder beginning with that of the folder; or `STDIN`."""
    faults: tuple[AudioError, ...] = ()
    """Of folders and patterns."""


def list_recordings(given: Iterable[str | os.PathLike[str]]) -> Listing:
    """Find the recordings that are meant; none is opened.

    A folder stands for the files below it that have one of `SUFFIXES`, in the order of their names, but for what begins
    with a dot; links are followed, to each folder once. What is not there and has ``*``, ``?`` or ``[`` is a pattern as
    of a shell, with ``**`` for folders of any depth; one that does not end in a suffix finds only recordings. All else
    is taken as it is, whether it is there or not: whoever reads it says what is wrong. What is found in several ways
    comes once, a file that is named twice comes twice.
    """
    recordings: list[str] = []
    faults: list[AudioError] = []
    places: set[str] = set()
    for named in given:
        item = os.fspath(named)
        if item != STDIN and os.path.isdir(item):  # noqa: PTH112  # a Path raises for odd names, and loses "./"
            found = list(_walk(item, faults))
            nothing = "is a folder without recordings (.wav, .flac, .mp3, .mp4 and the like)"
        elif glob.has_magic(item) and not os.path.lexists(item):
            found = list(_match(item, faults))
            nothing = "does not exist, and as a pattern it finds no recordings"
        else:
            recordings.append(item)
            places.add(place_of(item))
            continue
        if not found:
            faults.append(AudioError(f"{item}: {nothing}"))
        for path in found:
            if (place := place_of(path)) not in places:
                places.add(place)
                recordings.append(path)
    return Listing(tuple(recordings), tuple(faults))


def is_recording(name: str) -> bool:
    """Tell by its suffix whether a file is likely to hold sound."""
    return os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122  # as above


def place_of(path: str) -> str:
    """Return what is the same for two ways to name a file."""
    return os.path.abspath(path)  # noqa: PTH100  # links are not followed


def _walk(folder: str, faults: list[AudioError]) -> Iterator[str]:
    """Yield the recordings below a folder, and note what cannot be looked into."""
    seen: set[tuple[int, int]] = set()

    def note(error: OSError) -> None:
        faults.append(AudioError(f"{error.filename}: cannot be listed ({error.strerror})"))

    for parent, folders, files in os.walk(folder, onerror=note, followlinks=True):
        status = os.stat(parent)  # noqa: PTH116  # as above
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if is_recording(name) and not name.startswith("."):
                yield os.path.join(parent, name)  # noqa: PTH118  # as above


def _match(pattern: str, faults: list[AudioError]) -> Iterator[str]:
    """Yield the files that a pattern finds, and the recordings below the folders that it finds."""
    has_suffix = bool(os.path.splitext(pattern)[1])  # noqa: PTH122  # as above
    try:
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # Path's knows no absolute patterns
    except ValueError:  # a NUL
        return
    for path in matches:
        if os.path.isdir(path):  # noqa: PTH112  # as above
            yield from _walk(path, faults)
        elif has_suffix or is_recording(path):
            yield path
