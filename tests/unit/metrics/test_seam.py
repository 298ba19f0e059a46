import numpy as np
import pytest

from speechnar.errors import DataError
from speechnar.metrics.seam import NEAR_S, find_seams
from tests.unit.models.sounds import voice

RATE = 16000
PLACES = tuple(np.arange(0.5, 9.5, 0.37).tolist())


def sing(seconds=10.0, pitch_hz=120, formant_hz=500):
    return voice(round(seconds * RATE), pitch_hz=pitch_hz, formant_hz=formant_hz).numpy()


def hiss(seconds=10.0, seed=0):
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE)).astype(np.float32)


def splice(first, second, at_s):
    at = round(at_s * RATE)
    return np.concatenate([first[:at], second[at:]])


@pytest.mark.parametrize("wav", [sing(), hiss(), sing() + hiss()], ids=["voice", "noise", "both"])
def test_places_of_sound_that_goes_on_are_like_any_other(wav):
    found = find_seams(wav, RATE, PLACES)
    assert len(found.shares) == len(found.jumps_db) == len(PLACES)
    assert np.mean(found.shares) == pytest.approx(0.5, abs=0.2)
    assert np.mean(np.array(found.shares) < 0.05) <= 0.2
    assert 0 < found.within_db[0] < found.within_db[1]


def chord(seconds=10.0):
    time_s = np.arange(round(seconds * RATE)) / RATE
    swell = 1 + 0.5 * np.sin(2 * np.pi * 1.5 * time_s)
    return (0.1 * swell * sum(np.sin(2 * np.pi * hz * time_s) for hz in (220, 277, 330))).astype(np.float32)


@pytest.mark.parametrize(
    "wav",
    [
        splice(sing(), sing(pitch_hz=190, formant_hz=900), 5.0),  # another voice
        splice(chord(), np.roll(chord(), 20), 5.0),  # a jump of the samples
        splice(hiss(), 2.5 * hiss(), 5.0),  # louder by 8 dB
        splice(sing(), 0 * sing(), 5.0),  # it breaks off
    ],
    ids=["voice", "samples", "level", "silence"],
)
def test_a_planted_seam_is_found(wav):
    found = find_seams(wav, RATE, (5.0, 3.1))
    assert found.shares[0] < 0.01
    assert found.shares[1] > 0.05
    assert found.jumps_db[0] > 1.2 * found.within_db[1]


def test_a_seam_is_found_where_it_is_said_to_be():
    wav = splice(sing(), sing(pitch_hz=190, formant_hz=900), 5.0)
    assert find_seams(wav, RATE, (5.0 + 0.9 * NEAR_S,)).shares[0] < 0.01
    assert find_seams(wav, RATE, (5.3,)).shares[0] > 0.05


def test_the_jump_is_that_of_the_level():
    """In all bands the same: the same noise again and again, as long as the spectrum changes over."""
    period = np.tile(hiss(0.005), 800)
    louder = splice(period, 4 * period, 2.0)
    found = find_seams(louder, RATE, (2.0,))
    assert found.within_db[1] < 0.01
    assert found.jumps_db[0] == pytest.approx(20 * np.log10(4), rel=0.05)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(DataError, match=r"a join must lie 0\.04 s inside 1 s of sound, got 0\.99"):
        find_seams(sing(1.0), RATE, (0.99,))
    with pytest.raises(DataError, match="leave nothing to compare"):
        find_seams(sing(0.2), RATE, (0.1,))
    with pytest.raises(DataError, match="a join must lie"):
        find_seams(np.zeros(0, dtype=np.float32), RATE, (0.0,))
    silence = find_seams(np.zeros(RATE, dtype=np.float32), RATE, (0.5,))
    assert (silence.jumps_db, silence.shares) == ((0.0,), (1.0,))
