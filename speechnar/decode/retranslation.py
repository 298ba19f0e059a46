"""Autoregressive search that prefers to repeat what it said before.

Shapes: B sentences, N hypotheses of all of them (equally many of each, side by side), P previous tokens, V vocabulary.
Source: Arivazhagan et al., "Re-translation Strategies for Long Form, Simultaneous, Spoken Language Translation",
ICASSP 2020, section 3.1 (biased beam search), which interpolates the model's distribution with the previous output
until a hypothesis leaves it. The reward for every token is that of He et al., "Improved Neural Machine Translation
with SMT Features", AAAI 2016: sums of log-probabilities favour short texts.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speechnar.decode.autoregressive import Step
from speechnar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Previous:
    """What was said before, and how much it counts."""

    tokens: Tensor
    """(B, P) int64; padding may hold anything."""
    lens: Tensor
    """(B,)"""
    bias: float
    """Weight of the previous token in the next one's distribution, in [0, 1)."""


@dataclass(frozen=True, kw_only=True)
class EditBias:
    """Against edits of what was shown before: costs, in nats, of those more than ``margin`` before its end."""

    delete: float = 0.0
    insert: float = 0.0
    margin: int = 0


class BiasedStep:
    """A `Step` whose distributions lean to the previous output while a hypothesis repeats it.

    Args:
        step: the model.
        eos_id: ends a hypothesis, and gets no reward.
        previous: None leans nowhere.
        token_reward: nats for each token.

    Raises:
        ConfigError: the bias is not in [0, 1).
    """

    def __init__(self, step: Step, *, eos_id: int, previous: Previous | None = None, token_reward: float = 0.0) -> None:
        if previous is not None and not 0 <= previous.bias < 1:
            raise ConfigError(f"bias must lie in [0, 1), got {previous.bias}")
        self._step = step
        self._eos_id = eos_id
        self._previous = previous if previous is not None and previous.bias > 0 else None
        self._reward = token_reward
        self._num_tokens = 0
        self._follows: Tensor | None = None

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """Return biased and rewarded log-probabilities (N, V) of what follows ``tokens`` (N,)."""
        log_probs = self._step(tokens, rows)
        if self._previous is not None:
            log_probs = self._lean(log_probs, tokens, rows, self._previous)
        self._num_tokens += 1
        if self._reward:
            reward = torch.full_like(log_probs[:1], self._reward)
            reward[:, self._eos_id] = 0.0
            log_probs = log_probs + reward
        return log_probs

    def _lean(self, log_probs: Tensor, tokens: Tensor, rows: Tensor | None, previous: Previous) -> Tensor:
        copies = len(tokens) // len(previous.lens)
        place = self._num_tokens
        if self._follows is None:
            self._follows = torch.ones_like(tokens, dtype=torch.bool)
        elif rows is not None:
            self._follows = self._follows[rows]
        lens = previous.lens.repeat_interleave(copies)
        if place > 0:
            said = previous.tokens[:, min(place, previous.tokens.size(1)) - 1].repeat_interleave(copies)
            self._follows = self._follows & (tokens == said)
        self._follows = self._follows & (place < lens)
        if place >= previous.tokens.size(1):
            return log_probs
        wanted = previous.tokens[:, place].repeat_interleave(copies).where(self._follows, 0)[:, None]
        leaning = log_probs + math.log1p(-previous.bias)
        gained = torch.logaddexp(leaning.gather(1, wanted), leaning.new_tensor(math.log(previous.bias)))
        return leaning.scatter(1, wanted, gained).where(self._follows[:, None], log_probs)
