"""Convolutions over time that never see padding: depthwise, the Conformer module, the gating MLP, subsampling.

Shapes: B utterances, T frames, F features, D model width, C channels, K kernel.
Sources: Gulati et al., "Conformer", 2020, section 2.2; Peng et al., "Branchformer", 2022, section 3.3 (cgMLP);
Kim et al., "E-Branchformer", 2022; Rekesh et al., "Fast Conformer with Linearly Scalable Attention for Efficient Speech
Recognition", ASRU 2023, section 2.1 (separable subsampling).
"""

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.context import BlockContext
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import valid_mask, zero_padding

ConvNorm = Literal["batch", "layer", "group"]


class DepthwiseConv(nn.Conv1d):
    """Depthwise convolution over (B, T, C), zero outside the utterance and, in chunked mode, beyond the chunk's end.

    A frame sees as many frames behind it as before it or, with ``causal``, none behind it. With a ``stride``, for which
    there are no chunks, it is computed for every so many frames, the first included.
    """

    def __init__(self, channels: int, kernel_size: int, *, causal: bool = False, stride: int = 1) -> None:
        if kernel_size % 2 == 0:
            raise ConfigError(f"kernel_size must be odd, got {kernel_size}")
        self.num_before = kernel_size - 1 if causal else kernel_size // 2
        super().__init__(channels, channels, kernel_size, stride, self.num_before, groups=channels)

    def forward(self, x: Tensor, context: BlockContext, name: str = "conv") -> Tensor:  # type: ignore[override]
        """Map ``x`` (B, T, C) to (B, T / stride, C); ``name`` tells this convolution's cache from its neighbours'."""
        if not context.leaky_padding:
            x = zero_padding(x, context.valid)
        if context.chunking is None:
            return super().forward(x.transpose(1, 2))[..., : x.size(1)].transpose(1, 2)
        return self._by_chunks(x, context, name)

    def _by_chunks(self, x: Tensor, context: BlockContext, name: str) -> Tensor:
        assert context.chunking is not None
        batch, num_frames, channels = x.shape
        chunk, num_before = context.chunking.chunk_frames, self.num_before
        num_behind = self.kernel_size[0] - 1 - num_before
        past = context.cache.conv.get(name) if context.cache else None
        x = torch.cat([x.new_zeros(batch, num_before, channels) if past is None else past, x], dim=1)
        if context.cache is not None:
            context.cache.conv[name] = x[:, x.size(1) - num_before :]
        num_chunks = -(-num_frames // chunk)
        x = F.pad(x, (0, 0, 0, num_chunks * chunk - num_frames))
        windows = F.pad(x.unfold(1, num_before + chunk, chunk), (0, num_behind))  # (B, N, C, K - 1 + chunk)
        y = F.conv1d(windows.flatten(0, 1), self.weight, self.bias, groups=channels)  # (B N, C, chunk)
        return y.view(batch, num_chunks, channels, chunk).transpose(2, 3).flatten(1, 2)[:, :num_frames]


class MaskedGroupNorm(nn.Module):
    """GroupNorm with one group over the real frames of each utterance (Wu and He 2018, section 3): never over padding.

    Differs from `torch.nn.GroupNorm`, whose statistics count padding, so that an utterance depends on its batch.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map ``x`` (B, T, C), real where ``valid`` (B, T), to (B, T, C); statistics are float32."""
        count = (valid.sum(1) * x.size(2)).clamp(min=1)[:, None, None]
        y = zero_padding(x.float(), valid)
        y = zero_padding(y - y.sum((1, 2), keepdim=True) / count, valid)
        factors = (y.square().sum((1, 2), keepdim=True) / count + self.eps).rsqrt() * self.weight
        return torch.addcmul(self.bias, y, factors).to(x.dtype)


class ConformerConv(nn.Module):
    """Conformer's convolution module: pointwise + GLU, depthwise, norm, Swish, pointwise."""

    def __init__(
        self,
        model_dim: int,
        kernel_size: int,
        *,
        norm: ConvNorm = "layer",
        norm_eps: float = 1e-5,
        causal: bool = False,
        expansion: int = 1,
        stride: int = 1,
    ) -> None:
        super().__init__()
        inner_dim = expansion * model_dim
        self.pointwise_in = nn.Linear(model_dim, 2 * inner_dim)
        self.depthwise = DepthwiseConv(inner_dim, kernel_size, causal=causal, stride=stride)
        # Batch statistics would see padding and depend on the batch while training; the others do not.
        self.norm: nn.Module
        match norm:
            case "batch":
                self.norm = nn.BatchNorm1d(inner_dim)
            case "layer":
                self.norm = nn.LayerNorm(inner_dim, norm_eps)
            case "group":
                self.norm = MaskedGroupNorm(inner_dim)
        self.pointwise_out = nn.Linear(inner_dim, model_dim)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map ``x`` (B, T, D) to (B, ceil(T / stride), D)."""
        x = self.depthwise(F.glu(self.pointwise_in(x), dim=-1), context)
        match self.norm:
            case nn.BatchNorm1d():
                x = self.norm(x.transpose(1, 2)).transpose(1, 2)
            case MaskedGroupNorm():
                x = self.norm(x, torch.ones_like(context.valid) if context.leaky_padding else context.valid)
            case _:
                x = self.norm(x)
        return self.pointwise_out(F.silu(x))


class ConvGatingMlp(nn.Module):
    """cgMLP: an MLP one half of which is gated by a convolution of the other (Branchformer, equations 3 to 6)."""

    activated: ClassVar[tuple[str, ...]] = ("proj_in",)
    """Behind what ``activation`` stands; it may be computed along (`speechnar.models.prepare`)."""

    def __init__(self, model_dim: int, hidden_dim: int, kernel_size: int, *, dropout: float, norm_eps: float) -> None:
        super().__init__()
        if hidden_dim % 2:
            raise ConfigError(f"the gating MLP's hidden_dim must be even, got {hidden_dim}")
        self.proj_in = nn.Linear(model_dim, hidden_dim)
        self.activation = nn.GELU()
        self.norm = nn.LayerNorm(hidden_dim // 2, norm_eps)
        self.depthwise = DepthwiseConv(hidden_dim // 2, kernel_size)
        self.dropout = Dropout(dropout)
        self.proj_out = nn.Linear(hidden_dim // 2, model_dim)
        # The gate starts as (nearly) the identity, as in ESPnet.
        nn.init.normal_(self.depthwise.weight, std=1e-6)
        if self.depthwise.bias is not None:
            nn.init.ones_(self.depthwise.bias)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        kept, gate = self.activation(self.proj_in(x)).chunk(2, dim=-1)
        gate = self.depthwise(self.norm(gate), context, "gate")
        return self.proj_out(self.dropout(kept * gate))


# (kernel, stride) of each 3x3-like convolution, by total factor; no padding, as in ESPnet.
SUBSAMPLING_CONVS = {4: ((3, 2), (3, 2)), 6: ((3, 2), (5, 3)), 8: ((3, 2), (3, 2), (3, 2))}


class ConvSubsampling(nn.Module):
    """2-D convolutions that shorten time by 4, 6 or 8, then a projection to the model width.

    An output frame exists where all the frames it looks at are real, so an utterance has as many frames in a batch as
    alone. Utterances too short for one output frame are extended with zeros to one.
    Differs from ESPnet, which counts a frame in a batch as soon as its first input is real (``leaky_padding``).
    With ``padding=1`` every convolution sees a zero at both ends of time and features, so that T frames become
    ceil(T / 4), the last of which may look beyond the end (CASS-NAT). With ``separable`` all but the first are of each
    channel by itself, and a linear map of channels follows (Rekesh et al. 2023).
    """

    activated: ClassVar[tuple[str, ...]] = ("convs",)
    """Behind each of which ``activation`` stands; it may be computed along (`speechnar.models.prepare`)."""

    def __init__(
        self,
        num_features: int,
        model_dim: int,
        *,
        factor: int = 4,
        channels: int | None = None,
        padding: int = 0,
        separable: bool = False,
    ) -> None:
        super().__init__()
        if factor not in SUBSAMPLING_CONVS:
            raise ConfigError(f"subsampling must be one of {sorted(SUBSAMPLING_CONVS)}, got {factor}")
        self.factor = factor
        self.shape = SUBSAMPLING_CONVS[factor]
        self.padding = padding
        channels = channels or model_dim
        first, *others = self.shape
        self.convs = nn.ModuleList([nn.Conv2d(1, channels, *first, padding)])
        for kernel, stride in others:
            conv = nn.Conv2d(channels, channels, kernel, stride, padding, groups=channels if separable else 1)
            self.convs.append(nn.Sequential(conv, nn.Conv2d(channels, channels, 1)) if separable else conv)
        self.activation = nn.ReLU()
        self.proj = nn.Linear(channels * self._shorten(num_features), model_dim)

    def _shorten(self, length: int) -> int:
        for kernel, stride in self.shape:
            length = (length + 2 * self.padding - kernel) // stride + 1
        if length < 1:
            raise ConfigError(f"subsampling by {self.factor} needs more features than it was given")
        return length

    @property
    def min_frames(self) -> int:
        """Feature frames that make one output frame."""
        frames = 1
        for kernel, stride in reversed(self.shape):
            frames = (frames - 1) * stride + kernel - 2 * self.padding
        return frames

    def out_lens(self, feat_lens: Tensor) -> Tensor:
        """Map feature frames (B,) to output frames (B,), at least one each."""
        for shape in self.shape:
            feat_lens = self._shortened_lens(feat_lens, *shape)
        return feat_lens.clamp(min=1)

    def _shortened_lens(self, lens: Tensor, kernel: int, stride: int) -> Tensor:
        return torch.div(lens + 2 * self.padding - kernel, stride, rounding_mode="floor") + 1

    def leaky_out_lens(self, feat_lens: Tensor, max_len: int) -> Tensor:
        """Map (B,) to (B,) by ESPnet's rule: count the output frames whose first input frame is real."""
        num_out = max_len  # a number, not a tensor: in a graph it is computed from a size
        for kernel, stride in self.shape:
            num_out = (num_out + 2 * self.padding - kernel) // stride + 1
        starts = torch.arange(max(1, num_out), device=feat_lens.device) * self.factor
        return (starts < feat_lens[:, None]).sum(1)

    def forward(self, feats: Tensor, feat_lens: Tensor | None = None) -> Tensor:
        """Map ``feats`` (B, T, F), zero in padding, to (B, T', D).

        With ``padding=1`` a frame sees what lies behind the last one: zeros, if ``feat_lens`` (B,) is given.
        """
        feats = F.pad(feats, (0, 0, 0, max(0, self.min_frames - feats.size(1))))
        x = feats.unsqueeze(1)
        lens = feat_lens if self.padding else None
        for conv, shape in zip(self.convs, self.shape, strict=True):
            x = self.activation(conv(x))
            if lens is not None:
                lens = self._shortened_lens(lens, *shape)
                x = zero_padding(x.permute(0, 2, 3, 1), valid_mask(lens, x.size(2))).permute(0, 3, 1, 2)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, T', C F'), channels major


class FrameJoining(nn.Module):
    """Neighbouring frames side by side, then a projection to the model width: T frames become ceil(T / factor).

    What a last, incomplete group misses is 0. With ``partial=False`` there is no such group, unless it is the first:
    floor(T / factor). With ``norm_eps`` a LayerNorm stands before the projection. With ``deltas`` every frame is
    followed by its slope, half the difference of its neighbours, of which the ends of an utterance are their own.
    """

    def __init__(
        self,
        num_features: int,
        model_dim: int,
        *,
        factor: int,
        partial: bool = True,
        norm_eps: float | None = None,
        deltas: bool = False,
    ) -> None:
        super().__init__()
        self.factor = self.min_frames = factor
        self.partial = partial
        self.deltas = deltas
        joined_dim = factor * num_features * (1 + deltas)
        self.norm = nn.Identity() if norm_eps is None else nn.LayerNorm(joined_dim, norm_eps)
        self.proj = nn.Linear(joined_dim, model_dim)

    def out_lens(self, feat_lens: Tensor) -> Tensor:
        """Map frames (B,) to groups (B,), at least one each."""
        counted = feat_lens + self.factor - 1 if self.partial else feat_lens
        return torch.div(counted, self.factor, rounding_mode="floor").clamp(min=1)

    def forward(self, feats: Tensor, feat_lens: Tensor | None = None) -> Tensor:
        """Map ``feats`` (B, T, F), zero in padding, to (B, T', D)."""
        if self.deltas:
            feats = torch.cat([feats, _slopes(feats, feat_lens)], dim=2)
        num_groups = max(1, (feats.size(1) + (self.factor - 1 if self.partial else 0)) // self.factor)
        padded = F.pad(feats, (0, 0, 0, num_groups * self.factor - feats.size(1)))
        return self.proj(self.norm(padded.reshape(feats.size(0), num_groups, self.factor * feats.size(2))))


def _slopes(feats: Tensor, feat_lens: Tensor | None) -> Tensor:
    """Return half the difference of the neighbours of each frame (B, T, F), 0 in padding (``feat_lens``: none)."""
    places = torch.arange(feats.size(1), device=feats.device)
    last = places.new_full((len(feats), 1), feats.size(1) - 1) if feat_lens is None else feat_lens[:, None] - 1
    behind = torch.minimum(places + 1, last)[..., None].expand_as(feats)
    slopes = (feats.gather(1, behind) - F.pad(feats, (0, 0, 1, 0), mode="replicate")[:, :-1]) / 2
    return slopes.masked_fill((places > last)[..., None], 0.0)
