"""A plain pre-norm Transformer, of prompts and of texts that are translated, and its layer, for others as well.

Shapes: B utterances, U tokens, L tokens of calls before, D model width.
Source: Vaswani et al. 2017, with the norm before each module and behind the last, as in ESPnet.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from speechnar.nn.attention import SelfAttention
from speechnar.nn.blocks import FeedForward
from speechnar.nn.context import BlockContext, LayerCache
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import valid_mask


class TransformerEncoder(nn.Module):
    """Layers of self-attention and a ReLU perceptron over embedded tokens that carry their positions."""

    def __init__(
        self,
        model_dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        dropout: float,
        norm_eps: float,
        attention_dropout: float = 0.0,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.causal = causal
        """A token sees none behind it."""
        self.layers = nn.ModuleList(
            TransformerBlock(
                model_dim, num_heads, ff_dim, dropout=dropout, norm_eps=norm_eps, attention_dropout=attention_dropout
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(model_dim, norm_eps)

    def forward(self, x: Tensor, x_lens: Tensor, caches: Sequence[LayerCache] | None = None) -> Tensor:
        """Map ``x`` (B, U, D) to (B, U, D); rows beyond ``x_lens`` are never attended to.

        With ``caches`` (`new_caches`), for which the encoder must be causal and the rows full, they go on from the L
        tokens in there, and are added to them.
        """
        valid = valid_mask(x_lens, x.size(1))
        mask: Tensor = valid[:, None, None, :]
        if self.causal:
            keys = None if caches is None or not caches else caches[0].keys
            num_known = 0 if keys is None else keys.size(2)
            sees = torch.ones(x.size(1), num_known + x.size(1), dtype=torch.bool, device=x.device).tril(num_known)
            mask = sees if caches is not None else mask & sees
        for index, layer in enumerate(self.layers):
            cache = None if caches is None else caches[index]
            x = layer(x, BlockContext(valid=valid, attn_mask=mask, cache=cache))
        return self.norm(x)

    def new_caches(self) -> list[LayerCache]:
        """Return an empty cache for each layer."""
        return [LayerCache() for _ in self.layers]


class TransformerBlock(nn.Module):
    """Self-attention and a two-layer perceptron, each with a norm before it or, without ``norm_first``, behind it.

    With ``adapter_dim`` an adapter of that width follows: another perceptron, with a norm before it and a ReLU.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        ff_dim: int,
        *,
        dropout: float,
        norm_eps: float,
        attention_dropout: float,
        activation: Literal["relu", "gelu"] = "relu",
        norm_first: bool = True,
        adapter_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.norm_attention = nn.LayerNorm(model_dim, norm_eps)
        self.attention = SelfAttention(model_dim, num_heads, dropout=attention_dropout)
        self.dropout = Dropout(dropout)
        gate = nn.ReLU() if activation == "relu" else nn.GELU()
        self.ff = FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps, activation=gate)
        self.adapter: FeedForward | None = None
        if adapter_dim is not None:
            self.adapter = FeedForward(model_dim, adapter_dim, dropout=0.0, norm_eps=norm_eps, activation=nn.ReLU())

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map ``x`` (B, U, D) to (B, U, D)."""
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm_attention(x), context))
            x = x + self.ff(x)
        else:
            x = self.ff.norm_last(self.norm_attention(x + self.dropout(self.attention(x, context))))
        return x if self.adapter is None else x + self.adapter(x)
