import numpy as np
import pytest
from scipy.stats import norm

from speechnar.errors import DataError
from speechnar.metrics.verification import equal_error_rate


@pytest.mark.parametrize(
    ("same", "different", "rate"),
    [
        ([3.0, 4.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [3.0, 4.0], 1.0),
        ([1.0, 1.0, 1.0], [1.0], 0.5),  # scores that say nothing
        ([1.0, 3.0], [0.0, 2.0], 0.5),
        ([0.0, 2.0, 3.0, 4.0], [-1.0, -2.0, -3.0, 2.5], 0.25),
        # At 2 a third of the same is refused, and half of the others accepted; just above it, two thirds and nothing:
        # 1/3 + x/3 = 1/2 - x/2 at x = 1/5.
        ([1.0, 2.0, 3.0], [0.0, 2.0], 0.4),
    ],
)
def test_rates_of_few_pairs_are_exact(same, different, rate):
    found = equal_error_rate([*same, *different], [True] * len(same) + [False] * len(different))
    assert found.rate == pytest.approx(rate)
    assert (found.num_same, found.num_different) == (len(same), len(different))


def test_normal_scores_have_the_rate_of_their_distance():
    """Both errors of N(0, 1) and N(d, 1) are Phi(-d / 2) at the threshold d / 2."""
    quantiles = norm.ppf((np.arange(4000) + 0.5) / 4000)
    found = equal_error_rate(np.concatenate([quantiles + 2, quantiles]), np.arange(8000) < 4000)
    assert found.rate == pytest.approx(norm.cdf(-1), abs=5e-4)
    assert found.threshold == pytest.approx(1, abs=5e-3)


def test_the_order_and_any_rising_map_of_the_scores_change_nothing():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=300), rng.random(300) < 0.3
    order = rng.permutation(300)
    rate = equal_error_rate(scores, labels).rate
    assert equal_error_rate(scores[order], labels[order]).rate == rate
    assert equal_error_rate(np.exp(scores), labels).rate == rate
    assert equal_error_rate(-scores, ~labels).rate == pytest.approx(rate)


@pytest.mark.parametrize(
    ("scores", "labels", "fault"),
    [
        ([1.0], [True], "1 of the same and 0 of different"),
        ([1.0, 2.0], [True], "one for each pair"),
        ([1.0, np.nan], [True, False], "finite"),
    ],
)
def test_what_has_no_rate_is_refused(scores, labels, fault):
    with pytest.raises(DataError, match=fault):
        equal_error_rate(scores, labels)
