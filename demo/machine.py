"""Who computes when: short work does not wait behind long work, and work that nobody waits for ends.

Work is done step by step. Before each step a job asks for a turn, and of those that wait, the one that has computed
least is next: a clip of three seconds passes a recording of ten minutes. Steps run in a few threads that stay, because
torch keeps buffers for each thread that ever computes.
"""

import ctypes
import gc
import heapq
import logging
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from queue import SimpleQueue
from typing import Any, TypeVar, cast

Item = TypeVar("Item")
Report = TypeVar("Report")
Result = TypeVar("Result")

AT_ONCE = 2
"""Steps that compute together: a step that cannot be cut (an edit, a window of music) does not hold up all others."""
MAX_THREADS = 32
"""Jobs that are within a step, most of them waiting for their next turn."""
LIVE = -1.0
"""What somebody who is being captioned has computed: less than anybody else."""
_END = object()


class Stopped(Exception):  # noqa: N818  # nothing went wrong
    """Ends a call that nobody waits for any more."""


class Machine:
    """All that the page computes."""

    def __init__(self, at_once: int = AT_ONCE) -> None:
        self.turns = Turns(at_once)
        self.threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="compute")
        self._num_jobs = 0
        self._lock = threading.Lock()
        self._notes = _Notes()

    @contextmanager
    def job(self, *, is_live: bool = False) -> Iterator["Job"]:
        """Begin a job; it is over when the context ends, whatever it was doing."""
        logging.getLogger("speechnar").addHandler(self._notes)  # once: a logger knows its handlers
        with self._lock:
            self._num_jobs += 1
        job = Job(self, is_live=is_live)
        try:
            yield job
        finally:
            job.is_over = True
            with self._lock:
                self._num_jobs -= 1
                is_idle = self._num_jobs == 0
            if is_idle:
                _return_memory()

    @property
    def num_jobs(self) -> int:
        """How many jobs are going on."""
        return self._num_jobs


class Job:
    """What one visitor has asked for."""

    def __init__(self, machine: Machine, *, is_live: bool) -> None:
        self.is_over = False
        self.notes: list[str] = []
        """Warnings of the library since the job began."""
        self._machine = machine
        self._is_live = is_live
        self._used_s = LIVE if is_live else 0.0

    def stop(self) -> None:
        """End the job: its next step is not begun, but `Stopped` raised."""
        self.is_over = True

    def run(self, call: Callable[[], Result]) -> Result:
        """Compute one step, when it is this job's turn."""
        with self._turn():
            return self._machine.threads.submit(self._noting(call)).result()

    def each(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield ``items``, each computed as a step."""
        iterator = iter(items)
        while (item := self.run(lambda: next(iterator, _END))) is not _END:
            yield cast(Item, item)

    def watch(self, call: Callable[[Callable[[Report], None]], Result]) -> Generator[Report, None, Result]:
        """Yield what ``call`` reports while it computes, and return its result.

        Each report is the end of a step: others may go first, and if the job is over, `Stopped` ends the call there.
        """
        reports: SimpleQueue[Any] = SimpleQueue()

        def report(item: Report) -> None:
            if self.is_over:
                raise Stopped
            reports.put(item)
            self._pause()

        def work() -> Result:
            with self._turn():
                return self._noting(lambda: call(report))()

        future: Future[Result] = self._machine.threads.submit(work)
        future.add_done_callback(lambda _: reports.put(_END))
        while (item := reports.get()) is not _END:
            yield item
        return future.result()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        self._machine.turns.take(self._used_s)
        self._started = time.perf_counter()
        try:
            if self.is_over:
                raise Stopped
            yield
        finally:
            self._count()
            self._machine.turns.give()

    def _pause(self) -> None:
        self._count()
        self._machine.turns.give()
        self._machine.turns.take(self._used_s)
        self._started = time.perf_counter()

    def _count(self) -> None:
        if not self._is_live:
            self._used_s += time.perf_counter() - self._started

    def _noting(self, call: Callable[[], Result]) -> Callable[[], Result]:
        def noting() -> Result:
            with self._machine._notes.to(self.notes):
                return call()

        return noting


class Turns:
    """Lets a few compute at once, and then whoever has had least."""

    def __init__(self, at_once: int) -> None:
        self._num_free = at_once
        self._waiting: list[tuple[float, int, threading.Event]] = []
        self._numbers = count()
        self._lock = threading.Lock()

    def take(self, used_s: float) -> None:
        """Wait for a turn."""
        with self._lock:
            if self._num_free:
                self._num_free -= 1
                return
            turn = threading.Event()
            heapq.heappush(self._waiting, (used_s, next(self._numbers), turn))
        turn.wait()

    def give(self) -> None:
        """End a turn; the next one begins."""
        with self._lock:
            if self._waiting:
                heapq.heappop(self._waiting)[2].set()
            else:
                self._num_free += 1


class _Notes(logging.Handler):
    """Gives warnings to the job in whose step they are logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()

    @contextmanager
    def to(self, notes: list[str]) -> Iterator[None]:
        self._of_thread.notes = notes
        try:
            yield
        finally:
            self._of_thread.notes = None

    def emit(self, record: logging.LogRecord) -> None:
        notes = getattr(self._of_thread, "notes", None)
        if notes is not None:
            notes.append(record.getMessage())


def _return_memory() -> None:
    """Give back what was freed: glibc keeps it, and a page is open for weeks."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        except (OSError, AttributeError):  # another C library
            return
