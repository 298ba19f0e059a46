"""What slots are compared with in training: the tokens of an alignment and the end of the sentence, label-smoothed.

Shapes: B utterances, N alignments of U + 1 slots, V vocabulary (blank included), U tokens.
Sources: Fan et al., "A CTC Alignment-based Non-autoregressive Transformer for End-to-end Automatic Speech Recognition",
TASLP 2023, section III-B1; Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016,
section 7.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from speechnar.decode.align import Alignment
from speechnar.nn.lengths import valid_mask


@dataclass(frozen=True, kw_only=True)
class SlotOutput:
    """What the decoder says about the slots of N alignments."""

    log_probs: Tensor
    """(N, U + 1, V) float32."""
    lens: Tensor
    """(N,) slots: tokens and the end of the sentence."""
    inter_log_probs: Tensor | None = None
    """The same of the intermediate head, if there is one."""


@dataclass(frozen=True, kw_only=True)
class SlotLosses:
    """Divergences from the smoothed targets, each (B,), summed over the slots of an utterance; 0 where impossible."""

    ce: Tensor
    inter_ce: Tensor | None
    """None without an intermediate head."""
    slot_lens: Tensor
    """(B,) slots that were counted."""
    possible: Tensor
    """(B,) bool: False where the frames cannot hold the tokens."""

    def per_slot(self, losses: Tensor, is_valid: Tensor) -> Tensor:
        """Return the sum of ``losses`` (B,) of the utterances where ``is_valid`` (B,), over their slots."""
        return (losses * is_valid).sum() / (self.slot_lens * is_valid).sum().clamp(min=1)


def slot_losses(out: SlotOutput, alignment: Alignment, *, eos_id: int, smoothing: float) -> SlotLosses:
    """Compare the slots of an ``alignment`` with its tokens and the end of the sentence.

    The second term of equation 7 of Fan et al. 2023; the first is CTC's.
    """
    ends = alignment.tokens.new_full((len(alignment.tokens), 1), eos_id)
    targets = torch.cat([alignment.tokens, ends], dim=1)
    is_end = torch.arange(targets.size(1), device=targets.device) >= alignment.token_lens[:, None]
    targets = targets.masked_fill(is_end, eos_id)
    slot_lens = out.lens.where(alignment.possible, 0)
    counted = valid_mask(slot_lens, targets.size(1))
    inter_ce: Tensor | None = None
    if out.inter_log_probs is not None:
        inter_ce = smoothed_divergence(out.inter_log_probs, targets, counted, smoothing)
    return SlotLosses(
        ce=smoothed_divergence(out.log_probs, targets, counted, smoothing),
        inter_ce=inter_ce,
        slot_lens=slot_lens,
        possible=alignment.possible,
    )


def smoothed_divergence(log_probs: Tensor, targets: Tensor, counted: Tensor, smoothing: float) -> Tensor:
    """Return the divergence of ``log_probs`` (B, N, V) from smoothed one-hot targets, in nats per utterance (B,).

    A target has probability 1 - ``smoothing``; the other V - 1 tokens share the rest (Szegedy et al. 2016, section 7,
    with a uniform prior over the wrong classes). Only positions where ``counted`` (B, N) add up.
    """
    hit = -log_probs.gather(2, targets[..., None]).squeeze(2)
    divergence = hit
    if smoothing > 0:
        others = log_probs.size(2) - 1
        miss = -log_probs.sum(2) - hit
        entropy = -(1 - smoothing) * math.log(1 - smoothing) - smoothing * math.log(smoothing / others)
        divergence = (1 - smoothing) * hit + smoothing / others * miss - entropy
    return divergence.where(counted, 0.0).sum(1)
