"""How far sets of sounds are from each other, by what a network makes of each sound.

A distance says nothing without the network whose embeddings it is about: name it beside every number, and give the
distance between two sets of recordings as the floor.

Shapes: N sounds of one set, M of the other, E embedding width.
Sources: Heusel et al., "GANs trained by a two time-scale update rule converge to a local Nash equilibrium", NeurIPS
2017 (Frechet distance); Binkowski et al., "Demystifying MMD GANs", ICLR 2018 (kernel distance, which unlike the former
is not biased by how few sounds there are).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from speechnar.errors import DataError

NUM_HALVINGS = 100


@dataclass(frozen=True)
class KernelDistance:
    """A squared maximum mean discrepancy, which may be below 0 where sets are alike."""

    value: float
    deviation: float
    """Of the values between random halves of both sets: how much it is by chance. 0 for less than four of either."""


def frechet_distance(first: ArrayLike, second: ArrayLike) -> float:
    """Return the squared Frechet distance of normal distributions as wide as ``first`` (N, E) and ``second`` (M, E).

    It is biased upwards where a set is small: compare only sets of equal size.

    Raises:
        DataError: a set has less than two sounds, or the widths differ.
    """
    one, other = _check(first, second)
    covariances = [np.cov(rows, rowvar=False).reshape(one.shape[1], -1) for rows in (one, other)]
    # The trace of (C C')^(1/2) is that of (C^(1/2) C' C^(1/2))^(1/2), whose argument is symmetric.
    values, vectors = np.linalg.eigh(covariances[0])
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    product = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root).clip(min=0)).sum()
    shift = np.square(one.mean(0) - other.mean(0)).sum()
    return float(shift + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * product)


def kernel_distance(first: ArrayLike, second: ArrayLike, *, seed: int = 0) -> KernelDistance:
    """Return the unbiased squared discrepancy of ``first`` (N, E) and ``second`` (M, E) by the kernel (x y / E + 1)^3.

    Raises:
        DataError: as `frechet_distance`.
    """
    one, other = _check(first, second)
    within, between, across = (_kernel(a, b) for a, b in ((one, one), (other, other), (one, other)))
    value = _discrepancy(within, between, across)
    if min(len(one), len(other)) < 4:
        return KernelDistance(value, 0.0)
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(NUM_HALVINGS):
        i, j = (rng.permutation(len(rows))[: len(rows) // 2] for rows in (one, other))
        halves.append(_discrepancy(within[np.ix_(i, i)], between[np.ix_(j, j)], across[np.ix_(i, j)]))
    return KernelDistance(value, float(np.std(halves)))


def _check(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    one, other = (np.asarray(rows, dtype=np.float64) for rows in (first, second))
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1] or min(len(one), len(other)) < 2:
        raise DataError(
            f"a distance needs two sounds of each set at least, of one width, got {one.shape} and {other.shape}"
        )
    return one, other


def _kernel(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    products: NDArray[np.float64] = (a @ b.T / a.shape[1] + 1) ** 3
    return products


def _discrepancy(within: NDArray[np.float64], between: NDArray[np.float64], across: NDArray[np.float64]) -> float:
    means = [(rows.sum() - np.trace(rows)) / (len(rows) * (len(rows) - 1)) for rows in (within, between)]
    return float(sum(means) - 2 * across.mean())
