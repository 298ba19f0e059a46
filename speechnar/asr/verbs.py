"""What a `Transcriber` does, as functions; the models named last stay loaded."""

from functools import lru_cache
from typing import overload

from speechnar.asr.options import AUTO, DecodeOptions
from speechnar.asr.transcriber import DetectedLanguage, Transcriber
from speechnar.audio.source import AnyInput, AudioInput
from speechnar.hub import DEFAULT_MODEL, Precision
from speechnar.text.transcript import Transcript


@overload
def transcribe(
    audio: AudioInput,
    *,
    sample_rate: int | None = ...,
    language: str = ...,
    word_timestamps: bool = ...,
    options: DecodeOptions | None = ...,
    model: str = ...,
    device: str = ...,
    precision: Precision = ...,
) -> Transcript: ...
@overload
def transcribe(
    audio: list[AnyInput],
    *,
    sample_rate: int | None = ...,
    language: str = ...,
    word_timestamps: bool = ...,
    options: DecodeOptions | None = ...,
    model: str = ...,
    device: str = ...,
    precision: Precision = ...,
) -> list[Transcript]: ...
def transcribe(
    audio: AudioInput | list[AnyInput],
    *,
    sample_rate: int | None = None,
    language: str = AUTO,
    word_timestamps: bool = False,
    options: DecodeOptions | None = None,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    precision: Precision = "auto",
) -> Transcript | list[Transcript]:
    """Write down what is said; the arguments are those of `Transcriber.transcribe` and `Transcriber.load`."""
    return cached_transcriber(model, device, precision).transcribe(
        audio,
        sample_rate=sample_rate,
        language=language,
        word_timestamps=word_timestamps,
        options=options,
    )


@overload
def detect_language(
    audio: AudioInput, *, sample_rate: int | None = ..., model: str = ..., device: str = ..., precision: Precision = ...
) -> DetectedLanguage: ...
@overload
def detect_language(
    audio: list[AnyInput],
    *,
    sample_rate: int | None = ...,
    model: str = ...,
    device: str = ...,
    precision: Precision = ...,
) -> list[DetectedLanguage]: ...
def detect_language(
    audio: AudioInput | list[AnyInput],
    *,
    sample_rate: int | None = None,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    precision: Precision = "auto",
) -> DetectedLanguage | list[DetectedLanguage]:
    """Tell the language spoken; see `Transcriber.detect_language`."""
    return cached_transcriber(model, device, precision).detect_language(audio, sample_rate=sample_rate)


def align(
    audio: AudioInput,
    text: str,
    *,
    sample_rate: int | None = None,
    language: str = AUTO,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    precision: Precision = "auto",
) -> Transcript:
    """Find the times of the words of ``text``; see `Transcriber.align`."""
    return cached_transcriber(model, device, precision).align(audio, text, sample_rate=sample_rate, language=language)


@lru_cache(maxsize=2)
def cached_transcriber(model: str, device: str, precision: Precision) -> Transcriber:
    """Return a loaded model, which stays for the next call."""
    return Transcriber.load(model, device=device, precision=precision)
