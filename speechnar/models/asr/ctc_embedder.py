"""Paraformer-v2's token vectors: CTC posteriors, averaged over the frames of each token, in place of fires.

In training the frames are those of the best alignment of the reference, in decoding those of the best CTC path. CTC
counts sub-words of uneven length better than weights that must sum to their number.

Shapes: B utterances, T encoder frames, D model width, V vocabulary (blank included), U tokens.
Source: An et al., "Paraformer-v2", 2024, section 2.
"""

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
        """Embed the tokens of ``tokens`` (B, U), or of the best CTC path.

        A reference that does not fit its frames has no segments; its vectors know their positions only.

        Raises:
            ConfigError: ``speech`` has no CTC posteriors.
        """
        if speech.log_probs is None:
            raise ConfigError("an embedder of kind ctc needs CTC posteriors; train the model with a CTC loss")
        log_probs = speech.log_probs
        if tokens is None or token_lens is None:
            path = path_segments(log_probs.argmax(2), speech.lens, self.blank_id)
            starts, ends, lens = path.starts, path.ends, path.token_lens
        else:
            alignment = viterbi_align(log_probs.detach(), speech.lens, tokens, token_lens, self.blank_id)
            starts, ends, lens = alignment.starts, alignment.ends, alignment.token_lens
        if starts.size(1) == 0:
            starts, ends = (F.pad(x, (0, 1)) for x in (starts, ends))
        is_token = valid_mask(lens, starts.size(1))
        starts, ends = starts.masked_fill(~is_token, 0), ends.masked_fill(~is_token, 0)
        frames = torch.arange(log_probs.size(1), device=log_probs.device)
        inside = (frames >= starts[..., None]) & (frames < ends[..., None])  # (B, U, T)
        weights = inside / inside.sum(2, keepdim=True).clamp(min=1)
        probs = zero_padding(log_probs, speech.valid).exp()
        x = F.relu(self.dropout(self.norm(self.proj(torch.bmm(weights.to(probs.dtype), probs)))))
        # Posteriors carry no positions, as encoder frames do.
        x = x * x.size(2) ** 0.5 + sinusoids(torch.arange(x.size(1), device=x.device), x.size(2))
        return TokenEmbeddings(embeds=zero_padding(x, is_token), lens=lens, starts=starts, ends=ends)
