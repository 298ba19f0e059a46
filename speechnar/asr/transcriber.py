"""Speech recognition, translation, language identification and alignment in a few calls.

Audio is given as a path, a file object, bytes, a 1-D array or tensor with its ``sample_rate``, or a list of these, for
which a list comes back. Results are finished and immutable; recordings of any length take bounded memory.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from speechnar.asr.clips import ClipDecoder, translation_targets
from speechnar.asr.options import AUTO, DecodeOptions
from speechnar.asr.recordings import RecordingTranscriber, in_order
from speechnar.asr.speech_models import TaggingModel
from speechnar.asr.stream import SpeechStream
from speechnar.audio.source import AnyInput, AudioInput, Recording, open_audio
from speechnar.errors import ConfigError, SpeechnarError
from speechnar.hub import DEFAULT_MODEL, Precision, card_languages, find_device, read_card
from speechnar.models.base import LoadedModel
from speechnar.models.prepare import load_prepared
from speechnar.published import obtain_model
from speechnar.text.languages import UNDETERMINED, to_iso3
from speechnar.text.tokenizer import Tokenizer
from speechnar.text.transcript import Transcript, Word

if TYPE_CHECKING:
    from speechnar.asr.cuts import TokenCuts

Engine: TypeAlias = Literal["torch", "onnx"]
"""What computes."""

_QUOTES = "\"'“”‘’,;:!?()"
_NO_LETTER = re.compile(r"[^\w']|_")


@dataclass(frozen=True)
class DetectedLanguage:
    """The language of a recording (ISO 639-3), its probability, and those of all languages, most probable first.

    Where nobody speaks, the language is ``und`` and all probabilities are 0.
    """

    file: str | None
    language: str
    probability: float
    probabilities: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """What one decoder of a model made of a recording."""

    decoder: str
    transcript: Transcript
    wall_s: float
    """Reading, encoding and decoding."""
    agrees: tuple[bool, ...]
    """For each word of the text: whether the first decoder has it too, in a longest common sequence of words."""

    @property
    def rtf(self) -> float:
        """Return wall time over audio time."""
        return self.wall_s / self.transcript.duration if self.transcript.duration else 0.0


class Transcriber:
    """A model that turns speech into text.

    >>> t = Transcriber.load("path/to/model")  # doctest: +SKIP
    >>> t.transcribe("talk.flac", word_timestamps=True).to_srt()  # doctest: +SKIP
    """

    def __init__(self, loaded: LoadedModel, *, language: str | None = None) -> None:
        """Wrap a model in memory; ``language`` is what a model without language tokens speaks."""
        self._loaded = loaded
        self._language = language

    @classmethod
    def load(
        cls,
        name_or_folder: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        engine: Engine = "torch",
    ) -> "Transcriber":
        """Load a shipped model by name, a model folder, or ``owner/name[@revision]`` from the Hugging Face hub.

        The first two never touch the network, nor does a hub model that is in the cache. One of another toolkit is
        converted when it is fetched.

        Args:
            name_or_folder: the model.
            device: ``auto``, ``cpu`` or another one.
            precision: ``auto`` is the fastest here that makes no more errors, ``fp32`` what models are trained in;
                ``bf16`` and ``int8`` where the device is faster with them.
            engine: ``onnx`` runs a folder that `speechnar.export.recogniser.export_onnx` wrote, on the CPU and in the
                precision that it was written in.

        Raises:
            ModelNotFoundError: there is no such model.
            CheckpointError: its files are damaged, or not of this version, or hold more than tensors and settings.
            ConfigError: the device does not exist, or does not compute in this precision; or a published model has
                options that our implementation has not.
            DataError: its vocabulary or statistics are malformed.
        """
        if engine == "onnx":
            if precision != "auto":
                raise ConfigError(
                    f"engine onnx computes in what the folder was written in; leave out precision, got {precision!r}"
                )
            return cls._load_onnx(Path(name_or_folder), device)
        folder = obtain_model(name_or_folder)
        languages = card_languages(read_card(folder))
        spoken = to_iso3(languages[0]) if len(languages) == 1 else None
        loaded = load_prepared(folder, device=find_device(device), precision=precision)
        return cls(loaded, language=spoken)

    @classmethod
    def _load_onnx(cls, folder: Path, device: str) -> "Transcriber":
        from speechnar.asr.onnx import load_onnx  # noqa: PLC0415  # few have it

        if device not in ("auto", "cpu"):
            raise ConfigError(f"engine onnx runs on the CPU; leave device at auto, got {device!r}")
        languages = card_languages(read_card(folder))
        return cls(load_onnx(folder), language=to_iso3(languages[0]) if len(languages) == 1 else None)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._loaded.name

    @property
    def sample_rate(self) -> int:
        """What the model hears, in Hz; inputs may have any rate."""
        model: Any = self._loaded.model
        return int(model.sample_rate)

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that can be given or detected; empty where the model has no language tokens."""
        model = self._loaded.model
        return tuple(model.language_ids if isinstance(model, TaggingModel) else self._loaded.tokenizer.language_ids())

    @property
    def decoders(self) -> tuple[str, ...]:
        """What ``DecodeOptions(decoder=...)`` can be; the first is the default."""
        names: tuple[str, ...] = getattr(self._loaded.model, "decoder_names", ())
        return names

    @property
    def translates_to(self) -> tuple[str, ...]:
        """Languages into which the model translates."""
        return tuple(translation_targets(self._loaded.tokenizer.pieces))

    @overload
    def transcribe(
        self,
        audio: AudioInput,
        *,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> Transcript: ...

    @overload
    def transcribe(
        self,
        audio: list[AnyInput],
        *,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> list[Transcript]: ...

    def transcribe(
        self,
        audio: AudioInput | list[AnyInput],
        *,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> Transcript | list[Transcript]:
        """Write down what is said.

        Args:
            audio: one recording or a list of them.
            sample_rate: of arrays and tensors, in Hz; files have their own, and it is an error to give one.
            language: of the speech: a code or an English name, or ``auto``.
            word_timestamps: give every segment its words with times and probabilities.
            options: rarer choices.

        Raises:
            AudioError: a recording cannot be read (in a list, the first such; see `transcribe_many` to go on).
            ConfigError: the model cannot honour an option, or ``sample_rate`` has no effect.
        """
        found = self.transcribe_many(
            as_list(audio),
            sample_rate=sample_rate,
            language=language,
            word_timestamps=word_timestamps,
            options=options,
        )
        return one_or_list(audio, found)

    def stream(
        self,
        *,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> SpeechStream:
        """Transcribe a recording while it is being made; any number of streams may be open.

        A Paraformer with a windowed encoder (``encoder.windows`` set) writes tokens as they fire; what other models
        and decoders, and hotwords, make of an utterance comes when it ends.

        Args:
            sample_rate: of the samples to come, in Hz; None is `sample_rate`, what the model hears.
            language: as in `transcribe`.
            word_timestamps: as in `transcribe`.
            options: as in `transcribe`; ``window_s`` is also the longest utterance.

        Raises:
            ConfigError: the model cannot honour an option.
            AudioError: there is no audio of this rate.
        """
        decoder = ClipDecoder(self._loaded, language=language, default_language=self._language, options=options)
        return SpeechStream(RecordingTranscriber(decoder, word_timestamps=word_timestamps), sample_rate=sample_rate)

    @overload
    def translate(
        self,
        audio: AudioInput,
        *,
        to: str,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> Transcript: ...

    @overload
    def translate(
        self,
        audio: list[AnyInput],
        *,
        to: str,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> list[Transcript]: ...

    def translate(
        self,
        audio: AudioInput | list[AnyInput],
        *,
        to: str,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> Transcript | list[Transcript]:
        """Write down in the language ``to`` what is said in another; the rest as in `transcribe`.

        The result's ``language`` is that of the speech.

        Raises:
            AudioError: a recording cannot be read.
            ConfigError: the model does not translate into ``to`` (the message names those it does), or an option as in
                `transcribe`.
        """
        found = self.transcribe_many(
            as_list(audio),
            to=to,
            sample_rate=sample_rate,
            language=language,
            word_timestamps=word_timestamps,
            options=options,
        )
        return one_or_list(audio, found)

    @overload
    def detect_language(self, audio: AudioInput, *, sample_rate: int | None = None) -> DetectedLanguage: ...

    @overload
    def detect_language(self, audio: list[AnyInput], *, sample_rate: int | None = None) -> list[DetectedLanguage]: ...

    def detect_language(
        self, audio: AudioInput | list[AnyInput], *, sample_rate: int | None = None
    ) -> DetectedLanguage | list[DetectedLanguage]:
        """Tell the language spoken in the first 30 seconds of speech; silence, noise and music are ``und``.

        Raises:
            AudioError: a recording cannot be read.
            ConfigError: the model does not tell languages.
        """
        transcriber = RecordingTranscriber(ClipDecoder(self._loaded))

        def detect(recording: Recording) -> DetectedLanguage:
            probabilities = transcriber.language_probabilities(recording)
            language, probability = next(iter(probabilities.items()))
            language = language if probability else UNDETERMINED
            return DetectedLanguage(recording.name, language, probability, probabilities)

        return one_or_list(audio, (detect(open_audio(item, sample_rate)) for item in as_list(audio)))

    def align(
        self, audio: AudioInput, text: str, *, sample_rate: int | None = None, language: str = AUTO
    ) -> Transcript:
        """Find the times of the words of ``text`` in a recording of up to 30 seconds.

        The text must be spelled as the model spells (letter case, punctuation).

        Raises:
            AudioError: the recording cannot be read, is too long, or is too short for the text.
            ConfigError: the text is empty or has letters unknown to the model.
        """
        transcriber = RecordingTranscriber(
            ClipDecoder(self._loaded, language=language, default_language=self._language)
        )
        return transcriber.align(open_audio(audio, sample_rate), text)

    def align_words(
        self,
        audio: AudioInput,
        words: Sequence[str],
        *,
        sample_rate: int | None = None,
        language: str = AUTO,
    ) -> list[Word]:
        """Find the times of words that are written as anybody writes, in a recording of up to 30 seconds.

        They are brought to the model's spelling: letter case where it knows but one, figures in English words, no
        punctuation; letters that it does not know are left out. A word of which nothing remains stands between its
        neighbours.

        Raises:
            AudioError: as `align`.
            ConfigError: as `align`, or nothing remains of any word.
        """
        spelled = _spell_like(self._loaded.tokenizer, words)
        transcript = self.align(audio, " ".join(filter(None, spelled)), sample_rate=sample_rate, language=language)
        found = [word for segment in transcript.segments for word in segment.words or ()]
        if len(found) != sum(len(text.split()) for text in spelled):
            raise ConfigError(f"model {self.name} does not cut text at spaces, so that words cannot be found")
        timed: list[Word] = []
        for word, text in zip(words, spelled, strict=True):
            parts, found = found[: len(text.split())], found[len(text.split()) :]
            if parts:
                probability = min(part.probability for part in parts)
                timed.append(Word(parts[0].start, parts[-1].end, word, probability))
            else:
                place = timed[-1].end if timed else found[0].start
                timed.append(Word(place, place, word, 0.0))
        return timed

    def compare(
        self, audio: AudioInput, *, sample_rate: int | None = None, language: str = AUTO
    ) -> tuple[Comparison, ...]:
        """Transcribe one recording with every decoder of the model, and say where their texts differ.

        CTC takes its best path, without lists of words, which the others do not know either.

        Raises:
            AudioError: the recording cannot be read.
            ConfigError: the model does not know ``language``.
        """
        first: list[str] | None = None
        found = []
        for decoder in self.decoders:
            started = time.perf_counter()
            options = DecodeOptions(decoder=decoder, word_weight=0)
            transcript = self.transcribe(audio, sample_rate=sample_rate, language=language, options=options)
            wall_s = time.perf_counter() - started
            words = transcript.text.split()
            first = words if first is None else first
            agrees = [False] * len(words)
            for block in SequenceMatcher(None, first, words, autojunk=False).get_matching_blocks():
                agrees[block.b : block.b + block.size] = [True] * block.size
            found.append(Comparison(decoder, transcript, wall_s, tuple(agrees)))
        return tuple(found)

    def cuts(
        self, audio: AudioInput, *, sample_rate: int | None = None, language: str = AUTO
    ) -> tuple["TokenCuts", ...]:
        """Return how CTC, CASS-NAT and Paraformer, as far as the model has them, cut a recording into tokens.

        Raises:
            AudioError: the recording cannot be read, or is longer than 30 seconds.
            ConfigError: the model does not know ``language``.
        """
        from speechnar.asr.cuts import find_cuts  # noqa: PLC0415  # few look inside

        decoder = ClipDecoder(self._loaded, language=language, default_language=self._language)
        return tuple(find_cuts(decoder, RecordingTranscriber(decoder).whole_clip(open_audio(audio, sample_rate))))

    def transcribe_many(
        self,
        audios: Iterable[AudioInput],
        *,
        to: str | None = None,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> Iterator[Transcript | SpeechnarError]:
        """Transcribe (or translate) many recordings lazily; one that fails yields its error and the rest go on.

        Results come in order. Inputs are read a few batches ahead.

        Raises:
            ConfigError: the model cannot honour an option; at once, before anything is read. Or ``sample_rate`` is
                given beside a file, or an item is no audio; when its turn comes.
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
        to: str | None = None,
        sample_rate: int | None = None,
        language: str = AUTO,
        word_timestamps: bool = False,
        options: DecodeOptions | None = None,
    ) -> Iterator[tuple[int, Transcript | SpeechnarError]]:
        """Transcribe (or translate) many recordings as `transcribe_many` does; yield the place of each and its result.

        None waits for those before it, so that whoever keeps results at once loses, when the program is killed, a batch
        at most of what was decoded.

        Raises:
            ConfigError: as there.
        """
        decoder = ClipDecoder(
            self._loaded,
            task="asr" if to is None else f"st_{to_iso3(to)}",
            language=language,
            default_language=self._language,
            options=options,
        )
        transcriber = RecordingTranscriber(decoder, word_timestamps=word_timestamps)
        return transcriber.transcribe(open_audio(audio, sample_rate) for audio in audios)


def _spell_like(tokenizer: Tokenizer, words: Sequence[str]) -> list[str]:
    """Return each of ``words`` as text of a recogniser: the first way of writing it with the fewest unknown tokens."""

    def count_unknown(text: str) -> int:
        return tokenizer.encode(text).count(tokenizer.unk_id)

    from speechnar.text.spoken import spoken_words  # noqa: PLC0415  # slow to import, rarely needed

    spelled = []
    for word, said in zip(words, spoken_words(" ".join(words)), strict=True):
        # Figures and abbreviations are read aloud; other words are not, since only English is known for how.
        forms = [word, " ".join(said)] if word.strip(_QUOTES).isalpha() else [" ".join(said), word]
        texts = [form for text in forms for form in (text, text.lower(), text.upper())]
        texts = [" ".join(_NO_LETTER.sub(" ", text).split()) for text in texts]
        best = min(texts, key=lambda text: (not text, count_unknown(text)))
        known = "".join(letter for letter in best if letter == " " or not count_unknown(letter))
        spelled.append(" ".join(known.split()))
    return spelled


def as_list(audio: Any) -> Sequence[Any]:
    """Return one recording as a list, and a list of them as it is."""
    return audio if isinstance(audio, list | tuple) else [audio]


def one_or_list(audio: Any, found: Iterator[Any]) -> Any:
    """Return the only result, or the list of all where a list was given; raise the first error."""
    results = []
    for result in found:
        if isinstance(result, SpeechnarError):
            raise result
        results.append(result)
    return results if isinstance(audio, list | tuple) else results[0]
