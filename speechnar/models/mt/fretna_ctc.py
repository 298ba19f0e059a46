"""FReTNA in one pass: every source token becomes a few slots, all slots are named at once, and CTC merges them.

No length is predicted and nothing is edited: an update costs one evaluation, whatever the length. Slots stand under
source tokens, so that those that were named before find the same source and a little more, and mostly keep their
names; `FretnaCtc.name_slots` can also be biased to repeat them.

Shapes: B sentences, S source tokens, T = S times ``upsampling`` slots, U target tokens, D model width, V vocabulary
(blank included).
Sources: Libovický and Helcl, "End-to-End Non-Autoregressive Neural Machine Translation with Connectionist Temporal
Classification", EMNLP 2018, section 3 (slots); Gu and Kong, "Fully Non-autoregressive Neural Machine Translation:
Tricks of the Trade", Findings of ACL 2021, section 3 (with a decoder, distilled data and glancing); Qian et al.,
"Glancing Transformer for Non-Autoregressive Neural Machine Translation", ACL 2021, section 3.2 (a share of the slots
that were wrong is shown).

Differs from the papers:
- FReTNA itself edits; that model is `speechnar.models.mt.fretna`.
"""

import math
from itertools import groupby
from typing import Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from speechnar.data.pairs import PairBatch
from speechnar.decode.align import viterbi_align
from speechnar.models.base import LossOutput, MtModel
from speechnar.models.mt.translation import (
    TINY,
    GrowingSource,
    SeenSource,
    SourceEncoder,
    SpecialIds,
    TranslationConfig,
    new_embeddings,
    new_parallel_decoder,
)
from speechnar.nn.ctc import CtcHead, best_class, fits
from speechnar.nn.dropout import Dropout
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.positions import sinusoids
from speechnar.text.tokenizer import Tokenizer


class FretnaCtcConfig(TranslationConfig):
    """An encoder, slots, and a decoder that names them."""

    kind: Literal["fretna_ctc"] = "fretna_ctc"
    upsampling: PositiveInt = 2
    """Slots per source token. A target with its repeats needs as many slots as tokens."""
    causal_encoder: bool = False
    """Each source token sees those before it alone, so that an update encodes what is new and nothing again."""
    glance_share: float = Field(default=0.5, ge=0, le=1)
    """Share of the wrong slots whose names are shown in training, at first."""
    glance_share_end: float = Field(default=0.3, ge=0, le=1)
    """The same after ``glance_steps`` batches, to which it falls linearly."""
    glance_steps: NonNegativeInt = 4000

    @classmethod
    def debug(cls) -> "FretnaCtcConfig":
        """Return a model of a few thousand parameters, for tests."""
        return cls(**TINY, glance_steps=20)


class FretnaCtc(MtModel):
    """Source tokens to target tokens in one evaluation."""

    def __init__(self, config: FretnaCtcConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        ids = SpecialIds(tokenizer)
        self.blank_id = ids.blank
        self.embed = new_embeddings(tokenizer.vocab_size, config.model_dim)
        self.encoder = SourceEncoder(config, causal=config.causal_encoder)
        self.upsample = nn.Linear(config.model_dim, config.upsampling * config.model_dim)
        self.dropout = Dropout(config.dropout)
        self.decoder = new_parallel_decoder(config)
        self.ctc = CtcHead(config.model_dim, tokenizer.vocab_size, blank_id=ids.blank)
        self.ctc.proj.weight = self.embed.weight
        never = {*ids.never, ids.eos} - {ids.blank}
        self.register_buffer("never", torch.tensor([i in never for i in range(tokenizer.vocab_size)]), persistent=False)
        self.never: Tensor
        self.register_buffer("num_batches", torch.zeros((), dtype=torch.int64))
        self.num_batches: Tensor

    @classmethod
    def from_config(cls, config: FretnaCtcConfig, tokenizer: Tokenizer) -> "FretnaCtc":
        """Build the model for a joint vocabulary that has ``<sos>``, ``<eos>`` and ``<sop>``.

        Raises:
            DataError: the vocabulary lacks one of them.
        """
        return cls(config, tokenizer)

    def loss(self, batch: PairBatch) -> LossOutput:
        """Return CTC's nats per target token, and as ``misfits`` the share of targets that slots cannot hold.

        In training some of the slots that a first pass got wrong are shown their names (glancing). Targets that do
        not fit count as 0.
        """
        slots, lens, source = self._slots(*self._read(batch.src_tokens, batch.src_lens))
        if self.training and self.config.glance_share > 0:
            names, is_shown = self._glance(slots, lens, source, batch)
            slots = slots + self.embed(names) * math.sqrt(self.config.model_dim) * is_shown[..., None]
            self.num_batches += 1
        nats = self.ctc.nats(self._states(slots, lens, source), lens, batch.tgt_tokens, batch.tgt_lens)
        num_tokens = (batch.tgt_lens + 1).sum().float()  # as the autoregressive models count
        misfits = (~fits(lens, batch.tgt_tokens, batch.tgt_lens)).float().mean()
        return LossOutput(nats.sum() / num_tokens, {"misfits": misfits}, num_tokens)

    @torch.no_grad()
    def name_slots(
        self,
        src_tokens: Tensor,
        src_lens: Tensor,
        previous: Tensor | None = None,
        *,
        bias: float = 0.0,
        growing: GrowingSource | None = None,
    ) -> Tensor:
        """Return the name of each slot (B, T), blank in padding; `merge` makes texts of them.

        Args:
            src_tokens: (B, S), with ``<eos>`` at its end where the source is complete; padding may hold anything.
            src_lens: (B,); at least 1.
            previous: (B, T') names given to the first slots before.
            bias: nats that they gain.
            growing: the source up to now, of `new_source`; B is 1. The names are the same, and sooner there.
        """
        read = self._read(src_tokens, src_lens) if growing is None else growing.read(src_tokens)
        slots, lens, source = self._slots(*read)
        # A softmax would divide all names of a slot by the same.
        scores = self.ctc.proj(self._states(slots, lens, source)).float().masked_fill_(self.never, -torch.inf)
        if previous is not None and bias:
            previous = previous[:, : scores.size(1)]
            gains = torch.full_like(previous, bias, dtype=scores.dtype)[..., None]
            scores[:, : previous.size(1)].scatter_add_(2, previous[..., None], gains)
        return (
            best_class(scores.flatten(0, 1))
            .view_as(scores[..., 0])
            .where(valid_mask(lens, scores.size(1)), self.blank_id)
        )

    def score_names(self, src_tokens: Tensor, src_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each name of each slot (B, T, V), of specials none, and the slots (B,)."""
        slots, lens, source = self._slots(*self._read(src_tokens, src_lens))
        log_probs: Tensor = self.ctc(self._states(slots, lens, source))
        return log_probs.masked_fill(self.never, -torch.inf), lens

    def merge(self, names: Tensor) -> list[list[int]]:
        """Return the tokens that names of slots (B, T) stand for: repeats are one, and blanks nothing."""
        return [[name for name, _ in groupby(row) if name != self.blank_id] for row in names.tolist()]

    def translate(self, batch: PairBatch) -> list[list[int]]:
        """Return the translation of each source of a batch."""
        return self.merge(self.name_slots(batch.src_tokens, batch.src_lens))

    def new_source(self) -> GrowingSource | None:
        """Return a source that is to grow; None where all of it is encoded again."""
        return GrowingSource(self.encoder, self.embed, self.decoder) if self.config.causal_encoder else None

    def _read(self, src_tokens: Tensor, src_lens: Tensor) -> tuple[EncodedSpeech, SeenSource]:
        encoded = self.encoder(self.embed, src_tokens, src_lens)
        return encoded, SeenSource.of(self.decoder, encoded)

    def _slots(self, encoded: EncodedSpeech, source: SeenSource) -> tuple[Tensor, Tensor, SeenSource]:
        """Return slots (B, T, D), their numbers (B,), and the source as the decoder sees it."""
        enc = zero_padding(encoded.enc, encoded.valid)
        dim = self.config.model_dim
        slots = self.upsample(enc).view(enc.size(0), -1, dim)
        positions = torch.arange(slots.size(1), device=slots.device)
        return self.dropout(slots + sinusoids(positions, dim)), encoded.lens * self.config.upsampling, source

    def _states(self, slots: Tensor, lens: Tensor, source: SeenSource) -> Tensor:
        states: Tensor = self.decoder(slots, valid_mask(lens, slots.size(1)), source.keys_values, source.mask)
        return states

    @torch.no_grad()
    def _glance(self, slots: Tensor, lens: Tensor, source: SeenSource, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """Return the names of the slots on the best path (B, T), and which of them to show (B, T)."""
        states = self._states(slots, lens, source)
        visited = self.ctc.visit(states, batch.tgt_tokens, batch.tgt_lens)
        # Every path visits every slot once, so that the best one is the same without the softmax's denominators.
        aligned = viterbi_align(visited.logits, lens, visited.classes, batch.tgt_lens, 0)
        names = visited.names.gather(1, aligned.labels)
        valid = valid_mask(lens, slots.size(1)) & aligned.possible[:, None]
        num_wrong = ((self.ctc.best(states) != names) & valid).sum(1, keepdim=True)
        done = (self.num_batches / max(self.config.glance_steps, 1)).clamp(max=1.0)
        share = self.config.glance_share + done * (self.config.glance_share_end - self.config.glance_share)
        # As many as there are wrong ones, times the share, but any: the first of a random order of the valid slots.
        order = torch.rand(valid.shape, device=valid.device).masked_fill(~valid, 2.0).argsort(1).argsort(1)
        return names, (order < (share * num_wrong).round()) & valid
