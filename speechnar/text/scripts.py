"""Letters by how words of them are told apart: by spaces, or not at all."""

import re
import unicodedata

from speechnar.errors import DataError

# Thai, Lao, Tibetan, Burmese and Khmer; the signs of repetition and number of Chinese; kana; Chinese characters.
_UNSPACED = (
    "\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"
    "\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
"""A letter of writing that has no spaces between words."""
_INSIDE_WORDS = frozenset("'’-")


def ends_before(letter: str) -> bool:
    """Tell whether a word always ends before ``letter``: a space, punctuation, or writing without spaces.

    Apostrophes and hyphens may stand inside of words.
    """
    is_of_word = letter in _INSIDE_WORDS or unicodedata.category(letter)[0] in "LMN"
    return not is_of_word or UNSPACED_LETTER.match(letter) is not None


def begins_after(before: str, letter: str) -> bool:
    """Tell whether ``letter`` begins a word of text without spaces after the letter ``before`` ("": nothing).

    Punctuation goes on with what stands before it, and so do letters and digits of writing with spaces among
    themselves.
    """
    if not before or UNSPACED_LETTER.match(letter):
        return True
    return ends_before(before) and not ends_before(letter)


def check_unicode(text: str) -> None:
    """Check that ``text`` can be written.

    Raises:
        DataError: it has surrogates, which stand for bytes that are not UTF-8, or for half a character of UTF-16.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"text must be UTF-8, got {text[max(0, error.start - 20) : error.start + 20]!r}, whose letter "
            f"{error.start + 1} is none"
        ) from None
