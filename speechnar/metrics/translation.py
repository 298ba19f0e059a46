"""BLEU and chrF of translations, each with the sacrebleu signature without which the number means nothing.

Source: Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018; Popović, "chrF", WMT 2015.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speechnar.errors import DataError
from speechnar.extras import needs

# "13a" splits at spaces and punctuation, which these scripts lack. "char" also spares Japanese a MeCab dictionary.
_TOKENIZE = {
    **dict.fromkeys(("cmn", "yue", "zho"), "zh"),
    **dict.fromkeys(("bod", "dzo", "jpn", "khm", "lao", "mya", "nan", "tha"), "char"),
}


@dataclass(frozen=True)
class Score:
    """A corpus score as a fraction in [0, 1] (percent only when printed) and what produced it."""

    name: str
    value: float
    signature: str

    def __str__(self) -> str:
        """Return one line in percent with the signature, as papers print it."""
        return f"{self.name} {100 * self.value:.2f} ({self.signature})"


def bleu(refs: Sequence[str], hyps: Sequence[str], *, lang: str = "eng", lowercase: bool = False) -> Score:
    """Score ``hyps`` against one reference each with corpus BLEU; the text is scored raw.

    Args:
        refs: reference translations.
        hyps: system translations, in the same order.
        lang: target language, ISO 639-3; it chooses the tokenisation: "zh" for Chinese, characters for other scripts
            without spaces, else "13a".
        lowercase: ignore case.

    Raises:
        DataError: the two differ in number, or there are none.
    """
    with needs("eval"):
        from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415  # an extra
    return _score("BLEU", BLEU(tokenize=_TOKENIZE.get(lang, "13a"), lowercase=lowercase), refs, hyps)


def chrf(refs: Sequence[str], hyps: Sequence[str]) -> Score:
    """Score ``hyps`` against one reference each with chrF2 (character n-grams up to 6, no word n-grams).

    Raises:
        DataError: the two differ in number, or there are none.
    """
    with needs("eval"):
        from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415  # an extra
    return _score("chrF2", CHRF(), refs, hyps)


def _score(name: str, metric: Any, refs: Sequence[str], hyps: Sequence[str]) -> Score:
    if isinstance(refs, str) or isinstance(hyps, str):
        raise DataError("references and hypotheses must be lists of strings, got one string")
    if len(refs) != len(hyps) or not refs:
        raise DataError(f"references and hypotheses must be equally many and not none, got {len(refs)} and {len(hyps)}")
    result = metric.corpus_score(list(hyps), [list(refs)])
    return Score(name, result.score / 100, str(metric.get_signature()))
