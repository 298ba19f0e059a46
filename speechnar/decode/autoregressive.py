"""Autoregressive search over any model that gives the log-probabilities of the next token.

Shapes: B utterances, N hypotheses of all utterances, U tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Decoded", "Step", "greedy_search"]


class Step(Protocol):
    """A model in the middle of its hypotheses: it keeps what it needs of the tokens that it was given before."""

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """Return the log-probabilities (N, V) of what follows ``tokens`` (N,), the newest of each hypothesis.

        ``rows`` (N,) says which of the hypotheses of the call before each of them extends; None: each extends itself.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The best token sequence of each utterance."""

    tokens: Tensor
    """(B, U) int64, end of sentence not included; ``eos_id`` beyond ``lens``."""
    lens: Tensor
    """(B,) tokens."""
    token_scores: Tensor
    """(B, U) log-probability of each token given those before it, nats; 0 beyond ``lens``."""
    totals: Tensor
    """(B,) score of the whole sequence, nats; end of sentence included unless the length limit cut it off."""


def greedy_search(step: Step, max_lens: Tensor, *, sos_id: int, eos_id: int, min_lens: Tensor | None = None) -> Decoded:
    """Take the best next token again and again, for all utterances at once, until each has ended.

    Args:
        step: gives log-probabilities (B, V) in float32; -inf for what must not be emitted.
        max_lens: (B,) tokens at which an utterance is cut off.
        sos_id: the first input.
        eos_id: ends an utterance.
        min_lens: (B,) tokens before which ``eos_id`` is not taken; None: 0.
    """
    batch, device = max_lens.size(0), max_lens.device
    newest = torch.full((batch,), sos_id, device=device)
    running = max_lens > 0
    lens, totals = torch.zeros_like(max_lens), torch.zeros(batch, device=device)
    tokens: list[Tensor] = []
    scores: list[Tensor] = []
    while bool(running.any()):
        log_probs = step(newest, None)
        if min_lens is not None:
            too_short = (len(tokens) < min_lens)[:, None]
            ends = torch.arange(log_probs.size(1), device=device) == eos_id
            log_probs = log_probs.masked_fill(too_short & ends, -torch.inf)
        best, newest = log_probs.max(dim=1)
        totals = totals + best.where(running, 0.0)
        running = running & (newest != eos_id)
        newest = newest.where(running, eos_id)
        tokens.append(newest)
        scores.append(best.where(running, 0.0))
        lens = lens + running
        running = running & (lens < max_lens)
    max_len = int(lens.max()) if batch else 0
    if not max_len:
        nothing = torch.zeros(batch, 0, device=device)
        return Decoded(tokens=nothing.long(), lens=lens, token_scores=nothing, totals=totals)
    return Decoded(
        tokens=torch.stack(tokens, 1)[:, :max_len],
        lens=lens,
        token_scores=torch.stack(scores, 1)[:, :max_len],
        totals=totals,
    )
