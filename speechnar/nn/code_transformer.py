"""The transformer over codes of sound: frames see all others, those nearby, or those before; all see a condition.

Shapes: B utterances, T frames, N queries, P wanted frames, L cached frames, M memory tokens, R rows with a memory,
D model width, H heads, W frames of a block.
Sources: Copet et al., "Simple and Controllable Music Generation", NeurIPS 2023, section 2 (the layers, as audiocraft's
``StreamingTransformer`` lays them out); Ziv et al., "Masked Audio Generation using a Single Non-Autoregressive
Transformer", ICLR 2024, section 3.2 (restricted context); Su et al., "RoFormer", 2021 (rotary positions);
Press et al., "Train Short, Test Long", ICLR 2022 (attention with linear biases).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.decoder import KeyValueCache
from speechnar.nn.dropout import Dropout
from speechnar.nn.positions import rotary_angles_at, rotate

BLOCK_FRAMES = 32
"""Queries whose neighbours are multiplied at one go in local attention."""
NORM_EPS = 1e-5


class Memory:
    """A memory (R, M, D) that many calls of layers that do not learn look at: each projects it once."""

    def __init__(self, features: Tensor) -> None:
        self.features = features
        self._projected: dict[MemoryAttention, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        """Return R."""
        return len(self.features)

    def seen_by(self, attention: "MemoryAttention") -> tuple[Tensor, Tensor]:
        """Return what ``attention`` projects it to."""
        if attention not in self._projected:
            self._projected[attention] = attention.project(self.features)
        return self._projected[attention]


@dataclass(frozen=True)
class CodeContext:
    """What all layers of one call know."""

    reach: int | None = None
    """Frames before and after that each may see; None: all."""
    mask: Tensor | None = None
    """(B or 1, H or 1, N, L + N) bool, True where a frame may see another, or float, added to scores; not with
    ``reach``."""
    is_causal: bool = False
    """Each frame sees those before it and itself; not with ``reach`` or ``mask``."""
    memory: Tensor | Memory | None = None
    """(R, M, D) what the frames of the first R rows look at, where the layers have cross-attention."""
    angles: Tensor | None = None
    """(N, D / H) or (B, N, D / H) by which queries and keys are turned; None: positions were added to the frames."""

    def mask_of(self, wanted: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Return the mask of the frames ``wanted`` (B, P), or of all, for queries of ``dtype``."""
        mask = self.mask
        if mask is None:
            return None
        if wanted is not None:
            mask = mask.expand(len(wanted), -1, -1, -1)
            mask = mask.gather(2, wanted[:, None, :, None].expand(-1, mask.size(1), -1, mask.size(3)))
        return mask if mask.dtype == torch.bool else mask.to(dtype)


class CodeTransformer(nn.Module):
    """Layers of attention and a perceptron, each behind its norm, without biases but in the norms.

    Args:
        model_dim: D.
        num_layers: of these.
        num_heads: H.
        ff_dim: hidden units of a perceptron.
        dropout: behind each part.
        has_memory: layers also attend to a memory.
    """

    def __init__(
        self, model_dim: int, num_layers: int, num_heads: int, ff_dim: int, *, dropout: float, has_memory: bool
    ) -> None:
        super().__init__()
        if num_heads < 1 or model_dim % (2 * num_heads):
            raise ConfigError(f"model_dim must be a multiple of 2 num_heads, got {model_dim} and {num_heads}")
        self.layers = nn.ModuleList(
            CodeLayer(model_dim, num_heads, ff_dim, dropout=dropout, has_memory=has_memory) for _ in range(num_layers)
        )
        for depth, layer in enumerate(self.layers):
            initialize(layer, depth)

    def new_caches(self) -> list[KeyValueCache]:
        """Return an empty cache for each layer."""
        return [KeyValueCache() for _ in self.layers]

    def forward(
        self,
        x: Tensor,
        context: CodeContext,
        caches: Sequence[KeyValueCache] | None = None,
        wanted: Tensor | None = None,
    ) -> Tensor:
        """Map ``x`` (B, N, D) to (B, N, D), or to (B, P, D) of the frames ``wanted`` (B, P).

        With caches the frames go on from the L in there, and are added to them.
        """
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            x = layer(x, context, None if caches is None else caches[index], wanted if index == last else None)
        return x


class CodeLayer(nn.Module):
    """Self-attention, cross-attention where there is a memory, and a perceptron, each added to its input."""

    def __init__(self, model_dim: int, num_heads: int, ff_dim: int, *, dropout: float, has_memory: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_attention = nn.LayerNorm(model_dim, NORM_EPS)
        self.qkv = nn.Linear(model_dim, 3 * model_dim, bias=False)
        self.out = nn.Linear(model_dim, model_dim, bias=False)
        self.norm_memory = nn.LayerNorm(model_dim, NORM_EPS) if has_memory else None
        self.memory = MemoryAttention(model_dim, num_heads) if has_memory else None
        self.norm_ff = nn.LayerNorm(model_dim, NORM_EPS)
        self.expand = nn.Linear(model_dim, ff_dim, bias=False)
        self.contract = nn.Linear(ff_dim, model_dim, bias=False)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, context: CodeContext, cache: KeyValueCache | None, wanted: Tensor | None = None
    ) -> Tensor:
        """Map ``x`` (B, N, D) to (B, N, D), or to (B, P, D) of the frames ``wanted`` (B, P)."""
        q, k, v = self.project(x, context.angles)
        q = q.transpose(1, 2)
        if cache is None:
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        else:
            k, v = cache.append(k, v)
        if context.reach is None:
            if wanted is not None:
                q = q.gather(2, wanted[:, None, :, None].expand(-1, q.size(1), -1, q.size(3)))
            mask = context.mask_of(wanted, q.dtype)
            y = F.scaled_dot_product_attention(q, k, v, mask, is_causal=context.is_causal and q.size(2) > 1)
        else:
            y = local_attention(q, k, v, context.reach)
        y = y.transpose(1, 2).flatten(2)
        if wanted is not None:
            index = wanted[..., None].expand(-1, -1, x.size(2))
            x, y = x.gather(1, index), y.gather(1, index) if context.reach is not None else y
        return self.rest(x + self.dropout(self.out(y)), context.memory)

    def project(self, x: Tensor, angles: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Map ``x`` (B, N, D) to queries, keys and values (B, N, H, D / H); ``angles`` as in `CodeContext`."""
        qkv = self.qkv(self.norm_attention(x)).unflatten(2, (3, self.num_heads, -1))
        q, k, v = qkv.unbind(2)
        if angles is not None:
            q, k = rotate(qkv[:, :, :2], angles[..., None, None, :]).unbind(2)
        return q, k, v

    def rest(self, x: Tensor, memory: Tensor | Memory | None) -> Tensor:
        """Return what comes of ``x`` (B, N, D) behind self-attention; ``memory`` as in `CodeContext`."""
        if self.memory is not None and memory is not None:
            norm, rows = cast(nn.LayerNorm, self.norm_memory), x[: len(memory)]
            seen = rows + self.dropout(self.memory(norm(rows), memory))
            x = seen if len(memory) == len(x) else torch.cat([seen, x[len(memory) :]])
        return x + self.dropout(self.contract(F.gelu(self.expand(self.norm_ff(x)))))


class MemoryAttention(nn.Module):
    """Attention of frames to a memory without mask: what is no token there is a zero vector that is seen all the same.

    This is how audiocraft's models were trained.
    """

    def __init__(self, model_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(model_dim, model_dim, bias=False)
        self.key_value = nn.Linear(model_dim, 2 * model_dim, bias=False)
        self.out = nn.Linear(model_dim, model_dim, bias=False)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``memory`` (B, M, D) to keys and values (B, H, M, D / H)."""
        k, v = self.key_value(memory).unflatten(2, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v

    def forward(self, x: Tensor, memory: Tensor | Memory) -> Tensor:
        """Map ``x`` (B, N, D) and ``memory`` (B, M, D) to (B, N, D)."""
        q = self.query(x).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
        k, v = memory.seen_by(self) if isinstance(memory, Memory) else self.project(memory)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def initialize(layer: nn.Module, depth: int) -> None:
    """Draw the linear layers in ``layer``, ``depth`` from below, as audiocraft does: narrower the deeper they are."""
    for module in layer.modules():
        if isinstance(module, nn.Linear):
            std = 1 / math.sqrt(module.in_features) / math.sqrt(2 * (depth + 1))
            nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)


def relative_context(
    queries: Tensor,
    keys: Tensor,
    *,
    num_heads: int,
    head_dim: int,
    reach: int | None = None,
    mask: Tensor | None = None,
    memory: Tensor | Memory | None = None,
) -> CodeContext:
    """Return the context of frames that know how far they are from others, and heads most of which prefer the near.

    Rotations tell distances. Where all frames are seen, what is ``d`` frames away is scored lower by ``s d``, with
    slopes ``s`` from 1 down to 2^(-8 (H - 1) / H), one of each head: that neighbours tell most is
    found out late otherwise.

    Args:
        queries: (N,) or (B, N) positions of the frames.
        keys: (L + N,) or (B, L + N) positions of all that are seen, with those in caches.
        num_heads: H.
        head_dim: D / H.
        reach: as in `CodeContext`; no frame is scored lower then.
        mask: bool (B or 1, N, L + N), True where a frame may see another.
        memory: as in `CodeContext`.
    """
    angles = rotary_angles_at(queries, head_dim)
    if reach is not None:
        return CodeContext(reach=reach, memory=memory, angles=angles)
    slopes = 2.0 ** (-8 / num_heads * torch.arange(num_heads, device=queries.device))
    distances = (queries[..., :, None] - keys[..., None, :]).abs()
    scores = -slopes[:, None, None] * distances.view(-1, 1, *distances.shape[-2:])
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None], -torch.inf)
    return CodeContext(mask=scores, memory=memory, angles=angles)


def local_attention(q: Tensor, k: Tensor, v: Tensor, reach: int) -> Tensor:
    """Return attention (B, H, T, D / H) where frame i sees the frames i - reach to i + reach, exactly.

    Queries are taken in blocks, each multiplied with its own neighbourhood only: the cost grows with T, not T^2.
    """
    num_frames = q.size(2)
    block = BLOCK_FRAMES
    extra = -num_frames % block
    q = F.pad(q, (0, 0, 0, extra)).reshape(*q.shape[:2], -1, block, q.size(3))  # (B, H, T / W, W, D / H)
    edges = (0, 0, reach, reach + extra)
    k = F.pad(k, edges).unfold(2, block + 2 * reach, block)  # (B, H, T / W, D / H, W + 2 reach)
    v = F.pad(v, edges).unfold(2, block + 2 * reach, block).transpose(3, 4)
    rows = torch.arange(num_frames + extra, device=q.device).view(-1, block, 1)
    starts = torch.arange(0, num_frames + extra, block, device=q.device).view(-1, 1, 1)
    columns = starts + torch.arange(-reach, block + reach, device=q.device)
    seen = ((rows - columns).abs() <= reach) & (columns >= 0) & (columns < num_frames)
    seen = seen | (rows >= num_frames)  # rows of padding see something, so that they stay finite
    scores = (q * q.size(4) ** -0.5) @ k
    weights = scores.float().masked_fill(~seen, -torch.inf).softmax(-1).to(v.dtype)
    return (weights @ v).flatten(2, 3)[:, :, :num_frames]


def frame_sinusoids(positions: Tensor, model_dim: int) -> Tensor:
    """Map ``positions`` (...) to float32 (..., D): cosines, then sines, of rates from 1 down to exactly 1 / 10000."""
    half = model_dim // 2
    exponents = torch.arange(half, device=positions.device, dtype=torch.float32) / (half - 1)
    angles = positions.float()[..., None] / 10000.0**exponents
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
