"""A voice to speak with: a few seconds of it, and what is said there.

Shapes: S samples, T latents, C latent channels, U text tokens.
Source: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024, section 3 (the reference
stands on either side of what is generated).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import Tensor

from speechnar.asr.transcriber import Transcriber
from speechnar.audio.blocks import Samples
from speechnar.audio.source import AudioInput, Recording, open_audio
from speechnar.errors import AudioError, ConfigError, SpeechnarError
from speechnar.hub import Precision
from speechnar.text.sentences import clean, is_speakable
from speechnar.tts.acoustic import AcousticModel, Seconds, TimedWord, observed_durations, share, speaking_rate

logger = logging.getLogger(__name__)

MAX_VOICE_S = 15.0
"""Speech of a voice that is used."""
MIN_VOICE_S = 0.5
HEARD_S = 60.0
"""Of a longer recording without its text, only the beginning is listened to."""
EDGE_S = 0.15
"""Silence that is kept around the words."""
MIN_PEAK = 1e-3
"""-60 dB: below, a recording is silent."""
MARKS = ",.?!;:—-…"
MAX_ALIGNED_S = 30.0
"""Of speech whose words are found at once."""


@dataclass(frozen=True)
class Voice:
    """Speech of somebody, as the model sees it."""

    words: tuple[str, ...]
    """What is said, with a mark at its end where the model knows marks."""
    latents: Tensor
    """(T, C)"""
    feats: Tensor
    """(T times the frames of a latent, F) log-mels."""
    durations: Seconds
    """(U,) of the tokens of the words."""
    rate: float
    """How many times as long as predicted the words last."""


class Listener:
    """Where the words of a recording come from: a recogniser, which is loaded when it is first needed.

    When they are said is left to the aligner of the voice, if it has one: it knows sounds better than CTC does.
    """

    def __init__(self, name: str, device: str, acoustic: AcousticModel, *, precision: Precision = "auto") -> None:
        self._acoustic = acoustic
        self._name, self._device, self._precision = name, device, precision
        self._transcriber: Transcriber | None = None

    @property
    def transcriber(self) -> Transcriber:
        """The recogniser."""
        if self._transcriber is None:
            self._transcriber = Transcriber.load(self._name, device=self._device, precision=self._precision)
        return self._transcriber

    def hear(self, samples: Samples, sample_rate: int) -> list[TimedWord]:
        """Return the words said, with their times."""
        heard = self.transcriber.transcribe(samples, sample_rate=sample_rate, word_timestamps=True)
        words = [
            TimedWord(word.word, word.start, word.end) for segment in heard.segments for word in segment.words or ()
        ]
        total_s = len(samples) / sample_rate
        bounds = [(0, 0.0), *_cuts(words, total_s), (len(words), total_s)]
        found: list[TimedWord] = []
        for (first, begin_s), (last, end_s) in pairwise(bounds):
            part = samples[round(begin_s * sample_rate) : round(end_s * sample_rate)]
            aligned = self._acoustic.align(part, sample_rate, [word.text for word in words[first:last]])
            found += words[first:last] if aligned is None else [word.moved(begin_s) for word in aligned]
        return found

    def find(self, samples: Samples, sample_rate: int, text: str) -> list[TimedWord]:
        """Return the words of ``text`` with their times in up to 30 seconds.

        Raises:
            AudioError, ConfigError: as of `Transcriber.align_words`.
        """
        if len(samples) <= MAX_ALIGNED_S * sample_rate:
            aligned = self._acoustic.align(samples, sample_rate, text.split())
            if aligned is not None:
                return aligned
        found = self.transcriber.align_words(samples, text.split(), sample_rate=sample_rate)
        return [TimedWord(word.word, word.start, word.end) for word in found]


def _cuts(words: Sequence[TimedWord], total_s: float) -> list[tuple[int, float]]:
    """Return the words before which speech is cut, and when, into parts of at most `MAX_ALIGNED_S`, at long pauses.

    A part may be longer where a word or a pause is.
    """
    cuts: list[tuple[int, float]] = []
    first, begin_s = 0, 0.0
    while total_s - begin_s > MAX_ALIGNED_S:
        half_s, limit_s = begin_s + MAX_ALIGNED_S / 2, begin_s + MAX_ALIGNED_S
        places = [i for i in range(first + 1, len(words)) if half_s < words[i].start <= limit_s]
        if not places:  # nothing is said there for long
            places = [i for i in range(first + 1, len(words)) if words[i].start > limit_s][:1]
        if not places:
            break
        first = max(places, key=lambda i: words[i].start - words[i - 1].end)
        begin_s = (words[first - 1].end + words[first].start) / 2
        cuts.append((first, begin_s))
    return cuts


def learn_voice(
    acoustic: AcousticModel, listener: Listener, audio: AudioInput, *, text: str | None, sample_rate: int | None
) -> Voice:
    """Return the voice in a clip of up to 15 s of which the text is given, or at the beginning of a longer one.

    Raises:
        AudioError: the clip cannot be read, is silent, shorter than half a second, or too long for its text to be
            given; or there is no text and no word is recognised.
        ConfigError: the text has nothing to speak, or ``sample_rate`` is given beside a file.
    """
    recording = open_audio(audio, sample_rate)
    name = recording.name or "voice"
    samples, rest = _read(recording, acoustic.sample_rate, HEARD_S if text is None else MAX_VOICE_S)
    if len(samples) == 0 or float(np.abs(samples).max()) < MIN_PEAK:
        raise AudioError(f"{name}: a voice needs a clip with speech in it; this one is silent")
    seconds = len(samples) / acoustic.sample_rate
    if seconds < MIN_VOICE_S:
        raise AudioError(f"{name}: a voice needs at least {MIN_VOICE_S:g} s of speech, got {seconds:.2f} s")
    if text is None:
        heard = listener.hear(samples, acoustic.sample_rate)
        words: list[TimedWord] | None = [word for word in heard if word.end <= heard[0].start + MAX_VOICE_S]
        if not words:
            raise AudioError(f"{name}: no word is recognised in it; say what is spoken there by voice_text")
        text = " ".join(word.text for word in words)
        logger.info("%s: the voice says %r", name, text)
    else:
        if rest:
            raise AudioError(
                f"{name}: a voice with its text may last up to {MAX_VOICE_S:g} s; cut both, or leave the text out"
            )
        text = " ".join(clean(text).split())
        if not is_speakable(text):
            raise ConfigError(f"voice_text must be what the clip says, got {text[:60]!r}")
        words = _find_words(listener, samples, acoustic.sample_rate, text)
    return _to_voice(acoustic, samples, text, words)


def _find_words(listener: Listener, samples: Samples, sample_rate: int, text: str) -> list[TimedWord] | None:
    try:
        return listener.find(samples, sample_rate, text)
    except SpeechnarError as error:
        logger.warning("the words of the voice are not found in its clip, which is taken to be all speech (%s)", error)
        return None


def _to_voice(acoustic: AcousticModel, samples: Samples, text: str, words: list[TimedWord] | None) -> Voice:
    """Cut the clip close to its words where their times are known, and tell how long their tokens last."""
    begin_s, end_s = 0.0, len(samples) / acoustic.sample_rate
    if words:
        begin_s, end_s = max(words[0].start - EDGE_S, 0.0), min(words[-1].end + EDGE_S, end_s)
    samples = samples[round(begin_s * acoustic.sample_rate) : round(end_s * acoustic.sample_rate)]
    latents = acoustic.encode(samples)
    feats = acoustic.log_mel(samples)
    total_s = len(latents) * acoustic.latent_shift_s
    if text[-1] not in MARKS and "." in acoustic.tokenizer.pieces:
        text += "."
    written = tuple(text.split())
    spelling = acoustic.spell(written)
    if not any(spelling.sounds):
        raise ConfigError(f"model {acoustic.name} cannot speak what the voice says: {text[:60]!r}")
    predicted = acoustic.predict(spelling)
    if not words:
        whole = [TimedWord(text, begin_s, end_s)]
        return Voice(
            written,
            latents,
            feats,
            share(predicted, total_s),
            speaking_rate(replace(spelling, words=((0, len(predicted)),)), predicted, whole),
        )
    placed = [word.moved(-begin_s) for word in words]
    durations = observed_durations(spelling, predicted, placed, total_s)
    return Voice(written, latents, feats, durations, speaking_rate(spelling, predicted, placed))


def _read(recording: Recording, sample_rate: int, max_s: float) -> tuple[Samples, bool]:
    """Return the first ``max_s`` seconds, and whether there is more."""
    limit = round(max_s * sample_rate)
    read: list[Samples] = []
    for block in recording.blocks(sample_rate):
        read.append(block)
        if sum(map(len, read)) > limit:
            return np.concatenate(read)[:limit], True
    return np.concatenate(read) if read else np.zeros(0, dtype=np.float32), False
