"""What an encoder block knows about its input besides the frames: validity, visibility, positions, memory, caches.

Shapes: B utterances, T frames of this call, L frames cached before them, D model width, M prompt tokens.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from speechnar.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """Limited context: a frame sees its own chunk and ``left_chunks`` chunks before it, never a later one.

    Convolutions see the past and their own chunk only, so that a chunk never changes once computed
    (Dynamic Chunk Convolution: Li et al., "Dynamic Chunk Convolution for Unified Streaming and
    Non-Streaming Conformer ASR", ICASSP 2023, section 2.3).
    """

    chunk_frames: int
    """Encoder frames (after subsampling, prefix positions counted) in one chunk."""
    left_chunks: int | None = None
    """Chunks of left context in attention; None sees the whole past."""

    def __post_init__(self) -> None:
        if self.chunk_frames < 1:
            raise ConfigError(f"chunk_frames must be at least 1, got {self.chunk_frames}")
        if self.left_chunks is not None and self.left_chunks < 0:
            raise ConfigError(f"left_chunks must be at least 0 or None, got {self.left_chunks}")

    def visible(self, num_frames: int, device: torch.device) -> Tensor:
        """Return bool (T, T): True where query frame i may see key frame j."""
        chunk = torch.arange(num_frames, device=device) // self.chunk_frames
        age = chunk[:, None] - chunk[None, :]
        limit = num_frames if self.left_chunks is None else self.left_chunks
        return (age >= 0) & (age <= limit)


@dataclass
class LayerCache:
    """What one block keeps of the chunks before this one; empty before the first."""

    keys: Tensor | None = None
    """(B, H, L, D / H)"""
    values: Tensor | None = None
    """(B, H, L, D / H)"""
    conv: dict[str, Tensor] = field(default_factory=dict)
    """Left context of each depthwise convolution by its name, (B, K // 2, C)."""


@dataclass(frozen=True, kw_only=True)
class BlockContext:
    """Handed to every block of one encoder call."""

    valid: Tensor
    """bool (B, T); convolutions zero what is not valid before they look at it."""
    attn_mask: Tensor | None
    """bool (B, 1, 1 or T, L + T), True = may be seen; None when everything may."""
    positions: Tensor | None = None
    """Sinusoids (1, L + 2T - 1, D) of the distances for relative positions, their table (2M + 1, D) for clipped and
    (T, D) for legacy ones, angles (T, D / H) for rotary ones."""
    memory: Tensor | None = None
    """Prompt memory for cross-attention (B, M, D)."""
    memory_mask: Tensor | None = None
    """bool (B, 1, 1, M)"""
    chunking: Chunking | None = None
    cache: LayerCache | None = None
    """Set only while streaming; blocks update it in place."""
    leaky_padding: bool = False
    """Reproduce reference implementations whose convolutions see padding (parity tests only)."""
