"""Minimum word error rate training for decoders that write all tokens at once.

A parallel decoder has no beam. Negative samples are made by masking: at random positions the best token is struck out
and the second best takes its place. The loss is the expected number of errors under the samples' renormalised
probabilities, against their mean.

Shapes: B utterances, R samples, U tokens, V vocabulary, M pairs of sequences.
Sources: Gao et al., "Paraformer", Interspeech 2022, section 2.4 (samples by masking); Prabhavalkar et al., "Minimum
Word Error Rate Training for Attention-based Sequence-to-Sequence Models", ICASSP 2018, section 3.2 (equation 6).
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def sample_hypotheses(log_probs: Tensor, num_samples: int, mask_prob: float) -> Tensor:
    """Return token ids (B, R, U): the best of ``log_probs`` (B, U, V), and R - 1 samples masked at random.

    A position is masked with probability ``mask_prob`` in each sample, and then holds its second best token.
    """
    best, second = log_probs.detach().topk(2, dim=2).indices.unbind(2)  # (B, U) each
    shape = (log_probs.size(0), num_samples, log_probs.size(1))
    masked = torch.rand(shape, device=log_probs.device) < mask_prob
    masked[:, 0] = False
    return second[:, None].where(masked, best[:, None])


def edit_distances(hyps: Tensor, hyp_lens: Tensor, refs: Tensor, ref_lens: Tensor) -> Tensor:
    """Return the Levenshtein distances (M,) between ``hyps`` (M, U) and ``refs`` (M, U'), whatever stands in padding.

    One step per hypothesis position for all pairs at once: within a row of the table, insertions are a running minimum.
    """
    columns = torch.arange(refs.size(1) + 1, device=refs.device)
    row = columns.expand(refs.size(0), -1)
    for position in range(hyps.size(1)):
        substituted = row[:, :-1] + (hyps[:, position : position + 1] != refs)
        kept = torch.minimum(row[:, 1:] + 1, substituted)
        reached = torch.cat([row[:, :1] + 1, kept], dim=1)
        reached = (reached - columns).cummin(1).values + columns
        row = reached.where((position < hyp_lens)[:, None], row)
    return row.gather(1, ref_lens[:, None]).squeeze(1)


def expected_errors(log_probs: Tensor, hyps: Tensor, refs: Tensor, lens: Tensor) -> Tensor:
    """Return the expected errors of ``hyps`` beyond their mean, (B,) float32; differentiable in ``log_probs``.

    Equation 6 of Prabhavalkar et al. 2018, with samples in place of the N best. Equal hypotheses count once.

    Args:
        log_probs: (B, U, V)
        hyps: (B, R, U)
        refs: (B, U) as long as the hypotheses; padding may hold anything.
        lens: (B,) tokens of both.
    """
    batch, num_samples, num_tokens = hyps.shape
    is_token = torch.arange(num_tokens, device=hyps.device) < lens[:, None]  # (B, U)
    same = ((hyps[:, :, None] == hyps[:, None]) | ~is_token[:, None, None]).all(3)  # (B, R, R)
    is_first = ~same.tril(-1).any(2)
    scores = log_probs.float()[:, None].expand(-1, num_samples, -1, -1).gather(3, hyps[..., None]).squeeze(3)
    scores = scores.masked_fill(~is_token[:, None], 0.0).sum(2)  # (B, R)
    share = F.softmax(scores.masked_fill(~is_first, -torch.inf), dim=1)
    errors = edit_distances(
        hyps.flatten(0, 1),
        lens.repeat_interleave(num_samples),
        refs.repeat_interleave(num_samples, dim=0),
        lens.repeat_interleave(num_samples),
    ).view(batch, num_samples)
    mean = (errors * is_first).sum(1, keepdim=True) / is_first.sum(1, keepdim=True)
    return (share * (errors - mean)).sum(1)
