"""What samples may be, wherever they come from: files, arrays and streams.

Full scale is [-1, 1]. Floats may go beyond it, as recordings do before they are mastered, but not by so much that they
must be of another scale, or damaged: one such sample silences an hour for whoever normalises by the loudest.

Shapes: S samples, C channels.
"""

import logging
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from speechnar.errors import AudioError

logger = logging.getLogger(__name__)

Samples: TypeAlias = NDArray[np.float32]

MIN_RATE, MAX_RATE = 1000, 384_000
MAX_CHANNELS = 64
MAX_LEVEL = 8.0
"""Times full scale, 18 dB. What has the scale of 16 bits and stays below is silent there, 72 dB under full scale."""
MIN_INTEGER_LEVEL = 2.0**-16
"""Of a whole recording in 32-bit integers that is not all zeros: softer ones have the scale of 16 bits."""
CANCELLED = 1e-3
"""Power of the mean of channels, over what it is of channels that have nothing to do with each other."""
_SCALES = {
    2**15: "16 bits, divide by 32768",
    2**23: "24 bits, divide by 8388608",
    2**31: "32 bits, divide by 2147483648",
}


def array_samples(array: Any, *, start_s: float | None = None) -> Samples:
    """Return the samples (S,) of a numpy array or torch tensor; integers are scaled by their type's range.

    Args:
        array: of floats of any width, or of signed integers of up to 32 bits.
        start_s: where in a stream it begins; None: it is a whole recording.

    Raises:
        AudioError: it is something else, or has samples that are not finite, or of another scale.
    """
    if hasattr(array, "detach"):  # a torch tensor, without importing torch
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()  # numpy has no bfloat16
    array = np.asarray(array)
    if array.ndim != 1:
        raise AudioError(f"an array of samples must be 1-D, got shape {array.shape}; mix the channels first")
    if array.dtype.kind not in "fi" or array.dtype == np.int64:
        raise AudioError(
            "an array of samples must be of floats in [-1, 1], or of int8, int16 or int32, got "
            f"{array.dtype}{_scale_of(array)}"
        )
    if array.dtype.kind == "f":
        check_level(
            array, start_s or 0.0, "array" if start_s is None else "stream"
        )  # before a wider type becomes infinite
        return array.astype(np.float32, copy=False)
    samples = (array / -float(np.iinfo(array.dtype).min)).astype(np.float32)
    if start_s is None and array.dtype == np.int32 and 0 < np.abs(samples).max(initial=0.0) < MIN_INTEGER_LEVEL:
        raise AudioError(
            f"array: int32 samples must use the range of 32 bits, the largest is {np.abs(array).max()}; "
            "if they are of 16 bits, divide by 32768, or give them as int16"
        )
    return samples


def check_level(samples: NDArray[Any], start_s: float, name: str) -> None:
    """Check that all samples (S,) are finite and none is far beyond full scale.

    Args:
        samples: of any width.
        start_s: where they begin, for the message.
        name: of where they come from, likewise.

    Raises:
        AudioError: one is.
    """
    if not len(samples):
        return
    with np.errstate(invalid="ignore"):
        peak = max(float(samples.max()), -float(samples.min()))
    if peak <= MAX_LEVEL:  # not so of NaN
        return
    if not np.isfinite(peak):
        raise AudioError(f"{name}: has NaN or infinite samples (after {start_s:.1f} s); re-export it")
    remedy = _scale(peak) or "re-export it"
    raise AudioError(f"{name}: samples must lie in [-1, 1], one is {peak:.4g} (after {start_s:.1f} s); {remedy}")


def _scale_of(array: NDArray[Any]) -> str:
    """Return what to divide integers of 64 bits by, which have no scale of their own; nothing of other arrays."""
    scale = _scale(float(np.abs(array).max(initial=0))) if array.dtype == np.int64 else None
    return "" if scale is None else f"; {scale}"


def _scale(peak: float) -> str | None:
    return next((f"they have the scale of {scale}" for most, scale in _SCALES.items() if peak <= most), None)


def check_format(rate: Any, channels: int, name: str) -> None:
    """Check that there is audio of this rate, in Hz, and number of channels.

    Raises:
        AudioError: there is none.
    """
    if not isinstance(rate, int | float | np.number):
        raise AudioError(f"{name}: the sample rate must be a number of Hz, got {rate!r}")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"{name}: the sample rate must lie in [{MIN_RATE}, {MAX_RATE}] Hz, got {rate}")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError(f"{name}: must have 1 to {MAX_CHANNELS} channels, got {channels}")


class Mixer:
    """Makes mono blocks (S,) of the blocks (S, C) of a recording.

    Channels that are each other's negative, as of a cable that is wired wrongly, have silence as their mean: from where
    they cancel on, the loudest of them is taken.

    Args:
        channel: the one to take; None averages all.
        name: of the recording, for messages.
    """

    def __init__(self, channel: int | None, name: str) -> None:
        self._channel = channel
        self._name = name

    def __call__(self, block: Samples) -> Samples:
        """Mix one block.

        Raises:
            AudioError: there is no such channel.
        """
        num_channels = block.shape[1]
        if num_channels == 1 and self._channel is None:
            return block[:, 0]
        if self._channel is not None:
            if not 0 <= self._channel < num_channels:
                raise AudioError(f"{self._name}: has {num_channels} channels, there is no channel {self._channel}")
            return block[:, self._channel]
        mono: Samples = block.mean(axis=1, dtype=np.float32)
        powers = np.einsum("sc,sc->c", block, block)
        with np.errstate(over="ignore", invalid="ignore"):  # such samples are refused, behind this
            is_silent = np.dot(mono, mono) < CANCELLED * powers.sum() / num_channels**2
        if is_silent:
            self._channel = int(powers.argmax())
            logger.warning("%s: its channels cancel each other, channel %d is taken", self._name, self._channel)
            return block[:, self._channel]
        return mono
