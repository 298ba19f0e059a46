"""What is said to the visitor, as HTML: words with their times, differences, progress, errors."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from html import escape
from urllib.parse import quote

from speechnar import CaptionUpdate, Segment, Transcript, TranslationUpdate, Word
from speechnar.text.languages import UNDETERMINED, UNSPACED_LANGUAGES, name_of

MAX_SHOWN = 240
"""Letters of a message."""


def note(text: str) -> str:
    """Return a line about what was done."""
    return f'<p class="sn-note" role="status">{escape(text)}</p>'


def error(text: str) -> str:
    """Return a line about what cannot be done, in place of a result."""
    text = " ".join(text.split())
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return f'<p class="sn-error" role="alert">{escape(text)}</p>'


def warnings(texts: Iterable[str]) -> str:
    """Return remarks on a result, each but once."""
    shown = [" ".join(text.split())[:MAX_SHOWN] for text in dict.fromkeys(texts)]
    return "".join(f'<p class="sn-warning">{escape(text)}</p>' for text in shown)


def working(text: str, share: float | None = None) -> str:
    """Return a line about what is being done, and how much of it is."""
    bar = "<progress></progress>" if share is None else f'<progress value="{share:.3f}"></progress>'
    return f'<p class="sn-working" role="status">{bar} {escape(text)}</p>'


def pace(seconds: float, wall_s: float, what: str) -> str:
    """Say how long ``what`` lasts, how long it took, and how fast that is."""
    speed = seconds / wall_s if wall_s else 0.0
    fast = f"{speed:.1f} times as fast as real time" if speed >= 1 else f"{wall_s / max(seconds, 0.01):.1f} s for each"
    return note(f"{seconds:.1f} s of {what} in {wall_s:.1f} s: {fast}.")


def language_of(transcript: Transcript) -> str:
    """Return the language of what is said."""
    if not transcript.text.strip():
        return "No speech found."
    if transcript.language == UNDETERMINED:
        return "Language unknown."
    share = transcript.language_probability
    return name_of(transcript.language) + (f", {share:.0%} sure." if share is not None else ".")


def player(url: str) -> str:
    """Return a player of a file that the page serves."""
    return f'<audio class="sn-player" controls preload="metadata" src="{escape(url)}"></audio>'


def file_url(path: str) -> str:
    """Return where the page serves a file of its cache."""
    return f"gradio_api/file={quote(path)}"


def transcript_html(transcript: Transcript, url: str) -> str:
    """Return words that follow a player and can be clicked, paler the less sure they are."""
    if not transcript.text.strip():
        return f'{player(url)}<p class="sn-empty">No speech found.</p>'
    gap = "" if transcript.language in UNSPACED_LANGUAGES else " "
    lines = []
    for segment in transcript.segments:
        words = segment.words or (Word(segment.start, segment.end, segment.text, 1.0),)
        spans = gap.join(
            f'<span class="sn-word" data-start="{word.start:.3f}" data-end="{word.end:.3f}" '
            f'style="--sure: {max(word.probability, 0.3):.2f}" title="{word.start:.1f} s, {word.probability:.0%} sure">'
            f"{escape(word.word)}</span>"
            for word in words
        )
        begin = f'<button class="sn-time" data-start="{segment.start:.3f}">{clock(segment.start)}</button>'
        lines.append(f'<p data-start="{segment.start:.3f}">{begin} <span>{spans}</span></p>')
    return f'<div class="sn-transcript">{player(url)}<div class="sn-lines">{"".join(lines)}</div></div>'


def clock(seconds: float) -> str:
    """Return minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def captions_html(rows: Iterable[tuple[str, ...]]) -> str:
    """Return rows of captions, their cells being HTML."""
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="sn-captions" aria-live="polite">{body}</table>'


def grey_unstable(shown: CaptionUpdate | TranslationUpdate) -> str:
    """Return a text, its words grey that are new or have changed unless it is final."""
    if shown.is_final or not shown.unstable:
        return escape(shown.text)
    return f'{escape(shown.stable)} <span class="sn-unstable">{escape(shown.unstable)}</span>'


def mark_words(text: str, agrees: Sequence[bool]) -> str:
    """Return a text, those of its words marked that differ."""
    words = (escape(word) for word in text.split())
    return " ".join(word if same else f"<mark>{word}</mark>" for word, same in zip(words, agrees, strict=True))


def change_html(old: Sequence[str], new: Sequence[str]) -> str:
    """Return two texts as one, what goes struck out, what comes underlined."""
    parts = []
    for kind, first, last, new_first, new_last in opcodes(old, new):
        was, comes = escape(" ".join(old[first:last])), escape(" ".join(new[new_first:new_last]))
        if kind == "equal":
            parts.append(comes)
            continue
        parts += [f"<del>{was}</del>"] if was else []
        parts += [f"<ins>{comes}</ins>"] if comes else []
    return f'<p class="sn-diff">{" ".join(parts)}</p>'


def opcodes(old: Sequence[str], new: Sequence[str]) -> list[tuple[str, int, int, int, int]]:
    """Return how ``old`` becomes ``new``, without regard to letter case and marks."""
    bare = [["".join(filter(str.isalnum, word)).casefold() for word in words] for words in (old, new)]
    return SequenceMatcher(None, *bare, autojunk=False).get_opcodes()


def share_changed(old: Sequence[str], new: Sequence[str]) -> float:
    """Return which share of the old words does not stay."""
    kept = sum(last - first for kind, first, last, _, _ in opcodes(old, new) if kind == "equal")
    return 1 - kept / max(len(old), 1)


def with_lines(transcript: Transcript, text: str) -> Transcript:
    """Return a transcript with the text of its segments replaced by the lines of ``text``.

    Words keep their times where a line has as many as before, else they share those of the line.

    Raises:
        ValueError: there are not as many lines as segments.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) != len(transcript.segments):
        raise ValueError(
            f"each line is a caption with its times: keep {len(transcript.segments)} lines, there are {len(lines)}"
        )
    segments = tuple(
        segment if segment.text == line else _rewritten(segment, line)
        for segment, line in zip(transcript.segments, lines, strict=True)
    )
    return replace(transcript, segments=segments, text=" ".join(lines))


def _rewritten(segment: Segment, line: str) -> Segment:
    words = line.split()
    if segment.words is None or len(words) != len(segment.words):
        return replace(segment, text=line, words=None)
    spoken = tuple(replace(word, word=text) for word, text in zip(segment.words, words, strict=True))
    return replace(segment, text=line, words=spoken)
