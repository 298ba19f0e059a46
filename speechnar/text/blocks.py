"""The parts of a written page that are read one after the other: headings, items of lists, paragraphs, lines.

Plain text and the commonest marks of Markdown are understood. ``<break time="500ms"/>`` is a pause wherever it stands;
for more of SSML see :mod:`speechnar.text.ssml`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from speechnar.errors import ConfigError

SENTENCE_PAUSE_S, CLAUSE_PAUSE_S = 0.25, 0.1
"""Silence between two sentences, and between the parts of one that is too long to be spoken at one go."""
ITEM_PAUSE_S, PARAGRAPH_PAUSE_S, HEADING_PAUSE_S = 0.4, 0.5, 0.7
MAX_BREAK_S = 10.0
_STRENGTHS_S = {"none": 0.0, "x-weak": 0.1, "weak": 0.2, "medium": 0.4, "strong": 0.7, "x-strong": 1.0}
_WRAPPED_AT = 60
"""Letters of a line of running text, at least: where a shorter one ends, its end is meant."""

_PARAGRAPH = re.compile(r"\n\s*\n")
_BREAK = re.compile(r"<break\b([^<>]*?)/?>(?:\s*</break>)?")
_HEADING = re.compile(r"#{1,6}\s+(.*?)\s*#*")
_UNDERLINE = re.compile(r"={3,}|-{3,}")
_RULE = re.compile(r"(?:[-_*=~] ?){3,}|\|?(?:\s*:?-{2,}:?\s*\|)+(?:\s*:?-{2,}:?\s*)?|```\w*")
_ITEM = re.compile(r"(?:[-*+•‣◦▪]|(\d{1,3})[.)])\s+(?:\[[ xX]\]\s+)?(.*)")
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_BEGINS_LINE = re.compile(r"[\"'“‘(]?(?!I\b)[A-Z0-9]")


@dataclass(frozen=True)
class Block:
    """A stretch of text, and the silence after it."""

    text: str
    pause_s: float = SENTENCE_PAUSE_S
    mark: str = "."
    """What is read at its end if it has no mark there."""
    is_break: bool = False
    """The pause was asked for: it lasts as long as it says, be it first or last."""


def read_blocks(text: str) -> list[Block]:
    """Return the blocks of plain text; one of a pause that begins the text is empty.

    Raises:
        ConfigError: a ``<break>`` says no valid time.
    """
    blocks: list[Block] = []
    begin = 0
    for match in _BREAK.finditer(text):
        add_break(blocks, _read_plain(text[begin : match.start()]), read_break(match[1]))
        begin = match.end()
    return [*blocks, *_read_plain(text[begin:])]


def add_break(blocks: list[Block], before: list[Block], seconds: float) -> None:
    """Append the blocks ``before`` a pause of so many seconds, and the pause; pauses in a row add up."""
    blocks += before
    if not before and blocks and blocks[-1].is_break:
        blocks[-1] = replace(blocks[-1], pause_s=round(blocks[-1].pause_s + seconds, 3))
    elif not blocks:
        blocks.append(Block("", seconds, "", is_break=True))
    else:
        mark = blocks[-1].mark if not before else ","
        blocks[-1] = replace(blocks[-1], pause_s=seconds, mark=mark, is_break=True)


def read_break(attributes: str) -> float:
    """Return the seconds of the attributes of a ``<break>``, by ``time`` or else by ``strength``.

    Raises:
        ConfigError: they are not as SSML has them, or longer than `MAX_BREAK_S`.
    """
    found = dict(re.findall(r"""(\w+)\s*=\s*["']([^"']*)["']""", attributes))
    time, strength = found.get("time"), found.get("strength", "medium")
    if time is None:
        if strength not in _STRENGTHS_S:
            raise ConfigError(f"<break> strength must be one of {', '.join(_STRENGTHS_S)}, got {strength!r}")
        return _STRENGTHS_S[strength]
    match = re.fullmatch(r"\+?(\d+(?:\.\d*)?|\.\d+)(ms|s)", time.strip())
    seconds = float(match[1]) / (1000 if match[2] == "ms" else 1) if match else -1.0
    if not 0 <= seconds <= MAX_BREAK_S:
        raise ConfigError(f'<break> time must be as "500ms" or "1.5s", up to {MAX_BREAK_S:g}s, got {time!r}')
    return seconds


def _read_plain(text: str) -> list[Block]:
    blocks: list[Block] = []
    for paragraph in _PARAGRAPH.split(_LINK.sub(r"\1", text)):
        found = list(_read_paragraph([line.strip() for line in paragraph.splitlines() if line.strip()]))
        if found:
            last = found[-1]
            found[-1] = replace(last, pause_s=max(last.pause_s, PARAGRAPH_PAUSE_S))
        blocks += found
    return blocks


def _read_paragraph(lines: list[str]) -> Iterator[Block]:
    width = max(_WRAPPED_AT, *map(len, lines), 0) if lines else 0
    held: list[str] = []
    for at, raw in enumerate(lines):
        line = raw.lstrip("> ") if raw.startswith(">") else raw
        if _RULE.fullmatch(line):
            if held and _UNDERLINE.fullmatch(line):
                yield Block(" ".join(held), HEADING_PAUSE_S)
                held = []
            continue
        heading, item = _HEADING.fullmatch(line), _ITEM.fullmatch(line)
        if (heading or item or line.startswith("|")) and held:
            yield Block(" ".join(held))
            held = []
        if heading:
            yield Block(heading[1], HEADING_PAUSE_S)
            continue
        if item:
            line = f"{item[1]}: {item[2]}" if item[1] else item[2]
        held.append(line.strip("|").strip())
        after = lines[at + 1] if at + 1 < len(lines) else ""
        is_item = bool(item) or line.startswith("|")
        next_is_item = bool(_ITEM.fullmatch(after)) or after.startswith("|")
        if (is_item and (not after or next_is_item or _ends_here(raw, after, width))) or _ends_here(raw, after, width):
            yield Block(" ".join(held), ITEM_PAUSE_S if is_item else _line_pause_s(line))
            held = []
    if held:
        yield Block(" ".join(held))


def _ends_here(line: str, after: str, width: int) -> bool:
    """Tell whether a line was ended on purpose: the next one begins anew, and its first word would have fitted."""
    return (
        bool(after)
        and _BEGINS_LINE.match(after) is not None
        and not _UNDERLINE.fullmatch(after)
        and len(line) + 1 + len(after.split(maxsplit=1)[0]) <= width
    )


def _line_pause_s(line: str) -> float:
    return CLAUSE_PAUSE_S if line.endswith((",", ";")) else SENTENCE_PAUSE_S
