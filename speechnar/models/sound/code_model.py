"""What all generators of codes share: a frozen codec, the condition, embeddings and heads of codes.

Shapes: B utterances, S samples, T frames, K codebooks, V codes of a codebook, D model width, U text tokens, M memory
tokens.
Sources: Copet et al., "Simple and Controllable Music Generation", NeurIPS 2023, section 2; Ho and Salimans,
"Classifier-Free Diffusion Guidance", 2022 (conditions are left out of a share of the utterances).
Differs from audiocraft: conditions are left out utterance by utterance, not batch by batch; words may be read by a
small encoder that is trained along (``words``), besides a text encoder that is not (``text``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from speechnar.config import Config
from speechnar.data.batch import SpeechBatch
from speechnar.data.codes import CodeBatch
from speechnar.errors import ConfigError, DataError
from speechnar.models.base import ModelConfig, Trainable
from speechnar.models.sound.encodec import Encodec, EncodecConfig, check_rate, draw_segments
from speechnar.models.tts.text_encoder import TextEncoder
from speechnar.nn.code_transformer import (
    NORM_EPS,
    CodeContext,
    CodeTransformer,
    Memory,
    frame_sinusoids,
    relative_context,
)
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.text.tokenizer import Tokenizer

EMBED_INIT_STD = 0.02


class WordsConfig(Config):
    """Words as the mean of their embeddings, which is added to every frame: names of classes, short captions."""

    kind: Literal["words"] = "words"
    word_dim: PositiveInt = 64
    word_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Share of the words that are left out while training."""


class TextConfig(Config):
    """Text as features of a frozen encoder, to which all layers attend."""

    kind: Literal["text"] = "text"
    encoder: str = "t5-base"
    """One of `speechnar.models.tts.text_encoder.ENCODERS`; needs the package transformers."""
    text_dim: PositiveInt = 768
    """Width of what it gives."""


ConditionConfig = Annotated[WordsConfig | TextConfig, Field(discriminator="kind")]


class CodeModelConfig(Config):
    """Sizes of a transformer over codes; the defaults are for twenty minutes of music on a CPU core."""

    model_dim: PositiveInt = 192
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 768
    dropout: float = Field(default=0.1, ge=0, lt=1)
    positions: Literal["absolute", "relative"] = "relative"
    """Absolute: added to the frames, as published; relative: distances, see
    `speechnar.nn.code_transformer.relative_context`."""

    @classmethod
    def debug(cls) -> "CodeModelConfig":
        """Return two narrow layers, for tests."""
        return cls(model_dim=32, num_layers=2, num_heads=2, ff_dim=64, dropout=0.0)

    @classmethod
    def published(cls) -> "CodeModelConfig":
        """Return those of MAGNeT and MusicGen small."""
        return cls(model_dim=1024, num_layers=24, num_heads=16, ff_dim=4096, dropout=0.0, positions="absolute")


class CodeGeneratorConfig(ModelConfig):
    """What the configurations of all generators have; the defaults are for 10 s of music on a CPU core."""

    codec: EncodecConfig = EncodecConfig()
    network: CodeModelConfig = CodeModelConfig()
    condition: ConditionConfig = WordsConfig()
    window_frames: PositiveInt = 500
    """The most it makes at one go."""
    piece_frames: PositiveInt | None = None
    """Length of the pieces it learns from; None: ``window_frames``, as it must be where positions are absolute."""
    left_out_prob: float = Field(default=0.15, ge=0, le=1)
    """Share of the utterances whose condition is left out."""

    @property
    def learned_frames(self) -> int:
        """Return the length of the pieces it learns from."""
        return self.piece_frames or self.window_frames

    @model_validator(mode="after")
    def _check_pieces(self) -> Self:
        is_absolute = self.network.positions == "absolute"
        if self.learned_frames > self.window_frames or (is_absolute and self.learned_frames < self.window_frames):
            needed = "equal" if is_absolute else "be at most"
            raise ValueError(f"piece_frames must {needed} window_frames {self.window_frames}, got {self.piece_frames}")
        return self


@dataclass(frozen=True)
class Condition:
    """What the sound of each utterance is to be like."""

    added: Tensor | None = None
    """(B, 1, D) to every frame."""
    memory: Tensor | None = None
    """(B, M, D) that layers attend to."""
    kept: Memory | None = None
    """The memory of a condition that `keep` has made."""

    def keep(self) -> "Condition":
        """Return the condition for many calls of a model that does not learn: a layer projects its memory once."""
        return self if self.memory is None else replace(self, kept=Memory(self.memory))

    def rows(self, index: Tensor) -> "Condition":
        """Return the condition of the utterances ``index`` (N,)."""
        return Condition(
            None if self.added is None else self.added[index], None if self.memory is None else self.memory[index]
        )


def join_conditions(several: Sequence[Condition]) -> Condition:
    """Return the condition of all utterances of ``several``, their memories padded by zeros.

    Those at the end with no memory but zeros need none: attention to zeros gives zeros.
    """
    added = [condition.added for condition in several if condition.added is not None]
    memories = [condition.memory for condition in several if condition.memory is not None]
    longest = max((memory.size(1) for memory in memories), default=0)
    padded = [F.pad(memory, (0, 0, 0, longest - memory.size(1))) for memory in memories]
    memory = torch.cat(padded) if padded else None
    if memory is not None:
        memory = memory[: int(memory.any(2).any(1).nonzero().max()) + 1] if memory.any() else None
    return Condition(torch.cat(added) if added else None, memory)


class WordsCondition(nn.Module):
    """Mean of the embeddings of words, through a perceptron; without a condition, a vector of its own."""

    def __init__(self, config: WordsConfig, model_dim: int, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.word_dropout = config.word_dropout
        self.tokenizer = tokenizer
        self.embed = nn.Embedding(tokenizer.vocab_size, config.word_dim)
        self.project = nn.Sequential(nn.Linear(config.word_dim, model_dim), nn.GELU(), nn.Linear(model_dim, model_dim))
        self.nothing = nn.Parameter(torch.zeros(model_dim))  # the name of it in weights that exist
        nn.init.normal_(self.nothing, std=EMBED_INIT_STD)

    @property
    def words(self) -> tuple[str, ...]:
        """The words that it knows."""
        return tuple(piece.lstrip("▁") for piece in self.tokenizer.pieces if not piece.startswith("<"))

    def forward(self, tokens: Tensor, token_lens: Tensor, left_out: Tensor) -> Condition:
        """Return the condition of ``tokens`` (B, U), anything in their padding; none where ``left_out`` (B,)."""
        valid = valid_mask(token_lens, tokens.size(1))
        if self.training and self.word_dropout:
            valid = valid & (torch.rand(tokens.shape, device=tokens.device) >= self.word_dropout)
        counts = valid.sum(1, keepdim=True)
        words = zero_padding(self.embed(tokens.masked_fill(~valid, 0)), valid)
        condition = self.project(words.sum(1) / counts.clamp(min=1))
        is_nothing = left_out[:, None] | (counts == 0)
        return Condition(added=torch.where(is_nothing, self.nothing.to(condition.dtype), condition)[:, None])

    def of_texts(self, texts: Sequence[str | None], device: torch.device) -> Condition:
        """Return the condition of ``texts``; None: without one.

        Raises:
            ConfigError: a text has a word that was not in the training data, or none.
        """
        rows = [[] if text is None else self._encode(text) for text in texts]
        tokens = torch.zeros(len(rows), max(1, *map(len, rows)), dtype=torch.int64)
        for row, ids in zip(tokens, rows, strict=True):
            row[: len(ids)] = torch.tensor(ids, dtype=torch.int64)
        lens = torch.tensor([len(ids) for ids in rows], device=device)
        return self(tokens.to(device), lens, lens == 0)

    def _encode(self, text: str) -> list[int]:
        ids = self.tokenizer.encode(text)
        if not ids:
            raise ConfigError("a prompt must have a word; leave it out (None) to generate without one")
        unknown = [word for word in text.split() if self.tokenizer.unk_id in self.tokenizer.encode(word)]
        if unknown or self.tokenizer.unk_id in ids:
            known = self.words
            raise ConfigError(
                f"the model knows no {' or '.join(map(repr, unknown[:5])) or repr(text[:60])}; "
                f"it knows {len(known)} words: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"
            )
        return ids


class TextCondition(nn.Module):
    """Features of text as a memory; without a condition, a memory of zeros."""

    words = ()
    """It takes any."""

    def __init__(self, config: TextConfig, model_dim: int, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(config.encoder, config.text_dim)
        self.project = nn.Linear(config.text_dim, model_dim)

    def forward(self, tokens: Tensor, token_lens: Tensor, left_out: Tensor) -> Condition:
        """Return the condition of the text of ``tokens`` (B, U); none where ``left_out`` (B,)."""
        texts = [self.tokenizer.decode(row[:n]) for row, n in zip(tokens.tolist(), token_lens.tolist(), strict=True)]
        kept = [None if out else text for text, out in zip(texts, left_out.tolist(), strict=True)]
        return self.of_texts(kept, tokens.device)

    def of_texts(self, texts: Sequence[str | None], device: torch.device) -> Condition:
        """Return the condition of ``texts``; None, or no words: without one."""
        features, lens = self.encoder.encode([text or "" for text in texts], device)
        return self.of_features(features, lens)

    def of_features(self, features: Tensor, lens: Tensor) -> Condition:
        """Return the condition of features (B, M, text_dim) of the text encoder; lengths (B,) of 0: without one."""
        return Condition(memory=zero_padding(self.project(features), valid_mask(lens, features.size(1))))


def build_condition(
    config: WordsConfig | TextConfig, model_dim: int, tokenizer: Tokenizer
) -> WordsCondition | TextCondition:
    """Make the condition that ``config`` describes."""
    if isinstance(config, WordsConfig):
        return WordsCondition(config, model_dim, tokenizer)
    return TextCondition(config, model_dim, tokenizer)


class CodeEmbedding(nn.Module):
    """Codes to frames: the sum of the embeddings of a frame's codes and, where it is added, of its position.

    Code V is the mask: nothing is known of the code there.
    """

    def __init__(self, num_codebooks: int, codebook_size: int, sizes: CodeModelConfig) -> None:
        super().__init__()
        self.mask_id = codebook_size
        self.sizes = sizes
        model_dim = sizes.model_dim
        tables = [nn.Embedding(codebook_size + 1, model_dim) for _ in range(num_codebooks)]
        for table in tables:
            _draw(table.weight, model_dim)
        self.codes = nn.ModuleList(tables)

    def forward(self, codes: Tensor, first: int = 0) -> Tensor:
        """Map ``codes`` (B, K, T) to (B, T, D); the first frame stands at position ``first``.

        Fewer codebooks than there are may be given: the lowest ones.
        """
        frames = torch.stack([table(ids) for table, ids in zip(self.codes, codes.unbind(1), strict=False)]).sum(0)
        return frames + self.positions(first, codes.size(2), codes.device).to(frames)

    def positions(self, first: int, num_frames: int, device: torch.device) -> Tensor:
        """Return (T, D) what is added to frames for their position; zeros if layers see distances instead."""
        if self.sizes.positions == "relative":
            return torch.zeros(num_frames, self.sizes.model_dim, device=device)
        return frame_sinusoids(torch.arange(first, first + num_frames, device=device), self.sizes.model_dim)


class CodeGenerator(Trainable):
    """What all generators have: a codec that never learns, a condition, embeddings of codes, heads behind a norm."""

    learns_from = ("speech", "codes")
    warm_starts: ClassVar[Mapping[str, str]] = {"encodec": "codec."}
    pretrained = ("codec.",)

    def __init__(self, config: CodeGeneratorConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        sizes, codec = config.network, config.codec
        self.codec = Encodec(codec).requires_grad_(False).eval()
        self.condition = build_condition(config.condition, sizes.model_dim, tokenizer)
        self.embed = CodeEmbedding(codec.num_codebooks, codec.codebook_size, sizes)
        self.norm = nn.LayerNorm(sizes.model_dim, NORM_EPS)
        self.heads = build_heads(codec.num_codebooks, codec.codebook_size, sizes.model_dim)

    @classmethod
    def from_config(cls, config: Any, tokenizer: Tokenizer) -> Self:
        """Build the model for the words of ``tokenizer``."""
        return cls(config, tokenizer)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model learns from and makes."""
        return self.codec.sample_rate

    def train(self, mode: bool = True) -> Self:
        """Set the mode of what is trained; the codec never learns."""
        super().train(mode)
        self.codec.eval()
        return self


def build_transformer(config: CodeGeneratorConfig) -> CodeTransformer:
    """Make the layers over frames that ``config`` describes."""
    sizes = config.network
    return CodeTransformer(
        sizes.model_dim,
        sizes.num_layers,
        sizes.num_heads,
        sizes.ff_dim,
        dropout=sizes.dropout,
        has_memory=isinstance(config.condition, TextConfig),
    )


def build_heads(num_codebooks: int, codebook_size: int, model_dim: int) -> nn.ModuleList:
    """Return a linear layer (D to V) without bias for each codebook."""
    heads = [nn.Linear(model_dim, codebook_size, bias=False) for _ in range(num_codebooks)]
    for head in heads:
        _draw(head.weight, model_dim)
    return nn.ModuleList(heads)


def _draw(weight: Tensor, model_dim: int) -> None:
    std = model_dim**-0.5
    nn.init.trunc_normal_(weight, std=std, a=-3 * std, b=3 * std)


def draw_codes_of(
    batch: SpeechBatch | CodeBatch, codec: Encodec, num_frames: int, generator: torch.Generator | None = None
) -> Tensor:
    """Return the codes (B, K, num_frames) of a random piece of each utterance.

    Of sound that is shorter, the rest is silence; codes have to be long enough.

    Raises:
        DataError: the sound has another sample rate than the codec, or codes are too few or not the codec's.
    """
    if isinstance(batch, SpeechBatch):
        check_rate(batch, codec.sample_rate)
        wav = draw_segments(batch.wav, batch.wav_lens, num_frames * codec.config.hop_length, generator)
        with torch.autocast(wav.device.type, enabled=False):  # half precision would give other codes
            return codec.encode(wav)[0]
    config = codec.config
    if batch.codes.size(1) != config.num_codebooks:
        raise DataError(
            f"the codec has {config.num_codebooks} codebooks, the data have {batch.codes.size(1)}; extract the codes "
            "with the codec of the model (speechnar data codes)"
        )
    if batch.codes.size(2) < num_frames or bool((batch.code_lens < num_frames).any()):
        index = int(batch.code_lens.argmin())
        raise DataError(
            f"utterance {batch.utt_ids[index]!r}: needs {num_frames} frames, has {int(batch.code_lens[index])}; "
            f"extract its codes with --min-seconds {num_frames / config.frame_rate:g}, or lower piece_frames"
        )
    num_places = batch.code_lens - num_frames + 1
    uniform = torch.rand(len(batch.codes), generator=generator, device=batch.codes.device)
    starts = (uniform * num_places).long().minimum(num_places - 1)
    frames = starts[:, None] + torch.arange(num_frames, device=starts.device)
    return batch.codes.gather(2, frames[:, None].expand(-1, config.num_codebooks, -1))


def draw_left_out(count: int, prob: float, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Return bool (B,), True for a share ``prob`` of the utterances, whose condition is left out."""
    return torch.rand(count, generator=generator, device=device) < prob


def build_context(
    sizes: CodeModelConfig,
    condition: Condition,
    places: Tensor,
    keys: Tensor | None = None,
    *,
    reach: int | None = None,
    mask: Tensor | None = None,
    is_causal: bool = False,
) -> CodeContext:
    """Return the context of layers of ``sizes`` that see ``condition``.

    Args:
        sizes: of the layers.
        condition: of each utterance.
        places: (N,) or (B, N) positions of the frames.
        keys: (L + N,) or (B, L + N) positions of all that are seen; None: ``places``.
        reach: frames before and after that each may see; None: all.
        mask: bool (B, N, L + N), True where a frame may see another.
        is_causal: frames see those before them and themselves only; not with ``reach`` or ``mask``.
    """
    memory = condition.memory if condition.kept is None else condition.kept
    if sizes.positions == "absolute":
        mask = None if mask is None else mask[:, None]
        return CodeContext(reach=reach, mask=mask, is_causal=is_causal, memory=memory)
    keys = places if keys is None else keys
    if is_causal:
        mask = (keys[..., None, :] <= places[..., :, None]).view(-1, places.size(-1), keys.size(-1))
    return relative_context(
        places,
        keys,
        num_heads=sizes.num_heads,
        head_dim=sizes.model_dim // sizes.num_heads,
        reach=reach,
        mask=mask,
        memory=memory,
    )


def add_condition(frames: Tensor, condition: Condition) -> Tensor:
    """Return ``frames`` (B, T, D) with what their condition adds to all of them."""
    return frames if condition.added is None else frames + condition.added.to(frames)
