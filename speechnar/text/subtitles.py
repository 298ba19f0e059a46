"""When text stands on the screen, and how it is broken: cues that can be read, by the rules of subtitling.

At most two lines of 42 columns; one to seven seconds; as long as the eye needs, 17 columns a second, where the next cue
leaves the time. Cues and lines end where a clause does if they can. Letters that are wide on a screen, such as Chinese
ones, count as two columns, marks above and below letters as none.

Source of the limits: the practice of subtitlers, as in Netflix's "Timed Text Style Guide" (42 columns, two lines, seven
seconds).
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from speechnar.errors import ConfigError
from speechnar.text.scripts import UNSPACED_LETTER, begins_after

if TYPE_CHECKING:
    from speechnar.text.transcript import Segment

MAX_COLUMNS = 42
MAX_LINES = 2
MIN_CUE_S, MAX_CUE_S = 1.0, 7.0
MAX_PAUSE_S = 2.0
"""A longer one stands between cues, not inside."""
COLUMNS_PER_S = 17.0

_SENTENCE = re.compile(r"[.!?…。！？]+[\"'”’)\]»」』）]*$")
_CLAUSE = re.compile(r"[,;:—–，、；：]+[\"'”’)\]»」』）]*$")
_OPENING = frozenset("([{«“‘「『（【《〈")
# What a cue costs, so that the cheapest ones are chosen: itself, and its end by what is broken there.
_CUE = 1.0
_END_OF_SEGMENT, _END_OF_SENTENCE, _END_OF_CLAUSE, _END_OF_WORD = -1.0, 0.0, 0.4, 1.5
_JOINED_SEGMENTS = 1.0
_TOO_SHORT = 2.0
_LINE_ENDS = {_END_OF_SEGMENT: 0.0, _END_OF_SENTENCE: 0.0, _END_OF_CLAUSE: 0.05, _END_OF_WORD: 0.3}


@dataclass(frozen=True)
class Cue:
    """Lines that stand on the screen together, from ``start_ms`` until ``end_ms``."""

    start_ms: int
    end_ms: int
    lines: tuple[str, ...]


@dataclass(frozen=True)
class _Chunk:
    """Text that is never broken, with its times in seconds."""

    start: float
    end: float
    text: str
    width: int
    """In columns."""
    spaced: bool
    """Whether a space stands before it, unless it begins a line."""
    break_after: float = _END_OF_WORD


def lay_out(
    segments: Sequence["Segment"],
    duration: float,
    *,
    max_line_width: int = MAX_COLUMNS,
    max_lines: int = MAX_LINES,
    max_words_per_line: int | None = None,
) -> list[Cue]:
    """Return the cues of a transcript, which never overlap and lose no letter.

    A segment that does not fit becomes several cues, timed by its words or, without words, in proportion to their
    columns. One that would be too short to read is shown with the next. A word wider than a line is broken.

    Args:
        segments: in order, their times inside the recording; as `Transcript.to_dict` gives them.
        duration: of the recording, in seconds; the last cue may stay until then.
        max_line_width: in columns.
        max_lines: of a cue.
        max_words_per_line: None: as many as fit.

    Raises:
        ConfigError: a limit is below 1.
    """
    limits = {"max_line_width": max_line_width, "max_lines": max_lines, "max_words_per_line": max_words_per_line}
    for name, limit in limits.items():
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} must be at least 1, got {limit}")
    lines = _Lines(max_line_width, max_lines, max_words_per_line)
    chunks = [piece for segment in segments for piece in _pieces(segment, max_line_width)]
    return _timed([(cue, lines.fill(cue)) for cue in _cut(chunks, lines, duration)], duration)


def columns(text: str) -> int:
    """Return how wide ``text`` is on a screen: 2 for a wide letter, 0 for a mark on another one, else 1."""
    return len(text) if text.isascii() else sum(map(_letter_columns, text))


@lru_cache(maxsize=4096)
def _letter_columns(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


# Cues of chunks.


def _cut(chunks: Sequence[_Chunk], lines: "_Lines", duration: float) -> list[Sequence[_Chunk]]:
    """Return the cheapest cues: dynamic programming over where they end."""
    best = [0.0] + [math.inf] * len(chunks)
    begins = [0] * (len(chunks) + 1)
    starts = [chunk.start for chunk in chunks] + [duration]
    for first in range(len(chunks)):
        inner = 0.0
        for end in lines.ends(chunks, first):
            last = chunks[end - 1]
            if end - first > 1 and (
                last.end - chunks[first].start > MAX_CUE_S or last.start - chunks[end - 2].end > MAX_PAUSE_S
            ):
                break
            room = starts[end] - chunks[first].start
            short = _TOO_SHORT + MIN_CUE_S - room if room < MIN_CUE_S else 0.0
            cost = best[first] + _CUE + inner + short + last.break_after
            if cost < best[end]:
                best[end], begins[end] = cost, first
            inner += _JOINED_SEGMENTS if last.break_after == _END_OF_SEGMENT else 0.0
    cues = []
    end = len(chunks)
    while end:
        cues.append(chunks[begins[end] : end])
        end = begins[end]
    return cues[::-1]


def _timed(cues: Sequence[tuple[Sequence[_Chunk], list[str]]], duration: float) -> list[Cue]:
    """Give each cue the time to be read that the next one, or the end of the recording, leaves it."""
    starts = [0]
    for chunks, _ in cues:
        starts.append(max(_to_ms(chunks[0].start), starts[-1] + 1 if len(starts) > 1 else 0))
    timed = []
    for (chunks, shown), start, limit in zip(cues, starts[1:], [*starts[2:], _to_ms(duration)], strict=False):
        needed_s = max(MIN_CUE_S, sum(map(columns, shown)) / COLUMNS_PER_S)
        wanted = max(_to_ms(chunks[-1].end), start + math.ceil(1000 * needed_s))
        timed.append(Cue(start, max(min(wanted, start + _to_ms(MAX_CUE_S), limit), start + 1), tuple(shown)))
    return timed


class _Lines:
    """Breaks cues into lines within the limits."""

    def __init__(self, max_width: int, max_lines: int, max_words: int | None) -> None:
        self.max_width = max_width
        self.max_lines = max_lines
        self.max_words = max_words

    def ends(self, chunks: Sequence[_Chunk], first: int) -> Iterator[int]:
        """Yield where a cue that begins with chunk ``first`` may end, from the nearest place on."""
        num_lines = width = words = 0
        for end in range(first + 1, len(chunks) + 1):
            chunk = chunks[end - 1]
            wider = width + chunk.spaced + chunk.width
            if not words or wider > self.max_width or words == self.max_words:
                num_lines, width, words = num_lines + 1, chunk.width, 1
            else:
                width, words = wider, words + 1
            if num_lines > self.max_lines and end > first + 1:
                return
            yield end

    def fill(self, chunks: Sequence[_Chunk]) -> list[str]:
        """Return as few lines as possible, broken after clauses and of similar width if that can be."""
        widths = list(accumulate((chunk.width + chunk.spaced for chunk in chunks), initial=0))
        # For each number of chunks, the fewest lines, the cost of the cheapest, and where its last line begins.
        best = [(0, 0.0, 0)]
        for end in range(1, len(chunks) + 1):
            found = []
            for first in range(end - 1, -1, -1):
                width = widths[end] - widths[first] - chunks[first].spaced
                if end - first > 1 and (width > self.max_width or (self.max_words and end - first > self.max_words)):
                    break
                broken = _LINE_ENDS[chunks[end - 1].break_after] if end < len(chunks) else 0.0
                empty = (max(0, self.max_width - width) / self.max_width) ** 2
                found.append((best[first][0] + 1, best[first][1] + empty + broken, first))
            best.append(min(found))
        ends = [len(chunks)]
        while ends[-1]:
            ends.append(best[ends[-1]][2])
        return [_join(chunks[first:end]) for first, end in pairwise(reversed(ends))]


def _join(chunks: Sequence[_Chunk]) -> str:
    return "".join(f" {chunk.text}" if chunk.spaced else chunk.text for chunk in chunks).strip(" ")


# Chunks of segments.


def _pieces(segment: "Segment", max_width: int) -> list[_Chunk]:
    """Return what a segment is laid out of, with what a break after each piece breaks."""
    pieces = [piece for chunk in _chunks(segment) for piece in _break(chunk, max_width)]
    for i, (piece, following) in enumerate(pairwise(pieces)):
        if _SENTENCE.search(piece.text) and (following.spaced or UNSPACED_LETTER.match(following.text)):
            pieces[i] = replace(piece, break_after=_END_OF_SENTENCE)
        elif _CLAUSE.search(piece.text):
            pieces[i] = replace(piece, break_after=_END_OF_CLAUSE)
    if pieces:
        pieces[-1] = replace(pieces[-1], break_after=_END_OF_SEGMENT)
    return pieces


def _chunks(segment: "Segment") -> list[_Chunk]:
    """Cut the segment's text at its words (keeping punctuation that words lack), or at spaces when it has no words."""
    text = one_line(segment.text)
    if not segment.words:
        return _spread(text.split(" "), segment.start, segment.end) if text else []
    cuts: list[int] = []
    position = 0
    for word in segment.words:
        spelled = one_line(word.word)
        cuts.append(text.find(spelled, position))
        if cuts[-1] < 0:  # the words spell something else than the text: trust the words
            pieces = [f"{one_line(each.word)} " for each in segment.words]
            break
        position = cuts[-1] + len(spelled)
    else:
        pieces = [text[a:b] for a, b in zip([0, *cuts[1:]], [*cuts[1:], len(text)], strict=True)]
    chunks: list[_Chunk] = []
    spaced = False
    for word, piece in zip(segment.words, pieces, strict=True):
        parts = piece.split()
        if parts:
            first, *rest = _spread(parts, word.start, word.end)
            chunks += [replace(first, spaced=spaced), *rest]
        spaced = piece.endswith(" ")
    return chunks


def _spread(texts: Sequence[str], start: float, end: float) -> list[_Chunk]:
    """Share the time from ``start`` to ``end`` among ``texts`` in proportion to their columns."""
    widths = [columns(text) for text in texts]
    total = max(1, sum(widths))
    places = list(accumulate(widths, initial=0))
    times = [start + (end - start) * place / total for place in places]
    return [_Chunk(times[i], times[i + 1], text, widths[i], spaced=True) for i, text in enumerate(texts)]


def _break(chunk: _Chunk, max_width: int) -> list[_Chunk]:
    """Break a chunk of writing without spaces at each letter that may begin a line, and whatever is wider than one."""
    if chunk.width <= max_width and not UNSPACED_LETTER.search(chunk.text):
        return [chunk]
    texts = [""]
    width = 0
    for before, letter in zip(["", *chunk.text], chunk.text, strict=False):
        wide = _letter_columns(letter)
        at_unspaced = UNSPACED_LETTER.search(before + letter) is not None
        may_begin = at_unspaced and begins_after(before, letter) and before not in _OPENING
        if texts[-1] and wide and (may_begin or width + wide > max_width):
            texts.append("")
            width = 0
        texts[-1] += letter
        width += wide
    first, *rest = _spread(texts, chunk.start, chunk.end)
    return [replace(first, spaced=chunk.spaced), *(replace(piece, spaced=False) for piece in rest)]


def one_line(text: str) -> str:
    """Return ``text`` without control characters and with every run of white space as one space."""
    kept = (letter for letter in text if letter.isspace() or unicodedata.category(letter) != "Cc")
    return encodable(" ".join("".join(kept).split()))


def encodable(text: str) -> str:
    """Replace lone surrogates (a file name that is not UTF-8 has them), which no UTF-8 file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _to_ms(seconds: float) -> int:
    return round(seconds * 1000)
