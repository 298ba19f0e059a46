"""Batches of speech for training and validation: bucketed by length, augmented, and exactly resumable.

Every random choice about an utterance (speed, task, noise, ...) is drawn from a generator seeded by
(seed, epoch, utterance id, and which of its times it is where it comes several times an epoch), and the order by (seed,
epoch). So an epoch is the same whenever and from wherever it is started, and the whole position in the data is (epoch,
number of batches).
"""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import soundfile
from annotated_types import Ge, Le, MinLen
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from speechnar.audio.augment import add_noise, apply_gain, colored_noise, speed_perturb
from speechnar.audio.io import read_audio
from speechnar.config import Config
from speechnar.data.batch import Example, SpeechBatch, SpeechCollator
from speechnar.data.features import StoredFeatures
from speechnar.data.kaldi import Utterance
from speechnar.data.resumable import ResumableBatches
from speechnar.data.sampler import bucketed_batches
from speechnar.errors import AudioError, DataError
from speechnar.text.tokenizer import NA, Tokenizer

logger = logging.getLogger(__name__)

INT16_SCALE = 32768.0

Probability = Annotated[float, Ge(0.0), Le(1.0)]
Seconds = Annotated[float, Ge(0.0)]


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the lower bound must come first, got {bounds}")
    return bounds


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class DataConfig(Config):
    """Which data, in what portions, and how varied."""

    kind: Literal["speech"] = "speech"
    train: Path | tuple[Path, ...]
    """Kaldi data directories."""
    dev: Path | tuple[Path, ...]
    batch_seconds: PositiveFloat = 120.0
    """Audio of a batch with its padding: longest utterance times their number."""
    max_seconds: PositiveFloat = 30.0
    """Longer utterances are dropped."""
    min_seconds: PositiveFloat = 0.1
    repeat: Mapping[str, PositiveInt] = Field(default_factory=dict)
    """How often an utterance of a language (ISO 639-3) comes in an epoch of training, each time varied anew; those of
    other languages come once."""
    num_buckets: PositiveInt = 20
    speed_factors: Annotated[tuple[PositiveFloat, ...], MinLen(1)] = (0.9, 1.0, 1.1)
    """One is drawn for each utterance."""
    noise_prob: Probability = 0.0
    """Share of utterances with noise added, of a colour from white to brown."""
    noise_snr_db: Range = (10.0, 40.0)
    gain_db: Range = (-6.0, 6.0)
    edge_silence_s: Seconds = 0.0
    """Up to this much silence is put before and after."""
    asr_prob: Probability = 0.6
    """Share of recognition among utterances that have translations; the rest is translated."""
    nolang_prob: Probability = 0.5
    """Share of utterances whose language the model is not told."""
    prompt_prob: Probability = 0.5
    """Share of utterances with a previous text that is used as the prompt."""
    cache_bytes: Annotated[int, Ge(0)] = 2 << 30
    """Decoded audio kept in memory."""
    stored_features: bool = False
    """Read the features that `speechnar.train.extract_features` stored in the directories, in place of audio."""

    @model_validator(mode="after")
    def _check(self) -> "DataConfig":
        varied = {
            "speed_factors": set(self.speed_factors) != {1.0},
            "noise_prob": self.noise_prob > 0,
            "gain_db": self.gain_db != (0.0, 0.0),
            "edge_silence_s": self.edge_silence_s > 0,
        }
        wrong = [name for name, is_varied in varied.items() if is_varied]
        if self.stored_features and wrong:
            raise ValueError(
                f"stored_features were made of speech as it is, which {', '.join(wrong)} would vary; set speed_factors "
                "[1.0], noise_prob 0, gain_db [0, 0] and edge_silence_s 0"
            )
        return self


@dataclass(frozen=True)
class _Draw:
    """Everything drawn for one utterance in one epoch."""

    speed: float
    silence_s: tuple[float, float]
    snr_db: float | None
    gain_db: float
    translate_to: str | None
    hide_lang: bool
    use_prev_text: bool
    rng: np.random.Generator
    """Draws the noise."""

    def duration(self, utterance: Utterance) -> float:
        return utterance.duration_s / self.speed + sum(self.silence_s)

    def token_durations(self, utterance: Utterance) -> tuple[float, ...] | None:
        """Return the seconds of each token: silence at an edge belongs to the token there."""
        if not utterance.durations:
            return utterance.durations
        seconds = [duration / self.speed for duration in utterance.durations]
        seconds[0] += self.silence_s[0]
        seconds[-1] += self.silence_s[1]
        return tuple(seconds)


_Turn = tuple[Utterance, int]
"""An utterance, and which of its times in the epoch it is, from 0 on."""


class SpeechDataset(ResumableBatches[list[_Turn], SpeechBatch]):
    """The utterances of one or more data directories as batches.

    In training an utterance whose audio cannot be read is left out and counted in ``dropped``. Iteration raises
    AudioError where audio cannot be read: in validation any, in training all of a batch.

    Args:
        utterances: ids must be unique.
        tokenizer: encodes the targets.
        config: sizes and probabilities.
        training: shuffle and augment; otherwise every epoch is the same recognition task in the language given.
        seed: of every random choice.
        sample_rate: what audio is resampled to.
        stored: features in place of audio.

    Raises:
        DataError: ids repeat, no utterance is usable (with the reasons), or none is of a language to be repeated.
    """

    def __init__(
        self,
        utterances: Sequence[Utterance],
        tokenizer: Tokenizer,
        config: DataConfig,
        *,
        training: bool,
        seed: int,
        sample_rate: int = 16000,
        stored: StoredFeatures | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.stored = stored
        self.training = training
        self.seed = seed
        self.collate = SpeechCollator(tokenizer, sample_rate=sample_rate)
        self.dropped: Counter[str] = Counter()
        """Utterances left out, by reason."""
        self._utterances: dict[str, Utterance] = {}
        self._unreadable: set[str] = set()
        self._has_durations = any(utterance.durations is not None for utterance in utterances)
        for utterance in utterances:
            if utterance.utt_id in self._utterances:
                raise DataError(f"utterance id {utterance.utt_id!r} is repeated; ids must differ across directories")
            reason = self._fault(utterance)
            if reason:
                self.dropped[reason] += 1
            else:
                self._utterances[utterance.utt_id] = utterance
        if not self._utterances:
            raise DataError(f"none of {len(utterances)} utterances is usable: {dict(self.dropped)}")
        if training and (absent := config.repeat.keys() - {u.lang for u in self._utterances.values()}):
            raise DataError(f"data.repeat names {', '.join(sorted(absent))}, and no utterance is of that language")
        if self.dropped:
            logger.warning("dropped %s of %d utterances", dict(self.dropped), len(utterances))
        self._audio = _AudioCache(sample_rate, config.cache_bytes)
        self._bounds = _bucket_bounds([u.duration_s for u in self._utterances.values()], config.num_buckets)

    def __len__(self) -> int:
        """Return the number of utterances in use."""
        return len(self._utterances)

    def _fault(self, utterance: Utterance) -> str:  # noqa: PLR0911  # one line a reason
        if utterance.duration_s < self.config.min_seconds:
            return "shorter than min_seconds"
        if utterance.duration_s > self.config.max_seconds:
            return "longer than max_seconds"
        if self.collate.has_tasks and utterance.lang not in self.collate.languages:
            return "language unknown to the tokenizer"
        if utterance.text == NA and not self._targets(utterance):
            return "no text"
        if self.stored is not None and utterance.utt_id not in self.stored:
            return "no stored features"
        if self._has_durations and utterance.durations is None:
            return "no durations of tokens, which others have"
        return ""

    def _targets(self, utterance: Utterance) -> list[str]:
        """Return the languages into which the utterance can be translated; none in validation."""
        return sorted(self.collate.translates_to & utterance.translations.keys()) if self.training else []

    def _plan(self, epoch: int) -> Iterator[list[_Turn]]:
        """Yield the utterances of each batch, by how long they will be."""
        utterances = [self._utterances[utt_id] for utt_id in sorted(self._utterances)]
        turns = [(utterance, number) for utterance in utterances for number in range(self._times(utterance))]
        if self.training:
            np.random.default_rng((self.seed, epoch)).shuffle(turns)
        return bucketed_batches(
            ((turn, self._draw(epoch, turn).duration(turn[0])) for turn in turns),
            self._bounds,
            max_size=self.config.batch_seconds,
            seed=self.seed + epoch if self.training else None,
        )

    def _times(self, utterance: Utterance) -> int:
        return self.config.repeat.get(utterance.lang or "", 1) if self.training else 1

    def _draw(self, epoch: int, turn: _Turn) -> _Draw:
        config = self.config
        utterance, number = turn
        name = f"{self.seed}/{epoch}/{utterance.utt_id}" + (f"/{number}" if number else "")
        digest = hashlib.sha256(name.encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        if not self.training:
            return _Draw(1.0, (0.0, 0.0), None, 0.0, None, hide_lang=False, use_prev_text=False, rng=rng)
        speed = float(rng.choice(config.speed_factors))
        before, after = rng.uniform(0.0, config.edge_silence_s, size=2)
        noisy, snr_db = rng.random() < config.noise_prob, float(rng.uniform(*config.noise_snr_db))
        gain_db = float(rng.uniform(*config.gain_db))
        hide_lang, use_prev_text = rng.random(2) < (config.nolang_prob, config.prompt_prob)
        targets = self._targets(utterance)
        translate = targets and (utterance.text == NA or rng.random() >= config.asr_prob)
        return _Draw(
            speed=speed,
            silence_s=(float(before), float(after)),
            snr_db=snr_db if noisy else None,
            gain_db=gain_db,
            translate_to=str(rng.choice(targets)) if translate else None,
            hide_lang=bool(hide_lang),
            use_prev_text=bool(use_prev_text),
            rng=rng,
        )

    def _batch(self, epoch: int, plan: list[_Turn]) -> SpeechBatch:
        examples = []
        for turn in plan:
            try:
                examples.append(self._example(epoch, turn))
            except (AudioError, DataError) as error:
                self._count_unreadable(turn[0], error)
                fault = error
        if not examples:
            raise fault
        return self.collate(examples)

    def _count_unreadable(self, utterance: Utterance, error: AudioError | DataError) -> None:
        if not self.training:
            raise error
        if utterance.utt_id not in self._unreadable:
            self._unreadable.add(utterance.utt_id)
            self.dropped["unreadable audio"] += 1
            logger.warning("utterance %r is left out: %s", utterance.utt_id, error)

    def _example(self, epoch: int, turn: _Turn) -> Example:
        draw, utterance = self._draw(epoch, turn), turn[0]
        rate = self.collate.sample_rate
        wav = np.zeros(0, np.float32) if self.stored is not None else self._audio.read(utterance)
        if draw.speed != 1.0:
            wav = speed_perturb(wav, draw.speed, rate)
        if any(draw.silence_s):
            wav = np.pad(wav, tuple(round(seconds * rate) for seconds in draw.silence_s))
        if draw.snr_db is not None:
            wav = add_noise(wav, colored_noise(len(wav), draw.rng.uniform(0.0, 2.0), draw.rng), draw.snr_db)
        if draw.gain_db != 0.0:
            wav = apply_gain(wav, draw.gain_db)
        return Example(
            utt_id=utterance.utt_id,
            wav=np.ascontiguousarray(wav, dtype=np.float32),
            asr_text=utterance.text,
            lang=utterance.lang,
            translate_to=draw.translate_to,
            translation=None if draw.translate_to is None else utterance.translations[draw.translate_to],
            hide_lang=draw.hide_lang,
            prev_text=utterance.prev_text if draw.use_prev_text else None,
            spk_id=utterance.spk_id,
            durations=draw.token_durations(utterance),
            feats=None if self.stored is None else self.stored.read(utterance.utt_id),
        )


class _AudioCache:
    """Decoded mono audio by utterance, kept as 16-bit integers until the limit is reached."""

    def __init__(self, sample_rate: int, max_bytes: int) -> None:
        self.sample_rate = sample_rate
        self.free_bytes = max_bytes
        self.kept: dict[str, NDArray[np.int16]] = {}

    def read(self, utterance: Utterance) -> NDArray[np.float32]:
        """Return the samples (S,) of ``utterance``; the first time they are decoded, later copied."""
        if utterance.utt_id in self.kept:
            return self.kept[utterance.utt_id].astype(np.float32) / INT16_SCALE
        wav = read_utterance(utterance, self.sample_rate)
        rounded = np.clip(np.rint(wav * INT16_SCALE), -INT16_SCALE, INT16_SCALE - 1).astype(np.int16)
        if rounded.nbytes <= self.free_bytes:
            self.free_bytes -= rounded.nbytes
            self.kept[utterance.utt_id] = rounded
        # Rounded the first time, too: a resumed run must see the samples that an uninterrupted one does.
        return rounded.astype(np.float32) / INT16_SCALE


def read_utterance(utterance: Utterance, sample_rate: int) -> NDArray[np.float32]:
    """Return the samples (S,) of ``utterance``, mono at ``sample_rate``; a segment is read without its recording.

    Raises:
        AudioError: the file is no audio, or ends before the segment begins.
        DataError: its pipe fails.
    """
    start_s, end_s = utterance.start_s, utterance.end_s
    if start_s is None or end_s is None:
        return read_audio(utterance.open_audio(), target_rate=sample_rate).samples
    if utterance.pipe is None:
        try:
            with soundfile.SoundFile(utterance.wav_path) as file:
                rate = file.samplerate
                file.seek(min(round(start_s * rate), file.frames))
                block = file.read(round((end_s - start_s) * rate), dtype="float32", always_2d=True)
            return read_audio(block.mean(axis=1), sample_rate=rate, target_rate=sample_rate).samples
        except (soundfile.LibsndfileError, OSError):
            logger.debug("%s: not for soundfile, decoded whole for each segment", utterance.wav_path)
    whole = read_audio(utterance.open_audio(), target_rate=sample_rate).samples
    part = whole[round(start_s * sample_rate) : round(end_s * sample_rate)]
    if not len(part):
        raise AudioError(f"{utterance.wav_path}: ends before utterance {utterance.utt_id!r} begins at {start_s} s")
    return part


def _bucket_bounds(durations: Sequence[float], num_buckets: int) -> list[float]:
    """Return the upper bounds, in seconds, of all buckets but the last; each bucket holds equally much audio."""
    ordered = np.sort(np.asarray(durations))
    shares = np.cumsum(ordered) / np.sum(ordered)
    inner = np.searchsorted(shares, np.arange(1, num_buckets) / num_buckets)
    # With one bucket, a second for what augmentation makes longer than all.
    return sorted({float(ordered[index]) for index in inner}) or [float(ordered[-1])]
