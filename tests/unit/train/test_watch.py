"""Ranks hear of each other, and name who is gone and who is slow."""

import logging
import time

import pytest
import torch.distributed as dist

from speechnar.train import watch as module
from speechnar.train.watch import Watch, watching


@pytest.fixture
def store():
    return dist.HashStore()


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only item is the time that the watches see."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def ranks(store, count, left):
    def leave(rank):
        return lambda message: left.append((rank, message))

    return [Watch(store, rank, count, leave=leave(rank)) for rank in range(count)]


def test_the_living_stay(store, clock):
    left = []
    all_ranks = ranks(store, 3, left)
    for _ in range(20):
        clock[0] += module.DEAD_AFTER_S / 2
        for rank in all_ranks:
            rank.look()
    assert left == []


def test_the_dead_are_named_within_a_minute(store, clock):
    left = []
    first, second, third = ranks(store, 3, left)
    for rank in (first, second, third):
        rank.look()
    begun = clock[0]
    while not left:
        clock[0] += module.BEAT_S
        first.look()
        third.look()
    assert clock[0] - begun < 60
    assert left[0][0] != 1
    assert left[0][1].startswith("rank 1 (on ")
    assert "process " in left[0][1]


def test_who_never_came_is_named_too(store, clock):
    left = []
    first, _ = ranks(store, 2, left)
    first.look()
    clock[0] += module.DEAD_AFTER_S + 1
    first.look()
    assert "rank 1 (that has never been heard of)" in left[0][1]


def test_who_is_behind_is_named_once(store, clock, caplog):
    left = []
    first, second = ranks(store, 2, left)
    first.step = 7
    with caplog.at_level(logging.WARNING):
        for _ in range(60):
            clock[0] += module.BEAT_S
            first.look()
            second.look()
    (record,) = [record for record in caplog.records if "has not begun" in record.message]
    assert record.message.startswith("rank 1 (on ")
    assert "update 7" in record.message
    assert left == []


def test_a_store_that_is_gone_ends_the_rank(clock):
    class Gone:
        def set(self, key, value):
            raise RuntimeError("Connection reset by peer")

    left = []
    Watch(Gone(), 1, 2, leave=left.append).look()
    assert "rank 0, or torchrun" in left[0]


def test_a_rank_that_ends_well_is_not_missed(store):
    left = []
    first, second = ranks(store, 2, left)
    second.start()
    second.stop()
    first.look()
    assert first._read(1)["is_last"]
    time.sleep(0.01)
    first.look()
    assert left == []


def test_who_is_alone_is_not_watched():
    with watching() as watch:
        watch.step = 3
        assert not watch._thread.is_alive()
