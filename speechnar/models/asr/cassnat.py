"""CASS-NAT: all tokens of an utterance at once, each from the frames that a CTC alignment gives it.

The CTC alignment cuts the encoder's frames into one segment per token and one for the end of the sentence. A
token-level acoustic embedding (TAE) reads each segment; self-attention blocks (SAD) relate the embeddings to each
other, in place of an autoregressive decoder's language model; mixed-attention blocks (MAD) also look back at all
frames. Every slot then names its token. In training the alignment is that of the reference (Viterbi), in decoding that
of the best CTC path.

Shapes: B utterances, T encoder frames, D model width, H heads, V vocabulary (blank included), U tokens; U + 1 slots,
the last one for the end of the sentence; M the distance at which relative positions are clipped.
Sources: Fan et al., "CASS-NAT: CTC Alignment-based Single Step Non-Autoregressive Transformer for Speech Recognition",
ICASSP 2021; "An Improved Single Step Non-autoregressive Transformer for Automatic Speech Recognition", Interspeech 2021
(Conformer blocks, expanded triggers, intermediate losses); "A CTC Alignment-based Non-autoregressive Transformer for
End-to-end Automatic Speech Recognition", TASLP 2023.

Its parts: `token_acoustic_embedder` (TAE), `slot_losses` (targets of the slots), `alignment_ranking` (error-based
sampling).

Differs from the authors' code:
- norms of the convolution count the real slots of an utterance only, so that padding changes nothing.
- relative positions are sinusoids (there, an initialiser overwrites them); a checkpoint of theirs brings its own table.
- a token first emitted on the last frame of a batch has a slot, unless ``lose_last_emission``.
"""

from typing import Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from speechnar.config import Config
from speechnar.data.batch import SpeechBatch
from speechnar.decode.align import CtcPath, viterbi_align
from speechnar.decode.esa import NamedSlots, sample_segments
from speechnar.decode.segments import Segments, aligned_segments, path_segments
from speechnar.errors import ConfigError
from speechnar.models.asr.alignment_ranking import KEPT_ALIGNMENTS, Ranker, choose, name_in_parts
from speechnar.models.asr.ctc_trunk import CtcTrunk, CtcTrunkConfig, CtcTrunkModel, TrunkOutput, conformer
from speechnar.models.asr.slot_losses import SlotLosses, SlotOutput, slot_losses
from speechnar.models.asr.token_acoustic_embedder import (
    Candidates,
    TokenAcousticEmbedder,
    clean,
    cut_posteriors,
    posteriors,
)
from speechnar.models.base import LossOutput
from speechnar.nn.attention import CrossAttention, SelfAttention
from speechnar.nn.blocks import FeedForward
from speechnar.nn.context import BlockContext
from speechnar.nn.conv import ConformerConv, ConvNorm
from speechnar.nn.dropout import Dropout
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from speechnar.nn.positions import MAX_DISTANCE, sinusoids
from speechnar.nn.whisper_decoder import WhisperTokenDecoder, look_at_states
from speechnar.text.tokenizer import Tokenizer


class CassNatHeadConfig(Config):
    """The decoder; the defaults are small."""

    decoder: Literal["conformer", "whisper"] = "conformer"
    """``whisper``: in place of SAD and MAD blocks, ``num_mixed_layers`` layers that can begin from Whisper's decoder,
    of its width, reading the states of a Whisper trunk."""
    num_self_layers: NonNegativeInt = 2
    """Self-attention blocks (SAD)."""
    num_mixed_layers: PositiveInt = 2
    """Mixed-attention blocks (MAD)."""
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 1024
    """Hidden width of the blocks' feed-forward modules."""
    embedder_ff_dim: PositiveInt = 1024
    """Hidden width of the feed-forward module behind the acoustic embedding."""
    kernel_size: PositiveInt = 3
    """Of the blocks' depthwise convolutions, in slots."""
    conv_norm: ConvNorm = "group"
    """Norm of the convolution modules; ``group`` is the paper's, over the real slots of an utterance."""
    max_distance: int = Field(default=8, gt=0, le=MAX_DISTANCE)
    """Slots beyond which relative positions are not told apart (M)."""
    expand_left: NonNegativeInt = 1
    """Frames by which each segment grows into the past."""
    expand_right: NonNegativeInt = 1
    """Frames by which each segment grows into the future."""
    inter_ce_layer: PositiveInt = 3
    """Block (1-based, SAD and MAD counted together) behind which the intermediate loss is taken."""
    inter_ce_weight: NonNegativeFloat = 0.01
    """Its weight beside the cross-entropy; 0 leaves it out."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Probability shared by the wrong tokens of a target."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.1, ge=0, lt=1)
    norm_eps: float = Field(default=1e-5, gt=0)
    lose_last_emission: bool = False
    """Reproduce the authors' decoding, which has no slot for a token first emitted on the last frame of a batch."""

    @model_validator(mode="after")
    def _check(self) -> "CassNatHeadConfig":
        if self.decoder == "whisper" and (self.num_self_layers or self.inter_ce_weight or self.lose_last_emission):
            raise ValueError(
                "a decoder of kind whisper has num_self_layers 0, inter_ce_weight 0, no lose_last_emission"
            )
        num_layers = self.num_self_layers + self.num_mixed_layers
        if self.inter_ce_weight > 0 and self.inter_ce_layer >= num_layers:
            raise ValueError(f"inter_ce_layer must stay below the {num_layers} blocks, got {self.inter_ce_layer}")
        return self

    @classmethod
    def debug(cls) -> "CassNatHeadConfig":
        """Return one SAD and two MAD blocks for an encoder of about 48 channels, for tests."""
        return cls(num_self_layers=1, num_mixed_layers=2, num_heads=2, ff_dim=64, embedder_ff_dim=64, inter_ce_layer=2)


class DecoderBlock(nn.Module):
    """A Conformer block over slots without a norm at its end; a *mixed* one attends to the frames as well.

    TASLP 2023, section III-B2.
    """

    def __init__(self, config: CassNatHeadConfig, model_dim: int, *, mixed: bool) -> None:
        super().__init__()
        self.ff_macaron = FeedForward(model_dim, config.ff_dim, dropout=config.dropout, norm_eps=config.norm_eps)
        self.norm_attention = nn.LayerNorm(model_dim, config.norm_eps)
        self.attention = SelfAttention(
            model_dim, config.num_heads, dropout=config.attention_dropout, positions="clipped"
        )
        self.norm_conv = nn.LayerNorm(model_dim, config.norm_eps)
        self.conv = ConformerConv(model_dim, config.kernel_size, norm=config.conv_norm, norm_eps=config.norm_eps)
        self.norm_memory = nn.LayerNorm(model_dim, config.norm_eps) if mixed else None
        self.memory_attention = (
            CrossAttention(model_dim, config.num_heads, dropout=config.attention_dropout) if mixed else None
        )
        self.ff = FeedForward(model_dim, config.ff_dim, dropout=config.dropout, norm_eps=config.norm_eps)
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, context: BlockContext, candidates: Candidates | None = None) -> Tensor:
        """Map ``x`` (N, U + 1, D) to the same; a mixed block reads ``context.memory`` (B, T, D)."""
        x = torch.add(x, self.ff_macaron(x), alpha=0.5)
        x = x + self.dropout(self.attention(self.norm_attention(x), context))
        x = x + self.dropout(self.conv(self.norm_conv(x), context))
        if self.memory_attention is not None and self.norm_memory is not None:
            assert context.memory is not None
            queries = self.norm_memory(x)
            if candidates is None:
                attended = self.memory_attention(queries, context.memory, context.memory_mask)
            else:
                packed = self.memory_attention(candidates.pack(queries), context.memory, context.memory_mask)
                attended = candidates.unpack(packed)
            x = x + self.dropout(attended)
        return torch.add(x, self.ff(x), alpha=0.5)


class CassNatHead(nn.Module):
    """CASS-NAT's decoder on any encoder with a CTC head; satisfies `speechnar.models.base.SpeechDecoder`."""

    distances: Tensor
    tables = ("out.weight",)
    """Weights that are token embeddings, with a decoder of kind ``whisper``."""

    def __init__(
        self,
        config: CassNatHeadConfig,
        model_dim: int,
        *,
        vocab_size: int,
        sos_id: int,
        eos_id: int,
        blank_id: int,
        enc_dim: int | None = None,
    ) -> None:
        super().__init__()
        ids = {"sos_id": sos_id, "eos_id": eos_id, "blank_id": blank_id}
        wrong = [f"{name}={value}" for name, value in ids.items() if not 0 <= value < vocab_size]
        if wrong or eos_id == blank_id:
            raise ConfigError(f"the ids must lie in [0, {vocab_size}) and eos must not be blank, got {ids}")
        if model_dim % 2:
            raise ConfigError(f"CASS-NAT's sinusoids need an even model_dim, got {model_dim}")
        self.config = config
        self.blank_id, self.sos_id, self.eos_id = blank_id, sos_id, eos_id
        self.embedder = TokenAcousticEmbedder(
            model_dim,
            num_heads=config.num_heads,
            ff_dim=config.embedder_ff_dim,
            expand_left=config.expand_left,
            expand_right=config.expand_right,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_eps=config.norm_eps,
            blank_id=blank_id,
            enc_dim=enc_dim,
        )
        self.decoder: WhisperTokenDecoder | None = None
        if config.decoder == "whisper":
            self.decoder = WhisperTokenDecoder(
                model_dim,
                config.num_mixed_layers,
                config.num_heads,
                config.ff_dim,
                dropout=config.dropout,
                attention_dropout=config.attention_dropout,
                norm_eps=config.norm_eps,
            )
            self.out = nn.Linear(model_dim, vocab_size, bias=False)
            return
        # A buffer that is saved: the authors' checkpoints hold tables that are no sinusoids.
        table = sinusoids(torch.arange(2 * config.max_distance + 1), model_dim)
        self.register_buffer("distances", table)
        self.self_blocks = nn.ModuleList(
            DecoderBlock(config, model_dim, mixed=False) for _ in range(config.num_self_layers)
        )
        self.mixed_blocks = nn.ModuleList(
            DecoderBlock(config, model_dim, mixed=True) for _ in range(config.num_mixed_layers)
        )
        self.norm = nn.LayerNorm(model_dim, config.norm_eps)
        self.out = nn.Linear(model_dim, vocab_size)
        has_inter = config.inter_ce_weight > 0
        self.inter_norm = nn.LayerNorm(model_dim, config.norm_eps) if has_inter else None
        self.inter_out = nn.Linear(model_dim, vocab_size) if has_inter else None
        self.dropout = Dropout(config.dropout)

    def forward(self, speech: EncodedSpeech, segments: Segments) -> SlotOutput:
        """Name the token of every slot of ``segments``, one alignment per utterance of ``speech``."""
        x, inter = self.decode_slots(speech, segments)
        inter_log_probs: Tensor | None = None
        if self.decoder is None and self.inter_norm is not None and self.inter_out is not None:
            inter_log_probs = self.inter_out(self.inter_norm(inter)).log_softmax(-1, dtype=torch.float32)
        return SlotOutput(log_probs=self.log_probs(x), lens=segments.slot_lens, inter_log_probs=inter_log_probs)

    def log_probs(self, x: Tensor) -> Tensor:
        """Map slots (N, U + 1, D) to log-probabilities (N, U + 1, V), float32 under any autocast."""
        return self.out(x).log_softmax(-1, dtype=torch.float32)

    def decode_slots(
        self, speech: EncodedSpeech, segments: Segments, utterance_index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return all slots (N, U + 1, D) as they are named, and as they leave block ``inter_ce_layer``.

        Args:
            speech: encoder output of B utterances, zero in padding.
            segments: of N alignments.
            utterance_index: (N,), never falling: the utterance of each alignment; None: there is one of each.
        """
        candidates = None if utterance_index is None else Candidates.of(utterance_index, len(speech.lens))
        x = self.embedder.embed_slots(speech, segments, candidates)
        valid = valid_mask(segments.slot_lens, x.size(1))
        if self.decoder is not None:
            keys_values, mask = look_at_states(self.decoder, speech)
            if utterance_index is not None:
                keys_values, mask = keys_values[:, :, utterance_index], mask[utterance_index]
            return self.decoder(x, valid, keys_values, mask), x
        context = BlockContext(
            valid=valid,
            attn_mask=valid[:, None, None, :],
            positions=self.dropout(self.distances),
            memory=speech.enc,
            memory_mask=speech.valid[:, None, None, :],
        )
        inter = x
        for number, block in enumerate([*self.self_blocks, *self.mixed_blocks], start=1):
            x = block(x, context, candidates)
            if number == self.config.inter_ce_layer:
                inter = x
        return self.norm(x), inter

    def loss(self, speech: EncodedSpeech, tokens: Tensor, token_lens: Tensor) -> LossOutput:
        """Return the label-smoothed cross-entropy and the weighted intermediate one, in nats per utterance.

        Both are divergences from the smoothed target: a perfect model scores 0. Targets are the tokens and the end of
        the sentence, on the slots of the Viterbi alignment of ``tokens`` (B, U), through which no gradient flows.
        An utterance whose frames cannot hold its tokens counts 0; ``unfit`` is the share of those.
        """
        losses = self.losses(speech, tokens, token_lens)
        total = ce = losses.ce.mean()
        parts = {"ce": ce}
        if losses.inter_ce is not None:
            parts["inter_ce"] = losses.inter_ce.mean()
            total = total + self.config.inter_ce_weight * parts["inter_ce"]
        parts["unfit"] = (~losses.possible).float().mean()
        weight = torch.tensor(float(tokens.size(0)), device=tokens.device)
        return LossOutput(total=total, parts={k: v.detach() for k, v in parts.items()}, weight=weight)

    def losses(self, speech: EncodedSpeech, tokens: Tensor, token_lens: Tensor) -> SlotLosses:
        """Return what `loss` is made of, utterance by utterance."""
        speech = clean(speech)
        alignment = viterbi_align(posteriors(speech), speech.lens, tokens, token_lens, self.blank_id)
        out = self(speech, aligned_segments(alignment, speech.lens))
        return slot_losses(out, alignment, eos_id=self.eos_id, smoothing=self.config.label_smoothing)

    @torch.no_grad()
    def decode(
        self,
        speech: EncodedSpeech,
        *,
        num_alignments: int = 1,
        num_kept: int | None = KEPT_ALIGNMENTS,
        threshold: float = 0.9,
        generator: torch.Generator | None = None,
        ranker: Ranker | None = None,
    ) -> list[CtcPath]:
        """Return the most probable token of every slot, up to the first end of the sentence.

        The slots are those of the best CTC path or, with ``num_alignments`` above 1, of the best of that many
        (error-based sampling, see `speechnar.decode.esa`). Blank and sentence start are never chosen. A token stands on
        the frames that emit the CTC label of its slot; ``total`` is the log-probability of the tokens and of the end.

        Args:
            speech: encoder output.
            num_alignments: alignments to draw; the papers take 50. Equal ones are decoded once.
            num_kept: alignments to decode of those drawn, the most probable; None decodes all, as in the papers.
            threshold: probability at which a frame's CTC label is certain.
            generator: of the draws, on a CPU; None draws the same every time.
            ranker: chooses by its log-probability per slot, end included, as in the papers; None chooses by the
                log-likelihood that CTC gives the tokens.
        """
        speech = clean(speech)
        sampled = sample_segments(
            cut_posteriors(speech, self.blank_id, lose_last=self.config.lose_last_emission),
            speech.lens,
            self.blank_id,
            num_alignments=num_alignments,
            num_kept=num_kept,
            threshold=threshold,
            generator=generator,
        )
        index = None if num_alignments == 1 else sampled.utterance_index
        x, _ = self.decode_slots(speech, sampled.segments, index)
        named = self._name(x, sampled.segments)
        if index is not None:
            named = choose(named, speech, index, ranker=ranker, blank_id=self.blank_id)
        return named.paths()

    def trigger_windows(self, speech: EncodedSpeech) -> tuple[Tensor, Tensor]:
        """Return the first frame that each slot may see and the one after its last, each (B, U + 1).

        The slots are those of `decode` with one alignment.
        """
        log_probs = cut_posteriors(clean(speech), self.blank_id, lose_last=self.config.lose_last_emission)
        segments = path_segments(log_probs.argmax(-1), speech.lens, self.blank_id)
        return segments.windows(left=self.embedder.expand_left, right=self.embedder.expand_right)

    def _name(self, x: Tensor, segments: Segments) -> NamedSlots:
        return name_in_parts(x, segments, self.log_probs, never=(self.blank_id, self.sos_id), eos_id=self.eos_id)


class CassNatConfig(CtcTrunkConfig):
    """The whole recogniser; the defaults are ours, `published` those of the authors."""

    kind: Literal["cassnat"] = "cassnat"
    head: CassNatHeadConfig = CassNatHeadConfig()

    @classmethod
    def debug(cls) -> "CassNatConfig":
        """Return a model of well under 1 M parameters with every part present, for tests."""
        return cls(
            encoder=conformer(model_dim=48, num_layers=3, num_heads=2, subsampling_channels=8, kernel_size=7),
            interctc_layer=1,
            head=CassNatHeadConfig.debug(),
        )

    @classmethod
    def small(cls) -> "CassNatConfig":
        """Return 12 blocks of width 256 and the default decoder (ours)."""
        return cls()

    @classmethod
    def published(cls) -> "CassNatConfig":
        """Return the model of LibriSpeech 100 h: 95.1 M parameters with 1024 tokens."""
        return cls(
            encoder=conformer(model_dim=512, num_layers=12, num_heads=8),
            head=CassNatHeadConfig(
                num_self_layers=5, num_mixed_layers=2, num_heads=8, embedder_ff_dim=2048, inter_ce_layer=6
            ),
        )


class CassNat(CtcTrunkModel):
    """Encoder with CTC, and the CASS-NAT decoder on it."""

    config: CassNatConfig

    def __init__(self, config: CassNatConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.blank_id = tokenizer.blank_id
        self.trunk = CtcTrunk(config, tokenizer)
        self.head = CassNatHead(
            config.head,
            config.encoder.model_dim,
            vocab_size=tokenizer.vocab_size,
            sos_id=tokenizer.id_of("<sos>"),
            eos_id=tokenizer.id_of("<eos>"),
            blank_id=tokenizer.blank_id,
        )

    @classmethod
    def from_config(cls, config: CassNatConfig, tokenizer: Tokenizer) -> "CassNat":
        """Build with random weights."""
        return cls(config, tokenizer)

    def decode(self, out: TrunkOutput, decoder: str = "cassnat", **options: Any) -> list[CtcPath]:
        """Decode what `encode` returned; the options are those of `CassNatHead.decode`.

        Raises:
            ConfigError: there is no such decoder.
        """
        if decoder != "cassnat":
            raise ConfigError(f"this model decodes with {', '.join(self.decoder_names)}; got {decoder!r}")
        return self.head.decode(out.speech, **options)

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the weighted sum of the four losses (TASLP 2023, equation 7, with the terms of section III-B3).

        As in the authors' code, CTC is divided by the number of tokens, utterance by utterance, and the cross-entropies
        by the number of slots of the batch, so that the weights compare losses per token.
        """
        out = self.trunk.encode(*self.trunk.training_features(batch.wav, batch.wav_lens))
        return self.loss_of(out, batch.tokens, batch.token_lens, batch.tokens_valid)

    def loss_of(self, out: TrunkOutput, tokens: Tensor, token_lens: Tensor, is_valid: Tensor) -> LossOutput:
        """Return the loss of what the trunk made of a batch; utterances count where ``is_valid`` (B,)."""
        total, parts = self.trunk.losses(out, tokens, token_lens, is_valid)
        losses = self.head.losses(out.speech, tokens, token_lens)
        parts["ce"] = losses.per_slot(losses.ce, is_valid)
        total = total + parts["ce"]
        if losses.inter_ce is not None:
            parts["inter_ce"] = losses.per_slot(losses.inter_ce, is_valid)
            total = total + self.config.head.inter_ce_weight * parts["inter_ce"]
        parts["unfit"] = (~losses.possible).float().mean()
        weight = torch.tensor(float(len(tokens)), device=tokens.device)
        return LossOutput(total=total, parts={k: v.detach() for k, v in parts.items()}, weight=weight)

    @torch.no_grad()
    def recognize(self, batch: SpeechBatch) -> list[list[int]]:
        """Return the token ids of each utterance, from the best CTC path's slots."""
        return [path.tokens for path in self.decode(self.encode(batch.wav, batch.wav_lens))]
