"""Token paths to segments of text with times: cut at pauses, words inside the recording and without overlap."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from speechnar.decode.align import WORD_START, CtcPath, widen_words, word_spans
from speechnar.text.languages import UNSPACED_LANGUAGES
from speechnar.text.normalize import get_normalizer
from speechnar.text.tokenizer import Tokenizer
from speechnar.text.transcript import Segment, Word

MIN_PAUSE_S = 1.0
"""A longer silence between two words begins a new segment."""


def to_segments(
    paths: Sequence[tuple[float, CtcPath]],
    tokenizer: Tokenizer,
    *,
    frame_shift_s: float,
    duration_s: float,
    language: str,
    plain: bool = False,
) -> list[Segment]:
    """Return the segments of a recording.

    Args:
        paths: token paths without specials, in order, each with the second at which its frame 0 begins.
        tokenizer: of the tokens.
        frame_shift_s: seconds from one frame to the next.
        duration_s: of the recording.
        language: of the text, ISO 639-3; where words are written without spaces, every token counts as one, unless the
            tokenizer knows words in several pieces.
        plain: write lower case without punctuation; what nothing remains of is left out.
    """
    rewrite = get_normalizer("basic" if plain else "none")
    unspaced = language in UNSPACED_LANGUAGES
    max_gap = round(MIN_PAUSE_S / frame_shift_s)
    parts = [
        (offset_s, part)
        for offset_s, path in paths
        for part in _split_at_pauses(path, tokenizer.spell(path.tokens, unspaced=unspaced), max_gap)
    ]
    starts_s = [min(offset_s + part.starts[0] * frame_shift_s, duration_s) for offset_s, part in parts]
    segments: list[Segment] = []
    for (offset_s, part), start_s, limit_s in zip(parts, starts_s, [*starts_s, duration_s][1:], strict=True):
        text = rewrite(tokenizer.decode(part.tokens), language)
        if not text:
            continue
        spelled = tokenizer.spell(part.tokens, unspaced=unspaced)
        places = replace(part, tokens=list(range(len(part.tokens))))
        spikes = word_spans(places, spelled, frame_shift_s=frame_shift_s, offset_s=offset_s)
        spans = widen_words(spikes, duration_s=max(start_s, limit_s))
        written = ((span, rewrite(span.word, language)) for span in spans)
        words = tuple(Word(span.start_s, span.end_s, word, span.probability) for span, word in written if word)
        begin_s, end_s = (words[0].start, words[-1].end) if words else (start_s, max(start_s, limit_s))
        score = sum(part.scores) / len(part.scores)
        segments.append(Segment(len(segments), begin_s, end_s, text, avg_logprob=score, words=words))
    return segments


def _begins_word(piece: str) -> bool:
    return piece.startswith((WORD_START, "<"))


def _split_at_pauses(path: CtcPath, spelled: Sequence[str], max_gap: int) -> Iterator[CtcPath]:
    """Cut a path before words that begin more than ``max_gap`` frames after the token before them.

    ``spelled`` holds the piece of every token of the path.
    """
    cuts = [
        i
        for i in range(1, len(path.tokens))
        if path.starts[i] - path.ends[i - 1] > max_gap and _begins_word(spelled[i])
    ]
    for begin, end in pairwise([0, *cuts, len(path.tokens)]):
        if begin < end:
            part = slice(begin, end)
            yield CtcPath(path.tokens[part], path.starts[part], path.ends[part], path.scores[part], path.total)
