"""Speech Synthesis Markup Language: texts that say how they are to be read.

Understood are ``<speak>``, ``<p>``, ``<s>``, ``<break>``, ``<sub>`` and ``<say-as>``. The text inside other elements is
read as if they were not there, with a warning that names them.

Source: W3C, "Speech Synthesis Markup Language (SSML) Version 1.1", 2010, sections 3.1 and 3.2.
"""

import logging
import re
from xml.etree import ElementTree

from speechnar.errors import ConfigError
from speechnar.text.blocks import PARAGRAPH_PAUSE_S, SENTENCE_PAUSE_S, Block, add_break, read_break
from speechnar.text.numbers import digit_by_digit, ordinal

logger = logging.getLogger(__name__)

_SPELLED = frozenset({"characters", "spell-out", "verbatim"})
_DIGITS = frozenset({"digits", "telephone"})
_NOT_SPOKEN = frozenset({"desc", "meta", "metadata", "lexicon", "lookup"})
_KNOWN = frozenset({"speak", "p", "s", "break", "sub", "say-as", "token", "w", "mark"})
_MAX_DEPTH = 100
_SPACE = re.compile(r"\s+")


def is_ssml(text: str) -> bool:
    """Tell whether ``text`` is a document of SSML: it begins with ``<speak``."""
    return re.match(r"\s*(?:<\?xml[^>]*\?>\s*)?<speak\b", text) is not None


def read_ssml(text: str) -> list[Block]:
    """Return the blocks of a document of SSML.

    Raises:
        ConfigError: it is not well-formed, or has a document type, is nested too deeply, or a ``<break>`` says no valid
            time.
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ConfigError("SSML must come without a document type and entities; leave <!DOCTYPE ...> out")
    try:
        root = ElementTree.fromstring(text.strip())  # noqa: S314  # without entities it cannot grow
    except (ElementTree.ParseError, UnicodeEncodeError) as error:
        raise ConfigError(f"SSML must be well-formed XML, with &amp; for & and &lt; for <: {error}") from None
    reader = _Reader()
    reader.read(root, depth=1)
    reader.end(PARAGRAPH_PAUSE_S)
    if reader.ignored:
        logger.warning("SSML: <%s> has no effect, its text is read", ">, <".join(sorted(reader.ignored)))
    return reader.blocks


class _Reader:
    """Gathers text until something ends it."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.ignored: set[str] = set()
        self._held = ""

    def read(self, element: ElementTree.Element, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise ConfigError(f"SSML must be nested at most {_MAX_DEPTH} deep")
        name = element.tag.rpartition("}")[2]
        if name in _NOT_SPOKEN:
            return
        if name not in _KNOWN:
            self.ignored.add(name)
        if name in ("p", "s"):
            self.end(PARAGRAPH_PAUSE_S if name == "p" else SENTENCE_PAUSE_S)
        if name == "break":
            seconds = read_break(" ".join(f'{key}="{value}"' for key, value in element.attrib.items()))
            add_break(self.blocks, self._take(SENTENCE_PAUSE_S), seconds)
            return
        if name == "sub" and "alias" in element.attrib:
            self._held += element.attrib["alias"]
            return
        if name == "say-as":
            self._held += _say_as(" ".join(element.itertext()), element.attrib.get("interpret-as", ""))
            return
        self._held += element.text or ""
        for child in element:
            self.read(child, depth + 1)
            self._held += child.tail or ""
        if name in ("p", "s"):
            self.end(PARAGRAPH_PAUSE_S if name == "p" else SENTENCE_PAUSE_S)

    def end(self, pause_s: float) -> None:
        """End the block that is being read; where there is none, its end is that of the one before."""
        found = self._take(pause_s)
        if not found and self.blocks and not self.blocks[-1].is_break:
            last = self.blocks[-1]
            self.blocks[-1] = Block(last.text, max(last.pause_s, pause_s), last.mark)
        self.blocks += found

    def _take(self, pause_s: float) -> list[Block]:
        text, self._held = _SPACE.sub(" ", self._held).strip(), ""
        return [Block(text, pause_s)] if text else []


def _say_as(text: str, kind: str) -> str:
    """Return what stands for a text that is to be read letter by letter, digit by digit, or as a rank."""
    text = text.strip()
    if kind in _SPELLED:
        return " ".join(
            digit_by_digit(sign) if sign in "0123456789" else sign.upper() for sign in text if sign.isalnum()
        )
    if kind in _DIGITS:
        named = (digit_by_digit(sign) if sign in "0123456789" else "plus" for sign in text if sign in "0123456789+")
        return " ".join(named)
    if kind == "ordinal" and re.fullmatch("[0-9]+", text):
        return ordinal(text)
    return text
