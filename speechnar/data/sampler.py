"""Batches of items of similar size, in an order that is random but the same for the same seed.

Source: the bucketing of lhotse (``DynamicBucketingSampler`` of version 1.33, one process, synchronised buckets), whose
batches these are, item for item.
"""

import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")

BUFFER_ITEMS = 20_000
"""How many items wait in the buckets at a time; the order they come in is already random."""
# Which bucket is next does not depend on the seed: lhotse's number, so that all processes take the same turns.
_TURNS_SEED = 1234


def bucketed_batches(
    sized: Iterable[tuple[Item, float]],
    bounds: Sequence[float],
    *,
    max_size: float,
    seed: int | None,
    buffer_items: int = BUFFER_ITEMS,
) -> Iterator[list[Item]]:
    """Yield all items once, in batches that come from one bucket each.

    A batch is full when one more item as large as its largest would exceed ``max_size`` with padding (so it exceeds
    it by no more than sizes within its bucket differ), or with one item that does by itself. A bucket is drawn for
    each batch, and the nearest that can fill one is taken; when none can, the nearest that is not empty.

    Args:
        sized: items with their sizes, in any unit.
        bounds: ascending; bucket i holds sizes up to bound i, the last one those beyond all bounds.
        max_size: of a batch: its largest item times their number.
        seed: of the draw of items from a bucket; None takes them in the order they came.
        buffer_items: how many wait in the buckets, in all.
    """
    waiting = iter(sized)
    buckets: list[list[tuple[Item, float]]] = [[] for _ in range(len(bounds) + 1)]
    turns, picks = random.Random(_TURNS_SEED), None if seed is None else random.Random(seed)  # noqa: S311  # no secrets

    def is_full(number: int, largest: float) -> bool:
        return (number + 1) * largest > max_size

    def refill(number: int) -> None:
        for item, size in islice(waiting, number):
            buckets[bisect_left(bounds, size)].append((item, size))

    refill(buffer_items)
    while any(buckets):
        drawn = turns.randrange(len(buckets))
        nearest = sorted((bucket for bucket in range(len(buckets)) if buckets[bucket]), key=lambda b: abs(b - drawn))
        ready = (b for b in nearest if is_full(len(buckets[b]), max(size for _, size in buckets[b])))
        bucket = buckets[next(ready, nearest[0])]
        order = list(range(len(bucket)))
        if picks is not None:
            picks.shuffle(order)
        largest, taken = 0.0, 0
        while taken < len(order) and not is_full(taken, largest):
            largest = max(largest, bucket[order[taken]][1])
            taken += 1
        yield [bucket[place][0] for place in order[:taken]]
        for place in sorted(order[:taken], reverse=True):
            del bucket[place]
        refill(taken)
