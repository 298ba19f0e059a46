import numpy as np
import pytest
import torch

from speechnar.audio.augment import (
    SpecAugment,
    SpecAugmentConfig,
    add_noise,
    apply_gain,
    colored_noise,
    speed_perturb,
)
from speechnar.errors import AudioError


def test_masks_differ_between_utterances_and_stay_inside_them():
    torch.manual_seed(0)
    layer = SpecAugment(SpecAugmentConfig(freq_masks=2, freq_width=5, time_masks=3, time_ratio=0.2))
    feats = torch.ones(40, 100, 20)
    lens = torch.tensor([100, 50] * 20)
    masked = layer(feats, lens) == 0
    bands = masked.all(1)  # (B, F)
    assert bands.sum(1).max() <= 10 and bands.sum(1).float().mean() > 2
    assert len({tuple(row.tolist()) for row in bands}) > 20
    frames = masked.all(2)
    assert not frames[1::2, 50:].any()
    assert frames[0::2].sum(1).max() <= 60 and frames[1::2].sum(1).max() <= 30
    assert frames[1::2].any()
    assert (frames.any(0)[:50]).float().mean() > 0.9  # everywhere can be masked


def test_nothing_to_mask_changes_nothing():
    feats = torch.randn(2, 9, 4)
    config = SpecAugmentConfig(freq_masks=0, time_masks=0)
    assert torch.equal(SpecAugment(config)(feats, torch.tensor([9, 1])), feats)


def test_speed_changes_length_and_pitch():
    samples = np.sin(2 * np.pi * 400 * np.arange(16000) / 16000).astype(np.float32)
    faster = speed_perturb(samples, 1.25, 16000)
    assert abs(len(faster) - 12800) <= 1
    assert abs(np.abs(np.fft.rfft(faster, 16000)).argmax() - 500) <= 2
    assert speed_perturb(samples, 1.0, 16000) is samples
    with pytest.raises(AudioError, match="positive"):
        speed_perturb(samples, 0.0, 16000)


def test_noise_has_the_ratio_asked_for_and_gain_its_decibels():
    rng = np.random.default_rng(0)
    speech = rng.normal(0, 0.1, 16000).astype(np.float32)
    noise = colored_noise(5000, 1.0, rng)
    added = add_noise(speech, noise, 10.0) - speech
    ratio = 10 * np.log10(np.mean(speech**2) / np.mean(added**2))
    assert abs(ratio - 10.0) < 0.01
    np.testing.assert_allclose(apply_gain(speech, -20.0), speech / 10, rtol=1e-5)


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0])
def test_noise_colour(exponent):
    noise = colored_noise(1 << 16, exponent, np.random.default_rng(1))
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[100:200].mean(), power[1600:3200].mean()
    assert abs(np.log2(low / high) / 4 - exponent) < 0.15  # four octaves apart
