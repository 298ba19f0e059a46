"""What is done at once and journalled at once: units of a corpus, what does them, and what became of them."""

import hashlib
import logging
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

from speechnar.errors import AudioError, ConfigError, DataError, SpeechnarError

logger = logging.getLogger(__name__)

UNIT_SECONDS = 600.0
"""Audio in a unit: what a lost machine costs, and enough for batches of like length."""
UNIT_ITEMS = 256
ATTEMPTS = 3
"""Times that a unit may take its worker down before its items are tried alone, and again before one is given up."""

GIVEN_UP = "given up"
"""Kind of what failed through its worker."""
UNREADABLE = "unreadable"
PART = "part-"
"""What files of whole units begin with."""


class Item(Protocol):
    """What ends in one result, or in one reason why there is none."""

    @property
    def utt_id(self) -> str:
        """Its name, which no other item has."""

    @property
    def seconds(self) -> float:
        """Of audio, as far as that is known."""


ItemT = TypeVar("ItemT", bound=Item)


@dataclass(frozen=True)
class Unit(Generic[ItemT]):
    """Items that are done together.

    Its results are named by its items alone, so that a unit done twice leaves one result.
    """

    items: tuple[ItemT, ...]

    @property
    def key(self) -> str:
        """A name that depends on the items."""
        names = "\0".join(item.utt_id for item in self.items)
        return hashlib.sha256(names.encode("utf-8", "surrogatepass")).hexdigest()[:20]


@dataclass(frozen=True)
class Outcome:
    """What became of an item: a result, or the reason why there is none."""

    utt_id: str
    seconds: float = 0.0
    digest: str | None = None
    """Of the samples: two of one digest are the same sound."""
    kind: str | None = None
    """What kind of failure it is; None: there is a result."""
    reason: str | None = None
    """Of the failure, or what is odd about the result."""


@dataclass(frozen=True)
class UnitReport:
    """A finished unit."""

    key: str
    outcomes: tuple[Outcome, ...]
    part: str | None = None
    """The file that holds all its results, where they share one."""
    wall_s: float = 0.0


@dataclass(frozen=True)
class UnitFailure:
    """A unit that nothing came of, through no fault of a single recording."""

    reason: str
    is_final: bool = False
    """Trying again cannot help, here or elsewhere: the disk is full, or an option is wrong."""
    is_loss: bool = False
    """The worker is no more."""
    kind: str | None = None
    """What is wrong with one of the recordings: the unit is taken apart at once."""


Work: TypeAlias = Callable[[Unit[Any]], UnitReport | UnitFailure]


class Job(Protocol):
    """What is to be made of every item; may travel to other machines."""

    @property
    def out(self) -> Path:
        """Folder of the journal and of what it speaks of, which all workers see."""

    @property
    def device(self) -> str:
        """Where a worker computes."""

    @property
    def threads(self) -> int | None:
        """Of each worker."""

    def request(self) -> dict[str, Any]:
        """Return what must stay the same when a journal is continued; where it is computed may change."""

    def worker(self) -> Work:
        """Load what is needed, once, and return what then does one unit after the other."""


def limit_threads(job: Job) -> None:
    """Let this process, which is a worker of the job, compute in its number of threads."""
    if job.threads is not None:
        import torch  # noqa: PLC0415  # the driver of a cluster needs none

        torch.set_num_threads(job.threads)


def attempt(
    unit: Unit[ItemT], out: Path, make: Callable[[Unit[ItemT]], tuple[Iterable[Outcome], str | None]]
) -> UnitReport | UnitFailure:
    """Return the outcomes and the part that ``make`` returns, or what kept it from that; nothing is raised."""
    started = time.monotonic()
    try:
        outcomes, part = make(unit)
    except ConfigError as error:
        return UnitFailure(str(error), is_final=True)
    except (AudioError, DataError) as error:
        return UnitFailure(str(error), kind=UNREADABLE)
    except OSError as error:
        return UnitFailure(f"{error.filename or out}: cannot be written ({error.strerror})", is_final=True)
    except Exception as error:  # of a library: the unit is tried again, in the end item by item
        logger.exception("a unit of %d recordings fails", len(unit.items))
        return UnitFailure(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    return UnitReport(unit.key, tuple(outcomes), part, time.monotonic() - started)


def group(items: Iterable[ItemT], *, seconds: float = UNIT_SECONDS, count: int = UNIT_ITEMS) -> list[Unit[ItemT]]:
    """Cut a corpus into units of about ``seconds`` and at most ``count`` items, always in the same way.

    So the texts do not depend on who decodes what: a clip's neighbours in a batch move its last digits.
    """
    units: list[Unit[ItemT]] = []
    taken: list[ItemT] = []
    taken_s = 0.0
    for item in items:
        if taken and (taken_s + item.seconds > seconds or len(taken) == count):
            units.append(Unit(tuple(taken)))
            taken, taken_s = [], 0.0
        taken.append(item)
        taken_s += item.seconds
    return [*units, Unit(tuple(taken))] if taken else units


def without(units: Iterable[Unit[ItemT]], done: Container[str]) -> Iterator[Unit[ItemT]]:
    """Leave out of the units what is done."""
    for unit in units:
        left = tuple(item for item in unit.items if item.utt_id not in done)
        if left:
            yield unit if len(left) == len(unit.items) else Unit(left)


@dataclass
class Backlog:
    """Units to be done, with what to do when one fails."""

    waiting: deque[Unit[Any]]
    attempts: int = ATTEMPTS
    failed: dict[str, int] = field(default_factory=dict)
    """By key of a unit, how often."""

    @classmethod
    def of(cls, units: Sequence[Unit[Any]], attempts: int = ATTEMPTS) -> "Backlog":
        """Begin with all of them."""
        return cls(deque(units), attempts)

    def put_back(self, unit: Unit[Any], failure: UnitFailure) -> UnitReport | None:
        """Let a failed unit be tried again, in the end item by item; return what is given up.

        Raises:
            SpeechnarError: trying again cannot help.
        """
        if failure.is_final:
            raise SpeechnarError(f"{failure.reason}; what is done is journalled, and the same command goes on")
        is_lasting = failure.kind is not None
        if len(unit.items) > 1 or not is_lasting:
            logger.warning("%d recordings will be tried again: %s", len(unit.items), failure.reason)
        self.failed[unit.key] = self.attempts if is_lasting else self.failed.get(unit.key, 0) + 1
        if self.failed[unit.key] < self.attempts:
            self.waiting.appendleft(unit)
        elif len(unit.items) > 1:
            self.waiting.extendleft(Unit((item,)) for item in reversed(unit.items))
        else:
            utt_id = unit.items[0].utt_id
            told = f"{utt_id}: given up after {self.attempts} attempts ({failure.reason})"
            reason = failure.reason if is_lasting else told
            return UnitReport(unit.key, (Outcome(utt_id, kind=failure.kind or GIVEN_UP, reason=reason),))
        return None
