import numpy as np
import pytest
from scipy.linalg import sqrtm

from speechnar.errors import DataError
from speechnar.metrics.embeddings import frechet_distance, kernel_distance


def draw(count, *, shift=0.0, scale=1.0, width=4, seed=0):
    return shift + scale * np.random.default_rng(seed).standard_normal((count, width))


def test_the_frechet_distance_is_that_of_the_formula():
    one, other = draw(50) @ np.diag([1, 2, 3, 4]), draw(60, shift=0.5, seed=1)
    a, b = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    expected = np.square(one.mean(0) - other.mean(0)).sum() + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(one, other) == pytest.approx(expected)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(one, one + np.array([3, 0, 4, 0])) == pytest.approx(25)
    assert frechet_distance(one[:3], other[:3]) > 0  # fewer than wide


def test_the_kernel_distance_is_that_of_the_formula():
    one, other = draw(5), draw(6, shift=1.0, seed=1)

    def kernel(x, y):
        return (x @ y / 4 + 1) ** 3

    within = np.mean([kernel(x, y) for i, x in enumerate(one) for j, y in enumerate(one) if i != j])
    between = np.mean([kernel(x, y) for i, x in enumerate(other) for j, y in enumerate(other) if i != j])
    across = np.mean([kernel(x, y) for x in one for y in other])
    assert kernel_distance(one, other).value == pytest.approx(within + between - 2 * across)
    assert kernel_distance(one[:2], other[:2]).deviation == 0


def test_sets_of_one_kind_are_near_and_others_far():
    near = [kernel_distance(draw(40, seed=2 * i), draw(40, seed=2 * i + 1)) for i in range(20)]
    assert np.mean([found.value for found in near]) == pytest.approx(0, abs=0.05)
    assert any(found.value < 0 for found in near)  # it is not biased
    far = kernel_distance(draw(40), draw(40, shift=1.0, seed=1))
    assert far.value > 5 * near[0].deviation
    assert frechet_distance(draw(40), draw(40, scale=2.0, seed=1)) > 2 * frechet_distance(draw(40), draw(40, seed=1))


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (5, 4)), ((5,), (5, 3))])
def test_what_cannot_be_compared_is_refused(shapes):
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(DataError, match="two sounds of each set at least, of one width"):
            distance(*(np.zeros(shape) for shape in shapes))
