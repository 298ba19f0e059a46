"""Forced alignment on the CTC lattice, and the token and word times that come out of a frame path.

Shapes: B utterances, T frames, V vocabulary (blank included), U tokens, S = 2U + 1 lattice states (a blank before,
between and after the tokens).
Source: Graves et al., "Connectionist Temporal Classification", ICML 2006, section 4.1 with max in place of sum;
Kürzinger et al., "CTC-Segmentation of Large Corpora", SPECOM 2020, for using the path as word times.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from speechnar.errors import ConfigError, ShapeError

WORD_START = "▁"


@dataclass(frozen=True)
class CtcPath:
    """Tokens of one utterance with the frames they occupy."""

    tokens: list[int]
    starts: list[int]
    """First frame of each token."""
    ends: list[int]
    """Frame after the last one of each token."""
    scores: list[float]
    """Mean log-probability over the frames of each token, in nats."""
    total: float
    """Log-probability of the whole frame path, blanks included, in nats."""


def join_paths(paths: Sequence[CtcPath]) -> CtcPath:
    """Return consecutive pieces of a path, whose frames count from the same one, as one path, which may be empty."""
    return CtcPath(
        tokens=[token for path in paths for token in path.tokens],
        starts=[start for path in paths for start in path.starts],
        ends=[end for path in paths for end in path.ends],
        scores=[score for path in paths for score in path.scores],
        total=sum(path.total for path in paths),
    )


@dataclass(frozen=True)
class Alignment:
    """Best frame path of each utterance through its token sequence."""

    labels: Tensor
    """Token id of every frame (B, T); blank in padding and in impossible utterances."""
    tokens: Tensor
    """The aligned ids (B, U), blank in padding."""
    token_lens: Tensor
    """(B,)"""
    starts: Tensor
    """First frame of each token (B, U); 0 in padding and in impossible utterances."""
    ends: Tensor
    """Frame after the last one of each token (B, U); likewise."""
    token_scores: Tensor
    """Mean log-probability over the frames of each token (B, U), nats; ``-inf`` where there is no token."""
    scores: Tensor
    """Log-probability of the whole path (B,), nats; ``-inf`` where no path exists."""
    possible: Tensor
    """(B,) bool: False where T frames cannot hold U tokens with a blank inside each repeat."""

    def paths(self) -> list[CtcPath]:
        """Return one path per utterance; an impossible one has no tokens and a total of ``-inf``."""
        lens = self.token_lens.where(self.possible, 0).tolist()
        columns = (self.tokens, self.starts, self.ends, self.token_scores)
        rows = zip(lens, *(column.tolist() for column in columns), self.scores.tolist(), strict=True)
        return [
            CtcPath(ids[:n], starts[:n], ends[:n], scores[:n], total) for n, ids, starts, ends, scores, total in rows
        ]


@dataclass(frozen=True)
class WordSpan:
    """One word with its time in the recording and the geometric mean of its token probabilities."""

    word: str
    start_s: float
    end_s: float
    probability: float


def viterbi_align(log_probs: Tensor, lens: Tensor, tokens: Tensor, token_lens: Tensor, blank_id: int) -> Alignment:
    """Align ``tokens`` (B, U) to ``log_probs`` (B, T, V); both paddings may hold anything, NaN included.

    Runs T small steps forward and T back for the whole batch, on the device of ``log_probs``, without a host sync;
    memory is a few times that of B * T * S scores. On equal scores staying wins over moving on, and ending on a token
    over ending on blank.

    Raises:
        ShapeError: the four tensors do not fit each other.
    """
    _check_shapes(log_probs, lens, tokens, token_lens)
    log_probs = log_probs.detach()
    if not log_probs.dtype.is_floating_point or log_probs.dtype in (torch.float16, torch.bfloat16):
        log_probs = log_probs.float()
    device = log_probs.device
    lens, token_lens = lens.to(device), token_lens.to(device)
    is_token = torch.arange(tokens.size(1), device=device) < token_lens[:, None]
    tokens = tokens.to(device=device, dtype=torch.long).where(is_token, blank_id)
    states = _interleave_blanks(tokens, blank_id)

    alphas, steps = _forward(log_probs, lens, states, blank_id)
    last_blank = 2 * token_lens[:, None].long()
    last_token = (last_blank - 1).clamp(min=0)  # without tokens both are the only blank
    blank_score, token_score = alphas.gather(1, last_blank), alphas.gather(1, last_token)
    state = last_blank.where(blank_score > token_score, last_token)
    scores = alphas.gather(1, state).squeeze(1)
    possible = scores > -torch.inf  # False for NaN too

    path = _trace_back(state, steps)  # (B, T)
    in_path = (torch.arange(log_probs.size(1), device=device) < lens[:, None]) & possible[:, None]
    labels = states.gather(1, path).where(in_path, blank_id)
    position = (path // 2).where(in_path & (path % 2 == 1), tokens.size(1))  # blanks go to a bin of their own
    frame_scores = log_probs.gather(2, labels[..., None]).squeeze(2)
    starts, ends, token_scores = _token_spans(position, frame_scores, num_tokens=tokens.size(1))
    return Alignment(
        labels=labels,
        tokens=tokens,
        token_lens=token_lens,
        starts=starts,
        ends=ends,
        token_scores=token_scores,
        scores=scores.where(possible, -torch.inf),
        possible=possible,
    )


def _check_shapes(log_probs: Tensor, lens: Tensor, tokens: Tensor, token_lens: Tensor) -> None:
    batch = log_probs.size(0)
    fits = log_probs.ndim == 3 and tokens.ndim == 2 and {len(lens), len(tokens), len(token_lens)} == {batch}
    if not fits or lens.ndim != 1 or token_lens.ndim != 1:
        raise ShapeError(
            "alignment needs log_probs (B, T, V), lens (B,), tokens (B, U), token_lens (B,), got "
            f"{tuple(log_probs.shape)}, {tuple(lens.shape)}, {tuple(tokens.shape)}, {tuple(token_lens.shape)}"
        )


def _interleave_blanks(tokens: Tensor, blank_id: int) -> Tensor:
    states = tokens.new_full((tokens.size(0), 2 * tokens.size(1) + 1), blank_id)
    states[:, 1::2] = tokens
    return states


def _forward(log_probs: Tensor, lens: Tensor, states: Tensor, blank_id: int) -> tuple[Tensor, Tensor]:
    """Return the best score of ending in each state (B, S) and the step (0, 1, 2) that led there (T, B, S)."""
    (batch, num_frames, _), num_states, device = log_probs.shape, states.size(1), states.device
    can_skip = (states != blank_id) & (states != F.pad(states, (2, 0), value=blank_id)[:, :-2])
    skip = log_probs.new_zeros(states.shape).masked_fill(~can_skip, -torch.inf)
    emitted = log_probs.gather(2, states[:, None].expand(-1, num_frames, -1))
    # Two states that are never reached come first, so that the places of both steps are views.
    scores = log_probs.new_full((num_frames + 1, batch, num_states + 2), -torch.inf)
    scores[0, :, 2] = 0.0  # before the first frame: from here frame 0 reaches the first blank or the first token
    _accumulate(scores, skip, emitted.transpose(0, 1))
    stay, one, two = scores[:-1, :, 2:], scores[:-1, :, 1:-1], scores[:-1, :, :-2] + skip
    steps = (one > stay).byte().masked_fill(two > torch.maximum(stay, one), 2)
    steps *= (torch.arange(num_frames, device=device)[:, None] < lens)[..., None]  # behind its end nobody moves
    return scores[lens, torch.arange(batch, device=device), 2:], steps


def _accumulate(scores: Tensor, skip: Tensor, emitted: Tensor) -> None:
    """Fill ``scores`` (T + 1, B, 2 + S) from its first frame on; ``skip`` is (B, S), ``emitted`` (T, B, S)."""
    # Frames are many and the operations of each small: what a call costs is what counts, in NumPy a fifth of torch's.
    on_cpu = scores.device.type == "cpu"
    xp: Any = np if on_cpu else torch
    rows, extra, gains = ((x.numpy() if on_cpu else x) for x in (scores, skip, emitted))
    best, two = xp.zeros_like(extra), xp.zeros_like(extra)
    for t in range(len(gains)):
        row = rows[t]
        xp.maximum(row[:, 2:], row[:, 1:-1], out=best)
        xp.add(row[:, :-2], extra, out=two)
        xp.maximum(best, two, out=best)
        xp.add(best, gains[t], out=rows[t + 1, :, 2:])


def _trace_back(state: Tensor, steps: Tensor) -> Tensor:
    path = state.new_empty((state.size(0), steps.size(0)))
    for t in range(steps.size(0) - 1, -1, -1):
        path[:, t] = state[:, 0]
        state = state - steps[t].gather(1, state)
    return path.clamp(min=0)  # an impossible utterance may walk off the lattice


def _token_spans(position: Tensor, frame_scores: Tensor, num_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """Reduce the frames of each token position to (first frame, last frame + 1, mean score), each (B, U)."""
    batch, num_frames = position.shape
    frames = torch.arange(num_frames, device=position.device).expand(batch, -1)
    count = position.new_zeros(batch, num_tokens + 1).scatter_add(1, position, torch.ones_like(position))
    first = torch.full_like(count, num_frames).scatter_reduce(1, position, frames, "amin")
    present = (count > 0)[:, :num_tokens]
    starts = first[:, :num_tokens].where(present, 0)
    # A token's frames are one unbroken run: a repeat after a blank is the next position.
    ends = (first + count)[:, :num_tokens].where(present, 0)
    safe = frame_scores.where(position < num_tokens, 0.0)
    sums = safe.new_zeros(batch, num_tokens + 1).scatter_add(1, position, safe)
    means = (sums / count.clamp(min=1))[:, :num_tokens].where(present, -torch.inf)
    return starts, ends, means


def word_spans(path: CtcPath, pieces: Sequence[str], *, frame_shift_s: float, offset_s: float = 0.0) -> list[WordSpan]:
    """Merge the tokens of ``path`` into words, which begin at pieces with a leading "▁".

    ``pieces`` holds the piece of every token id. Special pieces (``<...>``) end a word and carry no text.
    Times are spike times (see `widen_words`) plus ``offset_s``, the place of frame 0 in the recording.
    """
    words: list[WordSpan] = []
    members: list[int] = []
    for index, token in enumerate(path.tokens):
        piece = pieces[token]
        special = piece.startswith("<") and piece.endswith(">")
        if special or piece.startswith(WORD_START):
            words += _join_word(path, pieces, members, frame_shift_s, offset_s)
            members = []
        if not special:
            members.append(index)
    return words + _join_word(path, pieces, members, frame_shift_s, offset_s)


def _join_word(
    path: CtcPath, pieces: Sequence[str], members: list[int], frame_shift_s: float, offset_s: float
) -> list[WordSpan]:
    text = "".join(pieces[path.tokens[i]] for i in members).replace(WORD_START, "")
    if not text:
        return []  # a lone "▁" is no word
    probability = math.exp(sum(path.scores[i] for i in members) / len(members))
    # A lone "▁" is a sign of the pause before the word, not of its sound.
    first = next(i for i in members if pieces[path.tokens[i]] != WORD_START)
    start_s = offset_s + path.starts[first] * frame_shift_s
    end_s = offset_s + path.ends[members[-1]] * frame_shift_s
    return [WordSpan(text, start_s, end_s, min(probability, 1.0))]


def widen_words(
    words: Sequence[WordSpan],
    *,
    duration_s: float,
    max_lead_s: float = 0.0,
    max_tail_s: float = 0.08,
    tail_share: float = 0.5,
) -> list[WordSpan]:
    """Extend words into the blank runs between them, since CTC marks a token by a spike narrower than its sound.

    Of the gap before the next word (before ``duration_s``, for the last one) a word takes ``tail_share``, at most
    ``max_tail_s``; the next word takes the remaining share, at most ``max_lead_s``. The result lies in
    [0, ``duration_s``], in order, and words that did not overlap before do not overlap after.

    The default tail is the median distance of last spikes from true word ends on the development set of
    recipes/asterisk/s2t (40 ms frames), by the method of benchmarks/word_times.py; first spikes are within a frame.

    Raises:
        ConfigError: a limit is negative or ``tail_share`` lies outside [0, 1].
    """
    if min(max_lead_s, max_tail_s) < 0 or not 0 <= tail_share <= 1:
        raise ConfigError(
            "word widening needs max_lead_s >= 0, max_tail_s >= 0 and tail_share in [0, 1], "
            f"got {max_lead_s}, {max_tail_s}, {tail_share}"
        )
    starts = [word.start_s for word in words]
    ends = [word.end_s for word in words]
    lead_gaps = [max(0.0, start - end) for start, end in zip(starts, [0.0, *ends], strict=False)]
    tail_gaps = [*lead_gaps[1:], *(max(0.0, duration_s - end) for end in ends[-1:])]
    last = len(words) - 1
    widened = []
    for i, word in enumerate(words):
        # No neighbour competes for the silence at the two ends of the recording.
        lead = lead_gaps[i] if i == 0 else (1 - tail_share) * lead_gaps[i]
        tail = tail_gaps[i] if i == last else tail_share * tail_gaps[i]
        start_s = min(max(word.start_s - min(lead, max_lead_s), 0.0), duration_s)
        end_s = max(min(word.end_s + min(tail, max_tail_s), duration_s), start_s)
        widened.append(replace(word, start_s=start_s, end_s=end_s))
    return widened
