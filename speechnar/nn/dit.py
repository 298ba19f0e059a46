"""The diffusion transformer: tokens each of which has a time, and a position that may be any real number.

Shapes: B utterances, N tokens of this call, L cached tokens before them, D model width, H heads, E distinct times.
Sources: Peebles and Xie, "Scalable Diffusion Models with Transformers", ICCV 2023, section 3.2 (adaLN-Zero); Chen et
al., "PixArt-alpha", ICLR 2024, section 2.3 (adaLN-single: layers share one projection of the time, each with its own
offset); Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024 (a time for each token);
Su et al., "RoFormer", 2021 (rotary positions).
"""

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.decoder import KeyValueCache
from speechnar.nn.dropout import Dropout
from speechnar.nn.positions import rotary_angles_at, rotate, sinusoids

ModulationKind = Literal["per_layer", "shared"]
TIME_CHANNELS = 256
TIME_SCALE = 1000.0
"""The sinusoids were made for integer steps; in their units a flow is this long."""
NORM_EPS = 1e-6


class DiffusionTransformer(nn.Module):
    """Embedded tokens and their times to features; a new one returns its normalised input.

    ``modulation="per_layer"`` is DiT's adaLN-Zero, a projection of 6 D^2 weights in each layer; ``"shared"`` is
    adaLN-single, with one for all of them.
    """

    def __init__(
        self,
        model_dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        modulation: ModulationKind,
        dropout: float,
    ) -> None:
        super().__init__()
        if num_heads < 1 or model_dim % (2 * num_heads):
            raise ConfigError(
                f"model_dim must be a multiple of 2 num_heads (pairs of channels rotate), got {model_dim}, {num_heads}"
            )
        self.head_dim = model_dim // num_heads
        self.time = nn.Sequential(nn.Linear(TIME_CHANNELS, model_dim), nn.SiLU(), nn.Linear(model_dim, model_dim))
        is_shared = modulation == "shared"
        self.shared = nn.Linear(model_dim, 6 * model_dim) if is_shared else nn.Identity()
        self.layers = nn.ModuleList(
            _Layer(
                model_dim,
                num_heads,
                ff_dim,
                modulation=_Offset(6 * model_dim) if is_shared else nn.Linear(model_dim, 6 * model_dim),
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(model_dim, NORM_EPS, elementwise_affine=False)
        self.modulation = nn.Linear(model_dim, 2 * model_dim)
        self._initialize()

    def _initialize(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Gates start closed, and every layer as the identity (adaLN-Zero).
        for module in (self.shared, self.modulation, *(cast(_Layer, layer).modulation for layer in self.layers)):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)

    def new_caches(self) -> list[KeyValueCache]:
        """Return an empty cache for each layer."""
        return [KeyValueCache() for _ in self.layers]

    def forward(
        self,
        x: Tensor,
        times: Tensor,
        positions: Tensor,
        visible: Tensor | None,
        caches: list[KeyValueCache] | None = None,
    ) -> Tensor:
        """Map ``x`` (B, N, D) to (B, N, D).

        Args:
            x: embedded tokens.
            times: (B, N) float32.
            positions: (B, N) float32.
            visible: bool (B, N, L + N), True where a token (row) may see another one, each at least one; None when
                all see all.
            caches: of each layer; the tokens go on from the L in there, and are added to them.
        """
        distinct, which = _distinct(times)
        condition = F.silu(self.time(sinusoids(distinct * TIME_SCALE, TIME_CHANNELS)))  # (E, D)
        context = _Context(
            condition=self.shared(condition),
            which=which,
            angles=rotary_angles_at(positions, self.head_dim)[:, :, None],
            mask=None if visible is None else _penalties(visible, x.dtype)[:, None],
        )
        for index, layer in enumerate(self.layers):
            x = layer(x, context, None if caches is None else caches[index])
        shift, scale = F.embedding(which, self.modulation(condition)).chunk(2, dim=-1)
        return _modulate(self.norm(x), shift, scale)


@dataclass(frozen=True, kw_only=True)
class _Context:
    """What all layers of one call know about its tokens."""

    condition: Tensor
    """(E, D), or (E, 6 D) where layers share the projection."""
    which: Tensor
    """(B, N) int64, the time of each token among the distinct ones."""
    angles: Tensor
    """(B, N, 1, D / H)"""
    mask: Tensor | None
    """(B, 1, N, L + N), added to the scores"""


class _Layer(nn.Module):
    """Attention and a perceptron, each shifted, scaled and gated by the tokens' times."""

    def __init__(self, model_dim: int, num_heads: int, ff_dim: int, *, modulation: nn.Module, dropout: float) -> None:
        super().__init__()
        self.modulation = modulation
        self.norm = nn.LayerNorm(model_dim, NORM_EPS, elementwise_affine=False)
        self.attention = _RotaryAttention(model_dim, num_heads)
        self.ff = nn.Sequential(
            nn.Linear(model_dim, ff_dim), nn.GELU(approximate="tanh"), Dropout(dropout), nn.Linear(ff_dim, model_dim)
        )
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: _Context, cache: KeyValueCache | None) -> Tensor:
        # (E, 6 D) to six of (B, N, D)
        modulation = F.embedding(context.which, self.modulation(context.condition))
        shift_a, scale_a, gate_a, shift_f, scale_f, gate_f = modulation.chunk(6, dim=-1)
        attended = self.attention(_modulate(self.norm(x), shift_a, scale_a), context, cache)
        x = x + gate_a * self.dropout(attended)
        return x + gate_f * self.dropout(self.ff(_modulate(self.norm(x), shift_f, scale_f)))


class _Offset(nn.Module):
    """What one layer adds to the modulation that all layers share."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(size))

    def forward(self, shared: Tensor) -> Tensor:
        return shared + self.offset


class _RotaryAttention(nn.Module):
    """Self-attention with one fused projection; queries and keys are rotated, and cached so."""

    def __init__(self, model_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(model_dim, 3 * model_dim)
        self.out = nn.Linear(model_dim, model_dim)

    def forward(self, x: Tensor, context: _Context, cache: KeyValueCache | None) -> Tensor:
        batch, num_tokens, model_dim = x.shape
        heads = self.qkv(x).view(batch, num_tokens, 3 * self.num_heads, -1)
        q, k = rotate(heads[:, :, : 2 * self.num_heads], context.angles).chunk(2, dim=2)  # each (B, N, H, D / H)
        v = heads[:, :, 2 * self.num_heads :]
        if cache is None:
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        else:
            k, v = cache.append(k, v)
        y = _attend(q.transpose(1, 2), k, v, context.mask)
        return self.out(y.transpose(1, 2).reshape(batch, num_tokens, model_dim))


def _distinct(times: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct ``times`` (B, N), (E,), and the place of each among them, (B, N).

    A batch has few: what they do to a layer is computed once for each. A graph that is exported has all of them.
    """
    if torch.compiler.is_exporting():
        return times.flatten(), torch.arange(times.numel(), device=times.device).view(times.shape)
    return torch.unique(times, return_inverse=True)


def _penalties(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to the scores of attention, which are of ``dtype`` or the half precision of autocast."""
    device = visible.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill(~visible, -torch.inf)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Return attention (B, H, N, D / H) of ``q`` (B, H, N, D / H) to ``k`` and ``v`` (B, H, L + N, D / H).

    To learn with a mask in half precision on a CPU, three products take half as long as the kernel, whose backward pass
    computes the scores again.
    """
    if mask is None or q.dtype != torch.bfloat16 or q.device.type != "cpu" or not q.requires_grad:
        return F.scaled_dot_product_attention(q, k, v, mask)
    scores = torch.baddbmm(
        mask.expand(-1, q.size(1), -1, -1).flatten(0, 1), q.flatten(0, 1) * q.size(3) ** -0.5, k.flatten(0, 1).mT
    )
    return torch.bmm(scores.softmax(-1), v.flatten(0, 1)).view(q.shape)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift
