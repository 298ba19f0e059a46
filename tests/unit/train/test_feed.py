import threading
import time

import pytest

from speechnar.train.feed import prefetch


def test_order_is_kept_and_depth_bounds_what_is_ahead():
    produced = []

    def items():
        for index in range(20):
            produced.append(index)
            yield index

    ahead = prefetch(items(), depth=3)
    assert next(ahead) == 0
    time.sleep(0.1)
    assert len(produced) <= 1 + 3 + 1  # taken, queued, and the one waiting for a place
    assert list(ahead) == list(range(1, 20))


def test_errors_of_the_producer_arrive_after_its_items():
    def items():
        yield 1
        raise KeyError("broken")

    ahead = prefetch(items())
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="broken"):
        next(ahead)


def test_closing_stops_the_thread():
    before = threading.active_count()
    ahead = prefetch(iter(range(10**9)))
    next(ahead)
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before
