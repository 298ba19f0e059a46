"""Where the results of a recording lie: a matter of its path alone, whatever else is done, before or beside."""

import os
from dataclasses import dataclass
from pathlib import Path

from speechnar.audio.listing import STDIN, is_recording
from speechnar.text.transcript import safe_stem

STDIN_NAME = "stdin"
"""What messages and results call what is read from there."""


@dataclass(frozen=True)
class ResultPlace:
    """Where the results of one recording lie."""

    folder: Path
    stem: str
    """Of the recording; that of the files is `safe_stem` of it."""

    def path(self, suffix: str) -> Path:
        """Return the file of a format, which may not be there."""
        return self.folder / f"{safe_stem(self.stem)}.{suffix}"


class ResultPlaces:
    """Places of results in a folder.

    They lie in it as the recordings lie around it: of ``talks/day 1/a.wav``, the results in ``texts`` are
    ``texts/talks/day 1/a.txt``, those in ``talks`` itself stand beside the recording, and those in ``talks/texts`` are
    ``talks/texts/day 1/a.txt``. A recording beside which another one has the same name but for the suffix keeps its
    own: ``a.wav.txt``, ``a.mp3.txt``. So two recordings never share a place, and one of them always has the same.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(os.path.abspath(folder))  # noqa: PTH100  # links are not followed
        self._stems: dict[Path, dict[str, int]] = {}

    def of(self, recording: str) -> ResultPlace:
        """Return the place of the results of ``recording``, a path or `STDIN`."""
        if recording == STDIN:
            return ResultPlace(self._folder, STDIN_NAME)
        path = Path(os.path.abspath(recording))  # noqa: PTH100  # as above
        folder = self._folder
        for part in self._parts_of(path.parent):
            folder /= safe_stem(part)
        is_alone = is_recording(path.name) and self._count(path.parent).get(path.stem, 0) <= 1
        return ResultPlace(folder, path.stem if is_alone else path.name)

    def _parts_of(self, parent: Path) -> tuple[str, ...]:
        try:
            shared = os.path.commonpath([parent, self._folder])
        except ValueError:  # on drives of their own
            return (parent.drive, *parent.parts[1:])
        return parent.relative_to(shared).parts

    def _count(self, parent: Path) -> dict[str, int]:
        """Return how many recordings of a folder have each stem."""
        if parent not in self._stems:
            stems: dict[str, int] = {}
            try:
                for name in filter(is_recording, os.listdir(parent)):  # noqa: PTH208  # names of another's choice
                    stems[Path(name).stem] = stems.get(Path(name).stem, 0) + 1
            except (OSError, ValueError):  # whoever reads the recording will say so
                stems.clear()
            self._stems[parent] = stems
        return self._stems[parent]
