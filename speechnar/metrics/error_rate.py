"""Word and character error rates with confidence intervals.

Rates are fractions; only printed forms are percent. Every result names its unit and its text normaliser.
Source: alignment and bootstrap by kaldialign; Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR
performance evaluation", ICASSP 2004.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import kaldialign

from speechnar.errors import DataError
from speechnar.text.languages import UNSPACED_LANGUAGES
from speechnar.text.normalize import get_normalizer

Unit = Literal["word", "character"]

NUM_REPLICATIONS = 10_000


@dataclass(frozen=True)
class ErrorRate:
    """Edit counts over a set of utterances, the unit they count, and how the text was normalised.

    ``interval`` is the 95 % bootstrap interval of the rate over utterances; None when it does not exist (fewer than two
    utterances, or so many empty references that a draw may hold nothing else).
    """

    unit: Unit
    substitutions: int
    deletions: int
    insertions: int
    ref_len: int
    num_utts: int
    normalizer: str
    interval: tuple[float, float] | None

    @property
    def errors(self) -> int:
        """Return the number of edits that turn the hypotheses into the references."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Return errors over reference units: 0 when both are 0, infinite when only the references are empty."""
        if self.ref_len == 0:
            return math.inf if self.errors else 0.0
        return self.errors / self.ref_len

    def __str__(self) -> str:
        """Return one line in percent, as printed by the command line."""
        name = "WER" if self.unit == "word" else "CER"
        return (
            f"{name} {_percent(self)} (sub {self.substitutions}, del {self.deletions}, ins {self.insertions}; "
            f"{self.ref_len} {self.unit}s, {self.num_utts} utterances; normalizer {self.normalizer})"
        )


def wer(
    refs: Sequence[str], hyps: Sequence[str], *, normalizer: str = "basic", lang: str = "eng", seed: int = 0
) -> ErrorRate:
    """Count word errors of ``hyps`` against ``refs`` (same order), both normalised; words are separated by spaces.

    Args:
        refs: what was said.
        hyps: what was recognised.
        normalizer: a name in :data:`speechnar.text.normalize.NORMALIZERS`.
        lang: ISO 639-3, for the normaliser.
        seed: of the bootstrap.

    Raises:
        DataError: the two differ in number, or there are none.
        ConfigError: the normaliser is unknown.
    """
    return _error_rate(refs, hyps, "word", normalizer, lang, seed=seed)


def cer(
    refs: Sequence[str], hyps: Sequence[str], *, normalizer: str = "basic", lang: str = "eng", seed: int = 0
) -> ErrorRate:
    """Count character errors as :func:`wer` counts words.

    Spaces are characters, as in ESPnet and jiwer, except in :data:`UNSPACED_LANGUAGES`, where they are removed.

    Raises:
        DataError: the two differ in number, or there are none.
        ConfigError: the normaliser is unknown.
    """
    return _error_rate(refs, hyps, "character", normalizer, lang, seed=seed)


def _error_rate(
    refs: Sequence[str], hyps: Sequence[str], unit: Unit, normalizer: str, lang: str, *, seed: int
) -> ErrorRate:
    _check_pairs(refs, hyps)
    ref_units = [_split(ref, unit, normalizer, lang) for ref in refs]
    hyp_units = [_split(hyp, unit, normalizer, lang) for hyp in hyps]
    counts = kaldialign.batch_error_rate(ref_units, hyp_units)
    interval = None
    if len(refs) > 1 and counts["ref_len"]:
        found = kaldialign.bootstrap_wer_ci(ref_units, hyp_units, replications=NUM_REPLICATIONS, seed=seed)
        # A draw of nothing but empty references has an infinite rate.
        if math.isfinite(found["ci95min"]) and math.isfinite(found["ci95max"]):
            interval = (max(0.0, found["ci95min"]), found["ci95max"])
    return ErrorRate(
        unit, counts["sub"], counts["del"], counts["ins"], counts["ref_len"], len(refs), normalizer, interval
    )


def _split(text: str, unit: Unit, normalizer: str, lang: str) -> list[str]:
    words = get_normalizer(normalizer)(text, lang).split()
    if unit == "word":
        return words
    return list("".join(words) if lang in UNSPACED_LANGUAGES else " ".join(words))


def _check_pairs(refs: Sequence[str], hyps: Sequence[str]) -> None:
    if isinstance(refs, str) or isinstance(hyps, str):
        raise DataError("references and hypotheses must be lists of strings, got one string")
    if len(refs) != len(hyps) or not refs:
        raise DataError(f"references and hypotheses must be equally many and not none, got {len(refs)} and {len(hyps)}")


def _percent(result: ErrorRate) -> str:
    rate = f"{100 * result.rate:.2f}"
    return (
        rate if result.interval is None else f"{rate} [{100 * result.interval[0]:.2f}, {100 * result.interval[1]:.2f}]"
    )
