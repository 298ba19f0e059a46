"""How text is written: marks of punctuation and capitals, beside the words that error rates count.

Words are aligned by edit distance in their plain form, and each takes along the marks in front of it and behind it. A
mark is right where the other text has the same at the same side of the aligned word, be that word right or wrong; the
marks of words that are missing or too many are missed or too many. Capitals are compared in words that are right.

Whether a text is written so is told by the references of each language: punctuation counts where at least half of its
utterances have a mark, capitals where half have a capital and a small letter. Others have plain references, and are not
scored here.

The width of a mark is no difference (that of Chinese is the same as that of Latin text), nor is the form of full stops,
commas, quotation marks and dashes. Apostrophes are no marks, nor is what stands between two letters or digits without a
space, as in "3.5" and "and/or".
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import kaldialign

from speechnar.errors import DataError
from speechnar.text.normalize import get_normalizer
from speechnar.text.scripts import UNSPACED_LETTER

SHARE_OF_WRITTEN = 0.5
"""Of the utterances of a language, from which on its references count as written with punctuation or capitals."""
_NOBODY = "\0"
_APOSTROPHES = str.maketrans(dict.fromkeys("’ʼ‘`´", "'"))
_INSIDE_WORDS = frozenset("-‐.,:/·_@&")
_FORMS = {
    **dict.fromkeys("。｡", "."),
    **dict.fromkeys("、､", ","),
    **dict.fromkeys("“”„‟«»‹›「」『』《》〈〉〝〞〟", '"'),
    **dict.fromkeys("-‐‒–—―", "—"),
}
_DOTS = re.compile(r"\.{2,}|。{2,}|…+")
_OPENING = frozenset({"Ps", "Pi"})


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How much of what the references have is in the hypotheses, too."""

    right: int
    num_ref: int
    num_hyp: int

    @property
    def precision(self) -> float:
        """Return the share of the hypotheses' that is right; 0 where they have none."""
        return self.right / self.num_hyp if self.num_hyp else 0.0

    @property
    def recall(self) -> float:
        """Return the share of the references' that was found; 0 where they have none."""
        return self.right / self.num_ref if self.num_ref else 0.0

    @property
    def f1(self) -> float:
        """Return the harmonic mean of both."""
        total = self.num_ref + self.num_hyp
        return 2 * self.right / total if total else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers; rates are fractions."""
        return {"f1": self.f1, "precision": self.precision, "recall": self.recall, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class WrittenForm:
    """Punctuation and capitals of a set of utterances; None where its references have none."""

    punctuation: Agreement | None
    marks: dict[str, Agreement]
    """Of each mark, the most frequent one first."""
    capitals: Agreement | None
    """Words with a capital among those that are right; such a word is right where all its letters are of their case."""
    num_cased: int
    """Words that are right and have letters of two cases to choose from."""
    num_same_case: int
    """Those of them that are written alike."""

    @property
    def case_accuracy(self) -> float:
        """Return the share of right words whose letters are of the right case; 0 where there are none."""
        return self.num_same_case / self.num_cased if self.num_cased else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers; rates are fractions."""
        values: dict[str, Any] = {}
        if self.punctuation is not None:
            values["punctuation"] = self.punctuation.to_dict()
            values["marks"] = {mark: agreement.to_dict() for mark, agreement in self.marks.items()}
        if self.capitals is not None:
            values["capitals"] = self.capitals.to_dict()
            values["case"] = {"accuracy": self.case_accuracy, "words": self.num_cased, "right": self.num_same_case}
        return values

    def __str__(self) -> str:
        """Return one line in percent, as printed by the command line."""
        parts = []
        if self.punctuation is not None:
            shown = self.punctuation
            parts.append(
                f"punctuation F1 {100 * shown.f1:.2f} (precision {100 * shown.precision:.2f}, "
                f"recall {100 * shown.recall:.2f}; {shown.num_ref} marks)"
            )
        if self.capitals is not None:
            parts.append(
                f"case right in {100 * self.case_accuracy:.2f} % of {self.num_cased} right words "
                f"(capitals F1 {100 * self.capitals.f1:.2f}; {self.capitals.num_ref} capitalised)"
            )
        return "; ".join(parts)


def written_form(refs: Sequence[str], hyps: Sequence[str], langs: Sequence[str]) -> WrittenForm | None:
    """Compare punctuation and capitals of ``hyps`` with those of ``refs`` (same order), neither of them normalised.

    Args:
        refs: what was said, as people write it.
        hyps: what was recognised.
        langs: ISO 639-3 of each utterance.

    Returns:
        The sums over the languages whose references are written so; None if there is no such language.

    Raises:
        DataError: the three differ in number.
    """
    if not len(refs) == len(hyps) == len(langs):
        raise DataError(
            f"references, hypotheses and languages must be equally many, got {len(refs)}, {len(hyps)} and {len(langs)}"
        )
    counts = _Counts()
    is_punctuated = is_cased = False
    for lang in sorted(set(langs)):
        pairs = [(ref, hyp) for ref, hyp, its in zip(refs, hyps, langs, strict=True) if its == lang]
        punctuated, cased = _is_punctuated([ref for ref, _ in pairs]), _is_cased([ref for ref, _ in pairs])
        is_punctuated, is_cased = is_punctuated or punctuated, is_cased or cased
        for ref, hyp in pairs:
            counts.add(_read(ref), _read(hyp), lang, punctuated=punctuated, cased=cased)
    if not is_punctuated and not is_cased:
        return None
    marks = {
        mark: Agreement(right=counts.right[mark], num_ref=counts.ref[mark], num_hyp=counts.hyp[mark])
        for mark, _ in (counts.ref + counts.hyp).most_common()
    }
    return WrittenForm(
        punctuation=Agreement(right=counts.right.total(), num_ref=counts.ref.total(), num_hyp=counts.hyp.total())
        if is_punctuated
        else None,
        marks=marks,
        capitals=Agreement(right=counts.right_capitals, num_ref=counts.ref_capitals, num_hyp=counts.hyp_capitals)
        if is_cased
        else None,
        num_cased=counts.cased,
        num_same_case=counts.same_case,
    )


def _is_punctuated(refs: Sequence[str]) -> bool:
    marked = sum(any(word.before or word.behind for word in _read(ref)) for ref in refs)
    return marked >= SHARE_OF_WRITTEN * len(refs)


def _is_cased(refs: Sequence[str]) -> bool:
    cased = sum(ref != ref.lower() and ref != ref.upper() for ref in refs)
    return cased >= SHARE_OF_WRITTEN * len(refs)


@dataclass
class _Word:
    """A word as it is written, with the marks around it."""

    written: str
    before: Counter[str] = field(default_factory=Counter)
    behind: Counter[str] = field(default_factory=Counter)

    @property
    def is_cased(self) -> bool:
        return self.written.lower() != self.written.upper()

    @property
    def has_capital(self) -> bool:
        return self.written != self.written.lower()


@dataclass
class _Counts:
    """Sums over utterances."""

    ref: Counter[str] = field(default_factory=Counter)
    hyp: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    cased: int = 0
    same_case: int = 0
    ref_capitals: int = 0
    hyp_capitals: int = 0
    right_capitals: int = 0

    def add(self, refs: list[_Word], hyps: list[_Word], lang: str, *, punctuated: bool, cased: bool) -> None:
        """Count one utterance."""
        if punctuated:
            self.ref += _marks(refs)
            self.hyp += _marks(hyps)
        normalize = get_normalizer("basic")
        ref_keys, hyp_keys = ([normalize(word.written, lang) for word in words] for words in (refs, hyps))
        ref_words, hyp_words = iter(refs), iter(hyps)
        for ref_key, hyp_key in kaldialign.align(ref_keys, hyp_keys, _NOBODY):
            ref = None if ref_key == _NOBODY else next(ref_words)
            hyp = None if hyp_key == _NOBODY else next(hyp_words)
            if ref is None or hyp is None:
                continue
            if punctuated:
                self.right += (ref.before & hyp.before) + (ref.behind & hyp.behind)
            if cased and ref_key == hyp_key and ref.is_cased:
                self.cased += 1
                self.same_case += ref.written == hyp.written
                self.ref_capitals += ref.has_capital
                self.hyp_capitals += hyp.has_capital
                self.right_capitals += ref.has_capital and ref.written == hyp.written


def _marks(words: list[_Word]) -> Counter[str]:
    return sum((word.before + word.behind for word in words), Counter())


def _read(text: str) -> list[_Word]:
    """Return the words of ``text``, a letter of writing without spaces being one; marks without words are dropped."""
    text = unicodedata.normalize("NFKC", _DOTS.sub("…", text.translate(_APOSTROPHES)).replace("…", "\ue000"))
    words: list[_Word] = []
    opening: Counter[str] = Counter()
    in_word = False
    for before, letter, after in zip(f" {text}", text, f"{text[1:]} ", strict=False):
        if _is_of_word(letter) or (letter == "'" and _is_of_word(before) and _is_of_word(after)):
            is_alone = UNSPACED_LETTER.match(letter) or UNSPACED_LETTER.match(before)
            if in_word and not is_alone:
                words[-1].written += letter
            else:
                words.append(_Word(letter, before=opening))
                opening = Counter()
            in_word = True
            continue
        in_word = False
        mark = _mark_of(before, letter, after)
        if mark is None:
            continue
        if words and not _opens(before, letter, after):
            words[-1].behind[mark] += 1
        else:
            opening[mark] += 1
    if words:
        words[-1].behind += opening
    return words


def _is_of_word(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "LMN"


def _mark_of(before: str, letter: str, after: str) -> str | None:
    """Return the mark that ``letter`` is, in the form that counts."""
    if letter == "\ue000":  # stands for three dots, which NFKC takes apart
        return "…"
    if letter == "'" or unicodedata.category(letter)[0] != "P":
        return None
    is_inside = all(_is_of_word(side) and not UNSPACED_LETTER.match(side) for side in (before, after))
    if letter in _INSIDE_WORDS and is_inside:
        return None
    return _FORMS.get(letter, letter)


def _opens(before: str, letter: str, after: str) -> bool:
    """Tell whether a mark belongs to the word behind it: by the spaces around it or, if they do not tell, its kind."""
    if before.isspace() != after.isspace():
        return before.isspace()
    return letter in "¿¡" or unicodedata.category(letter) in _OPENING
