from collections import Counter

import numpy as np
import pytest

from speechnar.data.sampler import bucketed_batches


def drawn(count, seed):
    return np.random.default_rng(seed).uniform(0.5, 20.0, count).tolist()


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_every_item_comes_once_in_batches_that_were_not_full_before_the_last(seed):
    sizes = drawn(500, 1)
    batches = list(bucketed_batches(enumerate(sizes), [5.0, 10.0], max_size=40.0, seed=seed, buffer_items=100))
    assert Counter(item for batch in batches for item in batch) == Counter(range(500))
    assert all(max(sizes[item] for item in batch[:-1]) * len(batch) <= 40.0 for batch in batches if batch[1:])


def test_a_batch_comes_from_one_bucket():
    sizes, bounds = drawn(300, 2), [4.0, 9.0, 15.0]
    for batch in bucketed_batches(enumerate(sizes), bounds, max_size=60.0, seed=3):
        assert len({np.searchsorted(bounds, sizes[item], side="left") for item in batch}) == 1


def test_without_a_seed_items_keep_their_order():
    batches = list(bucketed_batches(((item, 1.0) for item in range(10)), [2.0], max_size=4.0, seed=None))
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_equal_seeds_give_equal_batches_and_others_do_not():
    sizes = drawn(200, 4)
    first, again, other = (list(bucketed_batches(enumerate(sizes), [8.0], max_size=50.0, seed=s)) for s in (5, 5, 6))
    assert first == again != other


def test_what_is_larger_than_a_batch_is_one_by_itself():
    assert list(bucketed_batches([("long", 9.0), ("short", 1.0)], [2.0], max_size=4.0, seed=0)) == [["long"], ["short"]]


def test_only_the_buffer_is_read_ahead():
    read = []

    def sized():
        for item in range(100):
            read.append(item)
            yield item, 1.0

    batches = bucketed_batches(sized(), [2.0], max_size=5.0, seed=0, buffer_items=20)
    next(batches)
    assert len(read) == 20
    next(batches)
    assert len(read) == 25


@pytest.mark.filterwarnings("ignore:.*buffer_size.*", "ignore:.*max_duration constraint.*")
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("buffer_items", [70, 20_000])
@pytest.mark.parametrize("seed", range(4))
def test_batches_are_those_of_lhotse(seed, buffer_items, shuffle):
    pytest.importorskip("lhotse")
    from lhotse.cut import MonoCut
    from lhotse.dataset.sampling import DynamicBucketingSampler

    rng = np.random.default_rng(seed)
    num_bounds, count = (1, 3, 19, 29)[seed], int(rng.integers(1, 1500))
    sizes = rng.gamma(2.0, 3.0, count).tolist()
    bounds = sorted(rng.choice(sizes, num_bounds).tolist())  # equal to some sizes, and some may be equal
    sampler = DynamicBucketingSampler(
        [MonoCut(id=str(item), start=0.0, duration=size, channel=0) for item, size in enumerate(sizes)],
        max_duration=30.0,
        duration_bins=bounds,
        shuffle=shuffle,
        buffer_size=buffer_items,
        seed=seed,
        sync_buckets=True,
        world_size=1,
        rank=0,
    )
    for epoch in range(3):
        sampler.set_epoch(epoch)
        ours = bucketed_batches(
            enumerate(sizes), bounds, max_size=30.0, seed=seed + epoch if shuffle else None, buffer_items=buffer_items
        )
        assert [[int(cut.id) for cut in cuts] for cuts in sampler] == list(ours)
