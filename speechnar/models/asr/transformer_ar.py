"""The autoregressive baseline: an attention decoder that writes one token at a time.

Every speed claim of a parallel decoder is a claim against this one, so it keeps its keys and values, decodes in
batches, and projects the encoder output once. It also scores the candidates of other decoders.

Shapes: B utterances, T encoder frames, D model width, V vocabulary (blank included), U tokens, N candidates.
Sources: Vaswani et al., "Attention Is All You Need", 2017, section 3; Szegedy et al., "Rethinking the Inception
Architecture", 2016, section 7 (label smoothing); Dong, Xu and Xu, "Speech-Transformer", ICASSP 2018; Watanabe et al.,
"Hybrid CTC/Attention Architecture for End-to-End Speech Recognition", 2017 (decoding joined with CTC); Radford et al.,
"Robust Speech Recognition via Large-Scale Weak Supervision", 2022, section 2.2 (``decoder: whisper``).
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.decode.align import CtcPath, viterbi_align
from speechnar.decode.autoregressive import CtcPrefixScorer, Decoded, Step, beam_search, greedy_search
from speechnar.errors import ConfigError, ShapeError
from speechnar.models.base import LossOutput
from speechnar.nn.decoder import CausalDecoder, DecoderMemory, FeedForwardKind, KeyValueCache, TransformerDecoder
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from speechnar.nn.whisper_decoder import WhisperCausalDecoder, states_of


class TransformerArHeadConfig(Config):
    """The decoder; the defaults are ESPnet's, but for ``norm_eps``."""

    decoder: Literal["transformer", "whisper"] = "transformer"
    """``whisper``: layers that can begin from Whisper's decoder, of its width and with its embeddings, reading the
    states of a Whisper trunk."""
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 2048
    """Hidden units of the feed-forward modules (gated ones for ``swiglu``)."""
    feed_forward: FeedForwardKind = "relu"
    """``relu`` is the paper's and ESPnet's; a decoder of kind ``whisper`` has ``gelu``."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    attention_dropout: float = Field(default=0.0, ge=0, lt=1)
    norm_eps: float = Field(default=1e-5, gt=0)
    """ESPnet has 1e-12, which bf16 training does not like."""
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of the target distribution spread evenly over the vocabulary."""

    @model_validator(mode="after")
    def _check(self) -> "TransformerArHeadConfig":
        if self.decoder == "whisper" and self.feed_forward != "gelu":
            raise ValueError(f"a decoder of kind whisper needs feed_forward gelu, got {self.feed_forward}")
        return self

    @classmethod
    def debug(cls) -> "TransformerArHeadConfig":
        """Return two small layers, for tests."""
        return cls(num_layers=2, num_heads=2, ff_dim=64)


class TransformerArHead(nn.Module):
    """Transformer decoder over encoder output; a `SpeechDecoder`."""

    tables = ("decoder.embed.weight", "decoder.output.weight")
    """Weights that are token embeddings, and one tensor, with a decoder of kind ``whisper``."""

    def __init__(
        self,
        config: TransformerArHeadConfig,
        model_dim: int,
        *,
        vocab_size: int,
        sos_id: int,
        eos_id: int,
        blank_id: int,
    ) -> None:
        super().__init__()
        if not all(0 <= i < vocab_size for i in (sos_id, eos_id, blank_id)) or blank_id in (sos_id, eos_id):
            raise ConfigError(
                f"sos_id, eos_id and blank_id must lie in [0, {vocab_size}), the blank apart from the others, "
                f"got {sos_id}, {eos_id}, {blank_id}"
            )
        self.config = config
        self.sos_id = sos_id
        self.eos_id = eos_id
        self.blank_id = blank_id
        self.decoder = _build_decoder(config, vocab_size, model_dim)

    def loss(
        self, speech: EncodedSpeech, tokens: Tensor, token_lens: Tensor, visible: Tensor | None = None
    ) -> LossOutput:
        """Return the label-smoothed cross-entropy of the text and its end, in nats per utterance.

        Args:
            speech: encoder output; gradients flow into what `memory` reads of it.
            tokens: (B, U) text; padding may hold anything.
            token_lens: (B,)
            visible: bool (B, U + 1, T): True where token u, or the end, may be read from frame t; None: from all, as a
                decoder of kind ``whisper`` must.
        """
        inputs, targets, is_target = self._shift(tokens, token_lens)
        memory = self.memory(speech)
        if visible is not None:
            memory = replace(memory, mask=(visible & speech.valid[:, None])[:, None])
        logits = self.decoder(inputs, memory)
        # By rows: over a vocabulary in the middle, log-softmax is the slowest operation of a training step.
        losses = F.cross_entropy(
            logits.float().flatten(0, 1),
            targets.flatten(),
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        total = (losses.view_as(targets) * is_target).sum() / tokens.size(0)
        weight = torch.tensor(float(tokens.size(0)), device=total.device)
        return LossOutput(total=total, weight=weight)

    @torch.no_grad()
    def score(self, speech: EncodedSpeech, utterance_index: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Return log p(tokens, end of sentence | speech) of N candidates in one pass, (N,) float32 nats.

        Args:
            speech: encoder output, projected once per utterance however many candidates it has.
            utterance_index: (N,) int64, the utterance of each candidate, in any order.
            tokens: (N, U); padding may hold anything.
            token_lens: (N,)

        Raises:
            ShapeError: the three tensors do not fit each other.
        """
        if tokens.dim() != 2 or not utterance_index.shape == token_lens.shape == tokens.shape[:1]:
            raise ShapeError(
                "need utterance_index (N,), tokens (N, U) and token_lens (N,), got "
                f"{tuple(utterance_index.shape)}, {tuple(tokens.shape)}, {tuple(token_lens.shape)}"
            )
        inputs, targets, is_target = self._shift(tokens, token_lens)
        logits = self.decoder(inputs, _place(self.memory(speech), utterance_index))
        losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        return -(losses * is_target).sum(1)

    @torch.no_grad()
    def decode(
        self,
        speech: EncodedSpeech,
        *,
        beam_size: int = 1,
        ctc_weight: float = 0.3,
        min_len_ratio: float = 0.0,
        max_len_ratio: float = 1.0,
        times: bool = True,
    ) -> list[CtcPath]:
        """Return the best hypothesis of each utterance.

        ``scores`` are what the tokens add to ``total``, which includes the end. ``starts`` and ``ends`` are those of
        the best CTC alignment of the result.

        Args:
            speech: encoder output.
            beam_size: 1 takes the decoder's best token again and again; more searches with CTC.
            ctc_weight: share of CTC in the score of a beam, in [0, 1); 0 needs no ``speech.log_probs``.
            min_len_ratio: tokens per frame before which nothing ends.
            max_len_ratio: tokens per frame at which a hypothesis is cut off, at least one token.
            times: False, or ``speech.log_probs`` None: starts and ends are 0, and the alignment is saved.

        Raises:
            ConfigError: a beam is to be joined with CTC where there are no ``log_probs``, or a number is out of range.
        """
        if not 0 <= min_len_ratio <= max_len_ratio:
            raise ConfigError(
                f"length ratios need 0 <= min_len_ratio <= max_len_ratio, got {min_len_ratio}, {max_len_ratio}"
            )
        max_lens = (speech.lens.double() * max_len_ratio).long().clamp(min=1)
        min_lens = (speech.lens.double() * min_len_ratio).long() if min_len_ratio else None
        sos_id, eos_id, step = self.sos_id, self.eos_id, self.step(speech)
        if beam_size == 1:
            decoded = greedy_search(step, max_lens, sos_id=sos_id, eos_id=eos_id, min_lens=min_lens)
        else:
            decoded = beam_search(
                step,
                max_lens,
                sos_id=sos_id,
                eos_id=eos_id,
                beam_size=beam_size,
                ctc=self._ctc_scorer(speech, beam_size) if ctc_weight else None,
                ctc_weight=ctc_weight,
                min_lens=min_lens,
            )
        return self._paths(decoded, speech if times else None)

    def _ctc_scorer(self, speech: EncodedSpeech, beam_size: int) -> CtcPrefixScorer:
        if speech.log_probs is None:
            raise ConfigError("a beam joined with CTC needs log_probs of the encoded speech; else give ctc_weight=0")
        return CtcPrefixScorer(speech.log_probs, speech.lens, blank_id=self.blank_id, beam_size=beam_size)

    def step(self, speech: EncodedSpeech) -> Step:
        """Return the decoder at the beginning of its hypotheses, for the searches of `speechnar.decode`."""
        never = {self.blank_id, self.sos_id} - {self.eos_id}
        return _CachedStep(self.decoder, self.memory(speech), sorted(never))

    def memory(self, speech: EncodedSpeech) -> DecoderMemory:
        """Return what the decoder reads: ``enc``, or the states of a Whisper trunk."""
        if isinstance(self.decoder, WhisperCausalDecoder):
            return self.decoder.project(*states_of(speech))
        return self.decoder.project(speech.enc, speech.valid)

    def _shift(self, tokens: Tensor, token_lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return inputs and targets (N, U + 1), and which of the targets are real."""
        tokens = tokens.where(valid_mask(token_lens, tokens.size(1)), self.eos_id)
        inputs = F.pad(tokens, (1, 0), value=self.sos_id)
        targets = F.pad(tokens, (0, 1), value=self.eos_id)
        return inputs, targets, valid_mask(token_lens + 1, targets.size(1))

    def _paths(self, decoded: Decoded, speech: EncodedSpeech | None) -> list[CtcPath]:
        starts = ends = torch.zeros_like(decoded.tokens)
        if speech is not None and speech.log_probs is not None:
            aligned = viterbi_align(speech.log_probs, speech.lens, decoded.tokens, decoded.lens, self.blank_id)
            starts, ends = aligned.starts, aligned.ends
        columns = (decoded.tokens, starts, ends, decoded.token_scores)
        rows = zip(
            decoded.lens.tolist(), *(column.tolist() for column in columns), decoded.totals.tolist(), strict=True
        )
        return [CtcPath(ids[:n], first[:n], end[:n], nats[:n], total) for n, ids, first, end, nats, total in rows]


def _build_decoder(
    config: TransformerArHeadConfig, vocab_size: int, model_dim: int
) -> TransformerDecoder | WhisperCausalDecoder:
    sizes = (vocab_size, model_dim, config.num_layers, config.num_heads, config.ff_dim)
    if config.decoder == "whisper":
        return WhisperCausalDecoder(
            *sizes, dropout=config.dropout, attention_dropout=config.attention_dropout, norm_eps=config.norm_eps
        )
    return TransformerDecoder(
        *sizes,
        feed_forward=config.feed_forward,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        norm_eps=config.norm_eps,
    )


class _CachedStep:
    """The decoder as `speechnar.decode.autoregressive` wants it: one token further at every call."""

    def __init__(self, decoder: CausalDecoder, memory: DecoderMemory, never: list[int]) -> None:
        self._decoder = decoder
        self._memory = memory
        self._never = torch.tensor(never, dtype=torch.int64, device=memory.keys[0].device)
        self._caches: list[KeyValueCache] = decoder.new_caches()

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        if rows is not None:
            for cache in self._caches:
                cache.reorder(rows)
        logits = self._decoder(tokens[:, None], self._memory, self._caches)[:, 0]
        log_probs: Tensor = logits.log_softmax(dim=-1, dtype=torch.float32)
        return log_probs.index_fill(1, self._never, -torch.inf)


def _place(memory: DecoderMemory, utterance_index: Tensor) -> DecoderMemory:
    """Let candidate n see the utterance ``utterance_index[n]``."""
    counts = utterance_index.bincount(minlength=memory.keys[0].size(0))
    order = utterance_index.argsort(stable=True)
    first = (counts.cumsum(0) - counts)[utterance_index[order]]  # of its utterance, in that order
    rank = torch.empty_like(order).index_copy(0, order, torch.arange(len(order), device=order.device) - first)
    num_places = int(counts.max())
    return DecoderMemory(
        keys=memory.keys,
        values=memory.values,
        mask=memory.mask,
        places=utterance_index * num_places + rank,
        num_places=num_places,
    )
