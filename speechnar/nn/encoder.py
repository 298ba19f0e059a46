"""The shared encoder: subsampling, positions, blocks from Transformer to E-Branchformer, and hooks between them.

Shapes: B utterances, T feature frames, T' encoder positions (prefix and subsampled frames), F features, D model width,
P prefix positions, M prompt tokens.

The padding contract: an utterance encodes the same alone, in a batch, and beside NaN padding. ``leaky_padding=True``
gives that up to reproduce ESPnet, whose convolutions see padding and whose lengths are rounded up in a batch.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from speechnar.config import Config
from speechnar.errors import ConfigError, ShapeError
from speechnar.nn.adapter import STRIDE, HalvingAdapter
from speechnar.nn.attention import PositionKind
from speechnar.nn.blocks import ConformerBlock, EBranchformerBlock
from speechnar.nn.context import BlockContext, Chunking, LayerCache
from speechnar.nn.conv import ConvNorm, ConvSubsampling, FrameJoining
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import key_mask, valid_mask, zero_padding
from speechnar.nn.positions import MAX_DISTANCE, distance_sinusoids, rotary_angles, sinusoids
from speechnar.nn.transformer import TransformerBlock

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
LEGACY_TABLE_FRAMES = 5000
"""Length of the table of positions in old ESPnet and FunASR models, which is read from its end."""
AfterLayer = Callable[[int, Tensor], Tensor]


class _EncoderConfig(Config):
    model_dim: PositiveInt = 256
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 4
    positions: PositionKind = "relative"
    """``legacy`` reproduces ESPnet's and FunASR's models from before their relative positions were corrected."""
    max_distance: int = Field(default=20, gt=0, le=MAX_DISTANCE)
    """Of clipped positions and Shaw's: positions further apart count as this far apart."""
    max_distance_ahead: Annotated[int, Field(gt=0, le=MAX_DISTANCE)] | None = None
    """Of Shaw's: the same of a position behind the query; None: ``max_distance``."""
    subsampling: Literal[1, 2, 4, 6, 8] = 4
    """Frames to one position: by convolutions, or, 1 and 2, by joining frames that are encoded already."""
    subsampling_channels: PositiveInt | None = None
    """Channels of the subsampling convolutions; None takes ``model_dim``, as ESPnet does."""
    subsampling_padding: Literal[0, 1] = 0
    """Zeros at both ends of the subsampling convolutions: 1 counts a last, incomplete frame, as CASS-NAT does."""
    subsampling_separable: bool = False
    """Subsampling convolutions but the first are depthwise, with a linear map behind each, as FastConformer's are."""
    joining_norm: bool = False
    """A norm of joined frames before they are projected, as in w2v-BERT 2.0."""
    joining_partial: bool = True
    """A last, incomplete group of joined frames counts, completed by zeros."""
    joining_deltas: bool = False
    """Each of the joined frames is followed by its slope."""
    cross_attention_every: PositiveInt | None = None
    """Every how many blocks one attends to the prompt memory; None never."""
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.1
    norm_eps: float = Field(default=1e-12, gt=0)
    """ESPnet's value; bf16 training is safer with 1e-5."""
    output_norm: bool = True
    """A norm behind the last block."""
    leaky_padding: bool = False
    """Reproduce ESPnet's padding leak; for parity with its outputs on padded batches only."""

    @property
    def halving(self) -> tuple[int, ...]:
        """Blocks (1-based) that leave half as many positions."""
        return ()

    @property
    def total_subsampling(self) -> int:
        """Frames to one position of the output."""
        return self.subsampling * 2 ** len(self.halving)


class ConformerConfig(_EncoderConfig):
    """Conformer (Gulati et al. 2020); the defaults are its size M, with ESPnet's widths."""

    kind: Literal["conformer"] = "conformer"
    ff_dim: PositiveInt = 1024
    kernel_size: PositiveInt = 31
    conv_norm: ConvNorm = "layer"
    """``batch`` is the paper's and ESPnet's; ``layer`` keeps utterances independent while training, as does ``group``
    (CASS-NAT), which normalises all frames of an utterance together and so needs the whole of it."""
    causal_conv: bool = False
    """The convolution of a block sees no frame behind its own."""
    block_norm: bool = True
    """A norm at the end of each block, besides the encoder's own."""
    conv_expansion: PositiveInt = 1
    """Channels of the convolution, in ``model_dim``."""
    attention_block: PositiveInt | None = None
    """Positions that attend to each other, counted from the first one of an utterance; None: all do."""
    halving_blocks: tuple[PositiveInt, ...] = ()
    """Blocks (1-based) whose convolution leaves every second position."""
    num_adapters: NonNegativeInt = 0
    """Layers behind the last block, each of which halves the positions, see `HalvingAdapter`."""

    @model_validator(mode="after")
    def _check(self) -> "ConformerConfig":
        if (self.attention_block is not None or self.halving_blocks) and self.positions != "shaw":
            raise ValueError(f"attention_block and halving_blocks need positions shaw, got {self.positions}")
        if len(set(self.halving_blocks)) < len(self.halving_blocks) or max(self.halving_blocks, default=0) > (
            self.num_layers
        ):
            raise ValueError(f"halving_blocks must differ and be at most num_layers={self.num_layers}")
        return self

    @property
    @override
    def halving(self) -> tuple[int, ...]:
        return self.halving_blocks

    @property
    @override
    def total_subsampling(self) -> int:
        return super().total_subsampling * int(STRIDE**self.num_adapters)


class EBranchformerConfig(_EncoderConfig):
    """E-Branchformer (Kim et al. 2022)."""

    kind: Literal["e_branchformer"] = "e_branchformer"
    ff_dim: PositiveInt = 1024
    gate_dim: PositiveInt = 1024
    kernel_size: PositiveInt = 31
    merge_kernel_size: PositiveInt = 31


class BranchformerConfig(_EncoderConfig):
    """Branchformer (Peng et al. 2022) with concatenated branches; the defaults are ESPnet's."""

    kind: Literal["branchformer"] = "branchformer"
    gate_dim: PositiveInt = 2048
    kernel_size: PositiveInt = 31


class TransformerConfig(_EncoderConfig):
    """Transformer with the norm before each module (Vaswani et al. 2017); the defaults are ESPnet's."""

    kind: Literal["transformer"] = "transformer"
    ff_dim: PositiveInt = 2048
    positions: Literal["absolute"] = "absolute"
    cross_attention_every: None = None


AnyBlocksConfig = ConformerConfig | EBranchformerConfig | BranchformerConfig | TransformerConfig
BlocksConfig = Annotated[AnyBlocksConfig, Field(discriminator="kind")]


class Encoder(nn.Module):
    """Frames to encoded positions; satisfies ``(feats, feat_lens) -> (enc, enc_lens)``."""

    distances: Tensor

    def __init__(self, config: AnyBlocksConfig, num_features: int) -> None:
        super().__init__()
        self.config = config
        self.subsampling: ConvSubsampling | FrameJoining
        if config.subsampling in (1, 2):
            self.subsampling = FrameJoining(
                num_features,
                config.model_dim,
                factor=config.subsampling,
                partial=config.joining_partial,
                norm_eps=config.norm_eps if config.joining_norm else None,
                deltas=config.joining_deltas,
            )
        else:
            self.subsampling = ConvSubsampling(
                num_features,
                config.model_dim,
                factor=config.subsampling,
                channels=config.subsampling_channels,
                padding=config.subsampling_padding,
                separable=config.subsampling_separable,
            )
        if config.positions == "clipped":
            # A buffer that is saved: the CASS-NAT authors' checkpoints hold tables that are no sinusoids.
            table = sinusoids(torch.arange(2 * config.max_distance + 1), config.model_dim)
            self.register_buffer("distances", table)
        self.dropout = Dropout(config.dropout)
        self.layers = nn.ModuleList(_build_block(config, index + 1) for index in range(config.num_layers))
        self.norm = nn.LayerNorm(config.model_dim, config.norm_eps) if config.output_norm else nn.Identity()
        self.adapters = nn.ModuleList(_build_adapters(config) if isinstance(config, ConformerConfig) else [])

    def forward(
        self,
        feats: Tensor,
        feat_lens: Tensor,
        *,
        prefix: Tensor | None = None,
        memory: Tensor | None = None,
        memory_lens: Tensor | None = None,
        after_layer: AfterLayer | None = None,
        chunking: Chunking | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode a padded batch.

        Args:
            feats: (B, T, F); what stands beyond ``feat_lens`` does not matter.
            feat_lens: (B,) feature frames, at least 1 each.
            prefix: (B, P, D) embeddings put before the first frame, e.g. of language and task.
            memory: (B, M, D) prompt memory for the cross-attention of the blocks that have one.
            memory_lens: (B,) tokens of ``memory``.
            after_layer: called with the 1-based number of each block and its output (B, T', D); what it returns goes
                on to the next block. Self-conditioned inter-CTC lives there.
            chunking: limits what a position may see; None sees everything.

        Returns:
            enc (B, T', D) and enc_lens (B,), prefix positions counted.

        Raises:
            ConfigError: ``chunking`` for an encoder that looks beyond chunks; see `stream`.
            ShapeError: ``feats`` and ``feat_lens`` do not fit each other.
        """
        if feats.dim() != 3 or feat_lens.shape != feats.shape[:1]:
            raise ShapeError(
                f"need feats (B, T, F) and feat_lens (B,), got {tuple(feats.shape)}, {tuple(feat_lens.shape)}"
            )
        if chunking is not None:
            self._check_chunks()
        x, enc_lens = self._subsample(feats, feat_lens)
        least = 2 ** len(self.config.halving)  # of which one is left
        if least > 1:
            x = F.pad(zero_padding(x, valid_mask(enc_lens, x.size(1))), (0, 0, 0, max(0, least - x.size(1))))
            enc_lens = enc_lens.clamp(min=least)
        if prefix is not None:
            x = torch.cat([prefix.to(x.dtype), x], dim=1)
            enc_lens = enc_lens + prefix.size(1)
        valid = valid_mask(enc_lens, x.size(1))
        attn_mask = key_mask(valid)
        if chunking is not None:
            # A padded query may find no valid key; it may see itself, so that its garbage stays finite.
            itself = torch.eye(x.size(1), dtype=torch.bool, device=x.device)
            attn_mask = (valid[:, None, None, :] & chunking.visible(x.size(1), x.device)) | itself
        context = BlockContext(
            valid=valid,
            attn_mask=attn_mask,
            memory=memory,
            memory_mask=None
            if memory is None or memory_lens is None
            else valid_mask(memory_lens, memory.size(1))[:, None, None, :],
            chunking=chunking,
            leaky_padding=self.config.leaky_padding,
        )
        enc = self._run_blocks(x, context, caches=None, first=0, after_layer=after_layer)
        enc_lens = torch.div(enc_lens, least, rounding_mode="floor")
        for adapter in self.adapters:
            enc, enc_lens = adapter(enc, enc_lens)
        return enc, enc_lens

    def embed(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the first block sees: subsampled and scaled frames (B, T', D), and their lengths (B,)."""
        x, enc_lens = self._subsample(feats, feat_lens)
        return self.dropout(x * math.sqrt(self.config.model_dim)), enc_lens

    def run(self, x: Tensor, valid: Tensor, *, after_layer: AfterLayer | None = None) -> Tensor:
        """Run the blocks over any sequence (B, N, D) as `embed` makes it, of which ``valid`` (B, N) is real.

        Raises:
            ConfigError: positions are absolute or rotary, and would have to be told where the sequence stands; or
                there are adapters, behind which no sequence is as long as before.
        """
        if self.adapters:
            raise ConfigError(f"running over any sequence needs num_adapters 0, got {len(self.adapters)}")
        if self.config.positions not in ("relative", "clipped", "shaw"):
            raise ConfigError(f"running over any sequence needs relative positions, got {self.config.positions}")
        if self.config.halving:
            raise ConfigError("running over any sequence needs blocks that keep its length; got halving_blocks")
        context = BlockContext(
            valid=valid,
            attn_mask=valid[:, None, None, :],
            positions=self._distances(x.size(1), x.size(1), x.device),
            leaky_padding=self.config.leaky_padding,
        )
        return self._run_layers(x, context, caches=None, after_layer=after_layer)

    def _subsample(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        if self.config.leaky_padding and isinstance(self.subsampling, ConvSubsampling):
            return self.subsampling(feats), self.subsampling.leaky_out_lens(feat_lens, feats.size(1))
        feats = zero_padding(feats, valid_mask(feat_lens, feats.size(1)))
        return self.subsampling(feats, feat_lens), self.subsampling.out_lens(feat_lens)

    def _check_chunks(self) -> None:
        config = self.config
        if config.positions == "legacy":
            raise ConfigError("chunks need positions other than legacy, which depend on the length of the whole")
        if config.halving or getattr(config, "attention_block", None) is not None or config.joining_deltas:
            raise ConfigError("chunks need neither attention_block, halving_blocks nor joining_deltas")
        if self.adapters:
            raise ConfigError(f"chunks need num_adapters 0, since adapters see everything; got {len(self.adapters)}")
        if config.subsampling_padding or (isinstance(config, ConformerConfig) and config.conv_norm == "group"):
            raise ConfigError(
                "chunks need subsampling_padding 0 and a conv_norm other than group, which look beyond the chunk; "
                f"got {config.subsampling_padding} and {getattr(config, 'conv_norm', 'none')}"
            )

    def _distances(self, num_queries: int, num_keys: int, device: torch.device) -> Tensor | None:
        """Return the table of relative positions that the blocks read, after dropout; Shaw's have their own."""
        if self.config.positions == "shaw":
            return None
        if self.config.positions == "clipped":
            return self.dropout(self.distances)
        if self.config.positions == "legacy":
            places = LEGACY_TABLE_FRAMES - 1 - torch.arange(num_keys, device=device)
            return self.dropout(sinusoids(places, self.config.model_dim))
        return self.dropout(distance_sinusoids(num_queries, num_keys, self.config.model_dim, device))

    def _run_blocks(
        self,
        x: Tensor,
        context: BlockContext,
        *,
        caches: list[LayerCache] | None,
        first: int,
        after_layer: AfterLayer | None,
    ) -> Tensor:
        """Add positions counted from ``first``, and run the blocks over ``x`` (B, T', D)."""
        x = x * math.sqrt(self.config.model_dim)
        num_frames, seen = x.size(1), 0
        if caches is not None and caches[0].keys is not None:
            seen = caches[0].keys.size(2)
        positions: Tensor | None = None
        match self.config.positions:
            case "absolute":
                x = x + sinusoids(torch.arange(first, first + num_frames, device=x.device), x.size(2))
            case "relative" | "clipped" | "shaw" | "legacy":
                positions = self._distances(num_frames, seen + num_frames, x.device)
            case "rotary":
                positions = rotary_angles(first, num_frames, x.size(2) // self.config.num_heads, x.device)
        x = self.dropout(x)
        return self._run_layers(x, replace(context, positions=positions), caches=caches, after_layer=after_layer)

    def _run_layers(
        self, x: Tensor, context: BlockContext, *, caches: list[LayerCache] | None, after_layer: AfterLayer | None
    ) -> Tensor:
        for index, layer in enumerate(self.layers):
            layer_context = context if caches is None else replace(context, cache=caches[index])
            x = layer(x, layer_context)
            if index + 1 in self.config.halving:
                context = _halved(context)
            if after_layer is not None:
                x = after_layer(index + 1, x)
        return self.norm(x)

    def stream(
        self,
        chunking: Chunking,
        *,
        prefix: Tensor | None = None,
        memory: Tensor | None = None,
        memory_lens: Tensor | None = None,
        after_layer: AfterLayer | None = None,
    ) -> "EncoderStream":
        """Start encoding features as they come; the result equals ``forward`` with the same ``chunking``.

        Raises:
            ConfigError: the encoder looks beyond chunks (padded subsampling, or a norm over the utterance).
        """
        self._check_chunks()
        return EncoderStream(self, chunking, prefix, memory, memory_lens, after_layer)


def _halved(context: BlockContext) -> BlockContext:
    """Return the context behind a block that left half as many positions: those of which both were real."""
    valid = context.valid[:, 1::2]
    return replace(context, valid=valid, attn_mask=valid[:, None, None, :])


@dataclass
class EncoderStream:
    """One utterance (or B of equal length) encoded chunk by chunk, with cached keys, values and convolutions."""

    encoder: Encoder
    chunking: Chunking
    prefix: Tensor | None = None
    memory: Tensor | None = None
    memory_lens: Tensor | None = None
    after_layer: AfterLayer | None = None
    _feats: Tensor | None = None
    _positions: Tensor | None = None
    _has_frames: bool = False
    _num_done: int = 0
    _caches: list[LayerCache] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._caches = [LayerCache() for _ in self.encoder.layers]
        self._positions = self.prefix

    def push(self, feats: Tensor) -> Iterator[Tensor]:
        """Take features (B, T, F) of any length; yield each chunk (B, chunk_frames, D) that became complete."""
        self._feats = feats if self._feats is None else torch.cat([self._feats, feats], dim=1)
        self._subsample()
        while self._positions is not None and self._positions.size(1) >= self.chunking.chunk_frames:
            yield self._encode_chunk()

    def finish(self) -> Iterator[Tensor]:
        """Yield what is left, at most one chunk; the stream cannot be used afterwards."""
        if not self._has_frames and self._feats is not None and self._feats.size(1) > 0:
            self._append(self.encoder.subsampling(self._feats))  # too short for a frame: extended to one, as in forward
        while self._positions is not None and self._positions.size(1) > 0:
            yield self._encode_chunk()

    def _subsample(self) -> None:
        """Turn buffered features into positions, keeping those that later positions look at again."""
        subsampling = self.encoder.subsampling
        if self._feats is None or self._feats.size(1) < subsampling.min_frames:
            return
        x = subsampling(self._feats)
        self._feats = self._feats[:, x.size(1) * subsampling.factor :]
        self._append(x)

    def _append(self, x: Tensor) -> None:
        self._has_frames = True
        self._positions = x if self._positions is None else torch.cat([self._positions.to(x.dtype), x], dim=1)

    def _encode_chunk(self) -> Tensor:
        assert self._positions is not None
        x = self._positions[:, : self.chunking.chunk_frames]
        self._positions = self._positions[:, self.chunking.chunk_frames :]
        context = BlockContext(
            valid=torch.ones(x.shape[:2], dtype=torch.bool, device=x.device),
            attn_mask=None,
            memory=self.memory,
            memory_mask=None
            if self.memory is None or self.memory_lens is None
            else valid_mask(self.memory_lens, self.memory.size(1))[:, None, None, :],
            chunking=self.chunking,
        )
        enc = self.encoder._run_blocks(
            x, context, caches=self._caches, first=self._num_done, after_layer=self.after_layer
        )
        self._num_done += x.size(1)
        return enc


def _build_adapters(config: ConformerConfig) -> list[HalvingAdapter]:
    return [
        HalvingAdapter(
            config.model_dim,
            config.num_heads,
            config.ff_dim,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_eps=config.norm_eps,
        )
        for _ in range(config.num_adapters)
    ]


def _build_block(config: AnyBlocksConfig, number: int) -> nn.Module:
    """Build block ``number`` (1-based)."""
    if isinstance(config, TransformerConfig):
        return TransformerBlock(
            config.model_dim,
            config.num_heads,
            config.ff_dim,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_eps=config.norm_eps,
        )
    every = config.cross_attention_every
    cross_attention = every is not None and number % every == 0
    max_distances = (config.max_distance, config.max_distance_ahead or config.max_distance)
    if isinstance(config, ConformerConfig):
        return ConformerBlock(
            config.model_dim,
            config.num_heads,
            config.ff_dim,
            kernel_size=config.kernel_size,
            positions=config.positions,
            max_distances=max_distances,
            conv_norm=config.conv_norm,
            causal_conv=config.causal_conv,
            conv_expansion=config.conv_expansion,
            attention_block=config.attention_block,
            halves=number in config.halving_blocks,
            last_norm=config.block_norm,
            cross_attention=cross_attention,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_eps=config.norm_eps,
        )
    return EBranchformerBlock(
        config.model_dim,
        config.num_heads,
        config.ff_dim if isinstance(config, EBranchformerConfig) else None,
        gate_dim=config.gate_dim,
        kernel_size=config.kernel_size,
        merge_kernel_size=config.merge_kernel_size if isinstance(config, EBranchformerConfig) else None,
        positions=config.positions,
        max_distances=max_distances,
        cross_attention=cross_attention,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        norm_eps=config.norm_eps,
    )
