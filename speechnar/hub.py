"""Model names to model folders on this machine: shipped with the package, local, or in the cache.

No network is touched. What is not here is fetched by `speechnar.published`.
"""

import difflib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speechnar import store
from speechnar.errors import ConfigError, ModelNotFoundError
from speechnar.files import regular
from speechnar.plain_yaml import parse_yaml
from speechnar.store import Address

if TYPE_CHECKING:
    import torch

DEFAULT_MODEL = "joint-asr"
"""What the command line and the module-level functions load when no model is named."""
DEFAULT_TTS_MODEL = "ljspeech-tts"
"""What they load to speak and to edit speech."""
DEFAULT_MT_MODEL = "multi30k-eng-deu"
"""What they load to translate text."""
DEFAULT_MUSIC_MODEL = "opsound-music"
"""What they load to make music and sound."""
CONSENT = (
    "Use a voice only if the person whose voice it is has agreed to this use, and tell listeners that the speech is "
    "synthetic."
)
"""What everybody is told who gives a voice or edits what somebody has said."""
SHIPPED_FOLDER = Path(__file__).parent / "shipped"
MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "tokenizer.model",
    "merges.txt",
    "lexicon.txt",
    "tokens.txt",
    "README.md",
)
"""What a model folder on the hub may hold; nothing of it could run."""

Precision = Literal["auto", "fp32", "bf16", "int8"]
"""What a model computes in; ``auto`` is the fastest on its device that makes no more errors than ``fp32``."""

MAX_CARD_CHARS = 1 << 16
MAX_CARD_ITEMS = 1000
"""OWSM speaks 151 languages, Whisper 99."""
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without loading it; what its card does not say is empty."""

    name: str
    kind: str
    tasks: tuple[str, ...]
    num_bytes: int
    languages: tuple[str, ...]
    license: str
    source: str
    """``shipped`` or ``hub cache``."""
    folder: Path


def resolve_model(name: str | Path) -> Path:
    """Return the folder of a model here: a shipped name, a folder, or ``owner/name[@revision]`` in the cache.

    Raises:
        ModelNotFoundError: it is none of them.
    """
    found = find_model(name)
    if found is None:
        raise ModelNotFoundError(f"model {str(name)!r} is not on this machine; fetch it by `speechnar pull {name}`")
    return found


def find_model(name: str | Path) -> Path | None:
    """Return the same, or None for a name of the hub that is not in the cache.

    Raises:
        ModelNotFoundError: it is no folder, no shipped name and no name of the hub.
    """
    shipped = {folder.name: folder for folder in _shipped_folders()}
    if str(name) in shipped:
        return shipped[str(name)]
    folder = Path(name).expanduser()
    if os.path.isdir(folder):  # noqa: PTH112  # unlike Path's, false of a name that no file can have
        _require_complete(folder, str(name))
        return folder
    address = parse_address(str(name))
    return store.find(address) or _in_hub_cache(address)


def parse_address(name: str) -> Address:
    """Return what ``owner/name[@revision]`` means.

    Raises:
        ModelNotFoundError: it is not written so; with the nearest name that is shipped.
    """
    address = Address.parse(name)
    if address is None:
        shipped = [folder.name for folder in _shipped_folders()]
        near = difflib.get_close_matches(name, shipped, n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped are: {', '.join(shipped) or 'none'}"
        raise ModelNotFoundError(f"model {name[:100]!r} is no folder, no shipped name and no owner/name; {hint}")
    return address


def find_device(name: str) -> "torch.device":
    """Return the device of this name, or the best one for ``auto``.

    Raises:
        ConfigError: the device does not exist.
    """
    import torch  # noqa: PLC0415  # who lists models needs none

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # builds without CUDA assert
        reason = str(error).split("\n", 1)[0][:120]
        raise ConfigError(f"device must be auto, cpu, or a device of this machine; got {name!r} ({reason})") from None
    return device


def check_seed(seed: int) -> int:
    """Return ``seed``.

    Raises:
        ConfigError: it is no whole number from 0 to `MAX_SEED`.
    """
    if not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed must be a whole number from 0 to {MAX_SEED}, got {seed!r}")
    return seed


def list_models() -> list[ModelInfo]:
    """Return the models on this machine: shipped ones, then those in the hub's cache, by name."""
    shipped = [_describe(folder, folder.name, "shipped") for folder in _shipped_folders()]
    return shipped + [_describe(folder, name, "hub cache") for name, folder in _cached_folders()]


def read_card(folder: Path) -> dict[str, Any]:
    """Return the YAML front matter of a model's README.md, scalars and short lists; a malformed one is empty."""
    if not (folder / "README.md").is_file():  # a pipe without a writer would never end
        return {}
    try:
        with (folder / "README.md").open(encoding="utf-8") as file:
            text = file.read(MAX_CARD_CHARS)
        match = re.match(r"---\n(.*?)\n---\s", text + "\n", flags=re.DOTALL)
        values = parse_yaml(match[1]) if match else None
    except (OSError, ValueError):  # among these are ours, and of what is not UTF-8
        return {}
    return {key: value for key, value in values.items() if _is_short(value)} if isinstance(values, dict) else {}


def _is_short(value: Any) -> bool:
    """Return whether a card says a scalar or a list of few: nothing that we read is more."""
    if isinstance(value, list):
        return len(value) <= MAX_CARD_ITEMS and not any(isinstance(item, list | dict) for item in value)
    return not isinstance(value, dict)


def card_languages(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the language codes that a card lists under ``language``."""
    return _strings(card.get("language"))


def _in_hub_cache(address: Address) -> Path | None:
    """Return a model folder of ours that the hub's client has fetched, for this package before or for somebody else."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  # slow to import

    try:
        folder = Path(snapshot_download(address.repo, revision=address.revision, local_files_only=True))
    except (OSError, ValueError):
        return None
    # An interrupted download leaves a folder without all of its files.
    return folder if read_kind(folder / "config.json") and store.is_complete(folder) else None


def _require_complete(folder: Path, name: str) -> None:
    missing = [file for file in store.REQUIRED_FILES if not (folder / file).is_file()]
    if missing:
        raise ModelNotFoundError(
            f"model {name!r} has no {missing[0]}; if it is a checkpoint of another toolkit, "
            "turn it into a model folder by `speechnar convert SRC DST`"
        )


def _shipped_folders() -> list[Path]:
    if not SHIPPED_FOLDER.is_dir():
        return []
    return sorted(path for path in SHIPPED_FOLDER.iterdir() if (path / "config.json").is_file())


def _cached_folders() -> list[tuple[str, Path]]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir  # noqa: PLC0415  # slow to import

    stored = [(model.repo, model.folder) for model in store.stored_models()]
    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except (CacheNotFound, OSError):
        return stored
    found = [(repo.repo_id, Path(revision.snapshot_path)) for repo in repos for revision in repo.revisions]
    return stored + sorted(pair for pair in found if read_kind(pair[1] / "config.json") and store.is_complete(pair[1]))


def _describe(folder: Path, name: str, source: str) -> ModelInfo:
    card = read_card(folder)
    return ModelInfo(
        name=name,
        kind=read_kind(folder / "config.json"),
        tasks=_strings(card.get("tasks")),
        num_bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        languages=card_languages(card),
        license=str(card.get("license", "")),
        source=source,
        folder=folder,
    )


def read_kind(path: Path) -> str:
    """Return the ``kind`` of a configuration of ours, ``config.json``, else the empty string."""
    try:
        document = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    is_ours = isinstance(document, dict) and "schema_version" in document and isinstance(document.get("kind"), str)
    return document["kind"] if is_ours else ""


def _strings(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(item) for item in value) if isinstance(value, list) else (str(value),)
