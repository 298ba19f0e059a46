"""Limits of a server are checked before it starts."""

import pytest

from speechnar.errors import ConfigError
from speechnar.serve.options import ServeOptions


@pytest.mark.parametrize("name", ["max_upload_bytes", "max_audio_s", "max_queue_s", "max_sessions", "idle_s"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_are_above_0(name, value):
    with pytest.raises(ConfigError, match=name):
        ServeOptions(**{name: value})


def test_nothing_is_joined_where_0_seconds_are():
    assert ServeOptions(batch_s=0).batch_s == 0


def test_voices_are_a_folder(tmp_path):
    assert ServeOptions(voices=tmp_path).voices == tmp_path
    with pytest.raises(ConfigError, match="voices"):
        ServeOptions(voices=tmp_path / "none")
