"""Units are cut in one way only, and what fails is tried again before it is given up."""

from pathlib import Path

import pytest

from speechnar.data.corpus import CorpusItem
from speechnar.errors import SpeechnarError
from speechnar.scale.units import GIVEN_UP, Backlog, Unit, UnitFailure, group, without


def items(*seconds):
    return [CorpusItem(f"utt{number}", Path("x.wav"), seconds=length) for number, length in enumerate(seconds)]


def test_units_hold_so_much_audio_and_so_many_items():
    assert [len(unit.items) for unit in group(items(4, 4, 4, 20, 1, 1, 1), seconds=10, count=2)] == [2, 1, 1, 2, 1]
    assert group([]) == []


def test_what_is_done_leaves_the_other_units_as_they_were():
    units = group(items(*[3] * 10), seconds=9)
    done = {item.utt_id for item in units[1].items} | {units[0].items[0].utt_id}
    left = list(without(units, done))
    assert [len(unit.items) for unit in left] == [2, 3, 1]
    assert left[1] is units[2]
    assert len({unit.key for unit in (*units, *left)}) == len(units) + 1


def test_a_unit_that_kills_its_worker_is_taken_apart():
    (unit,) = group(items(1, 1))
    backlog = Backlog.of([unit], attempts=2)
    lost = UnitFailure("a worker was lost", is_loss=True)
    assert backlog.put_back(backlog.waiting.popleft(), lost) is None
    assert list(backlog.waiting) == [unit]
    assert backlog.put_back(backlog.waiting.popleft(), lost) is None
    assert [part.items for part in backlog.waiting] == [(item,) for item in unit.items]
    first = backlog.waiting.popleft()
    assert backlog.put_back(first, lost) is None
    report = backlog.put_back(backlog.waiting.popleft(), lost)
    assert report is not None
    assert [(outcome.utt_id, outcome.kind) for outcome in report.outcomes] == [("utt0", GIVEN_UP)]
    assert len(backlog.waiting) == 1


def test_what_cannot_be_helped_ends_the_run():
    with pytest.raises(SpeechnarError, match=r"No space.*the same command goes on"):
        Backlog.of([]).put_back(Unit(()), UnitFailure("No space left on device", is_final=True))
