"""Score a hypothesis file that `speechnar.evaluation.asr` wrote against its data directory (``speechnar score``)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import DataError
from speechnar.metrics.error_rate import ErrorRate, cer, wer
from speechnar.metrics.translation import Score, bleu, chrf
from speechnar.metrics.written import WrittenForm, written_form
from speechnar.text.languages import UNDETERMINED, to_iso3
from speechnar.text.normalize import get_normalizer

ALL = "all"
# Scored as one language, as OWSM's scorer does.
_SAME_LANGUAGE = {"cmn": "zho"}


@dataclass(frozen=True)
class Scores:
    """Scores of one group of utterances: error rates of transcripts, or BLEU and chrF of translations."""

    utterances: int
    wer: ErrorRate | None = None
    cer: ErrorRate | None = None
    written: WrittenForm | None = None
    """Punctuation and capitals of transcripts, of languages whose references have them."""
    bleu: Score | None = None
    chrf: Score | None = None


@dataclass(frozen=True)
class ScoreReport:
    """Scores by language of the speech, then of all together, and how the text was normalised."""

    normalizer: str
    target: str | None
    """Language of the translations; None for transcripts."""
    by_language: dict[str, Scores]
    lid_accuracy: float | None
    """Share of utterances whose language was detected rightly; None where it was given or is unknown."""
    lid_utterances: int = 0

    @property
    def macro(self) -> dict[str, float] | None:
        """Means of WER and CER over the languages, each counting the same; None for one, and for translations."""
        languages = [scores for lang, scores in self.by_language.items() if lang != ALL]
        words = [scores.wer.rate for scores in languages if scores.wer is not None]
        characters = [scores.cer.rate for scores in languages if scores.cer is not None]
        if len(languages) < 2 or not words or not characters:
            return None
        return {"wer": sum(words) / len(words), "cer": sum(characters) / len(characters)}

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers; rates are fractions."""
        languages: dict[str, Any] = {}
        for lang, scores in self.by_language.items():
            values: dict[str, Any] = {"utterances": scores.utterances}
            for name, rate in (("wer", scores.wer), ("cer", scores.cer)):
                if rate is not None:
                    values[name] = {"rate": rate.rate, **asdict(rate)}
            for name, score in (("bleu", scores.bleu), ("chrf", scores.chrf)):
                if score is not None:
                    values[name] = asdict(score)
            if scores.written is not None:
                values["written"] = scores.written.to_dict()
            languages[lang] = values
        lid = None
        if self.lid_accuracy is not None:
            lid = {"accuracy": self.lid_accuracy, "utterances": self.lid_utterances}
        return {
            "normalizer": self.normalizer,
            "target": self.target,
            "languages": languages,
            "macro": self.macro,
            "lid": lid,
        }

    def __str__(self) -> str:
        lines = [f"normalizer: {self.normalizer}"]
        for lang, scores in self.by_language.items():
            shown = [scores.wer, scores.cer, scores.written, scores.bleu, scores.chrf]
            pair = lang if self.target is None else f"{lang}-{self.target}"
            lines += [f"{pair}: {score}" for score in shown if score is not None]
        if self.macro is not None:
            lines.append("macro: WER {:.2f}, CER {:.2f}".format(*(100 * self.macro[unit] for unit in ("wer", "cer"))))
        if self.lid_accuracy is not None:
            lines.append(
                f"language identification: {100 * self.lid_accuracy:.2f} % of {self.lid_utterances} utterances"
            )
        return "\n".join(lines) + "\n"


def score_dir(
    data_dir: str | Path, hyp: str | Path, *, target: str | None = None, normalizer: str | None = None
) -> ScoreReport:
    """Score a hypothesis file against ``text``, or against ``text.<target>`` (utterances without one are left out).

    Where references have punctuation or capitals, those of transcripts are scored, too (`speechnar.metrics.written`
    says how that is told).

    Args:
        data_dir: a Kaldi data directory.
        hyp: the hypothesis file; a ``.jsonl`` beside it adds the accuracy of detected languages.
        target: language of translations.
        normalizer: a name in `speechnar.text.normalize.NORMALIZERS`; None takes ``basic`` for error rates and ``none``
            for BLEU and chrF.

    Raises:
        DataError: a file is malformed, or hypotheses and references are not of the same utterances.
        ConfigError: the normaliser or the language is unknown.
    """
    utterances = read_kaldi_dir(data_dir)
    hyps = read_hypotheses(hyp)
    _check_same({utt.utt_id for utt in utterances}, hyps.keys(), data_dir, hyp)
    normalizer = normalizer or ("basic" if target is None else "none")
    target = None if target is None else to_iso3(target)
    if target is not None:
        utterances = [utt for utt in utterances if target in utt.translations]
        if not utterances:
            raise DataError(f"{data_dir}: no utterance has a reference in text.{target}")
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        groups.setdefault(utterance.lang or UNDETERMINED, []).append(utterance)
    if len(groups) > 1:
        groups = {**dict(sorted(groups.items())), ALL: utterances}
    by_language = {
        lang: _score_errors(group, hyps, normalizer) if target is None else _score_text(group, hyps, normalizer, target)
        for lang, group in groups.items()
    }
    num_right, num_detected = _count_detected(utterances, jsonl_of(Path(hyp)))
    accuracy = num_right / num_detected if num_detected else None
    return ScoreReport(normalizer, target, by_language, accuracy, num_detected)


def read_hypotheses(path: str | Path) -> dict[str, str]:
    """Read a hypothesis file.

    Raises:
        DataError: with the line, when it is no UTF-8 text, or an id is missing or repeated.
    """
    hyps: dict[str, str] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: must be UTF-8 text") from None
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        utt_id, _, text = line.replace("\t", " ").partition(" ")
        if not utt_id or utt_id in hyps:
            raise DataError(f"{path}:{number}: must begin with an utterance id of its own, got {line[:60]!r}")
        hyps[utt_id] = text.strip()
    return hyps


def jsonl_of(hyp: Path) -> Path:
    """Return the path of the transcripts beside a hypothesis file."""
    return hyp.with_name(f"{hyp.name}.jsonl")


def _score_errors(group: Sequence[Utterance], hyps: Mapping[str, str], normalizer: str) -> Scores:
    """Score transcripts, each normalised by the rules of its language, and how they are written as they are."""
    normalize = get_normalizer(normalizer)
    langs = [utt.lang or "eng" for utt in group]
    refs = [normalize(utt.text, lang) for utt, lang in zip(group, langs, strict=True)]
    texts = [normalize(hyps[utt.utt_id], lang) for utt, lang in zip(group, langs, strict=True)]
    lang = langs[0] if len(set(langs)) == 1 else "eng"
    rates = (rate(refs, texts, normalizer="none", lang=lang) for rate in (wer, cer))
    words, characters = (replace(rate, normalizer=normalizer) for rate in rates)
    written = written_form([utt.text for utt in group], [hyps[utt.utt_id] for utt in group], langs)
    return Scores(len(group), wer=words, cer=characters, written=written)


def _score_text(group: Sequence[Utterance], hyps: Mapping[str, str], normalizer: str, target: str) -> Scores:
    normalize = get_normalizer(normalizer)
    refs = [normalize(utt.translations[target], target) for utt in group]
    texts = [normalize(hyps[utt.utt_id], target) for utt in group]
    return Scores(len(group), bleu=bleu(refs, texts, lang=target), chrf=chrf(refs, texts))


def _count_detected(utterances: Sequence[Utterance], path: Path) -> tuple[int, int]:
    """Return how many languages were detected rightly, and how many at all."""
    if not path.exists():
        return 0, 0
    detected: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        try:
            entry = json.loads(line)
            if entry.get("language_probability") is not None:
                detected[entry["utt_id"]] = entry["language"]
        except (ValueError, KeyError, AttributeError):
            raise DataError(f"{path}:{number}: must be a transcript that `speechnar decode` wrote") from None
    pairs = [(utt.lang, detected[utt.utt_id]) for utt in utterances if utt.lang and utt.utt_id in detected]
    return sum(_SAME_LANGUAGE.get(ref, ref) == _SAME_LANGUAGE.get(hyp, hyp) for ref, hyp in pairs), len(pairs)


def _check_same(known: set[str], given: Iterable[str], data_dir: str | Path, hyp: str | Path) -> None:
    given = set(given)
    for ids, fault in ((known - given, f"not in {hyp}"), (given - known, f"in {hyp} but not in {data_dir}")):
        if ids:
            raise DataError(
                f"{hyp}: {len(ids)} utterances are {fault}, first {min(ids)!r}; decode this directory again"
            )
