"""What the frozen part of a model puts out for the utterances of a data directory, stored once.

``speechnar data features`` writes two files into a data directory: `STATES_FILE`, all states of all
utterances one after another in half precision, and `INDEX_FILE`, which says where each utterance's lie and by which
weights they were made. A frozen Whisper base fills 184 MB an hour of speech.

Shapes: T positions, D width.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from speechnar.errors import DataError

STATES_FILE, INDEX_FILE = "features.f16", "features.json"


class StoredFeatures:
    """The stored states of one or more data directories.

    Raises:
        DataError: a directory has none, its files do not belong together, or directories disagree about the weights.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._places: dict[str, tuple[NDArray[np.float16], int, int]] = {}
        self.fingerprint = ""
        """Of the weights by which they were made."""
        for folder in folders:
            index = _read_index(folder)
            states = np.memmap(folder / STATES_FILE, np.float16, mode="r").reshape(-1, index["dim"])
            if self.fingerprint and index["fingerprint"] != self.fingerprint:
                raise DataError(f"{folder}: its features were made by other weights than those before it; extract anew")
            self.fingerprint = index["fingerprint"]
            for utt_id, (start, length) in index["utterances"].items():
                if start + length > len(states):
                    raise DataError(f"{folder}: {STATES_FILE} ends before the features of {utt_id!r}; extract anew")
                self._places[utt_id] = (states, start, length)

    def __contains__(self, utt_id: str) -> bool:
        return utt_id in self._places

    def read(self, utt_id: str) -> NDArray[np.float16]:
        """Return the states (T, D) of an utterance.

        Raises:
            DataError: it has none.
        """
        if utt_id not in self._places:
            raise DataError(f"utterance {utt_id!r} has no stored features; extract those of its directory anew")
        states, start, length = self._places[utt_id]
        return np.array(states[start : start + length])


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        index: dict[str, Any] = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        if index.keys() != {"fingerprint", "dim", "utterances"}:
            raise ValueError("other keys")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: has no stored features ({type(error).__name__}); speechnar data features makes them"
        ) from None
    return index


def fingerprint(weights: Iterable[Tensor]) -> str:
    """Return a name for these weights; other weights have another."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(weight.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]
