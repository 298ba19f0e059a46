"""FReTNA: re-translation that edits what it showed before, by a Levenshtein Transformer that knows where that ends.

An update deletes tokens of the previous translation, opens places in it and fills them, all positions at once. The
heads that delete and open are told how far a position is from the end of the previous translation, so that they
learn to append there and to leave the rest alone: less flicker than translating anew, and a number of evaluations
that does not grow with the length.

Shapes: B sentences, S source tokens, N hypothesis tokens, M reference tokens (both with start and end), D model
width, O width of an offset, V vocabulary.
Sources: Han et al., "Faster Re-translation Using Non-Autoregressive Model For Simultaneous Neural Machine
Translation", arXiv 2012.14681, 2020; Gu, Wang and Zhao, "Levenshtein Transformer", NeurIPS 2019 (the three heads, the
dual policy); Zhou et al., "Understanding Knowledge Distillation in Non-Autoregressive Machine Translation", ICLR 2020
(train on a teacher's translations).

Of FReTNA only abstracts and notes were at hand; from them are the three heads, the offset in two of them, and the aim
to append.

Differs from the papers (ours):
- the buckets of offsets.
- what is edited in training (`Fretna.loss`).
- the biases of `EditBias`.
- `FretnaConfig.delete_cost` and ``repeat_penalty``.
"""

from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.data.pairs import PairBatch
from speechnar.decode.levenshtein import (
    Refined,
    edit_labels,
    gap_counts,
    old_len_behind,
    refine,
    select,
)
from speechnar.decode.retranslation import EditBias
from speechnar.models.base import LossOutput, MtModel
from speechnar.models.mt.translation import (
    TINY,
    GrowingSource,
    SeenSource,
    SourceEncoder,
    SpecialIds,
    TranslationConfig,
    embed_tokens,
    max_lens_of,
    new_embeddings,
    new_parallel_decoder,
)
from speechnar.nn.dropout import Dropout
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import Tokenizer

OFFSET_BOUNDS = (-15, -7, -3, -2, -1, 0, 1)
"""Lower bounds of the buckets of a position minus the old length, but for the first, which holds all below."""
OWN_SHARE, PREVIOUS_SHARE, NOISE, EMPTY_SHARE = 0.4, 0.5, 0.1, 1 / 3
"""Share of batches that edit the model's own output for a shorter source; of the sentences of the others, share that
edit a shorter reference; share of its tokens that are wrong or lacking; of the rest, which lack random tokens, share
that lack all."""
INSERT_SMOOTHING = 0.01


class FretnaConfig(TranslationConfig):
    """A Levenshtein Transformer with offsets."""

    kind: Literal["fretna"] = "fretna"
    causal_encoder: bool = False
    """Each source token sees those before it alone, so that an update encodes what is new and nothing again."""
    max_inserts: PositiveInt = 64
    """Places opened in one gap at once; the paper's 255 is for longer sentences."""
    offset_dim: NonNegativeInt = 32
    """Width of an offset's embedding; 0 is the Levenshtein Transformer."""
    insert_bonus: float = 0.0
    """Nats that opening places in a gap gains over opening none: what was deleted is to be said otherwise, and training
    shows few gaps where anything is missing. The released Levenshtein Transformer has it as ``eos_penalty``."""
    delete_cost: float = 0.0
    """Nats that deleting a token must gain over keeping it; for what was shown before, `EditBias.delete` adds to it."""
    repeat_penalty: float = 0.0
    """Nats that deleting a token gains which is the same as the one before it: places that are filled at the same time
    often name a token twice, and texts hardly ever do."""

    @classmethod
    def debug(cls) -> "FretnaConfig":
        """Return a model of a few thousand parameters, for tests."""
        return cls(**TINY, max_inserts=16, offset_dim=8)


class Fretna(MtModel):
    """Source tokens and a previous translation to a better one."""

    first_iterations = 4
    """Of a translation where nothing was said before, at most."""

    def __init__(self, config: FretnaConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.ids = SpecialIds(tokenizer)
        dim, offset_dim = config.model_dim, config.offset_dim
        self.embed = new_embeddings(tokenizer.vocab_size, dim)
        self.encoder = SourceEncoder(config, causal=config.causal_encoder)
        self.dropout = Dropout(config.dropout)
        self.decoder = new_parallel_decoder(config)
        self.offsets = nn.Embedding(len(OFFSET_BOUNDS) + 1, offset_dim)
        self.delete = nn.Linear(dim + offset_dim, 2)
        self.insert = nn.Linear(2 * dim + offset_dim, config.max_inserts + 1)
        self.token = nn.Linear(dim, tokenizer.vocab_size)
        self.token.weight = self.embed.weight
        self.register_buffer("never", torch.tensor([*self.ids.never, self.ids.eos]), persistent=False)
        self.never: Tensor

    @classmethod
    def from_config(cls, config: FretnaConfig, tokenizer: Tokenizer) -> "Fretna":
        """Build the model for a joint vocabulary that has ``<sos>``, ``<eos>`` and ``<sop>``.

        Raises:
            DataError: the vocabulary lacks one of them.
        """
        return cls(config, tokenizer)

    def encode(self, src_tokens: Tensor, src_lens: Tensor) -> EncodedSpeech:
        """Encode sources (B, S), whose padding may hold anything."""
        encoded: EncodedSpeech = self.encoder(self.embed, src_tokens, src_lens)
        return encoded

    def loss(self, batch: PairBatch) -> LossOutput:
        """Return the sum of the heads' mean losses: nats per gap (``insert``), place (``token``), token (``delete``).

        Edited are, in two fifths of the batches, the model's own translations of shorter sources; else, of half of the
        sentences, a shorter reference with a tenth of its tokens wrong or lacking, and of the others, the reference
        without any or without a random number of its tokens. What is to go has gone before places are opened; what the
        model fills into them (or, of half of the shorter references, the input itself) is then judged by the deletion
        head.
        """
        pad_id = self.ids.blank
        source = SeenSource.of(self.decoder, self.encode(batch.src_tokens, batch.src_lens))
        ref, ref_lens = self._with_ends(batch.tgt_tokens, batch.tgt_lens)
        inputs, input_lens, old_lens = self._roll_in(batch, ref, ref_lens)
        labels = edit_labels(inputs, input_lens, ref, ref_lens)

        is_kept = ~labels.missing
        kept, kept_lens = select(ref, ref_lens, is_kept, pad_id=pad_id)
        is_old = torch.arange(inputs.size(1), device=ref.device) <= old_lens[:, None]
        kept_old_lens = old_lens - (labels.deleted & is_old).sum(1)
        counts = gap_counts(labels.missing, ref_lens)[:, : kept.size(1) - 1]
        logits = self._insert_logits(self._states(kept, kept_lens, source), kept_old_lens)
        is_gap = valid_mask(kept_lens - 1, counts.size(1))
        insert_loss = _masked_mean(
            _cross_entropy(logits, counts.clamp(max=self.config.max_inserts), INSERT_SMOOTHING), is_gap
        )

        opened = ref.masked_fill(labels.missing, self.ids.placeholder)
        # Only open places are named: over a large vocabulary the others would cost as much again.
        named = self.token(self._states(opened, ref_lens, source)[labels.missing])
        token_losses = _cross_entropy(named, ref[labels.missing], self.config.label_smoothing)
        token_loss = token_losses.sum() / max(token_losses.numel(), 1)

        filled = ref.masked_scatter(labels.missing, self._best(named.detach()))
        filled_labels = edit_labels(filled, ref_lens, ref, ref_lens).deleted
        filled_old_lens = old_len_behind(counts, kept_old_lens)
        judges_input = ((old_lens > 0) & (torch.rand(len(ref), device=ref.device) < 0.5))[:, None]
        width = max(filled.size(1), inputs.size(1))
        judged = _widen(inputs, width).where(judges_input, _widen(filled, width))
        judged_lens = input_lens.where(judges_input[:, 0], ref_lens)
        targets = _widen(labels.deleted, width).where(judges_input, _widen(filled_labels, width))
        states = self._states(judged, judged_lens, source)
        logits = self._delete_logits(states, old_lens.where(judges_input[:, 0], filled_old_lens))
        is_inner = valid_mask(judged_lens - 1, width)
        is_inner = is_inner & (torch.arange(width, device=ref.device) > 0)
        delete_loss = _masked_mean(_cross_entropy(logits, targets.long(), 0.0), is_inner)

        parts = {"insert": insert_loss, "token": token_loss, "delete": delete_loss}
        weight = ref_lens.sum().float()
        return LossOutput(
            sum(parts.values(), torch.zeros_like(weight)), {k: v.detach() for k, v in parts.items()}, weight
        )

    @torch.no_grad()
    def edit(
        self,
        src_tokens: Tensor,
        src_lens: Tensor,
        tokens: Tensor | None = None,
        lens: Tensor | None = None,
        *,
        max_iterations: int = first_iterations,
        bias: EditBias | None = None,
        growing: GrowingSource | None = None,
    ) -> Refined:
        """Return the translation of each source (B, S) that a previous one, ``tokens`` (B, U), is edited to.

        Args:
            src_tokens: with ``<eos>`` at its end where the source is complete; padding may hold anything.
            src_lens: (B,); at least 1.
            tokens: without start and end; padding may hold anything. None: nothing was said before.
            lens: (B,) of ``tokens``.
            max_iterations: of deleting, opening and filling, at least 1.
            bias: against edits of the previous translation.
            growing: the source up to now, of `new_source`; B is 1. The translation is the same, and sooner there.

        Raises:
            ConfigError: ``max_iterations`` is less than 1.
        """
        if growing is None:
            source = SeenSource.of(self.decoder, self.encode(src_tokens, src_lens))
        else:
            _, source = growing.read(src_tokens)
        if tokens is None or lens is None:
            tokens, lens = src_tokens.new_zeros(len(src_lens), 0), torch.zeros_like(src_lens)
        start, start_lens = self._with_ends(tokens, lens)
        max_lens = torch.maximum(max_lens_of(src_lens, self.config.max_len_ratio) + 2, start_lens)
        return refine(
            _Editor(self, source, bias or EditBias()),
            start,
            start_lens,
            max_lens,
            max_iterations=max_iterations,
            placeholder_id=self.ids.placeholder,
            pad_id=self.ids.blank,
        )

    def new_source(self) -> GrowingSource | None:
        """Return a source that is to grow; None where all of it is encoded again."""
        return GrowingSource(self.encoder, self.embed, self.decoder) if self.config.causal_encoder else None

    def translate(self, batch: PairBatch) -> list[list[int]]:
        """Return the translation of each source of a batch, written from nothing."""
        return self.edit(batch.src_tokens, batch.src_lens).inner_rows()

    def _states(self, tokens: Tensor, lens: Tensor, source: SeenSource) -> Tensor:
        x = self.dropout(embed_tokens(self.embed, tokens))
        states: Tensor = self.decoder(x, valid_mask(lens, tokens.size(1)), source.keys_values, source.mask)
        return states

    def _offset(self, num_positions: int, old_lens: Tensor) -> Tensor:
        """Embed how far each position is behind the old end, (B, N, O)."""
        offsets = torch.arange(num_positions, device=old_lens.device) - old_lens[:, None]
        bounds = torch.tensor(OFFSET_BOUNDS, device=old_lens.device)
        embedded: Tensor = self.offsets(torch.bucketize(offsets, bounds, right=True))
        return embedded

    def _delete_logits(self, states: Tensor, old_lens: Tensor) -> Tensor:
        logits: Tensor = self.delete(torch.cat([states, self._offset(states.size(1), old_lens)], dim=-1))
        return logits.float()

    def _insert_logits(self, states: Tensor, old_lens: Tensor) -> Tensor:
        offsets = self._offset(states.size(1) - 1, old_lens)
        logits: Tensor = self.insert(torch.cat([states[:, :-1], states[:, 1:], offsets], dim=-1))
        return logits.float()

    def _best(self, logits: Tensor) -> Tensor:
        return logits.index_fill(-1, self.never, -torch.inf).argmax(-1)

    def _with_ends(self, tokens: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Put start and end around ``tokens`` (B, U), and blanks beyond."""
        places = torch.arange(tokens.size(1) + 2, device=tokens.device)
        framed = F.pad(tokens, (1, 1), value=self.ids.blank).masked_fill(places > lens[:, None], self.ids.blank)
        framed = framed.masked_fill(places == 0, self.ids.sos)
        return framed.masked_fill(places == lens[:, None] + 1, self.ids.eos), lens + 2

    def _roll_in(self, batch: PairBatch, ref: Tensor, ref_lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what is edited (B, N), its lengths, and how many of its tokens are old (0: none was shown before)."""
        if self.training and float(torch.rand(())) < OWN_SHARE:
            return self._own_output(batch)
        places = torch.arange(ref.size(1), device=ref.device)
        is_inner = (places > 0) & (places < ref_lens[:, None] - 1)
        is_previous = (torch.rand(len(ref), device=ref.device) < PREVIOUS_SHARE)[:, None]
        # The last places of a random order are taken out.
        ranks = torch.rand(ref.shape, device=ref.device).masked_fill(~is_inner, 2.0).argsort(1).argsort(1)
        share = ((torch.rand(len(ref), device=ref.device) - EMPTY_SHARE) / (1 - EMPTY_SHARE)).clamp(min=0)
        num_kept = (share * (ref_lens - 2)).long()[:, None]
        noise = torch.rand(ref.shape, device=ref.device) / NOISE
        is_kept = ((places <= batch.previous_tgt_lens[:, None]) & (noise > 0.5)).where(is_previous, ranks < num_kept)
        foreign = ref.flatten()[torch.randint(ref.numel(), ref.shape, device=ref.device)]
        is_text = (foreign != self.ids.blank) & (foreign != self.ids.sos) & (foreign != self.ids.eos)
        is_foreign = is_previous & is_inner & is_text & (noise > 0.5) & (noise < 1.0)
        noisy = foreign.where(is_foreign, ref)
        inputs, input_lens = select(noisy, ref_lens, is_kept | ~is_inner, pad_id=self.ids.blank)
        return inputs, input_lens, (input_lens - 2).where(is_previous[:, 0], 0)

    @torch.no_grad()
    def _own_output(self, batch: PairBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Translate what was known of the sources shortly before, by editing what a part of that was translated to.

        Errors of an update are there for the next one to mend: what is edited in use has been edited before.
        """
        share = torch.rand(len(batch.src_lens), device=batch.src_lens.device)
        tokens, lens = batch.src_tokens[:, :0], torch.zeros_like(batch.src_lens)
        for src_lens in ((share * batch.previous_src_lens).long(), batch.previous_src_lens):
            refined = self.edit(batch.src_tokens, src_lens.clamp(min=1), tokens, lens, max_iterations=1)
            keep = (src_lens > 0)[:, None] | (refined.tokens == self.ids.sos) | (refined.tokens == self.ids.eos)
            framed, framed_lens = select(refined.tokens, refined.lens, keep, pad_id=self.ids.blank)
            tokens, lens = framed[:, 1:], framed_lens - 2
        return framed, framed_lens, lens


class _Editor:
    """The model as `speechnar.decode.levenshtein.refine` wants it."""

    def __init__(self, model: Fretna, source: SeenSource, bias: EditBias) -> None:
        self._model = model
        self._config = model.config
        self._source = source
        self._bias = bias

    def deletions(self, tokens: Tensor, lens: Tensor, old_lens: Tensor) -> Tensor:
        logits = self._model._delete_logits(self._states(tokens, lens), old_lens)
        gain = logits[..., 1] - logits[..., 0] - self._config.delete_cost
        gain = gain - self._bias.delete * self._is_old(tokens.size(1), old_lens)
        gain = gain + self._config.repeat_penalty * F.pad(tokens[:, 1:] == tokens[:, :-1], (1, 0))
        places = torch.arange(tokens.size(1), device=tokens.device)
        return (gain > 0) & (places > 0) & (places < lens[:, None] - 1)

    def insertions(self, tokens: Tensor, lens: Tensor, old_lens: Tensor) -> Tensor:
        logits = self._model._insert_logits(self._states(tokens, lens), old_lens)
        costs = self._bias.insert * self._is_old(tokens.size(1) - 1, old_lens) - self._config.insert_bonus
        none, some = logits[..., :1], logits[..., 1:] - costs[..., None]
        return torch.cat([none, some], dim=-1).argmax(-1)

    def fill(self, tokens: Tensor, lens: Tensor) -> Tensor:
        is_open = (tokens == self._model.ids.placeholder) & valid_mask(lens, tokens.size(1))
        states = self._states(tokens, lens)[is_open]
        return tokens.masked_scatter(is_open, self._model._best(self._model.token(states).float()))

    def _states(self, tokens: Tensor, lens: Tensor) -> Tensor:
        return self._model._states(tokens, lens, self._source)

    def _is_old(self, num_positions: int, old_lens: Tensor) -> Tensor:
        offsets = torch.arange(num_positions, device=old_lens.device) - old_lens[:, None]
        return (offsets < -self._bias.margin).float()


def _cross_entropy(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return nats in the shape of ``targets``; by rows, which is fastest."""
    losses = F.cross_entropy(
        logits.float().flatten(0, -2), targets.flatten(), reduction="none", label_smoothing=smoothing
    )
    return losses.view_as(targets)


def _masked_mean(losses: Tensor, mask: Tensor) -> Tensor:
    return (losses * mask).sum() / mask.sum().clamp(min=1)


def _widen(x: Tensor, width: int) -> Tensor:
    return F.pad(x, (0, width - x.size(1)))
