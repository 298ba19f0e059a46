"""A layer that halves the frames behind an encoder, as CTC models on w2v-BERT 2.0 have one.

Shapes: B utterances, T frames, T' = ceil(T / 2) frames, D model width.
Source: transformers' ``Wav2Vec2BertAdapterLayer``, which is the length adaptor of Barrault et al., "SeamlessM4T:
Massively Multilingual & Multimodal Machine Translation", 2023, section 4.1. Differs from it: what stands behind the
last frame of an utterance is 0.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.nn.attention import SelfAttention
from speechnar.nn.blocks import FeedForward
from speechnar.nn.context import BlockContext
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import key_mask, valid_mask, zero_padding

STRIDE = 2


class StridedConv(nn.Module):
    """Norm, a convolution over three frames at every other one, and a gate."""

    def __init__(self, model_dim: int, *, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model_dim, norm_eps)
        self.conv = nn.Conv1d(model_dim, 2 * model_dim, 3, STRIDE, padding=1)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map ``x`` (B, T, D), real where ``valid`` (B, T), to (B, T', D)."""
        return F.glu(self.conv(zero_padding(self.norm(x), valid).mT), dim=1).mT


class HalvingAdapter(nn.Module):
    """Attention among frames that a strided convolution joined, beside another such convolution; then a perceptron."""

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
        self.residual = StridedConv(model_dim, norm_eps=norm_eps)
        self.joined = StridedConv(model_dim, norm_eps=norm_eps)
        self.attention = SelfAttention(model_dim, num_heads, dropout=attention_dropout)
        self.dropout = Dropout(dropout)
        self.ff = FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps, activation=nn.ReLU())

    def forward(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``x`` (B, T, D), anything beyond ``lens`` (B,), to (B, T', D) and its lengths (B,)."""
        valid = valid_mask(lens, x.size(1))
        residual, y = self.residual(x, valid), self.joined(x, valid)
        lens = torch.div(lens + STRIDE - 1, STRIDE, rounding_mode="floor")
        valid = valid_mask(lens, y.size(1))
        context = BlockContext(valid=valid, attn_mask=key_mask(valid))
        y = residual + self.dropout(self.attention(y, context))
        return y + self.ff(y), lens
