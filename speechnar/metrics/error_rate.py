"""Word and character error rates with confidence intervals, alignments, and the report that RESULTS.md quotes.

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
from speechnar.text.normalize import get_normalizer

Unit = Literal["word", "character"]

# Written without spaces between words: spaces there carry nothing, and words cannot be counted.
UNSPACED_LANGUAGES = frozenset({"bod", "cmn", "dzo", "jpn", "khm", "lao", "mya", "nan", "tha", "yue", "zho"})
NUM_REPLICATIONS = 10_000

_GAP = ""  # no word is empty, so a gap in an alignment cannot be mistaken for one
_GAP_SHOWN_AS = "***"
_REPORT_WIDTH = 100


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


def format_alignment(
    ref: str, hyp: str, *, unit: Unit = "word", normalizer: str = "basic", lang: str = "eng", width: int = _REPORT_WIDTH
) -> str:
    """Return lines ``REF``, ``HYP`` and ``ERR`` (S, D, I under each error), broken at ``width`` columns.

    Raises:
        ConfigError: the normaliser is unknown.
    """
    pairs = kaldialign.align(_split(ref, unit, normalizer, lang), _split(hyp, unit, normalizer, lang), _GAP)
    blocks: list[tuple[str, str, str]] = []
    rows = ("REF", "HYP", "ERR")
    for ref_item, hyp_item in pairs:
        mark = "I" if ref_item == _GAP else "D" if hyp_item == _GAP else "S" if ref_item != hyp_item else ""
        cells = (_show(ref_item), _show(hyp_item), mark)
        column = max(map(len, cells))
        if len(rows[0]) + 1 + column > width and len(rows[0]) > len("REF"):
            blocks.append(rows)
            rows = ("REF", "HYP", "ERR")
        rows = (
            f"{rows[0]} {cells[0]:<{column}}",
            f"{rows[1]} {cells[1]:<{column}}",
            f"{rows[2]} {cells[2]:<{column}}",
        )
    blocks.append(rows)
    return "\n\n".join("\n".join(row.rstrip() for row in block) for block in blocks)


@dataclass(frozen=True)
class ScoredSet:
    """The utterances of one test set, in the same order everywhere; ``lang`` is ISO 639-3."""

    name: str
    utt_ids: Sequence[str]
    refs: Sequence[str]
    hyps: Sequence[str]
    lang: str = "eng"


def format_report(sets: Sequence[ScoredSet], *, normalizer: str = "basic", num_worst: int = 10, seed: int = 0) -> str:
    """Return Markdown: a table with one row per set, then the utterances with most errors, aligned.

    Sets in a language without spaces between words are aligned by character and their word column is empty.

    Raises:
        DataError: a set is empty, or its ids, references and hypotheses differ in number.
        ConfigError: the normaliser is unknown.
    """
    lines = [
        f"Normalizer: {normalizer}. Intervals: 95 %, bootstrap over utterances.",
        "",
        "| set | utts | words | WER % | sub | del | ins | CER % |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for scored in sets:
        _check_pairs(scored.utt_ids, scored.hyps, f"{scored.name}: ids")
        chars = cer(scored.refs, scored.hyps, normalizer=normalizer, lang=scored.lang, seed=seed)
        words = wer(scored.refs, scored.hyps, normalizer=normalizer, lang=scored.lang, seed=seed)
        is_spaced = scored.lang not in UNSPACED_LANGUAGES
        counted = words if is_spaced else chars
        lines.append(
            f"| {scored.name} | {words.num_utts} | {words.ref_len if is_spaced else ''} "
            f"| {_percent(words) if is_spaced else ''} | {counted.substitutions} | {counted.deletions} "
            f"| {counted.insertions} | {_percent(chars)} |"
        )
    for scored in sets:
        lines += _format_worst(scored, normalizer, num_worst)
    return "\n".join(lines) + "\n"


def _format_worst(scored: ScoredSet, normalizer: str, num_worst: int) -> list[str]:
    unit: Unit = "character" if scored.lang in UNSPACED_LANGUAGES else "word"
    faulty = []
    for utt_id, ref, hyp in zip(scored.utt_ids, scored.refs, scored.hyps, strict=True):
        counts = kaldialign.edit_distance(
            _split(ref, unit, normalizer, scored.lang), _split(hyp, unit, normalizer, scored.lang)
        )
        if counts["total"]:
            faulty.append((-counts["total"], utt_id, ref, hyp, counts["ref_len"]))
    faulty.sort()
    if not faulty[:num_worst]:
        return []
    lines = ["", f"### {scored.name}: utterances with most errors ({len(faulty)} of {len(scored.refs)} have any)"]
    for negated, utt_id, ref, hyp, ref_len in faulty[:num_worst]:
        aligned = format_alignment(ref, hyp, unit=unit, normalizer=normalizer, lang=scored.lang)
        # Indented, not fenced: a transcript may hold a fence.
        lines += ["", f"`{utt_id}`: errors {-negated}, reference {unit}s {ref_len}", ""]
        lines += [f"    {line}".rstrip() for line in aligned.split("\n")]
    return lines


def _error_rate(
    refs: Sequence[str], hyps: Sequence[str], unit: Unit, normalizer: str, lang: str, *, seed: int
) -> ErrorRate:
    _check_pairs(refs, hyps, "references")
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


def _check_pairs(refs: Sequence[str], hyps: Sequence[str], what: str) -> None:
    if isinstance(refs, str) or isinstance(hyps, str):
        raise DataError(f"{what} and hypotheses must be lists of strings, got one string")
    if len(refs) != len(hyps) or not refs:
        raise DataError(f"{what} and hypotheses must be equally many and not none, got {len(refs)} and {len(hyps)}")


def _show(item: str) -> str:
    return {_GAP: _GAP_SHOWN_AS, " ": "_"}.get(item, item)


def _percent(result: ErrorRate) -> str:
    rate = f"{100 * result.rate:.2f}"
    return (
        rate if result.interval is None else f"{rate} [{100 * result.interval[0]:.2f}, {100 * result.interval[1]:.2f}]"
    )
