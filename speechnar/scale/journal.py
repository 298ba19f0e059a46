"""The journal of a corpus: which items are done, for good, whatever ends the program that does them.

A folder holds ``run.json`` (what is asked for: a journal is continued only by the same request), ``journal.jsonl`` (a
line for each finished unit, synced before the next one is taken as done) and, when all is done or the run is left,
``failures.jsonl`` and ``report.json``. Results are written first, each under a name that depends on its item or unit
alone, and journalled then; what was written but not journalled is written again, under the same name.
"""

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType, UnionType
from typing import Any

from speechnar.errors import ConfigError, DataError
from speechnar.files import locked, replacing
from speechnar.scale.units import Outcome, UnitReport

RUN, JOURNAL, FAILURES, REPORT = "run.json", "journal.jsonl", "failures.jsonl", "report.json"
OWN_STEMS = frozenset(name.partition(".")[0] for name in (RUN, JOURNAL, FAILURES, REPORT))
"""No result may have one of these."""
SAME_SOUND = "same sound"


@dataclass(frozen=True)
class CorpusReport:
    """What a corpus came to."""

    listed: int
    done: int
    """With a result."""
    failed: dict[str, int]
    """Without one, by kind."""
    odd: dict[str, int]
    """Results that somebody should look at, by kind: silent, or the same sound as another."""
    audio_s: float
    wall_s: float
    """Of this run alone."""
    done_now: int
    """By this run."""

    @property
    def num_failed(self) -> int:
        """How many have no result."""
        return sum(self.failed.values())

    def __str__(self) -> str:
        failed = ", ".join(f"{kind} {number}" for kind, number in sorted(self.failed.items()))
        odd = ", ".join(f"{kind} {number}" for kind, number in sorted(self.odd.items()))
        return (
            f"{self.done:,} of {self.listed:,} done ({self.done_now:,} now), {self.audio_s / 3600:.2f} hours; "
            f"failed: {failed or 'none'}" + (f"; odd: {odd}" if odd else "")
        )


class Journal:
    """The journal in ``folder``, for one program at a time.

    Args:
        folder: is made if absent.
        request: what is asked for, as JSON can hold it.

    Raises:
        ConfigError: the folder is of another request, or another program works in it.
        DataError: it cannot be read.
    """

    def __init__(self, folder: Path, request: Mapping[str, Any]) -> None:
        self.folder = folder
        self.request = dict(request)
        self.outcomes: dict[str, Outcome] = {}
        self.parts: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(folder)

    def __enter__(self) -> "Journal":
        """Lock the folder, read what is done, and be ready to go on."""
        self._lock.__enter__()
        try:
            self._check_request()
            self._read()
            self._file = os.open(self.folder / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go."""
        os.close(self._file)
        self._lock.__exit__(kind, error, trace)

    def add(self, report: UnitReport) -> None:
        """Note a finished unit, for good when this returns.

        Raises:
            OSError: it cannot be written; then nothing of the line remains.
        """
        outcomes = [_packed(outcome) for outcome in report.outcomes]
        entry = {"unit": report.key, "part": report.part, "wall_s": round(report.wall_s, 3), "outcomes": outcomes}
        content = (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8", "surrogatepass")
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, content)
            while written < len(content):
                written += os.write(self._file, content[written:])
            os.fsync(self._file)
        except OSError:
            os.ftruncate(self._file, size)
            raise
        self._take(report)

    def forget(self, kinds: set[str] | None = None) -> int:
        """Let what failed (None: in any way) be tried again; return how many that are."""
        again = [
            utt_id
            for utt_id, outcome in self.outcomes.items()
            if outcome.kind is not None and (kinds is None or outcome.kind in kinds)
        ]
        for utt_id in again:
            del self.outcomes[utt_id]
        return len(again)

    def finish(self, listed: int, *, wall_s: float, done_before: int) -> CorpusReport:
        """Write ``failures.jsonl`` and ``report.json``, and return the latter."""
        failed = {utt_id: outcome for utt_id, outcome in self.outcomes.items() if outcome.kind is not None}
        done = [outcome for outcome in self.outcomes.values() if outcome.kind is None]
        lines = [
            json.dumps({"utt_id": utt_id, "kind": outcome.kind, "reason": outcome.reason}, ensure_ascii=False)
            for utt_id, outcome in sorted(failed.items())
        ]
        odd = Counter(outcome.reason for outcome in done if outcome.reason is not None)
        heard = Counter(outcome.digest for outcome in done if outcome.digest is not None and outcome.reason is None)
        odd[SAME_SOUND] = sum(number - 1 for number in heard.values())
        report = CorpusReport(
            listed=listed,
            done=len(done),
            failed=dict(Counter(str(outcome.kind) for outcome in failed.values())),
            odd={kind: number for kind, number in odd.items() if number},
            audio_s=sum(outcome.seconds for outcome in done),
            wall_s=wall_s,
            done_now=len(done) - done_before,
        )
        self._replace(FAILURES, "".join(f"{line}\n" for line in lines))
        self._replace(REPORT, json.dumps(asdict(report), indent=2) + "\n")
        return report

    def _check_request(self) -> None:
        path = self.folder / RUN
        if not path.is_file():
            self._replace(RUN, json.dumps(self.request, indent=2, ensure_ascii=False) + "\n")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(before, dict):
                raise ValueError("it must hold an object")
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: cannot be read ({error}); give another folder") from None
        differing = [name for name, value in self.request.items() if before.get(name) != value]
        if differing:
            changes = ", ".join(f"{name} was {before.get(name)!r}, is {self.request[name]!r}" for name in differing)
            raise ConfigError(f"{self.folder}: holds results of another request ({changes}); give another folder")

    def _read(self) -> None:
        """Read the journal; what a killed program left of a last line goes."""
        path = self.folder / JOURNAL
        if not path.is_file():
            return
        whole = 0
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line.decode("utf-8", "surrogatepass"))
                    outcomes = tuple(_outcome(*packed) for packed in entry["outcomes"])
                    _check_kind(entry["part"], str | None)
                    self._take(UnitReport(entry["unit"], outcomes, entry["part"]))
                except (ValueError, KeyError, TypeError, RecursionError) as error:
                    raise DataError(f"{path}:{number}: is no line of a journal ({error})") from None
                whole += len(line)
        if whole < path.stat().st_size:
            os.truncate(path, whole)

    def _take(self, report: UnitReport) -> None:
        self.outcomes.update((outcome.utt_id, outcome) for outcome in report.outcomes)
        if report.part is not None:
            self.parts.add(report.part)

    def _replace(self, name: str, text: str) -> None:
        with replacing(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", errors="surrogatepass")


def _outcome(utt_id: str, seconds: float, *rest: str | None) -> Outcome:
    """Return what `_packed` has packed."""
    _check_kind(utt_id, str)
    _check_kind(seconds, int | float)
    for value in rest:
        _check_kind(value, str | None)
    return Outcome(utt_id, seconds, *rest)


def _check_kind(value: object, kind: type | UnionType) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{str(value)[:60]!r} is out of place")


def _packed(outcome: Outcome) -> list[Any]:
    """Return the fields of an outcome, without those at the end that say nothing."""
    values = [outcome.utt_id, round(outcome.seconds, 3), outcome.digest, outcome.kind, outcome.reason]
    while values[-1] is None:
        values.pop()
    return values
