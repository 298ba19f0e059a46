"""Zipformer: stacks of blocks at several frame rates, each block with its attention weights used three times.

Between the first and the last stack time is halved again and again and restored; every stack is bypassed by its input
at full rate. Widths differ: what a wider stack adds is 0 at its entry, what a narrower one lacks is taken from before.

Shapes: B utterances, T feature frames, N positions (two feature frames each), T' positions of the output (two of N),
F features, D width of a stack, H heads, C channels.
Source: Yao et al., "Zipformer: A faster and better encoder for automatic speech recognition", ICLR 2024, sections 3.1
(stacks), 3.2 (blocks), 3.3 (BiasNorm) and 3.4 (Swoosh); positions are those of its authors' code (icefall).

Differs from the paper:
- what only shapes their training is left out: balancers, whitening, skipped layers and modules, schedules.
- an utterance encodes the same alone, in a batch, and beside NaN padding; theirs sees padding, and is this one alone.
"""

import math
from typing import Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.nn.attention import align_distances
from speechnar.nn.context import BlockContext
from speechnar.nn.conv import DepthwiseConv
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import valid_mask, zero_padding

_Sizes = tuple[PositiveInt, ...]


class ZipformerConfig(Config):
    """Zipformer; the defaults are the paper's size M. Tuples hold a value for each stack."""

    kind: Literal["zipformer"] = "zipformer"
    model_dims: _Sizes = (192, 256, 384, 512, 384, 256)
    layers_of_stacks: _Sizes = (2, 2, 3, 4, 3, 2)
    downsampling: _Sizes = (1, 2, 4, 8, 4, 2)
    """Positions that a stack takes as one."""
    heads_of_stacks: _Sizes = (4, 4, 4, 8, 4, 4)
    ff_dims: _Sizes = (512, 768, 1024, 1536, 1024, 768)
    """Hidden units of the second feed-forward module; the first and the third have 3/4 and 5/4 of them."""
    kernel_sizes: _Sizes = (31, 31, 15, 15, 15, 31)
    query_head_dim: PositiveInt = 32
    position_head_dim: PositiveInt = 4
    """Of what asks for distances."""
    value_head_dim: PositiveInt = 12
    position_dim: PositiveInt = Field(default=48, multiple_of=2)
    """Of the embedding of distances."""
    subsampling_channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (8, 32, 128)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> "ZipformerConfig":
        tuples = (self.layers_of_stacks, self.downsampling, self.heads_of_stacks, self.ff_dims, self.kernel_sizes)
        if not self.model_dims or any(len(values) != len(self.model_dims) for values in tuples):
            raise ValueError(f"every tuple needs a value for each of the {len(self.model_dims)} stacks of model_dims")
        if any(size % 4 for size in (*self.model_dims, *self.ff_dims)):
            raise ValueError("model_dims and ff_dims must be multiples of 4, of which modules have 3/4 and 5/4")
        return self

    @property
    def model_dim(self) -> int:
        """Width of the output: that of the widest stack."""
        return max(self.model_dims)

    @property
    def num_layers(self) -> int:
        """Blocks in all."""
        return sum(self.layers_of_stacks)

    @property
    def subsampling(self) -> int:
        """Feature frames to one position of the output."""
        return 4

    @property
    def total_subsampling(self) -> int:
        """The same, by the name that it has in other encoders."""
        return self.subsampling


class Zipformer(nn.Module):
    """Frames to encoded positions; satisfies ``(feats, feat_lens) -> (enc, enc_lens)``."""

    def __init__(self, config: ZipformerConfig, num_features: int) -> None:
        super().__init__()
        self.config = config
        self.subsampling = _Subsampling(config, num_features)
        self.stacks = nn.ModuleList(_Stack(config, index) for index in range(len(config.model_dims)))
        self.halving = _Downsampling(2)

    def forward(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``feats`` (B, T, F), anything beyond ``feat_lens`` (B,), to enc (B, T', D) and enc_lens (B,)."""
        x, lens = self.subsampling(feats, feat_lens)
        outputs: list[Tensor] = []
        for stack in self.stacks:
            x = stack(x, lens)
            outputs.append(x)
        for output in reversed(outputs):  # channels that later stacks do not have are those of the last that had them
            x = torch.cat([x, output[..., x.size(2) :]], dim=2)
        return self.halving(x, lens)


class _Subsampling(nn.Module):
    """Three convolutions, of which the second halves time, a ConvNeXt block, a projection, and a norm: (T - 7) // 2."""

    def __init__(self, config: ZipformerConfig, num_features: int) -> None:
        super().__init__()
        first, second, third = config.subsampling_channels
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(1, first, 3, padding=(0, 1)),
                nn.Conv2d(first, second, 3, stride=2),
                nn.Conv2d(second, third, 3, stride=(1, 2)),
            ]
        )
        self.depthwise = nn.Conv2d(third, third, 7, padding=3, groups=third)
        self.pointwise_in = nn.Conv2d(third, 3 * third, 1)
        self.pointwise_out = nn.Conv2d(3 * third, third, 1)
        self.proj = nn.Linear(third * (((num_features - 1) // 2 - 1) // 2), config.model_dims[0])
        self.norm = _BiasNorm(config.model_dims[0])
        self.dropout = Dropout(config.dropout)

    def forward(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        feats = zero_padding(feats, valid_mask(feat_lens, feats.size(1)))
        x = F.pad(feats, (0, 0, 0, max(0, 9 - feats.size(1))))[:, None]  # 9 frames make one position
        lens = torch.div(feat_lens - 7, 2, rounding_mode="floor").clamp(min=1)
        for conv in self.convs:
            x = _swoosh_r(conv(x))
        x = x.masked_fill(~valid_mask(lens, x.size(2))[:, None, :, None], 0.0)
        x = x + self.pointwise_out(_swoosh_l(self.pointwise_in(self.depthwise(x))))
        return self.dropout(self.norm(self.proj(x.transpose(1, 2).flatten(2)))), lens


class _Stack(nn.Module):
    """Blocks at a frame rate of their own, and a bypass around them at the full one."""

    def __init__(self, config: ZipformerConfig, index: int) -> None:
        super().__init__()
        self.model_dim, self.factor = config.model_dims[index], config.downsampling[index]
        self.position_dim = config.position_dim
        self.downsampling = _Downsampling(self.factor) if self.factor > 1 else None
        self.layers = nn.ModuleList(_Block(config, index) for _ in range(config.layers_of_stacks[index]))
        self.bypass = _Bypass(self.model_dim) if self.factor > 1 else None

    def forward(self, x: Tensor, lens: Tensor) -> Tensor:
        """Map ``x`` (B, N, any width) to (B, N, D)."""
        x = F.pad(x, (0, max(0, self.model_dim - x.size(2))))[..., : self.model_dim]
        y = x
        if self.downsampling is not None:
            y, lens = self.downsampling(x, lens)
        context = BlockContext(
            valid=valid_mask(lens, y.size(1)),
            attn_mask=None,
            positions=_compact_positions(y.size(1), self.position_dim, y.device),
        )
        for layer in self.layers:
            y = layer(y, context)
        if self.bypass is None:
            return y
        return self.bypass(x, y.repeat_interleave(self.factor, dim=1)[:, : x.size(1)])


class _Block(nn.Module):
    """Attention weights, used by a gate and by two sums of values; two convolutions and three perceptrons between."""

    def __init__(self, config: ZipformerConfig, index: int) -> None:
        super().__init__()
        dim, heads, ff_dim = config.model_dims[index], config.heads_of_stacks[index], config.ff_dims[index]
        self.attention = _AttentionWeights(config, dim, heads)
        self.gate = _GatedAttention(dim)
        self.values = nn.ModuleList(_Values(dim, heads, config.value_head_dim) for _ in range(2))
        self.convs = nn.ModuleList(_Convolution(dim, config.kernel_sizes[index]) for _ in range(2))
        self.ff = nn.ModuleList(_Perceptron(dim, share * ff_dim // 4, config.dropout) for share in (3, 4, 5))
        self.bypasses = nn.ModuleList(_Bypass(dim) for _ in range(2))
        self.norm = _BiasNorm(dim)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map ``x`` (B, N, D) to (B, N, D), figure 2 of the paper."""
        whole = x
        weights = self.attention(x, context)
        x = x + self.ff[0](x)
        x = x + self.gate(x, weights[:, 0])
        x = x + self.values[0](x, weights)
        x = x + self.convs[0](x, context)
        x = x + self.ff[1](x)
        x = self.bypasses[0](whole, x)
        x = x + self.values[1](x, weights)
        x = x + self.convs[1](x, context)
        x = x + self.ff[2](x)
        bypassed: Tensor = self.bypasses[1](whole, self.norm(x))
        return bypassed


class _AttentionWeights(nn.Module):
    """Who attends to whom, by content and by distance; the scale of products is in the weights."""

    def __init__(self, config: ZipformerConfig, model_dim: int, num_heads: int) -> None:
        super().__init__()
        self.sizes = (config.query_head_dim, config.query_head_dim, config.position_head_dim)
        self.num_heads = num_heads
        self.proj = nn.Linear(model_dim, sum(self.sizes) * num_heads)
        self.pos = nn.Linear(config.position_dim, config.position_head_dim * num_heads, bias=False)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map ``x`` (B, N, D) to weights (B, H, N, N) that add up to 1 over the keys, of which padding has none."""
        assert context.positions is not None
        q, k, p = (
            part.unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for part in self.proj(x).split([size * self.num_heads for size in self.sizes], dim=2)
        )  # (B, H, N, ...)
        table = self.pos(context.positions.to(x.dtype)).unflatten(1, (self.num_heads, -1)).permute(1, 2, 0)
        scores = q @ k.transpose(2, 3) + align_distances(p @ table)
        hidden = ~context.valid[:, None, None, :]
        return scores.masked_fill(hidden, -1000.0).softmax(dim=-1)  # as theirs: exp(-1000) is 0


class _Values(nn.Module):
    def __init__(self, model_dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.proj = nn.Linear(model_dim, num_heads * head_dim)
        self.out = nn.Linear(num_heads * head_dim, model_dim)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        values = self.proj(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        summed: Tensor = self.out((weights @ values).transpose(1, 2).flatten(2))
        return summed


class _GatedAttention(nn.Module):
    """Three quarters as many channels, gated, summed by the weights of the first head, and gated again."""

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        hidden_dim = 3 * model_dim // 4
        self.proj = nn.Linear(model_dim, 3 * hidden_dim)
        self.out = nn.Linear(hidden_dim, model_dim)

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        before, x, behind = self.proj(x).chunk(3, dim=2)
        gated: Tensor = self.out((weights @ (x * before.tanh())) * behind)
        return gated


class _Convolution(nn.Module):
    def __init__(self, model_dim: int, kernel_size: int) -> None:
        super().__init__()
        self.proj = nn.Linear(model_dim, 2 * model_dim)
        self.depthwise = DepthwiseConv(model_dim, kernel_size)
        self.out = nn.Linear(model_dim, model_dim)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        y: Tensor = self.out(_swoosh_r(self.depthwise(F.glu(self.proj(x), dim=2), context)))
        return y


class _Perceptron(nn.Module):
    def __init__(self, model_dim: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.proj = nn.Linear(model_dim, hidden_dim)
        self.dropout = Dropout(dropout)
        self.out = nn.Linear(hidden_dim, model_dim)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(self.dropout(_swoosh_l(self.proj(x))))
        return y


class _Bypass(nn.Module):
    """A learned share, of each channel, of what was computed; the rest is what went in."""

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((model_dim,), 0.5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + (y - x) * self.scale


class _BiasNorm(nn.Module):
    """Scale by the root mean square of what is left of the bias (equation 2): the length of a vector can be kept."""

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(model_dim))
        self.log_scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        power = (x - self.bias).square().mean(dim=-1, keepdim=True)
        return x * power.rsqrt() * self.log_scale.exp()


class _Downsampling(nn.Module):
    """Means of neighbouring positions, weighted; a group that is not full repeats the last position."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(factor))

    def forward(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        factor = len(self.weight)
        num_groups = (x.size(1) + factor - 1) // factor
        places = torch.arange(num_groups * factor, device=x.device)
        places = torch.minimum(places, lens[:, None] - 1)
        groups = x.gather(1, places[..., None].expand(-1, -1, x.size(2))).view(len(x), num_groups, factor, -1)
        out_lens = torch.div(lens + factor - 1, factor, rounding_mode="floor")
        return (groups * self.weight.softmax(0)[:, None]).sum(2), out_lens


def _compact_positions(num_positions: int, dim: int, device: torch.device) -> Tensor:
    """Return (2 N - 1, dim) for distances from 1 - N to N - 1, key less query: sines of what squeezes them to a circle.

    Near 0 they are told apart, far away the less the farther: logarithms, then arctangents. The last channel is 1.
    """
    distances = torch.arange(1 - num_positions, num_positions, device=device, dtype=torch.float32)[:, None]
    unit = math.sqrt(dim)
    squeezed = unit * distances.sign() * ((distances.abs() + unit).log() - math.log(unit))
    angles = (squeezed * 2 * math.pi / dim).atan() * torch.arange(1, dim // 2 + 1, device=device)
    table = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)
    table[:, -1] = 1.0
    return table


def _swoosh_l(x: Tensor) -> Tensor:
    return F.softplus(x - 4.0) - 0.08 * x - 0.035


def _swoosh_r(x: Tensor) -> Tensor:
    return F.softplus(x - 1.0) - 0.08 * x - 0.313261687
