"""What users give as audio, as something that can be read more than once in bounded memory."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from speechnar.audio.blocks import Samples
from speechnar.audio.io import AudioStream, read_audio, refuse_rate
from speechnar.errors import ConfigError

BLOCK_S = 30.0


@runtime_checkable
class Recording(Protocol):
    """A recording that can be read more than once, in bounded memory."""

    @property
    def name(self) -> str | None:
        """What messages and the result call it."""

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        """Yield the recording from its beginning as mono blocks at ``sample_rate``."""


AudioInput: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO | npt.NDArray[Any] | Tensor | Recording
"""A path, the bytes of a file, a binary file object, a 1-D array or tensor, which alone needs its sample rate, or
whatever gives blocks of samples."""
AnyInput = TypeVar("AnyInput", bound=AudioInput)


@dataclass(frozen=True)
class EncodedAudio:
    """A path, or the bytes of a file, under a name that may be another one."""

    name: str | None
    content: str | bytes

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        """Yield the recording from its beginning as mono blocks at ``sample_rate``."""
        return iter(AudioStream(self.content, target_rate=sample_rate, block_seconds=BLOCK_S, name=self.name))


@dataclass(frozen=True)
class _ArrayAudio:
    """Samples in memory."""

    samples: npt.NDArray[Any] | Tensor
    sample_rate: int | None
    name: str | None = None

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        yield read_audio(self.samples, sample_rate=self.sample_rate, target_rate=sample_rate).samples


def open_audio(audio: Any, sample_rate: int | None) -> Recording:
    """Name an input and make it readable twice.

    Args:
        audio: an `AudioInput`.
        sample_rate: of an array or tensor, in Hz; None for all else.

    Raises:
        ConfigError: it is of another type, or there is a rate where none is needed, or none where it is.
    """
    if isinstance(audio, str | os.PathLike):
        refuse_rate(sample_rate)
        return EncodedAudio(os.fspath(audio), os.fspath(audio))
    if isinstance(audio, bytes):
        refuse_rate(sample_rate)
        return EncodedAudio(None, audio)
    if isinstance(audio, Tensor | np.ndarray):
        if sample_rate is None:
            raise ConfigError("an array needs its sample_rate, in Hz")
        return _ArrayAudio(audio, sample_rate)
    if isinstance(audio, Recording):
        refuse_rate(sample_rate)
        return audio
    if hasattr(audio, "read"):
        content = audio.read()
        name = getattr(audio, "name", None)
        if isinstance(content, bytes):
            refuse_rate(sample_rate)
            return EncodedAudio(name if isinstance(name, str) else None, content)
    raise ConfigError(
        f"audio must be a path, a binary file object, bytes, or a 1-D array or tensor; got {type(audio).__name__}"
    )
