"""Transcripts: the frozen JSON, and captions that a parser written for the test reads back."""

import dataclasses
import html
import json
import re
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechnar.errors import ConfigError, DataError
from speechnar.text.subtitles import columns
from speechnar.text.transcript import FORMATS, AudioTags, Segment, Transcript, Word, safe_stem, write_transcript

WORDS = (Word(0.5, 0.9, "Hello", 0.9), Word(1.0, 1.25, "world", 0.8))


def make(*segments, duration=10.0, text=None, **changes):
    text = " ".join(segment.text for segment in segments) if text is None else text
    transcript = Transcript("talk.flac", "debug", "asr", "eng", 0.75, duration, text, segments)
    return dataclasses.replace(transcript, **changes)


def said(text, start=0.0, end=4.0, words=None):
    return Segment(0, start, end, text, -0.5, words)


def parse_cues(captions, separator):
    """Read SRT or VTT cues as (start ms, end ms, [lines]); fails on anything that is not a cue."""
    cues = []
    for block in captions.split("\n\n")[:-1]:
        lines = block.split("\n")
        if separator == ",":
            assert lines.pop(0) == str(len(cues) + 1)
        match = re.fullmatch(
            rf"(\d\d+):([0-5]\d):([0-5]\d){re.escape(separator)}(\d{{3}}) --> "
            rf"(\d\d+):([0-5]\d):([0-5]\d){re.escape(separator)}(\d{{3}})",
            lines.pop(0),
        )
        assert match, block
        n = [int(group) for group in match.groups()]
        start, end = (((n[i] * 60 + n[i + 1]) * 60 + n[i + 2]) * 1000 + n[i + 3] for i in (0, 4))
        assert lines and all(line.strip() for line in lines)
        cues.append((start, end, lines))
    return cues


def parse_vtt(captions):
    header, body = captions.split("\n\n", 1)
    assert header == "WEBVTT"
    cues = parse_cues(body, ".")
    assert not any(mark in line for _, _, lines in cues for line in lines for mark in ("<", ">"))
    return [(start, end, [html.unescape(line) for line in lines]) for start, end, lines in cues]


spans = st.tuples(*[st.floats(0, 50)] * 2).map(sorted)
word_results = st.builds(lambda span, word: Word(*span, word, 0.5), spans, st.text("ab,<> ", max_size=5))
texts = st.text(st.sampled_from("abcdef -->&<;\n\t\0\u2028你ß"), max_size=80)


@st.composite
def segments(draw):
    words = draw(st.none() | st.lists(word_results, max_size=6).map(tuple))
    text = " ".join(word.word for word in words) if words and draw(st.booleans()) else draw(texts)
    return Segment(draw(st.integers(0, 9)), *draw(spans), text, -1.0, words)


# Durations shorter than the last segment: a decoder may be late by a frame, the files must not show it.
transcripts = st.builds(
    lambda s, duration: make(*s, duration=duration), st.lists(segments(), max_size=4), spans.map(max)
)
limits = st.tuples(st.integers(1, 30), st.integers(1, 3), st.none() | st.integers(1, 4))


def letters(text):
    return re.sub(r"[\s\0]", "", text)


@given(transcripts, limits)
def test_captions_are_monotonic_within_limits_and_lose_no_letter(transcript, limits):
    width, max_lines, max_words = limits
    cues = parse_vtt(transcript.to_vtt(*limits))
    clock = 0
    for start, end, lines in cues:
        assert clock <= start < end
        clock = end
        assert len(lines) <= max_lines
        for line in lines:
            assert columns(line) <= max(width, columns(line[:1]))  # a wide letter is no narrower than it is
            assert max_words is None or len(line.split(" ")) <= max_words
    assert clock <= transcript.duration * 1000 + len(cues)  # a cue of no length is shown for 1 ms
    shown = "".join(letters("".join(lines)) for _, _, lines in cues)
    from_text = "".join(letters(segment.text) for segment in transcript.segments)
    if not any(segment.words for segment in transcript.segments):
        assert shown == from_text


@given(transcripts, limits)
def test_srt_and_vtt_hold_the_same_cues(transcript, limits):
    srt = parse_cues(transcript.to_srt(*limits), ",")
    assert not any("-->" in line for _, _, lines in srt for line in lines)
    vtt = [
        (start, end, [re.sub("-{2,}>", "->", line) for line in lines])
        for start, end, lines in parse_vtt(transcript.to_vtt(*limits))
    ]
    assert srt == vtt


@given(transcripts)
def test_json_times_are_monotonic_and_inside_the_file(transcript):
    values = json.loads(transcript.to_json())
    clock = 0.0
    for segment in values["segments"]:
        assert clock <= segment["start"] <= segment["end"] <= transcript.duration
        inner = segment["start"]
        for word in segment.get("words", ()):
            assert inner <= word["start"] <= word["end"] <= segment["end"]
            inner = word["end"]
        clock = segment["end"]


@given(transcripts)
def test_tsv_and_txt_have_one_line_per_segment(transcript):
    header, *rows = transcript.to_tsv().split("\n")[:-1]
    assert header == "start\tend\ttext" and len(rows) == len(transcript.segments)
    clock = 0
    for row, segment in zip(rows, transcript.segments, strict=True):
        start, end, text = row.split("\t")
        assert clock <= int(start) <= int(end)
        clock = int(end)
        assert letters(text) == letters(segment.text)
    spoken = [segment for segment in transcript.segments if letters(segment.text)]
    assert transcript.to_txt().count("\n") == len(spoken)


def test_json_is_the_frozen_contract():
    transcript = make(said("Hello, world!", 0.5, 1.25, WORDS), Segment(1, 2, 3.00049, "Grüß dich."), duration=4)
    expected = {
        "file": "talk.flac",
        "model": "debug",
        "task": "asr",
        "language": "eng",
        "language_probability": 0.75,
        "duration": 4.0,
        "text": "Hello, world! Grüß dich.",
        "segments": [
            {
                **{"id": 0, "start": 0.5, "end": 1.25, "text": "Hello, world!", "avg_logprob": -0.5},
                "words": [
                    {"start": 0.5, "end": 0.9, "word": "Hello", "probability": 0.9},
                    {"start": 1.0, "end": 1.25, "word": "world", "probability": 0.8},
                ],
            },
            {"id": 1, "start": 2.0, "end": 3.0, "text": "Grüß dich.", "avg_logprob": None},
        ],
    }
    assert transcript.to_dict() == expected
    assert list(transcript.to_dict()) == list(expected)  # the order is what people read
    assert json.loads(transcript.to_json()) == expected
    assert "Grüß" in transcript.to_json() and transcript.to_json().count("\n") == 1
    assert isinstance(transcript.to_dict()["segments"][1]["start"], float)


def test_tags_are_written_where_a_model_tells_them():
    tags = (AudioTags(0.0, 2.00049, "happy", "speech"), AudioTags(1.5, 9.0, None, "bgm"))
    values = make(said("one"), duration=4.0, tags=tags).to_dict()
    assert list(values)[-2:] == ["segments", "tags"]
    assert values["tags"] == [
        {"start": 0.0, "end": 2.0, "emotion": "happy", "event": "speech"},
        {"start": 2.0, "end": 4.0, "emotion": None, "event": "bgm"},
    ]
    assert json.loads(make(duration=4.0, tags=tags).to_json())["tags"] == values["tags"]  # where nothing was said
    assert make(tags=()).to_dict()["tags"] == []
    assert "tags" not in make(said("one")).to_dict()
    with pytest.raises(DataError, match="0 <= start <= end"):
        AudioTags(2.0, 1.0, None, None)


def test_field_names_are_frozen():
    classes = (Word, Segment, AudioTags, Transcript)
    names = {cls.__name__: [f.name for f in dataclasses.fields(cls)] for cls in classes}
    assert names == {
        "Word": ["start", "end", "word", "probability"],
        "Segment": ["id", "start", "end", "text", "avg_logprob", "words"],
        "AudioTags": ["start", "end", "emotion", "event"],
        "Transcript": [
            *("file", "model", "task", "language", "language_probability", "duration", "text", "segments", "tags"),
        ],
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        WORDS[0].start = 1.0


def test_srt_and_vtt_literally():
    transcript = make(said("Tom & <Jerry> --->\n\trun", 0, 1.5), said("Later.", 400_000, 400_001.25), duration=400_002)
    assert transcript.to_srt() == (
        "1\n00:00:00,000 --> 00:00:01,500\nTom & <Jerry> -> run\n\n2\n111:06:40,000 --> 111:06:41,250\nLater.\n\n"
    )
    assert transcript.to_vtt() == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nTom &amp; &lt;Jerry&gt; ---&gt; run\n\n"
        "111:06:40.000 --> 111:06:41.250\nLater.\n\n"
    )
    assert transcript.to_tsv() == ("start\tend\ttext\n0\t1500\tTom & <Jerry> ---> run\n400000000\t400001250\tLater.\n")


def test_words_time_the_cues_and_keep_the_punctuation_of_the_text():
    cues = parse_cues(make(said("Hello, world!", 0.5, 1.25, WORDS)).to_srt(max_words_per_line=1), ",")
    assert cues == [(500, 1500, ["Hello,", "world!"])]


def test_words_that_disagree_with_the_text_are_shown_themselves():
    cues = parse_cues(make(said("something else", 0.5, 1.25, WORDS)).to_srt(), ",")
    assert cues == [(500, 1500, ["Hello world"])]


def test_scripts_without_spaces_gain_none():
    characters = tuple(Word(i, i + 1, c, 1.0) for i, c in enumerate("你好世界"))
    cues = parse_cues(make(said("你好，世界", words=characters)).to_srt(max_line_width=6), ",")
    assert cues == [(0, 4000, ["你好，", "世界"])]


def test_without_words_time_is_shared_by_letters():
    cues = parse_cues(make(said("aaaa bb cc", 0.0, 4.0)).to_srt(max_line_width=5, max_lines=1), ",")
    assert cues == [(0, 2000, ["aaaa"]), (2000, 4000, ["bb cc"])]


def test_a_word_wider_than_the_line_is_broken():
    cues = parse_cues(make(said("a bbbbbbb", 0.0, 8.0)).to_srt(max_line_width=3), ",")
    assert [lines for _, _, lines in cues] == [["a", "bbb"], ["bbb", "b"]]
    assert cues[-1][1] == 8000


def test_overlapping_and_late_times_are_put_right():
    transcript = make(said("one", 0.0, 2.0), said("two", 1.5, 3.0), said("three", 2.9, 5.0), duration=4.0006)
    assert [(s["start"], s["end"]) for s in transcript.to_dict()["segments"]] == [(0.0, 2.0), (2.0, 3.0), (3.0, 4.0)]


@pytest.mark.parametrize(("duration", "last"), [(0.29, 0.29), (32.562, 32.562), (32.5625, 32.562), (1.9996, 1.999)])
def test_the_last_time_is_the_duration_in_whole_milliseconds(duration, last):
    segment = make(said("late", 0.1, 40.0, (Word(0.2, 40.0, "late", 1.0),)), duration=duration).to_dict()["segments"][0]
    assert (segment["end"], segment["words"][0]["end"]) == (last, last)


def test_nothing_said():
    for transcript in (make(), make(said("")), make(said(" \n "))):
        assert transcript.to_srt() == transcript.to_txt() == ""
        assert transcript.to_vtt() == "WEBVTT\n\n"
    assert make().to_tsv() == "start\tend\ttext\n"
    assert make().to_dict()["segments"] == []
    assert make(text="only text").to_txt() == "only text\n"


@pytest.mark.parametrize(("start", "end"), [(-0.1, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_impossible_times_are_refused(start, end):
    with pytest.raises(DataError, match="0 <= start <= end"):
        Word(start, end, "a", 1.0)
    with pytest.raises(DataError, match="segment 3"):
        Segment(3, start, end, "a")


def test_numbers_that_json_cannot_hold_are_refused():
    with pytest.raises(DataError, match="avg_logprob"):
        Segment(0, 0, 1, "a", float("-inf"))
    with pytest.raises(DataError, match="probability of word"):
        Word(0, 1, "a", float("nan"))
    with pytest.raises(DataError, match="duration"):
        make(duration=-1.0)


@pytest.mark.parametrize("name", ["max_line_width", "max_lines", "max_words_per_line"])
def test_limits_below_one_are_refused(name):
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
        make().to_vtt(**{name: 0})


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_written_as_the_method_gives_it(form, tmp_path):
    transcript = make(said("Grüß dich.", words=()))
    path = write_transcript(transcript, form, tmp_path / "new", "talk.final")
    assert path == tmp_path / "new" / f"talk.final.{form}"
    assert path.read_bytes().decode("utf-8") == getattr(transcript, f"to_{form}")()
    write_transcript(make(said("Neu")), form, tmp_path / "new", "talk.final")
    assert "Neu" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]  # no temporary left
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR


def test_limits_reach_the_file(tmp_path):
    transcript = make(said("one two three"))
    path = write_transcript(transcript, "srt", tmp_path, "a", max_line_width=5, max_lines=1, max_words_per_line=1)
    assert path.read_text() == transcript.to_srt(5, 1, 1) != transcript.to_srt()


def test_unknown_format_and_unwritable_folder(tmp_path):
    with pytest.raises(ConfigError, match="txt, json, srt, vtt, tsv, got 'docx'"):
        write_transcript(make(), "docx", tmp_path, "a")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="exists"):
        write_transcript(make(), "txt", tmp_path / "file", "a")


def test_a_failed_write_leaves_no_temporary_file(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OSError):
        write_transcript(make(said("x")), "txt", tmp_path, "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


HOSTILE = [
    *("../../x", "/etc/passwd", "..\\..\\x", "-rf", "a\0b", "x" * 300, "é" * 300, "", ".", "..", ".hidden", "a/b"),
    *("a\nb", "C:evil", "\udc80", "日" * 200, "- .", "a" * 199 + "é"),
]


@pytest.mark.parametrize("stem", HOSTILE)
def test_hostile_stems_stay_in_the_folder(stem, tmp_path):
    folder = tmp_path / "out"
    path = write_transcript(make(said("x")), "txt", folder, stem)
    assert list(tmp_path.rglob("*")) == [folder, path]
    assert path.parent == folder and path.is_file()
    assert not path.name.startswith(("-", "."))


@given(st.text(max_size=300) | st.sampled_from(HOSTILE))
def test_safe_stems(stem):
    name = safe_stem(stem)
    assert 0 < len(name.encode("utf-8")) <= 240
    assert not set(name) & set('/\\\0\n:*?"<>|') and name not in (".", "..")


def test_safe_stems_keep_harmless_names_and_stay_distinct():
    for stem in ("talk", "fash-an251-b", "Grüße 日本", "a.b.c"):
        assert safe_stem(stem) == stem
    assert len({safe_stem(stem) for stem in HOSTILE}) == len(HOSTILE)


def test_a_file_name_that_is_not_utf8_does_not_break_the_json():
    assert json.loads(make(file="talk\udce9.wav").to_json())["file"] == "talk?.wav"
