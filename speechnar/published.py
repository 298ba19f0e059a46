"""Model names to model folders, wherever the models are: on this machine, or on the hub."""

import os
from pathlib import Path

from speechnar.hub import find_model


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
