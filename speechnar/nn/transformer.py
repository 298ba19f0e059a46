"""The prompt encoder's plain pre-norm Transformer.

Shapes: B utterances, U tokens, D model width.
Source: Vaswani et al. 2017, with the norm before each module and behind the last, as in ESPnet.
"""

from torch import Tensor, nn

from speechnar.nn.attention import SelfAttention
from speechnar.nn.blocks import FeedForward
from speechnar.nn.context import BlockContext
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import valid_mask


class TransformerEncoder(nn.Module):
    """Layers of self-attention and a ReLU perceptron over embedded tokens that carry their positions."""

    def __init__(
        self, model_dim: int, num_layers: int, num_heads: int, ff_dim: int, *, dropout: float, norm_eps: float
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _TransformerBlock(model_dim, num_heads, ff_dim, dropout=dropout, norm_eps=norm_eps)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(model_dim, norm_eps)

    def forward(self, x: Tensor, x_lens: Tensor) -> Tensor:
        """Map ``x`` (B, U, D) to (B, U, D); rows beyond ``x_lens`` are never attended to."""
        valid = valid_mask(x_lens, x.size(1))
        context = BlockContext(valid=valid, attn_mask=valid[:, None, None, :])
        for layer in self.layers:
            x = layer(x, context)
        return self.norm(x)


class _TransformerBlock(nn.Module):
    def __init__(self, model_dim: int, num_heads: int, ff_dim: int, *, dropout: float, norm_eps: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(model_dim, norm_eps)
        self.attention = SelfAttention(model_dim, num_heads)
        self.dropout = Dropout(dropout)
        self.ff = FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps, activation=nn.ReLU())

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_attention(x), context))
        return x + self.ff(x)
