"""Numbers in words: quantities, ranks, years, codes, Roman numerals, in the notations of both sides of the Atlantic.

Differs from num2words: no *and*, no commas, as Americans say it. ``1,234.56`` and ``1.234,56`` are one number; where a
mark alone may be either (``1.234``), the reader of the text says which way is meant.
"""

import re

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
MAX_CARDINAL_DIGITS = 15
"""Longer numbers count nothing; they are read digit by digit."""
AMOUNT = r"\d(?:[\d.,']*\d)?"
"""What may be a number in either notation."""

_ROMAN = re.compile(r"(?=[IVXLCDM])M{0,3}(?:CM|CD|D?C{0,3})(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})")
_ROMAN_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_COMMA_FORM = re.compile(
    r"(?<![\d.,])(?:\d{1,3}(?:\.\d{3})+,\d+|\d+,\d\d ?(?:€|EUR|CHF|kr\b|zł)|(?:€|EUR ?) ?\d+,\d\d)(?![\d,])"
)
_POINT_FORM = re.compile(r"(?<![\d.,])(?:\d{1,3}(?:,\d{3})+\.\d+|[$£€] ?\d+\.\d\d)(?![\d.])")


def cardinal(digits: str) -> str:
    """Return a whole number in words; digit by digit if it begins with 0 or has more than 15 digits."""
    return digit_by_digit(digits) if _is_code(digits) else _number_words(digits, "cardinal")


def ordinal(digits: str) -> str:
    """Return the rank in words: ``twenty-first`` for 21; what `cardinal` reads digit by digit ranks by its last."""
    if _is_code(digits):
        return f"{digit_by_digit(digits[:-1])} {ordinal(digits[-1])}"
    return _number_words(digits, "ordinal")


def year(digits: str) -> str:
    """Return four digits, the first not 0, as a year is read: ``nineteen oh five``, ``two thousand five``."""
    return _number_words(digits, "year").replace("oh-", "oh ")


def digit_by_digit(digits: str) -> str:
    """Return the names of digits."""
    return " ".join(DIGITS[int(digit)] for digit in digits)


def pair(digits: str) -> str:
    """Return one or two digits as part of a version or a year: ``oh four`` for 04, ``eleven`` for 11."""
    return f"oh {DIGITS[int(digits[1])]}" if len(digits) == 2 and digits[0] == "0" != digits[1] else cardinal(digits)


def uses_decimal_comma(text: str) -> bool:
    """Tell whether some number in ``text`` can only have a decimal comma, and none a decimal point."""
    return _COMMA_FORM.search(text) is not None and _POINT_FORM.search(text) is None


def split_amount(text: str, *, decimal_comma: bool) -> tuple[str, str]:
    """Return the digits before and after the decimal mark of a number as of `AMOUNT`, either may be empty.

    A mark that stands twice, or before another one, groups thousands; one alone does where three digits follow, if it
    is the comma (with ``decimal_comma``: the point) and no leading zero speaks against it.
    """
    plain = text.replace("'", "")
    marks = re.sub(r"\d", "", plain)
    if not marks:
        return plain, ""
    last, after = marks[-1], len(plain) - 1 - plain.rindex(marks[-1])
    groups = last == ("." if decimal_comma else ",")
    before = plain[: plain.rindex(last)]
    could_group = after == 3 and before not in ("", "0") and len(re.split("[.,]", before)[-1]) <= 3
    if marks.count(last) > 1 or (len(marks) == 1 and groups and could_group):
        return re.sub(r"\D", "", plain), ""
    return re.sub(r"\D", "", before), plain[len(plain) - after :]


def decimal(whole: str, decimals: str) -> str:
    """Return the words for digits before and after the decimal mark."""
    said = cardinal(whole) if whole else ""
    return f"{said} point {digit_by_digit(decimals)}".strip() if decimals else said


def roman_value(word: str) -> int:
    """Return what a Roman numeral in capitals counts, up to 3999; 0 if it is none."""
    if not _ROMAN.fullmatch(word):
        return 0
    values = [_ROMAN_VALUES[letter] for letter in word]
    return sum(-v if v < max(values[at:]) else v for at, v in enumerate(values))


def _is_code(digits: str) -> bool:
    """Tell numbers that count nothing, as those of telephones."""
    return len(digits) > MAX_CARDINAL_DIGITS or (len(digits) > 1 and digits[0] == "0")


def _number_words(digits: str, form: str) -> str:
    from num2words import num2words  # noqa: PLC0415  # loads fifty languages: only where a number stands

    return str(num2words(int(digits), to=form)).replace(",", "").replace(" and ", " ")
