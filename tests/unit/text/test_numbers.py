"""Numbers in words, and numbers in both notations."""

import pytest

from speechnar.text.numbers import (
    cardinal,
    decimal,
    ordinal,
    pair,
    roman_value,
    split_amount,
    uses_decimal_comma,
    year,
)


@pytest.mark.parametrize(
    ("value", "said", "ranked"),
    [
        (0, "zero", "zeroth"),
        (13, "thirteen", "thirteenth"),
        (20, "twenty", "twentieth"),
        (45, "forty-five", "forty-fifth"),
        (112, "one hundred twelve", "one hundred twelfth"),
        (1_000_001, "one million one", "one million first"),
        (
            999_999_999_999_999,
            "nine hundred ninety-nine trillion nine hundred ninety-nine billion nine hundred ninety-nine million "
            "nine hundred ninety-nine thousand nine hundred ninety-nine",
            "nine hundred ninety-nine trillion nine hundred ninety-nine billion nine hundred ninety-nine million "
            "nine hundred ninety-nine thousand nine hundred ninety-ninth",
        ),
    ],
)
def test_cardinals_and_ordinals_as_americans_say_them(value, said, ranked):
    assert cardinal(str(value)) == said
    assert ordinal(str(value)) == ranked


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1100, "eleven hundred"),
        (1905, "nineteen oh five"),
        (1985, "nineteen eighty-five"),
        (2000, "two thousand"),
        (2005, "two thousand five"),
        (2010, "twenty ten"),
    ],
)
def test_years_as_americans_say_them(value, said):
    assert year(str(value)) == said


def test_numbers_that_are_no_quantity_are_read_digit_by_digit():
    assert cardinal("007") == "zero zero seven"
    assert cardinal("1" * 16) == " ".join(["one"] * 16)
    assert cardinal("0") == "zero"


@pytest.mark.parametrize(
    ("written", "with_point", "with_comma"),
    [
        ("1,234.56", ("1234", "56"), ("1234", "56")),
        ("1.234,56", ("1234", "56"), ("1234", "56")),
        ("1.234", ("1", "234"), ("1234", "")),
        ("1,234", ("1234", ""), ("1", "234")),
        ("1.234.567", ("1234567", ""), ("1234567", "")),
        ("1'234'567.50", ("1234567", "50"), ("1234567", "50")),
        ("0.234", ("0", "234"), ("0", "234")),
        ("0,234", ("0", "234"), ("0", "234")),
        ("29,99", ("29", "99"), ("29", "99")),
        ("1234.567", ("1234", "567"), ("1234", "567")),
        (".5", ("", "5"), ("", "5")),
        ("5", ("5", ""), ("5", "")),
    ],
)
def test_the_two_notations(written, with_point, with_comma):
    assert split_amount(written, decimal_comma=False) == with_point
    assert split_amount(written, decimal_comma=True) == with_comma


def test_which_notation_a_text_uses():
    assert uses_decimal_comma("It was 1.234,56 or €3,20") and uses_decimal_comma("5,20 €")
    assert not uses_decimal_comma("1,234.56") and not uses_decimal_comma("1.234 and 1,2,3 on 24.12.2024")
    assert not uses_decimal_comma("€3,20 or $3.20"), "both: nothing is known"


def test_decimals_are_read_digit_by_digit():
    assert decimal("3", "14") == "three point one four"
    assert decimal("", "5") == "point five"
    assert decimal("3", "") == "three"


def test_parts_of_versions_and_years():
    assert [pair(digits) for digits in ("04", "11", "0", "00")] == ["oh four", "eleven", "zero", "zero zero"]


def test_roman_numerals_as_they_are_written():
    assert [roman_value(word) for word in ("I", "IV", "XLII", "MCMXCIV", "MMXXIV")] == [1, 4, 42, 1994, 2024]
    assert [roman_value(word) for word in ("", "IIII", "VX", "DVD", "iv", "A")] == [0] * 6
