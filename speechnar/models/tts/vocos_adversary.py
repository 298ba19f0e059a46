"""The discriminators that a vocoder is trained against, the losses of both sides, and the two as one model to train.

`VocosGan` takes two turns in every update: the discriminators learn to tell what the vocoder makes of recordings from
the recordings, then the vocoder to be taken for them. It begins best with a vocoder that already reconstructs speech
(``init_from`` a folder of kind vocos), and what it leaves is such a folder again. Held-out speech is still scored by
how near the vocoder comes, which does not rank the weights well: set ``select: newest``.

Shapes: B utterances, S samples, T frames, P samples of a period, C channels.
Sources: Siuzdak, "Vocos", ICLR 2024, sections 3.2 (the choice of discriminators) and 3.3 (hinge losses); Kong, Kim and
Bae, "HiFi-GAN", NeurIPS 2020, sections 2.3 (multi-period discriminator) and 2.4 (feature matching); Jang et al.,
"UnivNet", Interspeech 2021, section 3.2 (multi-resolution spectrogram discriminator).
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from speechnar.config import Config
from speechnar.data.batch import SpeechBatch
from speechnar.models.base import LossOutput, ModelConfig, Trainable, Turn
from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.text.tokenizer import Tokenizer

LEAK = 0.1
MIN_POWER = 1e-9


RESOLUTION_WEIGHT = 0.1
"""Of the losses by spectrograms, against those by periods."""


class VocosAdversaryConfig(Config):
    """The discriminators; the defaults have a quarter of the published channels, for a CPU."""

    periods: tuple[PositiveInt, ...] = Field(default=(2, 3, 5, 7, 11), min_length=1)
    """Samples between those that one discriminator looks at together."""
    period_channels: PositiveInt = 8
    """Of their first layer; the widest have 32 times as many."""
    fft_sizes: tuple[PositiveInt, ...] = Field(default=(512, 1024, 2048), min_length=1)
    """Of the spectrograms that the others look at, in samples."""
    resolution_channels: PositiveInt = 8

    @classmethod
    def debug(cls) -> "VocosAdversaryConfig":
        """Return three small discriminators, for tests."""
        return cls(periods=(2, 5), period_channels=2, fft_sizes=(512,), resolution_channels=4)

    @classmethod
    def published(cls) -> "VocosAdversaryConfig":
        """Return the discriminators of the papers: 41 M parameters look at periods."""
        return cls(period_channels=32, resolution_channels=32)


class VocosGanConfig(ModelConfig):
    """The vocoder and its discriminators."""

    kind: Literal["vocos_gan"] = "vocos_gan"
    vocos: VocosConfig = VocosConfig()
    adversary: VocosAdversaryConfig = VocosAdversaryConfig()

    @classmethod
    def debug(cls) -> "VocosGanConfig":
        """Return the smallest of both, for tests."""
        return cls(vocos=VocosConfig.debug(), adversary=VocosAdversaryConfig.debug())

    @classmethod
    def published(cls) -> "VocosGanConfig":
        """Return the paper's."""
        return cls(vocos=VocosConfig.published(), adversary=VocosAdversaryConfig.published())


class VocosAdversary(nn.Module):
    """Discriminators of several periods and of several resolutions."""

    def __init__(self, config: VocosAdversaryConfig) -> None:
        super().__init__()
        self.config = config
        self.by_period = nn.ModuleList(_PeriodDiscriminator(p, config.period_channels) for p in config.periods)
        self.by_resolution = nn.ModuleList(
            _ResolutionDiscriminator(size, config.resolution_channels) for size in config.fft_sizes
        )

    def discriminator_loss(self, real: Tensor, made: Tensor) -> LossOutput:
        """Return the loss of the discriminators, which are to score ``real`` (B, S) above 1 and ``made`` below -1.

        No gradient reaches ``made`` (B, S). ``parts`` has those by ``period`` and by ``resolution``.
        """
        made = made.detach()

        def hinge(discriminator: nn.Module) -> Tensor:
            return F.relu(1 - discriminator(real).scores).mean() + F.relu(1 + discriminator(made).scores).mean()

        period = torch.stack([hinge(each) for each in self.by_period]).mean()
        resolution = torch.stack([hinge(each) for each in self.by_resolution]).mean()
        total = period + RESOLUTION_WEIGHT * resolution
        return LossOutput(total, {"period": period, "resolution": resolution}, _count(real))

    def generator_loss(self, real: Tensor, made: Tensor) -> LossOutput:
        """Return what the vocoder pays for ``made`` (B, S) being told from ``real`` (B, S).

        The discriminators get no gradient. ``parts`` has the shares of the scores (``adversarial``) and of the layers
        of the discriminators in which the two differ (``features``).
        """
        self.requires_grad_(False)
        try:
            period = _told_apart(self.by_period, real, made)
            resolution = _told_apart(self.by_resolution, real, made)
        finally:
            self.requires_grad_(True)
        adversarial, features = period + RESOLUTION_WEIGHT * resolution
        return LossOutput(adversarial + features, {"adversarial": adversarial, "features": features}, _count(real))


class VocosGan(Trainable):
    """A vocoder and its adversary, which learn in turn."""

    learns_from = ("speech",)
    warm_starts: ClassVar[Mapping[str, str]] = {"vocos": "vocos."}

    def __init__(self, config: VocosGanConfig) -> None:
        super().__init__()
        self.config = config
        self.vocos = Vocos(config.vocos)
        self.adversary = VocosAdversary(config.adversary)

    @classmethod
    def from_config(cls, config: VocosGanConfig, tokenizer: Tokenizer) -> "VocosGan":
        """Build with random weights; the tokenizer of the text is not needed."""
        del tokenizer
        return cls(config)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model hears."""
        return self.vocos.sample_rate

    @property
    def exported(self) -> Vocos:
        """What is kept of a finished run."""
        return self.vocos

    def turns(self) -> Sequence[Turn]:
        """Return the discriminators' turn, then the vocoder's. Each draws other pieces of the batch."""
        return [
            Turn("discriminator", self.discriminator_loss, "adversary."),
            Turn("generator", self.generator_loss, "vocos."),
        ]

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the vocoder's loss without adversary (`Vocos.loss`), which scores held-out speech."""
        return self.vocos.loss(batch)

    def discriminator_loss(self, batch: SpeechBatch) -> LossOutput:
        """Return `VocosAdversary.discriminator_loss` of random pieces of ``batch``."""
        real = self.vocos.draw_segments(batch)
        with torch.no_grad():
            made = self.vocos.reconstruct(real)
        return self.adversary.discriminator_loss(real, made)

    def generator_loss(self, batch: SpeechBatch) -> LossOutput:
        """Return how far random pieces of ``batch`` are from what the vocoder makes of them, for ears and adversary.

        ``parts`` has those of `Vocos.reconstruction_loss` and of `VocosAdversary.generator_loss`, without weights.
        """
        real = self.vocos.draw_segments(batch)
        made = self.vocos.reconstruct(real)
        near, told = self.vocos.reconstruction_loss(real, made), self.adversary.generator_loss(real, made)
        total = near.total + told.total
        return LossOutput(total, {**near.parts, **told.parts}, near.weight)


@dataclass(frozen=True)
class _Judgement:
    """What a discriminator makes of a batch of sounds."""

    scores: Tensor
    """High for recordings."""
    layers: list[Tensor]
    """Outputs of its inner layers."""


def _told_apart(discriminators: nn.ModuleList, real: Tensor, made: Tensor) -> Tensor:
    """Return (2,) the hinge loss of the scores and the distance in all layers, means over ``discriminators``.

    The distance is that of HiFi-GAN's equation 4.
    """
    losses = []
    for discriminator in discriminators:
        judgement = discriminator(made)
        with torch.no_grad():
            expected = discriminator(real).layers
        pairs = zip(judgement.layers, expected, strict=True)
        features = torch.stack([F.l1_loss(found, wanted) for found, wanted in pairs]).sum()
        losses.append(torch.stack([F.relu(1 - judgement.scores).mean(), features]))
    return torch.stack(losses).mean(0)


def _count(wav: Tensor) -> Tensor:
    return torch.tensor(float(len(wav)), device=wav.device)


class _PeriodDiscriminator(nn.Module):
    """Looks at samples a period apart, by 2-D convolutions as wide as one (HiFi-GAN, section 2.3)."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 4 * channels, 16 * channels, 32 * channels, 32 * channels]
        strides = [3, 3, 3, 3, 1]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(before, after, (5, 1), (stride, 1), padding=(2, 0)))
            for (before, after), stride in zip(itertools.pairwise(widths), strides, strict=True)
        )
        self.score = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wav: Tensor) -> _Judgement:
        x = F.pad(wav[:, None], (0, -wav.size(1) % self.period), mode="reflect")
        return _judge(x.reshape(len(x), 1, -1, self.period), self.convs, self.score)  # (B, 1, S / P, P)


class _ResolutionDiscriminator(nn.Module):
    """Looks at the magnitudes of one short-time Fourier transform (UnivNet, section 3.2)."""

    window: Tensor

    def __init__(self, fft_size: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        kernels: Sequence[tuple[int, int]] = [(3, 9), (3, 9), (3, 9), (3, 9), (3, 3)]
        strides = [1, 2, 2, 2, 1]
        self.convs = nn.ModuleList(
            weight_norm(nn.Conv2d(channels if index else 1, channels, kernel, (1, stride), padding=(1, kernel[1] // 2)))
            for index, (kernel, stride) in enumerate(zip(kernels, strides, strict=True))
        )
        self.score = weight_norm(nn.Conv2d(channels, 1, 3, padding=1))

    def forward(self, wav: Tensor) -> _Judgement:
        size = self.window.numel()
        spectrum = torch.stft(wav.float(), size, size // 4, window=self.window, return_complex=True)
        magnitudes = (spectrum.real.square() + spectrum.imag.square() + MIN_POWER).sqrt()
        return _judge(magnitudes[:, None], self.convs, self.score)  # (B, 1, fft_size / 2 + 1, T)


def _judge(x: Tensor, convs: nn.ModuleList, score: nn.Module) -> _Judgement:
    layers = []
    for conv in convs:
        x = F.leaky_relu(conv(x), LEAK)
        layers.append(x)
    return _Judgement(score(x).flatten(1), layers)
