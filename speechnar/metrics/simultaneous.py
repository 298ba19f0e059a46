"""How much a growing translation flickers, how far it is behind its source, and how long its updates take.

Everything is computed from a log: what was shown after each update, how many source words it knew, and the seconds it
took. Words are separated by spaces. Delays are counted in source words.

Letters: x source and y target of |x| and |y| words; I updates; o_i what is shown after update i; g(j) how many source
words were read when the first j words became final.
Sources: Niehues et al., INTERSPEECH 2018, section 4.2, and Arivazhagan et al., "Re-translation versus Streaming",
IWSLT 2020, section 3.1 (normalised erasure, finalisation); Ma et al., ACL 2019, section 3.2 (average lagging); Papi et
al., "Over-Generation Cannot Be Rewarded: Length-Adaptive Average Lagging", AutoSimTrans 2022 (LAAL).

Differs from the sources: ``click_edits`` stands in for the "normalised click and edit" of Han et al., 2020, whose
formula could not be had.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import kaldialign
import numpy as np

from speechnar.errors import DataError

WORD_S = 0.35
"""Seconds between two source words, where nobody measured them."""
_GAP = ""
END_PUNCTUATION = ".,;:!?…。！？、，"


@dataclass(frozen=True)
class Update:
    """What was shown after an update, and what it took."""

    num_read: int
    """Source words known to it; never falls."""
    shown: tuple[str, ...]
    """Words on display; of the last update, the translation."""
    seconds: float = 0.0
    """Of computation."""


@dataclass(frozen=True)
class StreamedSentence:
    """One source with all updates of its translation."""

    num_source_words: int
    updates: tuple[Update, ...]

    def __post_init__(self) -> None:
        reads = [update.num_read for update in self.updates]
        if not reads or reads != sorted(reads) or reads[-1] != self.num_source_words or reads[0] < 0:
            raise DataError(
                f"updates must read ever more of the {self.num_source_words} source words and in the end all, "
                f"got {reads[:20]}"
            )

    @property
    def final(self) -> tuple[str, ...]:
        """Return the translation."""
        return self.updates[-1].shown


def common_prefix(first: Sequence[str], second: Sequence[str]) -> int:
    """Return how many words two texts begin with alike."""
    same = 0
    for a, b in zip(first, second, strict=False):
        if a != b:
            break
        same += 1
    return same


def erasures(sentence: StreamedSentence) -> list[int]:
    """Return how many shown words each update but the first took back: |o_{i-1}| - LCP(o_{i-1}, o_i)."""
    return [len(old.shown) - common_prefix(old.shown, new.shown) for old, new in pairwise(sentence.updates)]


def normalized_erasure(sentences: Sequence[StreamedSentence], *, ignore_final_punctuation: bool = False) -> float:
    """Return words taken back per word of the final translations; below 0.2 counts as few.

    Args:
        sentences: at least one word is translated in them all together, or the result is NaN.
        ignore_final_punctuation: punctuation at the end of each output counts as not there: a full stop that goes when
            the text goes on does not take its word back.
    """
    if ignore_final_punctuation:
        sentences = [_without_final_punctuation(sentence) for sentence in sentences]
    num_words = sum(len(sentence.final) for sentence in sentences)
    return sum(sum(erasures(sentence)) for sentence in sentences) / num_words if num_words else math.nan


def click_edits(sentences: Sequence[StreamedSentence]) -> float:
    """Return edits and edited places per word of the final translations, appended words not counted.

    An edit replaces, removes or adds a word; a place is a run of edits, what one would click at. Other than erasure it
    does not count all that stands behind an edit.
    """
    num_words = total = 0
    for sentence in sentences:
        num_words += len(sentence.final)
        for old, new in pairwise(sentence.updates):
            pairs: list[tuple[str, str]] = kaldialign.align(list(old.shown), list(new.shown), _GAP)
            while pairs and pairs[-1][0] == _GAP:  # appended
                pairs.pop()
            is_edit = [a != b for a, b in pairs]
            places = sum(now and not before for before, now in pairwise([False, *is_edit]))
            total += sum(is_edit) + places
    return total / num_words if num_words else math.nan


def final_from(sentence: StreamedSentence) -> list[int]:
    """Return for each word of the translation the first update from which on the text up to it never changes."""
    final = sentence.final
    first = [len(sentence.updates) - 1] * len(final)
    reach = len(final)
    for index in range(len(sentence.updates) - 1, -1, -1):
        reach = min(reach, common_prefix(sentence.updates[index].shown, final))
        for place in range(reach):
            first[place] = index
    return first


def delays(sentence: StreamedSentence) -> list[int]:
    """Return g: source words read when each word of the translation became final."""
    return [sentence.updates[index].num_read for index in final_from(sentence)]


def first_delays(sentence: StreamedSentence) -> list[int]:
    """Return source words read when each word first stood where it finally stands, though it may have gone again."""
    return [
        next(u.num_read for u in sentence.updates if len(u.shown) > place and u.shown[place] == word)
        for place, word in enumerate(sentence.final)
    ]


def average_lagging(
    when: Sequence[float], num_source: int, num_target: int, *, reads: Sequence[int] | None = None
) -> float:
    """Return the mean of g(j) - (j - 1) |x| / |y| over the words up to the first that waited for the whole source.

    Args:
        when: g of each word.
        num_source: |x|.
        num_target: |y|; for LAAL the longer of translation and reference.
        reads: source words read for each word, where ``when`` is in other units than that.

    Returns:
        Source words; NaN without any word.
    """
    if not when or not num_target:
        return math.nan
    known = when if reads is None else reads
    counted = next((place + 1 for place, g in enumerate(known) if g >= num_source), len(when))
    return sum(g - place * num_source / num_target for place, g in enumerate(when[:counted])) / counted


def finished_at(sentence: StreamedSentence, *, word_s: float = WORD_S) -> list[float]:
    """Return when each update is done, in seconds from the start, if source word i arrives at i times ``word_s``.

    An update begins when its words are there and the one before is done: what is slow falls behind.
    """
    done, times = 0.0, []
    for update in sentence.updates:
        done = max(done, update.num_read * word_s) + update.seconds
        times.append(done)
    return times


def without_stale(sentence: StreamedSentence, *, word_s: float = WORD_S) -> StreamedSentence:
    """Return the sentence as it is if updates are left out for which newer words are there before they could begin.

    The updates that are left take the seconds they took, as if they had not needed those in between.
    """
    updates = sentence.updates
    kept, done, index = [], 0.0, 0
    while index < len(updates):
        start = max(done, updates[index].num_read * word_s)
        while index + 1 < len(updates) and updates[index + 1].num_read * word_s <= start:
            index += 1
        kept.append(updates[index])
        done = max(done, updates[index].num_read * word_s) + updates[index].seconds
        index += 1
    return StreamedSentence(sentence.num_source_words, tuple(kept))


def computed_delays(sentence: StreamedSentence, *, word_s: float = WORD_S) -> list[float]:
    """Return when each word of the translation became final, computation and backlog included, in source words."""
    times = finished_at(sentence, word_s=word_s)
    return [times[index] / word_s for index in final_from(sentence)]


def masked(words: Sequence[str], num_masked: int, *, is_final: bool) -> tuple[str, ...]:
    """Return what is shown of a translation: all but the last words, which are likely to change, unless it is final."""
    return tuple(words if is_final else words[: max(len(words) - num_masked, 0)])


@dataclass(frozen=True)
class StreamScore:
    """The figures of a system on a test set."""

    erasure: float
    """Words taken back per final word."""
    erasure_without_final_punctuation: float
    click_edits: float
    al: float
    """Average lagging by finalisation, source words; mean over sentences with a translation, as all of these."""
    laal: float
    first_al: float
    """By first appearance."""
    al_ca: float
    """Computation-aware, with a backlog."""
    laal_ca: float
    al_ca_without_stale: float
    """The same where stale updates are left out."""
    seconds_per_sentence: float
    """Mean of the sum over its updates."""
    update_p50_s: float
    update_p95_s: float
    updates: int
    sentences: int


def score_streams(
    sentences: Sequence[StreamedSentence], ref_lens: Sequence[int], *, word_s: float = WORD_S
) -> StreamScore:
    """Score the log of a system.

    Args:
        sentences: in any order.
        ref_lens: words of their references, in the same order.
        word_s: seconds from one source word to the next.

    Raises:
        DataError: there is no sentence, or not one reference for each.
    """
    if not sentences or len(sentences) != len(ref_lens):
        raise DataError(f"need as many references as sentences, at least one, got {len(ref_lens)} and {len(sentences)}")
    lagging: dict[str, list[float]] = {}
    for sentence, ref_len in zip(sentences, ref_lens, strict=True):
        for name, value in _lagging(sentence, ref_len, word_s).items():
            lagging.setdefault(name, []).append(value)
    means = {name: _mean(values) for name, values in lagging.items()}
    seconds = [update.seconds for sentence in sentences for update in sentence.updates]
    p50, p95 = np.quantile(seconds, (0.5, 0.95)).tolist()
    return StreamScore(
        erasure=normalized_erasure(sentences),
        erasure_without_final_punctuation=normalized_erasure(sentences, ignore_final_punctuation=True),
        click_edits=click_edits(sentences),
        seconds_per_sentence=sum(seconds) / len(sentences),
        update_p50_s=p50,
        update_p95_s=p95,
        updates=len(seconds),
        sentences=len(sentences),
        **means,
    )


def _mean(values: Sequence[float]) -> float:
    """Return the mean of what is a number."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _lagging(sentence: StreamedSentence, ref_len: int, word_s: float) -> dict[str, float]:
    num_source, num_target = sentence.num_source_words, len(sentence.final)
    longer = max(num_target, ref_len)
    final, computed = delays(sentence), computed_delays(sentence, word_s=word_s)
    fresh = without_stale(sentence, word_s=word_s)
    computed_fresh = computed_delays(fresh, word_s=word_s)
    return {
        "al": average_lagging(final, num_source, num_target),
        "laal": average_lagging(final, num_source, longer),
        "first_al": average_lagging(first_delays(sentence), num_source, num_target),
        "al_ca": average_lagging(computed, num_source, num_target, reads=final),
        "laal_ca": average_lagging(computed, num_source, longer, reads=final),
        "al_ca_without_stale": average_lagging(computed_fresh, num_source, num_target, reads=delays(fresh)),
    }


def _without_final_punctuation(sentence: StreamedSentence) -> StreamedSentence:
    updates = [
        Update(u.num_read, tuple([*u.shown[:-1], *_strip(u.shown[-1])]) if u.shown else (), u.seconds)
        for u in sentence.updates
    ]
    return StreamedSentence(sentence.num_source_words, tuple(updates))


def _strip(word: str) -> list[str]:
    stripped = word.rstrip(END_PUNCTUATION)
    return [stripped] if stripped else []
