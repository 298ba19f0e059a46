"""The encoder blocks, Conformer and E-Branchformer, each with optional cross-attention to a prompt.

Shapes: B utterances, T frames, D model width.
Sources: Gulati et al., "Conformer", 2020, figure 1; Kim et al., "E-Branchformer", 2022, figure 2; Peng et al.,
"Branchformer", 2022, figure 1; Peng et al., "OWSM-CTC", 2024, figure 1 (cross-attention behind the second feed-forward
module, before the last norm).
"""

import torch
from torch import Tensor, nn

from speechnar.nn.attention import CrossAttention, PositionKind, SelfAttention
from speechnar.nn.context import BlockContext
from speechnar.nn.conv import ConformerConv, ConvGatingMlp, ConvNorm, DepthwiseConv
from speechnar.nn.dropout import Dropout


class FeedForward(nn.Sequential):
    """Pre-normed two-layer perceptron: LayerNorm, Linear, activation, dropout, Linear, dropout."""

    def __init__(
        self, model_dim: int, hidden_dim: int, *, dropout: float, norm_eps: float, activation: nn.Module | None = None
    ) -> None:
        super().__init__(
            nn.LayerNorm(model_dim, norm_eps),
            nn.Linear(model_dim, hidden_dim),
            activation or nn.SiLU(),
            Dropout(dropout),
            nn.Linear(hidden_dim, model_dim),
            Dropout(dropout),
        )

    def norm_last(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, T, D) to LayerNorm(x + perceptron(x)), as Vaswani et al. (2017) have it: the norm goes last."""
        norm, *perceptron = self
        y = x
        for module in perceptron:
            y = module(y)
        return norm(x + y)


class _PromptAttention(nn.Module):
    """Pre-normed residual cross-attention to the prompt memory."""

    def __init__(
        self, model_dim: int, num_heads: int, *, dropout: float, attention_dropout: float, norm_eps: float
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model_dim, norm_eps)
        self.attention = CrossAttention(model_dim, num_heads, dropout=attention_dropout)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Add to ``x`` (B, T, D) what it finds in ``context.memory``, or nothing where there is none."""
        if context.memory is None:
            return x
        return x + self.dropout(self.attention(self.norm(x), context.memory, context.memory_mask))


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, norm (left out without ``last_norm``).

    With ``halves`` the convolution leaves every second frame, and what passes by it is the mean of pairs of frames.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        ff_dim: int,
        *,
        kernel_size: int,
        positions: PositionKind,
        conv_norm: ConvNorm,
        cross_attention: bool,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
        last_norm: bool = True,
        max_distances: tuple[int, int] = (0, 0),
        causal_conv: bool = False,
        conv_expansion: int = 1,
        attention_block: int | None = None,
        halves: bool = False,
    ) -> None:
        super().__init__()
        self.ff_macaron = FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)
        self.norm_attention = nn.LayerNorm(model_dim, norm_eps)
        self.attention = SelfAttention(
            model_dim,
            num_heads,
            dropout=attention_dropout,
            positions=positions,
            max_distances=max_distances,
            block_frames=attention_block,
        )
        self.norm_conv = nn.LayerNorm(model_dim, norm_eps)
        self.halves = halves
        self.conv = ConformerConv(
            model_dim,
            kernel_size,
            norm=conv_norm,
            norm_eps=norm_eps,
            causal=causal_conv,
            expansion=conv_expansion,
            stride=1 + halves,
        )
        self.ff = FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)
        self.prompt_attention = (
            _PromptAttention(
                model_dim, num_heads, dropout=dropout, attention_dropout=attention_dropout, norm_eps=norm_eps
            )
            if cross_attention
            else None
        )
        self.norm_out = nn.LayerNorm(model_dim, norm_eps) if last_norm else nn.Identity()
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D) or, with ``halves``, to (B, T // 2, D)."""
        x = torch.add(x, self.ff_macaron(x), alpha=0.5)
        x = x + self.dropout(self.attention(self.norm_attention(x), context))
        y = self.dropout(self.conv(self.norm_conv(x), context))
        if self.halves:
            x = x.unfold(1, 2, 2).mean(-1)
        x = x + y[:, : x.size(1)]
        x = torch.add(x, self.ff(x), alpha=0.5)
        if self.prompt_attention is not None:
            x = self.prompt_attention(x, context)
        return self.norm_out(x)


class EBranchformerBlock(nn.Module):
    """Half feed-forward, attention and gating MLP side by side, merged by a convolution, half feed-forward, norm.

    Without ``ff_dim`` and ``merge_kernel_size`` it is Branchformer's block: the two branches, merged by a projection.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        ff_dim: int | None,
        *,
        gate_dim: int,
        kernel_size: int,
        merge_kernel_size: int | None,
        positions: PositionKind,
        cross_attention: bool,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
        max_distances: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__()
        self.ff_macaron = None if ff_dim is None else FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)
        self.norm_attention = nn.LayerNorm(model_dim, norm_eps)
        self.attention = SelfAttention(
            model_dim, num_heads, dropout=attention_dropout, positions=positions, max_distances=max_distances
        )
        self.norm_gating = nn.LayerNorm(model_dim, norm_eps)
        self.gating = ConvGatingMlp(model_dim, gate_dim, kernel_size, dropout=dropout, norm_eps=norm_eps)
        self.merge_conv = None if merge_kernel_size is None else DepthwiseConv(2 * model_dim, merge_kernel_size)
        self.merge = nn.Linear(2 * model_dim, model_dim)
        self.ff = None if ff_dim is None else FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)
        self.prompt_attention = (
            _PromptAttention(
                model_dim, num_heads, dropout=dropout, attention_dropout=attention_dropout, norm_eps=norm_eps
            )
            if cross_attention
            else None
        )
        self.norm_out = nn.LayerNorm(model_dim, norm_eps)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D)."""
        if self.ff_macaron is not None:
            x = torch.add(x, self.ff_macaron(x), alpha=0.5)
        attended = self.dropout(self.attention(self.norm_attention(x), context))
        gated = self.dropout(self.gating(self.norm_gating(x), context))
        both = torch.cat([attended, gated], dim=-1)  # (B, T, 2 D)
        if self.merge_conv is not None:
            both = both + self.merge_conv(both, context, "merge")
        x = x + self.dropout(self.merge(both))
        if self.ff is not None:
            x = torch.add(x, self.ff(x), alpha=0.5)
        if self.prompt_attention is not None:
            x = self.prompt_attention(x, context)
        return self.norm_out(x)
