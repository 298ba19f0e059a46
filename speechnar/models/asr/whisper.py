"""Whisper as a source of weights: its encoder, and its decoder's layers, positions and token embeddings.

No system of ours is a Whisper; those that stand on its encoder (`speechnar.nn.whisper.WhisperTrunk`), or whose decoders
begin from its decoder, take their start from a model folder of this kind (``init_from``).

Shapes: B utterances, T mel frames, T' positions, U tokens, D width, V vocabulary.
Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, section 2.2.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from speechnar.errors import ConfigError
from speechnar.models.base import ModelConfig
from speechnar.nn.lengths import valid_mask
from speechnar.nn.parallel_decoder import ParallelDecoder
from speechnar.nn.whisper import NORM_EPS, WhisperConfig, WhisperEncoder
from speechnar.text.languages import to_iso3
from speechnar.text.tokenizer import ASR, Tokenizer


class WhisperModelConfig(ModelConfig):
    """Sizes of both halves; the defaults are those of Whisper base."""

    kind: Literal["whisper"] = "whisper"
    encoder: WhisperConfig = WhisperConfig()
    decoder_layers: PositiveInt = 6
    decoder_heads: PositiveInt = 8
    max_tokens: PositiveInt = 448
    """Learned positions of the decoder."""
    num_tokens: PositiveInt = 51865
    """Token embeddings; some have no piece in the tokenizer, and its ``<blank>`` and ``<unk>`` have none of them."""

    @classmethod
    def debug(cls) -> "WhisperModelConfig":
        """Return a model of few parameters, for tests."""
        encoder = WhisperConfig(num_mels=20, model_dim=32, num_layers=2, num_heads=2)
        return cls(encoder=encoder, decoder_layers=2, decoder_heads=2, max_tokens=16, num_tokens=60)


class Whisper(nn.Module):
    """Encoder and decoder with Whisper's own computation, for parity and as a start for others."""

    def __init__(self, config: WhisperModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.encoder.model_dim
        self.encoder = WhisperEncoder(config.encoder)
        self.token_embed = nn.Embedding(config.num_tokens, dim)
        self.positions = nn.Parameter(torch.zeros(config.max_tokens, dim))
        self.decoder = ParallelDecoder(
            dim,
            config.decoder_layers,
            config.decoder_heads,
            4 * dim,
            dropout=0.0,
            attention_dropout=0.0,
            norm_eps=NORM_EPS,
            activation="gelu",
        )

    @classmethod
    def from_config(cls, config: WhisperModelConfig, tokenizer: Tokenizer) -> "Whisper":
        """Build with random weights."""
        del tokenizer  # Whisper's vocabulary is wider than what its tokenizer can spell
        return cls(config)

    def encode(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map log-mel features (B, T, F) to states (B, T', D) and their lengths (B,)."""
        return self.encoder(*self.encoder.frozen(feats, feat_lens))

    def forward(self, tokens: Tensor, enc: Tensor, enc_lens: Tensor) -> Tensor:
        """Map ``tokens`` (B, U), each of which sees those before it, and states (B, T', D) to logits (B, U, V)."""
        x = self.token_embed(tokens) + self.positions[: tokens.size(1)]
        valid = torch.ones_like(tokens, dtype=torch.bool)
        mask = valid_mask(enc_lens, enc.size(1))[:, None, None, :]
        hidden = self.decoder(x, valid, self.decoder.project(enc), mask, causal=True)
        return hidden @ self.token_embed.weight.T


def adopt_decoder(
    weights: Mapping[str, Tensor],
    tokenizer: Tokenizer,
    pieces: Sequence[str],
    *,
    num_layers: int,
    tables: Iterable[str],
    prefix: str,
    causal: bool = False,
) -> dict[str, Tensor]:
    """Return the weights of a Whisper's decoder as those of one in `speechnar.nn.whisper_decoder`.

    Args:
        weights: of a model folder of kind ``whisper``.
        tokenizer: of the same folder.
        pieces: the id space of the head. Each that Whisper has takes its embedding; the end of the sentence takes that
            of Whisper's, a language and recognition theirs, and the others begin as 0.
        num_layers: of the head's decoder, which takes as many of Whisper's, evenly spaced from the first to the last.
        tables: names of the tensors in the head that hold token embeddings.
        prefix: before the names of the head that has the decoder.
        causal: the head's decoder writes token by token, as Whisper's; else it is parallel.

    Raises:
        ConfigError: the Whisper has fewer layers.
    """
    table = weights["token_embed.weight"]
    rows = {piece: table[number] for number, piece in enumerate(tokenizer.pieces[: len(table)])}
    rows |= {"<eos>": rows["<|endoftext|>"], ASR: rows["<|transcribe|>"]}
    languages = {f"<{code}>": rows[piece] for piece, code in language_pieces(rows).items() if f"<{code}>" in pieces}
    rows |= languages
    language = torch.stack(list(languages.values() or [rows["<|en|>"]])).mean(0)
    theirs = {name.removeprefix(_DECODER): weight for name, weight in weights.items() if name.startswith(_DECODER)}
    blocks = _spaced_layers(theirs, num_layers)
    blocks = _as_causal(blocks, num_layers) if causal else {f"blocks.{name}": w for name, w in blocks.items()}
    embeds = torch.stack([rows.get(piece, torch.zeros_like(language)) for piece in pieces])
    adopted = {
        "decoder.start": torch.stack(
            [rows["<|startoftranscript|>"], language, rows["<|transcribe|>"], rows["<|notimestamps|>"]]
        ),
        "decoder.positions": weights["positions"],
        **{f"decoder.{name}": weight for name, weight in blocks.items()},
    }
    adopted |= {name: embeds for name in tables}
    return {f"{prefix}{name}": weight for name, weight in adopted.items()}


def _spaced_layers(blocks: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Keep ``num_layers`` of a `ParallelDecoder`'s layers, the first and the last among them."""
    total = 1 + max(int(name.split(".")[1]) for name in blocks if name.startswith(_LAYERS))
    if num_layers > total:
        raise ConfigError(f"this Whisper's decoder has {total} layers, too few for a decoder of {num_layers}")
    kept = [round(i * (total - 1) / max(num_layers - 1, 1)) for i in range(num_layers)]
    found = {name: weight for name, weight in blocks.items() if not name.startswith((_LAYERS, "key_value."))}
    for place, number in enumerate(kept):
        begin = f"{_LAYERS}{number}."
        found |= {
            f"{_LAYERS}{place}.{name.removeprefix(begin)}": weight
            for name, weight in blocks.items()
            if name.startswith(begin)
        }
    for name in ("key_value.weight", "key_value.bias"):  # of all layers, one below the other
        of_layers = blocks[name].chunk(total)
        found[name] = torch.cat([of_layers[number] for number in kept])
    return found


def _as_causal(blocks: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Return the weights of a `ParallelDecoder` under the names of a `speechnar.nn.decoder.CausalDecoder`."""
    found: dict[str, Tensor] = {}
    for name, weight in blocks.items():
        if name.startswith("key_value."):
            parts = enumerate(weight.chunk(num_layers))
            found |= {f"{_LAYERS}{number}.cross_attention.{name}": part for number, part in parts}
        elif name.startswith(_LAYERS):
            layers, number, module, *rest = name.split(".")
            found[".".join([layers, number, _CAUSAL_NAMES.get(module, module), *rest])] = weight
        else:
            found[name] = weight
    return found


_DECODER, _LAYERS = "decoder.", "layers."
_CAUSAL_NAMES = {
    "norm_self": "norm_attention",
    "self_attention": "attention",
    "norm_attention": "norm_cross",
    "query": "cross_attention.query",
    "out": "cross_attention.out",
}
MANDARIN = "cmn"
"""What Whisper calls Chinese; Cantonese has a piece of its own in its later models."""


def language_pieces(pieces: Iterable[str]) -> dict[str, str]:
    """Return Whisper's pieces of languages and their ISO 639-3 codes."""
    found = {}
    for piece in pieces:
        short = piece[2:-2]
        if piece == f"<|{short}|>" and len(short) in (2, 3) and short.isalpha():
            with suppress(ConfigError):  # a language that we have no name for
                found[piece] = MANDARIN if short == "zh" else to_iso3(short)
    return found
