"""Texts as people type and caption them, in the spelling that models of translation have learned from."""

import re

from speechnar.text.tokenizer import Tokenizer

_ELLIPSIS = re.compile(r"(?:\.\s?){2,}\.|…+|\.{2}")
_INNER = re.compile(rf"\s*(?:{_ELLIPSIS.pattern})\s*(?=[a-zß-öø-ÿ])")
_LAST = re.compile(rf"(?<=\w)\s*(?:{_ELLIPSIS.pattern})(?=\s|$)")
_LETTERS = re.compile(r"[^\W\d_]+")


def without_ellipses(text: str) -> str:
    """Return ``text`` with a space for dots in the middle of a sentence, and one dot for those at its end.

    What is nothing but dots stays.
    """
    return _LAST.sub(".", _INNER.sub(" ", text)) if _LETTERS.search(text) else text


def encode_familiar(text: str, tokenizer: Tokenizer) -> list[int]:
    """Return the tokens of ``text``, of its sentence case where it is all in capitals and that is more familiar.

    Familiar is what takes fewer tokens: pieces are learned from what models are trained on. One word alone stays, as it
    may be an abbreviation.
    """
    tokens = tokenizer.encode(text)
    words = _LETTERS.findall(text)
    if len(words) < 2 or text != text.upper() or max(map(len, words)) < 2:
        return tokens
    place = text.index(words[0])
    calm = tokenizer.encode(text[: place + 1] + text[place + 1 :].lower())
    return min(tokens, calm, key=len)
