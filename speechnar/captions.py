"""Live captions: what is being said, and its translation, with what stays and what may still change.

Speech is recognised by a `SpeechStream`; after each piece of it the text of the open utterance is known anew, and may
differ from before in any word. A `TranslationStream` revises its translation accordingly.

Shapes: S samples.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
from torch import Tensor

from speechnar.asr.stream import SpeechStream
from speechnar.errors import ConfigError
from speechnar.metrics.simultaneous import common_prefix
from speechnar.mt.stream import TranslationStream, TranslationUpdate
from speechnar.text.transcript import Segment, Transcript

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CaptionUpdate:
    """What to show of the utterance that is open, or has just ended."""

    stable: str
    """What was shown before, too; the rest is new or has changed."""
    unstable: str
    erased: int
    """Words that were shown and are taken back."""
    is_final: bool
    """Whether the utterance has ended; the next update is of another."""
    translation: TranslationUpdate | None

    @property
    def text(self) -> str:
        """Return all that is shown of the transcript."""
        return " ".join(part for part in (self.stable, self.unstable) if part)


class CaptionStream:
    """One recording, captioned as it comes.

    >>> stream = CaptionStream(transcriber.stream(), translator.stream(target="de"))  # doctest: +SKIP
    >>> for chunk in microphone:  # doctest: +SKIP
    ...     for update in stream.push(chunk):
    ...         print(update.translation.stable, "|", update.translation.unstable)
    >>> for update in stream.finish():  # doctest: +SKIP
    ...     print(update.translation.text)
    """

    def __init__(self, speech: SpeechStream, translation: TranslationStream | None = None) -> None:
        """Caption what is pushed, from now on; without ``translation`` there are transcripts alone.

        Raises:
            ConfigError: ``translation`` cannot be revised.
        """
        if translation is not None and not translation.can_revise:
            raise ConfigError("captions change while they grow, which wait-k cannot follow; take another translator")
        self._speech = speech
        self._translation = translation
        self._shown: list[str] = []
        self._transcript: Transcript | None = None
        self._num_final = 0

    def push(self, samples: npt.NDArray[Any] | Tensor) -> tuple[CaptionUpdate, ...]:
        """Take samples (S,) as `SpeechStream.push` does, and return what has changed, perhaps nothing.

        Raises:
            AudioError: they cannot be taken; the stream can go on.
            ConfigError: the stream was finished.
        """
        updates = self._final(self._speech.push(samples))
        words = self._speech.partial().split()
        if words != self._shown:
            updates.append(self._update(words, is_final=False))
        return tuple(updates)

    def finish(self) -> tuple[CaptionUpdate, ...]:
        """Return the last changes; called again, none."""
        if self._transcript is not None:
            return ()
        self._transcript = self._speech.finish()
        updates = self._final(self._transcript.segments[self._num_final :])
        if self._shown:  # what was too short to count
            updates.append(self._update([], is_final=True))
        return tuple(updates)

    @property
    def transcript(self) -> Transcript:
        """Return the transcript of a finished stream.

        Raises:
            ConfigError: it was not finished.
        """
        if self._transcript is None:
            raise ConfigError("the transcript of a stream is known when it is finished; call finish() first")
        return self._transcript

    def _final(self, segments: Sequence[Segment]) -> list[CaptionUpdate]:
        self._num_final += len(segments)
        words = [word for segment in segments for word in segment.text.split()]
        return [self._update(words, is_final=True)] if words else []

    def _update(self, words: list[str], *, is_final: bool) -> CaptionUpdate:
        same = common_prefix(self._shown, words)
        erased = len(self._shown) - same
        translation = None if self._translation is None else self._translate(self._translation, words, is_final)
        self._shown = [] if is_final else words
        return CaptionUpdate(" ".join(words[:same]), " ".join(words[same:]), erased, is_final, translation)

    @staticmethod
    def _translate(stream: TranslationStream, words: list[str], is_final: bool) -> TranslationUpdate:
        text = " ".join(words)
        if not stream.fits(text):
            logger.warning("an utterance of %d words is too long to be translated; its end is left out", len(words))
            while not stream.fits(text):
                words = words[: len(words) // 2]
                text = " ".join(words)
        update = stream.revise(text, is_final=is_final)
        if is_final:
            stream.start()
        return update
