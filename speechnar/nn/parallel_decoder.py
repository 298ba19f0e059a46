"""A Transformer decoder that writes all tokens at once: every token sees all others and the encoder's output.

Shapes: B utterances or sentences, T encoder frames, U tokens, D model width, H heads, L layers.
Source: Gu et al., "Non-Autoregressive Neural Machine Translation", ICLR 2018, section 3.1 (the decoder of Vaswani et
al., 2017, without its causal mask), with the norm before each module and behind the last, as FunASR's
``ParaformerSANDecoder``.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.attention import SelfAttention
from speechnar.nn.blocks import FeedForward
from speechnar.nn.context import BlockContext
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import zero_padding


class TokenDecoder(Protocol):
    """Turns token vectors and encoder frames into hidden vectors of the tokens."""

    def project(self, enc: Tensor) -> Tensor:
        """Map ``enc`` (B, T, D) to the keys and values (L, 2, B, H, T, D / H) of all layers."""
        ...

    def __call__(self, x: Tensor, valid: Tensor, keys_values: Tensor, mask: Tensor) -> Tensor:
        """Map ``x`` (B, U, D), real where ``valid`` (B, U), to normalised hidden vectors (B, U, D).

        Args:
            x: (B, U, D)
            valid: bool (B, U)
            keys_values: of `project`.
            mask: bool (B, 1, 1 or U, T), True = may be seen; at least one frame for each token.
        """
        ...


class KeyValueProjector(nn.Module):
    """Keys and values of all layers by one product, which also serves both passes of training."""

    def __init__(self, model_dim: int, num_layers: int, num_heads: int) -> None:
        super().__init__()
        if num_heads < 1 or model_dim % num_heads:
            raise ConfigError(f"model_dim must be a multiple of num_heads, got {model_dim} and {num_heads}")
        self.num_layers, self.num_heads = num_layers, num_heads
        self.key_value = nn.Linear(model_dim, num_layers * 2 * model_dim)

    def project(self, enc: Tensor) -> Tensor:
        """Map ``enc`` (B, T, D) to the keys and values (L, 2, B, H, T, D / H) of all layers."""
        batch, num_frames, _ = enc.shape
        return (
            self.key_value(enc)
            .view(batch, num_frames, self.num_layers, 2, self.num_heads, -1)
            .permute(2, 3, 0, 4, 1, 5)
        )


class ParallelDecoder(KeyValueProjector):
    """Transformer layers over token vectors, without positions and without a causal mask, and a norm."""

    def __init__(
        self,
        model_dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        norm_eps: float = 1e-5,
        activation: Literal["relu", "gelu"] = "relu",
    ) -> None:
        super().__init__(model_dim, num_layers, num_heads)
        self.layers = nn.ModuleList(
            ParallelDecoderLayer(
                model_dim,
                num_heads,
                ff_dim,
                dropout=dropout,
                attention_dropout=attention_dropout,
                norm_eps=norm_eps,
                activation=activation,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(model_dim, norm_eps)

    def forward(self, x: Tensor, valid: Tensor, keys_values: Tensor, mask: Tensor, *, causal: bool = False) -> Tensor:
        """Map as `TokenDecoder` does; ``causal`` hides from each token those behind it."""
        for layer, (keys, values) in zip(self.layers, keys_values, strict=True):
            x = layer(x, valid, keys, values, mask, causal=causal)
        hidden: Tensor = self.norm(x)
        return hidden


class CrossAttendingLayer(nn.Module):
    """What decoder layers share: pre-normed attention to encoder frames whose keys and values are given."""

    def __init__(
        self, model_dim: int, num_heads: int, *, dropout: float, attention_dropout: float, norm_eps: float
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.norm_attention = nn.LayerNorm(model_dim, norm_eps)
        self.query = nn.Linear(model_dim, model_dim)
        self.out = nn.Linear(model_dim, model_dim)
        self.dropout = Dropout(dropout)

    def queries(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, U, D) to (B, H, U, D / H)."""
        return self.query(self.norm_attention(x)).unflatten(2, (self.num_heads, -1)).transpose(1, 2)

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Add to ``x`` (B, U, D) what it finds among the frames."""
        dropout = self.attention_dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(self.queries(x), keys, values, mask, dropout)
        return x + self.dropout(self.out(y.transpose(1, 2).flatten(2)))


class ParallelDecoderLayer(CrossAttendingLayer):
    """Self-attention that sees all tokens, cross-attention, feed-forward; Paraformer's AISHELL recipe has it, too."""

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        ff_dim: int,
        *,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
        activation: Literal["relu", "gelu"] = "relu",
    ) -> None:
        super().__init__(model_dim, num_heads, dropout=dropout, attention_dropout=attention_dropout, norm_eps=norm_eps)
        self.norm_self = nn.LayerNorm(model_dim, norm_eps)
        self.self_attention = SelfAttention(model_dim, num_heads, dropout=attention_dropout)
        gate = nn.ReLU() if activation == "relu" else nn.GELU()
        self.ff = FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps, activation=gate)

    def forward(
        self, x: Tensor, valid: Tensor, keys: Tensor, values: Tensor, mask: Tensor, *, causal: bool = False
    ) -> Tensor:
        """Map ``x`` (B, U, D) to (B, U, D).

        Args:
            x: (B, U, D)
            valid: bool (B, U)
            keys: (B, H, T, D / H) of the encoder's frames.
            values: likewise.
            mask: bool (B, 1, 1 or U, T), True = may be seen; at least one frame for each token.
            causal: hide from each token those behind it.
        """
        # The first token stands in for those an utterance without tokens has not: nobody attends to nothing.
        seen = valid | (torch.arange(valid.size(1), device=valid.device) == 0)
        x = zero_padding(x, valid)
        attn_mask = seen[:, None, None, :]
        if causal:
            attn_mask = attn_mask & seen.new_ones(seen.size(1), seen.size(1)).tril()
        context = BlockContext(valid=valid, attn_mask=attn_mask)
        x = x + self.dropout(self.self_attention(self.norm_self(x), context))
        x = self.attend(x, keys, values, mask)
        return x + self.ff(x)
