"""The frames that belong to each token of an alignment: CASS-NAT's segments and trigger masks.

A token's segment ends on the frame that first emits it and begins behind the one before; what follows the last token
is the segment of the end of the sentence. U tokens thus cut an utterance into U + 1 *slots* that cover every frame.

Shapes: B utterances, T frames, U tokens.
Source: Fan et al., "CASS-NAT: CTC Alignment-based Single Step Non-Autoregressive Transformer for Speech Recognition",
ICASSP 2021, section 2.3; "An Improved Single Step Non-autoregressive Transformer for Automatic Speech Recognition",
Interspeech 2021, section 2.3 (expansion).
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from speechnar.decode.align import Alignment


@dataclass(frozen=True, kw_only=True)
class Segments:
    """Where the tokens of a frame path are emitted."""

    starts: Tensor
    """(B, U) frame that first emits each token; anything beyond ``token_lens``."""
    ends: Tensor
    """(B, U) frame after the last one that emits it; anything beyond ``token_lens``."""
    token_lens: Tensor
    """(B,) tokens; may be 0."""
    lens: Tensor
    """(B,) frames, at least 1."""

    @property
    def slot_lens(self) -> Tensor:
        """(B,) slots: the tokens and the end of the sentence."""
        return self.token_lens + 1

    def windows(self, *, left: int = 0, right: int = 0) -> tuple[Tensor, Tensor]:
        """Return the first frame of each slot and the frame after its last one, each (B, U + 1).

        Every window holds a frame. The end of the sentence has the last frame at least, even if that emits a token;
        slots beyond ``slot_lens``, and those of an impossible alignment, hold frames without meaning.

        Args:
            left: frames by which a segment grows into the past, within the utterance.
            right: frames by which it grows into the future.
        """
        last = self.lens[:, None] - 1
        is_token = torch.arange(self.starts.size(1), device=self.starts.device) < self.token_lens[:, None]
        emitted = self.starts.where(is_token, last)
        begins = F.pad(emitted + 1, (1, 0)).minimum(last)
        ends = (torch.cat([emitted, last], dim=1) + 1).maximum(begins + 1)
        return (begins - left).clamp(min=0), (ends + right).minimum(self.lens[:, None])

    def trigger_mask(self, num_frames: int, *, left: int = 0, right: int = 0) -> Tensor:
        """Return bool (B, U + 1, T): True where a slot may see a frame; every row sees one. As `windows`."""
        begins, ends = self.windows(left=left, right=right)
        frames = torch.arange(num_frames, device=begins.device)
        return (frames >= begins[..., None]) & (frames < ends[..., None])


def aligned_segments(alignment: Alignment, lens: Tensor) -> Segments:
    """Return the segments of a forced alignment over ``lens`` (B,) frames."""
    return Segments(
        starts=alignment.starts, ends=alignment.ends, token_lens=alignment.token_lens, lens=lens.to(alignment.labels)
    )


def path_segments(labels: Tensor, lens: Tensor, blank_id: int, *, max_tokens: int | None = None) -> Segments:
    """Return the segments of any frame path: ``labels`` (B, T), which may hold anything beyond ``lens`` (B,).

    ``max_tokens`` is U, at least what the path has; None finds it, which costs a sync.
    """
    num_frames = labels.size(1)
    lens = lens.to(labels)
    frames = torch.arange(num_frames, device=labels.device).expand_as(labels)
    path = labels.where(frames < lens[:, None], blank_id)
    changed = path[:, 1:] != path[:, :-1]
    is_token = path != blank_id
    is_start = is_token & F.pad(changed, (1, 0), value=True)
    is_end = is_token & F.pad(changed, (0, 1), value=True)
    order = is_start.cumsum(1)
    token_lens = order[:, -1]
    width = int(token_lens.max()) if max_tokens is None else max_tokens
    # Frames that emit nothing new go to a bin of their own behind the tokens.
    bins = labels.new_zeros(labels.size(0), width + 1)
    starts = bins.scatter(1, (order - 1).where(is_start, width), frames)
    ends = bins.scatter(1, (order - 1).where(is_end, width), frames + 1)
    return Segments(starts=starts[:, :width], ends=ends[:, :width], token_lens=token_lens, lens=lens)
