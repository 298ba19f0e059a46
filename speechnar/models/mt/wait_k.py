"""Wait-k: translate while reading, k source tokens behind, and never revise. One model serves every k.

The encoder is causal, so that what was read is never encoded again; in training a delay is drawn for each batch.

Shapes: B sentences, S source tokens, U target tokens (the end counted), D model width, V vocabulary.
Sources: Ma et al., "STACL: Simultaneous Translation with Implicit Anticipation and Controllable Latency using
Prefix-to-Prefix Framework", ACL 2019, section 3 (wait-k); Elbayad, Besacier and Verbeek, "Efficient Wait-k Models for
Simultaneous Machine Translation", INTERSPEECH 2020, section 2 (causal encoder, many delays in one model).
"""

from dataclasses import replace
from typing import Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from speechnar.data.pairs import PairBatch
from speechnar.decode.autoregressive import greedy_search
from speechnar.errors import ConfigError
from speechnar.models.base import LossOutput, MtModel
from speechnar.models.mt.reta import build_head, per_token
from speechnar.models.mt.translation import TINY, SourceEncoder, TranslationConfig, max_lens_of, rows_of
from speechnar.nn.decoder import CausalDecoder, DecoderMemory
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import Tokenizer

WHOLE_SHARE = 0.2
"""Share of batches that wait for the whole source."""


class WaitKConfig(TranslationConfig):
    """A causal encoder and a causal decoder."""

    kind: Literal["wait_k"] = "wait_k"
    max_delay: PositiveInt = 9
    """Largest k that is trained, in tokens."""
    delay: PositiveInt = 5
    """The k by which a development set is scored."""

    @classmethod
    def debug(cls) -> "WaitKConfig":
        """Return a model of a few thousand parameters, for tests."""
        return cls(**TINY, max_delay=3, delay=2)


class WaitK(MtModel):
    """Source tokens to target tokens, the u-th of which has seen k + u of the source, counted from 0."""

    def __init__(self, config: WaitKConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        head = build_head(config, tokenizer)
        self.embed = head.decoder.embed  # first, as in the teacher: the name by which it is stored
        self.encoder = SourceEncoder(config, causal=True)
        self.head = head

    @classmethod
    def from_config(cls, config: WaitKConfig, tokenizer: Tokenizer) -> "WaitK":
        """Build the model for a joint vocabulary that has ``<sos>`` and ``<eos>``.

        Raises:
            DataError: the vocabulary lacks one of them.
        """
        return cls(config, tokenizer)

    def loss(self, batch: PairBatch) -> LossOutput:
        """Return the label-smoothed cross-entropy in nats per target token; in training with a delay drawn anew."""
        encoded = self.encoder(self.embed, batch.src_tokens, batch.src_lens)
        num_src = batch.src_tokens.size(1)
        delay = self._draw_delay(num_src) if self.training else self.config.delay
        u = torch.arange(batch.tgt_tokens.size(1) + 1, device=batch.src_tokens.device)
        visible = torch.arange(num_src, device=u.device) < (delay + u)[:, None]
        out = self.head.loss(encoded, batch.tgt_tokens, batch.tgt_lens, visible[None])
        return per_token(out, batch.tgt_lens)

    @torch.no_grad()
    def decode(self, src_tokens: Tensor, src_lens: Tensor, *, delay: int) -> list[list[int]]:
        """Return what a `WaitKStream` writes of each source (B, S), all of them at once.

        Args:
            src_tokens: with ``<eos>`` at its end; padding may hold anything.
            src_lens: (B,); at least 1.
            delay: k, at least 1.

        Raises:
            ConfigError: ``delay`` is less than 1.
        """
        _check_delay(delay)
        encoded = self.encoder(self.embed, src_tokens, src_lens)
        step = _DelayedStep(self, self.head.decoder.project(encoded.enc, encoded.valid), src_lens, delay)
        max_lens = max_lens_of(src_lens, self.config.max_len_ratio)
        decoded = greedy_search(step, max_lens, sos_id=self.head.sos_id, eos_id=self.head.eos_id)
        return rows_of(decoded.tokens, decoded.lens)

    def stream(self, delay: int) -> "WaitKStream":
        """Start a source that is read token by token, ``delay`` tokens ahead of what is written.

        Raises:
            ConfigError: ``delay`` is less than 1.
        """
        return WaitKStream(self, delay)

    def translate(self, batch: PairBatch) -> list[list[int]]:
        """Return the translation of each source of a batch with the configured delay."""
        return self.decode(batch.src_tokens, batch.src_lens, delay=self.config.delay)

    def never(self, log_probs: Tensor) -> Tensor:
        """Return ``log_probs`` (..., V) without what no text holds."""
        return log_probs.index_fill(
            -1, torch.tensor([self.head.blank_id, self.head.sos_id], device=log_probs.device), -torch.inf
        )

    def _draw_delay(self, num_src: int) -> int:
        if float(torch.rand(())) < WHOLE_SHARE:
            return num_src
        return int(torch.randint(1, self.config.max_delay + 1, ()))


class _DelayedStep:
    """A batch, each call one token further and seeing one source token more."""

    def __init__(self, model: WaitK, memory: DecoderMemory, src_lens: Tensor, delay: int) -> None:
        self._model = model
        self._memory = memory
        self._src_lens = src_lens
        self._num_visible = delay
        self._caches = model.head.decoder.new_caches()

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        assert rows is None, "a greedy search goes on from its own hypotheses"
        visible = valid_mask(self._src_lens.clamp(max=self._num_visible), self._memory.keys[0].size(2))
        memory = replace(self._memory, mask=visible[:, None, None])
        logits = self._model.head.decoder(tokens[:, None], memory, self._caches)[:, 0]
        log_probs = self._model.never(logits.log_softmax(-1, dtype=torch.float32))
        may_end = (self._num_visible >= self._src_lens)[:, None]
        ends = torch.arange(log_probs.size(1), device=log_probs.device) == self._model.head.eos_id
        self._num_visible += 1
        return log_probs.masked_fill(ends & ~may_end, -torch.inf)


class WaitKStream:
    """One source, read token by token; what is written depends on the source alone, not on how it is pushed."""

    def __init__(self, model: WaitK, delay: int) -> None:
        """Start with nothing read; ``delay`` is k.

        Raises:
            ConfigError: ``delay`` is less than 1.
        """
        _check_delay(delay)
        self.evaluations = 0
        """Of the decoder so far."""
        self._model = model
        self._delay = delay
        self._encoder_caches = model.encoder.new_caches()
        self._caches = model.head.decoder.new_caches()
        self._memory: DecoderMemory | None = None
        self._num_read = 0
        self._written: list[int] = []
        self._is_done = False

    @torch.no_grad()
    def push(self, src_tokens: list[int], *, is_last: bool) -> list[int]:
        """Read further tokens, the last of all being ``<eos>``; return everything that is written by now."""
        model, decoder = self._model, self._model.head.decoder
        device = decoder.embed.weight.device
        if src_tokens:
            new = torch.tensor([src_tokens], device=device)
            enc = model.encoder.extend(decoder.embed, new, self._encoder_caches, self._num_read)
            self._memory = _extend(self._memory, decoder, enc)
            self._num_read += len(src_tokens)
        max_len = int(max_lens_of(torch.tensor([self._num_read]), model.config.max_len_ratio))
        while not self._is_done and self._memory is not None:
            num_visible = self._delay + len(self._written)
            if (num_visible > self._num_read and not is_last) or len(self._written) >= max_len:
                break
            newest = torch.tensor([[self._written[-1] if self._written else model.head.sos_id]], device=device)
            logits = decoder(newest, _first(self._memory, num_visible), self._caches)[0, 0]
            self.evaluations += 1
            log_probs = model.never(logits.log_softmax(-1, dtype=torch.float32))
            if not (is_last and num_visible >= self._num_read):
                log_probs[model.head.eos_id] = -torch.inf
            best = int(log_probs.argmax())
            self._is_done = best == model.head.eos_id
            if not self._is_done:
                self._written.append(best)
        return list(self._written)


def _extend(memory: DecoderMemory | None, decoder: CausalDecoder, enc: Tensor) -> DecoderMemory:
    new = decoder.project(enc, torch.ones(enc.shape[:2], dtype=torch.bool, device=enc.device))
    if memory is None:
        return new
    keys, values = (
        tuple(torch.cat(pair, dim=2) for pair in zip(old, more, strict=True))
        for old, more in ((memory.keys, new.keys), (memory.values, new.values))
    )
    return DecoderMemory(keys=keys, values=values, mask=None)


def _first(memory: DecoderMemory, num_visible: int) -> DecoderMemory:
    keys, values = (tuple(side[:, :, :num_visible] for side in sides) for sides in (memory.keys, memory.values))
    return DecoderMemory(keys=keys, values=values, mask=None)


def _check_delay(delay: int) -> None:
    if delay < 1:
        raise ConfigError(f"a wait-k delay must be at least 1 token, got {delay}")
