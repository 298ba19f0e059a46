"""Speech as the generator of speech sees it: text, latents, and where in the text each latent is spoken.

Text token i stands at position i; latents stand between the tokens, at real-valued positions on the same axis.

Shapes: B utterances, U text tokens, T latents, C latent channels.
Source: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024 (ARDiT), section 3.4
(positions proportional to time). Positions by alignment are ours: few data teach a model little about which latent
belongs to which token.
"""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from speechnar.errors import DataError


@dataclass(frozen=True, kw_only=True)
class LatentBatch:
    """Padded utterances; padding may hold anything."""

    tokens: Tensor
    """(B, U) int64 ids of the text, at least one in each utterance."""
    token_lens: Tensor
    """(B,)"""
    latents: Tensor
    """(B, T, C) float32 of zero mean and unit variance in each channel; noise of variance 1 is mixed with them."""
    latent_lens: Tensor
    """(B,) at least 1."""
    positions: Tensor
    """(B, T) float32, from `linear_positions` or `aligned_positions`."""
    weights: Tensor | None = None
    """(C,) of mean 1, how much an error in each channel counts; None: all alike."""

    def to(self, device: torch.device | str) -> "LatentBatch":
        """Return the batch on ``device``."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: tensor.to(device) for name, tensor in tensors.items() if tensor is not None}
        return replace(self, **moved)

    def weigh(self, squares: Tensor) -> Tensor:
        """Return the squared errors (..., C), each as much as it counts."""
        return squares if self.weights is None else squares * self.weights


def linear_positions(token_lens: Tensor, latent_lens: Tensor) -> Tensor:
    """Return the positions (B, T) of latents that pass through the text at an even speed: i U / T (the paper's)."""
    steps = torch.arange(int(latent_lens.max()), device=latent_lens.device, dtype=torch.float32)
    return steps * (token_lens / latent_lens)[:, None]


def aligned_positions(durations: Tensor, token_lens: Tensor, latent_lens: Tensor) -> Tensor:
    """Return positions (B, T) in [u, u + 1) for the latents spoken during token u, by how far the token is through.

    Args:
        durations: (B, U) of each token, in latents or any other unit: they are scaled to fill the utterance. Tokens
            that last 0 have no latent; padding may hold anything.
        token_lens: (B,)
        latent_lens: (B,)

    Raises:
        DataError: a duration is negative or not finite, or an utterance has none above 0.
    """
    durations = durations.double()
    steps = torch.arange(durations.size(1), device=durations.device)
    durations = durations.masked_fill(steps >= token_lens[:, None], 0.0)
    totals = durations.sum(1, keepdim=True)
    if not bool(((durations >= 0).all(1) & (totals[:, 0] > 0) & totals[:, 0].isfinite()).all()):
        raise DataError("durations must be finite and at least 0, and above 0 for one token of each utterance or more")
    ends = durations.cumsum(1) * (latent_lens[:, None] / totals)
    starts = torch.nn.functional.pad(ends[:, :-1], (1, 0))
    centres = torch.arange(int(latent_lens.max()), device=durations.device, dtype=torch.float64) + 0.5
    active = torch.searchsorted(ends, centres.repeat(len(ends), 1), right=True).minimum(token_lens[:, None] - 1)
    start, end = starts.gather(1, active), ends.gather(1, active)
    passed = (centres - start) / (end - start)
    return (active + passed).float()
