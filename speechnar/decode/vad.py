"""Speech segments of a recording by Silero VAD, over blocks of any size.

Source: Silero Team, "Silero VAD", 2024, https://github.com/snakers4/silero-vad; its weights come with its wheel.
Option names and their meaning are Silero's.
"""

from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from speechnar.config import Config
from speechnar.errors import AudioError, ConfigError, ShapeError

SAMPLE_RATE = 16000
WINDOW_SAMPLES = 512  # what the network takes at 16 kHz, one probability each


class VadConfig(Config):
    """When a stretch of audio counts as speech; defaults are Silero's, except for the maximum."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Speech begins at this probability and ends 0.15 below it."""
    min_speech_duration_ms: int = Field(default=250, ge=0)
    """Shorter speech is dropped."""
    min_silence_duration_ms: int = Field(default=100, ge=0)
    """Shorter silence does not end a segment."""
    max_speech_duration_s: float = Field(default=30.0, ge=1)
    """Longer speech is cut, at its longest silence if it has one; also the most that a group may span."""
    speech_pad_ms: int = Field(default=30, ge=0)
    """Added at both ends of a segment, never over a neighbour."""


@dataclass(frozen=True)
class SpeechSegment:
    """A stretch of the recording, in seconds."""

    start_s: float
    end_s: float


def detect_speech(
    blocks: Iterable[npt.NDArray[np.float32]], config: VadConfig | None = None, *, sample_rate: int = SAMPLE_RATE
) -> list[SpeechSegment]:
    """Return the speech of a recording that arrives as 1-D float32 ``blocks`` of 16 kHz samples, in order.

    Equals Silero's ``get_speech_timestamps`` on the whole recording; holds one block and four bytes per 32 ms heard.
    Runs on the CPU at over 100 times real time. Each call owns its network, so calls may run in parallel.

    Raises:
        AudioError: the sample rate is not 16 kHz.
        ShapeError: a block is not one-dimensional.
    """
    if sample_rate != SAMPLE_RATE:
        raise AudioError(f"voice activity detection needs {SAMPLE_RATE} Hz, got {sample_rate} Hz; resample first")
    config = config or VadConfig()
    with _kept_thread_count():
        from silero_vad import (  # noqa: PLC0415  # its import sets torch's thread count
            get_speech_timestamps_from_probs,
            load_silero_vad,
        )
    network = load_silero_vad()
    probs = array("f")
    num_samples = 0
    with torch.inference_mode():
        for window, num_valid in _windows(blocks):
            probs.append(network(torch.from_numpy(window), SAMPLE_RATE).item())
            num_samples += num_valid
    found = get_speech_timestamps_from_probs(
        probs, sampling_rate=SAMPLE_RATE, audio_length_samples=num_samples, **config.model_dump()
    )
    return [SpeechSegment(item["start"] / SAMPLE_RATE, item["end"] / SAMPLE_RATE) for item in found]


def group_segments(segments: Iterable[SpeechSegment], max_duration_s: float) -> list[list[SpeechSegment]]:
    """Gather consecutive segments into groups that each span at most ``max_duration_s``, as few as possible.

    A segment that is longer by itself makes a group of its own.

    Raises:
        ConfigError: ``max_duration_s`` is not positive.
    """
    if not max_duration_s > 0:
        raise ConfigError(f"max_duration_s must be positive, got {max_duration_s}")
    groups: list[list[SpeechSegment]] = []
    for segment in segments:
        if groups and segment.end_s - groups[-1][0].start_s <= max_duration_s:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    return groups


def _windows(blocks: Iterable[npt.NDArray[np.float32]]) -> Iterator[tuple[npt.NDArray[Any], int]]:
    """Yield windows of fixed size with the number of real samples in each; the last one is padded by zeros."""
    rest = np.zeros(0, dtype=np.float32)
    for block in blocks:
        if block.ndim != 1:
            raise ShapeError(f"audio blocks must be one-dimensional, got shape {block.shape}")
        rest = np.concatenate([rest, block.astype(np.float32, copy=False)])
        whole = len(rest) - len(rest) % WINDOW_SAMPLES
        for begin in range(0, whole, WINDOW_SAMPLES):
            yield rest[begin : begin + WINDOW_SAMPLES], WINDOW_SAMPLES
        rest = rest[whole:]
    if rest.size:
        yield np.pad(rest, (0, WINDOW_SAMPLES - rest.size)), rest.size


@contextmanager
def _kept_thread_count() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
