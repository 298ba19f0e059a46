"""Token paths to segments: where they are cut, and where they may lie."""

from itertools import pairwise

import pytest

from speechnar.asr.segments import MIN_PAUSE_S, to_segments
from speechnar.decode.align import CtcPath
from speechnar.text.tokenizer import CharTokenizer, LexiconTokenizer
from tests.unit.text.test_byte_pairs import MERGES, make

TOKENIZER = CharTokenizer(("<blank>", "<unk>", "▁", *"abc"))
SPACE, A, B, C = range(2, 6)
SHIFT_S = 0.1


def path(*tokens: tuple[int, int], score: float = -0.5) -> CtcPath:
    """Return tokens that last one frame each, given as (id, frame)."""
    ids, starts = zip(*tokens, strict=True)
    return CtcPath(list(ids), list(starts), [start + 1 for start in starts], [score] * len(ids), score * len(ids))


def cut(*paths: tuple[float, CtcPath], duration_s: float = 20.0, language: str = "eng", tokenizer=TOKENIZER):
    return to_segments(list(paths), tokenizer, frame_shift_s=SHIFT_S, duration_s=duration_s, language=language)


@pytest.mark.parametrize(("gap", "texts"), [(10, ["ab c"]), (11, ["ab", "c"])])
def test_a_silence_of_more_than_a_second_begins_a_segment(gap, texts):
    """The frames between the end of one token and the start of the next one."""
    assert round(MIN_PAUSE_S / SHIFT_S) == 10
    found = cut((0.0, path((A, 3), (B, 4), (SPACE, 5 + gap), (C, 6 + gap))))
    assert [segment.text for segment in found] == texts
    assert [segment.id for segment in found] == list(range(len(texts)))


def test_no_word_is_cut():
    (segment,) = cut((0.0, path((A, 3), (B, 40), (C, 80))))
    assert segment.text == "abc"
    assert [word.word for word in segment.words] == ["abc"]


def test_clips_stand_where_they_begin_and_end_before_the_next():
    first, second = cut((2.0, path((SPACE, 0), (A, 1))), (5.0, path((SPACE, 2), (B, 3), score=-1.5)))
    assert first.start == pytest.approx(2.0, abs=2 * SHIFT_S)
    assert second.start == pytest.approx(5.2, abs=2 * SHIFT_S)
    assert first.end <= second.start
    assert (first.avg_logprob, second.avg_logprob) == (-0.5, -1.5)
    assert [len(segment.words) for segment in (first, second)] == [1, 1]


def test_all_lies_inside_the_recording():
    segments = cut((0.0, path((A, 1), (SPACE, 30), (B, 31), (SPACE, 60), (C, 61))), duration_s=3.15)
    times = [time for segment in segments for word in segment.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert times[0] >= 0 and times[-1] <= 3.15
    assert all(one.end <= other.start for one, other in pairwise(segments))


def test_tokens_without_text_are_no_segment():
    assert cut((0.0, path((SPACE, 3)))) == []
    assert cut() == []
    (segment,) = cut((0.0, path((SPACE, 3))), (9.0, path((A, 3))))
    assert (segment.id, segment.text) == (0, "a")


def test_where_words_are_not_spaced_every_token_is_one():
    given = (0.0, path((A, 3), (B, 4), (C, 5)))
    assert [[word.word for word in cut(given, language=lang)[0].words] for lang in ("jpn", "eng")] == [
        ["a", "b", "c"],
        ["abc"],
    ]
    # And may be parted by a silence.
    apart = (0.0, path((A, 3), (B, 40)))
    assert [len(cut(apart, language=lang)) for lang in ("jpn", "eng")] == [2, 1]


def test_a_word_of_several_pieces_stays_whole_in_an_unspaced_language():
    tokenizer = LexiconTokenizer(("<blank>", "一", "a@@", "bc", "<unk>"), {"abc": ("a@@", "bc")})
    (segment,) = cut((0.0, path((1, 3), (2, 4), (3, 5))), language="zho", tokenizer=tokenizer)
    assert [word.word for word in segment.words] == ["一", "abc"]


def timed(tokenizer, text: str, *, frames: int = 2) -> CtcPath:
    """Return the path of ``text``, a token every ``frames`` frames from frame 3 on."""
    return path(*((token, 3 + frames * i) for i, token in enumerate(tokenizer.encode(text))))


@pytest.mark.parametrize("merges", [[], MERGES[:-1], MERGES])
@pytest.mark.parametrize(
    ("text", "language", "words"),
    [
        ("the naïve Cat.", "eng", ["the", "naïve", "Cat."]),
        ("你好，吗", "cmn", ["你", "好，", "吗"]),
        ("用that写 cat", "cmn", ["用", "that", "写", "cat"]),
        ("これ、そう。", "jpn", ["こ", "れ、", "そ", "う。"]),
    ],
)
def test_words_of_bytes_begin_with_their_first_and_end_with_their_last(merges, text, language, words):
    tokenizer = make(merges)
    (segment,) = cut((0.0, timed(tokenizer, text)), language=language, tokenizer=tokenizer)
    assert segment.text == text
    assert [word.word for word in segment.words] == words
    place = 0
    ids = tokenizer.encode(text)
    for word in segment.words:
        # Count tokens until they spell the text up to the end of this word.
        begin = place
        while tokenizer.decode(ids[:place]) != text[: text.index(word.word) + len(word.word)]:
            place += 1
        if tokenizer.piece_of(ids[begin]) == "Ġ":
            begin += 1  # a space alone is the pause before the word
        assert word.start == pytest.approx((3 + 2 * begin) * SHIFT_S)
        assert word.end >= (3 + 2 * (place - 1) + 1) * SHIFT_S
    assert all(one.end <= other.start for one, other in pairwise(segment.words))


def test_a_pause_is_not_cut_into_a_character():
    tokenizer = make([])
    ids = tokenizer.encode("你好")
    starts = [0, 1, 2, 30, 60, 61]  # a silence before "好", and one within it
    given = path(*zip(ids, starts, strict=True))
    assert [segment.text for segment in cut((0.0, given), language="cmn", tokenizer=tokenizer)] == ["你", "好"]


@pytest.mark.parametrize(
    ("text", "language", "plain", "words"),
    [
        ("The Cat, it’s «Naïve»!", "eng", "the cat it's naïve", ["the", "cat", "it's", "naïve"]),
        ("你好，用CAT！", "cmn", "你好 用cat", ["你", "好", "用", "cat"]),
        ("the - cat", "eng", "the cat", ["the", "cat"]),
    ],
)
def test_plain_text_has_neither_capitals_nor_punctuation(text, language, plain, words):
    tokenizer = make()
    given = [(0.0, timed(tokenizer, text))]
    options = {"frame_shift_s": SHIFT_S, "duration_s": 20.0, "language": language}
    (written,) = to_segments(given, tokenizer, **options)
    (segment,) = to_segments(given, tokenizer, plain=True, **options)
    assert (written.text, segment.text) == (text, plain)
    assert [word.word for word in segment.words] == words
    assert {(word.start, word.end) for word in segment.words} <= {(word.start, word.end) for word in written.words}
    assert to_segments([(0.0, timed(tokenizer, "?!"))], tokenizer, plain=True, **options) == []
