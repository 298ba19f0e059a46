"""Recognition while somebody speaks: samples in, finished segments out.

Voice activity detection opens and closes utterances from what was heard so far. A Paraformer with a windowed encoder
writes the tokens of an open utterance as they fire; any other recogniser decodes an utterance when it is closed. What
is done depends on positions in the recording alone, so that how the samples are cut when pushed changes nothing.

Shapes: S samples.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechnar.asr.clips import ClipDecoder, Decoded
from speechnar.asr.recordings import RecordingTranscriber, utterances
from speechnar.audio.blocks import Samples
from speechnar.audio.io import PushedAudio
from speechnar.decode.align import CtcPath, join_paths
from speechnar.decode.vad import SAMPLE_RATE as VAD_RATE
from speechnar.decode.vad import Endpointer, HeardSpeech
from speechnar.errors import ConfigError
from speechnar.text.normalize import get_normalizer
from speechnar.text.transcript import AudioTags, Segment, Transcript

if TYPE_CHECKING:
    from speechnar.models.asr.paraformer import Paraformer
    from speechnar.models.asr.paraformer_stream import ParaformerStream

PARAFORMER = "paraformer"
"""The kind of model, and the decoder, that can write tokens as they fire."""


class SpeechStream:
    """One recording, transcribed as it comes; from `speechnar.Transcriber.stream`.

    An utterance is final once half a second of silence follows it, or when it is as long as a window
    (``DecodeOptions.window_s``). Held are the audio of the open utterance and the segments of the recording.

    >>> stream = Transcriber.load().stream(sample_rate=48000)  # doctest: +SKIP
    >>> for chunk in microphone:  # doctest: +SKIP
    ...     for segment in stream.push(chunk):
    ...         print(segment.start, segment.text)
    >>> print(stream.finish().text)  # doctest: +SKIP
    """

    def __init__(self, transcriber: RecordingTranscriber, *, sample_rate: int | None = None) -> None:
        """Start a recording of ``sample_rate`` Hz; None is what the model hears.

        Raises:
            ConfigError: the options switch voice activity detection off, or a model that streams cannot honour one.
            AudioError: there is no audio of this rate.
        """
        decoder = transcriber.decoder
        if decoder.options.vad is False:
            raise ConfigError("a stream is cut into utterances by voice activity detection; leave vad at None")
        self._transcriber = transcriber
        self._audio = PushedAudio(decoder.sample_rate if sample_rate is None else sample_rate, decoder.sample_rate)
        self._vad_audio = PushedAudio(decoder.sample_rate, VAD_RATE)
        self._endpointer = Endpointer(utterances(decoder.options.window_s))
        self._held = np.zeros(0, dtype=np.float32)
        self._num_passed = 0
        """Samples before those that are held."""
        self._utterance: _Utterance | None = None
        self._language_mass = np.zeros(len(decoder.language_ids))
        self._segments: list[Segment] = []
        self._tags: list[AudioTags] = []
        self._transcript: Transcript | None = None

    def push(self, samples: npt.NDArray[Any] | Tensor) -> tuple[Segment, ...]:
        """Take samples (S,), any number, an array or tensor of floats in [-1, 1] or signed integers.

        Returns:
            The segments that have become final, with times from the beginning of the recording, perhaps none.

        Raises:
            AudioError: it is something else, or not finite; nothing of it was taken, and the stream can go on.
            ConfigError: the stream was finished.
        """
        if self._transcript is not None:
            raise ConfigError("a finished stream takes no more samples; start another")
        num_known = len(self._segments)
        self._take(self._audio.push(samples))
        return tuple(self._segments[num_known:])

    def partial(self) -> str:
        """Return the text of the utterance that is open, as of now, in whole characters; it may still change.

        Costs nothing where tokens come as they fire; else the utterance so far is decoded for it.
        """
        if self._utterance is None:
            return ""
        decoder = self._transcriber.decoder
        text = decoder.tokenizer.decode(decoder.tokenizer.drop_unfinished(self._utterance.partial().tokens))
        if not decoder.options.plain:
            return text
        language, _ = decoder.decide_language(self._language_mass)
        return get_normalizer("basic")(text, decoder.text_language(language))

    def finish(self) -> Transcript:
        """Return the transcript of all that was pushed, to the last sample; calling it again returns the same."""
        if self._transcript is None:
            self._take(self._audio.finish())
            self._follow(self._endpointer.push(self._vad_audio.finish()))
            self._follow(self._endpointer.finish())
            self._utterance = None  # if it was too short to count
            duration_s = (self._num_passed + len(self._held)) / self._transcriber.decoder.sample_rate
            self._held = self._held[:0]
            language, probability = self._transcriber.decoder.decide_language(self._language_mass)
            self._transcript = self._transcriber.transcript(
                None, duration_s, self._segments, language, probability, task="transcribe", tags=self._tags
            )
        return self._transcript

    def _take(self, samples: Samples) -> None:
        self._held = np.concatenate([self._held, samples])
        self._follow(self._endpointer.push(self._vad_audio.push(samples)))
        self._held = self._held.copy()  # not all that was pushed

    def _follow(self, heard: Iterable[HeardSpeech]) -> None:
        """Bring the utterance to where speech is certain."""
        for speech in heard:
            rate = self._transcriber.decoder.sample_rate
            begin, end = (round(place * rate / VAD_RATE) for place in (speech.begin, speech.end))
            if speech.begin == speech.end:
                self._pass(begin)
                self._utterance = None
                continue
            if self._utterance is None:
                self._pass(begin)
                self._utterance = _open(self._transcriber.decoder)
            self._utterance.push(self._pass(end))
            if speech.is_over:
                self._close(self._utterance.finish().if_speech(speech.is_sure), begin / rate, end / rate)
                self._utterance = None

    def _pass(self, place: int) -> Samples:
        """Return the samples before ``place``, which are held no longer."""
        passed, self._held = np.split(self._held, [max(place - self._num_passed, 0)])
        self._num_passed += len(passed)
        return passed

    def _close(self, decoded: Decoded, start_s: float, end_s: float) -> None:
        self._language_mass += decoded.language_mass
        self._tags += decoded.tags_from(start_s)
        language, _ = self._transcriber.decoder.decide_language(self._language_mass)
        for segment in self._transcriber.segments([(start_s, decoded.path)], duration_s=end_s, language=language):
            self._segments.append(replace(segment, id=len(self._segments)))


class _Utterance(Protocol):
    """Speech without a pause, on its way."""

    def push(self, samples: Samples) -> None:
        """Take the samples (S,) that follow."""

    def partial(self) -> CtcPath:
        """Return the tokens of what was pushed so far."""

    def finish(self) -> Decoded:
        """Return all of it."""


def _open(decoder: ClipDecoder) -> _Utterance:
    # Neither hotwords nor padding to a window are known to a model that streams; as a clip, the utterance gets both.
    if decoder.kind == decoder.decoder == PARAFORMER and not decoder.options.hotwords and not decoder.options.pad:
        from speechnar.models.asr.paraformer_stream import ParaformerStream, missing_to_stream  # noqa: PLC0415  # loaded

        model = cast("Paraformer", decoder.model)
        if not missing_to_stream(model):
            return _FiringUtterance(decoder, ParaformerStream(model))
    return _ClipUtterance(decoder)


class _ClipUtterance:
    """An utterance that is decoded as a whole."""

    def __init__(self, decoder: ClipDecoder) -> None:
        self._decoder = decoder
        self._parts: list[Samples] = []

    def push(self, samples: Samples) -> None:
        self._parts.append(samples)

    def partial(self) -> CtcPath:
        return self.finish().path

    def finish(self) -> Decoded:
        (decoded,) = self._decoder.decode([np.concatenate(self._parts)])
        return decoded


class _FiringUtterance:
    """An utterance whose tokens come as they fire."""

    def __init__(self, decoder: ClipDecoder, stream: "ParaformerStream") -> None:
        self._decoder = decoder
        self._stream = stream
        self._path = join_paths([])
        self._num_samples = 0

    def push(self, samples: Samples) -> None:
        self._num_samples += len(samples)
        self._path = join_paths([self._path, self._stream.push(torch.from_numpy(samples))])

    def partial(self) -> CtcPath:
        return self._decoder.text_path(self._path, num_prefix=0)

    def finish(self) -> Decoded:
        missing = self._decoder.shortest_samples - self._num_samples
        self.push(np.zeros(max(missing, 0), dtype=np.float32))  # as clips are padded
        self._path = join_paths([self._path, self._stream.finish()])
        return Decoded(self.partial(), np.zeros(len(self._decoder.language_ids)))
