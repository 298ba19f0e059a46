"""Text as a reader would say it: numbers, dates, money, abbreviations and symbols of English in words.

What comes out holds only ASCII letters, apostrophes and hyphens inside words, single spaces, and the marks that shape
prosody (``MARKS``). Acronyms that no dictionary has as a word become ``B-B-C``.

The text is cut into atoms (:mod:`speechnar.text.atoms`), and each is expanded in the light of its neighbours
(:mod:`speechnar.text.reader`), so that each original word knows what is said for it (:func:`spoken_words`), which
editing needs. What goes beyond a sentence (headings, lists, SSML) is that of :mod:`speechnar.text.passages`.

Source: the classes of non-standard words of Sproat et al., "Normalization of non-standard words", Computer Speech and
Language 15, 2001, table 1.
"""

import re
from collections.abc import Iterable

from speechnar.text.reader import Reader
from speechnar.text.written_forms import MARKS

__all__ = ["MARKS", "join_spoken", "spell_out", "spoken_words"]


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
    return Reader(text).read()
