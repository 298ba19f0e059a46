"""UniEnc-CASSNAT: one encoder used twice, first on the frames, then on frames and token embeddings together.

The first pass is a CTC recogniser. Its alignment cuts the frames into segments as in `speechnar.models.asr.cassnat`,
and one acoustic embedding per slot is written behind the frames; the second pass over both names the tokens where the
embeddings stand, and gives better CTC posteriors where the frames stand, from which slots can be cut again. There is no
decoder, hence a third less parameters.

The encoder is a Conformer or, as in the paper, a pretrained HuBERT: then frames and embeddings are what its Transformer
reads, and its convolution tells positions over both.

Shapes: B utterances, S samples, T encoder frames, E encoder width, D model width, V vocabulary (blank included), U
tokens, U + 1 slots; N alignments of the utterances; T + U + 1 positions of the second pass.
Source: Fan et al., "UniEnc-CASSNAT: An Encoder-only Non-autoregressive ASR for Speech SSL Models", IEEE Signal
Processing Letters 2024, section II.

Differs from the authors' code:
- in a batch, the embeddings of an utterance stand behind its own last frame, not behind the longest one's, so that an
  utterance gives the same alone.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.audio.fbank import WaveformConfig
from speechnar.data.batch import SpeechBatch
from speechnar.decode.align import CtcPath, viterbi_align
from speechnar.decode.esa import sample_segments
from speechnar.decode.segments import Segments, aligned_segments
from speechnar.errors import ConfigError
from speechnar.models.asr.alignment_ranking import Ranker, choose, name_in_parts
from speechnar.models.asr.ctc_trunk import (
    CtcTrunk,
    CtcTrunkConfig,
    CtcTrunkModel,
    NormedHead,
    TrunkOutput,
    WaveformEncoderConfig,
    conformer,
)
from speechnar.models.asr.slot_losses import SlotOutput, slot_losses
from speechnar.models.asr.token_acoustic_embedder import Candidates, TokenAcousticEmbedder, cut_posteriors, posteriors
from speechnar.models.base import LossOutput
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.encoder import ConformerConfig
from speechnar.nn.lengths import zero_padding
from speechnar.text.tokenizer import Tokenizer


class UniEncConfig(CtcTrunkConfig):
    """The whole recogniser; the defaults are ours, `published` those of the authors."""

    kind: Literal["unienc"] = "unienc"
    embedder_ff_dim: PositiveInt = 1024
    """Hidden width of the feed-forward module behind the acoustic embedding."""
    expand_left: NonNegativeInt = 1
    """Frames by which each segment grows into the past."""
    expand_right: NonNegativeInt = 1
    """Frames by which each segment grows into the future."""
    inter_ce_weight: NonNegativeFloat = 0.1
    """Of the cross-entropy behind block ``interctc_layer`` of the second pass; 0 leaves it out."""
    second_ctc_weight: NonNegativeFloat = 1.0
    """Of the CTC losses of the second pass, beside those of the first."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    lose_last_emission: bool = False
    """Reproduce the authors' decoding, which has no slot for a token first emitted on the last frame of a batch."""

    @model_validator(mode="after")
    def _check(self) -> "UniEncConfig":
        if isinstance(self.encoder, ConformerConfig) and self.encoder.positions not in ("relative", "clipped"):
            raise ValueError(f"the second pass needs relative or clipped positions, got {self.encoder.positions}")
        if self.inter_ce_weight > 0 and self.interctc_layer >= self.encoder.num_layers:
            raise ValueError(
                f"interctc_layer must stay below num_layers={self.encoder.num_layers}, got {self.interctc_layer}"
            )
        return self

    @property
    def reads_inter(self) -> bool:
        """Whether any head reads what leaves block ``interctc_layer``."""
        return self.interctc_weight > 0 or self.inter_ce_weight > 0

    @classmethod
    def debug(cls) -> "UniEncConfig":
        """Return a model of well under 1 M parameters with every part present, for tests."""
        return cls(
            encoder=conformer(model_dim=48, num_layers=3, num_heads=2, subsampling_channels=8, kernel_size=7),
            interctc_layer=1,
            embedder_ff_dim=64,
        )

    @classmethod
    def published(cls) -> "UniEncConfig":
        """Return the model of LibriSpeech 100 h: 63.6 M parameters with 1024 tokens."""
        return cls(encoder=conformer(model_dim=512, num_layers=12, num_heads=8), embedder_ff_dim=2048)

    @classmethod
    def published_hubert(cls) -> "UniEncConfig":
        """Return the model of LibriSpeech 100 h on HuBERT base, of which only the convolutions keep their weights."""
        return cls(
            frontend=WaveformConfig(),
            normalize="utterance",
            encoder=WaveformEncoderConfig(),
            embedder_ff_dim=3072,
            # About as much as theirs, which masks spans of 10 frames and of 64 of 768 channels.
            spec_augment=SpecAugmentConfig(freq_masks=6, freq_width=85, time_masks=24, time_ratio=0.033),
        )


@dataclass(frozen=True, kw_only=True)
class SecondPass:
    """What the second pass makes of N alignments."""

    enc: Tensor
    """(N, T, D) of the frames, zero in padding."""
    slots: Tensor
    """(N, U + 1, D)"""
    inter_enc: Tensor
    """(N, T, D) of the frames behind block ``interctc_layer``, not normalised."""
    inter_slots: Tensor
    """(N, U + 1, D)"""


class UniEnc(CtcTrunkModel):
    """The recogniser."""

    config: UniEncConfig

    def __init__(self, config: UniEncConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.blank_id = tokenizer.blank_id
        self.sos_id, self.eos_id = tokenizer.id_of("<sos>"), tokenizer.id_of("<eos>")
        self.trunk = CtcTrunk(config, tokenizer)
        encoder = config.encoder
        self.embedder = TokenAcousticEmbedder(
            encoder.model_dim,
            num_heads=encoder.num_heads,
            ff_dim=config.embedder_ff_dim,
            expand_left=config.expand_left,
            expand_right=config.expand_right,
            dropout=encoder.dropout,
            attention_dropout=encoder.attention_dropout,
            norm_eps=encoder.norm_eps,
            blank_id=tokenizer.blank_id,
            residual=True,
        )
        self.out = nn.Linear(encoder.model_dim, tokenizer.vocab_size)
        # Brings acoustic embeddings to the width of the frames that the encoder sees.
        self.back_proj: nn.Module = nn.Identity()
        if isinstance(encoder, WaveformEncoderConfig):
            self.back_proj = nn.Linear(encoder.model_dim, encoder.wav2vec2.model_dim)
        has_inter = config.inter_ce_weight > 0
        self.inter_out = NormedHead(encoder.model_dim, tokenizer.vocab_size, encoder.norm_eps) if has_inter else None

    @classmethod
    def from_config(cls, config: UniEncConfig, tokenizer: Tokenizer) -> "UniEnc":
        """Build with random weights."""
        return cls(config, tokenizer)

    def second_pass(
        self, frames: Tensor, speech: EncodedSpeech, segments: Segments, candidates: Candidates | None = None
    ) -> SecondPass:
        """Embed the slots of ``segments``, and run the encoder over frames and embeddings (section II-B).

        Args:
            frames: (N, T, E) what the first block saw of the utterance of each alignment.
            speech: what the segments were cut from: of N rows, or of fewer that ``candidates`` share.
            segments: of N alignments.
            candidates: how the alignments share ``speech``; None: there is one of each.
        """
        lens, slot_lens = segments.lens[:, None], segments.slot_lens[:, None]
        embeds = self.back_proj(self.embedder.embed_slots(speech, segments, candidates))
        both = torch.cat([frames, embeds], dim=1)
        positions = torch.arange(both.size(1), device=both.device)
        # Position p is a frame, or the slot p - lens; in `both`, slots stand behind the T frames of the batch.
        source = positions.where(positions < lens, positions - lens + frames.size(1)).clamp(max=both.size(1) - 1)
        valid = positions < lens + slot_lens
        x = zero_padding(_take(both, source), valid)
        enc, inter = self.trunk.run(self.trunk.encoder.dropout(x), valid)
        is_frame = positions[: frames.size(1)] < lens
        slots = positions[: segments.starts.size(1) + 1].minimum(slot_lens - 1) + lens
        return SecondPass(
            enc=zero_padding(enc[:, : frames.size(1)], is_frame),
            slots=_take(enc, slots),
            inter_enc=zero_padding(inter[:, : frames.size(1)], is_frame),
            inter_slots=_take(inter, slots),
        )

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the weighted sum of the losses of both passes, per token as in `CassNat.loss`."""
        first = self.trunk.encode(*self.trunk.training_features(batch.wav, batch.wav_lens))
        return self.loss_of(first, batch.tokens, batch.token_lens, batch.tokens_valid)

    def loss_of(self, first: TrunkOutput, tokens: Tensor, token_lens: Tensor, is_valid: Tensor) -> LossOutput:
        """Return the loss of what the first pass made of a batch; utterances count where ``is_valid`` (B,).

        Equation 3, and intermediate losses.
        """
        total, parts = self.trunk.losses(first, tokens, token_lens, is_valid)
        alignment = viterbi_align(posteriors(first.speech), first.lens, tokens, token_lens, self.blank_id)
        segments = aligned_segments(alignment, first.lens)
        second = self.second_pass(first.frames, first.speech, segments)
        out = SlotOutput(
            log_probs=self.slot_log_probs(second.slots),
            lens=segments.slot_lens,
            inter_log_probs=None if self.inter_out is None else self.inter_out(second.inter_slots),
        )
        losses = slot_losses(out, alignment, eos_id=self.eos_id, smoothing=self.config.label_smoothing)
        parts["ce"] = losses.per_slot(losses.ce, is_valid)
        total = total + parts["ce"]
        if losses.inter_ce is not None:
            parts["inter_ce"] = losses.per_slot(losses.inter_ce, is_valid)
            total = total + self.config.inter_ce_weight * parts["inter_ce"]
        if self.config.second_ctc_weight > 0:
            again = self._second_output(first, second)
            second_total, second_parts = self.trunk.losses(again, tokens, token_lens, is_valid)
            total = total + self.config.second_ctc_weight * second_total
            parts |= {f"second_{name}": loss for name, loss in second_parts.items()}
        parts["unfit"] = (~losses.possible).float().mean()
        weight = torch.tensor(float(len(tokens)), device=tokens.device)
        return LossOutput(total=total, parts={k: v.detach() for k, v in parts.items()}, weight=weight)

    def _second_output(self, first: TrunkOutput, second: SecondPass) -> TrunkOutput:
        inter_ctc = self.trunk.inter_ctc
        return TrunkOutput(
            frames=first.frames,
            enc=second.enc,
            lens=first.lens,
            log_probs=self.trunk.ctc(second.enc),
            inter_log_probs=None if inter_ctc is None else inter_ctc(second.inter_enc),
        )

    def slot_log_probs(self, slots: Tensor) -> Tensor:
        """Map slots (N, U + 1, D) of the second pass to log-probabilities (N, U + 1, V), float32 under any autocast."""
        return self.out(slots).log_softmax(-1, dtype=torch.float32)

    @torch.no_grad()
    def decode(
        self,
        out: TrunkOutput,
        decoder: str = "cassnat",
        *,
        num_alignments: int = 1,
        num_passes: int = 2,
        later_alignments: int = 1,
        threshold: float = 0.9,
        generator: torch.Generator | None = None,
        ranker: Ranker | None = None,
    ) -> list[CtcPath]:
        """Return the most probable token of every slot, up to the first end of the sentence.

        Alignments are drawn and chosen as by `speechnar.models.asr.cassnat.CassNatHead.decode`. With more than two
        passes, each later one cuts anew, by the CTC posteriors of the pass before (section II-C).

        Args:
            out: of `encode`.
            decoder: ``cassnat``.
            num_alignments: alignments drawn from the first pass.
            num_passes: of the encoder, the first included.
            later_alignments: alignments drawn from each result of a later pass.
            threshold: probability at which a frame's CTC label is certain.
            generator: of the draws, on a CPU; None draws the same every time.
            ranker: as in `CassNatHead.decode`.

        Raises:
            ConfigError: there is no such decoder, or a number is too small.
        """
        if decoder != "cassnat":
            raise ConfigError(f"this model decodes with {', '.join(self.decoder_names)}; got {decoder!r}")
        if num_passes < 2:
            raise ConfigError(f"num_passes must be at least 2, got {num_passes}; decoder ctc needs one pass")
        index = torch.arange(len(out.lens), device=out.enc.device)
        speech = out.speech
        for number in range(1, num_passes):
            sampled = sample_segments(
                cut_posteriors(speech, self.blank_id, lose_last=self.config.lose_last_emission),
                speech.lens,
                self.blank_id,
                num_alignments=num_alignments if number == 1 else later_alignments,
                threshold=threshold,
                generator=generator,
            )
            segments, parents = sampled.segments, sampled.utterance_index
            index = index[parents]
            candidates = None if len(parents) == len(speech.lens) else Candidates.of(parents, len(speech.lens))
            second = self.second_pass(out.frames[index], speech, segments, candidates)
            if number < num_passes - 1:
                speech = EncodedSpeech(enc=second.enc, lens=segments.lens, log_probs=self.trunk.ctc(second.enc))
        named = name_in_parts(
            second.slots, segments, self.slot_log_probs, never=(self.blank_id, self.sos_id), eos_id=self.eos_id
        )
        if len(index) > len(out.lens):
            named = choose(named, out.speech, index, ranker=ranker, blank_id=self.blank_id)
        return named.paths()

    @torch.no_grad()
    def recognize(self, batch: SpeechBatch) -> list[list[int]]:
        """Return the token ids of each utterance, from the best CTC path's slots."""
        return [path.tokens for path in self.decode(self.encode(batch.wav, batch.wav_lens))]


def _take(x: Tensor, positions: Tensor) -> Tensor:
    """Return ``x`` (N, P, D) at ``positions`` (N, Q), as (N, Q, D)."""
    return x.gather(1, positions[..., None].expand(-1, -1, x.size(2)))
