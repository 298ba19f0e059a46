"""SAN-M: attention beside an FSMN memory, a depthwise convolution that adds its own input.

The decoder's blocks replace self-attention by the memory alone; the attention left looks at the encoder.
Shapes: B utterances, U tokens (or any positions), T encoder frames, D model width, H heads, L layers, K kernel.
Sources: Gao et al., "SAN-M", Interspeech 2020, sections 2.2 and 2.3; Zhang et al., "Deep-FSMN", 2018.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import zero_padding


class FsmnMemory(nn.Conv1d):
    """Depthwise convolution over (B, U, D) plus its own input; nothing enters from outside the utterance."""

    def __init__(self, model_dim: int, kernel_size: int, *, shift: int = 0) -> None:
        """Build the memory; ``shift`` moves the window to the left, so that (K - 1) / 2 makes it causal."""
        left = (kernel_size - 1) // 2 + shift
        if kernel_size < 1 or not 0 <= left < kernel_size:
            raise ConfigError(f"the memory's window must hold its own frame; kernel {kernel_size}, shift {shift}")
        super().__init__(model_dim, model_dim, kernel_size, groups=model_dim, bias=False)
        self.left, self.right = left, kernel_size - 1 - left

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:  # type: ignore[override]  # its input needs a mask
        """Map ``x`` (B, U, D), real where ``valid`` (B, U), to (B, U, D); rows of padding hold finite garbage."""
        x = zero_padding(x, valid)
        return x + super().forward(F.pad(x.transpose(1, 2), (self.left, self.right))).transpose(1, 2)


class SanmDecoderFeedForward(nn.Module):
    """Linear, ReLU, dropout, LayerNorm over the hidden width, Linear without bias; no residual of its own."""

    def __init__(self, model_dim: int, ff_dim: int, *, dropout: float, norm_eps: float) -> None:
        super().__init__()
        self.proj_in = nn.Linear(model_dim, ff_dim)
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(ff_dim, norm_eps)
        self.proj_out = nn.Linear(ff_dim, model_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., D) to (..., D)."""
        y: Tensor = self.proj_out(self.norm(self.dropout(F.relu(self.proj_in(x)))))
        return y


class SanmDecoderLayer(nn.Module):
    """Feed-forward into the memory, added to the input; then cross-attention, whose keys and values are given."""

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        ff_dim: int,
        *,
        kernel_size: int,
        shift: int,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_dropout = attention_dropout
        self.norm_ff = nn.LayerNorm(model_dim, norm_eps)
        self.ff = SanmDecoderFeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)
        self.norm_fsmn = nn.LayerNorm(model_dim, norm_eps)
        self.fsmn = FsmnMemory(model_dim, kernel_size, shift=shift)
        self.norm_attention = nn.LayerNorm(model_dim, norm_eps)
        self.query = nn.Linear(model_dim, model_dim)
        self.out = nn.Linear(model_dim, model_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Map ``x`` (B, U, D) to (B, U, D).

        Args:
            x: (B, U, D)
            valid: bool (B, U)
            keys: (B, H, T, D / H) of the encoder's frames.
            values: likewise.
            mask: bool (B, 1, 1 or U, T), True = may be seen; at least one frame for each token.
        """
        batch, num_tokens, model_dim = x.shape
        x = x + self.dropout(self.fsmn(self.norm_fsmn(self.ff(self.norm_ff(x))), valid))
        q = self.query(self.norm_attention(x)).view(batch, num_tokens, self.num_heads, -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, keys, values, mask, self.attention_dropout if self.training else 0.0)
        return x + self.dropout(self.out(y.transpose(1, 2).reshape(batch, num_tokens, model_dim)))


class SanmDecoder(nn.Module):
    """Layers over token vectors that attend to the encoder, a feed-forward module without residual, and a norm.

    The vectors carry no positions: the memory tells neighbours apart.
    """

    def __init__(
        self,
        model_dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        kernel_size: int = 11,
        shift: int = 0,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        if num_heads < 1 or model_dim % num_heads:
            raise ConfigError(f"model_dim must be a multiple of num_heads, got {model_dim} and {num_heads}")
        self.num_layers, self.num_heads = num_layers, num_heads
        # One product serves all layers, and both passes of training.
        self.key_value = nn.Linear(model_dim, num_layers * 2 * model_dim)
        self.layers = nn.ModuleList(
            SanmDecoderLayer(
                model_dim,
                num_heads,
                ff_dim,
                kernel_size=kernel_size,
                shift=shift,
                dropout=dropout,
                attention_dropout=attention_dropout,
                norm_eps=norm_eps,
            )
            for _ in range(num_layers)
        )
        self.norm_last = nn.LayerNorm(model_dim, norm_eps)
        self.ff_last = SanmDecoderFeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)
        self.norm = nn.LayerNorm(model_dim, norm_eps)

    def project(self, enc: Tensor) -> Tensor:
        """Map ``enc`` (B, T, D) to the keys and values (L, 2, B, H, T, D / H) of all layers."""
        batch, num_frames, _ = enc.shape
        return (
            self.key_value(enc)
            .view(batch, num_frames, self.num_layers, 2, self.num_heads, -1)
            .permute(2, 3, 0, 4, 1, 5)
        )

    def forward(self, x: Tensor, valid: Tensor, keys_values: Tensor, mask: Tensor) -> Tensor:
        """Map ``x`` (B, U, D), real where ``valid`` (B, U), to normalised hidden vectors (B, U, D).

        Args:
            x: (B, U, D)
            valid: bool (B, U)
            keys_values: of `project`.
            mask: bool (B, 1, 1 or U, T), True = may be seen; at least one frame for each token.
        """
        for layer, (keys, values) in zip(self.layers, keys_values, strict=True):
            x = layer(x, valid, keys, values, mask)
        hidden: Tensor = self.norm(self.ff_last(self.norm_last(x)))
        return hidden
