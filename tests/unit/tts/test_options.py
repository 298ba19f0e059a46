"""Options of synthesis and editing: ranges, and keywords in their place."""

import pytest

from speechnar.errors import ConfigError
from speechnar.tts.options import EditOptions, SynthesizeOptions, check_steps, with_keywords


def test_steps_are_a_whole_number():
    assert check_steps(3) == 3
    for steps in (0, 1001, 2.5, "many"):
        with pytest.raises(ConfigError, match=rf"steps must be a whole number from 1 to 1000, got {steps!r}"):
            check_steps(steps)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (SynthesizeOptions, {"steps": 0}, "steps must be a whole number"),
        (SynthesizeOptions, {"speed": 0.4}, r"speed must lie in \[0.5, 2\], got 0.4"),
        (SynthesizeOptions, {"speed": float("nan")}, "speed must lie"),
        (EditOptions, {"steps": 1001}, "steps must be a whole number"),
        (EditOptions, {"candidates": 65}, "candidates must be a whole number from 1 to 64, got 65"),
        (EditOptions, {"candidates": 2.0}, "candidates must be a whole number"),
    ],
)
def test_what_lies_outside_its_range_is_refused(kind, given, message):
    with pytest.raises(ConfigError, match=message):
        kind(**given)


def test_keywords_join_options():
    assert with_keywords(SynthesizeOptions(speed=2.0), steps=4, speed=None) == SynthesizeOptions(speed=2.0, steps=4)
    assert with_keywords(EditOptions(), steps=None, candidates=2) == EditOptions(candidates=2)
    with pytest.raises(ConfigError, match="speed must lie"):
        with_keywords(SynthesizeOptions(), speed=3.0)


def test_what_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match="candidates is given twice; leave out candidates or options"):
        with_keywords(EditOptions(candidates=2), candidates=3)
