"""Autoregressive search over any model that gives the log-probabilities of the next token, alone or joined with CTC.

Shapes: B utterances, K hypotheses of each (the beam), N = B K hypotheses of all utterances, T frames, U tokens, C
candidate tokens of a hypothesis, V vocabulary (blank included).
Sources: Watanabe et al., "Hybrid CTC/Attention Architecture for End-to-End Speech Recognition", IEEE JSTSP 2017,
section IV (algorithm 1, algorithm 2, equation 50); Seki et al., "Vectorized Beam Search for CTC-Attention-Based Speech
Recognition", INTERSPEECH 2019 (candidates of the attention decoder alone get a CTC score).

Differs from the papers: the recursion of algorithm 2 over frames is solved by cumulative sums, and only for the
hypotheses that survive; a candidate's prefix score needs only the state of the hypothesis it extends.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from speechnar.errors import ConfigError

__all__ = ["CtcPrefixScorer", "Decoded", "Step", "beam_search", "greedy_search"]

CANDIDATES_PER_PLACE = 1.5
"""Candidate tokens that the decoder proposes for each hypothesis, as a multiple of the beam; ESPnet's ratio."""
END_LENGTHS, END_NATS = 3, 10.0
"""Watanabe et al. 2017, equation 50: M lengths in a row whose best hypothesis is D nats behind the best of all."""
LOWEST = -1e4
"""Log-probabilities are lifted to it: differences of sums of it are still exact to 1e-8 nats in float64."""


class Step(Protocol):
    """A model in the middle of its hypotheses: it keeps what it needs of the tokens that it was given before."""

    def __call__(self, tokens: Tensor, rows: Tensor | None) -> Tensor:
        """Return the log-probabilities (N, V) of what follows ``tokens`` (N,), the newest of each hypothesis.

        ``rows`` (N,) says which of the hypotheses of the call before each of them extends; None: each extends itself.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """The best token sequence of each utterance."""

    tokens: Tensor
    """(B, U) int64, end of sentence not included; ``eos_id`` beyond ``lens``."""
    lens: Tensor
    """(B,) tokens."""
    token_scores: Tensor
    """(B, U) what each token added to the score, nats; 0 beyond ``lens``. Without CTC, its log-probability."""
    totals: Tensor
    """(B,) score of the whole sequence, nats; end of sentence included unless the length limit cut it off."""


def greedy_search(step: Step, max_lens: Tensor, *, sos_id: int, eos_id: int, min_lens: Tensor | None = None) -> Decoded:
    """Take the best next token again and again, for all utterances at once, until each has ended.

    Args:
        step: gives log-probabilities (B, V) in float32; -inf for what must not be emitted.
        max_lens: (B,) tokens at which an utterance is cut off.
        sos_id: the first input.
        eos_id: ends an utterance.
        min_lens: (B,) tokens before which ``eos_id`` is not taken; None: 0.
    """
    batch, device = max_lens.size(0), max_lens.device
    newest = torch.full((batch,), sos_id, device=device)
    running = max_lens > 0
    lens, totals = torch.zeros_like(max_lens), torch.zeros(batch, device=device)
    tokens: list[Tensor] = []
    scores: list[Tensor] = []
    while bool(running.any()):
        log_probs = step(newest, None)
        if min_lens is not None:
            too_short = (len(tokens) < min_lens)[:, None]
            ends = torch.arange(log_probs.size(1), device=device) == eos_id
            log_probs = log_probs.masked_fill(too_short & ends, -torch.inf)
        best, newest = log_probs.max(dim=1)
        totals = totals + best.where(running, 0.0)
        running = running & (newest != eos_id)
        newest = newest.where(running, eos_id)
        tokens.append(newest)
        scores.append(best.where(running, 0.0))
        lens = lens + running
        running = running & (lens < max_lens)
    max_len = int(lens.max()) if batch else 0
    if not max_len:
        nothing = torch.zeros(batch, 0, device=device)
        return Decoded(tokens=nothing.long(), lens=lens, token_scores=nothing, totals=totals)
    return Decoded(
        tokens=torch.stack(tokens, 1)[:, :max_len],
        lens=lens,
        token_scores=torch.stack(scores, 1)[:, :max_len],
        totals=totals,
    )


class CtcPrefixScorer:
    """Log-probabilities of token prefixes under CTC, for all hypotheses of all utterances at once, in float64.

    For a hypothesis g and every frame t it keeps the log-probability of the paths that have emitted g by then, and of
    those among them that end in blank: the forward variables of Watanabe et al. 2017, algorithm 2, with one more in
    front for before the first frame. There the empty hypothesis has probability 1, and so no case of the algorithm
    needs a branch.
    """

    def __init__(self, log_probs: Tensor, lens: Tensor, *, blank_id: int, beam_size: int) -> None:
        """Start ``beam_size`` empty hypotheses for each utterance of ``log_probs`` (B, T, V); padding may be NaN."""
        batch, num_frames, _ = log_probs.shape
        self._padding = torch.arange(num_frames, device=log_probs.device) >= lens[:, None]  # (B, T)
        # Tokens by rows: a candidate's frames lie side by side.
        self._log_probs = log_probs.transpose(1, 2).clamp(min=LOWEST).contiguous()
        self._log_probs.masked_fill_(self._padding[:, None], -torch.inf)
        blank = self._log_probs[:, blank_id].double().masked_fill(self._padding, 0.0)  # a short utterance waits
        self._blank_sums = F.pad(blank.cumsum(1), (1, 0))[:, None]  # (B, 1, T + 1)
        self._blank = self._both = self._blank_sums.expand(-1, beam_size, -1)  # (B, K, T + 1)
        self._last = torch.full((batch, beam_size), -1, device=log_probs.device)
        self._rows = torch.arange(batch, device=log_probs.device)[:, None]

    def prefixes(self, candidates: Tensor) -> Tensor:
        """Return the log-probability that the text begins with each hypothesis and one of its candidates (B, K, C)."""
        frames = self._log_probs[self._rows[..., None], candidates].double()  # (B, K, C, T)
        # Another of the last token counts as new only behind a blank.
        is_repeat = (candidates == self._last[..., None])[..., None]
        before = self._blank[:, :, None, :-1].where(is_repeat, self._both[:, :, None, :-1])
        return (before + frames).logsumexp(-1)

    def wholes(self) -> Tensor:
        """Return (B, K): log-probability that the text is hypothesis k."""
        return self._both[..., -1]

    def advance(self, parents: Tensor, tokens: Tensor) -> None:
        """Replace each hypothesis by hypothesis ``parents`` (B, K) of its utterance and ``tokens`` (B, K) behind it."""
        frames = self._log_probs[self._rows, tokens].double().masked_fill(self._padding[:, None], 0.0)
        sums = F.pad(frames.cumsum(-1), (1, 0))
        blank, both = self._blank[self._rows, parents], self._both[self._rows, parents]
        before = blank.where((tokens == self._last[self._rows, parents])[..., None], both)
        # r_t = p_t (r_{t-1} + before_{t-1}) is r_t = P_t sum_{s<t} before_s / P_s with the products P of p.
        token = sums[..., 1:] + (before - sums)[..., :-1].logcumsumexp(-1)
        token = _shift(token.masked_fill(self._padding[:, None], -torch.inf))
        gained = (token - self._blank_sums)[..., :-1].logcumsumexp(-1)
        self._blank = _shift(self._blank_sums[..., 1:] + gained)
        self._both = torch.logaddexp(token, self._blank)
        self._last = tokens


def _shift(frames: Tensor) -> Tensor:
    """Put before the first frame that nothing has been emitted yet."""
    return F.pad(frames, (1, 0), value=-torch.inf)


def beam_search(
    step: Step,
    max_lens: Tensor,
    *,
    sos_id: int,
    eos_id: int,
    beam_size: int,
    ctc: CtcPrefixScorer | None = None,
    ctc_weight: float = 0.3,
    min_lens: Tensor | None = None,
) -> Decoded:
    """Return the best hypothesis that a beam finds for each utterance, all of them searched as one batch.

    The score of a hypothesis is (1 - ``ctc_weight``) log p_decoder + ``ctc_weight`` log p_ctc. The decoder proposes 1.5
    ``beam_size`` tokens for each hypothesis, to which the end of the sentence is added; CTC rescores them. As in
    ESPnet, a hypothesis that has ended leaves the beam, and an utterance stops when the best hypotheses of three
    lengths in a row are 10 nats behind the best of all, or at its limit, where what still runs ends without a score.

    Args:
        step: gives log-probabilities (N, V), hypotheses of one utterance side by side; -inf for what must not be
            emitted.
        max_lens: (B,) tokens at which an utterance is cut off.
        sos_id: the first input.
        eos_id: ends a hypothesis.
        beam_size: K.
        ctc: fresh, of the same beam size; None: the decoder alone decides.
        ctc_weight: share of CTC in the score, in [0, 1).
        min_lens: (B,) tokens before which no hypothesis ends; None: 0.

    Raises:
        ConfigError: ``beam_size`` or ``ctc_weight`` is out of range.
    """
    if beam_size < 1 or not 0 <= ctc_weight < 1:
        raise ConfigError(f"beam search needs beam_size >= 1 and ctc_weight in [0, 1), got {beam_size}, {ctc_weight}")
    if ctc_weight == 0:
        ctc = None
    batch, device = max_lens.size(0), max_lens.device
    first_row = torch.arange(0, batch * beam_size, beam_size, device=device)[:, None]
    newest = torch.full((batch, beam_size), sos_id, device=device)
    parents = torch.arange(beam_size, device=device).expand(batch, -1)
    scores = torch.zeros(batch, beam_size, dtype=torch.float64, device=device)
    scores[:, 1:] = -torch.inf  # all hypotheses are one so far
    prefix = torch.zeros_like(scores)
    found = _Found(batch, device)
    trail: list[tuple[Tensor, Tensor, Tensor]] = []
    running = max_lens > 0
    while bool(running.any()):
        num_tokens = len(trail)
        rows = (first_row + parents).flatten() if trail else None
        log_probs = step(newest.flatten(), rows).view(batch, beam_size, -1)
        num_candidates = min(max(2, int(CANDIDATES_PER_PLACE * beam_size)), log_probs.size(2))
        candidates = log_probs.topk(num_candidates, dim=2).indices
        # The end always is a candidate, and but once: it comes first.
        candidates = F.pad(candidates, (1, 0), value=eos_id)
        gains = log_probs.gather(2, candidates).double()
        gains[..., 1:].masked_fill_(candidates[..., 1:] == eos_id, -torch.inf)
        if min_lens is not None:
            gains[..., 0].masked_fill_((num_tokens < min_lens)[:, None], -torch.inf)
        prefixes = gains
        if ctc is not None:
            prefixes = torch.cat([ctc.wholes()[..., None], ctc.prefixes(candidates[..., 1:])], dim=2)
            gains = (1 - ctc_weight) * gains + ctc_weight * (prefixes - prefix[..., None])
        grown = (scores[..., None] + gains).masked_fill((scores == -torch.inf)[..., None], -torch.inf)

        scores_before = scores
        scores, chosen = grown.flatten(1).topk(beam_size, dim=1)  # more than K: every hypothesis has the end and more
        parents, column = chosen // candidates.size(2), chosen % candidates.size(2)
        newest = candidates.flatten(1).gather(1, chosen)
        prefix = prefixes.flatten(1).gather(1, chosen)
        trail.append((parents, newest, scores - scores_before.gather(1, parents)))

        at_limit = (num_tokens + 1 >= max_lens)[:, None]
        ends = column == 0
        found.add(scores.masked_fill(~(ends | at_limit), -torch.inf), num_tokens)
        running = running & ~at_limit.squeeze(1) & ~found.is_hopeless(num_tokens)
        scores = scores.masked_fill(ends | ~running[:, None], -torch.inf)
        running = running & (scores > -torch.inf).any(1)
        if ctc is not None:
            ctc.advance(parents, newest)
    return found.trace_back(trail, eos_id)


class _Found:
    """The best ended hypothesis of each utterance, and the scores that tell when to stop."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self.totals = torch.full((batch,), -torch.inf, dtype=torch.float64, device=device)
        self._steps = torch.full((batch,), -1, device=device)
        self._places = torch.zeros(batch, dtype=torch.int64, device=device)
        self._best_of_step: list[Tensor] = []

    def add(self, scores: Tensor, step: int) -> None:
        """Take the hypotheses that ended at ``step``, scores (B, K), -inf for others."""
        best, places = scores.max(1)
        better = best > self.totals
        self.totals = best.where(better, self.totals)
        self._steps = self._steps.masked_fill(better, step)
        self._places = places.where(better, self._places)
        self._best_of_step.append(best)

    def is_hopeless(self, step: int) -> Tensor:
        """Return bool (B,): True where equation 50 holds; ESPnet counts the two steps before this one out."""
        hopeless = torch.ones_like(self.totals, dtype=torch.bool)
        for age in range(2, 2 + END_LENGTHS):
            if age > step:
                return torch.zeros_like(hopeless)
            best = self._best_of_step[step - age]
            hopeless &= (best > -torch.inf) & (best - self.totals < -END_NATS)
        return hopeless

    def trace_back(self, trail: list[tuple[Tensor, Tensor, Tensor]], eos_id: int) -> Decoded:
        """Follow the parents (B, K) from the end of each best hypothesis to its start."""
        tokens, gains = [], []
        place = self._places
        for step in range(len(trail) - 1, -1, -1):
            parents, newest, gain = (column.gather(1, place[:, None]).squeeze(1) for column in trail[step])
            inside = step <= self._steps
            tokens.append(newest.where(inside, eos_id))
            gains.append(gain.where(inside, 0.0))
            place = parents.where(inside, place)
        none = self._steps.new_zeros(len(self._steps), 0)
        spelled = torch.stack(tokens[::-1], 1) if tokens else none
        lens = (spelled != eos_id).sum(1)  # the end comes last, if it came at all
        max_len = int(lens.max()) if len(lens) else 0
        token_scores = torch.stack(gains[::-1], 1) if gains else none.double()
        is_token = torch.arange(max_len, device=lens.device) < lens[:, None]
        return Decoded(
            tokens=spelled[:, :max_len],
            lens=lens,
            token_scores=token_scores[:, :max_len].where(is_token, 0.0),
            totals=self.totals,
        )
