"""How loud sound is to ears, and sound of a wanted loudness.

Shapes: S samples.
Source: ITU-R BS.1770-4, "Algorithms to measure audio programme loudness and true-peak audio level", annex 1.
"""

import math

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]

BLOCK_S, OVERLAP = 0.4, 4
"""Blocks that are measured, each of which begins a quarter of a block after the one before."""
ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
PEAK = 0.98
"""Samples stay below."""


def loudness(samples: Samples, sample_rate: int) -> float:
    """Return the loudness of ``samples`` (S,) in LUFS; minus infinity if they are silent, or shorter than 0.4 s."""
    filtered = _filtered(samples, sample_rate)
    block, step = round(BLOCK_S * sample_rate), round(BLOCK_S * sample_rate / OVERLAP)
    if len(filtered) < block:
        return -math.inf
    sums = np.concatenate([[0.0], np.cumsum(filtered**2)])
    starts = np.arange(0, len(filtered) - block + 1, step)
    powers = (sums[starts + block] - sums[starts]) / block
    powers = powers[_lufs(powers) > ABSOLUTE_GATE_LUFS]
    if not len(powers):
        return -math.inf
    powers = powers[_lufs(powers) > _lufs(powers.mean()) + RELATIVE_GATE_LU]
    return float(_lufs(powers.mean()))


def normalize(samples: Samples, sample_rate: int, target_lufs: float) -> Samples:
    """Return ``samples`` (S,) scaled to a loudness, or to the peak that is allowed if that comes first.

    Silence stays as it is.
    """
    found, peak = loudness(samples, sample_rate), float(np.abs(samples).max(initial=0.0))
    if not math.isfinite(found) or peak == 0.0:
        return samples
    gain = min(10 ** ((target_lufs - found) / 20), PEAK / peak)
    return (samples * gain).astype(np.float32)


def _lufs(power: NDArray[np.float64]) -> NDArray[np.float64]:
    decibels: NDArray[np.float64] = -0.691 + 10 * np.log10(np.maximum(power, 1e-12))
    return decibels


def _filtered(samples: Samples, sample_rate: int) -> NDArray[np.float64]:
    """Return ``samples`` (S,) through both filters, as products of spectra: exact, since all that the transform wraps
    around is the filters' answer after a second, which is below what float64 holds."""
    size = 2 ** math.ceil(math.log2(len(samples) + sample_rate))
    spectrum = np.fft.rfft(samples.astype(np.float64), size)
    delay = np.exp(-2j * np.pi * np.arange(len(spectrum)) / size)
    for numerator, denominator in _k_weighting(sample_rate):
        spectrum *= np.polynomial.Polynomial(numerator)(delay) / np.polynomial.Polynomial(denominator)(delay)
    filtered: NDArray[np.float64] = np.fft.irfft(spectrum, size)[: len(samples)]
    return filtered


def _k_weighting(sample_rate: int) -> list[tuple[list[float], list[float]]]:
    """Return the two filters of the standard at any rate: a shelf for the head, and a high pass.

    They are given there as coefficients at 48 kHz; these are the analogue filters behind them.
    """
    k = math.tan(math.pi * 1681.974450955533 / sample_rate)
    gain = 10 ** (3.999843853973347 / 20)
    band, quality = gain**0.4996667741545416, 0.7071752369554196
    a0 = 1 + k / quality + k * k
    shelf = (
        [(gain + band * k / quality + k * k) / a0, 2 * (k * k - gain) / a0, (gain - band * k / quality + k * k) / a0],
        [1.0, 2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0],
    )
    k, quality = math.tan(math.pi * 38.13547087602444 / sample_rate), 0.5003270373238773
    a0 = 1 + k / quality + k * k
    high_pass = [1.0, -2.0, 1.0], [1.0, 2 * (k * k - 1) / a0, (1 - k / quality + k * k) / a0]
    return [shelf, high_pass]
