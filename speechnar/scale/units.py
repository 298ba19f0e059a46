"""What is done at once and journalled at once: units of a corpus, and what became of them."""

import hashlib
import logging
from collections import deque
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from speechnar.data.corpus import CorpusItem
from speechnar.errors import SpeechnarError

logger = logging.getLogger(__name__)

UNIT_SECONDS = 600.0
"""Audio in a unit: what a lost machine costs, and enough for batches of like length."""
UNIT_ITEMS = 256
ATTEMPTS = 3
"""Times that a unit may take its worker down before its items are tried alone, and again before one is given up."""

GIVEN_UP = "given up"
"""Kind of what failed through its worker."""


@dataclass(frozen=True)
class Unit:
    """Items that are decoded together.

    Its results are named by its items alone, so that a unit done twice leaves one result.
    """

    items: tuple[CorpusItem, ...]

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


def group(items: Iterable[CorpusItem], *, seconds: float = UNIT_SECONDS, count: int = UNIT_ITEMS) -> list[Unit]:
    """Cut a corpus into units of about ``seconds`` and at most ``count`` items, always in the same way.

    So the texts do not depend on who decodes what: a clip's neighbours in a batch move its last digits.
    """
    units: list[Unit] = []
    taken: list[CorpusItem] = []
    taken_s = 0.0
    for item in items:
        if taken and (taken_s + item.seconds > seconds or len(taken) == count):
            units.append(Unit(tuple(taken)))
            taken, taken_s = [], 0.0
        taken.append(item)
        taken_s += item.seconds
    return [*units, Unit(tuple(taken))] if taken else units


def without(units: Iterable[Unit], done: Container[str]) -> Iterator[Unit]:
    """Leave out of the units what is done."""
    for unit in units:
        left = tuple(item for item in unit.items if item.utt_id not in done)
        if left:
            yield unit if len(left) == len(unit.items) else Unit(left)


@dataclass
class Backlog:
    """Units to be done, with what to do when one fails."""

    waiting: deque[Unit]
    attempts: int = ATTEMPTS
    failed: dict[str, int] = field(default_factory=dict)
    """By key of a unit, how often."""

    @classmethod
    def of(cls, units: Sequence[Unit], attempts: int = ATTEMPTS) -> "Backlog":
        """Begin with all of them."""
        return cls(deque(units), attempts)

    def put_back(self, unit: Unit, failure: UnitFailure) -> UnitReport | None:
        """Let a failed unit be tried again, in the end item by item; return what is given up.

        Raises:
            SpeechnarError: trying again cannot help.
        """
        if failure.is_final:
            raise SpeechnarError(f"{failure.reason}; what is done is journalled, and the same command goes on")
        logger.warning("%d recordings will be tried again: %s", len(unit.items), failure.reason)
        self.failed[unit.key] = self.failed.get(unit.key, 0) + 1
        if self.failed[unit.key] < self.attempts:
            self.waiting.appendleft(unit)
        elif len(unit.items) > 1:
            self.waiting.extendleft(Unit((item,)) for item in reversed(unit.items))
        else:
            utt_id = unit.items[0].utt_id
            told = f"{utt_id}: given up after {self.attempts} attempts ({failure.reason})"
            return UnitReport(unit.key, (Outcome(utt_id, kind=GIVEN_UP, reason=told),))
        return None
