"""Whisper's encoder as a pretrained trunk: two convolutions, fixed positions, pre-norm Transformer layers.

Shapes: B utterances, T mel frames (100 a second), T' positions (50 a second), F mel bands, D width.
Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, section 2.2; the names of
the sizes are those of table 1.

Differs from the paper: utterances are not padded to 30 s, and each is encoded as if it were alone. What Whisper was
trained on ends in silence, so states differ without it: in twelve Common Voice clips, by a cosine of 0.94 to those of
the padded clips (base), 0.76 within the last half second. Features differ in their last two frames, by less than 0.001.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.pretrained import (
    PretrainedEncoder,
    PretrainedEncoderConfig,
    PretrainedTrunk,
    PretrainedTrunkConfig,
)
from speechnar.nn.transformer import TransformerBlock

NORM_EPS = 1e-5


class WhisperConfig(PretrainedEncoderConfig):
    """Sizes of the encoder; the defaults are those of Whisper base, which was trained without dropout."""

    subsampling: ClassVar[int] = 2
    num_mels: PositiveInt = 80
    model_dim: PositiveInt = 512
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 8


class WhisperEncoder(PretrainedEncoder):
    """Log-mel features to 50 positions a second.

    Keys have no bias, as in Whisper: the key's third of the fused bias is 0, and no gradient moves it, since a softmax
    over keys does not change when all of them are shifted.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__(config.frozen_layers)
        self.config = config
        dim = config.model_dim
        self.conv1 = nn.Conv1d(config.num_mels, dim, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(dim, dim, kernel_size=3, stride=2, padding=1)
        layers = [
            TransformerBlock(
                dim,
                config.num_heads,
                4 * dim,
                dropout=0.0 if index < config.frozen_layers else config.dropout,
                norm_eps=NORM_EPS,
                attention_dropout=0.0,
                activation="gelu",
            )
            for index in range(config.num_layers)
        ]
        for layer in layers:
            nn.init.zeros_(layer.attention.qkv.bias[dim : 2 * dim].detach())
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(dim, NORM_EPS)
        self.freeze()

    @property
    def num_features(self) -> int:
        """Channels of what `frozen` returns."""
        return self.config.model_dim if self.config.frozen_layers else self.config.num_mels

    def lower_parts(self) -> list[nn.Module]:
        """Return the convolutions."""
        return [self.conv1, self.conv2]

    def embed(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, F) to positions (B, ceil(T / 2), D); what lies beyond an utterance is 0 to both convolutions."""
        valid = valid_mask(lens, x.size(1))
        x = F.gelu(self.conv1(zero_padding(x, valid).transpose(1, 2)))
        x = zero_padding(x.transpose(1, 2), valid)
        x = F.gelu(self.conv2(x.transpose(1, 2))).transpose(1, 2)
        lens = torch.div(lens + 1, 2, rounding_mode="floor")
        return x + whisper_positions(x.size(1), x.size(2), x.device), lens


def whisper_positions(num_positions: int, dim: int, device: torch.device) -> Tensor:
    """Return (T', D): sines in the first half of the channels, cosines in the second.

    Whisper's checkpoints hold the first 1500 of them; they go on for ever.
    """
    step = math.log(10000) / (dim // 2 - 1)
    rates = torch.exp(-step * torch.arange(dim // 2, device=device, dtype=torch.float32))
    angles = torch.arange(num_positions, device=device, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class WhisperTrunkConfig(PretrainedTrunkConfig):
    """Whisper's encoder, and blocks of our own on it; with a ``subsampling`` of 2 they are 25 a second."""

    kind: Literal["whisper"] = "whisper"
    whisper: WhisperConfig = WhisperConfig()


class WhisperTrunk(PretrainedTrunk):
    """Whisper's encoder and the blocks on it."""

    def __init__(self, config: WhisperTrunkConfig, num_features: int) -> None:
        if num_features != config.whisper.num_mels:
            raise ConfigError(
                f"this Whisper reads {config.whisper.num_mels} mel bands, the front end has {num_features}"
            )
        super().__init__(config, WhisperEncoder(config.whisper))
