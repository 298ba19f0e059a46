"""Kaldi data directories: what a corpus looks like on disk, read and written with every fault named.

A folder holds ``wav.scp``, ``text`` and ``utt2spk`` (and ``spk2utt``, which is checked against it); optional are
``segments``, ``utt2lang`` (ISO 639-3), ``utt2dur`` (seconds), ``text.<lang>`` (translations, some utterances),
``text.prev`` (the text spoken before, some utterances; the name is ESPnet's) and ``durations`` (seconds of each token
of the text, some utterances). Every file is UTF-8, one entry a line, sorted by its first field in code point order
(``LC_ALL=C sort``). A byte order mark and blank lines at the end are overlooked; an end of ``-1`` in ``segments`` is
that of the recording.
"""

import codecs
import itertools
import logging
import math
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import soundfile

from speechnar.errors import DataError
from speechnar.files import regular
from speechnar.text.scripts import check_unicode

logger = logging.getLogger(__name__)

# A malformed folder of a million lines should not make a message of a million lines.
MAX_FAULTS_SHOWN = 100
# Headers and utt2dur round; a segment may end this much after its recording.
DURATION_TOLERANCE_S = 0.05
_TO_THE_END = -1.0

_LANG = re.compile(r"[a-z]{3}")
_TRANSLATION = re.compile(r"text\.([a-z]{3})")
_PREVIOUS = "text.prev"
DURATIONS_FILE = "durations"

Value = TypeVar("Value")


@dataclass(frozen=True)
class Utterance:
    """One stretch of speech and what is known about it.

    ``start_s`` and ``end_s`` are None where the utterance is its whole file. ``pipe`` is the shell command that writes
    the audio, where wav.scp held one and the caller allowed it; ``wav_path`` then only names it in messages.
    """

    utt_id: str
    wav_path: Path
    text: str
    spk_id: str
    duration_s: float
    start_s: float | None = None
    end_s: float | None = None
    lang: str | None = None
    translations: Mapping[str, str] = field(default_factory=dict)
    prev_text: str | None = None
    pipe: str | None = None
    durations: tuple[float, ...] | None = None
    """Seconds of each token of ``text``, of whatever tokenizer it will be read with; together ``duration_s``."""

    def open_audio(self) -> Path | bytes:
        """Return what :func:`speechnar.audio.io.read_audio` reads the whole recording from.

        Raises:
            DataError: the pipe fails.
        """
        if self.pipe is None:
            return self.wav_path
        # The shell is the point here: read_kaldi_dir refuses pipes unless its caller asked for them.
        run = subprocess.run(["/bin/bash", "-c", self.pipe], capture_output=True, check=False)  # noqa: S603
        if run.returncode != 0:
            reason = run.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
            raise DataError(f"utterance {self.utt_id!r}: pipe {self.pipe!r} fails ({reason[0]})")
        return run.stdout


def read_kaldi_dir(
    folder: str | Path, *, allow_pipes: bool = False, audio_root: str | Path | None = None
) -> list[Utterance]:
    """Return the utterances of ``folder``, sorted by id.

    Args:
        folder: the data directory.
        allow_pipes: accept wav.scp entries that end in ``|``. They are shell commands and run when audio is read, so
            ask only for folders you trust; such entries need ``utt2dur`` or ``segments``.
        audio_root: where relative audio paths start (default: the current directory, as in Kaldi). When it is given,
            no path may leave it.

    Raises:
        DataError: with every fault of the folder at once, each as ``file:line: fault``.
    """
    return _Reader(Path(folder), allow_pipes, None if audio_root is None else Path(audio_root)).read()


def write_kaldi_dir(folder: str | Path, utterances: Iterable[Utterance]) -> None:
    """Write a data directory that :func:`read_kaldi_dir` reads back, each file by a temporary name and a rename.

    ``wav.scp`` comes last, so that a folder with a ``wav.scp`` is complete.

    Raises:
        DataError: an id is repeated, an id or a text cannot stand on a line, durations are not what `read_kaldi_dir`
            would accept, or there are no utterances.
    """
    folder = Path(folder)
    ordered = sorted(utterances, key=lambda utterance: utterance.utt_id)
    _check_writable(ordered, folder)
    files = _file_contents(ordered)
    folder.mkdir(parents=True, exist_ok=True)
    stale = {"segments", "utt2lang", DURATIONS_FILE, *(path.name for path in folder.glob("text.*"))} - files.keys()
    for name in ("wav.scp", *sorted(stale)):
        (folder / name).unlink(missing_ok=True)
    for name in sorted(files, key=lambda name: name == "wav.scp"):
        _replace_file(folder / name, (f"{key} {value}\n" for key, value in sorted(files[name].items())))


def read_text_tables(folder: str | Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, str]]]:
    """Return by utterance id the texts of ``folder``, their languages, and by language their translations.

    For texts without recordings: only ``text``, ``utt2lang`` and ``text.<lang>`` are read.

    Raises:
        DataError: with every fault of the three at once, each as ``file:line: fault``.
    """
    return _Reader(Path(folder), allow_pipes=False, audio_root=None).read_text_tables()


def write_table(path: str | Path, values: Mapping[str, str]) -> None:
    """Write a file of one entry a line, sorted, by a temporary name and a rename; values are one line each."""
    _replace_file(Path(path), (f"{key} {value}\n" for key, value in sorted(values.items())))


def write_durations(folder: str | Path, durations: Mapping[str, Sequence[float]]) -> None:
    """Write the file ``durations`` of a data directory: the seconds of each token, by utterance id."""
    lines = (f"{utt_id} {_format_durations(seconds)}\n" for utt_id, seconds in sorted(durations.items()))
    _replace_file(Path(folder) / DURATIONS_FILE, lines)


def _format_durations(durations: Sequence[float]) -> str:
    return " ".join(f"{seconds:.4f}" for seconds in durations)


def _replace_file(path: Path, lines: Iterable[str]) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(lines), encoding="utf-8", newline="\n")
    temporary.replace(path)


@dataclass(frozen=True)
class _Entry:
    value: str
    where: str  # file:line


@dataclass(frozen=True)
class _Recording:
    path: Path
    pipe: str | None


class _Reader:
    """Collects faults while it reads, so that one run names them all."""

    def __init__(self, folder: Path, allow_pipes: bool, audio_root: Path | None) -> None:
        self.folder = folder
        self.allow_pipes = allow_pipes
        self.audio_root = audio_root
        self.faults: list[str] = []
        self.durations: dict[Path, float | None] = {}

    def read(self) -> list[Utterance]:
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder; a Kaldi data directory holds wav.scp, text and utt2spk")
        texts = self._table("text", required=True)
        speakers = self._table("utt2spk", required=True)
        recordings = self._recordings()
        spans = self._spans(recordings)
        durations = self._parsed("utt2dur", self._seconds)
        languages = self._parsed("utt2lang", self._language)
        translations = self._translations()
        previous = self._table(_PREVIOUS)
        token_durations = self._table(DURATIONS_FILE)
        optional: dict[str, Mapping[str, Any]] = {f"text.{lang}": table for lang, table in translations.items()}
        optional |= {_PREVIOUS: previous, DURATIONS_FILE: token_durations, "utt2dur": durations, "utt2lang": languages}
        audio_name = "wav.scp" if spans is None else "segments"
        self._check_keys(audio_name, recordings if spans is None else spans, texts, speakers, optional)
        self._check_spk2utt(speakers)
        utterances = []
        for utt_id in () if self.faults else sorted(texts):
            rec_id, start_s, end_s = (utt_id, None, None) if spans is None else spans[utt_id]
            duration_s = durations.get(utt_id) if start_s is None or end_s is None else end_s - start_s
            if duration_s is None:
                duration_s = self._file_duration(recordings[rec_id], f"{self.folder / 'wav.scp'}: {utt_id!r}")
            utterances.append(
                Utterance(
                    utt_id=utt_id,
                    wav_path=recordings[rec_id].path,
                    text=texts[utt_id].value,
                    spk_id=speakers[utt_id].value,
                    duration_s=duration_s or 0.0,
                    start_s=start_s,
                    end_s=end_s,
                    lang=languages.get(utt_id),
                    translations={lang: table[utt_id].value for lang, table in translations.items() if utt_id in table},
                    prev_text=previous[utt_id].value if utt_id in previous else None,
                    pipe=recordings[rec_id].pipe,
                    durations=self._token_durations(token_durations.get(utt_id), duration_s),
                )
            )
        self._raise_faults()
        return utterances

    def read_text_tables(self) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, str]]]:
        if not self.folder.is_dir():
            raise DataError(f"{self.folder}: no such folder; a directory of texts holds text, utt2lang and text.<lang>")
        texts = self._table("text", required=True)
        languages = self._parsed("utt2lang", self._language)
        translations = self._translations()
        optional: dict[str, Mapping[str, Any]] = {f"text.{lang}": table for lang, table in translations.items()}
        self._check_keys("utt2lang", languages, texts, {}, optional, with_speakers=False)
        self._raise_faults()
        by_lang = {lang: {key: entry.value for key, entry in table.items()} for lang, table in translations.items()}
        return {key: entry.value for key, entry in texts.items()}, languages, by_lang

    def _raise_faults(self) -> None:
        if not self.faults:
            return
        shown = self.faults[:MAX_FAULTS_SHOWN]
        more = len(self.faults) - len(shown)
        tail = f"; and {more} more" if more else ""
        noun = "fault" if len(self.faults) == 1 else "faults"
        raise DataError(f"{self.folder}: {len(self.faults)} {noun}: " + "; ".join(shown) + tail)

    def _table(self, name: str, *, required: bool = False) -> dict[str, _Entry]:
        """Read ``key value`` lines; a line with a fault is reported and left out."""
        path = self.folder / name
        try:
            content = regular(path).read_bytes()
        except FileNotFoundError:
            if required:
                self.faults.append(f"{path}: missing")
            return {}
        except OSError as error:
            self.faults.append(f"{path}: cannot be read ({error.strerror})")
            return {}
        table: dict[str, _Entry] = {}
        last = ""
        content = content.removeprefix(codecs.BOM_UTF8).rstrip()
        for number, raw in enumerate(content.split(b"\n") if content else (), start=1):
            where = f"{path}:{number}"
            try:
                key, value = _split_line(raw.decode("utf-8"))
            except UnicodeDecodeError:
                self.faults.append(f"{where}: must be UTF-8")
                continue
            if not key or not value:
                self.faults.append(f"{where}: must hold an id and a value, got {raw.decode('utf-8')[:60]!r}")
            elif key in table:
                self.faults.append(f"{where}: {key!r} already stands at {table[key].where}")
            else:
                if key < last:
                    self.faults.append(f"{where}: {key!r} must come before {last!r}; sort with LC_ALL=C")
                last = key
                table[key] = _Entry(value, where)
        return table

    def _translations(self) -> dict[str, dict[str, _Entry]]:
        return {
            match[1]: self._table(path.name)
            for path in sorted(self.folder.glob("text.*"))
            if (match := _TRANSLATION.fullmatch(path.name))
        }

    def _parsed(self, name: str, parse: Callable[[_Entry], Value | None]) -> dict[str, Value]:
        values = {key: parse(entry) for key, entry in self._table(name).items()}
        return {key: value for key, value in values.items() if value is not None}

    def _recordings(self) -> dict[str, _Recording]:
        found = {}
        for key, entry in self._table("wav.scp", required=True).items():
            if entry.value.endswith("|"):
                if not self.allow_pipes:
                    self.faults.append(
                        f"{entry.where}: {key!r} is a pipe, a shell command that reading would run; "
                        "convert the audio to files, or allow pipes if you trust this folder"
                    )
                found[key] = _Recording(Path(key), entry.value[:-1].strip())
                continue
            path = Path(entry.value)
            if self.audio_root is not None:
                path = self.audio_root / path
                if not path.resolve().is_relative_to(self.audio_root.resolve()):
                    self.faults.append(f"{entry.where}: {entry.value!r} lies outside {self.audio_root}")
            if not _is_file(path):
                self.faults.append(f"{entry.where}: no such audio file: {path}")
            found[key] = _Recording(path, None)
        return found

    def _spans(self, recordings: Mapping[str, _Recording]) -> dict[str, tuple[str, float, float]] | None:
        if not (self.folder / "segments").exists():
            return None
        spans = {}
        for key, entry in self._table("segments").items():
            fields = entry.value.split()
            times = [_to_float(text) for text in fields[1:]]
            start, end = times if len(times) == 2 else (None, None)
            is_known = end is not None and fields[0] in recordings
            length = (
                self._known_length(recordings[fields[0]], entry.where, needed=end == _TO_THE_END) if is_known else None
            )
            if end == _TO_THE_END:
                if is_known and length is None:
                    continue  # which is told
                end = math.inf if length is None else length
            if start is None or end is None or not 0 <= start < end:
                self.faults.append(
                    f"{entry.where}: must be: utterance, recording, start, end (0 <= start < end seconds), "
                    f"got {entry.value!r}"
                )
                continue
            spans[key] = (fields[0], start, end)
            if not is_known:
                self.faults.append(f"{entry.where}: recording {fields[0]!r} is not in wav.scp")
            elif length is not None and end > length + DURATION_TOLERANCE_S:
                self.faults.append(f"{entry.where}: ends at {end} s, but its recording lasts {length:.2f} s")
        return spans

    def _known_length(self, recording: _Recording, where: str, *, needed: bool) -> float | None:
        """Return seconds of a recording, None where they are unknown; a fault if they are needed."""
        if recording.pipe is not None and needed:
            self.faults.append(f"{where}: a pipe must say where the segment ends, -1 is for files")
        known = recording.pipe is None and _is_file(recording.path)
        return self._file_duration(recording, where) if known else None

    def _check_keys(
        self,
        audio_name: str,
        audio: Mapping[str, Any],
        texts: Mapping[str, _Entry],
        speakers: Mapping[str, _Entry],
        optional: Mapping[str, Mapping[str, Any]],
        *,
        with_speakers: bool = True,
    ) -> None:
        if not texts and not self.faults:
            self.faults.append(f"{self.folder / 'text'}: holds no utterance")
        known = texts.keys()
        required = {audio_name: audio.keys()} | ({"utt2spk": speakers.keys()} if with_speakers else {})
        for name, keys in required.items():
            for key in sorted(keys - known):
                self.faults.append(f"{self.folder / name}: {key!r} is not in text")
            for key in sorted(known - keys):
                self.faults.append(f"{texts[key].where}: {key!r} is not in {name}")
        for name, table in optional.items():
            for key in sorted(table.keys() - known):
                self.faults.append(f"{self.folder / name}: {key!r} is not in text")

    def _check_spk2utt(self, speakers: Mapping[str, _Entry]) -> None:
        table = self._table("spk2utt")
        if not table:
            return
        listed = {(utt_id, spk) for spk, entry in table.items() for utt_id in entry.value.split()}
        for utt_id, spk in sorted(listed ^ {(key, entry.value) for key, entry in speakers.items()}):
            self.faults.append(f"{self.folder / 'spk2utt'}: disagrees with utt2spk on {utt_id!r} of {spk!r}")

    def _seconds(self, entry: _Entry) -> float | None:
        seconds = _to_float(entry.value)
        if seconds is None or seconds <= 0:
            self.faults.append(f"{entry.where}: must be seconds above 0, got {entry.value!r}")
            return None
        return seconds

    def _token_durations(self, entry: _Entry | None, total_s: float | None) -> tuple[float, ...] | None:
        if entry is None or total_s is None:
            return None
        seconds = [_to_float(text) for text in entry.value.split()]
        durations = tuple(value for value in seconds if value is not None)
        fault = "a number is missing" if len(durations) < len(seconds) else _durations_fault(durations, total_s)
        if fault:
            self.faults.append(f"{entry.where}: must be the seconds of each token, at least 0, but {fault}")
            return None
        return durations

    def _language(self, entry: _Entry) -> str | None:
        if not _LANG.fullmatch(entry.value):
            self.faults.append(f"{entry.where}: must be an ISO 639-3 code such as eng, got {entry.value!r}")
            return None
        return entry.value

    def _file_duration(self, recording: _Recording, where: str) -> float | None:
        """Return seconds from the header, None (and a fault, once a file) where it cannot be read."""
        path = recording.path
        if recording.pipe is not None:
            self.faults.append(f"{where}: a pipe needs an entry in utt2dur or segments")
            return None
        if path not in self.durations:
            self.durations[path] = None
            try:
                info = _header(path)
                self.durations[path] = info.frames / info.samplerate
            except DataError as error:
                self.faults.append(f"{where}: {error}")
        return self.durations[path]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name is too long, for example
        return False


def _header(path: Path) -> Any:
    """Return soundfile's description of a file that holds at least one sample."""
    try:
        info = soundfile.info(str(path))
    except (soundfile.LibsndfileError, OSError, RuntimeError):
        raise DataError(
            f"{path} has no header that soundfile reads; convert it, or give its length in utt2dur"
        ) from None
    if info.frames <= 0 or info.samplerate <= 0:
        raise DataError(f"{path} holds no audio; drop the utterance")
    return info


def _split_line(line: str) -> tuple[str, str]:
    """Split at the first white space of any length, as Kaldi does."""
    key, _, value = line.strip().replace("\t", " ").partition(" ")
    return key, value.strip()


def _to_float(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _durations_fault(durations: Sequence[float], total_s: float) -> str:
    """Return what is wrong with the seconds of the tokens of an utterance of ``total_s``, if anything."""
    if not all(math.isfinite(seconds) and seconds >= 0 for seconds in durations):
        return "one is negative or not finite"
    if abs(sum(durations) - total_s) > DURATION_TOLERANCE_S:
        return f"they add up to {sum(durations):.2f} s, and the utterance lasts {total_s:.2f} s; align it again"
    return ""


def _check_writable(ordered: Sequence[Utterance], folder: Path) -> None:
    if not ordered:
        raise DataError(f"{folder}: a data directory needs at least one utterance, got none")
    for first, second in itertools.pairwise(ordered):
        if first.utt_id == second.utt_id:
            raise DataError(f"{folder}: utterance id {first.utt_id!r} is repeated")
    for utterance in ordered:
        if utterance.durations is not None and (fault := _durations_fault(utterance.durations, utterance.duration_s)):
            raise DataError(f"{folder}: utterance {utterance.utt_id!r}: wrong durations of tokens: {fault}")
        for name, token in (("utt_id", utterance.utt_id), ("spk_id", utterance.spk_id)):
            if not token or token.split() != [token]:
                raise DataError(f"{folder}: {name} must be one word, got {token!r}")
        texts = [utterance.text, *utterance.translations.values()]
        texts += [] if utterance.prev_text is None else [utterance.prev_text]
        try:
            for text in (utterance.utt_id, utterance.spk_id, *texts):
                check_unicode(text)
        except DataError as error:
            raise DataError(f"{folder}: utterance {utterance.utt_id!r}: {error}") from None
        if any(not text.strip() or "\n" in text or "\r" in text for text in texts):
            raise DataError(f"{folder}: utterance {utterance.utt_id!r}: a text must be one line and not blank")


def _file_contents(ordered: Sequence[Utterance]) -> dict[str, dict[str, str]]:
    files: dict[str, dict[str, str]] = {
        "text": {u.utt_id: u.text for u in ordered},
        "utt2spk": {u.utt_id: u.spk_id for u in ordered},
        "utt2dur": {u.utt_id: f"{u.duration_s:.6f}" for u in ordered},
        "utt2lang": {u.utt_id: u.lang for u in ordered if u.lang is not None},
        _PREVIOUS: {u.utt_id: u.prev_text for u in ordered if u.prev_text is not None},
        DURATIONS_FILE: {u.utt_id: _format_durations(u.durations) for u in ordered if u.durations},
    }
    by_speaker: dict[str, list[str]] = {}
    for u in ordered:
        by_speaker.setdefault(u.spk_id, []).append(u.utt_id)
        for lang, text in u.translations.items():
            files.setdefault(f"text.{lang}", {})[u.utt_id] = text
    files["spk2utt"] = {spk: " ".join(utt_ids) for spk, utt_ids in by_speaker.items()}
    sources = {u.utt_id: f"{u.pipe} |" if u.pipe is not None else str(u.wav_path) for u in ordered}
    if all(u.start_s is None for u in ordered):
        files["wav.scp"] = sources
    else:
        rec_ids = _recording_ids(sources.values())
        files["wav.scp"] = {rec_id: source for source, rec_id in rec_ids.items()}
        files["segments"] = {
            u.utt_id: f"{rec_ids[sources[u.utt_id]]} {u.start_s or 0.0:.6f} "
            f"{u.duration_s if u.end_s is None else u.end_s:.6f}"
            for u in ordered
        }
    return {name: table for name, table in files.items() if table}


def _recording_ids(sources: Iterable[str]) -> dict[str, str]:
    """Name each source by its file stem, numbered where two files share one."""
    rec_ids: dict[str, str] = {}
    taken: set[str] = set()
    for source in sorted(set(sources)):
        stem = "pipe" if source.endswith("|") else "_".join(Path(source).stem.split())
        rec_id, number = stem, 1
        while rec_id in taken:
            number += 1
            rec_id = f"{stem}-{number}"
        taken.add(rec_id)
        rec_ids[source] = rec_id
    return rec_ids
