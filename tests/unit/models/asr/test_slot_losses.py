"""What slots are compared with in training."""

import math

import pytest
import torch
from torch.nn import functional as F

from speechnar.decode.align import viterbi_align
from speechnar.models.asr.slot_losses import SlotOutput, slot_losses, smoothed_divergence


def test_smoothed_divergence_equals_the_divergence_written_out():
    torch.manual_seed(0)
    log_probs = torch.randn(2, 3, 5).log_softmax(-1)
    targets, counted = torch.randint(0, 5, (2, 3)), torch.tensor([[True, True, False], [True, True, True]])
    smooth = torch.full((2, 3, 5), 0.1 / 4).scatter(2, targets[..., None], 0.9)
    expected = (F.kl_div(log_probs, smooth, reduction="none").sum(-1) * counted).sum(1)
    torch.testing.assert_close(smoothed_divergence(log_probs, targets, counted, 0.1), expected)
    nll = F.nll_loss(log_probs.transpose(1, 2), targets, reduction="none")
    torch.testing.assert_close(smoothed_divergence(log_probs, targets, counted, 0.0), (nll * counted).sum(1))
    perfect = smooth.log()
    torch.testing.assert_close(smoothed_divergence(perfect, targets, counted, 0.1), torch.zeros(2), atol=1e-6, rtol=0)
    assert math.isfinite(float(smoothed_divergence(log_probs, targets, counted, 0.1).sum()))


def test_slots_are_compared_with_the_tokens_and_the_end_where_the_frames_can_hold_them():
    torch.manual_seed(0)
    tokens, token_lens = torch.tensor([[1, 2], [3, 9], [1, 1]]), torch.tensor([2, 1, 2])
    # Two equal tokens need three frames.
    alignment = viterbi_align(torch.randn(3, 5, 5).log_softmax(-1), torch.tensor([5, 4, 2]), tokens, token_lens, 0)
    assert alignment.possible.tolist() == [True, True, False]
    log_probs = torch.randn(3, 3, 5).log_softmax(-1)
    out = SlotOutput(log_probs=log_probs, lens=token_lens + 1)
    found = slot_losses(out, alignment, eos_id=4, smoothing=0.0)
    first, second = (-log_probs[row, range(len(slots)), slots].sum() for row, slots in enumerate([(1, 2, 4), (3, 4)]))
    torch.testing.assert_close(found.ce, torch.stack([first, second, torch.tensor(0.0)]))
    assert found.inter_ce is None
    assert found.slot_lens.tolist() == [3, 2, 0]
    per_slot = found.per_slot(found.ce, torch.tensor([True, False, True]))
    assert float(per_slot) == pytest.approx(float(first) / 3)
    assert float(found.per_slot(found.ce, torch.zeros(3, dtype=torch.bool))) == 0
    out = SlotOutput(log_probs=log_probs, lens=token_lens + 1, inter_log_probs=log_probs)
    twice = slot_losses(out, alignment, eos_id=4, smoothing=0.1)
    torch.testing.assert_close(twice.inter_ce, twice.ce)
