"""A reader of English, who expands the pieces of a text in the light of their neighbours."""

import re
from collections.abc import Callable, Mapping

from speechnar.text.addresses import read_version
from speechnar.text.atoms import NUMBERS, Atom, atoms_of, strongest
from speechnar.text.numbers import (
    AMOUNT,
    cardinal,
    decimal,
    digit_by_digit,
    ordinal,
    pair,
    split_amount,
    uses_decimal_comma,
    year,
)
from speechnar.text.readings import READINGS, acronym, dollars_and_cents, roman, without_quotes
from speechnar.text.written_forms import (
    ABBREVIATIONS,
    BEFORE_NUMBER,
    CURRENCIES,
    CURRENCY_CODES,
    CURRENCY_NAMES,
    GREEK,
    INITIALS,
    LISTED,
    MARKS,
    MONTHS,
    PER,
    PER_SHORT,
    SCALE_LETTERS,
    SCALE_WORDS,
    SHORT_DAYS,
    SHORT_MONTHS,
    SPACED_UNITS,
    SYMBOLS,
    TITLES,
    UNITS,
    VERSIONED,
    WITHOUT_STOP,
    WORDS_IN_SMALL_LETTERS,
    Names,
)

_FRACTIONS = frozenset({*range(2, 11), 12, 16, 20, 32, 64, 100})
"""Denominators; other numbers with a slash are read one after the other, as in 9/11."""
_MAX_WORD = 40
"""Longer ones are no words; they are left as they are."""
_INITIAL = re.compile("[A-HJ-Z]")
_DAY_OR_YEAR = re.compile(r"[0-3]?\d(?:st|nd|rd|th)?|1\d{3}|20\d\d")


class Reader:
    """Reads the atoms of a text from left to right.

    What stands to the left is judged by what was said for it, not by how it was written: read again, the result meets
    the same left context, which makes it a fixed point.
    """

    def __init__(self, text: str) -> None:
        words = text.split()
        self._atoms = atoms_of(words)
        self._decimal_comma = uses_decimal_comma(" ".join(words))
        self._said: list[list[str]] = [[] for _ in words]
        self._last = ""
        """The last word or mark said."""
        self._owed = ""
        """What is said after the next number or scale: the currency of "five million dollars"."""
        self._cents = ""
        """What is said after the currency that stands behind an amount."""
        self._measured_at = -1
        """The last atom that is a unit or a price, which a slash may relate to something."""
        self._readers: Mapping[str, Callable[[int, Atom], str]] = {
            "over": self._over,
            "time": self._time,
            "money": self._money,
            "fraction": self._fraction,
            "number": self._number,
            "unit": self._unit_of,
            "times": lambda at, atom: "times" if self._is_word(at + 1) else "x",
            "initials": self._initials,
            "word": self._word,
            "per": self._per,
            "symbol": self._symbol,
        }
        """Of the kinds that need to know what is beside them; others are read by `READINGS`."""

    def read(self) -> list[list[str]]:
        """Return what is said for each word of the text."""
        for at, atom in enumerate(self._atoms):
            if atom.kind == "pause":
                self._pause(at, atom)
                continue
            reader = self._readers.get(atom.kind)
            said = READINGS[atom.kind](atom.text) if reader is None else reader(at, atom)
            for part in said.split():
                self._say(atom, part)
            if said and _INITIAL.fullmatch(self._last):
                self._drop_stop(at)
        return self._said

    def _say(self, atom: Atom, part: str) -> None:
        words = [part[:-1], part[-1]] if part[-1] in MARKS else [part]
        self._said[atom.word] += words
        self._last = words[-1]

    def _atom(self, at: int) -> Atom | None:
        return self._atoms[at] if 0 <= at < len(self._atoms) else None

    def _kind(self, at: int) -> str:
        atom = self._atom(at)
        return "" if atom is None else atom.kind

    def _is_word(self, at: int) -> bool:
        atom = self._atom(at)
        return atom is not None and atom.kind == "word" and atom.starts

    def _is_stopped(self, at: int) -> bool:
        """Tell whether a full stop stands at the atom."""
        after = self._atom(at + 1)
        return after is not None and after.kind == "pause" and strongest(after.text) == "."

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

    def _pause(self, at: int, atom: Atom) -> None:
        """Add a mark after a word; none begins a text."""
        mark, after = strongest(atom.text), self._atom(at + 1)
        if not mark or not self._last:
            return
        is_glued = after is not None and not atom.starts and not after.starts
        if atom.text == "." and after is not None and is_glued and after.text[0].islower():
            mark = "dot"  # node.js
        elif atom.text == "—" and self._is_amount(at - 1) and self._kind(at + 1) in NUMBERS:
            mark = "to"  # 10 – 12
        if self._last in MARKS and mark in MARKS:  # nothing is said in between
            said = next(parts for parts in reversed(self._said) if parts)
            said[-1] = self._last = strongest(self._last + mark)
            return
        self._said[atom.word].append(mark)
        self._last = mark

    def _word(self, at: int, atom: Atom) -> str:
        word = without_quotes(atom.text)
        expanded = self._of_number(at, word) or self._code_of_currency(at, word) or self._calendar(at, word)
        return expanded or self._unit(at) or self._abbreviation(at, word) or self._unabridged(at, word)

    def _of_number(self, at: int, word: str) -> str:
        """Return the scale or the currency of the number to the left, or "" if the word is none."""
        small, before = word.lower(), self._atom(at - 1)
        if small in SCALE_WORDS and self._owed:
            return f"{word} {self._take_owed()}"
        if before is None or before.kind != "number":
            return ""
        if (small in ("mn", "bn", "tn") and not self._atoms[at].starts) or word in ("Mio", "Mrd"):
            self._drop_stop(at)
            return f"{SCALE_LETTERS[small]} {self._take_owed()}"
        names = CURRENCY_CODES.get(word) or (CURRENCY_NAMES.get(word) if self._cents else None)
        return "" if names is None else self._name_currency(names, at)

    def _unabridged(self, at: int, word: str) -> str:
        """Return a word that stands for itself, a Roman numeral, or an acronym."""
        after = self._atom(at + 1)
        if len(word) > _MAX_WORD:
            return word
        if (
            1 < len(word) < 4
            and word.isupper()
            and word.isalpha()
            and after
            and after.kind == "number"
            and not after.starts
        ):
            return "-".join(word)  # CO2
        stem, ending = (word[:-2], "'s") if word.endswith("'s") else (word, "")
        numeral = roman(stem, self._last, "" if after is None or after.kind == "pause" else after.text)
        return f"{numeral}{ending}" if numeral else "-".join(acronym(part, self._last) for part in word.split("-"))

    def _is_amount(self, at: int) -> bool:
        atom = self._atom(at)
        return atom is not None and (atom.kind in NUMBERS or re.fullmatch(r"[ap]\.m\.?", atom.text) is not None)

    def _take_owed(self) -> str:
        owed, self._owed = self._owed, ""
        return owed

    def _code_of_currency(self, at: int, word: str) -> str:
        """Owe the currency of ``EUR 5``, whose name follows the number."""
        after = self._atom(at + 1)
        if word not in CURRENCY_CODES or after is None or after.kind != "number":
            return ""
        after.kind, after.text = "money", f"{word} {after.text}"
        return " "

    def _calendar(self, at: int, word: str) -> str:
        """Return the month or the day of the week that is cut short without a full stop beside a date or a range."""
        near = [self._atom(at - 1), self._atom(at + 1 + self._is_stopped(at))]
        by_range = any(atom is not None and atom.kind == "range" for atom in near)
        by_number = any(
            atom is not None and atom.kind in ("number", "ordinal") and _DAY_OR_YEAR.fullmatch(atom.text)
            for atom in near
        )
        parts = word.split("-")
        for names in (SHORT_DAYS, SHORT_MONTHS):
            if len(parts) == 2 and all(part in names for part in parts):
                return f"{names[parts[0]]} to {names[parts[1]]}"
        name = SHORT_MONTHS.get(word, "") if by_range or by_number else ""
        after = self._atom(at + 1)
        if not name and word in SHORT_DAYS:
            by_comma = (
                after is not None
                and "," in after.text
                and self._atom(at + 2) is not None
                and (self._atoms[at + 2].text in {*SHORT_MONTHS, *MONTHS} or self._kind(at + 2) in ("number", "date"))
            )
            by_time = after is not None and (
                after.kind in ("date", "time") or (after.kind == "number" and self._is_month(at + 2))
            )
            name = SHORT_DAYS[word] if by_range or by_comma or by_time else ""
        if name:
            self._drop_stop(at)
        return name

    def _abbreviation(self, at: int, word: str) -> str:
        small, stopped = word.lower(), self._is_stopped(at)
        after = self._atom(at + 1 + stopped)
        is_number = after is not None and after.kind in ("number", "version")
        expanded = ""
        if small in ("am", "pm") and self._is_clock(at - 1):
            return "A-M" if small == "am" else "P-M"
        if stopped and is_number and small in BEFORE_NUMBER:
            expanded = BEFORE_NUMBER[small]
        elif small in ("st", "dr") and (stopped or word.istitle()):
            is_title = self._is_capital(at + 1 + stopped) and not (stopped and self._atoms[at + 1].text != ".")
            expanded = {"st": ("Street", "Saint"), "dr": ("Drive", "Doctor")}[small][is_title]
        elif (stopped and (word.istitle() or small not in WORDS_IN_SMALL_LETTERS)) or (
            small in WITHOUT_STOP and not word.isupper()
        ):
            expanded = TITLES.get(small) or ABBREVIATIONS.get(small, "")
        if expanded:
            ends_sentence = small == "etc" and self._is_capital(at + 2)
            if not ends_sentence:
                self._drop_stop(at)
        return expanded

    def _is_clock(self, at: int) -> bool:
        atom = self._atom(at)
        return atom is not None and (
            atom.kind == "time"
            or (atom.kind == "number" and re.fullmatch(r"\d{1,2}(?:\.[0-5]\d)?", atom.text) is not None)
        )

    def _unit(self, at: int) -> str:
        """Return the unit of the number to the left, or "" if the atom is none."""
        before, atom = self._atom(at - 1), self._atoms[at]
        name = atom.text.replace("^", "")
        if before is None or before.kind not in ("number", "fraction") or name not in UNITS:
            return ""
        if name == "in" and not self._is_stopped(at):
            return ""
        if atom.starts and len(name) == 1 and name not in SPACED_UNITS:
            return ""
        if name in ("cal", "ac") and atom.starts:
            return ""
        if name.isalpha():
            self._drop_stop(at)
        self._measured_at = at
        is_part = before.kind == "fraction" and self._kind(at - 2) != "number"
        return UNITS[name][before.text != "1" and not is_part]

    def _unit_of(self, at: int, atom: Atom) -> str:
        return self._unit(at) or UNITS[atom.text.replace("^", "")][1]

    def _over(self, at: int, atom: Atom) -> str:
        del atom
        return "over" if self._kind(at - 1) in NUMBERS and self._kind(at + 1) in NUMBERS else ""

    def _per(self, at: int, atom: Atom) -> str:
        """Read the slash of a price or a measure; others are silent."""
        after = self._atom(at + 1)
        if self._measured_at != at - 1 or after is None or after.text not in PER:
            return ""
        short = UNITS.get(after.text, (PER_SHORT.get(after.text, ""),))[0]
        if short:
            after.kind, after.text = "shorthand", short
            return f"per {self._replaced(after)}"
        return "per"

    def _replaced(self, atom: Atom) -> str:
        """Return what stands for an atom, and let nothing more be said for it."""
        said, atom.kind, atom.text = atom.text, "pause", ""
        return said

    def _time(self, at: int, atom: Atom) -> str:
        clock, _, thousandths = atom.text.partition(".")
        hours, minutes, *seconds = clock.removesuffix(":00" if clock.count(":") == 2 and not thousandths else "").split(
            ":"
        )
        after = self._atom(at + 1)
        has_half = after is not None and re.sub(r"\W", "", after.text).lower() in ("am", "pm")
        if hours in ("0", "00") and not int(minutes) and not seconds:
            return "midnight"
        if int(minutes):
            said = f"{'oh ' if int(minutes) < 10 else ''}{cardinal(str(int(minutes)))}"
        else:
            said = "" if has_half else "o'clock" if 1 <= int(hours) <= 12 and not seconds else "hundred"
        said = " ".join([cardinal(str(int(hours))), said, *(cardinal(str(int(part))) for part in seconds)])
        return f"{said} point {digit_by_digit(thousandths)}" if thousandths else said

    def _split(self, text: str, *, of_money: bool = False) -> tuple[str, str]:
        """Return the digits before and after the decimal mark, by what the whole text does."""
        decimal_comma = self._decimal_comma or (of_money and re.fullmatch(r"\d{1,3}\.\d{3}", text) is not None)
        return split_amount(text, decimal_comma=decimal_comma)

    def _money(self, at: int, atom: Atom) -> str:
        found = re.match(rf"(\D*?) ?({AMOUNT})(\w*)", atom.text)
        assert found is not None  # the kind of the atom says so
        self._measured_at = at
        sign, amount, scale = found.groups()
        names = CURRENCIES.get(sign) or CURRENCY_CODES[sign]
        whole, cents = self._split(amount, of_money=names[0] == "euro")
        after = self._atom(at + 1)
        if scale:
            return f"{decimal(whole, cents)} {SCALE_LETTERS[scale.lower()]} {names[1]}"
        if after is not None and after.starts and after.text.lower() in SCALE_WORDS:
            self._owed = names[1]
            return decimal(whole, cents)
        if after is not None and after.kind == "range" and self._kind(at + 2) in ("number", "money"):
            if self._kind(at + 2) == "number":
                self._owed = names[1]
            return decimal(whole, cents)
        if len(cents) != 2:
            return f"{decimal(whole, cents)} {names[(whole, cents) != ('1', '')]}"
        return dollars_and_cents(whole, cents, names)

    def _name_currency(self, names: Names, at: int) -> str:
        cents, self._cents, self._measured_at = self._cents, "", at
        return f"{names[self._atoms[at - 1].text != '1']}{cents}"

    def _currency_after(self, at: int) -> Names | None:
        atom = self._atom(at + 1)
        if atom is None:
            return None
        return CURRENCIES.get(atom.text) or CURRENCY_CODES.get(atom.text) or CURRENCY_NAMES.get(atom.text)

    def _fraction(self, at: int, atom: Atom) -> str:
        above, below = atom.text.split("/")
        if (1 < int(above) <= int(below) and int(below) == 10) or (above, below) == ("5", "5"):
            return f"{cardinal(above)} out of {cardinal(below)}"
        if int(below) not in _FRACTIONS or not 0 < int(above) < int(below):
            return f"{cardinal(above)} {cardinal(below)}"
        before = self._atom(at - 1)
        joined = "and " if before is not None and before.kind == "number" and before.text.isdigit() else ""
        part = {2: "half", 4: "quarter"}.get(int(below)) or ordinal(str(int(below)))
        if int(above) > 1:
            part = "halves" if part == "half" else f"{part}s"
        return f"{joined}{'a' if joined and int(above) == 1 else cardinal(above)} {part}"

    def _number(self, at: int, atom: Atom) -> str:
        text, after = atom.text, self._atom(at + 1)
        said = self._whole(at, text) if text.isdigit() else ""
        if said:
            return said
        if re.fullmatch(r"\d+\.\d+", text) and self._last.lower() in VERSIONED:
            return read_version(text)
        if re.fullmatch(r"\d+,\d{1,2}", text) and self._last.lower() in LISTED:
            first, second = text.split(",")
            return f"{cardinal(first)}, {cardinal(second)}"
        names = self._currency_after(at)
        whole, decimals = self._split(text, of_money=names is not None and names[0] == "euro")
        if names is not None and len(decimals) == 2:
            cents = dollars_and_cents("0", decimals, names) if int(decimals) else ""
            self._cents = f" and {cents}" if cents else ""
            atom.text = str(int(whole or "0"))
            return cardinal(atom.text)
        said = decimal(whole, decimals)
        is_scaled = after is not None and after.text.lower() in {*SCALE_WORDS, *SCALE_LETTERS}
        return said if is_scaled or not self._owed else f"{said} {self._take_owed()}"

    def _whole(self, at: int, text: str) -> str:
        """Return a number without marks that is a day, a year, or is written in groups; "" if it is none of these."""
        after = self._atom(at + 1)
        has_unit = after is not None and (after.text in UNITS or after.kind == "unit")
        is_day = len(text) <= 2 and 1 <= int(text) <= 31 and not has_unit  # of a month
        said = ""
        if is_day and self._last in MONTHS:
            said = ordinal(text.lstrip("0"))
        elif is_day and self._is_month(at + 1):
            said = f"{'' if self._last.lower() == 'the' else 'the '}{ordinal(text.lstrip('0'))} of"
        elif len(text) == 2 and self._last == "to" and self._follows_year(at):
            said = pair(text)
        elif len(text) == 4 and text[2:] != "00" and self._is_resolution(at):
            said = f"{cardinal(text[:2])} {pair(text[2:])}"
        elif len(text) <= 3 and self._is_thousands(at + 1):
            said = self._thousands(at)
        elif len(text) == 4 and 1100 <= int(text) < 2100 and not has_unit and not self._owed:
            said = year(text)
        return said

    def _is_resolution(self, at: int) -> bool:
        after = self._atom(at + 1)
        return self._last == "by" or (
            after is not None and (after.kind == "by" or (after.text == "p" and not after.starts))
        )

    def _is_thousands(self, at: int) -> bool:
        atom = self._atom(at)
        return atom is not None and atom.kind == "number" and atom.starts and atom.text == "000"

    def _thousands(self, at: int) -> str:
        """Read 10 000, of which each word says its part."""
        groups = 0
        while self._is_thousands(at + 1 + groups):
            groups += 1
        *number, scale = cardinal(self._atoms[at].text + "000" * groups).split()
        for place in range(at + 1, at + 1 + groups):
            self._replaced(self._atoms[place])
        self._atoms[at + 1].kind, self._atoms[at + 1].text = "say", scale
        return " ".join(number)

    def _follows_year(self, at: int) -> bool:
        """Tell whether the number closes a range that a year opens: 2024-25."""
        begin = self._atom(at - 2)
        return (
            self._kind(at - 1) == "range"
            and begin is not None
            and re.fullmatch(r"1[1-9]\d\d|20\d\d", begin.text) is not None
        )

    def _is_month(self, at: int) -> bool:
        atom = self._atom(at)
        return atom is not None and self._is_word(at) and (atom.text in MONTHS or atom.text in SHORT_MONTHS)

    def _initials(self, at: int, atom: Atom) -> str:
        letters = atom.text.replace(".", "")
        if letters.lower() in INITIALS:
            return INITIALS[letters.lower()]
        ends = self._atom(at + 1) is None or (letters.lower() in ("am", "pm") and self._begins_sentence(at + 1))
        if atom.text.endswith(".") and ends:
            self._atoms.insert(at + 1, Atom("pause", ".", atom.word, starts=False))
        return "-".join(letters.upper())

    def _symbol(self, at: int, atom: Atom) -> str:
        before, after = self._atom(at - 1), self._atom(at + 1)
        sign = atom.text
        if sign in GREEK:
            return GREEK[sign]
        if sign == "#":
            if not atom.starts:
                return "sharp" if before is not None and before.text in ("C", "F") else SYMBOLS[sign]
            if after is not None and (after.kind == "number" or not after.starts):
                return "number" if after.kind == "number" else "hashtag"
        if sign in CURRENCIES:
            if before is not None and before.kind == "number":
                return self._name_currency(CURRENCIES[sign], at)
            if after is not None and after.kind == "number" and after.text[0].isdigit():
                after.kind, after.text = "money", f"{sign} {after.text}"
                return ""
        return self._unit(at) or SYMBOLS[sign]
