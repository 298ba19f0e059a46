"""Speech into text of another language in two steps: it is recognised, then its text is translated.

For recognisers that do not translate themselves, as OWSM-CTC does. Each segment is translated on its own, and keeps its
times.
Source: Ney, "Speech Translation: Coupling of Recognition and Translation", ICASSP 1999, whose coupling by the single
best transcript this is.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import overload

from speechnar.asr.options import AUTO, DecodeOptions
from speechnar.asr.recordings import in_order
from speechnar.asr.transcriber import Transcriber, as_list, one_or_list
from speechnar.asr.verbs import cached_transcriber
from speechnar.audio.source import AnyInput, AudioInput
from speechnar.errors import ConfigError, SpeechnarError
from speechnar.hub import DEFAULT_MODEL, DEFAULT_MT_MODEL, Precision
from speechnar.mt.translator import Translator
from speechnar.text.languages import UNDETERMINED, to_iso3
from speechnar.text.transcript import Transcript

TRANSLATE = "translate"


class Cascade:
    """A recogniser, and a translator of what it writes.

    >>> cascade = Cascade(Transcriber.load(), Translator.load())  # doctest: +SKIP
    >>> next(cascade.transcribe_many(["talk.wav"], to="de")).text  # doctest: +SKIP
    """

    def __init__(self, transcriber: Transcriber, translator: Translator) -> None:
        self._transcriber = transcriber
        self._translator = translator

    @property
    def name(self) -> str:
        """Names of both."""
        return f"{self._transcriber.name} + {self._translator.name}"

    def transcribe_many(
        self,
        audios: Iterable[AudioInput],
        *,
        to: str,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> Iterator[Transcript | SpeechnarError]:
        """Translate many recordings lazily, as `Transcriber.transcribe_many` does; one in another language fails.

        Args:
            audios: as there.
            to: the language of the result.
            sample_rate: as there.
            language: of the speech, as there.
            word_timestamps: must be False: the words of a translated text have no times.
            options: of the recogniser.

        Raises:
            ConfigError: at once, if words are asked for, the translator does not write ``to`` or reads another
                ``language``, or the recogniser cannot honour an option.
        """
        return in_order(
            self.transcribe_as_ready(
                audios,
                to=to,
                sample_rate=sample_rate,
                language=language,
                word_timestamps=word_timestamps,
                options=options,
            )
        )

    def transcribe_as_ready(
        self,
        audios: Iterable[AudioInput],
        *,
        to: str,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> Iterator[tuple[int, Transcript | SpeechnarError]]:
        """Translate many recordings as `transcribe_many` does, once `Transcriber.transcribe_as_ready` has it.

        Raises:
            ConfigError: as there.
        """
        if word_timestamps:
            raise ConfigError("the words of a translated text have no times; leave out word timestamps")
        self._translator.check_languages(None if language == AUTO else language, to)
        found = self._transcriber.transcribe_as_ready(
            audios, sample_rate=sample_rate, language=language, options=options
        )
        return (
            (place, outcome if isinstance(outcome, SpeechnarError) else self._translate(outcome, to_iso3(to)))
            for place, outcome in found
        )

    def _translate(self, transcript: Transcript, to: str) -> Transcript | SpeechnarError:
        source = None if transcript.language == UNDETERMINED else transcript.language
        try:
            texts = self._translator.translate([each.text for each in transcript.segments], source=source, target=to)
        except ConfigError as error:
            return ConfigError(f"the speech is taken for {source}: {error}")
        segments = tuple(
            replace(segment, text=translated.text)
            for segment, translated in zip(transcript.segments, texts, strict=True)
        )
        text = " ".join(segment.text for segment in segments if segment.text)
        return replace(transcript, model=self.name, task=TRANSLATE, text=text, segments=segments)


@overload
def translate(
    audio: AudioInput,
    *,
    to: str,
    sample_rate: int | None = ...,
    language: str = ...,
    word_timestamps: bool = ...,
    options: DecodeOptions | None = ...,
    model: str | None = ...,
    translator: str | None = ...,
    device: str = ...,
    precision: Precision = ...,
) -> Transcript: ...
@overload
def translate(
    audio: list[AnyInput],
    *,
    to: str,
    sample_rate: int | None = ...,
    language: str = ...,
    word_timestamps: bool = ...,
    options: DecodeOptions | None = ...,
    model: str | None = ...,
    translator: str | None = ...,
    device: str = ...,
    precision: Precision = ...,
) -> list[Transcript]: ...
def translate(
    audio: AudioInput | list[AnyInput],
    *,
    to: str,
    sample_rate: int | None = None,
    language: str = AUTO,
    word_timestamps: bool = False,
    options: DecodeOptions | None = None,
    model: str | None = None,
    translator: str | None = None,
    device: str = "auto",
    precision: Precision = "auto",
) -> Transcript | list[Transcript]:
    """Write down in the language ``to`` what is said in another.

    A ``model`` that translates speech does it alone (`Transcriber.translate`). Without one, or with a ``translator`` of
    text, the speech is recognised first, and then its text is translated (`Cascade`).

    Args:
        audio: as of `Transcriber.translate`.
        to: likewise.
        sample_rate: likewise.
        language: likewise.
        word_timestamps: likewise; of a cascade, words have no times.
        options: likewise.
        model: hears; None: the default recogniser.
        translator: translates what ``model`` hears, by name as of `Translator.load`; None: the default one if ``model``
            is None, too.
        device: as of `Transcriber.load`.
        precision: likewise.

    Raises:
        AudioError: a recording cannot be read.
        ConfigError: as of `Transcriber.translate` or `Cascade.transcribe_many`, or a recording is in another language
            than the translator reads.
    """
    if model is not None and translator is None:
        return cached_transcriber(model, device, precision).translate(
            audio,
            to=to,
            sample_rate=sample_rate,
            language=language,
            word_timestamps=word_timestamps,
            options=options,
        )
    cascade = Cascade(
        cached_transcriber(model or DEFAULT_MODEL, device, precision),
        _cached_translator(translator or DEFAULT_MT_MODEL, device, precision),
    )
    found = cascade.transcribe_many(
        as_list(audio),
        to=to,
        sample_rate=sample_rate,
        language=language,
        word_timestamps=word_timestamps,
        options=options,
    )
    return one_or_list(audio, found)


@lru_cache(maxsize=2)
def _cached_translator(model: str, device: str, precision: Precision) -> Translator:
    return Translator.load(model, device=device, precision=precision)
