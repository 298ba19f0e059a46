"""CTC head: encoder frames to log-probabilities, and the CTC loss.

Shapes: B utterances, T frames, D model width, V vocabulary (blank included), U tokens.
Source: Graves et al., "Connectionist Temporal Classification", ICML 2006, sections 3 and 4.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError


class CtcHead(nn.Module):
    """One linear layer over encoder frames; every recogniser in this package shares it."""

    def __init__(self, model_dim: int, vocab_size: int, *, blank_id: int = 0) -> None:
        super().__init__()
        if not 0 <= blank_id < vocab_size:
            raise ConfigError(f"blank_id must lie in [0, {vocab_size}), got {blank_id}")
        self.blank_id = blank_id
        self.proj = nn.Linear(model_dim, vocab_size)

    def forward(self, enc: Tensor) -> Tensor:
        """Map ``enc`` (B, T, D) to log-probabilities (B, T, V), float32 under any autocast."""
        return self.proj(enc).log_softmax(dim=-1, dtype=torch.float32)

    def loss(self, log_probs: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Return nats per utterance (B,), float32; 0 where U tokens cannot fit T frames (`fits` counts those)."""
        return F.ctc_loss(
            log_probs.transpose(0, 1), tokens, enc_lens, token_lens, self.blank_id, reduction="none", zero_infinity=True
        )


def fits(enc_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
    """Return bool (B,): True where a CTC path exists, that is T >= U + the number of immediate repeats."""
    inside = torch.arange(1, tokens.size(1), device=tokens.device) < token_lens[:, None]
    repeats = ((tokens[:, 1:] == tokens[:, :-1]) & inside).sum(1)
    return enc_lens >= token_lens + repeats
