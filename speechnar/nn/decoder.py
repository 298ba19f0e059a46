"""Decoders of the autoregressive baseline, with cached keys and values: Vaswani et al.'s, and what others are made of.

Shapes: B utterances, N hypotheses (several may belong to one utterance), T encoder frames, U tokens of this call,
L cached tokens before them, D model width, H heads, V vocabulary.
Sources: Vaswani et al., "Attention Is All You Need", 2017, section 3, with the norm before each module and behind the
last, laid out as ESPnet's ``TransformerDecoder``; Shazeer, "GLU Variants Improve Transformer", 2020 (SwiGLU); Shazeer,
"Fast Transformer Decoding", 2019, section 2.3 (keys and values are cached, not layer outputs).

The encoder's keys and values are projected once per utterance and never copied: the hypotheses of an utterance attend
to them as further queries.
"""

import math
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.attention import CrossAttention
from speechnar.nn.blocks import FeedForward
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import key_mask, zero_padding
from speechnar.nn.positions import sinusoids

FeedForwardKind = Literal["relu", "gelu", "swiglu"]
MIN_CAPACITY = 32
"""Tokens a cache has room for at first; it doubles when full."""


class KeyValueCache:
    """Keys and values of the tokens that one layer has seen, in a buffer that doubles when it is full."""

    def __init__(self) -> None:
        self.length = 0
        self._keys = self._values = self._spare = torch.empty(0)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``keys`` and ``values`` (N, U, H, D / H) and return all of them, each (N, H, L + U, D / H)."""
        end = self.length + keys.size(1)
        if end > self._keys.size(0) or self.length == 0:
            capacity = max(MIN_CAPACITY, 2 * end)
            self._keys = self._grown(self._keys, keys, capacity)
            self._values = self._grown(self._values, values, capacity)
            self._spare = torch.empty_like(self._keys)
        self._keys[self.length : end] = keys.transpose(0, 1)
        self._values[self.length : end] = values.transpose(0, 1)
        self.length = end
        return self._keys[:end].permute(1, 2, 0, 3), self._values[:end].permute(1, 2, 0, 3)

    def reorder(self, rows: Tensor) -> None:
        """Let hypothesis n go on from what was hypothesis ``rows[n]``, rows (N,) int64."""
        # Time comes first in the buffers, so that only what is in use is copied, once, and by whole rows.
        torch.index_select(self._keys[: self.length], 1, rows, out=self._spare[: self.length])
        self._keys, self._spare = self._spare, self._keys
        torch.index_select(self._values[: self.length], 1, rows, out=self._spare[: self.length])
        self._values, self._spare = self._spare, self._values

    def truncate(self, length: int) -> None:
        """Forget all but the first ``length`` tokens."""
        self.length = min(self.length, length)

    def _grown(self, buffer: Tensor, like: Tensor, capacity: int) -> Tensor:
        num_hyps, _, num_heads, head_dim = like.shape
        grown = like.new_empty(capacity, num_hyps, num_heads, head_dim)
        if self.length:
            grown[: self.length] = buffer[: self.length]
        return grown


@dataclass(frozen=True, kw_only=True)
class DecoderMemory:
    """Encoder output as the decoder's layers see it."""

    keys: tuple[Tensor, ...]
    """(B, H, T, D / H) of each layer."""
    values: tuple[Tensor, ...]
    """(B, H, T, D / H) of each layer."""
    mask: Tensor | None
    """bool (B, 1, 1, T), True = may be seen; None when everything may."""
    places: Tensor | None = None
    """(N,) int64: place of each hypothesis in a (B, N') table of hypotheses by utterance, row by row. None: the table
    is full and in order, that is the first N / B hypotheses belong to the first utterance, and so on."""
    num_places: int = 0
    """N', where ``places`` is given."""


class CausalDecoder(nn.Module):
    """Layers over embedded tokens, each of which sees itself and those before it, and a norm.

    Heirs say how tokens are embedded, and what of the hidden vectors becomes logits.
    """

    output: nn.Linear

    def __init__(
        self,
        embed: nn.Embedding,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        feed_forward: FeedForwardKind,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        model_dim = embed.embedding_dim
        if model_dim % num_heads:
            raise ConfigError(f"model_dim must be a multiple of num_heads, got {model_dim} and {num_heads}")
        self.num_layers = num_layers
        self.embed = embed
        self.dropout = Dropout(dropout)
        self.layers = nn.ModuleList(
            _DecoderLayer(
                model_dim,
                num_heads,
                ff_dim,
                feed_forward=feed_forward,
                dropout=dropout,
                attention_dropout=attention_dropout,
                norm_eps=norm_eps,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(model_dim, norm_eps)

    def project(self, enc: Tensor, valid: Tensor) -> DecoderMemory:
        """Project encoder output (B, T, D), of which frames ``valid`` (B, T) are real, for all layers."""
        enc = zero_padding(enc, valid)
        pairs = [cast(_DecoderLayer, layer).cross_attention.project(enc) for layer in self.layers]
        # Read at every step: attention to adjacent frames is a fifth faster.
        keys, values = (tuple(side.contiguous() for side in sides) for sides in zip(*pairs, strict=True))
        return DecoderMemory(keys=keys, values=values, mask=key_mask(valid))

    def new_caches(self) -> list[KeyValueCache]:
        """Return an empty cache for each layer."""
        return [KeyValueCache() for _ in self.layers]

    def hidden(self, x: Tensor, memory: DecoderMemory, caches: list[KeyValueCache] | None) -> Tensor:
        """Map embedded tokens (N, U, D), behind the L tokens in ``caches``, to normalised hidden vectors (N, U, D)."""
        first, num_tokens = cached_length(caches), x.size(1)
        mask: Tensor | None = None
        if num_tokens > 1 and first > 0:
            mask = torch.ones(num_tokens, first + num_tokens, dtype=torch.bool, device=x.device).tril(first)
        for index, layer in enumerate(self.layers):
            x = layer(x, memory, index, mask, None if caches is None else caches[index])
        hidden: Tensor = self.norm(x)
        return hidden


def cached_length(caches: list[KeyValueCache] | None) -> int:
    """Return the number L of positions in ``caches``."""
    return caches[0].length if caches is not None else 0


class TransformerDecoder(CausalDecoder):
    """Tokens and encoder output to logits of the next tokens, by fixed positions and an output layer of its own."""

    def __init__(
        self,
        vocab_size: int,
        model_dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        feed_forward: FeedForwardKind,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__(
            # Scaled by sqrt(D) below to unit variance, so that it does not drown the positions.
            new_table(vocab_size, model_dim),
            num_layers,
            num_heads,
            ff_dim,
            feed_forward=feed_forward,
            dropout=dropout,
            attention_dropout=attention_dropout,
            norm_eps=norm_eps,
        )
        self.output = nn.Linear(model_dim, vocab_size)

    def forward(self, tokens: Tensor, memory: DecoderMemory, caches: list[KeyValueCache] | None = None) -> Tensor:
        """Map ``tokens`` (N, U), of which each sees itself and those before it, to logits (N, U, V).

        With ``caches`` they go on from the L tokens in there, and are added to them.
        """
        first, model_dim = cached_length(caches), self.embed.embedding_dim
        positions = torch.arange(first, first + tokens.size(1), device=tokens.device)
        x = self.dropout(self.embed(tokens) * math.sqrt(model_dim) + sinusoids(positions, model_dim))
        logits: Tensor = self.output(self.hidden(x, memory, caches))
        return logits


def new_table(vocab_size: int, model_dim: int) -> nn.Embedding:
    """Return token embeddings of variance 1 / D."""
    table = nn.Embedding(vocab_size, model_dim)
    nn.init.normal_(table.weight, std=model_dim**-0.5)
    return table


class _DecoderLayer(nn.Module):
    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        ff_dim: int,
        *,
        feed_forward: FeedForwardKind,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(model_dim, norm_eps)
        self.attention = _CausalAttention(model_dim, num_heads, dropout=attention_dropout)
        self.norm_cross = nn.LayerNorm(model_dim, norm_eps)
        self.cross_attention = CrossAttention(model_dim, num_heads, dropout=attention_dropout)
        self.ff: nn.Module = (
            _GatedFeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)
            if feed_forward == "swiglu"
            else FeedForward(
                model_dim,
                ff_dim,
                dropout=dropout,
                norm_eps=norm_eps,
                activation=nn.GELU() if feed_forward == "gelu" else nn.ReLU(),
            )
        )
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Tensor, memory: DecoderMemory, index: int, mask: Tensor | None, cache: KeyValueCache | None
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_attention(x), mask, cache))
        x = x + self.dropout(self._attend(self.norm_cross(x), memory, index))
        return x + self.ff(x)

    def _attend(self, x: Tensor, memory: DecoderMemory, index: int) -> Tensor:
        """Map ``x`` (N, U, D) to (N, U, D): all tokens of an utterance's hypotheses are queries to its one memory."""
        keys, values = memory.keys[index], memory.values[index]
        table = x
        if memory.places is not None:
            table = x.new_zeros(keys.size(0) * memory.num_places, *x.shape[1:]).index_copy(0, memory.places, x)
        y = self.cross_attention.attend(table.view(keys.size(0), -1, x.size(2)), keys, values, memory.mask)
        y = y.reshape(-1, *x.shape[1:])
        return y if memory.places is None else y[memory.places]


class _CausalAttention(nn.Module):
    """Self-attention of tokens to themselves and those before them, with one fused projection."""

    def __init__(self, model_dim: int, num_heads: int, *, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.qkv = nn.Linear(model_dim, 3 * model_dim)
        self.out = nn.Linear(model_dim, model_dim)

    def forward(self, x: Tensor, mask: Tensor | None, cache: KeyValueCache | None) -> Tensor:
        """Map ``x`` (N, U, D) to (N, U, D); ``mask`` (U, L + U) is needed only for several tokens behind a cache."""
        num_hyps, num_tokens, model_dim = x.shape
        q, k, v = self.qkv(x).view(num_hyps, num_tokens, 3, self.num_heads, -1).unbind(2)  # each (N, U, H, D / H)
        if cache is None:
            k, v = k.transpose(1, 2), v.transpose(1, 2)
        else:
            k, v = cache.append(k, v)
        is_causal = num_tokens > 1 and mask is None
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, mask, dropout, is_causal)
        return self.out(y.transpose(1, 2).reshape(num_hyps, num_tokens, model_dim))


class _GatedFeedForward(nn.Module):
    """Pre-normed SwiGLU: one half of the hidden units, through SiLU, gates the other."""

    def __init__(self, model_dim: int, hidden_dim: int, *, dropout: float, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model_dim, norm_eps)
        self.gate_up = nn.Linear(model_dim, 2 * hidden_dim)
        self.down = nn.Linear(hidden_dim, model_dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(self.norm(x)).chunk(2, dim=-1)
        return self.dropout(self.down(self.dropout(F.silu(gate) * up)))
