"""From a data set to the loop: batches with their positions, prepared ahead by a thread, grouped by update."""

import copy
import itertools
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

from speechnar.errors import DataError

T = TypeVar("T")
POLL_S = 0.2


class Batch(Protocol):
    """A batch of any model's data."""

    def to(self, device: torch.device) -> Any:
        """Return the batch on ``device``."""


class TrainData(Protocol):
    """A data set that can be left after any batch and continued there.

    Its randomness must be its own (not the global generators'): it runs in a thread beside the model.
    """

    def batches(self, epoch: int) -> Iterator[Any]:
        """Yield the batches of an epoch; after `load_state_dict`, those that were still to come."""

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the last yielded batch, as plain containers."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to that position."""


class DevData(Protocol):
    """Held-out data: the same batches every time."""

    def batches(self, epoch: int) -> Iterator[Any]:
        """Yield every batch once."""


@dataclass(frozen=True)
class Item:
    """A batch, and where the data set stood behind it."""

    batch: Batch
    epoch: int
    data: dict[str, Any]


def stream(data: TrainData, epoch: int, max_epochs: int | None, *, resumed: bool) -> Iterator[Item]:
    """Yield the batches from ``epoch`` on, each with the position behind it."""
    while max_epochs is None or epoch < max_epochs:
        is_empty = True
        for batch in data.batches(epoch):
            is_empty = False
            yield Item(batch, epoch, copy.deepcopy(data.state_dict()))
        # A run resumed behind the last batch of its epoch finds the rest of it empty, rightly.
        if is_empty and not resumed:
            raise DataError("the training data has no batch; were all utterances dropped?")
        epoch, resumed = epoch + 1, False


def groups(items: Iterable[Item], grad_accum: int, world: int) -> Iterator[list[Item]]:
    """Yield the items of one update each; the last group may be short, but every process gets equally many."""
    items = iter(items)
    while group := list(itertools.islice(items, grad_accum * world)):
        if group := group[: len(group) // world * world]:
            yield group


@dataclass(frozen=True)
class _End:
    """Closes the queue; carries what the producer raised, if it did."""

    error: Exception | None = None


def prefetch(items: Iterable[T], depth: int = 3) -> Generator[T, None, None]:
    """Yield ``items`` in order while a thread prepares up to ``depth`` of them ahead.

    What the iterable raises is raised here. Closing the iterator stops the thread. The iterable runs in that thread,
    so it must not draw from the global random generators: the model draws from them at the same time.
    """
    ready: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
    stopped = threading.Event()

    def offer(item: T | _End) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not offer(item):
                    return
        except Exception as error:  # handed to the consumer, which raises it
            offer(_End(error))
        else:
            offer(_End())

    thread = threading.Thread(target=produce, name="prefetch", daemon=True)
    thread.start()
    try:
        while not isinstance(item := ready.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        stopped.set()
        thread.join()
