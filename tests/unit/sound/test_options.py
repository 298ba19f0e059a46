"""Network evaluations are shared out over the codebooks."""

import pytest

from speechnar.errors import ConfigError
from speechnar.sound.options import share_steps

LEARNED = (16, 6, 4, 4)


def test_fewer_and_more_steps_keep_the_proportions():
    assert share_steps(30, LEARNED) == LEARNED
    assert share_steps(15, LEARNED) == (8, 3, 2, 2)
    assert share_steps(4, LEARNED) == (1, 1, 1, 1)
    assert sum(share_steps(101, LEARNED)) == 101
    assert share_steps((3, 1, 2, 1), LEARNED) == (3, 1, 2, 1)


@pytest.mark.parametrize("steps", [3, 1001, (1, 1, 1), (1, 1, 0, 1), (1, 1, 1, 1001)])
def test_each_codebook_has_at_least_one(steps):
    with pytest.raises(ConfigError, match="steps must"):
        share_steps(steps, LEARNED)
