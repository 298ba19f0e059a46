"""A Transformer decoder that writes all tokens at once: every token sees all others and the encoder's output.

Shapes: B sentences, T encoder frames, U tokens, D model width.
Source: Gu et al., "Non-Autoregressive Neural Machine Translation", ICLR 2018, section 3.1 (the decoder of Vaswani et
al., 2017, without its causal mask), with the norm before each module and behind the last.
"""

from typing import cast

from torch import Tensor, nn

from speechnar.nn.attention import CrossAttention, SelfAttention
from speechnar.nn.blocks import FeedForward
from speechnar.nn.context import BlockContext
from speechnar.nn.decoder import DecoderMemory
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import valid_mask, zero_padding


class ParallelDecoder(nn.Module):
    """Embedded tokens that carry their positions, and encoder output, to states of the tokens."""

    def __init__(
        self,
        model_dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _ParallelLayer(
                model_dim, num_heads, ff_dim, dropout=dropout, attention_dropout=attention_dropout, norm_eps=norm_eps
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(model_dim, norm_eps)

    def project(self, enc: Tensor, valid: Tensor) -> DecoderMemory:
        """Project encoder output (B, T, D), of which frames ``valid`` (B, T) are real, for all layers."""
        enc = zero_padding(enc, valid)
        pairs = [cast(_ParallelLayer, layer).cross_attention.project(enc) for layer in self.layers]
        keys, values = zip(*pairs, strict=True)
        return DecoderMemory(keys=keys, values=values, mask=valid[:, None, None, :])

    def forward(self, x: Tensor, lens: Tensor, memory: DecoderMemory) -> Tensor:
        """Map ``x`` (B, U, D), of which ``lens`` (B,) are seen, to (B, U, D); rows of padding hold finite garbage."""
        valid = valid_mask(lens, x.size(1))
        context = BlockContext(valid=valid, attn_mask=valid[:, None, None, :])
        for index, layer in enumerate(self.layers):
            x = layer(x, context, memory, index)
        return self.norm(x)


class _ParallelLayer(nn.Module):
    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        ff_dim: int,
        *,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(model_dim, norm_eps)
        self.attention = SelfAttention(model_dim, num_heads, dropout=attention_dropout)
        self.norm_cross = nn.LayerNorm(model_dim, norm_eps)
        self.cross_attention = CrossAttention(model_dim, num_heads, dropout=attention_dropout)
        self.ff = FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps, activation=nn.ReLU())
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, context: BlockContext, memory: DecoderMemory, index: int) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_attention(x), context))
        queries = self.norm_cross(x)
        x = x + self.dropout(
            self.cross_attention.attend(queries, memory.keys[index], memory.values[index], memory.mask)
        )
        return x + self.ff(x)
