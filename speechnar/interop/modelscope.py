"""Repositories of ModelScope, which FunASR's own models are published on, through its client (extra ``modelscope``).

Its revisions are branches and tags, not commits: what a listing says, paths and hashes, names the state instead, and a
file that has changed since is refused. The client's own variables hold, as ``MODELSCOPE_ENDPOINT``.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.extras import needs
from speechnar.interop.repository import RemoteFile, RemoteRepository, check_listing, has_digest
from speechnar.store import DOWNLOAD, Address

OWNERS = ("iic", "damo")
"""Whose names are ModelScope's."""
_MODEL = "model"


class ModelScopeRepository(RemoteRepository):
    """One of ModelScope."""

    def _fetch(self, name: str, target: Path, listed: RemoteFile) -> Path:
        folder = self.address.folder / DOWNLOAD / "modelscope"
        try:
            file: Path = _client().download_file(
                self.address.repo,
                _MODEL,
                name,
                revision=self.address.revision,
                local_dir=folder,
                expected_sha256=listed.digest,
                file_size=listed.num_bytes,
            )
        except Exception as error:  # the client lets errors of its HTTP library through, which is not ours to name
            raise ModelNotFoundError(f"{self.source}: ModelScope does not give {name} ({_line(error)})") from None
        if not has_digest(file, listed):
            raise CheckpointError(f"{self.source}: {name} is not what ModelScope lists (its hash differs)")
        target.parent.mkdir(parents=True, exist_ok=True)
        return file.replace(target)


def open_modelscope(address: Address) -> ModelScopeRepository:
    """Return the repository as it is listed now.

    Raises:
        ModelNotFoundError: ModelScope does not have it, does not give it, or cannot be reached.
        CheckpointError: it lists what no repository can hold.
        MissingExtraError: its client is not installed.
    """
    client = _client()
    try:
        listing = client.list_repo_files(address.repo, _MODEL, revision=address.revision)
        files = {file.path: RemoteFile(file.size, file.sha256 or "") for file in listing if not file.is_dir}
    except Exception as error:  # as above
        raise ModelNotFoundError(
            f"model {str(address)!r} is not here, and ModelScope does not give it ({_line(error)})"
        ) from None
    state = json.dumps([[name, file.num_bytes, file.digest] for name, file in sorted(files.items())])
    commit = hashlib.sha1(state.encode(), usedforsecurity=False).hexdigest()
    check_listing(address, commit, files)
    return ModelScopeRepository(address, commit, files)


def _client() -> Any:
    with needs("modelscope"):
        from modelscope_hub import HubApi  # noqa: PLC0415  # an extra
    return HubApi()


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
