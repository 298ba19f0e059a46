"""Epochs that continue where they were left, with batches that are letters."""

import pytest

from speechnar.data.resumable import ResumableBatches


class Letters(ResumableBatches[str, str]):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[str] = []

    def _plan(self, epoch: int) -> str:
        return "abcd"[: 4 - epoch % 2]

    def _batch(self, epoch: int, plan: str) -> str:
        self.made.append(f"{plan}{epoch}")
        return self.made[-1]


def test_an_epoch_is_its_plan():
    letters = Letters()
    assert list(letters.batches(0)) == ["a0", "b0", "c0", "d0"]
    assert list(letters.batches(1)) == ["a1", "b1", "c1"]
    assert list(letters.batches(0)) == ["a0", "b0", "c0", "d0"]


@pytest.mark.parametrize("num_taken", range(5))
def test_what_is_left_of_an_epoch_comes_alone(num_taken):
    """Nothing that came before is made again."""
    first, resumed = Letters(), Letters()
    batches = first.batches(2)
    for _ in range(num_taken):
        next(batches)
    state = first.state_dict()
    assert state == {"epoch": 2, "batch": num_taken} if num_taken else state == {"epoch": 0, "batch": 0}
    resumed.load_state_dict(state)
    assert list(resumed.batches(2)) == resumed.made == ["a2", "b2", "c2", "d2"][num_taken:]
    assert list(resumed.batches(3)) == ["a3", "b3", "c3"]  # other epochs are whole


def test_a_position_may_be_saved_again_at_once():
    letters = Letters()
    state = {"epoch": 5, "batch": 1}
    letters.load_state_dict(state)
    assert letters.state_dict() == state
    batches = letters.batches(5)
    assert next(batches) == "b5"
    assert letters.state_dict() == {"epoch": 5, "batch": 2}
