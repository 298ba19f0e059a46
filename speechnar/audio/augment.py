"""Augmentation: SpecAugment on features, and speed, noise and gain on samples.

Shapes: B utterances, T frames, F features, S samples.
Sources: Park et al., "SpecAugment", 2019, section 2; Ko et al., "Audio augmentation for speech recognition", 2015.
"""

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn

from speechnar.config import Config
from speechnar.errors import AudioError

Samples = NDArray[np.float32]


class SpecAugmentConfig(Config):
    """How much is masked; the defaults are OWSM-CTC's."""

    freq_masks: NonNegativeInt = 2
    freq_width: NonNegativeInt = 27
    """Widest frequency mask in bands."""
    time_masks: NonNegativeInt = 10
    time_ratio: float = Field(default=0.05, ge=0, le=1)
    """Widest time mask as a share of the utterance."""


class SpecAugment(nn.Module):
    """Mask random bands and stretches of time with 0, differently for each utterance; draws from torch's generator.

    Features should be normalised before, so that 0 is their mean.
    """

    def __init__(self, config: SpecAugmentConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, feats: Tensor, feat_lens: Tensor) -> Tensor:
        """Map ``feats`` (B, T, F) to (B, T, F); only frames before ``feat_lens`` are drawn for masking."""
        batch, num_frames, num_features = feats.shape
        bands = torch.full((batch,), num_features, device=feats.device)
        freq = _masks(bands, bands.clamp(max=self.config.freq_width), self.config.freq_masks, num_features)
        longest = (feat_lens * self.config.time_ratio).long()
        time = _masks(feat_lens, longest, self.config.time_masks, num_frames)
        return feats.masked_fill(freq[:, None, :] | time[:, :, None], 0.0)


def _masks(sizes: Tensor, widest: Tensor, count: int, total: int) -> Tensor:
    """Draw ``count`` intervals in [0, sizes), each up to ``widest`` (inclusive) wide; return their union (B, total)."""
    draw = torch.rand(2, sizes.size(0), count, device=sizes.device)
    widths = (draw[0] * (widest[:, None] + 1)).long()
    starts = (draw[1] * (sizes[:, None] - widths + 1)).long()
    at = torch.arange(total, device=sizes.device)
    return ((at >= starts[..., None]) & (at < (starts + widths)[..., None])).any(1)


def speed_perturb(samples: Samples, factor: float, sample_rate: int) -> Samples:
    """Play ``samples`` (S,) ``factor`` times as fast, pitch included, as sox's ``speed`` and Kaldi do: (S / factor,).

    Raises:
        AudioError: ``factor`` is not positive.
    """
    if not factor > 0:
        raise AudioError(f"speed factor must be positive, got {factor}")
    if factor == 1.0 or samples.size == 0:
        return samples
    faster: Samples = soxr.resample(samples, sample_rate * factor, sample_rate)
    return faster.astype(np.float32, copy=False)


def add_noise(samples: Samples, noise: Samples, snr_db: float) -> Samples:
    """Add ``noise`` (repeated or cut to S samples) at a signal-to-noise ratio in decibels; silence stays silent."""
    if samples.size == 0 or noise.size == 0:
        return samples
    noise = np.resize(noise, samples.size)
    speech_power = float(np.mean(samples.astype(np.float64) ** 2))
    noise_power = float(np.mean(noise.astype(np.float64) ** 2))
    if noise_power == 0.0:
        return samples
    scale = np.sqrt(speech_power / noise_power / 10 ** (snr_db / 10))
    return (samples + np.float32(scale) * noise).astype(np.float32)


def colored_noise(size: int, exponent: float, rng: "np.random.Generator") -> Samples:
    """Draw noise (size,) whose power falls with frequency to the ``-exponent``: 0 is white, 1 pink, 2 brown."""
    spectrum = rng.standard_normal(size // 2 + 1) + 1j * rng.standard_normal(size // 2 + 1)
    frequency = np.maximum(np.fft.rfftfreq(size), 1.0 / max(size, 1))
    return np.fft.irfft(spectrum * frequency ** (-exponent / 2), n=size).astype(np.float32)


def apply_gain(samples: Samples, gain_db: float) -> Samples:
    """Scale ``samples`` (S,) by decibels; the result may leave [-1, 1]."""
    return samples * np.float32(10 ** (gain_db / 20))
