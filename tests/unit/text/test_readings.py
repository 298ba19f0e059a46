"""Pieces that are read the same way wherever they stand."""

import pytest

from speechnar.text.readings import READINGS, acronym, dollars_and_cents, roman, without_quotes
from speechnar.text.written_forms import CURRENCIES


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("date", "24.12.2024", "December twenty-fourth twenty twenty-four"),
        ("date", "12/24/85", "December twenty-fourth nineteen eighty-five"),
        ("date", "24/12/1985", "December twenty-fourth nineteen eighty-five"),
        ("date", "13/13/2024", "thirteen thirteen two thousand twenty-four"),
        ("ip", "8.8.8.8", "eight dot eight dot eight dot eight"),
        ("ip", "1.2.3.400", "one point two point three point four hundred"),
        ("code", "+49 (0)30", "plus four nine zero three zero"),
        ("science", "6.02e23", "six point zero two times ten to the power of twenty-three"),
        ("power", "^-2", "to the power of minus two"),
        ("feet", "5'10\"", "five foot ten"),
        ("decade", "'90s", "nineties"),
    ],
)
def test_readings(kind, text, said):
    assert READINGS[kind](text) == said


def test_money_is_whole_or_small_or_both():
    dollar = CURRENCIES["$"]
    assert dollars_and_cents("1", "01", dollar) == "one dollar and one cent"
    assert dollars_and_cents("0", "50", dollar) == "fifty cents"
    assert dollars_and_cents("2", "00", dollar) == "two dollars"
    assert dollars_and_cents("0", "00", dollar) == "zero dollars"


@pytest.mark.parametrize(
    ("word", "last", "after", "said"),
    [
        *(("VIII", "Henry", "", "the eighth"), ("II", "War", "", "two"), ("V", "George", "was", "the fifth")),
        *(("I", "Elizabeth", "of", "the first"), ("I", "Mary", "think", ""), ("IV", "the", "drip", "")),
        *(("XIX", "the", "century", "nineteenth"), ("MCMXCIV", "in", "", "nineteen ninety-four"), ("CD", "A", "", "")),
        *(("LVIII", "Bowl", "", "fifty-eight"), ("LI", "Henry", "", ""), ("cat", "Henry", "", "")),
    ],
)
def test_roman_numerals(word, last, after, said):
    assert roman(word, last, after) == said


def test_acronyms_are_spelled_unless_they_are_words():
    words = ("BBC", "NASA", "PDFs", "api", "GitHub", "US", "brr", "html")
    assert [acronym(word, "") for word in words] == [
        *("B-B-C", "NASA", "P-D-F's", "A-P-I", "GitHub", "U-S", "brr", "H-T-M-L"),
    ]
    assert acronym("US", "GIVE") == "US"


def test_apostrophes_that_are_quotes_are_dropped():
    assert [without_quotes(word) for word in ("'hello'", "'tis", "dogs'")] == ["hello", "'tis", "dogs"]
