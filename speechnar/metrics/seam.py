"""How much a seam stands out: the jump of the spectrum where windows of generated sound meet, beside those within them.

A jump is the root mean square over mel bands, in decibels, of how the spectrum changes within 20 ms: steps of level or
timbre, and clicks (which are in all bands for a moment). The jump of a place is the largest within 20 ms of it. Where
sound goes on smoothly, a join is a place like any other: half of the places within windows jump more, and one join in
twenty belongs to the highest twentieth. The measure is ours; music jumps by itself at every beat, so that a bare limit
in decibels would say nothing.

Shapes: S samples, T frames, F mel bands, J joins.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.errors import DataError
from speechnar.extras import needs

with needs("eval"):
    from scipy.ndimage import maximum_filter1d

SHIFT_S, CHANGE_S, NEAR_S = 0.005, 0.02, 0.02
"""From frame to frame; over which the spectrum changes, also the length of a frame; around a place."""
MARGIN_S = NEAR_S + CHANGE_S
"""How far within the sound a join must be."""
RANGE_DB = 60.0
"""What is further below the loudest band of all is silence."""
NUM_MELS = 40
DECIBELS = 10 / np.log(10)

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Seams:
    """The joins of one piece of sound."""

    jumps_db: tuple[float, ...]
    """(J,)"""
    shares: tuple[float, ...]
    """(J,) of the places within windows that jump at least as much; above 0, about a half where nothing is heard."""
    within_db: tuple[float, float]
    """Median and 95 % quantile of the jumps of places within windows."""


def find_seams(samples: Samples, sample_rate: int, joins: Sequence[float]) -> Seams:
    """Return how ``samples`` (S,) jump at ``joins`` (seconds), beside all places that are not near one.

    Raises:
        DataError: a join is not within the sound, or nothing is left of it away from joins.
    """
    jumps = _jumps(samples, sample_rate)
    near = round(NEAR_S / SHIFT_S)
    largest = maximum_filter1d(jumps, 2 * near + 1, mode="constant", cval=0.0)
    margin = round(MARGIN_S / SHIFT_S)
    frames = [round(join / SHIFT_S) for join in joins]
    is_within = np.zeros(len(jumps), dtype=bool)
    is_within[margin : len(jumps) - margin] = True
    for join, frame in zip(joins, frames, strict=True):
        if not margin <= frame < len(jumps) - margin:
            raise DataError(
                f"a join must lie {margin * SHIFT_S:g} s inside {len(samples) / sample_rate:g} s of sound, got {join:g}"
            )
        is_within[max(0, frame - 2 * margin) : frame + 2 * margin + 1] = False
    within = np.sort(largest[is_within])
    if not len(within):
        raise DataError(f"{len(samples) / sample_rate:g} s with {len(joins)} joins leave nothing to compare them with")
    found = largest[frames]
    shares = (1 + len(within) - np.searchsorted(within, found)) / (1 + len(within))
    median, high = np.quantile(within, (0.5, 0.95)).tolist()
    return Seams(tuple(found.tolist()), tuple(shares.tolist()), (median, high))


def _jumps(samples: Samples, sample_rate: int) -> NDArray[np.float64]:
    """Return the jump (T,) about each frame; frame t is about the second t `SHIFT_S`."""
    shift = round(SHIFT_S * sample_rate)
    size = round(CHANGE_S * sample_rate)
    config = LogMelConfig(
        sample_rate=sample_rate,
        n_fft=2 ** int(np.ceil(np.log2(size))),
        win_length=size,
        hop_length=shift,
        num_mels=NUM_MELS,
    )
    mels = LogMel(config)(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))[0][0].double().numpy()
    levels = DECIBELS * mels
    if not len(levels):
        return np.zeros(0)
    levels = np.maximum(levels, levels.max() - RANGE_DB)
    half = round(CHANGE_S / SHIFT_S) // 2
    padded = np.pad(levels, ((half, half), (0, 0)), mode="edge")
    change: NDArray[np.float64] = np.sqrt(np.square(padded[2 * half :] - padded[: -2 * half]).mean(1))
    return change
