"""What a worker does: one warm model, units of a corpus in, results on disk and outcomes out."""

import errno
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from speechnar.asr.options import AUTO, DecodeOptions
from speechnar.asr.recordings import INAUDIBLE
from speechnar.asr.transcriber import Transcriber
from speechnar.audio.blocks import Samples
from speechnar.data.corpus import CorpusItem
from speechnar.errors import ConfigError, SpeechnarError
from speechnar.extras import needs
from speechnar.files import replacing
from speechnar.hub import Precision
from speechnar.scale.journal import OWN_STEMS
from speechnar.scale.units import PART, UNREADABLE, Outcome, Unit, UnitFailure, UnitReport, attempt
from speechnar.text.transcript import FORMATS, Transcript, TranscriptFormat, safe_stem, write_transcript

JSONL, PARQUET = "jsonl", "parquet"
PARTS = (JSONL, PARQUET)
"""Formats that hold many results in a file."""
MAX_SECONDS = 4 * 3600.0
SILENT = "silent"
# What messages of unreadable audio have in common, by what to call it.
_KINDS = {"accepted": "too long", "holds no audio samples": "empty", "is empty": "empty", "NaN": "not finite",
          "listed twice": "duplicate"}  # fmt: skip
UNWRITABLE = "unwritable"
_OF_NAMES = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)
"""What ids can do: one is a folder of another's, or is too long."""


@dataclass(frozen=True, kw_only=True)
class TranscribingJob:
    """What is to be made of every item; may travel to other machines.

    Raises:
        ConfigError: a format is unknown, or the longest recording has no length.
    """

    model: str
    """Shipped name, name on the hub, or a folder that all workers see."""
    out: Path
    """Folder for results and journal that all workers see."""
    formats: tuple[str, ...] = (JSONL,)
    """One file for each item (txt, json, srt, vtt, tsv), or one for each unit: jsonl, parquet."""
    to: str | None = None
    """Language to translate into."""
    language: str = AUTO
    word_timestamps: bool = False
    options: DecodeOptions = field(default_factory=DecodeOptions)
    device: str = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    """Of each worker."""
    max_seconds: float = MAX_SECONDS
    """Longer recordings are failures."""

    def __post_init__(self) -> None:
        """Check what can be checked before any model is loaded."""
        unknown = [name for name in self.formats if name not in (*FORMATS, *PARTS)]
        if unknown or not self.formats:
            raise ConfigError(f"formats must be of {', '.join((*FORMATS, *PARTS))}; got {unknown or 'none'}")
        if not self.max_seconds > 0:
            raise ConfigError(f"max_seconds must be positive, got {self.max_seconds}")

    def request(self) -> dict[str, Any]:
        """Return what must stay the same when a journal is continued; where it is computed may change."""
        options = {name: str(value) for name, value in asdict(self.options).items() if value not in (None, ())}
        return {
            "model": self.model,
            "formats": list(self.formats),
            "to": self.to,
            "language": self.language,
            "word_timestamps": self.word_timestamps,
            "options": options,
            "precision": self.precision,
            "max_seconds": self.max_seconds,
        }

    def worker(self) -> "UnitTranscriber":
        """Load the model.

        Raises:
            SpeechnarError: it cannot be loaded.
        """
        return UnitTranscriber(self)


class UnitTranscriber:
    """A model that stays loaded.

    Raises:
        SpeechnarError: the model cannot be loaded.
    """

    def __init__(self, job: TranscribingJob) -> None:
        self.job = job
        if PARQUET in job.formats:
            with needs("scale"):
                import pyarrow.parquet  # type: ignore[import-not-found,unused-ignore]  # noqa: F401, PLC0415
        self.transcriber = Transcriber.load(job.model, device=job.device, precision=job.precision)

    def __call__(self, unit: Unit[CorpusItem]) -> UnitReport | UnitFailure:
        """Decode a unit and write its results; what fails as a whole is returned, too, never raised."""
        return attempt(unit, self.job.out, self._make)

    def _make(self, unit: Unit[CorpusItem]) -> tuple[list[Outcome], str | None]:
        outcomes, results = self._decode(unit)
        return outcomes, self._write_parts(unit, results)

    def _decode(self, unit: Unit[CorpusItem]) -> tuple[list[Outcome], list[tuple[str, Transcript]]]:
        job = self.job
        heard = [_Heard(item, job.max_seconds) for item in unit.items]
        found = self.transcriber.transcribe_many(
            heard, to=job.to, language=job.language, word_timestamps=job.word_timestamps, options=job.options
        )
        outcomes, results = [], []
        for recording, outcome in zip(heard, found, strict=True):
            utt_id = recording.name
            if isinstance(outcome, SpeechnarError):
                outcomes.append(Outcome(utt_id, kind=_kind_of(outcome), reason=str(outcome)))
                continue
            try:
                for format in job.formats:
                    if format not in PARTS:
                        _write_file(outcome, format, job.out, utt_id)
            except OSError as error:
                if error.errno not in _OF_NAMES:
                    raise
                reason = f"{utt_id}: its result cannot be written under this name ({error.strerror})"
                outcomes.append(Outcome(utt_id, kind=UNWRITABLE, reason=reason))
                continue
            note = SILENT if recording.peak < INAUDIBLE else None
            outcomes.append(Outcome(utt_id, outcome.duration, recording.digest, reason=note))
            results.append((utt_id, outcome))
        return outcomes, results

    def _write_parts(self, unit: Unit[CorpusItem], results: list[tuple[str, Transcript]]) -> str | None:
        """Write what goes into common files, whole or not at all; return their name without suffix."""
        formats = [format for format in self.job.formats if format in PARTS]
        if not formats or not results:
            return None
        rows = [{"utt_id": utt_id, **transcript.to_dict()} for utt_id, transcript in results]
        name = f"{PART}{unit.key}"
        for format in formats:
            with replacing(self.job.out / f"{name}.{format}") as temporary:
                if format == JSONL:
                    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                    temporary.write_bytes("".join(lines).encode("utf-8", "replace"))
                else:
                    _write_parquet(temporary, rows)
        return name


class _Heard:
    """An item whose level and digest are taken while it is read."""

    def __init__(self, item: CorpusItem, max_seconds: float) -> None:
        self._item = item
        self._max_seconds = max_seconds
        self.peak = 0.0
        self.digest: str | None = None

    @property
    def name(self) -> str:
        return self._item.utt_id

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        """Yield the item; once it was read to its end, ``peak`` and ``digest`` are those of all of it."""
        peak, digest = 0.0, hashlib.blake2b(digest_size=12)
        for block in self._item.blocks_up_to(sample_rate, self._max_seconds):
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            digest.update(np.ascontiguousarray(block).data)
            yield block
        self.peak, self.digest = peak, digest.hexdigest()


def _kind_of(error: SpeechnarError) -> str:
    return next((kind for words, kind in _KINDS.items() if words in str(error)), UNREADABLE)


def _write_file(transcript: Transcript, format: str, folder: Path, utt_id: str) -> None:
    """Write below ``folder`` as ``utt_id`` says: ids of folders and of tars have slashes."""
    *parents, stem = utt_id.split("/")
    if not parents and (stem in OWN_STEMS or stem.startswith(PART)):
        stem = f"/{stem}"  # no other id gives this
    name: TranscriptFormat = format  # type: ignore[assignment]  # the job has checked it
    write_transcript(transcript, name, folder.joinpath(*map(safe_stem, parents)), stem)


def _write_parquet(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with needs("scale"):
        import pyarrow as pa  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
        import pyarrow.parquet as pq  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
    text, number = pa.string(), pa.float64()
    span = {"start": number, "end": number}
    words = pa.list_(pa.struct({**span, "word": text, "probability": number}))
    segment = pa.struct({"id": pa.int64(), **span, "text": text, "avg_logprob": number, "words": words})
    columns = {name: text for name in ("utt_id", "file", "model", "task", "language", "text")}
    columns |= {"language_probability": number, "duration": number, "segments": pa.list_(segment)}
    columns["tags"] = pa.list_(pa.struct({**span, "emotion": text, "event": text}))
    pq.write_table(pa.Table.from_pylist(list(rows), schema=pa.schema(columns)), path)
