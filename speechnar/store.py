"""The cache of fetched models: model folders of ours, each under the repository and the commit that it came from.

It lies beside what the Hugging Face client keeps, in ``$HF_HOME/assets/speechnar/models`` (or ``$HF_ASSETS_CACHE``):

    owner--name/commit-v1/name/    a model folder, complete since it appears by renaming
    owner--name/revisions/main     the commit that a branch or a tag meant when it was last asked for
    owner--name/partial/           what is being made; of a process that died, whoever comes next removes it
    owner--name/download/          files of the repository, whole or ``.part``; kept until they are converted

The folder's name carries the version of our format: what an older version of this package converted is not read.
"""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from speechnar.errors import ModelNotFoundError

SCHEMA_VERSION = 1
"""Of model folders; raised when what is written there changes its meaning."""
DEFAULT_REVISION = "main"
OFFLINE = "HF_HUB_OFFLINE"
REQUIRED_FILES = ("config.json", "model.safetensors")
PARTIAL, DOWNLOAD, _REVISIONS, _LOCK = "partial", "download", "revisions", "lock"
_NAME = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")
COMMIT = re.compile(r"[0-9a-f]{40}")
"""What git names a commit by."""


@dataclass(frozen=True)
class Address:
    """A repository, and of it a branch, a tag or a commit."""

    repo: str
    """``owner/name``."""
    revision: str | None = None
    """None: the default one."""

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision}" if self.revision else self.repo

    @classmethod
    def parse(cls, text: str) -> "Address | None":
        """Return what ``owner/name[@revision]`` means, or None if it is not written so."""
        match = _NAME.fullmatch(text)
        if match is None or ".." in text or "--" in match["repo"]:
            return None
        return cls(match["repo"], match["revision"])

    @property
    def folder(self) -> Path:
        """Where everything of the repository is kept."""
        return _root() / self.repo.replace("/", "--")

    def model_folder(self, commit: str) -> Path:
        """Return where the model of that commit is, or belongs."""
        return self.folder / f"{commit}-v{SCHEMA_VERSION}" / self.repo.rpartition("/")[2]


@dataclass(frozen=True)
class StoredModel:
    """A model in the cache."""

    repo: str
    commit: str
    folder: Path


def find(address: Address) -> Path | None:
    """Return the folder of a model that is in the cache, of the commit that its revision meant when it was fetched."""
    commit = _commit_of(address)
    folder = address.model_folder(commit) if commit else None
    return folder if folder and is_complete(folder) else None


def is_complete(folder: Path) -> bool:
    """Tell whether a folder has what every model folder has."""
    return all((folder / name).is_file() for name in REQUIRED_FILES)


def record(address: Address, commit: str) -> None:
    """Remember that a revision means ``commit``."""
    path = _revision_file(address)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(commit, encoding="utf-8")
    temporary.replace(path)


def stored_models() -> list[StoredModel]:
    """Return the models in the cache, by name."""
    found = []
    for folder in sorted(_root().glob(f"*--*/*-v{SCHEMA_VERSION}/*")):
        repo = folder.parents[1].name.replace("--", "/", 1)
        if is_complete(folder):
            found.append(StoredModel(repo, folder.parent.name.removesuffix(f"-v{SCHEMA_VERSION}"), folder))
    return found


def remove(address: Address) -> int:
    """Take a repository, or one revision of it, out of the cache, and return how many bytes that frees.

    Raises:
        ModelNotFoundError: it is not there.
    """
    commit = _commit_of(address)
    models = [model for model in stored_models() if model.repo == address.repo]
    if address.revision is None or all(model.commit == commit for model in models):
        doomed = [address.folder]
    else:
        doomed = [model.folder.parent for model in models if model.commit == commit]
    if not any(path.is_dir() for path in doomed):
        raise ModelNotFoundError(f"model {str(address)!r} is not in the cache")
    with locked(address):
        num_bytes = sum(_size(path) for path in doomed)
        for path in doomed:
            # By renaming first, so that a model is never seen in part.
            trash = address.folder.with_name(f"{address.folder.name}.removed")
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(trash)
            shutil.rmtree(trash)
    return num_bytes


@contextmanager
def locked(address: Address) -> Iterator[None]:
    """Let no other process fetch, convert or remove anything of this repository; of a dead process it is free."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # noqa: PLC0415  # slow; lazy

    path = _root() / "locks" / address.folder.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(path):
        yield


def is_offline() -> bool:
    """Tell whether the hub must not be asked: ``HF_HUB_OFFLINE`` is set, now or when its client was imported."""
    from huggingface_hub import constants  # noqa: PLC0415  # slow to import

    return constants.HF_HUB_OFFLINE or os.environ.get(OFFLINE, "").upper() in constants.ENV_VARS_TRUE_VALUES


def _root() -> Path:
    from huggingface_hub import constants  # noqa: PLC0415  # slow to import

    return Path(constants.HF_ASSETS_CACHE) / "speechnar" / "models"


def _commit_of(address: Address) -> str | None:
    if address.revision and COMMIT.fullmatch(address.revision):
        return address.revision
    try:
        commit = _revision_file(address).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _revision_file(address: Address) -> Path:
    return address.folder / _REVISIONS / quote(address.revision or DEFAULT_REVISION, safe="")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
