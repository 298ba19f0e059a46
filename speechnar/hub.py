"""Model names to model folders: shipped with the package, local, cached from the Hugging Face hub, or fetched from it.

Shipped names and folders never touch the network, nor does a hub model that is already in the cache. Only the files of
a model folder are ever fetched: JSON, safetensors, tokenizer and card; nothing that could run.
"""

import difflib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from speechnar.errors import ConfigError, ModelNotFoundError

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

DEFAULT_MODEL = "joint-asr"
"""What the command line and the module-level functions load when no model is named."""
DEFAULT_ST_MODEL = "joint-s2t"
"""What they load to translate speech."""
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
REQUIRED_FILES = ("config.json", "model.safetensors")
ALLOWED_FILES = (
    "config.json",
    "*.safetensors",
    "tokenizer.model",
    "merges.txt",
    "lexicon.txt",
    "tokens.txt",
    "README.md",
)

Precision = Literal["auto", "fp32", "bf16", "int8"]
"""What a model computes in; ``auto`` is the fastest on its device that makes no more errors than ``fp32``."""

MAX_CARD_CHARS = 1 << 20
MAX_SEED = 2**63 - 1
_HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


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
    """Return the folder of a model: a shipped name, a folder, or ``owner/name[@revision]`` on the hub, in this order.

    Raises:
        ModelNotFoundError: it is none of them, or the hub does not have it or cannot be reached.
    """
    shipped = {folder.name: folder for folder in _shipped_folders()}
    if str(name) in shipped:
        return shipped[str(name)]
    folder = Path(name).expanduser()
    if folder.is_dir():
        _require_complete(folder, str(name))
        return folder
    match = _HUB_NAME.fullmatch(str(name))
    if match is None or str(name).startswith((".", "~")):
        near = difflib.get_close_matches(str(name), shipped, n=1)
        hint = f"did you mean {near[0]}?" if near else f"shipped are: {', '.join(shipped) or 'none'}"
        raise ModelNotFoundError(f"model {str(name)!r} is no folder, no shipped name and no owner/name; {hint}")
    return _from_hub(match["repo"], match["revision"])


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
    """Return the YAML front matter of a model's README.md; an absent or malformed one is empty."""
    try:
        with (folder / "README.md").open(encoding="utf-8") as file:
            text = file.read(MAX_CARD_CHARS)
        match = re.match(r"---\n(.*?)\n---\s", text + "\n", flags=re.DOTALL)
        values = yaml.safe_load(match[1]) if match else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def card_languages(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the language codes that a card lists under ``language``."""
    return _strings(card.get("language"))


def _from_hub(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download  # noqa: PLC0415  # slow to import

    patterns = list(ALLOWED_FILES)
    try:
        cached = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns, local_files_only=True))
        # An interrupted download leaves a folder without all of its files.
        if all((cached / name).is_file() for name in REQUIRED_FILES):
            return cached
    except (OSError, ValueError):
        logger.info("model %s is not in the cache; asking the hub", repo)
    try:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:  # the client lets errors of its HTTP library through, which is not ours to name
        reason = " ".join(str(error).split())[:200]
        raise ModelNotFoundError(
            f"model {repo!r} is no folder here, not in the cache, and the hub does not give it ({reason})"
        ) from None
    _require_complete(folder, repo)
    return folder


def _require_complete(folder: Path, name: str) -> None:
    missing = [file for file in REQUIRED_FILES if not (folder / file).is_file()]
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
    from huggingface_hub import CacheNotFound, scan_cache_dir  # noqa: PLC0415  # slow to import

    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError):
        return []
    found = [(repo.repo_id, Path(revision.snapshot_path)) for repo in repos for revision in repo.revisions]
    return sorted(pair for pair in found if _kind_of(pair[1]) and (pair[1] / "model.safetensors").is_file())


def _describe(folder: Path, name: str, source: str) -> ModelInfo:
    card = read_card(folder)
    return ModelInfo(
        name=name,
        kind=_kind_of(folder),
        tasks=_strings(card.get("tasks")),
        num_bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        languages=card_languages(card),
        license=str(card.get("license", "")),
        source=source,
        folder=folder,
    )


def _kind_of(folder: Path) -> str:
    """Return the ``kind`` of a configuration of ours, else the empty string."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    is_ours = isinstance(document, dict) and "schema_version" in document and isinstance(document.get("kind"), str)
    return document["kind"] if is_ours else ""


def _strings(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    return tuple(str(item) for item in value) if isinstance(value, list) else (str(value),)
