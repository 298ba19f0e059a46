"""What tables put in can be pronounced."""

import re

from speechnar.text import numbers, written_forms
from speechnar.text.lexicon import english
from speechnar.text.spoken import spell_out


def test_every_word_that_is_put_in_can_be_pronounced():
    tables = [written_forms.TITLES, written_forms.ABBREVIATIONS, written_forms.INITIALS, written_forms.BEFORE_NUMBER]
    tables += [written_forms.SYMBOLS, written_forms.SCALE_LETTERS, written_forms.SIGNS, written_forms.SHORTHANDS]
    tables += [written_forms.GREEK, written_forms.SHORT_DAYS, written_forms.SHORT_MONTHS, written_forms.PER_SHORT]
    texts = [text for table in tables for text in table.values()]
    pairs = (written_forms.UNITS, written_forms.CURRENCIES, written_forms.CURRENCY_CODES)
    texts += [text for table in pairs for row in table.values() for text in row]
    texts += [*written_forms.MONTHS, *(numbers.ordinal(str(n)) for n in range(32))]
    texts += [numbers.cardinal(str(10**n)) for n in range(15)] + [numbers.cardinal(str(n)) for n in range(101)]
    words = {word for text in texts for word in re.findall(r"[^\s:]+", text)}
    assert not {word for word in words if english().lookup(word) is None}


def test_what_is_put_in_is_not_put_into_other_words_again():
    said = {*written_forms.SYMBOLS.values(), *written_forms.SHORTHANDS.values(), *written_forms.GREEK.values()}
    said |= {name for names in written_forms.UNITS.values() for name in names}
    assert {text for text in said if spell_out(text) != text} == set()
