"""Temporary."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray


@dataclass(frozen=True)
class Audio:
    """Samples."""

    samples: NDArray[np.float32]
    sample_rate: int


def read_audio(source: Any, *, sample_rate: int | None = None, target_rate: int = 16000, **_: Any) -> Audio:
    """Read."""
    if isinstance(source, np.ndarray):
        x, rate = source.astype(np.float32), sample_rate or 16000
    else:
        x, rate = soundfile.read(source, dtype="float32", always_2d=True)
        x = x.mean(1)
    if rate != target_rate:
        x = soxr.resample(x, rate, target_rate).astype(np.float32)
    return Audio(x, target_rate)
