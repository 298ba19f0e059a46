"""What is said for a piece of a text whatever stands beside it: dates, codes, powers, acronyms.

Each function takes the text of an atom (:mod:`speechnar.text.atoms`).
"""

import re
from collections.abc import Callable, Mapping

from speechnar.text.addresses import read_address, read_hex, read_ip, read_version
from speechnar.text.lexicon import english, is_spelled
from speechnar.text.numbers import cardinal, decimal, digit_by_digit, ordinal, roman_value, year
from speechnar.text.written_forms import (
    ALWAYS_SPELLED,
    MONTHS,
    NOT_NAMES,
    NUMBERED,
    RULERS,
    SHORTHANDS,
    SPELLED_WORDS,
    Names,
)

_PIVOT_YEAR = 50
"""Of two digits, from here on those of the last century."""
_FIRST_ROMAN_YEAR, _LAST_ROMAN_YEAR = 1500, 2100
_MANY_KINGS = 40
"""So many never had one name."""


def dollars_and_cents(whole: str, cents: str, names: Names) -> str:
    """Return an amount of money; without cents if they are 0, without dollars if only they are."""
    said = []
    if int(whole) or not int(cents):
        said.append(f"{cardinal(str(int(whole)))} {names[int(whole) != 1]}")
    if int(cents):
        said.append(f"{cardinal(str(int(cents)))} {names[2 + (int(cents) != 1)]}")
    return " and ".join(said)


def acronym(word: str, last: str) -> str:
    """Return a word as it is, or by its letters if that is how it is read; ``last`` is the word said before it."""
    stem, ending = re.fullmatch(r"(.*?)('?s|'S)?", word, re.DOTALL).groups("")  # type: ignore[union-attr]  # matches all
    if not (stem.isupper() and len(stem) > 1):
        stem, ending = word, ""
    if not 2 <= len(stem) <= 20 or not stem.isalpha():
        return word
    shouts = last.isupper() and last.isalpha() and len(last) > 1
    spelled = (stem in SPELLED_WORDS and not shouts) or stem.lower() in ALWAYS_SPELLED
    if not spelled and english().lookup(stem) is None:
        is_sound = re.search(r"(.)\1", stem) is not None  # brr, psst
        spelled = (stem.isupper() and len(stem) <= 5) or (is_spelled(stem) and not is_sound)
    return "-".join(stem.upper()) + (f"'{ending[-1].lower()}" if ending else "") if spelled else word


def roman(word: str, last: str, after: str) -> str:
    """Return a Roman numeral in words, or "" if the word is none, between the words ``last`` and ``after``."""
    value, small = roman_value(word), last.lower()
    said = ""
    if not value:
        said = ""
    elif len(word) > 1 and after.lower() in ("century", "centuries"):
        said = ordinal(str(value))
    elif len(word) >= 4 and _FIRST_ROMAN_YEAR <= value < _LAST_ROMAN_YEAR:
        said = year(str(value))
    elif small in NUMBERED and (len(word) > 1 or last.istitle()):
        said = cardinal(str(value))
    elif value < _MANY_KINGS and last.isalpha() and last.istitle() and len(last) > 1 and small not in NOT_NAMES:
        is_ruler = small in RULERS and (word != "I" or after in ("", "of"))
        said = f"the {ordinal(str(value))}" if len(word) > 1 or is_ruler else ""
    return said


def without_quotes(word: str) -> str:
    """Drop apostrophes that are quotation marks or the possessive of a plural; those of *'tis* stay."""
    if word in english():
        return word
    inner = word.rstrip("'")
    return inner if inner in english() else inner.lstrip("'")


def _date(text: str) -> str:
    """Read 1985-12-25, 25.12.1985 and, as in America, 12/25/1985; what is no date is read as it stands."""
    parts = re.split(r"[-/.]", text)
    if len(parts[0]) == 4:
        of_year, month, day = parts
    elif "." in text:
        day, month, of_year = parts
    else:
        month, day, of_year = parts
    if int(month) > 12 >= int(day):
        month, day = day, month
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return " ".join(cardinal(part) for part in parts) if "." not in text else read_version(text)
    if len(of_year) == 2:
        of_year = f"{'19' if int(of_year) >= _PIVOT_YEAR else '20'}{of_year}"
    said = year(of_year) if of_year[0] != "0" else cardinal(of_year)
    return f"{MONTHS[int(month) - 1]} {ordinal(str(int(day)))} {said}"


def _ip(text: str) -> str:
    numbers = [int(part) for part in re.findall(r"\d+", text)[:4]]
    return (
        read_ip(text) if max(numbers) < 256 else read_version(text.split("/", maxsplit=1)[0].split(":", maxsplit=1)[0])
    )


def _decade(text: str) -> str:
    digits = re.sub(r"\D", "", text)
    words = year(digits) if len(digits) == 4 and digits[0] != "0" else cardinal(digits)
    return f"{words[:-1]}ies" if words.endswith("y") else f"{words}s"


def _code(text: str) -> str:
    """Return digits one by one; a plus before them and letters among them are read, too."""
    names = {"+": "plus", **{letter: letter for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"}}
    return " ".join(
        digit_by_digit(sign) if sign.isdigit() else names[sign] for sign in text if sign.isdigit() or sign in names
    )


def _science(text: str) -> str:
    number, exponent = re.split("[eE]", text)
    whole, _, decimals = number.partition(".")
    return f"{decimal(whole, decimals)} times ten {_power(exponent.lstrip('+'))}"


def _power(exponent: str) -> str:
    if exponent in ("2", "3"):
        return {"2": "squared", "3": "cubed"}[exponent]
    return f"to the power of {'minus ' if exponent[0] == '-' else ''}{cardinal(str(abs(int(exponent))))}"


def _feet(text: str) -> str:
    return " foot ".join(cardinal(part) for part in re.findall(r"\d+", text))


def _rating(text: str) -> str:
    return " out of ".join(decimal(*part.partition(".")[::2]) for part in text.split("/"))


def _flag(text: str) -> str:
    words = (acronym(word, "") for word in text.lstrip("-").split("-"))
    return " ".join(["dash dash" if text[1] == "-" else "dash", *words])


READINGS: Mapping[str, Callable[[str], str]] = {
    "url": lambda text: read_address(text, lambda word: acronym(word, "")),
    "date": _date,
    "ip": _ip,
    "hex": read_hex,
    "version": read_version,
    "decade": _decade,
    "ordinal": lambda text: ordinal(re.sub(r"\D", "", text)),
    "code": _code,
    "science": _science,
    "feet": _feet,
    "rating": _rating,
    "power": lambda text: _power(text[1:]),
    "flag": _flag,
    "shorthand": lambda text: SHORTHANDS[text],
    "say": lambda text: text,
    "dot": lambda text: "dot",
    "at": lambda text: "at",
    "zone": lambda text: "U-T-C",
    "by": lambda text: "by",
    "range": lambda text: "to",
    "minus": lambda text: "minus",
}
"""By the kind of the atom."""
