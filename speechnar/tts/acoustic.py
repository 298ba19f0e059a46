"""A model of speech synthesis and its text: words to tokens, their durations, and latents between known ones.

Shapes: K candidates, U text tokens, T latents, C latent channels, F mel bands, S samples.
Source: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024, section 3 (known speech
on either side of what is generated).
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from speechnar.audio.blocks import Samples
from speechnar.audio.io import resample
from speechnar.data.latents import LatentBatch
from speechnar.errors import ConfigError
from speechnar.models.base import LoadedModel
from speechnar.models.tts.mel_autoencoder import KnownFrames, MelAutoencoder
from speechnar.models.tts.monophones import RATE as ALIGNER_RATE
from speechnar.models.tts.tts import Tts
from speechnar.text.atoms import lost_letters
from speechnar.text.phonemes import PhonemeTokenizer, encode_words
from speechnar.text.sentences import is_speakable
from speechnar.text.spoken import spell_out
from speechnar.tts.options import check_steps

logger = logging.getLogger(__name__)

DEFAULT_STEPS = 16
"""Of a model whose card does not say how many it was trained for."""
"""More is a typing error."""
RATE_RANGE = (0.5, 2.0)
"""How much slower or faster than predicted a reference may be said to speak; the rest is errors of alignment."""

Seconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spelling:
    """A text in the tokens of a model."""

    tokens: tuple[int, ...]
    words: tuple[tuple[int, int], ...]
    """Of each word, its first token and the one after its last; what cannot be spoken has none."""
    sounds: tuple[bool, ...]
    """Of each token, whether it is spoken; others are marks, and silences before and after."""


@dataclass(frozen=True)
class TimedWord:
    """A word as it is written, and when it is spoken, in seconds."""

    text: str
    start: float
    end: float
    sounds: tuple[float, ...] = ()
    """How long each of its sounds lasts; empty where that is not known."""

    def moved(self, seconds: float) -> "TimedWord":
        """Return the word as it is spoken ``seconds`` later."""
        return replace(self, start=self.start + seconds, end=self.end + seconds)


class AcousticModel:
    """A synthesis model in memory.

    Raises:
        ConfigError: the model is none of speech synthesis.
    """

    def __init__(
        self, loaded: LoadedModel, *, default_steps: int | None = None, default_edit_steps: int | None = None
    ) -> None:
        if not isinstance(loaded.model, Tts):
            raise ConfigError(f"{loaded.name}: {type(loaded.model).__name__} does not turn text into speech")
        self.name = loaded.name
        self.default_steps = check_steps(DEFAULT_STEPS if default_steps is None else default_steps)
        self.default_edit_steps = check_steps(self.default_steps if default_edit_steps is None else default_edit_steps)
        self.model = loaded.model
        self.tokenizer = loaded.tokenizer
        self.device = next(loaded.model.parameters()).device
        self.sample_rate = self.model.sample_rate
        self.latent_shift_s = self.model.latent_shift_s
        self.latent_dim = self.model.config.ardit.latent_dim
        self.frames_per_latent = self.model.config.codec.frames_per_latent
        self.hop_length = self.model.config.codec.frontend.hop_length
        self.latent_samples = self.frames_per_latent * self.hop_length

    def spell(self, words: Sequence[str]) -> Spelling:
        """Return the tokens of words, none of which has white space in it.

        A word that the model cannot spell is tried in small letters, in capitals, and as English is read aloud; letters
        that remain unknown are left out, with a warning. Another one names the words that have no sound, or lose some.
        """
        unk_id, written = self.tokenizer.unk_id, words
        if unk_id in self.tokenizer.encode(" ".join(words)):
            words = [self._respell(word) for word in words]
        text = " ".join(words)
        tokens, spans = self.tokenizer.encode(text), encode_words(self.tokenizer, text)
        places = list(accumulate((token != unk_id for token in tokens), initial=0))
        if places[-1] < len(tokens):
            lost = len(tokens) - places[-1]
            logger.warning("%s: cannot speak %d letters of %r, left out", self.name, lost, text[:60])
        # A word read aloud may be several.
        parts = [len(word.split()) for word in words]
        bounds = [(places[span.start], places[span.end]) for span in spans]
        bounds.append((bounds[-1][1],) * 2 if bounds else (0, 0))
        firsts = accumulate(parts, initial=0)
        kept = tuple(token for token in tokens if token != unk_id)
        spelling = Spelling(
            tokens=kept,
            words=tuple(
                (bounds[first][0], bounds[first + num - 1][1]) if num else (bounds[first][0],) * 2
                for first, num in zip(firsts, parts, strict=False)
            ),
            sounds=tuple(is_speakable(self.tokenizer.piece_of(token)) for token in kept),
        )
        unsaid = self._unsaid(written, spelling)
        if unsaid:
            logger.warning("%s: has not a sound for all of %s, left out", self.name, ", ".join(map(repr, unsaid)))
        return spelling

    @torch.no_grad()
    def predict(self, spelling: Spelling) -> Seconds:
        """Return how many seconds (U,) each token lasts at the usual pace."""
        if not spelling.tokens:
            return np.zeros(0)
        tokens = torch.tensor([spelling.tokens], device=self.device)
        lens = torch.tensor([len(spelling.tokens)], device=self.device)
        predicted: Seconds = self.model.predict_durations(tokens, lens)[0].double().cpu().numpy()
        return predicted

    @torch.no_grad()
    def encode(self, samples: Samples) -> Tensor:
        """Return the latents (T, C) of samples (S,) at the model's rate; T may be 0."""
        wav = torch.from_numpy(samples)[None].to(self.device)
        latents, _ = self.model.codec.encode(wav, torch.tensor([len(samples)], device=self.device))
        return latents[0]

    @torch.no_grad()
    def log_mel(self, samples: Samples) -> Tensor:
        """Return the log-mels (T, F) of samples (S,) at the model's rate, of whole latents only."""
        wav = torch.from_numpy(samples)[None].to(self.device)
        feats, _ = self.model.codec.frontend(wav, torch.tensor([len(samples)], device=self.device))
        return feats[0, : feats.size(1) // self.frames_per_latent * self.frames_per_latent]

    def align(self, samples: Samples, sample_rate: int, words: Sequence[str]) -> list[TimedWord] | None:
        """Return when ``words`` are said in samples (S,); None if the model has no aligner, or they are too many.

        A word that the model cannot speak stands between its neighbours.
        """
        aligner = self.model.aligner
        spelling = self.spell(words)
        if aligner is None or not any(spelling.sounds):
            return None
        wav = torch.from_numpy(resample(samples, sample_rate, ALIGNER_RATE))
        durations = aligner.durations(wav, spelling.tokens)
        if durations is None:
            return None
        times = [0.0, *accumulate(durations)]
        found: list[TimedWord] = []
        place = 0.0
        for word, (first, end) in zip(words, spelling.words, strict=True):
            sounds = [token for token in range(first, end) if spelling.sounds[token]]
            start, place = (times[sounds[0]], times[sounds[-1] + 1]) if sounds else (place, place)
            found.append(TimedWord(word, start, place, tuple(durations[token] for token in sounds)))
        return found

    def batch(self, spelling: Spelling, durations: Seconds, latents: Tensor) -> LatentBatch:
        """Return latents (K, T, C) with their text; ``durations`` (U,) in seconds are scaled to the T latents."""
        size, num_latents = latents.shape[:2]
        token_lens = torch.full((size,), len(spelling.tokens), device=self.device)
        latent_lens = torch.full((size,), num_latents, device=self.device)
        seconds = torch.from_numpy(np.asarray(durations)).to(self.device).expand(size, -1)
        return LatentBatch(
            tokens=torch.tensor([spelling.tokens], device=self.device).expand(size, -1),
            token_lens=token_lens,
            latents=latents,
            latent_lens=latent_lens,
            positions=self.model.positions(token_lens, latent_lens, seconds),
        )

    def fill(
        self, speech: LatentBatch, start: int, length: int, *, seeds: Sequence[int], num_steps: int
    ) -> Iterator[Tensor]:
        """Yield block after block (K, n, C) of the ``length`` latents from ``start`` on."""
        starts = torch.full((len(seeds),), start, device=self.device)
        lens = torch.full((len(seeds),), length, device=self.device)
        return self.model.ardit.stream(speech, starts, lens, seeds=seeds, num_steps=num_steps)

    @torch.no_grad()
    def decode(self, latents: Tensor, known: KnownFrames | None = None) -> Tensor:
        """Return the log-mels (T, F) of latents (L, C); ``known`` ones stay as they are."""
        codec, lens = self.model.codec, torch.tensor([len(latents)], device=self.device)
        if isinstance(codec, MelAutoencoder):
            return codec.decode(latents[None], lens, context=known)[0][0]
        feats = codec.decode(latents[None], lens)[0][0]
        return feats if known is None else torch.where(known.known[0, :, None], known.feats[0], feats)

    @property
    def decodes_alone(self) -> bool:
        """Whether the log-mels of a latent do not depend on other latents."""
        return not isinstance(self.model.codec, MelAutoencoder)

    @torch.no_grad()
    def vocode(self, feats: Tensor) -> Samples:
        """Return the samples of log-mels (T, F)."""
        wav, _ = self.model.vocoder(feats[None], torch.tensor([len(feats)], device=self.device))
        samples: Samples = wav[0].cpu().numpy()
        return samples

    def _unsaid(self, words: Sequence[str], spelling: Spelling) -> list[str]:
        """Return the words that have letters but no sound, or letters that stand for nothing in the tokens."""
        reads_english = isinstance(self.tokenizer, PhonemeTokenizer)
        return [
            word
            for word, (first, end) in zip(words, spelling.words, strict=True)
            # Figures may be said with those before them: 10 000.
            if (is_speakable(word) and not any(spelling.sounds[first:end]) and not word.isdecimal())
            or (reads_english and lost_letters(word))
        ]

    def _respell(self, word: str) -> str:
        """Return the first way to write ``word`` of those with the fewest unknown tokens."""
        encode, unk_id, said = self.tokenizer.encode, self.tokenizer.unk_id, spell_out(word)
        ways = [word, word.lower(), word.upper(), *([said.lower(), said.upper()] if said else [])]
        return min(ways, key=lambda way: encode(way).count(unk_id))


def observed_durations(spelling: Spelling, predicted: Seconds, words: Sequence[TimedWord], total_s: float) -> Seconds:
    """Return the seconds (U,) of tokens of words whose times are known, from the beginning to ``total_s``.

    Within a word its sounds share the time as they do in the recording, if that is known, else as predicted. A pause
    goes to the mark between the two words, else it lengthens the last token before it; silence before and after goes to
    the tokens there, if there are any.
    """
    times = [0.0, *(time for word in words for time in (word.start, word.end)), total_s]
    times = list(np.maximum.accumulate(np.clip(times, 0.0, total_s)))
    durations = np.zeros(len(spelling.tokens))
    sounds = np.array(spelling.sounds, dtype=bool)
    last = spelling.words[0][0] - 1 if spelling.words else -1
    owed = times[1]  # of silence that no token has yet
    for index, (first, end) in enumerate(spelling.words):
        if first > 0 and last >= 0:
            durations[last] += owed
            owed = 0.0
        start_s, end_s, next_s = times[2 * index + 1 : 2 * index + 4]
        if first == end:
            owed += next_s - start_s
            continue
        spoken = first + np.flatnonzero(sounds[first:end])
        if len(spoken) == 0:
            spoken = np.arange(first, end)
        known = words[index].sounds
        shares = np.array(known) if len(known) == len(spoken) else predicted[spoken]
        durations[spoken] = share(shares, end_s - start_s + (owed if last < 0 else 0.0))
        owed = next_s - end_s
        last = end - 1
    durations[-1] += owed
    return durations


def share(predicted: Seconds, seconds: float) -> Seconds:
    """Return ``seconds`` shared out in the proportions of ``predicted`` (N,), or evenly where all are 0."""
    total = predicted.sum()
    return predicted * (seconds / total) if total > 0 else np.full(len(predicted), seconds / max(len(predicted), 1))


def speaking_rate(spelling: Spelling, predicted: Seconds, words: Sequence[TimedWord]) -> float:
    """Return how many times as long as predicted the words last, pauses aside, within `RATE_RANGE`; 1 if unknown."""
    seconds = expected = 0.0
    for word, (first, end) in zip(words, spelling.words, strict=True):
        tokens = [token for token in range(first, end) if spelling.sounds[token]]
        if tokens and word.end > word.start:
            seconds += word.end - word.start
            expected += float(predicted[tokens].sum())
    return float(np.clip(seconds / expected, *RATE_RANGE)) if expected > 0 and seconds > 0 else 1.0


def derive_seed(seed: int, *place: int) -> int:
    """Return the seed of what stands at ``place`` (a sentence, a candidate); no place of as many numbers shares it."""
    return int(np.random.SeedSequence([seed, *place]).generate_state(1, np.uint32)[0])
