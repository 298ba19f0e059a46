"""Paraformer-v2's token vectors: CTC posteriors, averaged over the frames of each token, in place of fires.

In training the frames are those of the best alignment of the reference, in decoding those of the best CTC path. CTC
counts sub-words of uneven length better than weights that must sum to their number.

Shapes: B utterances, T encoder frames, D model width, V vocabulary (blank included), U tokens.
Source: An et al., "Paraformer-v2", 2024, section 2.2.

Differs from the paper:
- a norm, a rectifier and positions follow the linear layer that embeds the posteriors.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.decode.align import viterbi_align
from speechnar.decode.segments import path_segments
from speechnar.errors import ConfigError
from speechnar.nn.dropout import Dropout
from speechnar.nn.embedder import EncodedSpeech, TokenEmbeddings
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.positions import sinusoids


class CtcEmbedderConfig(Config):
    """CTC posteriors averaged over the frames of each token (Paraformer-v2)."""

    kind: Literal["ctc"] = "ctc"


class HeardEmbedderConfig(Config):
    """The expected embeddings of what CTC heard, for a decoder that knows its token embeddings (``whisper``)."""

    kind: Literal["heard"] = "heard"


class CtcEmbedder(nn.Module):
    """A `TokenEmbedder`; gradients flow into ``log_probs`` but not into the alignment."""

    def __init__(self, model_dim: int, *, vocab_size: int, blank_id: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.blank_id = blank_id
        self.proj = nn.Linear(vocab_size, model_dim)
        self.norm = nn.LayerNorm(model_dim)
        self.dropout = Dropout(dropout)

    def forward(
        self, speech: EncodedSpeech, tokens: Tensor | None = None, token_lens: Tensor | None = None
    ) -> TokenEmbeddings:
        """Embed the tokens of ``tokens`` (B, U), or of the best CTC path (equation 9).

        A reference that does not fit its frames has no segments; its vectors know their positions only.

        Raises:
            ConfigError: ``speech`` has no CTC posteriors.
        """
        heard = hear(speech, tokens, token_lens, self.blank_id)
        x = F.relu(self.dropout(self.norm(self.proj(heard.probs))))
        # Posteriors carry no positions, as encoder frames do.
        x = x * x.size(2) ** 0.5 + sinusoids(torch.arange(x.size(1), device=x.device), x.size(2))
        return heard.embedded(x)


class HeardEmbedder(nn.Module):
    """A `TokenEmbedder` whose vectors are the expected embeddings of what CTC heard, blank left out, without positions.

    Ours: a decoder that knows a table of token embeddings (Whisper's) is given the same vectors that it knows.
    """

    def __init__(self, table: nn.Embedding, *, blank_id: int) -> None:
        super().__init__()
        self.table = table
        self.blank_id = blank_id

    def forward(
        self, speech: EncodedSpeech, tokens: Tensor | None = None, token_lens: Tensor | None = None
    ) -> TokenEmbeddings:
        """Embed as `CtcEmbedder` does; a reference that does not fit its frames has vectors of 0."""
        heard = hear(speech, tokens, token_lens, self.blank_id)
        return heard.embedded(self.embed(heard.probs))

    def embed(self, probs: Tensor) -> Tensor:
        """Map posteriors (B, U, V) to the expected embeddings (B, U, D) of all tokens but blank."""
        text = torch.ones_like(probs[0, 0])
        text[self.blank_id] = 0.0
        probs = probs * text
        probs = probs / probs.sum(2, keepdim=True).clamp(min=1e-6)
        return probs.to(self.table.weight.dtype) @ self.table.weight


@dataclass(frozen=True)
class Heard:
    """What CTC says about each token."""

    probs: Tensor
    """(B, U, V) float32, means over the token's frames."""
    weights: Tensor
    """(B, U, T), of the frames in those means."""
    lens: Tensor
    starts: Tensor
    ends: Tensor

    def embedded(self, x: Tensor) -> TokenEmbeddings:
        """Return the tokens with the vectors ``x`` (B, U, D)."""
        is_token = valid_mask(self.lens, x.size(1))
        return TokenEmbeddings(embeds=zero_padding(x, is_token), lens=self.lens, starts=self.starts, ends=self.ends)


def hear(speech: EncodedSpeech, tokens: Tensor | None, token_lens: Tensor | None, blank_id: int) -> Heard:
    """Average the posteriors over the frames of ``tokens`` (B, U), or of the tokens of the best CTC path.

    Equations 11 (by the Viterbi alignment) and 8 (by the best path) of Paraformer-v2.

    Raises:
        ConfigError: ``speech`` has no CTC posteriors.
    """
    if speech.log_probs is None:
        raise ConfigError("an embedder of kind ctc or heard needs CTC posteriors; train the model with a CTC loss")
    log_probs = speech.log_probs
    if tokens is None or token_lens is None:
        path = path_segments(log_probs.argmax(2), speech.lens, blank_id)
        starts, ends, lens = path.starts, path.ends, path.token_lens
    else:
        alignment = viterbi_align(log_probs.detach(), speech.lens, tokens, token_lens, blank_id)
        starts, ends, lens = alignment.starts, alignment.ends, alignment.token_lens
    if starts.size(1) == 0:
        starts, ends = (F.pad(x, (0, 1)) for x in (starts, ends))
    is_token = valid_mask(lens, starts.size(1))
    starts, ends = starts.masked_fill(~is_token, 0), ends.masked_fill(~is_token, 0)
    frames = torch.arange(log_probs.size(1), device=log_probs.device)
    inside = (frames >= starts[..., None]) & (frames < ends[..., None])  # (B, U, T)
    probs = zero_padding(log_probs, speech.valid).exp()
    weights = (inside / inside.sum(2, keepdim=True).clamp(min=1)).to(probs.dtype)
    return Heard(torch.bmm(weights, probs), weights, lens, starts, ends)
