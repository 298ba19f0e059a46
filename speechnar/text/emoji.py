"""Emoji by their names: what is said for a picture in a text.

Source: the character names of the Unicode Standard, without what they say about the drawing (*heavy black heart*).
"""

import re
import unicodedata

_PICTURE = "[\u2600-\u27bf\u2b00-\u2bff\u23e9-\u23fa\u231a\u231b"
_PICTURE += "\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff]"
_TONE_OR_SELECTOR = "[\ufe0e\ufe0f\U0001f3fb-\U0001f3ff]"
_FLAG = "[\U0001f1e6-\U0001f1ff]{2}"
_EMOJI = re.compile(rf"{_FLAG}|{_PICTURE}{_TONE_OR_SELECTOR}*(?:\u200d{_PICTURE}{_TONE_OR_SELECTOR}*)*")
_ROW = re.compile(rf"\s*(?:(?:{_EMOJI.pattern})\s*)+(?=([^\w\s]|$)?)")
_DRAWING = re.compile(r"\b(?:(?:white|black|heavy|negative squared|outlined|person with) )+|(?: sign| symbol)$")
_NAMES = {
    "❤": "red heart",
    "👍": "thumbs up",
    "👎": "thumbs down",
    "⭐": "star",
    "☀": "sun",
    "☹": "frowning face",
    "☺": "smiling face",
}
_NAMES |= {"♀": "", "♂": "", "💯": "hundred points"}
_FIRST_FLAG_LETTER = 0x1F1E6


def name_emoji(text: str) -> str:
    """Return ``text`` with the name of each emoji in its place, between commas: *Well done, party popper!*.

    Of the same in a row one is named; skin tones are not, the parts of a joined picture are one after the other, flags
    by the letters of their country.
    """

    def name_row(match: re.Match[str]) -> str:
        names = ", ".join(dict.fromkeys(_name(emoji) for emoji in _EMOJI.findall(match[0])))
        before = text[: match.start()]
        return (
            f"{', ' if before[-1:].isalnum() else ' ' if before else ''}{names}{'' if match[1] is not None else ', '}"
        )

    return _ROW.sub(name_row, text)


def _name(emoji: str) -> str:
    if re.fullmatch(_FLAG, emoji):
        return f"flag of {'-'.join(chr(ord('A') + ord(letter) - _FIRST_FLAG_LETTER) for letter in emoji)}"
    names = (
        _NAMES.get(sign, _DRAWING.sub("", unicodedata.name(sign, "").lower())) for sign in re.findall(_PICTURE, emoji)
    )
    return " ".join(name for name in names if name) or "emoji"
