"""What the models that translate texts share: their sizes, one table of embeddings, and the encoder of sources.

Shapes: B sentences, S source tokens, D model width, V vocabulary, L layers, H heads.
Sources: Vaswani et al., "Attention Is All You Need", 2017, section 3; Press and Wolf, "Using the Output Embedding to
Improve Language Models", EACL 2017 (one table for source, target and output of a joint vocabulary).
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from speechnar.data.pairs import EOS
from speechnar.models.base import ModelConfig
from speechnar.nn.context import LayerCache
from speechnar.nn.dropout import Dropout
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.parallel_decoder import ParallelDecoder
from speechnar.nn.positions import sinusoids
from speechnar.nn.transformer import TransformerEncoder
from speechnar.text.tokenizer import Tokenizer

SOS, PLACEHOLDER = "<sos>", "<sop>"
"""No text holds ``<sop>``: a placeholder spelled ``<unk>``, as in fairseq, could not be told from a real one."""
MIN_MAX_LEN = 10


class TranslationConfig(ModelConfig):
    """Sizes of an encoder and a decoder; the defaults are for Multi30k's 29,000 short sentences."""

    model_dim: PositiveInt = 128
    encoder_layers: PositiveInt = 4
    decoder_layers: PositiveInt = 4
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 256
    dropout: float = Field(default=0.3, ge=0, lt=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    norm_eps: PositiveFloat = 1e-5
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    max_len_ratio: PositiveFloat = 2.0
    """Target tokens per source token at which a translation is cut off; ten are always allowed."""


TINY: dict[str, Any] = {
    "model_dim": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "num_heads": 2,
    "ff_dim": 64,
    "dropout": 0.0,
    "attention_dropout": 0.0,
}
"""Sizes for tests."""


class SpecialIds:
    """The ids that these models give a meaning beside text."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.blank = tokenizer.blank_id
        self.sos, self.eos = tokenizer.id_of(SOS), tokenizer.id_of(EOS)
        self.placeholder = tokenizer.id_of(PLACEHOLDER)
        self.never = tuple(i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i) and i != self.eos)
        """Of no translation: every special but the end (the unknown piece too: nobody can read it)."""


class SourceEncoder(nn.Module):
    """Source tokens to encoder output, by embeddings that the caller owns."""

    def __init__(self, config: TranslationConfig, *, causal: bool = False) -> None:
        super().__init__()
        self.layers = TransformerEncoder(
            config.model_dim,
            config.encoder_layers,
            config.num_heads,
            config.ff_dim,
            dropout=config.dropout,
            norm_eps=config.norm_eps,
            attention_dropout=config.attention_dropout,
            causal=causal,
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, embed: nn.Embedding, src_tokens: Tensor, src_lens: Tensor) -> EncodedSpeech:
        """Encode ``src_tokens`` (B, S), whose padding may hold anything."""
        valid = valid_mask(src_lens, src_tokens.size(1))
        x = self.dropout(embed_tokens(embed, src_tokens.where(valid, 0)))
        return EncodedSpeech(enc=self.layers(x, src_lens), lens=src_lens)

    def extend(self, embed: nn.Embedding, src_tokens: Tensor, caches: list[LayerCache], num_known: int) -> Tensor:
        """Encode the further tokens (1, S) of a source of which ``caches`` hold ``num_known``; only if causal."""
        x = self.dropout(embed_tokens(embed, src_tokens, first=num_known))
        return self.layers(x, torch.tensor([src_tokens.size(1)], device=x.device), caches)

    def new_caches(self) -> list[LayerCache]:
        """Return empty caches for `extend`."""
        return self.layers.new_caches()


@dataclass(frozen=True)
class SeenSource:
    """Sources as the layers of a `ParallelDecoder` see them."""

    keys_values: Tensor
    """(L, 2, B, H, S, D / H)"""
    mask: Tensor
    """bool (B, 1, 1, S)"""

    @classmethod
    def of(cls, decoder: ParallelDecoder, encoded: EncodedSpeech) -> "SeenSource":
        """Project encoder output for all layers of ``decoder``."""
        return cls(decoder.project(zero_padding(encoded.enc, encoded.valid)), encoded.valid[:, None, None, :])


class GrowingSource:
    """A source that is read piece by piece by a causal encoder: what was read is neither encoded nor projected again.

    Tokens that were read may change; those before the first change are kept.
    """

    def __init__(self, encoder: SourceEncoder, embed: nn.Embedding, decoder: ParallelDecoder) -> None:
        self._encoder, self._embed, self._decoder = encoder, embed, decoder
        self._caches = encoder.new_caches()
        self._tokens: list[int] = []
        self._enc: Tensor | None = None
        self._keys_values: Tensor | None = None

    def read(self, src_tokens: Tensor) -> tuple[EncodedSpeech, SeenSource]:
        """Return what encoding and projecting ``src_tokens`` (1, S) gives, S at least 1."""
        tokens = src_tokens[0].tolist()
        pairs = zip(tokens, self._tokens, strict=False)
        num_kept = next((i for i, (new, old) in enumerate(pairs) if new != old), min(len(tokens), len(self._tokens)))
        if num_kept < len(self._tokens):
            self._forget(num_kept)
        if num_kept < len(tokens):
            enc = self._encoder.extend(self._embed, src_tokens[:, num_kept:], self._caches, num_kept)
            keys_values = self._decoder.project(enc)
            self._enc = enc if self._enc is None else torch.cat([self._enc, enc], 1)
            self._keys_values = (
                keys_values if self._keys_values is None else torch.cat([self._keys_values, keys_values], 4)
            )
        self._tokens = tokens
        assert self._enc is not None and self._keys_values is not None
        encoded = EncodedSpeech(enc=self._enc, lens=torch.tensor([len(tokens)], device=src_tokens.device))
        return encoded, SeenSource(self._keys_values, encoded.valid[:, None, None, :])

    def _forget(self, num_kept: int) -> None:
        for cache in self._caches:
            assert cache.keys is not None and cache.values is not None
            cache.keys, cache.values = cache.keys[:, :, :num_kept], cache.values[:, :, :num_kept]
        assert self._enc is not None and self._keys_values is not None
        self._enc, self._keys_values = self._enc[:, :num_kept], self._keys_values[:, :, :, :, :num_kept]


def new_parallel_decoder(config: TranslationConfig) -> ParallelDecoder:
    """Make the decoder of the models that write all tokens at once."""
    return ParallelDecoder(
        config.model_dim,
        config.decoder_layers,
        config.num_heads,
        config.ff_dim,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        norm_eps=config.norm_eps,
    )


def embed_tokens(embed: nn.Embedding, tokens: Tensor, *, first: int = 0) -> Tensor:
    """Map ``tokens`` (B, U) to (B, U, D), scaled to unit variance and with the positions from ``first`` on."""
    dim = embed.embedding_dim
    positions = torch.arange(first, first + tokens.size(1), device=tokens.device)
    return embed(tokens) * math.sqrt(dim) + sinusoids(positions, dim)


def new_embeddings(vocab_size: int, model_dim: int) -> nn.Embedding:
    """Make a table that is source, target and output embedding at once."""
    embed = nn.Embedding(vocab_size, model_dim)
    nn.init.normal_(embed.weight, std=model_dim**-0.5)
    return embed


def max_lens_of(src_lens: Tensor, ratio: float) -> Tensor:
    """Return (B,) tokens at which translations are cut off."""
    return (src_lens.double() * ratio).long().clamp(min=MIN_MAX_LEN)


def rows_of(tokens: Tensor, lens: Tensor) -> list[list[int]]:
    """Return the ids of each row of ``tokens`` (B, U) without padding."""
    return [row[:length] for row, length in zip(tokens.tolist(), lens.tolist(), strict=True)]
