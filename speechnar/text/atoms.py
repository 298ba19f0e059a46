"""A text cut into what a reader takes in at a glance: words, numbers, dates, amounts of money, addresses, marks.

Words of the text are what white space parts; each is folded to ASCII and a few symbols, then cut by one regular
expression whose first alternatives win.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from speechnar.text.addresses import HEX, IP, URL, VERSION, phone_spans
from speechnar.text.numbers import AMOUNT
from speechnar.text.written_forms import GREEK, QUIET_SYMBOLS, SHORTHANDS

_STRONGEST_FIRST = "?!.;:—,"
_MAX_WORD_LETTERS = 200
NUMBERS = frozenset({"number", "fraction", "money", "time", "science"})
"""Kinds of atoms that are numbers."""
_QUOTED_WORDS = 3
"""A quotation of so many words is set off by pauses."""
_KEPT = frozenset("—–£€¥₹₽₩₿¢°×÷§±≈≤≥≠→⇒∞√©‰Ω") | frozenset(GREEK)
_FOLDED = str.maketrans(
    {
        **dict.fromkeys("‘’ʼ`´′‛", "'"),
        **dict.fromkeys("“”«»„‟″", '"'),
        **dict.fromkeys("‐‑‒−﹣－", "-"),
        **dict.fromkeys("―⸺⸻", "—"),
        **dict.fromkeys("™®℠†‡", ""),
        **{"²": "^2", "³": "^3", "Ω": "Ω", "№": "No.", "℃": "°C", "℉": "°F"},
        **{"…": "...", "⁄": "/", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3", "⅛": " 1/8"},
        **{"µ": "u", "μ": "u", "º": "°", "·": " ", "•": " "},
        **{"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d"},
        **{"Đ": "D", "þ": "th", "Þ": "Th", "ð": "th", "Ð": "Th", "ı": "i"},
        **dict.fromkeys("，、", ","),
        **dict.fromkeys("。", "."),
    }
)
_ATOM = re.compile(
    rf"""
    (?P<url>{URL})
  | (?P<flag>(?<!\S)(?:--[a-z]+(?:-[a-z]+)*|-[A-Za-z])(?![\w'-]))
  | (?P<dot>(?<!\S)\.(?=[A-Za-z]))
  | (?P<over>(?<!\S)/(?!\S))
  | (?P<date>(?<![\d.])(?:\d{{4}}-\d\d-\d\d(?!\d) | \d{{4}}/\d\d?/\d\d?(?![\d/])
       | \d{{1,2}}/\d{{1,2}}/(?:\d{{4}}|\d\d)(?!\d)
       | \d{{1,2}}\.\d{{1,2}}\.\d{{4}}(?!\.?\d) | \d\d\.\d\d\.\d\d(?!\.?\d)))
  | (?P<at>(?<=\d)T(?=\d\d:\d\d))
  | (?P<ip>(?<![\d.]){IP})
  | (?P<hex>{HEX})
  | (?P<time>(?<![\d:.])(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?:\.\d+)?(?![\d:]))
  | (?P<zone>(?<=\d\d)Z\b)
  | (?P<decade>'?(?<!\d)(?:\d\d)?\d0'?s\b)
  | (?P<ordinal>\d[\d,]*(?:st|nd|rd|th)\b)
  | (?P<money>(?:(?:US|[CA])?\$|[£€¥₹₽₩₿])\ ?{AMOUNT}(?:(?:bn|mn|tn|k|K|m|M|b|B)\b)?)
  | (?P<number>(?<![\d.,])(?:\d{{1,3}}(?:\.\d{{3}})+,\d+|\d{{1,3}}(?:\.\d{{3}}){{2,}})(?![\d.,]*\d))
  | (?P<version>(?<![\w.]){VERSION})
  | (?P<science>\d+(?:\.\d+)?[eE][+-]?\d+\b)
  | (?P<feet>\d{{1,2}}'\d{{1,2}}(?:"|'')?(?!\w))
  | (?P<rating>(?<![\d.])\d\.\d/(?:5|10)(?![\d/]))
  | (?P<fraction>\d{{1,3}}/\d{{1,3}}(?![\d/]))
  | (?P<plain>\d{{1,3}}(?:[,']\d{{3}})+(?:\.\d+)?(?!\d) | (?<![\d,])\d+,\d{{1,2}}(?![\d,]*\d) | (?<![\d,])0,\d+
       | \d+(?:\.\d+)? | \.\d+)
  | (?P<unit>°[CF]\b|km/h\b|m/s\b|[ck]?m\^?[23]\b)
  | (?P<power>(?<=\S)\^-?\d+)
  | (?P<by>(?<=\d)[x×](?=\d))
  | (?P<times>(?<=\d)x\b)
  | (?P<initials>(?<![A-Za-z'])[A-Za-z](?:\.[A-Za-z]){{1,9}}(?![A-Za-z])\.? | [Pp]h\.D\b\.?)
  | (?P<word>'?[A-Za-z]+(?:['-][A-Za-z]+)*'?)
  | (?P<dash>—|--+|(?<!\S)-(?!\S))
  | (?P<range>(?:(?<=\d)|(?<=\d[%°A-Za-z€])|(?<=\b[A-Z][a-z]{{2}})(?=–[A-Z][a-z]{{2}}\b))
       [-–](?=(?:US|[CA])?[$£€¥₹]?\d|–?[A-Z][a-z]{{2}}\b)
       | (?<=\d):(?=\d))
  | (?P<minus>(?:(?<![\w)])|(?<=UTC)|(?<=GMT))-(?=[$£€¥₹]?\.?\d))
  | (?P<per>(?<=[\w%°€$£¢])/(?=[A-Za-z]))
  | (?P<shorthand>[<>!=]=|[-=]>)
  | (?P<quote>")
  | (?P<pause>[,.?!;:()\[\]{{}}–|]+)
  | (?P<symbol>[&@+=%#×÷§°$£€¥₹₽₩₿¢±≈≤≥≠→⇒∞√©‰Ω<>~*^{"".join(GREEK)}])
    """,
    re.VERBOSE | re.ASCII,
)


@dataclass
class Atom:
    """A piece of one word of the text."""

    kind: str
    text: str
    word: int
    """Which white-space separated word of the text it belongs to."""
    starts: bool
    """It is the first atom of its word."""


def atoms_of(words: Sequence[str]) -> list[Atom]:
    """Return the atoms of the words of a text; marks in a row are one."""
    folded = [_fold(word) for word in words]
    atoms = [atom for number, word in enumerate(folded) for atom in _cut(word, number)]
    _mark_codes(atoms, folded)
    return _merge_pauses(_without_quotes(_without_quiet(atoms)))


def strongest(marks: str) -> str:
    """Return the mark of several that tells most; "" of none."""
    return min(marks, key=_STRONGEST_FIRST.index, default="")


def lost_letters(word: str) -> str:
    """Return the letters and figures of ``word`` that stand for nothing in English: those of other scripts."""
    return "".join(c for c in word if not c.isascii() and unicodedata.category(c)[0] in "LN" and not _fold(c))


def _cut(word: str, number: int) -> Iterator[Atom]:
    if word.lower() in SHORTHANDS:
        yield Atom("shorthand", word.lower(), number, starts=True)
        return
    spaced = re.sub(r"(?<=\w)\((\w+)\)", r" \1", word)  # no pauses in word(s)
    spaced = re.sub(r"(?<=\d),[-–—]+(?!\d)", "", spaced)  # 5,- euros
    # Cut, so that the time to read a text without spaces grows with its length and no faster.
    pieces = (spaced[at : at + _MAX_WORD_LETTERS] for at in range(0, len(spaced), _MAX_WORD_LETTERS))
    starts = True
    for piece in pieces:
        for match in _ATOM.finditer(piece):
            kind = match.lastgroup or ""
            yield Atom("number" if kind == "plain" else kind, match.group(), number, starts)
            starts = starts and kind == "quote"


def _mark_codes(atoms: list[Atom], words: Sequence[str]) -> None:
    """Turn the atoms of telephone numbers and the like, which may be several words, into codes."""
    text = " ".join(words)
    spans = phone_spans(text)
    if not spans:
        return
    codes: dict[int, str] = {}
    place = 0
    for number, word in enumerate(words):
        covered = [
            text[max(begin, place) : min(end, place + len(word))]
            for begin, end in spans
            if begin < place + len(word) and end > place
        ]
        if covered:
            codes[number] = covered[0]
        place += len(word) + 1
    for number, code in codes.items():
        mine = [atom for atom in atoms if atom.word == number]
        at = atoms.index(mine[0]) if mine else len(atoms)
        before, _, after = words[number].partition(code)
        replaced = [*_cut(before, number), Atom("code", code, number, not before), *_cut(after, number)]
        for atom in replaced[1:]:
            atom.starts = False
        atoms[at : at + len(mine)] = replaced


def _without_quiet(atoms: list[Atom]) -> list[Atom]:
    """Drop the symbols that are said between numbers or words only, where they are marks of the hand."""
    kept: list[Atom] = []
    for at, atom in enumerate(atoms):
        after = atoms[at + 1] if at + 1 < len(atoms) else None
        if atom.kind == "symbol" and atom.text in QUIET_SYMBOLS:
            counts = after is not None and after.kind in NUMBERS
            compares = atom.text in "<>" and atom.starts and after is not None and after.starts and bool(kept)
            multiplies = bool(kept) and kept[-1].kind in NUMBERS
            if not (counts or compares) or (atom.text in "*^" and not multiplies):
                continue
        kept.append(atom)
    return kept


def _without_quotes(atoms: list[Atom]) -> list[Atom]:
    """Write the marks of quotations of several words as commas, drop those of others."""
    places = [at for at, atom in enumerate(atoms) if atom.kind == "quote"]
    for begin, end in zip(places[::2], places[1::2], strict=False):
        if len({atom.word for atom in atoms[begin + 1 : end] if atom.kind not in ("pause", "dash")}) >= _QUOTED_WORDS:
            for at in (begin, end):
                atoms[at].kind, atoms[at].text = "pause", ","
            # A pause belongs to the word before it.
            atoms[begin].word = atoms[begin - 1].word if begin else atoms[begin].word
    return [atom for atom in atoms if atom.kind != "quote"]


def _merge_pauses(atoms: Iterable[Atom]) -> list[Atom]:
    """Write pauses in marks, and those in a row as one."""
    merged: list[Atom] = []
    for atom in atoms:
        if atom.kind not in ("pause", "dash"):
            merged.append(atom)
            continue
        marks = re.sub(r"\.\.\.|–|-+", "—", atom.text)
        atom.kind, atom.text = "pause", re.sub(r"[()\[\]{}|]", ",", marks)
        if merged and merged[-1].kind == "pause":
            merged[-1].text += atom.text
        else:
            merged.append(atom)
    return merged


def _fold(word: str) -> str:
    """Write quotes, dashes, letters with accents and full-width forms in ASCII; leave out what cannot be said."""
    if word.isascii():
        return word
    word = re.sub(r"[µμ]s\b", "usec", word)
    folded = unicodedata.normalize("NFKC", word.translate(_FOLDED)).translate(_FOLDED)
    folded = "".join(c for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))
    if len(folded) > 1 and not any(c.isascii() and c.isalnum() for c in folded):
        folded = "".join(c for c in folded if c not in GREEK)  # a Greek word
    return "".join(c for c in folded if c.isascii() or c in _KEPT)
