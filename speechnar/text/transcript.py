"""What was said and when: the transcript's frozen result classes and their JSON, SRT, VTT, TSV and text forms.

Times are seconds from the start of the file. Whatever times a decoder puts in, what comes out is monotonic, inside the
file and rounded to milliseconds.
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from speechnar.errors import ConfigError, DataError
from speechnar.files import replacing
from speechnar.text.subtitles import MAX_COLUMNS, MAX_LINES, Cue, encodable, lay_out, one_line

TranscriptFormat = Literal["txt", "json", "srt", "vtt", "tsv"]
FORMATS: tuple[str, ...] = get_args(TranscriptFormat)

# 255 bytes is the usual limit; this leaves room for a digest and the extension.
MAX_STEM_BYTES = 200
_ARROW = re.compile(r"-{2,}>")
_UNSAFE_IN_NAMES = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')


@dataclass(frozen=True)
class Word:
    """One word with its times in seconds and its probability in [0, 1].

    Raises:
        DataError: the times are not finite, negative, or end before they start.
    """

    start: float
    end: float
    word: str
    probability: float

    def __post_init__(self) -> None:
        """Refuse impossible times and numbers."""
        _check_times(self.start, self.end, f"word {self.word!r}")
        _check_finite(self.probability, f"probability of word {self.word!r}")


@dataclass(frozen=True)
class Segment:
    """A stretch of speech: its text, the mean log-probability of its tokens, and its words when they were asked for.

    Raises:
        DataError: the times are not finite, negative, or end before they start.
    """

    id: int
    start: float
    end: float
    text: str
    avg_logprob: float | None = None
    words: tuple[Word, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse impossible times and numbers."""
        _check_times(self.start, self.end, f"segment {self.id}")
        _check_finite(self.avg_logprob, f"avg_logprob of segment {self.id}")


@dataclass(frozen=True)
class AudioTags:
    """What a recogniser hears beside words in a stretch of a recording, such as ``happy`` and ``laughter``.

    None stands for what it cannot name.

    Raises:
        DataError: the times are not finite, negative, or end before they start.
    """

    start: float
    end: float
    emotion: str | None
    event: str | None

    def __post_init__(self) -> None:
        """Refuse impossible times."""
        _check_times(self.start, self.end, "tags")


@dataclass(frozen=True)
class Transcript:
    """The result of transcribing or translating one file; ``language`` is ISO 639-3, ``duration`` in seconds.

    Raises:
        DataError: the duration is negative or not finite.
    """

    file: str | None
    model: str
    task: str
    language: str
    language_probability: float | None
    duration: float
    text: str
    segments: tuple[Segment, ...]
    tags: tuple[AudioTags, ...] | None = None
    """Emotions and sounds, a clip at a time, whether or not anything is said in it; None: the model tells neither."""

    def __post_init__(self) -> None:
        """Refuse impossible times and numbers."""
        _check_times(0.0, self.duration, "duration of the transcript")
        _check_finite(self.language_probability, "language_probability of the transcript")

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON object of the public contract.

        A segment has ``words`` only if they were asked for, a transcript ``tags`` only of a model that tells them.
        """
        values = asdict(replace(self, duration=float(self.duration), segments=(), tags=None))
        del values["tags"]
        values["segments"] = [asdict(segment) for segment in _tidy_segments(self)]
        for segment in values["segments"]:
            if segment["words"] is None:
                del segment["words"]
            else:
                segment["words"] = list(segment["words"])
        if self.tags is not None:
            values["tags"] = [asdict(tags) for tags in _tidy_tags(self)]
        return values

    def to_json(self) -> str:
        """Return :meth:`to_dict` as one line of JSON, not ASCII-escaped."""
        return encodable(json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)) + "\n"

    def to_txt(self) -> str:
        """Return one line per segment that has text; the empty string if nothing was said."""
        lines = [one_line(segment.text) for segment in self.segments] or [one_line(self.text)]
        return "".join(f"{line}\n" for line in lines if line)

    def to_tsv(self) -> str:
        """Return a header and one row per segment: start and end in integer milliseconds, text."""
        rows = [
            f"{_to_ms(segment.start)}\t{_to_ms(segment.end)}\t{one_line(segment.text)}\n"
            for segment in _tidy_segments(self)
        ]
        return "start\tend\ttext\n" + "".join(rows)

    def to_srt(
        self, max_line_width: int = MAX_COLUMNS, max_lines: int = MAX_LINES, max_words_per_line: int | None = None
    ) -> str:
        """Return SubRip captions; see :meth:`to_vtt`."""
        cues = self._cues(max_line_width, max_lines, max_words_per_line)
        # SubRip has no escapes; an arrow in the text would read as a line of times.
        return "".join(
            f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n"
            + "".join(f"{_ARROW.sub('->', line)}\n" for line in cue.lines)
            + "\n"
            for number, cue in enumerate(cues, start=1)
        )

    def to_vtt(
        self, max_line_width: int = MAX_COLUMNS, max_lines: int = MAX_LINES, max_words_per_line: int | None = None
    ) -> str:
        """Return WebVTT captions.

        A cue has at most ``max_lines`` lines of ``max_line_width`` columns, is shown for 1 to 7 seconds and long enough
        to be read if the next one leaves the time, and ends with a clause if it can (`speechnar.text.subtitles`). Cues
        last at least one millisecond (WebVTT requires an end after the start) and never overlap.

        Raises:
            ConfigError: a limit is below 1.
        """
        cues = self._cues(max_line_width, max_lines, max_words_per_line)
        return "WEBVTT\n\n" + "".join(
            f"{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n"
            + "".join(f"{_escape_vtt(line)}\n" for line in cue.lines)
            + "\n"
            for cue in cues
        )

    def _cues(self, max_line_width: int, max_lines: int, max_words_per_line: int | None) -> list[Cue]:
        return lay_out(
            _tidy_segments(self),
            _last_ms(self.duration),
            max_line_width=max_line_width,
            max_lines=max_lines,
            max_words_per_line=max_words_per_line,
        )


def write_transcript(
    transcript: Transcript,
    format: TranscriptFormat,
    folder: str | Path,
    stem: str,
    *,
    max_line_width: int = MAX_COLUMNS,
    max_lines: int = MAX_LINES,
    max_words_per_line: int | None = None,
) -> Path:
    """Write ``transcript`` as ``folder/stem.format`` and return that path; the limits apply to srt and vtt.

    The folder is made if absent. Whatever ``stem`` holds, the file lies directly in ``folder``
    (see :func:`safe_stem`). It appears complete or not at all, and replaces an older one.

    Raises:
        ConfigError: the format is unknown or a limit is below 1.
        OSError: the folder cannot be written.
    """
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    if format in ("srt", "vtt"):
        write = transcript.to_srt if format == "srt" else transcript.to_vtt
        content = write(max_line_width, max_lines, max_words_per_line)
    else:
        content = {"txt": transcript.to_txt, "json": transcript.to_json, "tsv": transcript.to_tsv}[format]()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{safe_stem(stem)}.{format}"
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode("utf-8"))
    return path


def safe_stem(stem: str) -> str:
    """Return a file name without extension that is ``stem`` itself if harmless, else a cleaned form of it.

    Separators, control characters and what Windows forbids become ``_``, leading dots, dashes and spaces go, and the
    length is cut; a digest of the original keeps apart what cleaning would make equal.
    """
    cleaned = _UNSAFE_IN_NAMES.sub("_", encodable(stem)).lstrip("-. ")
    cleaned = cleaned.encode("utf-8")[:MAX_STEM_BYTES].decode("utf-8", "ignore")
    if cleaned == stem and cleaned:
        return cleaned
    digest = hashlib.sha256(stem.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{cleaned or 'transcript'}-{digest}"


def _check_finite(value: float | None, what: str) -> None:
    if value is not None and not math.isfinite(value):
        raise DataError(f"{what} must be a finite number, got {value}")


def _check_times(start: float, end: float, what: str) -> None:
    if not (math.isfinite(start) and math.isfinite(end) and 0 <= start <= end):
        raise DataError(f"{what}: times must be finite seconds with 0 <= start <= end, got {start} to {end}")


def _tidy_segments(transcript: Transcript) -> list[Segment]:
    """Return the segments with times rounded, monotonic, inside the file, and words inside their segment."""
    tidy: list[Segment] = []
    earliest, latest = 0.0, _last_ms(transcript.duration)
    for segment in transcript.segments:
        start, end = _clamp_span(segment.start, segment.end, earliest, latest)
        words = None if segment.words is None else _tidy_words(segment.words, start, end)
        tidy.append(replace(segment, start=start, end=end, words=words))
        earliest = end
    return tidy


def _tidy_tags(transcript: Transcript) -> list[AudioTags]:
    """Return the tags with times rounded, monotonic and inside the file."""
    tidy: list[AudioTags] = []
    earliest, latest = 0.0, _last_ms(transcript.duration)
    for tags in transcript.tags or ():
        start, earliest = _clamp_span(tags.start, tags.end, earliest, latest)
        tidy.append(replace(tags, start=start, end=earliest))
    return tidy


def _tidy_words(words: tuple[Word, ...], earliest: float, latest: float) -> tuple[Word, ...]:
    tidy: list[Word] = []
    for word in words:
        start, earliest = _clamp_span(word.start, word.end, earliest, latest)
        tidy.append(replace(word, start=start, end=earliest))
    return tuple(tidy)


def _last_ms(duration: float) -> float:
    """Return the last whole millisecond of a file, in seconds."""
    latest = round(float(duration), 3)
    return round(latest - 0.001, 3) if latest > duration else latest  # rounded up would be outside the file


def _clamp_span(start: float, end: float, earliest: float, latest: float) -> tuple[float, float]:
    start = min(max(round(float(start), 3), earliest), latest)
    return start, min(max(round(float(end), 3), start), latest)


def _escape_vtt(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _to_ms(seconds: float) -> int:
    return round(seconds * 1000)


def _clock(milliseconds: int, separator: str) -> str:
    seconds, ms = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{separator}{ms:03d}"
