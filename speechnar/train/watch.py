"""Ranks that watch each other: one that dies or falls behind is named within a minute, and the job ends.

Without it, the ranks that are left wait in a collective for half an hour, or end with an error that says nothing of who
left. A thread of each rank notes in the store of the process group, every few seconds, that it lives and which update
it has begun; and reads what the others noted.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

logger = logging.getLogger(__name__)

BEAT_S = 2.0
DEAD_AFTER_S = 20.0
"""Without a beat a rank is taken for dead: its process is gone, or its machine."""
SLOW_AFTER_S = 45.0
"""So long after another rank has begun an update, one that has not is slow."""
EXIT_STATUS = 3
_KEY = "speechnar/beat/"


@dataclass
class _Seen:
    """What was last heard of a rank, by the clock of whoever hears."""

    beat: int = -1
    step: int = 0
    name: str = "that has never been heard of"
    at: float = 0.0


class Watch:
    """What one rank knows of all.

    Args:
        store: of the process group, or any that the ranks share.
        rank: of this process.
        world: how many there are.
        leave: is called with a message when a rank is dead; it does not return.
    """

    def __init__(self, store: Any, rank: int, world: int, *, leave: Callable[[str], None]) -> None:
        self._store, self._rank, self._world, self._leave = store, rank, world, leave
        self.step = 0
        """The update that this rank has begun."""
        self._name = f"on {socket.gethostname()}, process {os.getpid()}"
        self._beat = 0
        self._seen = {other: _Seen(at=time.monotonic()) for other in range(world) if other != rank}
        self._told: set[tuple[int, int]] = set()
        self._begun: dict[int, float] = {}
        """When this rank first heard that an update had begun anywhere."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye, so that the others do not miss this rank, and end."""
        self._ended.set()
        self._thread.join()
        with suppress(RuntimeError, OSError):  # the store may have gone before
            self._note(is_last=True)

    def look(self) -> None:
        """Note that this rank lives, and read of the others once.

        A store that does not answer is that of rank 0, or of the launcher, whose end this is.
        """
        try:
            self._note()
            heard = {other: self._read(other) for other in self._seen}
        except (RuntimeError, OSError) as error:  # what torch raises of a store that is gone
            if not self._ended.is_set():
                self._leave(f"the process that keeps the ranks together (rank 0, or torchrun) is gone ({error})")
            return
        now = time.monotonic()
        for other, values in heard.items():
            seen = self._seen[other]
            if values is not None and (values["is_last"] or values["beat"] != seen.beat):
                seen.beat, seen.step, seen.name, seen.at = values["beat"], values["step"], values["name"], now
            if now - seen.at > DEAD_AFTER_S:
                self._leave(f"rank {other} ({seen.name}) has not been heard of for {now - seen.at:.0f} s: it is dead")
                return
        self._tell_slow(now)

    def _tell_slow(self, now: float) -> None:
        newest = max(self.step, *(seen.step for seen in self._seen.values())) if self._seen else self.step
        since = self._begun.setdefault(newest, now)
        self._begun = {newest: since}
        for other, seen in self._seen.items():
            if seen.step < newest and now - since > SLOW_AFTER_S and (other, newest) not in self._told:
                self._told.add((other, newest))
                logger.warning(
                    "rank %d (%s) has not begun update %d after %.0f s; the others wait for it",
                    other, seen.name, newest, now - since,
                )  # fmt: skip

    def _note(self, *, is_last: bool = False) -> None:
        self._beat += 1
        values = {"beat": self._beat, "step": self.step, "name": self._name, "is_last": is_last}
        self._store.set(f"{_KEY}{self._rank}", json.dumps(values))

    def _read(self, other: int) -> dict[str, Any] | None:
        key = f"{_KEY}{other}"
        if not self._store.check([key]):  # get would wait
            return None
        found: dict[str, Any] = json.loads(self._store.get(key))
        return found

    def _run(self) -> None:
        while not self._ended.wait(BEAT_S):
            self.look()


@contextmanager
def watching() -> Iterator[Watch]:
    """Let this rank be watched while it trains; one that is alone hears only of itself."""
    if not (dist.is_available() and dist.is_initialized()):
        yield Watch(None, 0, 1, leave=_leave)
        return
    store = dist.distributed_c10d._get_default_store()
    watch = Watch(store, dist.get_rank(), dist.get_world_size(), leave=_leave)
    watch.start()
    try:
        yield watch
    except RuntimeError as error:
        if "gloo" in str(error).lower() or isinstance(error, dist.DistError):
            # The end of another rank shows as a broken connection. Who that was is told in a moment, and ends this one.
            time.sleep(DEAD_AFTER_S + 2 * BEAT_S)
        raise
    finally:
        watch.stop()


def _leave(message: str) -> None:
    """End this process at once: its other threads wait for the dead in C++, where no exception reaches them."""
    sys.stderr.write(f"speechnar: {message}; start the job again, it goes on from its last checkpoint\n")
    sys.stderr.flush()
    os._exit(EXIT_STATUS)
