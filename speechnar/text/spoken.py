"""Text as a reader would say it: numbers, dates, money, abbreviations and symbols of English in words.

What comes out holds only ASCII letters, apostrophes and hyphens inside words, single spaces, and the marks that shape
prosody (``MARKS``). Acronyms that no dictionary has as a word become ``B-B-C``.

The text is cut at white space; each word is folded to ASCII, cut into atoms (number, word, mark, symbol, ...) by one
regular expression, and every atom is expanded in the light of its neighbours, so that each original word knows what is
said for it (:func:`spoken_words`), which editing needs.

Source: the classes of non-standard words of Sproat et al., "Normalization of non-standard words", Computer Speech and
Language 15, 2001, table 1.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from speechnar.text.lexicon import english, is_spelled

MARKS = ",.?!;:—"
"""What remains of punctuation; a dash is always U+2014."""
_STRONGEST_FIRST = "?!.;:—,"

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MAX_CARDINAL_DIGITS = 15
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"),
    "December",
)
_CURRENCIES: Mapping[str, tuple[str, str, str, str]] = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "€": ("euro", "euros", "cent", "cents"),
    "¥": ("yen", "yen", "sen", "sen"),
    "₹": ("rupee", "rupees", "paisa", "paise"),
}
_SCALE_LETTERS: Mapping[str, str] = {
    **{"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion"},
    "tn": "trillion",
}
_SCALE_WORDS = frozenset({"hundred", "thousand", "million", "billion", "trillion"})
_UNITS: Mapping[str, tuple[str, str]] = {
    **{"mm": ("millimeter", "millimeters"), "cm": ("centimeter", "centimeters"), "m": ("meter", "meters")},
    **{"km": ("kilometer", "kilometers"), "in": ("inch", "inches"), "ft": ("foot", "feet"), "yd": ("yard", "yards")},
    **{"mi": ("mile", "miles"), "mg": ("milligram", "milligrams"), "g": ("gram", "grams"), "lb": ("pound", "pounds")},
    **{"kg": ("kilogram", "kilograms"), "lbs": ("pound", "pounds"), "oz": ("ounce", "ounces")},
    **{"ml": ("milliliter", "milliliters"), "l": ("liter", "liters"), "s": ("second", "seconds")},
    **{"ms": ("millisecond", "milliseconds"), "sec": ("second", "seconds"), "secs": ("second", "seconds")},
    **{"min": ("minute", "minutes"), "mins": ("minute", "minutes"), "h": ("hour", "hours"), "hr": ("hour", "hours")},
    **{"hrs": ("hour", "hours"), "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"), "W": ("watt", "watts")},
    **{"MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"), "kW": ("kilowatt", "kilowatts")},
    **{"MW": ("megawatt", "megawatts"), "V": ("volt", "volts"), "A": ("amp", "amps"), "dB": ("decibel", "decibels")},
    **{"kB": ("kilobyte", "kilobytes"), "KB": ("kilobyte", "kilobytes"), "MB": ("megabyte", "megabytes")},
    **{"GB": ("gigabyte", "gigabytes"), "TB": ("terabyte", "terabytes"), "°": ("degree", "degrees")},
    **{"mph": ("mile per hour", "miles per hour"), "kph": ("kilometer per hour", "kilometers per hour")},
    **{"km/h": ("kilometer per hour", "kilometers per hour"), "m/s": ("meter per second", "meters per second")},
    **{"m2": ("square meter", "square meters"), "km2": ("square kilometer", "square kilometers")},
    **{"m3": ("cubic meter", "cubic meters"), "%": ("percent", "percent")},
    **{"°C": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit")},
}
_TITLES: Mapping[str, str] = {
    **{"mr": "Mister", "mrs": "Missus", "ms": "Miss", "messrs": "Messers", "prof": "Professor", "rev": "Reverend"},
    **{"hon": "Honorable", "capt": "Captain", "lt": "Lieutenant", "col": "Colonel", "gen": "General"},
    **{
        "gov": "Governor",
        "sgt": "Sergeant",
        "maj": "Major",
        "sen": "Senator",
        "pres": "President",
        "supt": "Superintendent",
    },
    **{"mt": "Mount", "ft": "Fort", "approx": "approximately", "vs": "versus", "cf": "compare"},
}
"""Abbreviations that never end a sentence."""
_ABBREVIATIONS: Mapping[str, str] = {
    **{"jr": "Junior", "sr": "Senior", "esq": "Esquire", "inc": "Incorporated", "ltd": "Limited", "co": "Company"},
    **{"corp": "Corporation", "dept": "Department", "etc": "et cetera", "ave": "Avenue", "blvd": "Boulevard"},
    **{"rd": "Road", "jan": "January", "feb": "February", "aug": "August", "sept": "September", "oct": "October"},
    **{"nov": "November", "dec": "December", "tues": "Tuesday", "thurs": "Thursday"},
}
_WITHOUT_STOP = frozenset(["mr", "mrs", "ms", "messrs", "jr", "vs", "etc", "lt", "sgt", "capt", "ltd", "blvd"])
"""Abbreviations that need no full stop."""
_WORDS_IN_SMALL_LETTERS = frozenset(
    {
        *("col", "gen", "co", "ave", "ft", "mt", "dec", "sen", "hon", "rev", "gov", "inc"),
        *("maj", "sr", "pres", "jan"),
    }
)
_INITIALS: Mapping[str, str] = {"eg": "for example", "ie": "that is"}
_BEFORE_NUMBER: Mapping[str, str] = {
    **{"no": "number", "nos": "numbers", "vol": "volume", "fig": "figure", "figs": "figures", "p": "page"},
    **{"pp": "pages", "ch": "chapter", "sec": "section", "mar": "March", "apr": "April", "ca": "circa", "c": "circa"},
    "est": "established",
}
_SYMBOLS: Mapping[str, str] = {
    **{"&": "and", "@": "at", "+": "plus", "=": "equals", "%": "percent", "#": "hash", "×": "times", "÷": "over"},
    **{"§": "section", "°": "degrees", "$": "dollars", "£": "pounds", "€": "euros", "¥": "yen", "₹": "rupees"},
}
_NUMBERED = frozenset(
    {
        *("chapter", "part", "act", "scene", "volume", "book", "war", "section", "article"),
        *("phase", "type", "class", "title", "table", "figure", "appendix"),
    }
)
"""What a Roman numeral counts; after other names it ranks."""
_NOT_NAMES = frozenset(
    {
        *("the", "an", "a", "this", "my", "his", "her", "our", "your", "their", "that", "with"),
        *("and", "of", "for", "in", "on", "at", "to", "by"),
    }
)
"""Words whose capital is that of a sentence, not of a king."""
_SPELLED_WORDS = frozenset({"US", "AI", "ID", "ER", "OS", "PA", "LA", "IT", "AD", "TV", "PC", "EU", "UK", "UN"})
"""Acronyms that are spelled although the dictionary has a word of these letters."""
_FRACTIONS = frozenset({*range(2, 11), 12, 16, 20, 32, 64, 100})
"""Denominators; other numbers with a slash are read one after the other, as in 9/11."""
_SIGNS: Mapping[str, str] = {
    **{".": "dot", "/": "slash", "@": "at", "-": "dash", "_": "underscore", ":": "colon", "?": "question mark"},
    **{"=": "equals", "&": "and", "%": "percent", "#": "hash", "~": "tilde", "+": "plus"},
}
"""Punctuation inside an address."""
_SPELLED_IN_ADDRESSES = {"www", "st", "dr", *_TITLES, *_ABBREVIATIONS, *_BEFORE_NUMBER, "uk", "eu", "tv", "ai"}
_DOMAINS = "com|org|net|edu|gov|io|ai|co|uk|us|eu|de|fr|info|biz|dev|app|tv|me"

_FOLDED = str.maketrans(
    {
        **dict.fromkeys("‘’ʼ`´′‛", "'"),
        **dict.fromkeys("“”«»„‟″", '"'),
        **dict.fromkeys("‐‑‒−﹣－", "-"),
        **dict.fromkeys("―⸺⸻", "—"),
        **{"…": "...", "⁄": "/", "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "µ": "u", "μ": "u", "º": "°"},
        **{"ß": "ss", "æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d"},
        **{"Đ": "D", "þ": "th", "Þ": "Th", "ð": "th", "Ð": "Th", "ı": "i", "·": " ", "•": " "},
        **dict.fromkeys("，、", ","),
        **dict.fromkeys("。", "."),
    }
)
_ATOM = re.compile(
    rf"""
    (?P<url>(?:https?://|www\.)[A-Za-z0-9][\w./?=&%#:~+-]*[A-Za-z0-9]
       | [A-Za-z0-9][\w.+-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]+
       | [A-Za-z][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]+)*\.(?:{_DOMAINS})(?:/[\w./?=&%#:~+-]*)?(?![\w.]))
  | (?P<date>\d{{4}}-\d\d-\d\d(?!\d) | \d{{1,2}}/\d{{1,2}}/(?:\d{{4}}|\d\d)(?!\d))
  | (?P<time>(?<!\d)(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?(?!\d))
  | (?P<decade>'?(?<!\d)(?:\d\d)?\d0'?s\b)
  | (?P<ordinal>\d[\d,]*(?:st|nd|rd|th)\b)
  | (?P<money>[$£€¥₹]\ ?\d(?:[\d,]*\d)?(?:\.\d+)?(?:(?:bn|mn|tn|k|K|m|M|b|B)\b)?)
  | (?P<phone>(?<![\d-])(?:\d-)?(?:\d{{3}}-)?\d{{3}}-\d{{4}}(?![\d-]))
  | (?P<fraction>\d{{1,3}}/\d{{1,3}}(?![\d/]))
  | (?P<number>\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?(?!\d) | \d+(?:\.\d+)? | \.\d+)
  | (?P<unit>°[CF]\b|(?:km/h|m/s|k?m2|m3)\b)
  | (?P<initials>(?<![A-Za-z'])[A-Za-z](?:\.[A-Za-z]){{1,9}}(?![A-Za-z])\.? | [Pp]h\.D\b\.?)
  | (?P<word>'?[A-Za-z]+(?:['-][A-Za-z]+)*'?)
  | (?P<dash>—|--+|(?<!\S)-(?!\S))
  | (?P<range>(?:(?<=\d)|(?<=\d[%°]))[-–](?=[$£€¥₹]?\d) | (?<=\d):(?=\d))
  | (?P<minus>(?<![\w)])-(?=[$£€¥₹]?\.?\d))
  | (?P<pause>[,.?!;:()\[\]{{}}–]+)
  | (?P<symbol>[&@+=%#×÷§°$£€¥₹])
    """,
    re.VERBOSE,
)
_MAX_WORD_LETTERS = 200
_ROMAN = re.compile(r"(?=[IVX])X{0,3}(?:IX|IV|V?I{0,3})")


@dataclass
class _Atom:
    """A piece of one word of the text."""

    kind: str
    text: str
    word: int
    """Which white-space separated word of the text it belongs to."""
    starts: bool
    """It is the first atom of its word."""


def spell_out(text: str) -> str:
    """Return the text as it is read aloud, or "" if nothing in it can be said.

    The result is a fixed point: to spell it out again changes nothing.
    """
    return join_spoken(part for parts in spoken_words(text) for part in parts)


def join_spoken(parts: Iterable[str]) -> str:
    """Write words and marks as one line."""
    return re.sub(rf" (?=[{MARKS}])", "", " ".join(parts))


def spoken_words(text: str) -> list[list[str]]:
    """Return, for each word of ``text.split()``, the words and marks that are said for it (none for an emoji).

    The parts of ``"$3 million."`` are ``[["three"], ["million", "dollars", "."]]``.
    """
    return _Reader(text).read()


def cardinal(digits: str) -> str:
    """Return a whole number in words; digit by digit if it begins with 0 or has more than 15 digits."""
    return _digit_by_digit(digits) if _is_code(digits) else _number_words(digits, "cardinal")


def ordinal(digits: str) -> str:
    """Return the rank in words: ``twenty-first`` for 21; what `cardinal` reads digit by digit ranks by its last."""
    if _is_code(digits):
        return f"{_digit_by_digit(digits[:-1])} {ordinal(digits[-1])}"
    return _number_words(digits, "ordinal")


def year(digits: str) -> str:
    """Return four digits, the first not 0, as a year is read: ``nineteen oh five``, ``two thousand five``."""
    return _number_words(digits, "year").replace("oh-", "oh ")


class _Reader:
    """Reads the atoms of a text from left to right.

    What stands to the left is judged by what was said for it, not by how it was written: read again, the result meets
    the same left context, which makes it a fixed point.
    """

    def __init__(self, text: str) -> None:
        words = text.split()
        self._atoms = _merge_pauses(atom for number, word in enumerate(words) for atom in _atoms(word, number))
        self._said: list[list[str]] = [[] for _ in words]
        self._last = ""
        """The last word or mark said."""
        self._owed = ""
        """The currency that is said after the scale, as in "five million dollars"."""
        self._readers: Mapping[str, Callable[[int, _Atom], str]] = {
            "url": lambda at, atom: _address(atom.text),
            "date": lambda at, atom: _date(atom.text),
            "time": self._time,
            "decade": lambda at, atom: _decade(atom.text),
            "ordinal": lambda at, atom: ordinal(re.sub(r"\D", "", atom.text)),
            "money": self._money,
            "phone": lambda at, atom: " ".join(_digit_by_digit(part) for part in atom.text.split("-")),
            "fraction": self._fraction,
            "number": self._number,
            "unit": lambda at, atom: self._unit(at) or _address(atom.text.replace("°", "degrees ")),
            "initials": self._initials,
            "word": self._word,
            "range": lambda at, atom: "to",
            "minus": lambda at, atom: "minus",
            "symbol": self._symbol,
        }

    def read(self) -> list[list[str]]:
        for at, atom in enumerate(self._atoms):
            if atom.kind == "pause":
                self._pause(at, atom)
                continue
            for part in self._readers[atom.kind](at, atom).split():
                self._said[atom.word].append(part)
                self._last = part
        return self._said

    def _atom(self, at: int) -> _Atom | None:
        return self._atoms[at] if 0 <= at < len(self._atoms) else None

    def _is_stopped(self, at: int) -> bool:
        """Tell whether a full stop stands at the atom."""
        after = self._atom(at + 1)
        return after is not None and after.kind == "pause" and _strongest(after.text) == "."

    def _is_capital(self, at: int) -> bool:
        atom = self._atom(at)
        return atom is not None and atom.kind in ("word", "initials") and atom.text.lstrip("'")[0].isupper()

    def _begins_sentence(self, at: int) -> bool:
        atom = self._atom(at)
        return atom is not None and self._is_capital(at) and (len(atom.text) == 1 or not atom.text.isupper())

    def _drop_stop(self, at: int) -> None:
        """Take back the full stop at the atom, which belongs to an abbreviation; one that ends the text stays."""
        if self._is_stopped(at) and self._atom(at + 2) is not None:
            self._atoms[at + 1].text = self._atoms[at + 1].text.replace(".", "")

    def _pause(self, at: int, atom: _Atom) -> None:
        """Add a mark after a word; none begins a text."""
        mark, after = _strongest(atom.text), self._atom(at + 1)
        if not mark or not self._last:
            return
        is_glued = after is not None and not atom.starts and not after.starts
        if atom.text == "." and after is not None and is_glued and after.text[0].islower():
            mark = "dot"  # node.js
        self._said[atom.word].append(mark)
        self._last = mark

    def _word(self, at: int, atom: _Atom) -> str:
        word = _without_quotes(atom.text)
        small = word.lower()
        if small in _SCALE_WORDS and self._owed:
            owed, self._owed = self._owed, ""
            return f"{word} {owed}"
        before = self._atom(at - 1)
        if not atom.starts and before is not None and before.kind == "number" and small in ("mn", "bn", "tn"):
            return _SCALE_LETTERS[small]
        expanded = self._abbreviation(at, word) or self._unit(at)
        if expanded:
            return expanded
        if len(word) > 40:
            return word
        return _roman(word, self._last) or "-".join(_acronym(part, self._last) for part in word.split("-"))

    def _abbreviation(self, at: int, word: str) -> str:
        small, stopped = word.lower(), self._is_stopped(at)
        after = self._atom(at + 1 + stopped)
        is_number = after is not None and after.kind == "number"
        expanded = ""
        if small in ("am", "pm") and self._is_clock(at - 1):
            return "A-M" if small == "am" else "P-M"
        if stopped and is_number and small in _BEFORE_NUMBER:
            expanded = _BEFORE_NUMBER[small]
        elif small in ("st", "dr") and (stopped or word.istitle()):
            is_title = self._is_capital(at + 1 + stopped) and not (stopped and self._atoms[at + 1].text != ".")
            expanded = {"st": ("Street", "Saint"), "dr": ("Drive", "Doctor")}[small][is_title]
        elif (stopped and (word.istitle() or small not in _WORDS_IN_SMALL_LETTERS)) or (
            small in _WITHOUT_STOP and not word.isupper()
        ):
            expanded = _TITLES.get(small) or _ABBREVIATIONS.get(small, "")
        is_initial = stopped and len(word) == 1 and word.isupper() and word != "I"
        if expanded or is_initial:
            ends_sentence = small == "etc" and self._is_capital(at + 2)
            if not ends_sentence:
                self._drop_stop(at)
        return expanded

    def _is_clock(self, at: int) -> bool:
        atom = self._atom(at)
        return atom is not None and (atom.kind == "time" or (atom.kind == "number" and atom.text.isdigit()))

    def _unit(self, at: int) -> str:
        """Return the unit of the number to the left, or "" if the atom is none."""
        before, atom = self._atom(at - 1), self._atoms[at]
        if before is None or before.kind not in ("number", "fraction") or atom.text not in _UNITS:
            return ""
        if atom.text == "in" and not self._is_stopped(at):
            return ""
        if atom.starts and len(atom.text) == 1 and atom.text not in "mg°%":
            return ""
        if atom.text.isalpha():
            self._drop_stop(at)
        return _UNITS[atom.text][before.text != "1"]

    def _time(self, at: int, atom: _Atom) -> str:
        hours, minutes, *seconds = atom.text.split(":")
        after = self._atom(at + 1)
        has_half = after is not None and re.sub(r"\W", "", after.text).lower() in ("am", "pm")
        if int(minutes):
            said = f"{'oh ' if int(minutes) < 10 else ''}{cardinal(str(int(minutes)))}"
        else:
            said = "" if has_half else "o'clock" if 1 <= int(hours) <= 12 else "hundred"
        return " ".join([cardinal(str(int(hours))), said, *(cardinal(str(int(part))) for part in seconds)])

    def _money(self, at: int, atom: _Atom) -> str:
        sign, amount, scale = atom.text[0], re.sub(r"[^\d.,]", "", atom.text), re.sub("[^A-Za-z]", "", atom.text)
        one, many, _, _ = _CURRENCIES[sign]
        whole, _, cents = amount.replace(",", "").partition(".")
        after = self._atom(at + 1)
        if scale:
            return f"{_decimal(amount)} {_SCALE_LETTERS[scale.lower()]} {many}"
        if after is not None and after.starts and after.text.lower() in _SCALE_WORDS:
            self._owed = many
            return _decimal(amount)
        if len(cents) != 2:
            return f"{_decimal(amount)} {one if amount == '1' else many}"
        return _dollars_and_cents(whole, cents, _CURRENCIES[sign])

    def _fraction(self, at: int, atom: _Atom) -> str:
        above, below = atom.text.split("/")
        if int(below) not in _FRACTIONS or not 0 < int(above) < int(below):
            return f"{cardinal(above)} {cardinal(below)}"
        before = self._atom(at - 1)
        joined = "and " if before is not None and before.kind == "number" and before.text.isdigit() else ""
        part = {2: "half", 4: "quarter"}.get(int(below)) or ordinal(str(int(below)))
        if int(above) > 1:
            part = "halves" if part == "half" else f"{part}s"
        return f"{joined}{'a' if joined and int(above) == 1 else cardinal(above)} {part}"

    def _number(self, at: int, atom: _Atom) -> str:
        text, after = atom.text, self._atom(at + 1)
        has_unit = after is not None and (after.text in _UNITS or after.kind == "unit")
        if text.isdigit() and self._last in _MONTHS and 1 <= int(text) <= 31 and not has_unit:
            return ordinal(str(int(text)))
        if len(text) == 4 and text.isdigit() and 1100 <= int(text) < 2100 and not has_unit:
            return year(text)
        return _decimal(text)

    def _initials(self, at: int, atom: _Atom) -> str:
        letters = atom.text.replace(".", "")
        if letters.lower() in _INITIALS:
            return _INITIALS[letters.lower()]
        ends = self._atom(at + 1) is None or (letters.lower() in ("am", "pm") and self._begins_sentence(at + 1))
        if atom.text.endswith(".") and ends:
            self._atoms.insert(at + 1, _Atom("pause", ".", atom.word, starts=False))
        return "-".join(letters.upper())

    def _symbol(self, at: int, atom: _Atom) -> str:
        after = self._atom(at + 1)
        if atom.text == "#" and after is not None and after.kind == "number":
            return "number"
        return self._unit(at) or _SYMBOLS[atom.text]


def _atoms(word: str, number: int) -> Iterator[_Atom]:
    folded = re.sub(r"(?<=\w)\((\w+)\)", r" \1", _fold(word))  # no pauses in word(s)
    # Cut, so that the time to read a text without spaces grows with its length and no faster.
    pieces = (folded[at : at + _MAX_WORD_LETTERS] for at in range(0, len(folded), _MAX_WORD_LETTERS))
    matches = [match for piece in pieces for match in _ATOM.finditer(piece)]
    for at, match in enumerate(matches):
        yield _Atom(match.lastgroup or "", match.group(), number, at == 0)


def _merge_pauses(atoms: Iterable[_Atom]) -> list[_Atom]:
    """Write pauses in marks, and those in a row as one."""
    merged: list[_Atom] = []
    for atom in atoms:
        if atom.kind not in ("pause", "dash"):
            merged.append(atom)
            continue
        marks = re.sub(r"\.\.\.|–|-+", "—", atom.text)
        atom.kind, atom.text = "pause", re.sub(r"[()\[\]{}]", ",", marks)
        if merged and merged[-1].kind == "pause":
            merged[-1].text += atom.text
        else:
            merged.append(atom)
    return merged


def _strongest(marks: str) -> str:
    return min(marks, key=_STRONGEST_FIRST.index, default="")


def _fold(word: str) -> str:
    """Write quotes, dashes, letters with accents and full-width forms in ASCII; leave out what cannot be said."""
    if word.isascii():
        return word
    folded = unicodedata.normalize("NFKC", word.translate(_FOLDED)).translate(_FOLDED)
    folded = "".join(c for c in unicodedata.normalize("NFKD", folded) if not unicodedata.combining(c))
    return "".join(c for c in folded if c.isascii() or c in "—–£€¥₹°×÷§")


def _without_quotes(word: str) -> str:
    """Drop apostrophes that are quotation marks or the possessive of a plural; those of *'tis* stay."""
    if word in english():
        return word
    inner = word.rstrip("'")
    return inner if inner in english() else inner.lstrip("'")


def _roman(word: str, last: str) -> str:
    """Return a Roman numeral after a name in words, or "" if it is none."""
    if not _ROMAN.fullmatch(word) or not last.isalpha():
        return ""
    values = [{"I": 1, "V": 5, "X": 10}[letter] for letter in word]
    value = sum(-v if v < max(values[at:]) else v for at, v in enumerate(values))
    if last.lower() in _NUMBERED and (len(word) > 1 or last.istitle()):
        return cardinal(str(value))
    if len(word) > 1 and last.istitle() and len(last) > 1 and last.lower() not in _NOT_NAMES:
        return f"the {ordinal(str(value))}"
    return ""


def _acronym(word: str, last: str) -> str:
    """Spell a word by its letters if that is how it is read, else return it."""
    stem, ending = re.fullmatch(r"(.*?)('?s|'S)?", word, re.DOTALL).groups("")  # type: ignore[union-attr]  # matches all
    if not (stem.isupper() and len(stem) > 1):
        stem, ending = word, ""
    if not 2 <= len(stem) <= 20 or not stem.isalpha():
        return word
    shouts = last.isupper() and last.isalpha() and len(last) > 1
    spelled = stem in _SPELLED_WORDS and not shouts
    if not spelled and english().lookup(stem) is None:
        is_sound = re.search(r"(.)\1", stem) is not None  # brr, psst
        spelled = (stem.isupper() and len(stem) <= 5) or (is_spelled(stem) and not is_sound)
    return "-".join(stem.upper()) + (f"'{ending[-1].lower()}" if ending else "") if spelled else word


def _address(text: str) -> str:
    text = re.sub(r"^https?://", "", text)
    parts = re.findall(r"[A-Za-z]+|\d+|[^A-Za-z\d]", text)
    said = []
    for part in parts:
        if part.isdigit():
            said.append(cardinal(part))
        elif part.isalpha():
            said.append("-".join(part.upper()) if part.lower() in _SPELLED_IN_ADDRESSES else _acronym(part.lower(), ""))
        else:
            said.append(_SIGNS.get(part, ""))
    return " ".join(said)


def _date(text: str) -> str:
    """Read 1985-12-25 and, as in America, 12/25/1985; numbers that are no month and day are read as they stand."""
    parts = text.replace("/", "-").split("-")
    of_year, month, day = parts if "-" in text else (parts[2], parts[0], parts[1])
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return " ".join(_decimal(part) for part in parts)
    said = year(of_year) if len(of_year) == 4 and of_year[0] != "0" else _decimal(of_year)
    return f"{_MONTHS[int(month) - 1]} {ordinal(str(int(day)))} {said}"


def _decade(text: str) -> str:
    digits = re.sub(r"\D", "", text)
    words = year(digits) if len(digits) == 4 and digits[0] != "0" else cardinal(digits)
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"


def _decimal(text: str) -> str:
    whole, point, rest = text.replace(",", "").partition(".")
    said = cardinal(whole) if whole else ""
    return f"{said} point {_digit_by_digit(rest)}" if point and rest else said


def _dollars_and_cents(whole: str, cents: str, names: tuple[str, str, str, str]) -> str:
    said = []
    if int(whole) or not int(cents):
        said.append(f"{cardinal(whole)} {names[whole != '1']}")
    if int(cents):
        said.append(f"{cardinal(str(int(cents)))} {names[2 + (int(cents) != 1)]}")
    return " and ".join(said)


def _digit_by_digit(digits: str) -> str:
    return " ".join(_DIGITS[int(digit)] for digit in digits)


def _is_code(digits: str) -> bool:
    """Tell numbers that count nothing, as those of telephones."""
    return len(digits) > _MAX_CARDINAL_DIGITS or (len(digits) > 1 and digits[0] == "0")


def _number_words(digits: str, form: str) -> str:
    """Return num2words' words as Americans say them: no *and*, no commas."""
    from num2words import num2words  # noqa: PLC0415  # loads fifty languages: only where a number stands

    return str(num2words(int(digits), to=form)).replace(",", "").replace(" and ", " ")
