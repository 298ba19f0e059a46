"""ReTA: re-translation by an autoregressive Transformer, the baseline, the teacher and the verifier of FReTNA.

Each time a source word arrives the whole prefix is translated again, which the model has learned from prefixes
(`speechnar.data.pairs`).

Shapes: B sentences, S source tokens, U target tokens, D model width, V vocabulary.
Sources: Vaswani et al., "Attention Is All You Need", 2017; Niehues et al., INTERSPEECH 2018 and Arivazhagan et al.,
IWSLT 2020 (re-translation); Arivazhagan et al., ICASSP 2020 (biased beam search).

Differs from the papers:
- keys and values are cached, so that no comparison is with a slow baseline.
"""

from typing import Literal

import torch
from torch import Tensor

from speechnar.data.pairs import PairBatch
from speechnar.decode.autoregressive import beam_search, greedy_search
from speechnar.decode.retranslation import BiasedStep, Previous
from speechnar.decode.verify import Verifier
from speechnar.models.asr.transformer_ar import TransformerArHead, TransformerArHeadConfig
from speechnar.models.base import LossOutput, MtModel
from speechnar.models.mt.translation import (
    TINY,
    SourceEncoder,
    SpecialIds,
    TranslationConfig,
    max_lens_of,
    rows_of,
)
from speechnar.nn.embedder import EncodedSpeech
from speechnar.text.tokenizer import Tokenizer


class RetaConfig(TranslationConfig):
    """An encoder that sees the whole source so far, and a causal decoder."""

    kind: Literal["reta"] = "reta"

    @classmethod
    def debug(cls) -> "RetaConfig":
        """Return a model of a few thousand parameters, for tests."""
        return cls(**TINY)


def build_head(config: TranslationConfig, tokenizer: Tokenizer) -> TransformerArHead:
    """Make a decoder whose embeddings are its output layer, too."""
    settings = TransformerArHeadConfig(
        num_layers=config.decoder_layers,
        num_heads=config.num_heads,
        ff_dim=config.ff_dim,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        norm_eps=config.norm_eps,
        label_smoothing=config.label_smoothing,
    )
    ids = SpecialIds(tokenizer)
    head = TransformerArHead(
        settings,
        config.model_dim,
        vocab_size=tokenizer.vocab_size,
        sos_id=ids.sos,
        eos_id=ids.eos,
        blank_id=ids.blank,
    )
    head.decoder.output.weight = head.decoder.embed.weight
    return head


def per_token(out: LossOutput, tgt_lens: Tensor) -> LossOutput:
    """Turn nats per sentence into nats per token (the end is one), weighted by their number."""
    num_tokens = (tgt_lens + 1).sum().float()
    return LossOutput(total=out.total * len(tgt_lens) / num_tokens, weight=num_tokens)


class Reta(MtModel):
    """Source tokens to target tokens, one after another."""

    def __init__(self, config: RetaConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        head = build_head(config, tokenizer)
        # First, and so stored by the name that students have for it, which begin with a teacher's (``init_from``).
        self.embed = head.decoder.embed
        self.encoder = SourceEncoder(config)
        self.head = head

    @classmethod
    def from_config(cls, config: RetaConfig, tokenizer: Tokenizer) -> "Reta":
        """Build the model for a joint vocabulary that has ``<sos>`` and ``<eos>``.

        Raises:
            DataError: the vocabulary lacks one of them.
        """
        return cls(config, tokenizer)

    def encode(self, src_tokens: Tensor, src_lens: Tensor) -> EncodedSpeech:
        """Encode sources (B, S), whose padding may hold anything."""
        encoded: EncodedSpeech = self.encoder(self.embed, src_tokens, src_lens)
        return encoded

    def loss(self, batch: PairBatch) -> LossOutput:
        """Return the label-smoothed cross-entropy in nats per target token; the end of a target counts as one."""
        encoded = self.encode(batch.src_tokens, batch.src_lens)
        return per_token(self.head.loss(encoded, batch.tgt_tokens, batch.tgt_lens), batch.tgt_lens)

    @torch.no_grad()
    def decode(
        self,
        src_tokens: Tensor,
        src_lens: Tensor,
        *,
        beam_size: int = 1,
        token_reward: float = 0.0,
        previous: Previous | None = None,
    ) -> list[list[int]]:
        """Return the tokens of the best translation of each source (B, S).

        Args:
            src_tokens: with ``<eos>`` at its end where the source is complete; padding may hold anything.
            src_lens: (B,); at least 1.
            beam_size: 1 takes the best token again and again.
            token_reward: nats for each token, against the short texts that a beam prefers.
            previous: what was said of the same sources before, to be repeated by preference.

        Raises:
            ConfigError: the bias is not in [0, 1).
        """
        plain = self.head.step(self.encode(src_tokens, src_lens))
        step = BiasedStep(plain, eos_id=self.head.eos_id, previous=previous, token_reward=token_reward)
        max_lens = max_lens_of(src_lens, self.config.max_len_ratio)
        sos_id, eos_id = self.head.sos_id, self.head.eos_id
        if beam_size == 1:
            decoded = greedy_search(step, max_lens, sos_id=sos_id, eos_id=eos_id)
        else:
            decoded = beam_search(step, max_lens, sos_id=sos_id, eos_id=eos_id, beam_size=beam_size, ctc_weight=0.0)
        return rows_of(decoded.tokens, decoded.lens)

    @torch.no_grad()
    def verifier(self, src_tokens: Tensor) -> Verifier:
        """Return the model as `speechnar.decode.verify.verify` wants it, at the start of a translation of (1, S)."""
        src_lens = torch.tensor([src_tokens.size(1)], device=src_tokens.device)
        return _Verifier(self.head, self.encode(src_tokens, src_lens))

    def max_len(self, num_src: int) -> int:
        """Return the number of target tokens at which translations of so many source tokens are cut off."""
        return int(max_lens_of(torch.tensor([num_src]), self.config.max_len_ratio))

    def translate(self, batch: PairBatch) -> list[list[int]]:
        """Return the greedy translation of each source of a batch."""
        return self.decode(batch.src_tokens, batch.src_lens)


class _Verifier:
    """The decoder, with cached keys and values, over one source."""

    def __init__(self, head: TransformerArHead, encoded: EncodedSpeech) -> None:
        self._decoder = head.decoder
        self._memory = head.decoder.project(encoded.enc, encoded.valid)
        self._caches = head.decoder.new_caches()
        self._never = torch.tensor([head.blank_id, head.sos_id], device=encoded.enc.device)

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> Tensor:
        logits = self._decoder(tokens[None], self._memory, self._caches)[0]
        log_probs: Tensor = logits.log_softmax(dim=-1, dtype=torch.float32)
        return log_probs.index_fill(1, self._never, -torch.inf)

    def truncate(self, length: int) -> None:
        for cache in self._caches:
            cache.truncate(length)
