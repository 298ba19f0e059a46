"""Epochs of batches that continue where they were left: the position in the data is (epoch, batches done)."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

Plan = TypeVar("Plan")
Batch = TypeVar("Batch")


class ResumableBatches(ABC, Generic[Plan, Batch]):
    """What data sets share: an epoch is planned from its number alone, so that a position is all there is to save."""

    def __init__(self) -> None:
        self._position = self._resume = (0, 0)

    def batches(self, epoch: int) -> Iterator[Batch]:
        """Yield the batches of ``epoch``, or what is left of it after :meth:`load_state_dict`."""
        done = self._resume[1] if self._resume[0] == epoch else 0
        self._position = (epoch, done)
        for number, plan in enumerate(self._plan(epoch)):
            if number < done:
                continue
            batch = self._batch(epoch, plan)
            self._position = (epoch, number + 1)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position behind the last batch yielded."""
        epoch, batch = self._position
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to that position: the next ``batches(epoch)`` of the same epoch continues with the next batch."""
        self._resume = self._position = (int(state["epoch"]), int(state["batch"]))

    @abstractmethod
    def _plan(self, epoch: int) -> Iterable[Plan]:
        """Return what each batch of the epoch holds, the same whenever it is asked for; nothing is read yet."""

    @abstractmethod
    def _batch(self, epoch: int, plan: Plan) -> Batch:
        """Make the batch."""
