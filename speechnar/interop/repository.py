"""Repositories of the Hugging Face hub: their files by name, and each of them fetched, resumed and checked.

Everything that a repository says is data: names are relative paths, a file is as long as the hub lists it, and its hash
is the listed one, else it is refused. The hub's own variables hold (``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HUB_OFFLINE``,
``HF_HOME``), and files that its client has in its cache are read there instead of being fetched again.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.interop.family import MAX_FILES, FolderListing
from speechnar.interop.files import is_below
from speechnar.store import COMMIT, DEFAULT_REVISION, DOWNLOAD, Address, is_offline

MAX_SMALL_BYTES = 64 << 20
"""Of files that say what a checkpoint is; OWSM's configuration, with its 50,000 tokens, has 1.5 MB."""
_CHUNK_BYTES = 1 << 22


@dataclass(frozen=True)
class RemoteFile:
    """What the hub lists of a file."""

    num_bytes: int
    digest: str
    """SHA-256 in hexadecimal, or git's SHA-1 of a small one."""


class RemoteRepository(ABC):
    """A repository at one commit, whose files are fetched into the cache when they are asked for."""

    def __init__(self, address: Address, commit: str, files: Mapping[str, RemoteFile]) -> None:
        self.address = address
        self.source = address.repo
        self.commit = commit
        self._files = files

    @property
    def names(self) -> frozenset[str]:
        """Paths of all files."""
        return frozenset(self._files)

    def num_bytes(self, name: str) -> int:
        """Return the listed length of a file."""
        return self._files[name].num_bytes

    def path(self, name: str) -> Path:
        """Return a file that says what the checkpoint is.

        Raises:
            ModelNotFoundError: there is no such file, or it cannot be fetched.
            CheckpointError: it is too large, or not what the hub lists.
        """
        if name not in self._files:
            raise ModelNotFoundError(f"{self.source}: {name[:200]} is missing")
        if self.num_bytes(name) > MAX_SMALL_BYTES:
            raise CheckpointError(f"{self.source}: {name} must have at most {MAX_SMALL_BYTES} bytes")
        return self.fetch(name)

    def fetch(self, name: str) -> Path:
        """Return a file of any length, which has the listed hash.

        Raises:
            ModelNotFoundError: it cannot be fetched.
            CheckpointError: it is not what the hub lists.
        """
        target = self.address.folder / DOWNLOAD / self.commit / name
        # It is checked before it gets this name.
        return target if target.is_file() else self._fetch(name, target, self._files[name])

    @abstractmethod
    def _fetch(self, name: str, target: Path, listed: RemoteFile) -> Path:
        """Return the file, at ``target`` or wherever it is."""


class HubRepository(RemoteRepository):
    """One of the Hugging Face hub."""

    def _fetch(self, name: str, target: Path, listed: RemoteFile) -> Path:
        from huggingface_hub import try_to_load_from_cache  # noqa: PLC0415  # slow to import

        cached = try_to_load_from_cache(self.address.repo, name, revision=self.commit)
        if isinstance(cached, str) and has_digest(Path(cached), listed):
            return Path(cached)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        resumed = _length(part) > 0
        self._download(name, part, listed)
        if not has_digest(part, listed) and resumed:
            part.unlink()  # what an earlier call had left was of something else
            self._download(name, part, listed)
        if not has_digest(part, listed):
            part.unlink()
            raise CheckpointError(
                f"{self.source}: {name} is not what the hub lists (its hash differs); try again later"
            )
        part.replace(target)
        return target

    def _download(self, name: str, part: Path, listed: RemoteFile) -> None:
        from huggingface_hub import hf_hub_url  # noqa: PLC0415  # slow to import
        from huggingface_hub.file_download import http_get  # noqa: PLC0415  # slow to import
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415  # slow; lazy

        if _length(part) > listed.num_bytes:
            part.unlink()
        url = hf_hub_url(self.address.repo, name, revision=self.commit)
        try:
            with _Bounded(part, listed.num_bytes) as file:
                http_get(
                    url,
                    file,
                    resume_size=file.tell(),
                    headers=build_hf_headers(),
                    expected_size=listed.num_bytes,
                    displayed_filename=Path(name).name,
                )
        except Exception as error:  # the client lets errors of its HTTP library through, which is not ours to name
            raise ModelNotFoundError(_reason(self.address, error, name)) from None


class CachedRepository(FolderListing):
    """What the hub's client has of a repository in its cache, where no network is to be touched."""

    def __init__(self, address: Address, snapshot: Path) -> None:
        super().__init__(snapshot)
        self.address = address
        self.source = address.repo
        self.commit = snapshot.name

    def num_bytes(self, name: str) -> int:
        """Return the length of a file."""
        return self.path(name).stat().st_size

    def fetch(self, name: str) -> Path:
        """Return a file, whose hash is the name under which the client stores it.

        Raises:
            CheckpointError: it is not.
        """
        path = self.path(name)
        digest = path.resolve().name
        if path.is_symlink() and not has_digest(path, RemoteFile(path.stat().st_size, digest)):
            raise CheckpointError(f"{self.source}: {name} in the hub's cache is damaged; remove {path.resolve()}")
        return path


Repository = RemoteRepository | CachedRepository


def open_repository(address: Address) -> Repository:
    """Return the repository at the commit that its revision means now, or offline, that it meant when it was fetched.

    Raises:
        ModelNotFoundError: the hub does not have it, does not give it, or cannot be reached.
        CheckpointError: it lists what no repository can hold.
    """
    from huggingface_hub import HfApi, snapshot_download  # noqa: PLC0415  # slow to import

    if is_offline():
        try:
            folder = snapshot_download(address.repo, revision=address.revision, local_files_only=True)
        except (OSError, ValueError):
            raise ModelNotFoundError(
                f"model {str(address)!r} is not on this machine, and the hub must not be asked: leave out --offline or "
                "HF_HUB_OFFLINE"
            ) from None
        return CachedRepository(address, Path(folder))
    try:
        info = HfApi().model_info(address.repo, revision=address.revision or DEFAULT_REVISION, files_metadata=True)
        files = {file.rfilename: _listed(file) for file in info.siblings or ()}
        commit = info.sha or ""
    except Exception as error:  # as above; and what the hub answers may be anything
        raise ModelNotFoundError(_reason(address, error)) from None
    check_listing(address, commit, files)
    return HubRepository(address, commit, files)


def check_listing(address: Address, commit: str, files: Mapping[str, RemoteFile]) -> None:
    """Check what a hub says that a repository holds.

    Raises:
        CheckpointError: no repository can hold it.
    """
    outside = [name for name in files if not is_below(name)]
    if outside or len(files) > MAX_FILES:
        fault = f"{outside[0][:200]!r}" if outside else f"{len(files)} files"
        raise CheckpointError(f"{address}: the hub lists what no checkpoint can hold: {fault}")
    if not COMMIT.fullmatch(commit):
        raise CheckpointError(f"{address}: the hub must name the commit, got {commit[:80]!r}")


def has_digest(path: Path, listed: RemoteFile) -> bool:
    """Tell whether a file has the listed length and hash."""
    if path.stat().st_size != listed.num_bytes:
        return False
    if len(listed.digest) == hashlib.sha256().digest_size * 2:
        digest = hashlib.sha256()
    else:
        digest = hashlib.sha1(f"blob {listed.num_bytes}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest() == listed.digest


class _Bounded(FileIO):
    """A file that is continued, and takes no more bytes than it is to have."""

    def __init__(self, path: Path, num_bytes: int) -> None:
        super().__init__(path, "ab")
        self._num_bytes = num_bytes
        self.seek(0, 2)

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > self._num_bytes:
            raise ValueError(f"it is longer than the {self._num_bytes} bytes that are listed")
        return super().write(data)


def _listed(file: Any) -> RemoteFile:
    lfs = file.lfs
    digest = lfs["sha256"] if lfs else file.blob_id
    size = lfs["size"] if lfs else file.size
    if not isinstance(digest, str) or not isinstance(size, int):
        raise ValueError(f"no size and hash of {file.rfilename}")
    return RemoteFile(size, digest)


def _length(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _reason(address: Address, error: Exception, name: str | None = None) -> str:
    """Return the message of what the hub's client has raised."""
    from huggingface_hub import constants  # noqa: PLC0415  # slow to import
    from huggingface_hub.errors import (  # noqa: PLC0415  # slow to import
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        page = f"{constants.ENDPOINT}/{address.repo}"
        return (
            f"model {address.repo!r} is gated: accept its conditions at {page} and log in (hf auth login, or HF_TOKEN)"
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"model {address.repo!r} is neither here nor on the hub; a private one needs HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"model {address.repo!r} has no revision {address.revision!r} on the hub"
    text = " ".join(str(error).split())[:200] or type(error).__name__
    return f"model {str(address)!r} is not here, and the hub does not give {name or 'it'} ({text})"
