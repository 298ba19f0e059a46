"""A corpus from listing to report, on one machine or on a Ray cluster, with one journal (``--engine``)."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from speechnar.errors import SpeechnarError
from speechnar.files import check_writable
from speechnar.scale.journal import CorpusReport, Journal
from speechnar.scale.units import (
    GIVEN_UP,
    PART,
    UNIT_SECONDS,
    Backlog,
    Item,
    ItemT,
    Job,
    Unit,
    UnitReport,
    group,
    limit_threads,
    without,
)

logger = logging.getLogger(__name__)

Engine: TypeAlias = Literal["local", "ray"]
Finished: TypeAlias = Iterator[UnitReport]
TOLD_EVERY_S = 10.0


def run_job(
    job: Job,
    items: Sequence[ItemT],
    *,
    engine: Engine = "local",
    address: str | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
    unit_seconds: float = UNIT_SECONDS,
) -> CorpusReport:
    """Do what the journal in ``job.out`` does not hold yet; each item ends in one result or one reason.

    Args:
        job: what is made of each item.
        items: the corpus, in an order that stays.
        engine: ``local``, this process; ``ray``, workers on a cluster.
        address: of the cluster; None: the one of ``RAY_ADDRESS``, or one that is started on this machine.
        workers: of Ray; None: one for each GPU, or for each CPU where there is none.
        retry_failed: try again what failed in earlier runs. What was given up since its worker died is tried anyway.
        unit_seconds: audio of what is done and journalled at once.

    Raises:
        ConfigError: the folder holds results of another request, another program works there, or an option is wrong.
        SpeechnarError: nothing can be written any more; what is journalled stays, and the same call goes on.
        MissingExtraError: Ray is to be used and is not installed.
    """
    started = time.monotonic()
    try:
        with Journal(job.out, job.request()) as journal:
            check_writable(job.out)
            _remove_orphans(job.out, journal.parts)
            journal.forget(None if retry_failed else {GIVEN_UP})
            done_before = sum(outcome.kind is None for outcome in journal.outcomes.values())
            units = list(without(group(items, seconds=unit_seconds), journal.outcomes))
            if journal.outcomes:
                logger.info("%s: going on behind %d of %d", job.out, len(journal.outcomes), len(items))
            progress = _Progress(items, units)
            if units:
                for report in _engine(job, engine, address, workers)(Backlog.of(units)):
                    journal.add(report)
                    progress.advance(report)
            _remove_orphans(job.out, journal.parts)
            return journal.finish(len(items), wall_s=time.monotonic() - started, done_before=done_before)
    except OSError as error:
        path = error.filename or job.out
        raise SpeechnarError(f"{path}: cannot be written ({error.strerror}); the same command goes on later") from None


def _engine(job: Job, engine: Engine, address: str | None, workers: int | None) -> Callable[[Backlog], Finished]:
    if engine == "ray":
        from speechnar.scale.ray_engine import RayEngine  # noqa: PLC0415  # of an extra

        return RayEngine(job, address=address, workers=workers).run
    return LocalEngine(job).run


class LocalEngine:
    """Does units one after the other, in this process."""

    def __init__(self, job: Job) -> None:
        limit_threads(job)
        self._work = job.worker()

    def run(self, backlog: Backlog) -> Finished:
        """Yield what is finished.

        Raises:
            SpeechnarError: nothing can be done any more.
        """
        backlog.attempts = 1  # the same process would fail in the same way
        while backlog.waiting:
            unit = backlog.waiting.popleft()
            result = self._work(unit)
            if isinstance(result, UnitReport):
                yield result
            elif (given_up := backlog.put_back(unit, result)) is not None:
                yield given_up


def _remove_orphans(folder: Path, parts: set[str]) -> None:
    """Remove files of units that were written but not journalled: their items may stand in other units now."""
    for path in folder.glob(f"{PART}*"):
        if path.stem not in parts:
            path.unlink()


class _Progress:
    """Says now and then how far it is and how long it will take, by the audio done so far."""

    def __init__(self, items: Sequence[Item], units: Sequence[Unit[ItemT]]) -> None:
        self._listed = len(items)
        self._seconds = {item.utt_id: item.seconds for unit in units for item in unit.items}
        self._total_s = sum(self._seconds.values())
        self._done = self._listed - len(self._seconds)
        self._done_s = self._heard_s = 0.0
        self._failed = 0
        self._started = self._told = time.monotonic()

    def advance(self, report: UnitReport) -> None:
        """Count a finished unit."""
        self._done += len(report.outcomes)
        self._done_s += sum(self._seconds.get(outcome.utt_id, 0.0) for outcome in report.outcomes)
        self._heard_s += sum(outcome.seconds for outcome in report.outcomes)
        self._failed += sum(outcome.kind is not None for outcome in report.outcomes)
        now = time.monotonic()
        if now - self._told < TOLD_EVERY_S:
            return
        self._told = now
        wall_s = now - self._started
        left_s = wall_s * (self._total_s - self._done_s) / max(self._done_s, 1e-9)
        logger.info(
            "%d of %d, %d failed, %.1f times real time, about %s left",
            self._done, self._listed, self._failed, self._heard_s / wall_s, _clock(left_s),
        )  # fmt: skip


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
