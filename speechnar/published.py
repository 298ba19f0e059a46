"""Model names to model folders, wherever the models are, on this machine or on the hub; and which are known there."""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml

from speechnar.hub import find_model

PUBLISHED_FILE = Path(__file__).parent / "published_models.yaml"


@dataclass(frozen=True)
class PublishedModel:
    """A checkpoint on the hub that is known to be read; what no source says is empty."""

    name: str
    family: str
    """As of `speechnar.interop.FAMILIES`."""
    kind: str
    """As of `speechnar.models.MODELS`, once it is converted."""
    tasks: tuple[str, ...]
    size: str
    """Number of parameters, as 1.01 B."""
    languages: tuple[str, ...]
    license: str
    error: str
    """Published error rate, with what it was measured on."""
    error_source: str
    recommended_for: str
    checked_with: str
    """``real weights`` if its own were run here, else ``random weights`` of its layout."""


def published_models() -> list[PublishedModel]:
    """Return the checkpoints that `speechnar models` lists besides those that are here."""
    with PUBLISHED_FILE.open(encoding="utf-8") as file:
        entries = yaml.safe_load(file)
    return [
        PublishedModel(
            name=name,
            family=entry["family"],
            kind=entry["kind"],
            tasks=tuple(entry["tasks"]),
            size=entry["size"],
            languages=tuple(entry.get("languages", ())),
            license=entry.get("license", ""),
            error=entry.get("error", ""),
            error_source=entry.get("error_source", ""),
            recommended_for=entry.get("for", ""),
            checked_with=entry["checked_with"],
        )
        for name, entry in entries.items()
    ]


def obtain_model(name: str | os.PathLike[str]) -> Path:
    """Return the folder of a model: a shipped name, a folder, or ``owner/name[@revision]`` on the hub, in this order.

    The network is touched only for a model of the hub that is not in the cache: it is fetched, converted if it is of
    another toolkit, and kept.

    Raises:
        ModelNotFoundError: it is none of them, or the hub does not have it or cannot be reached.
        CheckpointError: what the hub has is damaged, or holds more than tensors and settings.
        ConfigError: it has options that our implementation has not.
        DataError: its vocabulary or statistics are malformed.
    """
    found = find_model(Path(name) if isinstance(name, os.PathLike) else name)
    if found is not None:
        return found
    from speechnar.interop.pull import pull_model  # noqa: PLC0415  # what converts is slow to import

    return pull_model(str(name), refresh=False)
