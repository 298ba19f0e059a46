"""How well scores tell pairs of the same speaker from pairs of different ones.

Shapes: N pairs.
Source: Martin et al., "The DET curve in assessment of detection task performance", Eurospeech 1997 (the two errors).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from speechnar.errors import DataError


@dataclass(frozen=True)
class EqualErrorRate:
    """Where as large a share of the different pairs is accepted as of the same pairs is refused."""

    rate: float
    threshold: float
    """Pairs with this score or a higher one are accepted there; between two scores where none is exactly there."""
    num_same: int
    num_different: int


def equal_error_rate(scores: ArrayLike, is_same: ArrayLike) -> EqualErrorRate:
    """Return the equal error rate of ``scores`` (N,), higher for the same speaker, given ``is_same`` bool (N,).

    Between two neighbouring thresholds both errors are interpolated linearly, so that equal scores have no order.

    Raises:
        DataError: the two differ in number, a score is not finite, or there is no pair of one of the two kinds.
    """
    scores, is_same = np.asarray(scores, dtype=np.float64), np.asarray(is_same, dtype=bool)
    if scores.shape != is_same.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise DataError(f"scores must be finite, one for each pair, got {scores.shape} and {is_same.shape}")
    same, different = np.sort(scores[is_same]), np.sort(scores[~is_same])
    if not len(same) or not len(different):
        raise DataError(
            f"an equal error rate needs pairs of both kinds, got {len(same)} of the same and {len(different)} of "
            "different speakers"
        )
    values = np.unique(scores)
    thresholds = np.append(values, values[-1])  # the last: above all scores
    refused = np.append(np.searchsorted(same, values), len(same)) / len(same)
    accepted = 1 - np.append(np.searchsorted(different, values), len(different)) / len(different)
    gap = refused - accepted  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = gap[after] / (gap[after] - gap[after - 1])
    rate, threshold = (float(x[after] + share * (x[after - 1] - x[after])) for x in (refused, thresholds))
    return EqualErrorRate(rate, threshold, len(same), len(different))
