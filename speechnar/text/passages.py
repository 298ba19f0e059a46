"""Text of any length to what is spoken at one go, and how long the silence after it is.

Blocks (headings, items, paragraphs, pauses asked for) come from :mod:`speechnar.text.blocks` or
:mod:`speechnar.text.ssml`, their sentences from :mod:`speechnar.text.sentences`.
"""

import re
from dataclasses import dataclass
from typing import Literal

from speechnar.text.blocks import CLAUSE_PAUSE_S, SENTENCE_PAUSE_S, Block, read_blocks
from speechnar.text.emoji import name_emoji
from speechnar.text.sentences import MAX_CHARS, split_sentences
from speechnar.text.ssml import is_ssml, read_ssml

Emoji = Literal["skipped", "named"]
EMOJI: tuple[Emoji, ...] = ("skipped", "named")
"""What becomes of emoji."""
_SENTENCE_MARKS = frozenset(".!?…。！？")
_MARKS = _SENTENCE_MARKS | frozenset(",;:—–，；：、")
_CLOSING = "\"'”’)]»」』）*_`~"
_GROUP_SPACE = re.compile(r"(?<=\d)[\u00a0\u2007\u2009\u202f](?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Passage:
    """What is spoken at one go."""

    text: str
    """As it is written; "" where there is only silence."""
    mark: str = ""
    """What is read at its end, which has no mark of its own."""
    pause_s: float = 0.0
    """Silence after it."""
    is_break: bool = False
    """The pause was asked for: it is made even at the end of all."""


def read_passages(text: str, *, emoji: Emoji = "skipped", max_chars: int = MAX_CHARS) -> list[Passage]:
    """Return the passages of plain text, Markdown, or SSML, of at most ``max_chars`` each.

    Raises:
        ConfigError: the SSML is not valid.
    """
    passages: list[Passage] = []
    for block in read_ssml(text) if is_ssml(text) else read_blocks(text):
        passages += _cut(block, emoji, max_chars)
    return passages


def _cut(block: Block, emoji: Emoji, max_chars: int) -> list[Passage]:
    """Return a block's sentences, and parts of long ones; its own pause is behind the last."""
    text = name_emoji(block.text) if emoji == "named" else block.text
    sentences = split_sentences(_GROUP_SPACE.sub("", text), max_chars)
    found = [
        Passage(sentence, "", SENTENCE_PAUSE_S if _ends(sentence, _SENTENCE_MARKS) else CLAUSE_PAUSE_S)
        for sentence in sentences
    ]
    if not found:
        return [Passage("", "", block.pause_s, is_break=True)] if block.is_break else []
    last = found[-1].text
    found[-1] = Passage(last, "" if _ends(last, _MARKS) else block.mark, block.pause_s, block.is_break)
    return found


def _ends(text: str, marks: frozenset[str]) -> bool:
    return text.rstrip(_CLOSING)[-1:] in marks
