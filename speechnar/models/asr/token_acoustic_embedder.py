"""CASS-NAT's token-level acoustic embedding (TAE): one vector per token, read from the frames that CTC gives it.

Shapes: B utterances, T encoder frames, D model width, V vocabulary (blank included), U tokens; N alignments of U + 1
slots, the last one for the end of the sentence; C channels.
Source: Fan et al., "CASS-NAT", ICASSP 2021, section 2.3 (triggers); "An Improved Single Step Non-autoregressive
Transformer for Automatic Speech Recognition", Interspeech 2021, section 2.3 (expanded triggers).
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from speechnar.decode.align import viterbi_align
from speechnar.decode.segments import Segments, aligned_segments, path_segments
from speechnar.errors import ConfigError
from speechnar.nn.attention import CrossAttention
from speechnar.nn.blocks import FeedForward
from speechnar.nn.dropout import Dropout
from speechnar.nn.embedder import EncodedSpeech, TokenEmbeddings
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.positions import sinusoids


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """How N alignments of B utterances lie side by side: they attend to frames that are projected once."""

    place: Tensor
    """(N,) utterance times ``width`` plus the number among its alignments."""
    num_utterances: int
    width: int
    """Alignments of the utterance that has most."""

    @classmethod
    def of(cls, utterance_index: Tensor, num_utterances: int) -> "Candidates":
        """Lay out alignments whose utterances ``utterance_index`` (N,) never fall."""
        counts = utterance_index.bincount(minlength=num_utterances)
        number = torch.arange(len(utterance_index), device=counts.device) - (counts.cumsum(0) - counts)[utterance_index]
        width = int(counts.max())
        return cls(place=utterance_index * width + number, num_utterances=num_utterances, width=width)

    def pack(self, x: Tensor) -> Tensor:
        """Map (N, U + 1, C) to (B, width (U + 1), C), ones where there is no alignment."""
        packed = x.new_ones(self.num_utterances * self.width, *x.shape[1:]).index_copy(0, self.place, x)
        return packed.view(self.num_utterances, -1, x.size(2))

    def unpack(self, x: Tensor) -> Tensor:
        """Map (B, width (U + 1), C) to (N, U + 1, C)."""
        return x.view(self.num_utterances * self.width, -1, x.size(2)).index_select(0, self.place)


class TokenAcousticEmbedder(nn.Module):
    """The TAE: one vector per slot, attended from the frames of its segment by the slot's number alone.

    ``residual`` makes it a Transformer layer: the number is normalised before it attends, and added after (UniEnc).
    """

    def __init__(
        self,
        model_dim: int,
        *,
        num_heads: int,
        ff_dim: int,
        expand_left: int,
        expand_right: int,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
        blank_id: int,
        residual: bool = False,
        enc_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.blank_id = blank_id
        self.model_dim = model_dim
        self.expand_left, self.expand_right = expand_left, expand_right
        self.norm_attention = nn.LayerNorm(model_dim, norm_eps) if residual else None
        self.attention = CrossAttention(model_dim, num_heads, dropout=attention_dropout, memory_dim=enc_dim)
        self.dropout = Dropout(dropout)
        self.ff = FeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)

    def forward(
        self, speech: EncodedSpeech, tokens: Tensor | None = None, token_lens: Tensor | None = None
    ) -> TokenEmbeddings:
        """Embed the tokens of ``speech``; see `TokenEmbedder`. The end of the sentence is left out."""
        segments = self.segments(speech, tokens, token_lens)
        is_token = valid_mask(segments.token_lens, segments.starts.size(1))
        return TokenEmbeddings(
            embeds=zero_padding(self.embed_slots(speech, segments)[:, :-1], is_token),
            lens=segments.token_lens,
            starts=segments.starts.where(is_token, 0),
            ends=segments.ends.where(is_token, 0),
        )

    def segments(
        self, speech: EncodedSpeech, tokens: Tensor | None = None, token_lens: Tensor | None = None
    ) -> Segments:
        """Cut ``speech`` by the Viterbi alignment of ``tokens`` (B, U), or by the best CTC path without them.

        Raises:
            ConfigError: ``speech`` has no CTC posteriors.
        """
        log_probs = posteriors(speech)
        if tokens is None or token_lens is None:
            return path_segments(log_probs.argmax(-1), speech.lens, self.blank_id)
        alignment = viterbi_align(log_probs, speech.lens, tokens, token_lens, self.blank_id)
        return aligned_segments(alignment, speech.lens)

    def embed_slots(self, speech: EncodedSpeech, segments: Segments, candidates: Candidates | None = None) -> Tensor:
        """Return one vector per slot (N, U + 1, D), finite garbage beyond ``segments.slot_lens``."""
        num_rows, num_slots, dim = segments.starts.size(0), segments.starts.size(1) + 1, self.model_dim
        numbers = sinusoids(torch.arange(num_slots, device=speech.enc.device), dim).expand(num_rows, -1, -1)
        queries = numbers if self.norm_attention is None else self.norm_attention(numbers)
        mask = segments.trigger_mask(speech.enc.size(1), left=self.expand_left, right=self.expand_right)
        if candidates is None:
            x = self.attention(queries, speech.enc, mask[:, None])
        else:
            packed = self.attention(candidates.pack(queries), speech.enc, candidates.pack(mask)[:, None])
            x = candidates.unpack(packed)
        x = self.dropout(x * math.sqrt(dim)) if self.norm_attention is None else numbers + self.dropout(x)
        return x + self.ff(x)


def clean(speech: EncodedSpeech) -> EncodedSpeech:
    """Zero the padding of ``enc``: masked attention still multiplies it by 0, and 0 times NaN is NaN."""
    return replace(speech, enc=zero_padding(speech.enc, speech.valid))


def cut_posteriors(speech: EncodedSpeech, blank_id: int, *, lose_last: bool) -> Tensor:
    """Return `posteriors` from which segments are cut; with ``lose_last``, the last frame of the batch is blank."""
    log_probs = posteriors(speech)
    if not lose_last:
        return log_probs
    log_probs = log_probs.clone()
    log_probs[:, -1] = -torch.inf
    log_probs[:, -1, blank_id] = 0.0
    return log_probs


def posteriors(speech: EncodedSpeech) -> Tensor:
    """Return the CTC log-probabilities (B, T, V) as constants."""
    if speech.log_probs is None:
        raise ConfigError("CASS-NAT cuts speech by CTC: it needs EncodedSpeech.log_probs (B, T, V), got None")
    return speech.log_probs.detach()
