"""Error-based sampling alignment: other segmentations of an utterance where its CTC posteriors are unsure.

CASS-NAT's errors come from alignments with a token too many or too few. So frames whose best label is not certain take
their second best half of the time; every path drawn is cut into segments, all are decoded, and the best text is kept.

Shapes: B utterances, T frames, V vocabulary (blank included), S samples of an utterance, N different segmentations of
all utterances, U tokens, and U + 1 slots (see `speechnar.decode.segments`).
Source: Fan et al., "CASS-NAT: CTC Alignment-based Single Step Non-Autoregressive Transformer for Speech Recognition",
ICASSP 2021, section 2.6; Graves et al. 2006, section 4.1, for the likelihood.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from speechnar.decode.align import CtcPath
from speechnar.decode.segments import Segments, path_segments
from speechnar.errors import ConfigError

DEFAULT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class SampledSegments:
    """The different segmentations among the samples of B utterances."""

    segments: Segments
    """Of N rows: those of the first utterance, of the second, and so on, each beginning with the best path."""
    utterance_index: Tensor
    """(N,) int64, never falling: the utterance of each row."""


def sample_segments(
    log_probs: Tensor,
    lens: Tensor,
    blank_id: int,
    *,
    num_alignments: int,
    num_kept: int | None = None,
    threshold: float = 0.9,
    generator: torch.Generator | None = None,
) -> SampledSegments:
    """Draw ``num_alignments`` paths per utterance of ``log_probs`` (B, T, V), and keep one of each segmentation.

    The first path is the best one. In the others, every frame whose best probability is below ``threshold`` takes its
    best or its second best label, with even chances. What is drawn for a frame is the same for all utterances of a
    batch, so that an utterance is decoded as it would be alone. Frames beyond ``lens`` (B,) may hold anything.

    Args:
        log_probs: float, CTC log-probabilities.
        lens: frames, at least 1 each.
        blank_id: id of the CTC blank.
        num_alignments: paths per utterance, the best one included.
        num_kept: segmentations kept per utterance, those with the most probable paths (ours: on a CPU each one costs
            as much as the first); None keeps all that were drawn.
        threshold: probability at which a frame is certain.
        generator: of a CPU; None draws the same every time.

    Raises:
        ConfigError: ``num_alignments`` is below 1, or ``threshold`` outside [0, 1].
    """
    if min(num_alignments, 1 if num_kept is None else num_kept) < 1 or not 0 <= threshold <= 1:
        raise ConfigError(
            "sampling needs num_alignments >= 1, num_kept >= 1 and threshold in [0, 1], "
            f"got {num_alignments}, {num_kept} and {threshold}"
        )
    batch, num_frames, _ = log_probs.shape
    if num_alignments == 1:
        segments = path_segments(log_probs.argmax(-1), lens, blank_id)
        return SampledSegments(segments=segments, utterance_index=torch.arange(batch, device=log_probs.device))
    if generator is None:
        generator = torch.Generator().manual_seed(DEFAULT_SEED)
    scores, labels = log_probs.topk(2, dim=-1)
    # Frame by frame, so that a longer batch draws the same for the frames of a shorter one.
    drawn = torch.rand(num_frames, num_alignments - 1, generator=generator).to(scores.device) < 0.5
    swapped = F.pad(drawn, (1, 0)).T & (scores[..., :1].transpose(1, 2).exp() < threshold)  # (B, S, T)
    paths = labels[:, None, :, 1].where(swapped, labels[:, None, :, 0])
    utterance_index, sample = _different(paths, lens, blank_id)
    if num_kept is not None:
        is_frame = torch.arange(num_frames, device=paths.device) < lens.to(paths.device)[:, None]
        lost = (scores[..., 0] - scores[..., 1]).where(is_frame, 0.0)  # (B, T) nats, by taking the second best
        losses = (swapped * lost[:, None]).sum(2)[utterance_index, sample]
        kept = _least(losses, utterance_index, num_kept)
        utterance_index, sample = utterance_index[kept], sample[kept]
    segments = path_segments(paths[utterance_index, sample], lens.to(paths.device)[utterance_index], blank_id)
    return SampledSegments(segments=segments, utterance_index=utterance_index)


def _different(paths: Tensor, lens: Tensor, blank_id: int) -> tuple[Tensor, Tensor]:
    """Return utterance and sample (both (N,)) of the first path (B, S, T) of each segmentation, in order.

    Segments depend on nothing but the frames at which a new token begins.
    """
    batch, num_alignments, num_frames = paths.shape
    valid = torch.arange(num_frames, device=paths.device) < lens.to(paths.device)[:, None, None]
    begins = (paths != blank_id) & F.pad(paths[..., 1:] != paths[..., :-1], (1, 0), value=True) & valid
    utterances = torch.arange(batch, device=paths.device)[:, None, None].expand(-1, num_alignments, 1)
    keys = torch.cat([utterances, begins.to(utterances.dtype)], dim=2).flatten(0, 1)
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    rows = torch.arange(len(group), device=group.device)
    first = torch.full_like(group, len(group)).scatter_reduce(0, group, rows, "amin")
    kept = (first[group] == rows).nonzero().squeeze(1)
    return kept // num_alignments, kept % num_alignments


def _least(losses: Tensor, utterance_index: Tensor, num_kept: int) -> Tensor:
    """Return the rows (N',), in order, of the ``num_kept`` least of ``losses`` (N,) of each utterance."""
    order = losses.argsort(stable=True)
    order = order[utterance_index[order].argsort(stable=True)]
    counts = utterance_index.bincount()
    rank = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[utterance_index[order]]
    return order[rank < num_kept].sort().values


def ctc_log_likelihood(
    log_probs: Tensor,
    lens: Tensor,
    tokens: Tensor,
    token_lens: Tensor,
    *,
    utterance_index: Tensor,
    blank_id: int,
) -> Tensor:
    """Return log p_ctc(tokens) of N candidates, summed over alignments, (N,) float32 nats; ``-inf`` where none exists.

    Candidates look up their own labels only, so the cost does not depend on V.

    Args:
        log_probs: (B, T, V) of all utterances.
        lens: (B,) frames.
        tokens: (N, U) without blank; padding may hold anything.
        token_lens: (N,)
        utterance_index: (N,) the utterance of each candidate.
        blank_id: id of the CTC blank.
    """
    is_token = torch.arange(tokens.size(1), device=tokens.device) < token_lens[:, None]
    tokens = tokens.where(is_token, blank_id)
    columns = F.pad(tokens, (1, 0), value=blank_id)  # (N, U + 1), blank first
    frames = torch.arange(log_probs.size(1), device=log_probs.device)
    picked = log_probs[utterance_index[:, None, None], frames[None, :, None], columns[:, None, :]].float()
    lens = lens.to(log_probs.device)[utterance_index]
    picked = picked.masked_fill((frames >= lens[:, None])[..., None], 0.0)  # never read, but NaN would spread
    # A repeated token is one label: that of its first column.
    labels = (columns[:, :, None] == columns[:, None, :]).int().argmax(2)[:, 1:]
    losses = F.ctc_loss(picked.transpose(0, 1), labels, lens, token_lens, blank=0, reduction="none")
    return -losses


@dataclass(frozen=True, kw_only=True)
class NamedSlots:
    """The slots of N alignments with a token each; (N, U + 1) unless said."""

    tokens: Tensor
    token_lens: Tensor
    """(N,) slots before the first end of the sentence; all of them, where none is the end."""
    starts: Tensor
    """First of the frames that emit the CTC label of the slot; for the last slot, of those behind the last token."""
    ends: Tensor
    """Frame after the last of them."""
    scores: Tensor
    """Log-probability of each token, nats."""
    totals: Tensor
    """(N,) log-probability of the tokens and of the end, nats."""

    def at(self, rows: Tensor) -> "NamedSlots":
        """Return the alignments ``rows``."""
        return replace(self, **{name: column[rows] for name, column in vars(self).items()})

    def texts(self, utterance_index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the M different texts of the utterances, since many alignments name the same tokens.

        Returns:
            utterance_index (M,), tokens (M, U), token_lens (M,), and the text of each alignment (N,).
        """
        is_token = torch.arange(self.tokens.size(1), device=self.tokens.device) < self.token_lens[:, None]
        columns = [utterance_index[:, None], self.token_lens[:, None], self.tokens.where(is_token, 0)]
        keys, text = torch.unique(torch.cat(columns, dim=1), dim=0, return_inverse=True)
        return keys[:, 0], keys[:, 2:], keys[:, 1], text

    def paths(self) -> list[CtcPath]:
        """Return one path per alignment."""
        columns = (self.tokens, self.starts, self.ends, self.scores)
        rows = zip(
            self.token_lens.tolist(), *(column.tolist() for column in columns), self.totals.tolist(), strict=True
        )
        return [CtcPath(ids[:n], first[:n], end[:n], score[:n], total) for n, ids, first, end, score, total in rows]


def best_tokens(log_probs: Tensor, never: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
    """Return the best token of every slot of ``log_probs`` (N, U + 1, V), one that may be chosen, and its score."""
    forbidden = torch.tensor(list(never), dtype=torch.long, device=log_probs.device)
    is_never = torch.zeros(log_probs.size(2), dtype=torch.bool, device=log_probs.device).index_fill(0, forbidden, True)
    scores, tokens = log_probs.masked_fill(is_never, -torch.inf).max(-1)
    return tokens, scores


def name_slots(tokens: Tensor, scores: Tensor, segments: Segments, *, eos_id: int) -> NamedSlots:
    """Cut the best ``tokens`` (N, U + 1) of ``segments`` at the first end of the sentence."""
    slots = torch.arange(tokens.size(1), device=tokens.device)
    is_slot = slots < segments.slot_lens[:, None]
    token_lens = slots.where((tokens == eos_id) | ~is_slot, tokens.size(1)).amin(1)
    begins, ends = segments.windows()
    last = segments.token_lens[:, None]
    is_token = slots < last
    return NamedSlots(
        tokens=tokens,
        token_lens=token_lens,
        starts=F.pad(segments.starts, (0, 1)).where(is_token, begins.gather(1, last)),
        ends=F.pad(segments.ends, (0, 1)).where(is_token, ends.gather(1, last)),
        scores=scores,
        totals=scores.where(is_slot & (slots <= token_lens[:, None]), 0.0).sum(1),
    )


def best_rows(scores: Tensor, utterance_index: Tensor, num_utterances: int) -> Tensor:
    """Return the row of the best of N scores for each utterance (B,): the first of equals; NaN counts as ``-inf``."""
    scores = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    best = scores.new_full((num_utterances,), -torch.inf).scatter_reduce(0, utterance_index, scores, "amax")
    rows = torch.arange(len(scores), device=scores.device).where(scores == best[utterance_index], len(scores))
    return rows.new_full((num_utterances,), len(scores)).scatter_reduce(0, utterance_index, rows, "amin")
