import numpy as np
import pytest

from speechnar.errors import DataError
from speechnar.metrics.repeats import find_repeats, join_codes


def row(*codes):
    return np.array(codes, dtype=np.int16)


def drawn(count, seed, size=256):
    return np.random.default_rng(seed).integers(size, size=count).astype(np.int16)


def test_runs_are_counted_by_hand():
    training = join_codes([row(1, 2, 3, 4, 5, 6), row(7, 8, 9)])
    assert training.tolist() == [1, 2, 3, 4, 5, 6, -1, 7, 8, 9, -1]
    found = find_repeats(row(0, 2, 3, 4, 5, 6, 7, 8), training)
    assert found.longest == 5  # 6, 7 are not neighbours in one utterance
    assert found.nearest == 5 / 8
    assert found.ngrams == {5: 1 / 4}
    assert find_repeats(row(1, 0, 3, 0, 5, 0), training).nearest == 0.5
    assert find_repeats(row(0, 0, 1, 2), training).nearest == 0.5  # it begins before the utterance does
    assert find_repeats(row(9, 0, 0), training).nearest == pytest.approx(1 / 3)


def test_a_copy_is_found_and_what_is_new_is_not():
    utterances = [drawn(400, seed) for seed in range(3)]
    training = join_codes(utterances)
    copied = find_repeats(utterances[1][100:200], training)
    assert (copied.nearest, copied.longest, copied.ngrams) == (1.0, 100, {5: 1.0, 10: 1.0, 25: 1.0, 50: 1.0})
    new = find_repeats(drawn(100, seed=9), training)
    assert new.longest <= 3
    assert new.nearest < 0.1
    assert set(new.ngrams.values()) == {0.0}
    half = find_repeats(np.concatenate([utterances[0][:50], drawn(50, seed=9)]), training)
    assert half.longest == 50
    assert half.nearest == pytest.approx(0.5, abs=0.05)
    assert half.ngrams[50] == pytest.approx(1 / 51)


def test_nothing_cannot_be_compared():
    for codes, training in ((row(), row(1)), (row(1), join_codes([]))):
        with pytest.raises(DataError, match="need codes to compare"):
            find_repeats(codes, training)
