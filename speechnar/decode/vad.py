"""Speech segments of a recording by Silero VAD, over blocks of any size; afterwards, or while it is being made.

Source: Silero Team, "Silero VAD", 2024, https://github.com/snakers4/silero-vad; its weights come with its wheel.
Option names and their meaning are Silero's.
"""

from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from speechnar.config import Config
from speechnar.decode.silero import WINDOW_SAMPLES, Silero
from speechnar.errors import AudioError, ShapeError

SAMPLE_RATE = 16000
SURE_PROB, SURE_WINDOWS = 0.8, 4
"""Somebody surely speaks where so many windows in a row are at least so probable. Music passes the threshold of speech
now and then, by one window or two; a spoken word is more than that."""


class VadConfig(Config):
    """When a stretch of audio counts as speech; defaults are Silero's, except for the maximum."""

    threshold: float = Field(default=0.5, gt=0, lt=1)
    """Speech begins at this probability and ends 0.15 below it."""
    min_speech_duration_ms: int = Field(default=250, ge=0)
    """Shorter speech is dropped."""
    min_silence_duration_ms: int = Field(default=100, ge=0)
    """Shorter silence does not end a segment."""
    max_speech_duration_s: float = Field(default=30.0, ge=1)
    """Longer speech is cut, at its longest silence if it has one."""
    speech_pad_ms: int = Field(default=30, ge=0)
    """Added at both ends of a segment, never over a neighbour."""


@dataclass(frozen=True)
class SpeechSegment:
    """A stretch of the recording, in seconds."""

    start_s: float
    end_s: float
    is_sure: bool
    """Whether somebody surely speaks in it (`SURE_PROB`)."""


def detect_speech(
    blocks: Iterable[npt.NDArray[np.float32]], config: VadConfig | None = None, *, sample_rate: int = SAMPLE_RATE
) -> list[SpeechSegment]:
    """Return the speech of a recording that arrives as 1-D float32 ``blocks`` of 16 kHz samples, in order.

    Equals Silero's ``get_speech_timestamps`` on the whole recording; holds one block and four bytes per 32 ms heard.
    Runs on the CPU at over 1000 times real time. Each call owns its network's state, so calls may run in parallel.

    Raises:
        AudioError: the sample rate is not 16 kHz.
        ShapeError: a block is not one-dimensional.
    """
    if sample_rate != SAMPLE_RATE:
        raise AudioError(f"voice activity detection needs {SAMPLE_RATE} Hz, got {sample_rate} Hz; resample first")
    config = config or VadConfig()
    with _kept_thread_count():
        from silero_vad import get_speech_timestamps_from_probs  # noqa: PLC0415  # its import sets torch's thread count
    network = Silero()
    probs = array("f")
    num_samples = 0
    for windows, num_valid in _windows(blocks):
        probs.extend(network.hear(windows))
        num_samples += num_valid
    found = get_speech_timestamps_from_probs(
        probs, sampling_rate=SAMPLE_RATE, audio_length_samples=num_samples, **config.model_dump()
    )
    spans = [(item["start"], item["end"]) for item in found]
    places = [slice(start // WINDOW_SAMPLES, -(-end // WINDOW_SAMPLES)) for start, end in spans]
    return [
        SpeechSegment(start / SAMPLE_RATE, end / SAMPLE_RATE, _are_sure(probs[place]))
        for (start, end), place in zip(spans, places, strict=True)
    ]


def holds_speech(blocks: Iterable[npt.NDArray[np.float32]]) -> bool:
    """Tell whether somebody surely speaks in 1-D float32 ``blocks`` of 16 kHz samples, read no further than needed.

    Noise, hum, tones and music are not speech (`SURE_PROB`).

    Raises:
        ShapeError: a block is not one-dimensional.
    """
    network = Silero()
    return _are_sure(prob for windows, _ in _windows(blocks) for prob in network.hear(windows))


@dataclass(frozen=True)
class HeardSpeech:
    """What is certain after a window, in samples from the beginning."""

    begin: int
    """First sample of the speech that is open; without any, the earliest that speech to come may begin at."""
    end: int
    """Behind the last sample that belongs to it by now; equal to ``begin`` if no speech is open, or no longer."""
    is_over: bool = False
    """Whether it ends there; what is open next begins there or later."""
    is_sure: bool = False
    """Whether it is over and somebody surely speaks in it, as in a `SpeechSegment`."""


class Endpointer:
    """Speech of a recording that is still being made, known window by window from the past alone.

    Its segments are those of `detect_speech` (with padding of at most half the silence that ends a segment), unless
    speech is longer than the maximum. Such speech is cut, in the last third of the maximum, at the first window whose
    probability is below a limit that rises from 0 to 1: at a pause if there is one, then wherever speech is least
    certain.
    """

    def __init__(self, config: VadConfig) -> None:
        self.config = config
        self._network = Silero()
        self._rest = np.zeros(0, dtype=np.float32)
        self._heard = 0
        self._onset: int | None = None
        """Where the open speech began, before padding and cuts."""
        self._begin = 0
        """Where it begins, with padding, after cuts."""
        self._silent_from: int | None = None
        self._last_end = 0
        self._is_sure = False
        """Whether somebody surely speaks in it, so far."""
        self._num_sure = 0
        """Windows in a row, to the last one, that are surely speech."""

    def push(self, samples: npt.NDArray[np.float32]) -> Iterator[HeardSpeech]:
        """Take 16 kHz samples (S,), any number; yield what is certain after each window that they complete."""
        windows, self._rest = _cut(np.concatenate([self._rest, samples]))
        for prob in self._network.hear(windows):
            yield self._hear(prob, WINDOW_SAMPLES)

    def finish(self) -> Iterator[HeardSpeech]:
        """Yield what is certain after the last window, and the speech that the recording's end leaves open."""
        if num_valid := len(self._rest):
            for prob in self._network.hear(_last_window(self._rest)):
                yield self._hear(prob, num_valid)
        if self._onset is not None and self._is_speech(self._heard):
            yield self._close(self._heard)

    def _hear(self, prob: float, num_valid: int) -> HeardSpeech:
        config = self.config
        start, self._heard = self._heard, self._heard + num_valid
        self._num_sure = self._num_sure + 1 if prob >= SURE_PROB else 0
        self._is_sure |= self._num_sure >= SURE_WINDOWS
        if prob >= config.threshold:
            self._silent_from = None
            if self._onset is None:
                self._onset, self._begin = start, max(self._last_end, start - _to_samples(config.speech_pad_ms))
                self._is_sure = False
        elif prob < max(config.threshold - 0.15, 0.01) and self._onset is not None:
            self._silent_from = start if self._silent_from is None else self._silent_from
            if start - self._silent_from >= _to_samples(config.min_silence_duration_ms):
                if self._is_speech(self._silent_from):
                    return self._close(self._reached())
                self._onset = self._silent_from = None
        if self._onset is None:
            earliest = max(self._last_end, self._heard - _to_samples(config.speech_pad_ms))
            return HeardSpeech(earliest, earliest)
        longest = round(config.max_speech_duration_s * SAMPLE_RATE)
        room = longest - (self._heard - self._begin)
        if room < WINDOW_SAMPLES or prob < 1 - 3 * room / longest:
            onset, is_pause = self._onset, self._silent_from is not None
            cut = self._close(self._reached())
            if not is_pause:
                self._onset, self._begin = onset, cut.end
            return cut
        return HeardSpeech(self._begin, self._reached())

    def _is_speech(self, until: int) -> bool:
        """Tell whether the open speech, if it ends at ``until``, is long enough, and was not all cut off before."""
        assert self._onset is not None
        return until - self._onset > _to_samples(self.config.min_speech_duration_ms) and until > self._begin

    def _reached(self) -> int:
        if self._silent_from is None:
            return self._heard
        return min(self._silent_from + _to_samples(self.config.speech_pad_ms), self._heard)

    def _close(self, end: int) -> HeardSpeech:
        closed = HeardSpeech(self._begin, end, is_over=True, is_sure=self._is_sure)
        self._last_end, self._is_sure = end, False
        self._onset = self._silent_from = None
        return closed


def _are_sure(probs: Iterable[float]) -> bool:
    """Tell whether windows of these probabilities, one after another, are surely speech."""
    num_sure = 0
    for prob in probs:
        num_sure = num_sure + 1 if prob >= SURE_PROB else 0
        if num_sure == SURE_WINDOWS:
            return True
    return False


def _windows(blocks: Iterable[npt.NDArray[np.float32]]) -> Iterator[tuple[npt.NDArray[np.float32], int]]:
    """Yield the windows (N, 512) that each block completes and their number of real samples; zeros fill the last."""
    rest = np.zeros(0, dtype=np.float32)
    for block in blocks:
        if block.ndim != 1:
            raise ShapeError(f"audio blocks must be one-dimensional, got shape {block.shape}")
        windows, rest = _cut(np.concatenate([rest, block.astype(np.float32, copy=False)]))
        yield windows, windows.size
    if rest.size:
        yield _last_window(rest), rest.size


def _cut(samples: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the whole windows (N, 512) of ``samples`` (S,), and a copy of the rest."""
    num_windows = len(samples) // WINDOW_SAMPLES
    whole, rest = np.split(samples, [num_windows * WINDOW_SAMPLES])
    return whole.reshape(num_windows, WINDOW_SAMPLES), rest.copy()


def _last_window(rest: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return np.pad(rest, (0, WINDOW_SAMPLES - len(rest)))[None]


def _to_samples(milliseconds: int) -> int:
    return milliseconds * SAMPLE_RATE // 1000


@contextmanager
def _kept_thread_count() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
