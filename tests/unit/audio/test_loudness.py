import math

import numpy as np
import pytest
from scipy.signal import lfilter

from speechnar.audio.loudness import PEAK, _filtered, _k_weighting, loudness, normalize


def tone(seconds=2.0, rate=48000, hz=997.0, level=1.0):
    return (level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def test_the_filters_of_the_standard():
    """Tables 1 and 2 of ITU-R BS.1770-4, at 48 kHz."""
    (b1, a1), (b2, a2) = _k_weighting(48000)
    assert b1 == pytest.approx([1.53512485958697, -2.69169618940638, 1.19839281085285], abs=1e-8)
    assert a1 == pytest.approx([1, -1.69065929318241, 0.73248077421585], abs=1e-8)
    assert b2 == [1, -2, 1]
    assert a2 == pytest.approx([1, -1.99004745483398, 0.99007225036621], abs=1e-8)


@pytest.mark.parametrize("rate", [8000, 48000])
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_filters_are_applied_sample_by_sample(rate, size):
    samples = (0.5 + 0.1 * np.random.default_rng(0).standard_normal(size)).astype(np.float32)
    expected = samples.astype(np.float64)
    for numerator, denominator in _k_weighting(rate):
        expected = lfilter(numerator, denominator, expected)
    np.testing.assert_allclose(_filtered(samples, rate), expected, atol=1e-11)


@pytest.mark.parametrize("rate", [16000, 32000, 48000])
def test_a_full_tone_is_3_lufs_below(rate):
    """997 Hz at 0 dBFS on one channel is -3.01 LUFS, by the standard."""
    assert loudness(tone(rate=rate), rate) == pytest.approx(-3.01, abs=0.05)
    assert loudness(tone(rate=rate, level=0.1), rate) == pytest.approx(-23.01, abs=0.05)


def test_pauses_do_not_count():
    speech = np.concatenate([tone(2.0), np.zeros(96000, dtype=np.float32), tone(2.0)])
    assert loudness(speech, 48000) == pytest.approx(-3.01, abs=0.4)


def test_sound_of_a_wanted_loudness():
    quiet = tone(level=0.01)
    assert loudness(normalize(quiet, 48000, -20.0), 48000) == pytest.approx(-20, abs=0.01)
    loud = normalize(quiet, 48000, 10.0)
    assert np.abs(loud).max() == pytest.approx(PEAK)
    silence = np.zeros(48000, dtype=np.float32)
    assert loudness(silence, 48000) == -math.inf
    assert normalize(silence, 48000, -20.0) is silence
    assert loudness(tone(0.3), 48000) == -math.inf
    assert normalize(silence[:0], 48000, -20.0) is not None
