"""What of generated codes stands in the training data: how much a model has learned by heart.

Only the first codebook is compared, which holds the coarse of the sound. Held-out recordings repeat some of the
training data, too (silence, held notes, the same instrument): their numbers are what a model's compare with.

Shapes: T frames, N frames of the training data.
Source: Agostinelli et al., "MusicLM: Generating Music From Text", 2023 (exact matches of token sequences); the
similarity of the nearest passage is ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechnar.errors import DataError

Codes = NDArray[np.int16]

GAP = -1
"""Between the training utterances: no code."""
NGRAM_FRAMES = (5, 10, 25, 50)
"""A tenth, a fifth, half of and a whole second of 50 frames/s."""


@dataclass(frozen=True)
class Repeats:
    """Of one piece of sound."""

    nearest: float
    """Share of its codes that the most similar passage of the training data has at the same places."""
    longest: int
    """Frames of the longest run that stands in the training data."""
    ngrams: dict[int, float]
    """Share of the runs of so many frames that stand there; without those that are longer than the piece."""


def join_codes(utterances: Iterable[Codes]) -> Codes:
    """Return the training codes (N,) as one row, in which no run goes on from an utterance to the next."""
    parts = [part for codes in utterances for part in (codes, np.array([GAP], dtype=np.int16))]
    return np.concatenate(parts).astype(np.int16) if parts else np.zeros(0, dtype=np.int16)


def find_repeats(codes: Codes, training: Codes) -> Repeats:
    """Compare ``codes`` (T,) with ``training`` (N,) of `join_codes` at every shift; T N operations.

    Raises:
        DataError: one of them is empty.
    """
    size = len(codes)
    if not size or not len(training):
        raise DataError(f"need codes to compare, got {size} and {len(training)} frames")
    edge = np.full(size - 1, GAP, dtype=np.int16)
    padded = np.concatenate([edge, training, edge])
    num_shifts = len(training) + size - 1
    runs, counts = np.zeros((2, num_shifts), dtype=np.int32)
    ending = np.zeros(size, dtype=np.int64)  # the longest run that ends with each frame
    for frame, code in enumerate(codes):
        is_equal = padded[frame : frame + num_shifts] == code
        runs += 1
        runs *= is_equal
        counts += is_equal
        ending[frame] = runs.max()
    ngrams = {n: float((ending[n - 1 :] >= n).mean()) for n in NGRAM_FRAMES if n <= size}
    return Repeats(float(counts.max() / size), int(ending.max()), ngrams)
