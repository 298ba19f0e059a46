"""Speech from text, in the voice of the model or in one that is given, as a whole or while it is being made.

Long text is spoken sentence by sentence, so that memory stays flat and the first sound is soon there; within a sentence
the generator makes block after block, the vocoder turns into sound what is certain.

Shapes: S samples, T latents, C latent channels.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from speechnar.audio.blocks import Samples
from speechnar.audio.io import Audio
from speechnar.audio.source import AudioInput
from speechnar.data.latents import LatentBatch
from speechnar.errors import ConfigError
from speechnar.hub import DEFAULT_MODEL, DEFAULT_TTS_MODEL, Precision, check_seed, find_device, read_card
from speechnar.models.prepare import load_prepared
from speechnar.models.tts.mel_autoencoder import KnownFrames
from speechnar.models.tts.vocos_stream import VocoderStream
from speechnar.published import obtain_model
from speechnar.text.passages import Passage, read_passages
from speechnar.text.sentences import clean
from speechnar.text.transcript import Segment
from speechnar.tts.acoustic import AcousticModel, Seconds, derive_seed, share
from speechnar.tts.editor import EditedSpeech, edit_speech
from speechnar.tts.options import EditOptions, SynthesizeOptions, with_keywords
from speechnar.tts.voice import Listener, Voice, learn_voice

logger = logging.getLogger(__name__)

Heard = Callable[[Samples], None]
"""Is given the samples of speech, piece by piece, as soon as they are certain."""

FADE_S = 0.005
"""At both ends of a sentence, so that it neither begins nor ends by a click."""
MAX_GATHERED = 4
"""Blocks that the vocoder is given together."""


@dataclass(frozen=True)
class SpokenToken:
    """A token of the model's text front end (a phone, a letter, a mark) and when it is spoken, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class Speech(Audio):
    """Synthetic speech, and when its sentences are spoken."""

    segments: tuple[Segment, ...] = ()
    tokens: tuple[SpokenToken, ...] = ()
    """Of all sentences, with the times that the model gave them."""


class Synthesizer:
    """A model that turns text into speech, and changes the words of recorded speech.

    >>> synthesizer = Synthesizer.load("path/to/model")  # doctest: +SKIP
    >>> synthesizer.synthesize("Hello there.", seed=7).save("hello.wav")  # doctest: +SKIP
    """

    def __init__(self, acoustic: AcousticModel, listener: Listener) -> None:
        """Wrap a model in memory, and a recogniser for voices without text and for what is to be edited."""
        self._acoustic = acoustic
        self._listener = listener

    @classmethod
    def load(
        cls,
        name_or_folder: str | os.PathLike[str] = DEFAULT_TTS_MODEL,
        *,
        device: str = "auto",
        precision: Precision = "auto",
        recognizer: str = DEFAULT_MODEL,
    ) -> "Synthesizer":
        """Load a shipped model by name, a model folder, or ``owner/name`` from the Hugging Face hub.

        Args:
            name_or_folder: as of `speechnar.Transcriber.load`.
            device: auto, cpu, or another one.
            precision: as of `speechnar.Transcriber.load`.
            recognizer: the model that listens to voices and to what is to be edited; loaded on first use.

        Raises:
            ModelNotFoundError: there is no such model.
            CheckpointError: its files are damaged, or not of this version.
            ConfigError: the device does not exist or not compute in this precision, or the model is none of speech
                synthesis.
        """
        found = obtain_model(name_or_folder)
        loaded = load_prepared(found, device=find_device(device), precision=precision)
        card = read_card(found)
        acoustic = AcousticModel(loaded, default_steps=card.get("steps"), default_edit_steps=card.get("edit_steps"))
        return cls(acoustic, Listener(recognizer, device, acoustic, precision=precision))

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._acoustic.name

    @property
    def sample_rate(self) -> int:
        """Of what the model speaks, in Hz."""
        return self._acoustic.sample_rate

    def voice(self, audio: AudioInput, *, text: str | None = None, sample_rate: int | None = None) -> Voice:
        """Learn a voice, to be given to `synthesize` any number of times.

        Use nobody's voice without their consent.

        Args:
            audio: a clip of up to 15 s; of a longer one, what is said in 15 s from its first word on is used.
            text: what it says; None: it is transcribed.
            sample_rate: of arrays and tensors, in Hz; files have their own, and it is an error to give one.

        Raises:
            AudioError: the clip cannot be read, is silent or shorter than half a second; is longer than 15 s although
                its text is given; or no word is recognised in it.
            ConfigError: the text has nothing that the model can speak, or ``sample_rate`` has no effect.
        """
        return learn_voice(self._acoustic, self._listener, audio, text=text, sample_rate=sample_rate)

    def synthesize(
        self,
        text: str,
        *,
        voice: Voice | AudioInput | None = None,
        voice_text: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        speed: float | None = None,
        options: SynthesizeOptions | None = None,
        heard: Heard | None = None,
    ) -> Speech:
        """Speak ``text``, of any length; words that have no sound are passed over, with a warning that names them.

        Args:
            text: plain or in Markdown, whose headings and lists are heard as pauses, or SSML (``<speak>``); in either
                ``<break time="500ms"/>`` is a pause. Numbers and abbreviations are read as the model's text front end
                reads them.
            voice: speech of whom is to speak (with their consent), as of `voice`; None: the voice of the model.
            voice_text: what is said there; None: it is transcribed.
            steps: may be given here instead of in ``options``.
            seed: the same seed gives the same speech. Each sentence has its own, derived from it.
            speed: as ``steps``.
            options: rarer choices.
            heard: is given the samples while they are made.

        Raises:
            ConfigError: there is nothing to speak, SSML is not valid, or an option is out of its range, has no effect
                or is given twice.
            AudioError: as of `voice`.
        """
        chunks: list[Samples] = []
        spans: dict[int, list[int]] = {}
        tokens: list[SpokenToken] = []
        place = 0
        options = with_keywords(options or SynthesizeOptions(), steps=steps, speed=speed)
        passages, parts = self._start(text, options, voice=voice, voice_text=voice_text, seed=seed)
        for index, line, samples in parts:
            chunks.append(samples)
            if heard is not None and len(samples):
                heard(samples)
            if line is not None:
                if index not in spans:
                    tokens += _place_tokens(self._acoustic, line, place / self.sample_rate)
                spans.setdefault(index, [place, place])[1] = place + len(samples)
            place += len(samples)
        segments = tuple(
            Segment(id=i, start=begin / self.sample_rate, end=end / self.sample_rate, text=passages[index].text)
            for i, (index, (begin, end)) in enumerate(spans.items())
        )
        return Speech(np.concatenate(chunks), self.sample_rate, segments, tuple(tokens))

    def stream(
        self,
        text: str,
        *,
        voice: Voice | AudioInput | None = None,
        voice_text: str | None = None,
        steps: int | None = None,
        seed: int = 0,
        speed: float | None = None,
        options: SynthesizeOptions | None = None,
    ) -> Iterator[Samples]:
        """Yield the samples of `synthesize`, piece by piece, as soon as they are certain.

        Args: as of `synthesize`.

        Raises:
            ConfigError, AudioError: as of `synthesize`, and at once.
        """
        options = with_keywords(options or SynthesizeOptions(), steps=steps, speed=speed)
        _, parts = self._start(text, options, voice=voice, voice_text=voice_text, seed=seed)
        return (samples for _, _, samples in parts if len(samples))

    def edit(
        self,
        audio: AudioInput,
        new_text: str,
        *,
        old_text: str | None = None,
        sample_rate: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        candidates: int | None = None,
        options: EditOptions | None = None,
    ) -> EditedSpeech:
        """Change the words of a recording: those that differ are spoken anew, between what is before and after them.

        All other samples stay as they are, bit for bit. Words are compared without regard to letter case and
        punctuation. Use nobody's voice without their consent.

        Args:
            audio: a mono recording, at any sample rate; what is spoken anew has no frequencies beyond the model's.
            new_text: all that is to be said in it.
            old_text: all that is said in it, for recordings of up to 30 s; None: it is transcribed, and what the
                recogniser mishears counts as changed.
            sample_rate: of arrays and tensors, in Hz; files have their own, and it is an error to give one.
            steps: may be given here instead of in ``options``.
            seed: the same seed gives the same speech.
            candidates: as ``steps``.
            options: rarer choices.

        Raises:
            AudioError: the recording cannot be read, has several channels, or is too long or too short for the text.
            ConfigError: a text has nothing to speak, or an option is out of its range, has no effect or is given twice.
        """
        options = with_keywords(options or EditOptions(), steps=steps, candidates=candidates)
        return edit_speech(
            self._acoustic,
            self._listener,
            audio,
            new_text,
            old_text=old_text,
            sample_rate=sample_rate,
            num_steps=options.steps or self._acoustic.default_edit_steps,
            seed=check_seed(seed),
            num_candidates=options.candidates,
        )

    def _start(
        self,
        text: str,
        options: SynthesizeOptions,
        *,
        voice: Voice | AudioInput | None,
        voice_text: str | None,
        seed: int,
    ) -> tuple[list[Passage], Iterator[tuple[int, "_Line | None", Samples]]]:
        """Check everything; return the passages, and their samples with the number of the passage.

        Before it, with no line, stands the pause.
        """
        num_steps, seed = options.steps or self._acoustic.default_steps, check_seed(seed)
        if voice is None and voice_text is not None:
            raise ConfigError("voice_text says what is spoken in a voice; give the voice, too")
        if isinstance(voice, Voice) and voice_text is not None:
            raise ConfigError("voice_text goes with a clip; this voice knows already what it says")
        passages = read_passages(text, emoji=options.emoji)
        if not any(passage.text for passage in passages):
            raise ConfigError(f"text must have a letter or a digit to speak, got {clean(text)[:60]!r}")
        if voice is not None and not isinstance(voice, Voice):
            voice = self.voice(voice, text=voice_text)
        lines = (
            (passage, _plan(self._acoustic, _words_of(self._acoustic, passage), voice, options.speed))
            for passage in passages
        )
        begun: list[tuple[Passage, _Line | None]] = []
        for found in lines:
            begun.append(found)
            if found[1] is not None:
                return passages, self._speak(chain(begun, lines), num_steps, seed)
        raise ConfigError(f"model {self.name} can speak nothing of the text {text[:60]!r}; is it in its language?")

    def _speak(
        self, lines: Iterable[tuple[Passage, "_Line | None"]], num_steps: int, seed: int
    ) -> Iterator[tuple[int, "_Line | None", Samples]]:
        """Yield what is spoken, and silence between it; before and after it only if that is asked for."""
        index, owed_s, is_break = 0, 0.0, False
        for index, (passage, line) in enumerate(lines):
            if line is not None:
                yield index, None, self._silence(owed_s)
                owed_s, is_break = 0.0, False
                samples = _sound(self._acoustic, line, derive_seed(seed, index), num_steps)
                yield from ((index, line, part) for part in samples)
            if passage.is_break:
                owed_s, is_break = passage.pause_s + (owed_s if is_break else 0.0), True
            elif line is not None:
                owed_s = passage.pause_s
        if is_break:
            yield index, None, self._silence(owed_s)

    def _silence(self, seconds: float) -> Samples:
        return np.zeros(round(seconds * self.sample_rate), dtype=np.float32)


@dataclass(frozen=True)
class _Line:
    """A sentence with what is known of its speech."""

    speech: LatentBatch
    """Of one utterance: the voice, if one is given, the sentence, and the voice again."""
    start: int
    length: int
    """In latents, of the sentence."""
    voice: Voice | None
    tokens: tuple[int, ...]
    """Of the sentence."""
    durations: Seconds
    """Of these, in seconds."""


def _words_of(acoustic: AcousticModel, passage: Passage) -> list[str]:
    """Return the words of a passage, the last with the mark that it lacks, if the model knows it."""
    words = passage.text.split()
    if words and passage.mark in acoustic.tokenizer.pieces:
        words[-1] += passage.mark
    return words


def _plan(acoustic: AcousticModel, words: list[str], voice: Voice | None, speed: float) -> _Line | None:
    """Say how long a sentence is, and put it between what the voice says; None if nothing in it can be spoken."""
    if not words:
        return None
    before = after = () if voice is None else voice.words
    spelling = acoustic.spell([*before, *words, *after])
    begin, end = 0, len(spelling.tokens)
    if voice is not None:
        begin, end = spelling.words[len(before)][0], spelling.words[len(before) + len(words) - 1][1]
    if not any(spelling.sounds[begin:end]):
        logger.warning("%s: can speak nothing of %r, left out", acoustic.name, " ".join(words)[:60])
        return None
    predicted = acoustic.predict(spelling)
    seconds = predicted[begin:end].sum() * (1 if voice is None else voice.rate) / speed
    shift_s = acoustic.latent_shift_s
    length = max(round(seconds / shift_s), 1)
    gap = torch.zeros(length, acoustic.latent_dim, device=acoustic.device)
    spoken = share(predicted[begin:end], length * shift_s)
    if voice is None:
        return _Line(acoustic.batch(spelling, spoken, gap[None]), 0, length, None, spelling.tokens, spoken)
    parts = [predicted[:begin], predicted[end:]]
    known_s = len(voice.latents) * shift_s
    if max(map(len, parts)) <= len(voice.durations):  # the silence on the side of the sentence has no token here
        parts = [
            voice.durations[: len(parts[0])].copy(),
            voice.durations[len(voice.durations) - len(parts[1]) :].copy(),
        ]
        for part, at in ((parts[0], -1), (parts[1], 0)):
            part[at] = max(part[at] + known_s - part.sum(), 0.0)  # rounding may go below
    durations = np.concatenate([share(parts[0], known_s), spoken, share(parts[1], known_s)])
    latents = torch.cat([voice.latents, gap, voice.latents])
    speech = acoustic.batch(spelling, durations, latents[None])
    return _Line(speech, len(voice.latents), length, voice, spelling.tokens[begin:end], spoken)


def _place_tokens(acoustic: AcousticModel, line: _Line, start_s: float) -> Iterator[SpokenToken]:
    """Yield the tokens of a sentence that begins at ``start_s``, but those that last no time."""
    for token, seconds in zip(line.tokens, line.durations.tolist(), strict=True):
        if seconds > 0:
            yield SpokenToken(acoustic.tokenizer.piece_of(token), start_s, start_s + seconds)
        start_s += seconds


def _sound(acoustic: AcousticModel, line: _Line, seed: int, num_steps: int) -> Iterator[Samples]:
    """Yield the samples of a sentence as they become certain."""
    stream = VocoderStream(acoustic.model.vocoder)
    blocks = acoustic.fill(line.speech, line.start, line.length, seeds=[seed], num_steps=num_steps)
    frames: Iterator[Tensor]
    if acoustic.decodes_alone:
        frames = (acoustic.decode(latents) for latents in _gathered(block[0] for block in blocks))
    else:
        frames = iter([_decode_after(acoustic, torch.cat(list(blocks), dim=1)[0], line.voice)])
    ramp = np.linspace(0.0, 1.0, round(FADE_S * acoustic.sample_rate), dtype=np.float32)
    begun = False
    for feats in frames:
        part = stream.push(feats).cpu().numpy()
        if len(part):
            yield (part if begun else _scale_head(part, ramp)).clip(-1.0, 1.0)
            begun = True
    part = stream.finish().cpu().numpy()
    part = part if begun else _scale_head(part, ramp)
    yield _scale_head(part[::-1], ramp)[::-1].clip(-1.0, 1.0)


def _gathered(blocks: Iterable[Tensor]) -> Iterator[Tensor]:
    """Yield latents (n, C) of 1, 2, 4 blocks, and then of as many each: few calls of the vocoder, and a first one soon.

    What is spoken of the last ones lasts while twice as much is made.
    """
    waiting: list[Tensor] = []
    size = 1
    for block in blocks:
        waiting.append(block)
        if len(waiting) == size:
            yield torch.cat(waiting)
            waiting, size = [], min(2 * size, MAX_GATHERED)
    if waiting:
        yield torch.cat(waiting)


def _scale_head(samples: Samples, ramp: Samples) -> Samples:
    size = min(len(samples), len(ramp))
    return np.concatenate([samples[:size] * ramp[:size], samples[size:]])


def _decode_after(acoustic: AcousticModel, latents: Tensor, voice: Voice | None) -> Tensor:
    """Return the log-mels (T, F) of latents that follow those of the voice, whose log-mels the decoder is given."""
    if voice is None:
        return acoustic.decode(latents)
    num_known = len(voice.feats)
    feats = F.pad(voice.feats, (0, 0, 0, len(latents) * acoustic.frames_per_latent))
    known = torch.arange(len(feats), device=feats.device) < num_known
    return acoustic.decode(torch.cat([voice.latents, latents]), KnownFrames(feats[None], known[None]))[num_known:]


def synthesize(
    text: str,
    *,
    voice: Voice | AudioInput | None = None,
    voice_text: str | None = None,
    steps: int | None = None,
    seed: int = 0,
    speed: float | None = None,
    options: SynthesizeOptions | None = None,
    heard: Heard | None = None,
    model: str = DEFAULT_TTS_MODEL,
    device: str = "auto",
    precision: Precision = "auto",
) -> Speech:
    """Speak ``text``; the arguments are those of `Synthesizer.synthesize` and `Synthesizer.load`.

    The model named last stays loaded.
    """
    return _synthesizer(model, device, precision).synthesize(
        text,
        voice=voice,
        voice_text=voice_text,
        steps=steps,
        seed=seed,
        speed=speed,
        options=options,
        heard=heard,
    )


def edit(
    audio: AudioInput,
    new_text: str,
    *,
    old_text: str | None = None,
    sample_rate: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    candidates: int | None = None,
    options: EditOptions | None = None,
    model: str = DEFAULT_TTS_MODEL,
    device: str = "auto",
    precision: Precision = "auto",
) -> EditedSpeech:
    """Change the words of a recording; the arguments are those of `Synthesizer.edit` and `Synthesizer.load`.

    The model named last stays loaded.
    """
    return _synthesizer(model, device, precision).edit(
        audio,
        new_text,
        old_text=old_text,
        sample_rate=sample_rate,
        steps=steps,
        seed=seed,
        candidates=candidates,
        options=options,
    )


@lru_cache(maxsize=1)
def _synthesizer(model: str, device: str, precision: Precision) -> Synthesizer:
    return Synthesizer.load(model, device=device, precision=precision)
