"""Sinusoidal positions in three uses: added to the input, as a table of distances, and as rotations.

Shapes: B utterances, T frames, D model width, H heads.
Sources: Vaswani et al. 2017, section 3.5 (sinusoids, sine and cosine interleaved); Dai et al., "Transformer-XL",
2019, section 3.3 (distances); Su et al., "RoFormer", 2021, equation 34 (rotations).
"""

import torch
from torch import Tensor

MAX_DISTANCE = 10_000
"""Of tables of relative positions, beyond which a configuration is an attack: theirs is 20."""


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Map ``positions`` (N,) of any sign, integer or real, to float32 (N, D): sine at even, cosine at odd channels."""
    rates = torch.exp(
        torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) * (-9.210340371976184 / dim)
    )
    angles = positions.to(torch.float32)[:, None] * rates  # ln(10000) = 9.2103...
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def distance_sinusoids(num_queries: int, num_keys: int, dim: int, device: torch.device) -> Tensor:
    """Return (1, num_queries + num_keys - 1, D): distances from ``num_keys - 1`` down to ``1 - num_queries``.

    The queries are the last ``num_queries`` of the keys; distance = query position - key position.
    """
    distances = torch.arange(num_keys - 1, -num_queries, -1, device=device)
    return sinusoids(distances, dim)[None]


def rotary_angles(first: int, num_frames: int, head_dim: int, device: torch.device) -> Tensor:
    """Return the angles (T, head_dim) of positions ``first`` to ``first + T - 1``, each twice, for `rotate`."""
    return rotary_angles_at(torch.arange(first, first + num_frames, device=device), head_dim)


def rotary_angles_at(positions: Tensor, head_dim: int) -> Tensor:
    """Return the float32 angles (..., head_dim) of ``positions`` (...), which may be any real numbers."""
    rates = 10000.0 ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)
    angles = positions.to(torch.float32)[..., None] * rates
    return torch.cat([angles, angles], dim=-1)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate each pair (i, i + head_dim / 2) of ``x`` (B, H, T, head_dim) by ``angles`` (T, head_dim) or alike.

    RoFormer, equation 34, where the pairs are (2 i, 2 i + 1).
    """
    first, second = x.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return (x * angles.cos() + turned * angles.sin()).to(x.dtype)
