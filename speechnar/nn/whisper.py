"""Whisper's encoder as a pretrained trunk: two convolutions, fixed positions, pre-norm Transformer layers.

Some of its lowest layers can be frozen. They are then part of feature extraction: they get no gradient and no
augmentation, and what they put out can be stored once (``speechnar data features``) and trained on.

Shapes: B utterances, T mel frames (100 a second), T' positions (50 a second), F mel bands, D width.
Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, section 2.2; the names of
the sizes are those of table 1.

Differs from the paper: utterances are not padded to 30 s, and each is encoded as if it were alone. What Whisper was
trained on ends in silence, so states differ without it: in twelve Common Voice clips, by a cosine of 0.94 to those of
the padded clips (base), 0.76 within the last half second. Features differ in their last two frames, by less than 0.001.
"""

import math
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.errors import ConfigError
from speechnar.nn.context import BlockContext
from speechnar.nn.encoder import BlocksConfig, Encoder
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.transformer import TransformerBlock

NORM_EPS = 1e-5


class WhisperConfig(Config):
    """Sizes of the encoder; the defaults are those of Whisper base."""

    num_mels: PositiveInt = 80
    model_dim: PositiveInt = 512
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 8
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the layers that are not frozen; Whisper was trained without."""
    frozen_layers: NonNegativeInt = 0
    """Layers, from the first on, that keep their weights, as do the convolutions below them; 0 trains everything."""

    @model_validator(mode="after")
    def _check(self) -> "WhisperConfig":
        if self.frozen_layers > self.num_layers:
            raise ValueError(f"frozen_layers must be at most num_layers={self.num_layers}, got {self.frozen_layers}")
        if self.model_dim % self.num_heads or self.model_dim % 2:
            raise ValueError(f"model_dim must be even and a multiple of num_heads={self.num_heads}")
        return self


class WhisperEncoder(nn.Module):
    """Log-mel features to 50 positions a second.

    Keys have no bias, as in Whisper: the key's third of the fused bias is 0, and no gradient moves it, since a softmax
    over keys does not change when all of them are shifted.
    """

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
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
        for part in self.frozen_parts():
            part.requires_grad_(False)

    @property
    def num_features(self) -> int:
        """Channels of what `frozen` returns."""
        return self.config.model_dim if self.config.frozen_layers else self.config.num_mels

    def depth_of(self, name: str) -> int:
        """Return how many layers lie above the parameter ``name``; the norm behind them counts as none."""
        part, _, rest = name.partition(".")
        if part == "layers":
            return len(self.layers) - int(rest.partition(".")[0])
        return 0 if part == "norm" else len(self.layers) + 1

    def frozen_parts(self) -> list[nn.Module]:
        """Return the modules that keep their weights."""
        count = self.config.frozen_layers
        parts = [self.conv1, self.conv2, *self.layers[:count]] if count else []
        return [*parts, self.norm] if count == len(self.layers) else parts

    @torch.no_grad()
    def frozen(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the frozen part over features (B, T, F): states (B, T', D) and their lengths (B,).

        Nothing is frozen: returns the features as they are. Everything is: the states are normalised.
        """
        count = self.config.frozen_layers
        if not count:
            return feats, feat_lens
        x, lens = self._convolve(feats, feat_lens)
        x = self._run(x, lens, 0, count)
        return self._finish(x, lens, count), lens

    def forward(self, states: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Run what is not frozen over the output of `frozen`: normalised states (B, T', D), 0 in padding; lengths."""
        count = self.config.frozen_layers
        x = zero_padding(states, valid_mask(lens, states.size(1)))
        if not count:
            x, lens = self._convolve(x, lens)
        if count == len(self.layers):
            return x, lens
        x = self._run(x, lens, count, len(self.layers))
        return self._finish(x, lens, len(self.layers)), lens

    def _convolve(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, F) to positions (B, ceil(T / 2), D); what lies beyond an utterance is 0 to both convolutions."""
        valid = valid_mask(feat_lens, feats.size(1))
        x = F.gelu(self.conv1(zero_padding(feats, valid).transpose(1, 2)))
        x = zero_padding(x.transpose(1, 2), valid)
        x = F.gelu(self.conv2(x.transpose(1, 2))).transpose(1, 2)
        lens = torch.div(feat_lens + 1, 2, rounding_mode="floor")
        return x + whisper_positions(x.size(1), x.size(2), x.device), lens

    def _run(self, x: Tensor, lens: Tensor, first: int, last: int) -> Tensor:
        valid = valid_mask(lens, x.size(1))
        # None lets SDPA take its fastest path.
        context = BlockContext(valid=valid, attn_mask=None if bool(valid.all()) else valid[:, None, None, :])
        x = zero_padding(x, valid)
        for layer in self.layers[first:last]:
            x = layer(x, context)
        return x

    def _finish(self, x: Tensor, lens: Tensor, count: int) -> Tensor:
        if count == len(self.layers):
            x = self.norm(x)
        return zero_padding(x, valid_mask(lens, x.size(1)))


def whisper_positions(num_positions: int, dim: int, device: torch.device) -> Tensor:
    """Return (T', D): sines in the first half of the channels, cosines in the second.

    Whisper's checkpoints hold the first 1500 of them; they go on for ever.
    """
    step = math.log(10000) / (dim // 2 - 1)
    rates = torch.exp(-step * torch.arange(dim // 2, device=device, dtype=torch.float32))
    angles = torch.arange(num_positions, device=device, dtype=torch.float32)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class WhisperTrunkConfig(Config):
    """Whisper's encoder, and blocks of our own on it."""

    kind: Literal["whisper"] = "whisper"
    whisper: WhisperConfig = WhisperConfig()
    blocks: BlocksConfig
    """What stands on it; its ``subsampling`` joins positions: 1 keeps 50 a second, 2 makes them 25."""

    @property
    def model_dim(self) -> int:
        """Width of the output."""
        return self.blocks.model_dim

    @property
    def num_layers(self) -> int:
        """Blocks of our own."""
        return self.blocks.num_layers

    @property
    def subsampling(self) -> int:
        """Mel frames to one output position."""
        return 2 * self.blocks.subsampling


class WhisperTrunk(nn.Module):
    """Whisper's encoder and the blocks on it, which are run one after the other: others may read what is between."""

    def __init__(self, config: WhisperTrunkConfig, num_features: int) -> None:
        super().__init__()
        if num_features != config.whisper.num_mels:
            raise ConfigError(
                f"this Whisper reads {config.whisper.num_mels} mel bands, the front end has {num_features}"
            )
        self.config = config
        self.whisper = WhisperEncoder(config.whisper)
        self.blocks = Encoder(config.blocks, config.whisper.model_dim)
