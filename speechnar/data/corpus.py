"""What a corpus to be decoded holds: Kaldi directories, lhotse manifests, Shar and WebDataset tars, folders, files.

Nothing is decoded here. A faulty entry becomes an item that says why it cannot be read, so that it can be counted and
the rest goes on: no corpus of a million recordings is without faults.

Sources: lhotse 1.33 (manifests of cuts or recordings, one JSON object a line; Shar), WebDataset (members of a tar that
share a name up to its first dot are one sample).
"""

import gzip
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import IO, Any

from speechnar.audio.blocks import Samples
from speechnar.audio.io import AudioStream
from speechnar.audio.listing import is_recording, list_recordings
from speechnar.data.tars import BoundedTarInfo
from speechnar.errors import AudioError, ConfigError, DataError

BYTES_PER_SECOND = 32_000
"""Of a file of which nothing is known yet: 16 kHz in 16 bits. It only balances the work."""
BLOCK_S = 30.0
MAX_LINE = 1 << 24
"""Characters of a line of a manifest."""
MAX_UNREADABLE = 100_000
"""Lines that are no JSON, behind which a file is no manifest."""
MAX_RATIO = 200
"""Of the characters of a compressed manifest to its bytes; real ones shrink by less than 50."""
MIN_JUDGED = 64 << 20
"""Characters; ratios mean nothing below."""
MAX_MEMBER_BYTES = 2 << 30
"""Of a recording in a tar, which is read into memory."""
LATEST_S = 1e9
_MANIFESTS = (".jsonl", ".jsonl.gz")
_SHAR_CUTS = "cuts.*.jsonl*"
_SHAR_AUDIO = "recording"


@dataclass(frozen=True, slots=True)
class CorpusItem:
    """A recording, a span of one, or a member of a tar; readable as often as wanted (`speechnar.audio.Recording`)."""

    utt_id: str
    path: Path
    """Of the recording, or of the tar."""
    seconds: float = 0.0
    """As far as it is known, or guessed by the size."""
    start_s: float | None = None
    end_s: float | None = None
    offset: int | None = None
    """Where in a tar the ``size`` bytes of a member begin."""
    size: int = 0
    channel: int | None = None
    """The channel that is heard; None: the mean of all."""
    fault: str | None = None
    """Why it cannot be read, where that shows before it is tried."""

    @property
    def name(self) -> str:
        """What messages and results call it."""
        return self.utt_id

    @property
    def place(self) -> tuple[Any, ...]:
        """What it holds: two items of one place are one recording."""
        return str(self.path), self.start_s, self.end_s, self.offset, self.channel

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        """Yield it from its beginning as mono blocks at ``sample_rate``.

        Raises:
            AudioError: it cannot be read.
        """
        return self.blocks_up_to(sample_rate, None)

    def blocks_up_to(self, sample_rate: int, max_seconds: float | None) -> Iterator[Samples]:
        """Yield the same, unless it is longer than ``max_seconds``.

        Raises:
            AudioError: it cannot be read, or is longer.
        """
        if self.fault is not None:
            raise AudioError(self.fault)
        source: Path | bytes = self.path if self.offset is None else self._member()
        # A span of a long recording is not a long recording.
        limit = max_seconds if self.end_s is None else None
        stream = AudioStream(
            source, target_rate=sample_rate, block_seconds=BLOCK_S, max_seconds=limit, channel=self.channel
        )
        return iter(stream) if self.start_s is None else self._span(iter(stream), sample_rate)

    def _member(self) -> bytes:
        assert self.offset is not None
        try:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self.offset + self.size:
                    raise AudioError(f"{self.path}: ends within {self.utt_id}; was it copied whole?")
                if self.size > MAX_MEMBER_BYTES:
                    raise AudioError(f"{self.path}: {self.utt_id} must be at most {MAX_MEMBER_BYTES >> 30} GiB")
                file.seek(self.offset)
                return file.read(self.size)
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be opened ({error.strerror})") from None

    def _span(self, blocks: Iterator[Samples], sample_rate: int) -> Iterator[Samples]:
        assert self.start_s is not None
        first = round(self.start_s * sample_rate)
        last = None if self.end_s is None else round(self.end_s * sample_rate)
        place = 0
        for block in blocks:
            kept = block[max(first - place, 0) : None if last is None else max(last - place, 0)]
            place += len(block)
            if len(kept):
                yield kept
            if last is not None and place >= last:
                break
        if place <= first:
            raise AudioError(f"{self.path}: ends at {place / sample_rate:.2f} s, before {self.utt_id} begins")


def is_corpus(path: str | Path) -> bool:
    """Return whether a path is more than an audio file or a folder of them: a data directory, a manifest or a tar."""
    path = Path(path)
    if path.is_dir():
        return _reader_of_folder(path) is not _read_folder
    return path.name.endswith((*_MANIFESTS, ".tar"))


def read_corpus(inputs: Iterable[str | Path]) -> list[CorpusItem]:
    """Return the items of all inputs, in their order; of several with one id, only the first can be read.

    Args:
        inputs: Kaldi data directories (``wav.scp``, perhaps ``segments`` and ``utt2dur``; no ``text`` is needed),
            folders of lhotse Shar (``cuts.*.jsonl.gz`` beside ``recording.*.tar``), folders of WebDataset tars in which
            there are no audio files, folders of audio files however deep, lhotse manifests (``.jsonl``,
            ``.jsonl.gz``), tars, audio files.

    Raises:
        DataError: an input does not exist, is none of these, or holds nothing.
    """
    items: list[CorpusItem] = []
    for given in map(Path, inputs):
        found = list(_read(given))
        if not found:
            raise DataError(f"{given}: holds no recording")
        items += found
    return _without_repeats(items)


def _without_repeats(items: Sequence[CorpusItem]) -> list[CorpusItem]:
    first: dict[str, CorpusItem] = {}
    times: Counter[str] = Counter()
    kept = []
    for item in items:
        times[item.utt_id] += 1
        known = first.setdefault(item.utt_id, item)
        if known is item:
            kept.append(item)
            continue
        what = "the same recording" if known.place == item.place else "another recording"
        fault = f"{item.path}: {item.utt_id} is listed twice ({what}); the first one is taken"
        # It needs a name of its own in the list of failures.
        kept.append(replace(item, utt_id=f"{item.utt_id}#{times[item.utt_id]}", fault=fault))
    return kept


def _read(path: Path) -> Iterator[CorpusItem]:
    if path.is_dir():
        yield from _reader_of_folder(path)(path)
    elif not path.is_file():
        raise DataError(f"{path}: does not exist; give a Kaldi directory, a manifest, a tar, a folder or an audio file")
    elif path.name.endswith(_MANIFESTS):
        yield from _read_manifest(path)
    elif path.suffix == ".tar":
        yield from _read_tar(path)
    else:
        yield CorpusItem(path.stem, path, seconds=_guess_seconds(path))


def _reader_of_folder(folder: Path) -> Callable[[Path], Iterator[CorpusItem]]:
    if (folder / "wav.scp").is_file():
        return _read_kaldi
    if any(folder.glob(_SHAR_CUTS)):
        return _read_shar
    return _read_tars if _holds_shards(folder) else _read_folder


def _holds_shards(folder: Path) -> bool:
    """Tell a folder of WebDataset from one of recordings beside which somebody keeps a tar: it has tars alone."""
    return any(folder.glob("*.tar")) and not list_recordings([folder]).recordings


def _guess_seconds(path: Path) -> float:
    try:
        return path.stat().st_size / BYTES_PER_SECOND
    except OSError:
        return 0.0


def _read_folder(folder: Path) -> Iterator[CorpusItem]:
    """Name each by its path in the folder, with its suffix only where two differ in nothing else."""
    listing = list_recordings([folder])
    paths = [Path(path) for path in listing.recordings]
    names = [path.relative_to(folder).with_suffix("").as_posix() for path in paths]
    times = Counter(names)
    for path, name in zip(paths, names, strict=True):
        utt_id = name if times[name] == 1 else path.relative_to(folder).as_posix()
        yield CorpusItem(utt_id, path, seconds=_guess_seconds(path))
    for number, fault in enumerate(listing.faults, start=1):
        yield CorpusItem(f"{folder}#{number}", folder, fault=str(fault))


# Kaldi. Unlike `speechnar.data.kaldi`, which trains and scores, this needs no text and survives a faulty line.


def _read_kaldi(folder: Path) -> Iterator[CorpusItem]:
    durations = dict(_table(folder / "utt2dur"))
    recordings = [(key, _kaldi_recording(folder, key, value, durations)) for key, value in _table(folder / "wav.scp")]
    if not (folder / "segments").is_file():
        yield from (item for _, item in recordings)
        return
    known = dict(recordings)
    for key, value in _table(folder / "segments"):
        fields = value.split()
        times = [_number(field) for field in fields[1:]]
        if len(times) != 2 or None in times or not 0 <= times[0] < times[1]:  # type: ignore[operator]  # checked
            fault = f"{folder / 'segments'}: {key}: must be: utterance, recording, start, end; got {value!r}"
            yield CorpusItem(key, folder, fault=fault)
        elif fields[0] not in known:
            yield CorpusItem(key, folder, fault=f"{folder / 'segments'}: {key}: {fields[0]} is not in wav.scp")
        else:
            start_s, end_s = float(fields[1]), float(fields[2])
            yield replace(known[fields[0]], utt_id=key, start_s=start_s, end_s=end_s, seconds=end_s - start_s)


def _kaldi_recording(folder: Path, key: str, value: str, durations: dict[str, str]) -> CorpusItem:
    if not value:
        return CorpusItem(key, folder, fault=f"{folder / 'wav.scp'}: {key}: names no file")
    if value.endswith("|"):
        fault = f"{folder / 'wav.scp'}: {key}: is a pipe, a shell command, which is not run; convert it to files"
        return CorpusItem(key, folder, fault=fault)
    path = Path(value)
    return CorpusItem(key, path, seconds=_number(durations.get(key, "")) or _guess_seconds(path))


def _table(path: Path) -> Iterator[tuple[str, str]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            key, _, value = line.strip().partition(" ")
            if key:
                yield key, value.strip()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= LATEST_S else None  # which NaN is not


# lhotse.


def _read_manifest(path: Path) -> Iterator[CorpusItem]:
    for where, entry in _json_lines(path):
        yield (entry if isinstance(entry, CorpusItem) else _guarded(where, entry, _lhotse_item))


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the place and the object of each line; what is no object, and a file that ends early, as faulty items.

    Raises:
        DataError: it unpacks to far more than a manifest, or most of it is no JSON.
    """
    limit = max(MIN_JUDGED, MAX_RATIO * path.stat().st_size)
    num_read = num_unreadable = 0
    with _open_text(path) as lines:
        for number in count(1):
            where = f"{path}:{number}"
            try:
                line = lines.readline(MAX_LINE)
            except (OSError, EOFError, zlib.error) as error:
                yield where, CorpusItem(where, path, fault=f"{where}: the file cannot be read on ({error})")
                return
            num_read += len(line)
            if not line:
                return
            if num_read > limit:
                raise DataError(f"{where}: unpacks to far more than a manifest of its size should")
            if not line.strip():
                continue
            try:
                yield where, json.loads(line)
            except (ValueError, RecursionError):
                num_unreadable += 1
                if num_unreadable > MAX_UNREADABLE:
                    raise DataError(f"{path}: more than {MAX_UNREADABLE:,} lines are no JSON") from None
                yield where, CorpusItem(where, path, fault=f"{where}: is no JSON")


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", errors="replace")
    return path.open(encoding="utf-8", errors="replace")


def _guarded(where: str, entry: Any, make: Callable[[Any], CorpusItem]) -> CorpusItem:
    try:
        return make(entry)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        named = entry.get("id") if isinstance(entry, dict) else None
        reason = str(error) if isinstance(error, DataError) else f"is no cut or recording of lhotse ({error!r})"
        return CorpusItem(str(named)[:200] if named else where, Path(where), fault=f"{where}: {reason}")


def _lhotse_item(entry: dict[str, Any]) -> CorpusItem:
    if "sources" in entry:  # a recording
        return CorpusItem(_id_of(entry), _lhotse_file(entry, None), _seconds(entry, "duration"))
    if "recording_id" in entry and "recording" not in entry:
        raise DataError("is a supervision; give the manifest of cuts or recordings")
    kind = entry.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut") or "recording" not in entry:
        raise DataError(f"a {kind} without a recording of its own is not read; save the audio of such cuts first")
    recording, channel = entry["recording"], int(entry["channel"]) if kind == "MonoCut" else None
    path, heard = _lhotse_file(recording, channel), None
    if channel is not None:
        channels = _source_of(recording, channel)["channels"]
        heard = channels.index(channel) if len(channels) > 1 else None
    start_s, seconds = _seconds(entry, "start"), _seconds(entry, "duration")
    is_whole = start_s == 0 and abs(_seconds(recording, "duration") - seconds) < 1e-3
    item = CorpusItem(_id_of(entry), path, seconds, channel=heard)
    return item if is_whole else replace(item, start_s=start_s, end_s=start_s + seconds)


def _id_of(entry: dict[str, Any]) -> str:
    if not isinstance(entry["id"], str) or not entry["id"]:
        raise DataError(f"its id must be text, got {str(entry['id'])[:60]!r}")
    return entry["id"]


def _seconds(entry: dict[str, Any], name: str) -> float:
    value = float(entry[name])
    if not 0 <= value <= LATEST_S:
        raise DataError(f"{name} must be 0 to {LATEST_S:g} seconds, got {value}")
    return value


def _source_of(recording: dict[str, Any], channel: int | None) -> dict[str, Any]:
    sources: list[dict[str, Any]] = recording["sources"]
    if len(sources) > 1 and channel is not None:
        sources = [source for source in sources if channel in source["channels"]]
    if len(sources) != 1:
        raise DataError("a recording of several files is read a channel at a time; give MonoCuts")
    return sources[0]


def _lhotse_file(recording: dict[str, Any], channel: int | None) -> Path:
    if recording.get("transforms"):
        raise DataError("a recording with transforms is not read; save its audio first")
    source = _source_of(recording, channel)
    if source["type"] != "file":
        raise DataError(f"a source of type {source['type']} is not read here; save the audio to files or to Shar")
    return Path(source["source"])


def _read_shar(folder: Path) -> Iterator[CorpusItem]:
    for cuts in sorted(folder.glob(_SHAR_CUTS)):
        tar = folder / f"{_SHAR_AUDIO}.{cuts.name.split('.')[1]}.tar"
        members, fault = _index(tar) if tar.is_file() else ([], f"{tar}: does not exist")
        places = {name.rpartition(".")[0]: (offset, size) for name, offset, size in members if is_recording(name)}
        find = partial(_shar_item, tar, places, fault)
        for where, entry in _json_lines(cuts):
            yield entry if isinstance(entry, CorpusItem) else _guarded(where, entry, find)
        if fault is not None and members:
            yield CorpusItem(str(tar), tar, fault=fault)


def _shar_item(tar: Path, places: dict[str, tuple[int, int]], fault: str | None, entry: dict[str, Any]) -> CorpusItem:
    utt_id = _id_of(entry)
    offset, size = places.get(utt_id, (None, 0))
    missing = None if offset is not None else fault or f"{tar}: does not hold the audio of {utt_id}"
    return CorpusItem(utt_id, tar, _seconds(entry, "duration"), offset=offset, size=size, fault=missing)


# Tars.


def _read_tars(folder: Path) -> Iterator[CorpusItem]:
    for tar in sorted(folder.glob("*.tar")):
        yield from _read_tar(tar)


def _read_tar(tar: Path) -> Iterator[CorpusItem]:
    """Name each sample by the tar and its key, as keys are unique within a tar only."""
    members, fault = _index(tar)
    for name, offset, size in members:
        if is_recording(name):
            folder, _, base = name.rpartition("/")
            key = "/".join(filter(None, (tar.stem, folder.removeprefix("./"), base.partition(".")[0])))
            yield CorpusItem(key, tar, size / BYTES_PER_SECOND, offset=offset, size=size)
    if fault is not None:
        yield CorpusItem(str(tar), tar, fault=fault)


def _index(tar: Path) -> tuple[list[tuple[str, int, int]], str | None]:
    """Return name, offset and size of the files in a tar, and what is wrong with it behind them."""
    found: list[tuple[str, int, int]] = []
    try:
        with tarfile.open(tar, "r:", tarinfo=BoundedTarInfo) as archive:
            for member in archive:
                if member.issparse():
                    return found, f"{tar}: {member.name} is stored with its gaps left out; pack it anew without"
                if member.isreg():
                    found.append((member.name, member.offset_data, member.size))
    except OSError as error:
        return found, f"{tar}: cannot be read ({error.strerror})"
    except Exception as error:  # damage makes the module that reads it fail in any way
        if not found and tar.stat().st_size:
            raise ConfigError(f"{tar}: must be a tar that is not compressed ({error})") from None
        return found, f"{tar}: is damaged after {len(found)} files ({error})"
    return found, None
