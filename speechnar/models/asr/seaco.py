"""SeACo-Paraformer: hotwords beside a trained Paraformer, which stays as it is.

An LSTM turns each hotword into one vector. A bias decoder attends from the acoustic vectors and from the decoder's
hidden vectors to the hotwords, and says for every token which piece of a hotword stands there, or that none does. Its
word counts where it names a piece. Long lists are first reduced to those that the bias decoder attends to.

Shapes: B utterances, D model width, V vocabulary (blank included), U tokens, R hotwords ("no hotword" counted), C
tokens of a hotword.
Source: Shi et al., "SeACo-Paraformer", ICASSP 2024, sections 2.2 to 2.4.

Differs from FunASR:
- the list is reduced for each utterance by itself.
- a hotword drawn from one utterance of a batch is a label in every utterance that holds it.
"""

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence

from speechnar.config import Config
from speechnar.errors import ConfigError, DataError
from speechnar.nn.sanm import SanmDecoder

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


class SeacoConfig(Config):
    """The bias encoder and decoder; the defaults are those of FunASR's ``paraformer-zh``."""

    encoder_layers: PositiveInt = 2
    """Of the LSTM over a hotword."""
    num_layers: PositiveInt = 6
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 1024
    kernel_size: PositiveInt = 21
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.1
    norm_eps: float = Field(default=1e-12, gt=0)
    label_smoothing: Probability = 0.1
    no_bias_id: int | None = Field(default=None, ge=0)
    """The token that says "no hotword here"; None takes blank, which no transcript holds."""
    max_hotwords: PositiveInt = 50
    """Longer lists are reduced to so many for each utterance (FunASR's ``nfilter``)."""
    leaky_selection: bool = False
    """Reproduce FunASR: the first utterance of a batch selects for all, and "no hotword" takes a place if attended."""
    span_prob: float = Field(default=0.5, gt=0, le=1)
    """Probability that an utterance gives a hotword to its batch, in training (ours)."""
    min_span: PositiveInt = 2
    """Tokens of the shortest hotword drawn in training; utterances with fewer give none (``hotword_min_length``)."""
    max_span: PositiveInt = 8
    """Of the longest (``hotword_max_length``)."""

    @model_validator(mode="after")
    def _check(self) -> "SeacoConfig":
        if self.min_span > self.max_span:
            raise ValueError(f"min_span must be at most max_span {self.max_span}, got {self.min_span}")
        return self


class SeacoBias(nn.Module):
    """Bias encoder and decoder beside a `ParaformerHead`, whose token embeddings it borrows."""

    def __init__(self, config: SeacoConfig, model_dim: int, *, vocab_size: int, sos_id: int, blank_id: int) -> None:
        super().__init__()
        no_bias_id = blank_id if config.no_bias_id is None else config.no_bias_id
        if not 0 <= no_bias_id < vocab_size:
            raise ConfigError(f"no_bias_id must lie in [0, {vocab_size}), got {no_bias_id}")
        self.config = config
        self.no_bias_id, self.sos_id, self.vocab_size = no_bias_id, sos_id, vocab_size
        self.encoder = nn.LSTM(model_dim, model_dim, config.encoder_layers, batch_first=True)
        self.decoder = SanmDecoder(
            model_dim,
            config.num_layers,
            config.num_heads,
            config.ff_dim,
            kernel_size=config.kernel_size,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_eps=config.norm_eps,
        )
        self.output = nn.Linear(model_dim, vocab_size)

    def embed(self, hotwords: Sequence[Sequence[int]], token_embed: nn.Embedding) -> Tensor:
        """Map token ids of hotwords to vectors (R, D), the last of which means "none"; they serve any utterance.

        Raises:
            DataError: a hotword is empty, or holds an id outside the vocabulary.
        """
        for index, word in enumerate(hotwords):
            if not word or not all(0 <= token < self.vocab_size for token in word):
                raise DataError(f"hotword {index} must have tokens in [0, {self.vocab_size}), got {list(word)[:10]}")
        rows = [torch.tensor(word, dtype=torch.int64) for word in (*hotwords, (self.sos_id,))]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(token_embed.weight.device)
        return self.encode(padded, torch.tensor([len(row) for row in rows]), token_embed)

    def encode(self, hotwords: Tensor, hotword_lens: Tensor, token_embed: nn.Embedding) -> Tensor:
        """Map ``hotwords`` (R, C) of ``hotword_lens`` (R,) tokens to their vectors (R, D)."""
        with torch.autocast(hotwords.device.type, enabled=False):
            packed = pack_padded_sequence(
                token_embed(hotwords), hotword_lens.cpu(), batch_first=True, enforce_sorted=False
            )
            _, (last, _) = self.encoder(packed)
        vectors: Tensor = last[-1]
        return vectors

    def forward(self, embeds: Tensor, hidden: Tensor, valid: Tensor, vectors: Tensor) -> Tensor:
        """Return logits (B, U, V) of the pieces of hotwords, or of `no_bias_id`.

        Args:
            embeds: (B, U, D) acoustic vectors.
            hidden: (B, U, D) the decoder's.
            valid: bool (B, U)
            vectors: (1 or B, R, D) of `embed`.
        """
        keys_values = self.decoder.project(vectors)
        mask = valid.new_ones(1, 1, 1, vectors.size(1))
        if len(vectors) == 1:
            keys_values = keys_values.expand(-1, -1, len(embeds), -1, -1, -1)
        attended = self.decoder(embeds, valid, keys_values, mask) + self.decoder(hidden, valid, keys_values, mask)
        logits: Tensor = self.output(attended)
        return logits

    def select(self, hidden: Tensor, valid: Tensor, vectors: Tensor) -> Tensor:
        """Keep of ``vectors`` (R, D) those that each utterance attends to most, and "none": (1 or B, at most R, D)."""
        none = len(vectors) - 1
        num_rivals = len(vectors) if self.config.leaky_selection else none
        if num_rivals <= self.config.max_hotwords:
            return vectors[None]
        keys_values = self.decoder.project(vectors[None]).expand(-1, -1, len(hidden), -1, -1, -1)
        weights = self.decoder.attention(hidden, valid, keys_values, valid.new_ones(1, 1, 1, len(vectors)))
        scores = weights.sum(1).masked_fill(~valid[..., None], 0.0).sum(1)  # (B, R)
        if self.config.leaky_selection:
            scores = scores[:1]
        best = scores[:, :num_rivals].topk(self.config.max_hotwords, dim=1).indices
        return vectors[F.pad(best, (0, 1), value=none)]

    def merge(self, log_probs: Tensor, bias_logits: Tensor, weight: float = 1.0) -> Tensor:
        """Return log-scores (B, U, V): ``log_probs`` where no hotword stands, else mixed with the bias decoder's.

        Source: ``_merge_res`` of FunASR's ``SeacoParaformer``, whose ``seaco_weight`` is ``weight``: the logarithms are
        mixed, (1 - weight) * log_probs + weight * bias, not the probabilities.

        Args:
            log_probs: (B, U, V) of the decoder.
            bias_logits: (B, U, V) of `forward`.
            weight: 1, the only one that FunASR's inference uses, lets the bias decoder alone decide about hotwords;
                0, where FunASR's quotients are not defined, ignores it.

        Raises:
            ConfigError: ``weight`` lies outside [0, 1].
        """
        if not 0 <= weight <= 1:
            raise ConfigError(f"the weight of hotwords must lie in [0, 1], got {weight}")
        bias = bias_logits.log_softmax(2, dtype=torch.float32)
        none = bias.argmax(2, keepdim=True) == self.no_bias_id
        return log_probs.where(none, torch.lerp(log_probs, bias, weight))

    def loss(
        self,
        embeds: Tensor,
        hidden: Tensor,
        valid: Tensor,
        tokens: Tensor,
        token_lens: Tensor,
        *,
        token_embed: nn.Embedding,
    ) -> tuple[Tensor, Tensor]:
        """Draw hotwords from the batch; return cross-entropy in nats and the tokens inside hotwords, (B,) each.

        Args:
            embeds: (B, U or U + 1, D) acoustic vectors; those behind the text do not count.
            hidden: likewise, the decoder's.
            valid: bool (B, U or U + 1)
            tokens: (B, U) text; padding may hold anything.
            token_lens: (B,)
            token_embed: of the head.
        """
        is_text = torch.arange(tokens.size(1), device=tokens.device) < token_lens[:, None]
        tokens = tokens.masked_fill(~is_text, self.no_bias_id)
        words, word_lens = self.draw(tokens, token_lens)
        inside = cover(tokens, token_lens, words, word_lens)
        none = F.pad(words.new_full((1, 1), self.sos_id), (0, words.size(1) - 1))
        vectors = self.encode(torch.cat([words, none]), F.pad(word_lens, (0, 1), value=1), token_embed)
        logits = self(embeds, hidden, valid, vectors[None])[:, : tokens.size(1)]
        labels = tokens.where(inside, self.no_bias_id).masked_fill(~is_text, -100)
        ce = F.cross_entropy(
            logits.flatten(0, 1).float(),
            labels.flatten(),
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        return ce.view_as(labels).sum(1), inside.sum(1)

    def draw(self, tokens: Tensor, token_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Draw at most one span from each utterance: hotwords (R, C), and their lengths (R,)."""
        config = self.config
        draws = torch.rand(3, len(tokens), device=tokens.device)
        chosen = (draws[0] < config.span_prob) & (token_lens >= config.min_span)
        longest = token_lens.clamp(max=config.max_span)
        lens = config.min_span + (draws[1] * (longest - config.min_span + 1)).long()
        starts = (draws[2] * (token_lens - lens + 1)).long()
        at = starts[:, None] + torch.arange(config.max_span, device=tokens.device)
        words = F.pad(tokens, (0, config.max_span)).gather(1, at.clamp(min=0, max=tokens.size(1)))
        return words[chosen], lens[chosen]


def cover(tokens: Tensor, token_lens: Tensor, words: Tensor, word_lens: Tensor) -> Tensor:
    """Return bool (B, U): where ``tokens`` (B, U) of ``token_lens`` (B,) belong to one of ``words`` (R, C)."""
    longest = words.size(1)
    is_text = torch.arange(tokens.size(1), device=tokens.device) < token_lens[:, None]
    padded = F.pad(tokens.masked_fill(~is_text, -1), (0, longest), value=-1)  # -1 is in no word
    windows = padded.unfold(1, longest, 1)[:, : tokens.size(1)]  # (B, U, C)
    in_word = torch.arange(longest, device=tokens.device) < word_lens[:, None]
    found = ((windows[:, :, None] == words) | ~in_word).all(3)  # (B, U, R): a word begins here
    inside = torch.zeros_like(is_text)
    for offset in range(longest):
        begun = (found & (word_lens > offset)).any(2)
        inside |= F.pad(begun, (offset, 0))[:, : tokens.size(1)]
    return inside
