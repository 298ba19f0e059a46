"""wav2vec 2.0's and HuBERT's network as a pretrained trunk: samples, convolutions, positions by a convolution, layers.

The two differ in how they were trained, not in what they compute. In the base models a group norm follows the first
convolution and a norm each module of a layer; in most large ones a layer norm follows every convolution and stands
before each module.

Shapes: B utterances, S samples (16,000 a second), T frames (50 a second), C convolution channels, D width, K kernel.
Sources: Baevski et al., "wav2vec 2.0: A Framework for Self-Supervised Learning of Speech Representations", NeurIPS
2020, section 2 and appendix B; Hsu et al., "HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction
of Hidden Units", TASLP 2021, section II; Salimans and Kingma, "Weight Normalization", 2016, equation 2; Pratap et al.,
"Scaling Speech Technology to 1,000+ Languages", JMLR 2024 (MMS).

The convolutions of the samples are never trained, as when the papers fine-tune (Baevski et al., section 4.3): what they
put out is extracted, as log-mel features are, and SpecAugment masks that.

Differs from the papers: layers are not dropped, and masked channels are those of the convolutions, not of the
projection behind them. Differs from fairseq and transformers, which count padding in the group norm and attend to it:
an utterance gives the same alone and in a batch.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from speechnar.errors import ConfigError
from speechnar.nn.dropout import Dropout
from speechnar.nn.encoder import AfterLayer
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.pretrained import (
    PretrainedEncoder,
    PretrainedEncoderConfig,
    PretrainedTrunk,
    PretrainedTrunkConfig,
)
from speechnar.nn.transformer import TransformerBlock

NORM_EPS = 1e-5
KERNELS, STRIDES = (10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2)
"""Of the convolutions of every published model."""
MIN_SAMPLES = 400
"""What one frame sees, 25 ms."""


class Wav2Vec2Config(PretrainedEncoderConfig):
    """Sizes of the network; the defaults are those of the base models."""

    subsampling: ClassVar[int] = math.prod(STRIDES)
    conv_dim: PositiveInt = 512
    conv_norm: Literal["group", "layer"] = "group"
    """Behind the first convolution, over the whole utterance, or behind each one, over the channels of a frame."""
    conv_bias: bool = False
    model_dim: PositiveInt = 768
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 12
    ff_dim: PositiveInt = 3072
    norm_first: bool = False
    """Norms stand before the modules of a layer and behind the last layer, not behind the modules."""
    adapter_dim: PositiveInt | None = None
    """Width of an adapter behind each layer, of MMS, where there is one of each language (Pratap et al. 2024, 4.2)."""
    position_kernel: PositiveInt = 128
    """Frames that the convolution of positions sees."""
    position_groups: PositiveInt = 16
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of the layers that are not frozen."""

    @model_validator(mode="after")
    def _check_groups(self) -> "Wav2Vec2Config":
        if self.model_dim % self.position_groups:
            raise ValueError(f"model_dim must be a multiple of position_groups={self.position_groups}")
        if self.adapter_dim is not None and not self.norm_first:
            raise ValueError("adapters stand behind layers with norm_first; leave adapter_dim out")
        return self

    @classmethod
    def debug(cls) -> "Wav2Vec2Config":
        """Return a network of few parameters, for tests."""
        return cls(
            conv_dim=16, model_dim=32, num_layers=3, num_heads=2, ff_dim=64, position_kernel=8, position_groups=4
        )

    @classmethod
    def large(cls) -> "Wav2Vec2Config":
        """Return the sizes of HuBERT large, wav2vec 2.0 large (LV-60k) and XLS-R 300M."""
        return cls(
            conv_norm="layer",
            conv_bias=True,
            model_dim=1024,
            num_layers=24,
            num_heads=16,
            ff_dim=4096,
            norm_first=True,
        )


class SampleConvolutions(nn.Module):
    """Samples to 50 frames a second, each of which sees 25 ms (Baevski et al. 2020, section 2, feature encoder)."""

    def __init__(self, conv_dim: int, *, norm: Literal["group", "layer"], bias: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            nn.Conv1d(conv_dim if index else 1, conv_dim, kernel, stride, bias=bias)
            for index, (kernel, stride) in enumerate(zip(KERNELS, STRIDES, strict=True))
        )
        self.norms = nn.ModuleList(
            [nn.GroupNorm(conv_dim, conv_dim)] if norm == "group" else [nn.LayerNorm(conv_dim) for _ in KERNELS]
        )

    def forward(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S), anything beyond ``wav_lens``, to frames (B, T, C), 0 in padding, and lengths (B,).

        An utterance too short for one frame is extended with zeros to one. Each is convolved by itself: a group norm
        then counts its own frames only, and no time or memory is spent on padding.
        """
        frames = [self._frames(row[:length]) for row, length in zip(wav, wav_lens.tolist(), strict=True)]
        lens = wav_lens.clamp(min=MIN_SAMPLES)
        for kernel, stride in zip(KERNELS, STRIDES, strict=True):
            lens = torch.div(lens - kernel, stride, rounding_mode="floor") + 1
        return pad_sequence(frames, batch_first=True), lens

    def _frames(self, samples: Tensor) -> Tensor:
        """Map (S,) to (T, C)."""
        x = F.pad(samples, (0, max(0, MIN_SAMPLES - len(samples))))[None, None]
        for index, conv in enumerate(self.convs):
            x = conv(x)
            if index < len(self.norms):
                norm = self.norms[index]
                x = norm(x) if isinstance(norm, nn.GroupNorm) else norm(x.mT).mT
            x = F.gelu(x)
        return x[0].T


class FrameProjection(nn.Module):
    """Frames of the convolutions to the width of the layers; what is masked becomes an embedding."""

    def __init__(self, conv_dim: int, model_dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(conv_dim, NORM_EPS)
        self.proj = nn.Linear(conv_dim, model_dim)
        self.mask_embed = nn.Parameter(torch.rand(model_dim))

    def forward(self, frames: Tensor) -> Tensor:
        """Map ``frames`` (B, T, C) to (B, T, D).

        A frame that is 0 in all channels, as SpecAugment makes it and no sound, was masked.
        """
        is_masked = ~frames.any(2, keepdim=True)
        x = self.proj(self.norm(frames))
        return torch.where(is_masked, self.mask_embed.to(x.dtype), x)


class ConvPositions(nn.Module):
    """Where a frame stands, told by its neighbours: a grouped convolution whose weight is normalised at every tap."""

    def __init__(self, model_dim: int, kernel_size: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        deviation = math.sqrt(4 / (kernel_size * model_dim))
        self.direction = nn.Parameter(deviation * torch.randn(model_dim, model_dim // groups, kernel_size))
        self.magnitude = nn.Parameter(self._norms().detach())
        self.bias = nn.Parameter(torch.zeros(model_dim))

    def _norms(self) -> Tensor:
        return self.direction.norm(dim=(0, 1), keepdim=True)  # (1, 1, K)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, T, D), 0 in padding, to (B, T, D)."""
        weight = self.direction * (self.magnitude / self._norms())
        y = F.conv1d(x.mT, weight, self.bias, padding=self.direction.size(2) // 2, groups=self.groups)
        return F.gelu(y[..., : x.size(1)]).mT  # an even kernel gives one position too many


class Wav2Vec2Encoder(PretrainedEncoder):
    """Samples, normalised to mean 0 and deviation 1, to 50 positions a second."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__(config.frozen_layers)
        self.config = config
        dim = config.model_dim
        self.convolutions = SampleConvolutions(config.conv_dim, norm=config.conv_norm, bias=config.conv_bias)
        self.projection = FrameProjection(config.conv_dim, dim)
        self.positions = ConvPositions(dim, config.position_kernel, config.position_groups)
        self.norm_in = None if config.norm_first else nn.LayerNorm(dim, NORM_EPS)
        self.dropout = Dropout(0.0 if config.frozen_layers else config.dropout)
        self.layers = nn.ModuleList(
            TransformerBlock(
                dim,
                config.num_heads,
                config.ff_dim,
                dropout=0.0 if index < config.frozen_layers else config.dropout,
                norm_eps=NORM_EPS,
                attention_dropout=0.0,
                activation="gelu",
                norm_first=config.norm_first,
                adapter_dim=config.adapter_dim,
            )
            for index in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(dim, NORM_EPS) if config.norm_first else None
        self.freeze()

    @property
    def num_features(self) -> int:
        """Channels of what `frozen` returns."""
        return self.config.model_dim if self.config.frozen_layers else self.config.conv_dim

    def untrained_parts(self) -> list[nn.Module]:
        """Return the convolutions of the samples."""
        return [self.convolutions]

    def lower_parts(self) -> list[nn.Module]:
        """Return projection, positions and the norm behind them."""
        return [part for part in (self.projection, self.positions, self.norm_in) if part is not None]

    def extract(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map samples (B, S, 1) to the frames of the convolutions (B, T, C) and their lengths (B,)."""
        return self.convolutions(feats.squeeze(2), feat_lens)

    def embed(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map frames (B, T, C) to what the first layer sees (B, T, D)."""
        return self._place(self.projection(x), valid_mask(lens, x.size(1))), lens

    def run(self, x: Tensor, valid: Tensor, *, after_layer: AfterLayer | None = None) -> Tensor:
        """Run all but the projection over any sequence (B, N, D) as that makes it, of which ``valid`` (B, N) is real.

        Returns:
            states (B, N, D), 0 elsewhere.
        """
        return self.run_layers(self._place(x, valid), valid, 0, len(self.layers), after_layer=after_layer)

    def _place(self, x: Tensor, valid: Tensor) -> Tensor:
        x = zero_padding(x, valid)
        x = x + self.positions(x)
        return self.dropout(x if self.norm_in is None else self.norm_in(x))


class Wav2Vec2TrunkConfig(PretrainedTrunkConfig):
    """wav2vec 2.0's or HuBERT's network, and blocks of our own on it; with a ``subsampling`` of 2 they are 25 a second.

    Without blocks it is what the papers fine-tune: one linear layer on the states.
    """

    kind: Literal["wav2vec2"] = "wav2vec2"
    wav2vec2: Wav2Vec2Config = Wav2Vec2Config()


class Wav2Vec2Trunk(PretrainedTrunk):
    """wav2vec 2.0's or HuBERT's network and the blocks on it."""

    def __init__(self, config: Wav2Vec2TrunkConfig, num_features: int) -> None:
        if num_features != 1:
            raise ConfigError(f"wav2vec 2.0 reads samples (frontend waveform), got features of {num_features} channels")
        super().__init__(config, Wav2Vec2Encoder(config.wav2vec2))
