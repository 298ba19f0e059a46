"""How far speech is from a recording of the same text: spectral distance, pitch and voicing, aligned by time warping.

Shapes: S samples, T frames, F mel bands, C cepstra, P pairs of frames on the warping path, N values.
Sources: Kubichek, "Mel-cepstral distance measure for objective speech quality assessment", 1993 (the distance in
decibels); Sakoe and Chiba, "Dynamic programming algorithm optimization for spoken word recognition", 1978 (time
warping); Mauch and Dixon, "pYIN", ICASSP 2014 (pitch, as librosa has it); Efron, "Bootstrap methods", 1979.
Differs from Kubichek: cepstra are those of the log-mel spectrum by cosine transform, not of a mel-generalised one. They
are scaled as there (log amplitude = sum of c_k cos), so that the distance is the root mean square difference in
decibels of the two smoothed log-mel spectra, loudness left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechnar.errors import DataError
from speechnar.extras import needs

Array = NDArray[np.floating]
Path = NDArray[np.integer]

NUM_CEPSTRA = 13
DECIBELS = 10 / math.log(10)
PITCH_RANGE_HZ = (60.0, 500.0)
PITCH_WINDOW_S = 0.064
CENTS = 1200
NUM_REPLICATIONS = 10_000
_AT_A_TIME = 1 << 22


@dataclass(frozen=True)
class Mean:
    """A mean over utterances and its 95 % bootstrap interval."""

    value: float
    interval: tuple[float, float] | None
    """None for a single value."""
    num: int


@dataclass(frozen=True)
class PitchErrors:
    """How two pitch tracks differ along a warping path; None where there is nothing to compare."""

    rmse_cents: float | None
    """Over pairs that are voiced in both."""
    correlation: float | None
    """Pearson's, of the logarithms of the pitch over the same pairs."""
    voicing_error: float
    """Share of the pairs of which one frame is voiced and the other is not."""


def mel_cepstra(log_mels: Array) -> Array:
    """Return cepstra c1 to c13, (T, C), of natural-log mel amplitudes (T, F).

    They are c_k = (2 / F) sum_f log_mels[f] cos(pi k (f + 1/2) / F).
    """
    num_mels = log_mels.shape[1]
    cosines = np.cos(np.pi / num_mels * np.outer(np.arange(num_mels) + 0.5, np.arange(1, NUM_CEPSTRA + 1)))
    return np.asarray(2 / num_mels * log_mels @ cosines)


def warp(ref: Array, made: Array) -> Path:
    """Return the path (P, 2) of frame numbers of ``ref`` (T, C) and ``made`` (T', C) with the least total distance.

    Raises:
        DataError: one of them has no frame.
    """
    if not len(ref) or not len(made):
        raise DataError(f"time warping needs a frame on either side at least, got {len(ref)} and {len(made)}")
    with needs("eval"):
        from librosa.sequence import dtw  # noqa: PLC0415  # an extra
    _, path = dtw(ref.T, made.T, metric="euclidean")
    return np.asarray(path[::-1])


def mel_cepstral_distortion(ref: Array, made: Array, path: Path) -> float:
    """Return the mean distance along ``path`` in decibels, (10 / ln 10) sqrt(2 sum (c - c')^2), of cepstra (T, C)."""
    difference = ref[path[:, 0]] - made[path[:, 1]]
    return float(DECIBELS * np.sqrt(2 * np.square(difference).sum(1)).mean())


def pitch(samples: Array, sample_rate: int, hop: int) -> Array:
    """Return the pitch (S // hop,) of samples (S,) in Hz, NaN where unvoiced; frame t is about the samples t hop on."""
    num_frames = len(samples) // hop
    if not num_frames:
        return np.empty(0)
    with needs("eval"):
        from librosa import pyin  # noqa: PLC0415  # an extra
    low, high = PITCH_RANGE_HZ
    found, _, _ = pyin(
        np.asarray(samples[hop // 2 :], dtype=np.float64),  # frames are centred on the middle of their hop
        fmin=low,
        fmax=high,
        sr=sample_rate,
        frame_length=2 ** round(math.log2(PITCH_WINDOW_S * sample_rate)),
        hop_length=hop,
    )
    return np.asarray(np.pad(found, (0, 1), constant_values=math.nan)[:num_frames])


def compare_pitch(ref: Array, made: Array, path: Path) -> PitchErrors:
    """Compare pitch tracks (T,) and (T',) in Hz, NaN where unvoiced, along ``path`` (P, 2)."""
    first, second = ref[path[:, 0]], made[path[:, 1]]
    voiced = np.isfinite(first) & np.isfinite(second)
    voicing_error = float((np.isfinite(first) != np.isfinite(second)).mean())
    if not voiced.any():
        return PitchErrors(None, None, voicing_error)
    logs = np.log2(np.stack([first[voiced], second[voiced]]))
    rmse = CENTS * math.sqrt(np.square(logs[0] - logs[1]).mean())
    moves = bool((np.ptp(logs, axis=1) > 0).all())  # a constant correlates with nothing
    return PitchErrors(rmse, float(np.corrcoef(logs)[0, 1]) if moves else None, voicing_error)


def mean_of(values: Sequence[float], *, seed: int = 0) -> Mean:
    """Return the mean of ``values`` (N,) and the interval in which those of resampled utterances lie.

    Raises:
        DataError: there are none, or one is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size or not np.isfinite(array).all():
        raise DataError(f"a mean needs at least one value, and finite ones, got {array.size} values")
    if array.size == 1:
        return Mean(float(array[0]), None, 1)
    rng = np.random.default_rng(seed)
    step = max(1, _AT_A_TIME // array.size)
    means = [
        array[rng.integers(array.size, size=(min(step, NUM_REPLICATIONS - done), array.size))].mean(1)
        for done in range(0, NUM_REPLICATIONS, step)
    ]
    low, high = np.quantile(np.concatenate(means), (0.025, 0.975))
    return Mean(float(array.mean()), (float(low), float(high)), array.size)
