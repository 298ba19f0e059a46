"""Lengths and validity masks: the only two forms in which padding is described.

Shapes: B utterances, T frames.
"""

import torch
from torch import Tensor


def valid_mask(lens: Tensor, max_len: int) -> Tensor:
    """Return bool (B, T): True where frame t of utterance b is real, that is ``t < lens[b]``."""
    return torch.arange(max_len, device=lens.device) < lens[:, None]


def longest(lens: Tensor, *, least: int = 0) -> int:
    """Return the largest of ``lens`` (B,), or ``least`` if that is more.

    A graph that is exported computes it as the size of what follows, which is at least 2: sizes of 1 are special.
    """
    least = 2 if torch.compiler.is_exporting() else least
    size: int = lens.max().clamp(min=least).item()  # type: ignore[assignment]  # of integers, one
    torch._check(size >= least)  # type: ignore[no-untyped-call]  # torch's
    return size


def key_mask(valid: Tensor) -> Tensor | None:
    """Return ``valid`` (B, T) as what attention may see (B, 1, 1, T), or None where that is everything.

    None lets SDPA take its fastest path. A graph that is exported cannot choose, and always has the mask.
    """
    if not torch.compiler.is_exporting() and bool(valid.all()):
        return None
    return valid[:, None, None, :]


def zero_padding(x: Tensor, valid: Tensor) -> Tensor:
    """Return ``x`` (B, T, ...) with zeros where ``valid`` (B, T) is False, whatever stood there, NaN included.

    It may be ``x`` itself where nothing is padding.
    """
    if x.device.type != "cpu" or torch.compiler.is_exporting() or valid.shape != x.shape[:2]:
        return x.masked_fill(~valid.view(*valid.shape, *[1] * (x.dim() - 2)), 0.0)
    # On a CPU a mask that is spread over rows takes as long as a dozen additions; rows are filled in no time.
    padding = (~valid).flatten().nonzero().squeeze(1)
    return x.flatten(0, 1).index_fill(0, padding, 0.0).view(x.shape) if len(padding) else x
