import math

import numpy as np
import pytest

from speechnar.errors import DataError
from speechnar.metrics.speech import (
    compare_pitch,
    mean_of,
    mel_cepstra,
    mel_cepstral_distortion,
    pitch,
    warp,
)

RATE, HOP = 16000, 160
NAN = math.nan


def harmonics(pitch_hz, seconds=0.5):
    time_s = np.arange(round(seconds * RATE)) / RATE
    return sum(np.sin(2 * np.pi * k * pitch_hz * time_s) / k for k in range(1, 11)) * 0.1


def same_length(num_frames):
    return np.stack([np.arange(num_frames)] * 2, axis=1)


def test_cepstra_are_the_weights_of_cosines():
    bands = (np.arange(80) + 0.5) / 80
    frame = 7.0 + 0.5 * np.cos(np.pi * bands) - 0.25 * np.cos(13 * np.pi * bands) + 3.0 * np.cos(14 * np.pi * bands)
    expected = np.zeros((1, 13))
    expected[0, [0, 12]] = 0.5, -0.25
    np.testing.assert_allclose(mel_cepstra(frame[None]), expected, atol=1e-12)


def test_distortion_is_the_difference_of_smoothed_spectra_in_decibels():
    rng = np.random.default_rng(0)
    shapes = np.cos(np.pi * np.arange(1, 14)[:, None] * (np.arange(80) + 0.5) / 80)
    ref, made = (rng.normal(size=(20, 13)) @ shapes for _ in range(2))
    louder = made + 2.0  # the loudness is left out
    found = mel_cepstral_distortion(mel_cepstra(ref), mel_cepstra(louder), same_length(20))
    decibels = 20 / math.log(10) * (ref - made)  # of amplitudes
    assert found == pytest.approx(np.sqrt(np.square(decibels).mean(1)).mean())


def test_equal_speech_has_no_distortion_and_stretching_leaves_it_small():
    rng = np.random.default_rng(0)
    knots = rng.normal(size=(12, 13))
    slow, fast = (
        np.stack([np.interp(np.linspace(0, 11, n), np.arange(12), knot) for knot in knots.T], axis=1)
        for n in (150, 100)
    )
    assert mel_cepstral_distortion(slow, slow, warp(slow, slow)) == 0
    np.testing.assert_array_equal(warp(slow, slow), same_length(150))
    path = warp(slow, fast)
    assert path[0].tolist() == [0, 0]
    assert path[-1].tolist() == [149, 99]
    assert (np.diff(path, axis=0) >= 0).all()
    stretched = mel_cepstral_distortion(slow, fast, path)
    other = mel_cepstral_distortion(slow, slow[::-1], warp(slow, slow[::-1]))
    unwarped = mel_cepstral_distortion(slow, slow[np.arange(150) * 2 // 3], same_length(150))
    assert stretched < 0.1 * other
    assert stretched < 0.3 * unwarped


def test_pitch_of_a_known_voice_in_the_frames_where_it_is():
    wav = np.concatenate([harmonics(150.0), np.zeros(RATE // 2), harmonics(220.0)])
    found = pitch(wav, RATE, HOP)
    assert found.shape == (150,)
    # To pYIN's tenth of a semitone.
    np.testing.assert_allclose(cents(found[5:45], 150.0), 0, atol=10)
    np.testing.assert_allclose(cents(found[105:145], 220.0), 0, atol=10)
    assert np.isnan(found[55:95]).all()
    assert len(pitch(np.zeros(100), RATE, HOP)) == 0
    assert np.isnan(pitch(np.zeros(170), RATE, HOP)).tolist() == [True]


def cents(hz, reference):
    return 1200 * np.log2(hz / reference)


def test_a_semitone_is_a_hundred_cents():
    tracks = [pitch(harmonics(hz), RATE, HOP)[5:45] for hz in (200.0, 200.0 * 2 ** (1 / 12))]
    found = compare_pitch(*tracks, same_length(40))
    assert found.rmse_cents == pytest.approx(100, abs=10)
    assert found.voicing_error == 0


def test_pitch_errors_are_exact():
    ref = np.array([100.0, NAN, 200.0, NAN, 100.0, 150.0])
    octave = np.array([200.0, NAN, 400.0, 100.0, NAN, 300.0])
    found = compare_pitch(ref, octave, same_length(6))
    assert found.rmse_cents == pytest.approx(1200)
    assert found.correlation == pytest.approx(1)
    assert found.voicing_error == pytest.approx(2 / 6)
    mirrored = compare_pitch(ref, 1e4 / ref, same_length(6))
    assert mirrored.correlation == pytest.approx(-1)
    assert compare_pitch(ref, ref, same_length(6)).rmse_cents == 0
    # The path says which frames belong together.
    crossed = compare_pitch(ref, ref[::-1], np.stack([np.arange(6), np.arange(6)[::-1]], axis=1))
    assert (crossed.rmse_cents, crossed.voicing_error) == (0, 0)


def test_pitch_errors_that_do_not_exist():
    flat, silent = np.full(3, 100.0), np.full(3, NAN)
    assert compare_pitch(flat, flat, same_length(3)).correlation is None
    found = compare_pitch(flat, silent, same_length(3))
    assert (found.rmse_cents, found.correlation, found.voicing_error) == (None, None, 1)


def test_no_frames_cannot_be_warped():
    with pytest.raises(DataError, match="got 3 and 0"):
        warp(np.zeros((3, 13)), np.zeros((0, 13)))


def test_interval_is_that_of_the_normal_approximation_for_many_values():
    values = np.random.default_rng(0).normal(3, 2, size=2000)
    found = mean_of(values)
    error = values.std() / math.sqrt(2000)
    assert found.value == pytest.approx(values.mean())
    assert found.interval[0] == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert found.interval[1] == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)
    assert mean_of(values) == found


def test_interval_of_few_values():
    assert mean_of([2.0, 2.0]).interval == (2.0, 2.0)
    assert mean_of([0.0, 1.0]).interval == (0.0, 1.0)  # a quarter of the draws are two zeros
    assert mean_of([5.0]).interval is None


@pytest.mark.parametrize("values", [[], [1.0, NAN]])
def test_no_mean_of_nothing(values):
    with pytest.raises(DataError, match="at least one value"):
        mean_of(values)
