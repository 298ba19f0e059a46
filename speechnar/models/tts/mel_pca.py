"""What every tokenizer of speech latents offers, and the simplest one: whitened principal components of log-mels.

A latent stands for a few frames; a generator of speech (`speechnar.models.tts.ardit`) makes latents, a tokenizer turns
them into log-mels, a vocoder (`speechnar.models.tts.vocos`) those into samples.

Shapes: B utterances, S samples, T frames, F mel bands, L latents, C latent channels, W values of one stack of frames.
Source: principal components are textbook statistics (Pearson 1901); using them for ARDiT's latents, so that a generator
can be trained before any network has learned to code speech, is ours.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.data.batch import SpeechBatch
from speechnar.errors import DataError
from speechnar.models.base import ModelConfig
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.text.tokenizer import Tokenizer

MIN_VARIANCE = 1e-10
"""Directions with less of the largest variance than this share hold rounding errors, not speech."""


def stack(feats: Tensor, feat_lens: Tensor, num_frames: int) -> tuple[Tensor, Tensor]:
    """Lay every ``num_frames`` frames of (B, T, F) side by side: (B, T // num_frames, num_frames F), lengths (B,)."""
    num_stacks = feats.size(1) // num_frames
    stacks = feats[:, : num_stacks * num_frames].reshape(len(feats), num_stacks, num_frames * feats.size(2))
    return stacks, feat_lens // num_frames


def check_frontend(config: LogMelConfig) -> LogMelConfig:
    """Return ``config`` if a vocoder can turn its features into sound.

    Raises:
        ValueError: they are not as ``LogMelConfig.for_vocoder`` gives them.
    """
    if config.spectrum != "magnitude" or config.padding != "same":
        raise ValueError(
            f"frontend must have spectrum magnitude and padding same, got {config.spectrum} and {config.padding}"
        )
    return config


def check_sample_rate(batch: SpeechBatch, config: LogMelConfig) -> None:
    """Refuse speech at another rate than the features are for, which would sound too high or too low.

    Raises:
        DataError: the rates differ.
    """
    if batch.sample_rate != config.sample_rate:
        raise DataError(
            f"the model needs speech of {config.sample_rate} samples per second, got {batch.sample_rate}; resample it"
        )


class MelPcaConfig(ModelConfig):
    """Principal components of stacked log-mels; the defaults are 25 latents/s at 16 kHz."""

    kind: Literal["mel_pca"] = "mel_pca"
    frontend: LogMelConfig = Field(default_factory=lambda: LogMelConfig.for_vocoder(16000))
    frames_per_latent: int = Field(default=4, gt=0, le=64)
    latent_dim: int = Field(default=32, gt=0, le=4096)
    """Components kept."""

    _check_frontend = field_validator("frontend")(check_frontend)

    @classmethod
    def debug(cls) -> "MelPcaConfig":
        """Return a tokenizer of few channels, for tests."""
        return cls(latent_dim=4)

    @classmethod
    def published(cls) -> "MelPcaConfig":
        """Return the frames and the rate of ARDiT's tokenizer: 100 bands at 24 kHz, 23.4 latents/s."""
        return cls(frontend=LogMelConfig.for_vocoder(24000))

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        size = self.frames_per_latent * self.frontend.num_mels
        if self.latent_dim > size:
            raise ValueError(f"latent_dim must be at most the {size} values of a stack, got {self.latent_dim}")
        return self


class MelPca(nn.Module):
    """Stacked log-mels to their first principal components, each of unit variance, and linearly back.

    Decoding is the best linear inverse; nothing else is lost than the components left out.
    """

    mean: Tensor
    """(W,)"""
    components: Tensor
    """(C, W) orthonormal rows, largest variance first."""
    std: Tensor
    """(C,) of the data along each of them."""

    def __init__(self, config: MelPcaConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.frontend)
        self.latent_shift_s = config.frames_per_latent * self.frontend.frame_shift_s
        size = config.frames_per_latent * config.frontend.num_mels
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("components", torch.eye(config.latent_dim, size))
        self.register_buffer("std", torch.ones(config.latent_dim))

    @classmethod
    def from_config(cls, config: MelPcaConfig, tokenizer: Tokenizer) -> "MelPca":
        """Build the tokenizer; that of the text is not needed."""
        del tokenizer
        return cls(config)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model hears."""
        return self.config.frontend.sample_rate

    @torch.no_grad()
    def fit(self, batches: Iterable[SpeechBatch]) -> float:
        """Learn mean and components from all stacks of ``batches``; return the share of the variance that is kept.

        Raises:
            DataError: there are too few stacks, or too few that differ, for so many components, or the speech has
                another sample rate.
        """
        size, count = self.mean.numel(), 0
        total = self.mean.new_zeros(size, dtype=torch.float64)
        products = self.mean.new_zeros(size, size, dtype=torch.float64)
        for batch in batches:
            check_sample_rate(batch, self.config.frontend)
            stacks, lens = self._stacks(batch.wav, batch.wav_lens)
            real = stacks[valid_mask(lens, stacks.size(1))].double()
            count += len(real)
            total += real.sum(0)
            products += real.T @ real
        mean = total / max(count, 1)
        variances, directions = torch.linalg.eigh(products / max(count, 1) - mean.outer(mean))  # smallest first
        variances, directions = variances.flip(0).clamp(min=0), directions.T.flip(0)
        num_kept = self.config.latent_dim
        num_found = int((variances > MIN_VARIANCE * variances[0]).sum())
        if num_found < num_kept:
            raise DataError(
                f"{num_kept} components need as many directions in which stacks of frames differ, "
                f"{count} stacks have {num_found}; use more speech or lower latent_dim"
            )
        kept = directions[:num_kept]
        # Eigenvectors have no sign: the largest entry is made positive, so that equal data give equal latents.
        signs = kept.gather(1, kept.abs().argmax(1, keepdim=True)).sign()
        self.mean.copy_(mean)
        self.components.copy_(kept * signs)
        self.std.copy_(variances[:num_kept].sqrt())
        return float(variances[:num_kept].sum() / variances.sum())

    def encode(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map samples (B, S) and lengths (B,) to latents (B, L, C), 0 in padding, and lengths (B,).

        Each channel has zero mean and unit variance over the data the model was fitted to. Frames too few for a last
        latent are dropped. Samples beyond their length may hold anything.
        """
        stacks, lens = self._stacks(wav, wav_lens)
        latents = (stacks - self.mean) @ self.components.T / self.std
        return zero_padding(latents, valid_mask(lens, latents.size(1))), lens

    def decode(self, latents: Tensor, latent_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map latents (B, L, C) to log-mels (B, T, F), zero in padding, and lengths (B,)."""
        stacks = (
            zero_padding(latents, valid_mask(latent_lens, latents.size(1))) * self.std @ self.components + self.mean
        )
        num_frames = self.config.frames_per_latent
        feats = stacks.reshape(len(latents), -1, self.config.frontend.num_mels)
        feat_lens = latent_lens * num_frames
        return zero_padding(feats, valid_mask(feat_lens, feats.size(1))), feat_lens

    def _stacks(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        feats, feat_lens = self.frontend(wav, wav_lens)
        return stack(feats, feat_lens, self.config.frames_per_latent)
