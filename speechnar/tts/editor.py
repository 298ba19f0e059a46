"""Recorded speech with other words: only what differs is spoken anew, between the latents before and after it.

The words of a recording come from a recogniser, their times from the voice's own aligner if it has one
(`speechnar.tts.voice.Listener`). Those of the new text that differ replace theirs, with a little of what is around
them.
All other samples stay bit for bit. At either end of what is new, ten milliseconds inside it are a crossfade from the
recording, at the shift where the two are most alike.

Shapes: S samples, T latents, K candidates.
Source: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024, section 3 (infilling, and
of several candidates the one after which the model goes on as the recording does). Ours is that a candidate should also
be near the mean of all: far from it are sounds that nobody says.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from speechnar.audio.blocks import Samples
from speechnar.audio.io import Audio, SampleType, read_original, resample
from speechnar.audio.source import AudioInput
from speechnar.data.latents import LatentBatch
from speechnar.errors import AudioError, ConfigError
from speechnar.models.tts.mel_autoencoder import KnownFrames
from speechnar.models.tts.vocos_stream import delay_frames
from speechnar.text.sentences import clean, is_speakable
from speechnar.text.spoken import spoken_words
from speechnar.tts.acoustic import (
    AcousticModel,
    Seconds,
    Spelling,
    TimedWord,
    derive_seed,
    observed_durations,
    speaking_rate,
)
from speechnar.tts.voice import Listener

logger = logging.getLogger(__name__)

CONTEXT_S = 5.0
"""Recorded speech on either side that the model sees."""
MARGIN_S = 0.06
"""What is spoken anew on either side of changed words: times of words are not exact, and sounds overlap."""
MAX_PAUSE_S = 0.1
"""Of a pause beside a changed word, what counts as its own."""
MIN_WORDS_BETWEEN = 2
"""Changes with fewer equal words between them are one."""
MAX_SILENCE_S = 0.5
"""Of silence before the first and after the last word that the model hears."""
CROSSFADE_S = 0.01
MAX_SHIFT_S = 0.005
"""A period of a deep voice, both ways together."""
CONTINUED_LATENTS = 4
"""By which candidates are compared, if the model has no blocks."""
TYPICAL = 3.0
"""How much more it counts that a candidate is like the others; chosen on the edits/dev.txt of LJ Speech."""
MIN_NORM = 1e-6
NEAR_S, AROUND_S = 0.001, 0.05


@dataclass(frozen=True)
class Change:
    """Words of a recording that were replaced by others, and the time that this took; each side may have no words.

    Samples outside ``old_start`` to ``old_end`` of the old recording are those outside ``new_start`` to ``new_end`` of
    the new one.
    """

    old_text: str
    new_text: str
    old_start: float
    old_end: float
    new_start: float
    new_end: float
    click: float
    """The larger `click` of its two ends."""


@dataclass(frozen=True)
class EditedSpeech(Audio):
    """A recording with other words, at its own sample rate."""

    changes: tuple[Change, ...] = ()
    """From left to right; none if the words are the same."""
    subtype: SampleType | None = None
    """How the recording stored its samples; None: in 16 bits or less."""

    def save(self, path: str | Path, *, subtype: SampleType | None = None) -> None:
        """Write a file as `Audio.save` does, by default with samples like those of the recording, if that can be."""
        if subtype is None and self.subtype is not None:
            kind = Path(path).suffix.lstrip(".").upper()
            choices: tuple[SampleType, ...] = (self.subtype, "PCM_24")
            known = kind in soundfile.available_formats()
            subtype = next((choice for choice in choices if known and soundfile.check_format(kind, choice)), None)
        super().save(path, subtype=subtype)


def click(samples: Samples, sample_rate: int, at: int) -> float:
    """Return how sharp the bend of samples (S,) at index ``at`` is: up to about 1 there is no click.

    It is the largest second difference within a millisecond of ``at``, over the largest one within 50 ms otherwise.
    """
    bends = np.abs(np.diff(samples.astype(np.float64), n=2, prepend=0.0, append=0.0))[1:]
    near, around = round(NEAR_S * sample_rate), round(AROUND_S * sample_rate)
    here = bends[max(at - near, 0) : at + near].max(initial=0.0)
    others = np.concatenate([bends[max(at - around, 0) : max(at - near, 0)], bends[at + near : at + around]])
    return float(here / max(others.max(initial=0.0), 1e-4))


def edit_speech(
    acoustic: AcousticModel,
    listener: Listener,
    audio: AudioInput,
    new_text: str,
    *,
    old_text: str | None,
    sample_rate: int | None,
    num_steps: int,
    seed: int,
    num_candidates: int,
) -> EditedSpeech:
    """Return ``audio`` with the words of ``new_text``; see `speechnar.tts.synthesizer.Synthesizer.edit`."""
    new_words = _written_words(new_text, "the new text")
    recording, subtype = read_original(audio, sample_rate=sample_rate)
    if old_text is None:
        heard = listener.hear(recording.samples, recording.sample_rate)
        words = [word for word in heard if is_speakable(word.text)]
        if not words:
            raise AudioError("no word is recognised in the recording; say what is spoken there by old_text")
    else:
        old_words = " ".join(_written_words(old_text, "the old text"))
        words = listener.find(recording.samples, recording.sample_rate, old_words)
    spans = find_changes([word.text for word in words], new_words)
    num_changed = sum(last - first for first, last, _, _ in spans)
    if old_text is None and 2 * num_changed > len(words):
        logger.warning(
            "%d of the %d words recognised differ from the new text; if they were misheard, give the old text",
            num_changed,
            len(words),
        )
    take = _Take(acoustic, recording.samples, recording.sample_rate, words)
    changes: list[Change] = []
    for number, (first, last, new_first, new_last) in reversed(list(enumerate(spans))):
        seeds = [derive_seed(seed, number, candidate) for candidate in range(num_candidates)]
        changes.insert(0, take.respeak(first, last, new_words[new_first:new_last], seeds=seeds, num_steps=num_steps))
    shift_s = 0.0
    for i, change in enumerate(changes):
        changes[i] = replace(change, new_start=change.new_start + shift_s, new_end=change.new_end + shift_s)
        shift_s += (change.new_end - change.new_start) - (change.old_end - change.old_start)
    return EditedSpeech(take.samples, recording.sample_rate, tuple(changes), subtype)


def find_changes(old: Sequence[str], new: Sequence[str]) -> list[tuple[int, int, int, int]]:
    """Return which words of ``old`` (first, last + 1) become which of ``new`` (first, last + 1), from left to right.

    Words are compared as they are read aloud, without letter case and punctuation.
    """
    matcher = SequenceMatcher(None, _sounds_of(old), _sounds_of(new), autojunk=False)
    spans: list[tuple[int, int, int, int]] = []
    for kind, *span in matcher.get_opcodes():
        if kind == "equal":
            continue
        if spans and span[0] - spans[-1][1] < MIN_WORDS_BETWEEN:
            spans[-1] = (spans[-1][0], span[1], spans[-1][2], span[3])
        else:
            spans.append((span[0], span[1], span[2], span[3]))
    return spans


class _Take:
    """A recording that is being edited, from right to left, so that times further left stay true."""

    def __init__(self, acoustic: AcousticModel, samples: Samples, sample_rate: int, words: list[TimedWord]) -> None:
        self.samples = samples
        self._acoustic = acoustic
        self._rate = sample_rate
        self._words = words
        self._untouched = len(samples)
        """Where the last change begins."""

    def respeak(self, first: int, last: int, new: Sequence[str], *, seeds: Sequence[int], num_steps: int) -> Change:
        """Replace words ``first`` to ``last`` - 1 by ``new``."""
        acoustic, shift_s = self._acoustic, self._acoustic.latent_shift_s
        begin_s, end_s = self._bounds(first, last)
        lower, upper, window = self._window(first, last, begin_s, end_s)
        origin_s = window.start / self._rate
        begin_s, end_s = begin_s - origin_s, end_s - origin_s
        clip = resample(self.samples[window], self._rate, acoustic.sample_rate)
        latents = acoustic.encode(clip)
        if len(latents) == 0:
            raise AudioError(f"the recording must last {shift_s:g} s at least to be edited")
        # What is spoken anew, in latents of the window; not what has been already.
        most = max(min(len(latents), int((self._untouched / self._rate - origin_s) / shift_s)), 1)
        gap_begin = int(np.clip(np.floor((begin_s - MARGIN_S) / shift_s), 0, most - 1))
        gap_end = int(np.clip(np.ceil((end_s + MARGIN_S) / shift_s), gap_begin + 1, most))

        cut = window.start + self._samples(gap_begin * shift_s), window.start + self._samples(gap_end * shift_s)
        plan = self._plan(lower, upper, (first, last), new, origin_s)
        if not plan.spelling.tokens:  # deleted where no other word is near: nothing is to be spoken
            return self._replace(cut, self._close(cut), (first, last), (), new)
        margins_s = (begin_s - gap_begin * shift_s) + (gap_end * shift_s - end_s)
        length = max(round((margins_s + plan.seconds) / shift_s), 1)
        placed = plan.place(begin_s, end_s, max(length * shift_s - margins_s, 0.0))
        known = torch.cat([latents[:gap_begin], latents.new_zeros(length, latents.size(1)), latents[gap_end:]])
        durations = observed_durations(plan.spelling, plan.predicted, placed, len(known) * shift_s)
        speech = acoustic.batch(plan.spelling, durations, known.expand(len(seeds), -1, -1))
        best = self._generate(speech, gap_begin, length, seeds=seeds, num_steps=num_steps)

        spoken, spoken_s = self._sound(best, acoustic.log_mel(clip), (gap_begin, gap_end), length)
        start = self._samples(gap_begin * shift_s - spoken_s)
        piece = self._join(cut, spoken, start, start + self._samples(length * shift_s))
        fresh = [word.moved(origin_s) for word in placed[first - lower : first - lower + len(new)]]
        return self._replace(cut, piece, (first, last), fresh, new)

    def _replace(
        self,
        cut: tuple[int, int],
        piece: Samples,
        span: tuple[int, int],
        fresh: Sequence[TimedWord],
        new: Sequence[str],
    ) -> Change:
        """Put ``piece`` in the place of the samples of ``cut``, and ``fresh`` words in that of words ``span``."""
        words, (first, last) = self._words, span
        self.samples = np.concatenate([self.samples[: cut[0]], piece, self.samples[cut[1] :]])
        self._untouched = cut[0]
        end = cut[0] + len(piece)
        moved_s = (end - cut[1]) / self._rate
        later = (word.moved(moved_s) for word in words[last:])
        self._words = [*words[:first], *fresh, *later]
        joints = [at for at in (cut[0], end) if 0 < at < len(self.samples)]
        return Change(
            old_text=" ".join(word.text for word in words[first:last]),
            new_text=" ".join(new),
            old_start=cut[0] / self._rate,
            old_end=cut[1] / self._rate,
            new_start=cut[0] / self._rate,
            new_end=end / self._rate,
            click=max((click(self.samples, self._rate, at) for at in joints), default=0.0),
        )

    def _close(self, cut: tuple[int, int]) -> Samples:
        """Return a crossfade from what begins ``cut`` to what ends it."""
        size = min(self._samples(CROSSFADE_S), cut[1] - cut[0])
        before, after = self.samples[cut[0] : cut[0] + size], self.samples[cut[1] - size : cut[1]]
        return _crossfade(before, after, _ramp(size))

    def _samples(self, seconds: float) -> int:
        return round(seconds * self._rate)

    def _bounds(self, first: int, last: int) -> tuple[float, float]:
        """Return from where to where words ``first`` to ``last`` - 1 reach, with a part of the pauses around them."""
        words, total_s = self._words, len(self.samples) / self._rate
        before_s = words[first - 1].end if first else 0.0
        after_s = words[last].start if last < len(words) else total_s
        if first == last:  # between two words, or at an end: close to the word that is there
            near_s = (before_s + after_s) / 2
            near_s = max(after_s - MAX_PAUSE_S, near_s) if first == 0 else min(before_s + MAX_PAUSE_S, near_s)
            return near_s, near_s
        begin_s, end_s = words[first].start, words[last - 1].end
        return (
            max((before_s + begin_s) / 2 if first else before_s, begin_s - MAX_PAUSE_S),
            min((after_s + end_s) / 2 if last < len(words) else after_s, end_s + MAX_PAUSE_S),
        )

    def _window(self, first: int, last: int, begin_s: float, end_s: float) -> tuple[int, int, slice]:
        """Return the words (first, last + 1) that the model sees, and the samples that it hears."""
        words, lower, upper = self._words, first, last
        while lower > 0 and words[lower - 1].start >= begin_s - CONTEXT_S:
            lower -= 1
        while upper < len(words) and words[upper].end <= end_s + CONTEXT_S:
            upper += 1
        head_s = words[lower].start if lower < first else begin_s
        tail_s = words[upper - 1].end if upper > last else end_s
        earliest_s = words[lower - 1].end if lower else 0.0
        latest_s = words[upper].start if upper < len(words) else len(self.samples) / self._rate
        begin = round(max(earliest_s, head_s - MAX_SILENCE_S, 0.0) * self._rate)
        end = round(min(latest_s, tail_s + MAX_SILENCE_S) * self._rate)
        return lower, upper, slice(min(begin, round(begin_s * self._rate)), max(end, round(end_s * self._rate)))

    def _plan(self, lower: int, upper: int, span: tuple[int, int], new: Sequence[str], origin_s: float) -> "_Plan":
        """Spell what is going to be said in the window, and say how long the new words would last here."""
        first, last = span
        acoustic = self._acoustic
        words = [word.moved(-origin_s) for word in self._words]
        old = words[lower:upper]
        old_spelling = acoustic.spell([word.text for word in old])
        rate = speaking_rate(old_spelling, acoustic.predict(old_spelling), old) if old else 1.0
        before, after = words[lower:first], words[last:upper]
        texts = [*(word.text for word in before), *new, *(word.text for word in after)]
        spelling = acoustic.spell(texts)
        return _Plan(before, new, after, spelling, acoustic.predict(spelling) * rate)

    def _generate(
        self,
        speech: LatentBatch,
        begin: int,
        length: int,
        *,
        seeds: Sequence[int],
        num_steps: int,
    ) -> Tensor:
        """Return the latents (T, C) of the candidate near all others after which the model best follows the recording.

        Both are mean squares over latents and channels: how far it is from the mean of the candidates, `TYPICAL` times,
        and how far what the model says after it is from the recording.
        """
        acoustic, known = self._acoustic, speech.latents
        end = begin + length
        made = torch.cat(list(acoustic.fill(speech, begin, length, seeds=seeds, num_steps=num_steps)), dim=1)
        whole = torch.cat([known[:, :begin], made, known[:, end:]], dim=1)
        num_next = min(acoustic.model.config.ardit.block_size or CONTINUED_LATENTS, known.size(1) - end)
        distances = TYPICAL * (made - made.mean(0)).square().mean((1, 2))
        if num_next > 0 and len(seeds) > 1:
            following = replace(speech, latents=whole)
            # The same noise after each candidate, so that it alone makes the difference.
            same = [seeds[0]] * len(seeds)
            blocks = list(acoustic.fill(following, end, num_next, seeds=same, num_steps=num_steps))
            distances += (torch.cat(blocks, dim=1) - known[:, end : end + num_next]).square().mean((1, 2))
        return whole[int(distances.argmin())]

    def _sound(self, latents: Tensor, feats: Tensor, gap: tuple[int, int], length: int) -> tuple[Samples, float]:
        """Return the sound of the gap and around it, at the recording's rate, and its place in the window, seconds.

        Args:
            latents: (T, C) of the window with the new words.
            feats: log-mels of the window as recorded.
            gap: the latents of the recorded window that are replaced, first and last + 1.
            length: of the latents in their place.
        """
        acoustic = self._acoustic
        num_frames, hop_length = acoustic.frames_per_latent, acoustic.hop_length
        begin, end = gap[0] * num_frames, (gap[0] + length) * num_frames
        template = torch.cat(
            [feats[:begin], feats.new_zeros(end - begin, feats.size(1)), feats[gap[1] * num_frames :]], dim=0
        )
        frames = torch.arange(len(template), device=template.device)
        known = KnownFrames(template[None], ((frames < begin) | (frames >= end))[None])
        mixed = acoustic.decode(latents, known)
        reach = delay_frames(acoustic.model.vocoder) + round(2 * MAX_SHIFT_S * acoustic.sample_rate / hop_length)
        first = max(begin - reach, 0)
        samples = acoustic.vocode(mixed[first : end + reach])
        return resample(samples, acoustic.sample_rate, self._rate), first * hop_length / acoustic.sample_rate

    def _join(self, cut: tuple[int, int], spoken: Samples, start: int, end: int) -> Samples:
        """Return ``spoken[start:end]``, its ends shifted a little and blended with the recording inside ``cut``."""
        size = min(round(CROSSFADE_S * self._rate), cut[1] - cut[0], (end - start) // 4)
        reach = min(round(MAX_SHIFT_S * self._rate), (end - start) // 4)
        ramp = _ramp(size)
        at_start, at_end = cut[0] == 0, cut[1] == len(self.samples)
        before, after = self.samples[cut[0] : cut[0] + size], self.samples[cut[1] - size : cut[1]]
        if not at_start:
            start += _find_shift(before, spoken, start, reach)
        if not at_end:
            end += _find_shift(after, spoken, end - size, reach)
        piece = spoken[start:end].copy()
        if size:
            piece[:size] = piece[:size] * ramp if at_start else _crossfade(before, piece[:size], ramp)
            piece[-size:] = piece[-size:] * ramp[::-1] if at_end else _crossfade(piece[-size:], after, ramp)
        return piece.clip(-1.0, 1.0)


@dataclass(frozen=True)
class _Plan:
    """The text of a window with new words in it."""

    before: Sequence[TimedWord]
    new: Sequence[str]
    after: Sequence[TimedWord]
    spelling: Spelling
    predicted: Seconds
    """(U,) at the pace of the recording."""

    @property
    def seconds(self) -> float:
        """How long the new words would last."""
        return float(sum(self.predicted[first:end].sum() for first, end in self._new_spans))

    @property
    def _new_spans(self) -> tuple[tuple[int, int], ...]:
        return self.spelling.words[len(self.before) : len(self.before) + len(self.new)]

    def place(self, begin_s: float, end_s: float, seconds: float) -> list[TimedWord]:
        """Return all words with their times, the new ones filling ``seconds`` in place of ``begin_s`` to ``end_s``."""
        scale = seconds / self.seconds if self.seconds > 0 else 1.0
        placed, place = list(self.before), begin_s
        for word, (first, end) in zip(self.new, self._new_spans, strict=True):
            last = max((token + 1 for token in range(first, end) if self.spelling.sounds[token]), default=first)
            spoken_s = scale * float(self.predicted[first:last].sum())
            placed.append(TimedWord(word, place, place + spoken_s))
            place += scale * float(self.predicted[first:end].sum())
        shift_s = begin_s + seconds - end_s
        return placed + [word.moved(shift_s) for word in self.after]


def _find_shift(wanted: Samples, samples: Samples, start: int, reach: int) -> int:
    """Return by how much to move ``start``, at most ``reach``, for ``samples`` there to be most like ``wanted``."""
    shifts = range(-min(reach, start), min(reach, len(samples) - start - len(wanted)) + 1)
    parts = {shift: samples[start + shift : start + shift + len(wanted)] for shift in shifts}
    return max(shifts, key=lambda shift: (_likeness(wanted, parts[shift]), -abs(shift)), default=0)


def _likeness(a: Samples, b: Samples) -> float:
    """Return the cosine of two signals (S,), 0 where one is silent."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > MIN_NORM else 0.0


def _ramp(size: int) -> Samples:
    return ((np.arange(size) + 0.5) / max(size, 1)).astype(np.float32)


def _crossfade(a: Samples, b: Samples, ramp: Samples) -> Samples:
    """Go from ``a`` to ``b``, as loud in between as they are, however like they are."""
    likeness = max(_likeness(a, b), 0.0)
    power = ramp**2 + (1 - ramp) ** 2 + 2 * likeness * ramp * (1 - ramp)
    return (((1 - ramp) * a + ramp * b) / np.sqrt(power)).astype(np.float32)


def _written_words(text: str, name: str) -> list[str]:
    """Return the words of ``text``; a mark that stands alone joins the word before it, else the one after it.

    Raises:
        ConfigError: there is no letter and no digit.
    """
    words: list[str] = []
    waiting = ""
    for part in clean(text).split():
        if is_speakable(part):
            words.append(waiting + part)
            waiting = ""
        elif words:
            words[-1] += part
        else:
            waiting += part
    if not words:
        raise ConfigError(f"{name} must have a letter or a digit to speak, got {clean(text)[:60]!r}")
    return words


def _sounds_of(words: Sequence[str]) -> list[str]:
    """Return each word as it is read aloud, in small letters, or as it is written where that is not known."""
    read = spoken_words(" ".join(words))
    said = (" ".join(part.lower() for part in parts if is_speakable(part)) for parts in read)
    plain = ("".join(letter for letter in word.casefold() if letter.isalnum()) for word in words)
    return [by_ear or by_eye for by_ear, by_eye in zip(said, plain, strict=True)]
