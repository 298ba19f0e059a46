"""Text of any length to pieces that are spoken at one go: sentences, and parts of long ones."""

import re
import unicodedata
from collections.abc import Iterator

MAX_CHARS = 180
"""About 12 s of speech, as long as what synthesis is trained on."""

_PARAGRAPH = re.compile(r"\n\s*\n")
# After the mark may stand closing quotes and brackets; Chinese and Japanese marks need no space after them.
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]»]*(?=\s)|[。！？]+[”’」』）]*")
_CLAUSE_END = re.compile(r"[;:,—–][\"'”’)\]»]*(?=\s)|—|[，、；：]")
_ABBREVIATION = re.compile(
    r"(?:^|[\s(\"'“‘])(?:[A-Z]|Mr|Mrs|Ms|Dr|Prof|St|Sr|Jr|Rev|Hon|Gen|Col|Capt|Lt|Sgt|Gov|Sen|Rep|Messrs|Esq|No|Nos|Vol|"
    r"Fig|vs|etc|e\.g|i\.e|cf|approx|Inc|Ltd|Co|Corp|Mt|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec|[A-Za-z]\.[A-Za-z])\.$"
)

_BEFORE_FIGURE = re.compile(r"(?:^|[\s(])(?:pp?|ch|sec|vol|nos?|figs?|eqs?|ca?|est|art|ver|tel|ext|min|max)\.$")
"""Abbreviations that end no sentence where a figure follows."""


def clean(text: str) -> str:
    """Return ``text`` without control, private and unassigned characters; line breaks and tabs are kept."""
    return "".join(letter for letter in text if letter in "\n\t" or unicodedata.category(letter)[0] != "C")


def is_speakable(text: str) -> bool:
    """Tell whether there is a letter or a digit to speak."""
    return any(letter.isalnum() for letter in text)


def split_sentences(text: str, max_chars: int = MAX_CHARS) -> list[str]:
    """Return the sentences of ``text`` that have something to speak, each on one line of at most ``max_chars``.

    A longer one is cut after commas and the like, else between words, and within a word only if that alone is too long.
    Joined by spaces the pieces are the text, but for white space, control characters and what cannot be spoken.
    """
    return [piece for sentence in cut_sentences(text) for piece in _shorten(sentence, max_chars) if is_speakable(piece)]


def cut_sentences(text: str) -> list[str]:
    """Return the sentences of ``text``, each on one line without control characters; none is empty.

    White space counts as one space, but an empty line ends a sentence. Joined by spaces the sentences are the text.
    """
    return [
        sentence
        for paragraph in _PARAGRAPH.split(text)
        for sentence in _cut_sentences(" ".join(clean(" ".join(paragraph.split())).split()))
        if sentence
    ]


def _cut_sentences(text: str) -> Iterator[str]:
    begin = 0
    for match in _SENTENCE_END.finditer(text):
        rest = text[match.end() :].lstrip()
        head = text[begin : match.end()]
        if match[0] == "." and (_ABBREVIATION.search(head) or (rest[:1].islower())):
            continue
        if match[0] == "." and rest[:1].isdigit() and _BEFORE_FIGURE.search(head):
            continue
        yield head.strip()
        begin = match.end()
    yield text[begin:].strip()


def _shorten(text: str, max_chars: int) -> Iterator[str]:
    """Cut where the two sides are most alike: after clauses if that is possible, else between words."""
    if len(text) <= max_chars:
        yield text
        return
    num_pieces = -(-len(text) // max_chars)
    wanted = len(text) / num_pieces
    clauses = [match.end() for match in _CLAUSE_END.finditer(text, max_chars // 4, max_chars)]
    words = [match.start() for match in re.finditer(" ", text[: max_chars + 1])]
    places = clauses or [place for place in words if place] or [max_chars]
    place = min(places, key=lambda place: abs(place - wanted))
    yield text[:place].strip()
    yield from _shorten(text[place:].strip(), max_chars)
