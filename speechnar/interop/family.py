"""What a family of checkpoints is: told by the names of its files, before more than a few small ones are fetched.

A family is one entry of `speechnar.interop.FAMILIES`. A folder here and a repository on a hub are recognised by the
same two questions, asked of a `Listing`.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.interop.files import ConversionReport, existing, is_below

CARD_FILE = "README.md"
CONFIG_FILE, SAFETENSORS_FILE, PICKLE_FILE = "config.json", "model.safetensors", "pytorch_model.bin"
"""Of transformers."""
MAX_FILES = 10_000


class Listing(Protocol):
    """The files of a folder or a repository: all are known by name, each is there once it is asked for."""

    @property
    def source(self) -> str:
        """What messages call it."""

    @property
    def names(self) -> frozenset[str]:
        """Paths of all files, relative, with ``/`` between their parts."""

    def path(self, name: str) -> Path:
        """Return a file that says what the checkpoint is; a repository fetches it, if it is small.

        Raises:
            ModelNotFoundError: there is no such file, or it cannot be fetched.
            CheckpointError: ``name`` points outside, or the file is too large to say what a checkpoint is.
        """


@dataclass(frozen=True)
class Family:
    """Checkpoints of one toolkit, or of one architecture, that are converted by one function."""

    name: str
    """As it is written in messages."""
    marks: str
    """The files that tell it, for the message that none was recognised."""
    recognizes: Callable[[Listing], bool]
    """Tell whether this is one, by as few small files as possible; whatever is malformed is none."""
    wanted: Callable[[Listing], Sequence[str]]
    """Return the files that the conversion reads, of one that is recognised, optional ones only where they are listed;
    never an optimiser, a twin in another format, or an example. A name that is not listed is reported as missing."""
    convert: Callable[[Path, Path], ConversionReport]
    """Turn a folder that holds what is wanted into a model folder of ours."""


class FolderListing:
    """The files of a folder on this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.source = str(folder)

    @cached_property
    def names(self) -> frozenset[str]:
        """Paths of all files below the folder.

        Raises:
            ModelNotFoundError: there are more than a checkpoint can have.
        """
        found: set[str] = set()
        for parent, _, files in os.walk(self._folder):
            found |= {(Path(parent) / name).relative_to(self._folder).as_posix() for name in files}
            if len(found) > MAX_FILES:
                raise ModelNotFoundError(
                    f"{self._folder}: must be the folder of one checkpoint; it holds too many files"
                )
        return frozenset(found)

    def path(self, name: str) -> Path:
        """Return a file of the folder."""
        return existing(self._folder, name)


def listed_of(listing: Listing, *names: str) -> tuple[str, ...]:
    """Return those of ``names`` that are listed."""
    return tuple(name for name in names if name in listing.names)


def in_root(listing: Listing, suffix: str) -> list[str]:
    """Return the files that stand in no subfolder and end in ``suffix``, sorted."""
    return sorted(name for name in listing.names if "/" not in name and name.endswith(suffix))


def transformers_config(listing: Listing) -> dict[str, Any]:
    """Return what ``config.json`` holds; nothing if it is absent or no JSON object."""
    if CONFIG_FILE not in listing.names:
        return {}
    try:
        values = json.loads(listing.path(CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, CheckpointError):
        return {}
    return values if isinstance(values, dict) else {}


def transformers_weights(listing: Listing) -> str:
    """Return the one file of weights that transformers would read: safetensors where they are listed, else a pickle."""
    return PICKLE_FILE if SAFETENSORS_FILE not in listing.names and PICKLE_FILE in listing.names else SAFETENSORS_FILE


def check_wanted(family: Family, listing: Listing) -> tuple[str, ...]:
    """Return what ``family`` wants of a listing, without repetition.

    Raises:
        CheckpointError: a name points outside.
        ModelNotFoundError: a file is not listed.
    """
    names = tuple(dict.fromkeys(family.wanted(listing)))
    outside = [name for name in names if not is_below(name)]
    if outside:
        raise CheckpointError(f"{listing.source}: files must lie inside the repository, got {outside[0][:200]!r}")
    missing = [name for name in names if name not in listing.names]
    if missing:
        raise ModelNotFoundError(
            f"{listing.source}: {', '.join(missing)[:400]} missing; a checkpoint of {family.name} has it"
        )
    return names
