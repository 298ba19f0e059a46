"""CTC decoding: the best path, and exact prefix beam search with language model and hotwords.

Shapes: B utterances, T frames, V vocabulary (blank included), N prefixes in the beam, K candidate tokens of a frame.
Sources: Graves et al., "Connectionist Temporal Classification", ICML 2006, section 3.2 (best path, prefix search);
Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional Recurrent DNNs", 2014,
algorithm 1 (prefix beam search with shallow fusion).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from speechnar.decode.align import CtcPath, viterbi_align
from speechnar.decode.lm import HotwordBooster, PrefixScorer
from speechnar.errors import ConfigError

__all__ = ["CtcPath", "Hypothesis", "collapse", "greedy", "prefix_beam_search"]

MARGIN = 1e-6  # nats, for rounding

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def greedy(log_probs: Tensor, lens: Tensor, blank_id: int) -> list[CtcPath]:
    """Take the best label of every frame of ``log_probs`` (B, T, V), merge repeats, drop blanks.

    Frames past ``lens`` may hold anything and never reach a hypothesis.
    """
    scores, labels = log_probs.max(dim=-1)
    return collapse(labels, scores, lens, blank_id)


def collapse(labels: Tensor, scores: Tensor, lens: Tensor, blank_id: int) -> list[CtcPath]:
    """Merge repeats and drop blanks of frame ``labels`` (B, T) with log-probabilities ``scores`` (B, T)."""
    num_frames = labels.size(1)
    lens = lens.to(labels.device)
    valid = torch.arange(num_frames, device=labels.device) < lens[:, None]
    path = labels.where(valid, blank_id)
    scores = scores.double().where(valid, 0.0)
    changed = path[:, 1:] != path[:, :-1]
    is_token = path != blank_id
    is_start = is_token & F.pad(changed, (1, 0), value=True)
    is_end = is_token & F.pad(changed, (0, 1), value=True)
    # Every run has one start and one end, in the same order, so row-major nonzero() pairs them.
    rows, starts = is_start.nonzero(as_tuple=True)
    ends = is_end.nonzero(as_tuple=True)[1] + 1
    summed = F.pad(scores.cumsum(dim=1), (1, 0))  # (B, T + 1)
    means = (summed[rows, ends] - summed[rows, starts]) / (ends - starts)
    counts = is_start.sum(dim=1).tolist()
    spans = (torch.split(column, counts) for column in (path[rows, starts], starts, ends, means))
    return [
        CtcPath(ids.tolist(), first.tolist(), end.tolist(), mean.tolist(), total)
        for ids, first, end, mean, total in zip(*spans, summed[:, -1].tolist(), strict=True)
    ]


@dataclass(frozen=True)
class Hypothesis(CtcPath):
    """A token sequence found by beam search, with the frames of its best alignment.

    ``total`` is ``ctc_score`` plus the weighted language model, length and hotword scores.
    """

    ctc_score: float
    """Log-probability of the tokens summed over their alignments that survived pruning, nats."""


def prefix_beam_search(
    log_probs: Tensor,
    lens: Tensor,
    *,
    blank_id: int,
    beam_size: int = 16,
    nbest: int = 1,
    top_k: int = 20,
    beam_threshold: float = 15.0,
    min_log_prob: float = -math.inf,
    lm: PrefixScorer | None = None,
    lm_weight: float = 0.5,
    length_bonus: float = 0.0,
    hotwords: HotwordBooster | None = None,
) -> list[list[Hypothesis]]:
    """Return up to ``nbest`` hypotheses per utterance of ``log_probs`` (B, T, V), best first.

    Maximises log p_ctc(y) + ``lm_weight`` log p_lm(y) + ``length_bonus`` |y| + hotword bonus. Exact when ``beam_size``
    and ``top_k`` cover everything and ``beam_threshold`` (nats below the best prefix) is infinite. No frame is
    skipped. A frame proposes its ``top_k`` best tokens as extensions, those above ``min_log_prob``; repeats of a
    prefix's last token and blank always count. With hotwords, texts that hold none of them come from a second search
    without them: a list changes only texts into which it puts a hotword. A search costs about 0.15 ms per frame and
    utterance on one CPU core.

    Raises:
        ConfigError: a size is below 1, ``beam_threshold`` is not positive, or ``lm_weight`` is negative.
    """
    if min(beam_size, nbest, top_k) < 1 or not beam_threshold > 0 or not lm_weight >= 0:
        raise ConfigError(
            "beam search needs beam_size, nbest and top_k >= 1, beam_threshold > 0 and lm_weight >= 0, "
            f"got {beam_size}, {nbest}, {top_k}, {beam_threshold}, {lm_weight}"
        )
    scorers: list[tuple[PrefixScorer, float]] = []
    if lm is not None:
        scorers.append((lm, lm_weight))
    if hotwords is not None:
        scorers.append((hotwords, 1.0))
    lattices, results = [], []
    for frames, num_frames in zip(log_probs, lens.tolist(), strict=True):
        lattice = _Lattice.cut(frames[:num_frames], blank_id, top_k, min_log_prob)
        tree = _PrefixTree(lattice.token_ids, scorers, length_bonus)
        found = _search(lattice, tree, beam_size, beam_threshold)
        if hotwords is not None:
            plain = _PrefixTree(lattice.token_ids, scorers[:-1], length_bonus)
            found = _join(found, _search(lattice, plain, beam_size, beam_threshold), tree, plain)
        lattices.append(lattice)
        results.append(found[:nbest])
    return _with_times(lattices, results)


@dataclass(frozen=True)
class _Lattice:
    """The log-probabilities that a search can touch: the columns of tokens that are among the best somewhere."""

    log_probs: Floats
    """(T, columns)"""
    candidates: list[Ints]
    """Columns of the best tokens of each frame, at most K, without blank."""
    token_ids: list[int]
    """Token of each column; blank is the last."""

    @classmethod
    def cut(cls, log_probs: Tensor, blank_id: int, top_k: int, min_log_prob: float) -> "_Lattice":
        """Keep what matters of ``log_probs`` (T, V), so that a large vocabulary costs one top-k on its device."""
        tokens_only = log_probs.index_fill(1, torch.tensor([blank_id], device=log_probs.device), -torch.inf)
        best = tokens_only.topk(min(top_k, log_probs.size(1) - 1), dim=1)  # all but blank, at most
        counts = (best.values > min_log_prob).sum(1).tolist()
        columns, candidates = torch.unique(best.indices, return_inverse=True)
        columns = torch.cat([columns, columns.new_tensor([blank_id])])
        picked = log_probs[:, columns].double().cpu().numpy()
        rows = zip(candidates.cpu().numpy(), counts, strict=True)
        return cls(picked, [row[:count] for row, count in rows], columns.tolist())


class _PrefixTree:
    """All prefixes a search has kept, as nodes with the fused score (language model, length, hotwords) of each."""

    def __init__(
        self, token_ids: list[int], scorers: Sequence[tuple[PrefixScorer, float]], length_bonus: float
    ) -> None:
        self._token_ids = token_ids
        self._scorers = scorers
        self._length_bonus = length_bonus
        self.max_gain = length_bonus + sum(weight * scorer.max_step for scorer, weight in scorers)
        self.parents = [-1]
        self.columns = [-1]
        self.fused = [0.0]
        self._states: list[tuple[Any, ...]] = [tuple(scorer.start() for scorer, _ in scorers)]
        self._children: dict[tuple[int, int], int] = {}
        self._steps: dict[tuple[int, int], tuple[tuple[Any, ...], float]] = {}

    def gains(self, nodes: Ints, columns: Ints) -> Floats | float:
        """Return what extending each node by its column adds to the fused score."""
        if not self._scorers:
            return self._length_bonus
        pairs = zip(nodes.tolist(), columns.tolist(), strict=True)
        return np.array([self._step(node, column)[1] for node, column in pairs])

    def child(self, node: int, column: int) -> int:
        """Return the node that extends ``node``, made on first use."""
        key = node, column
        if key not in self._children:
            states, gain = self._step(node, column)
            self._children[key] = len(self.parents)
            self.parents.append(node)
            self.columns.append(column)
            self.fused.append(self.fused[node] + gain)
            self._states.append(states)
        return self._children[key]

    def finish(self, node: int) -> float:
        """Return what ending at ``node`` adds to the fused score."""
        pairs = zip(self._scorers, self._states[node], strict=True)
        return sum(weight * scorer.finish(state) for (scorer, weight), state in pairs)

    def score(self, columns: Sequence[int]) -> float:
        """Return the fused score of a finished text."""
        node = 0
        for column in columns:
            node = self.child(node, column)
        return self.fused[node] + self.finish(node)

    def columns_of(self, node: int) -> list[int]:
        """Spell the prefix of ``node``."""
        spelled = []
        while node:
            spelled.append(self.columns[node])
            node = self.parents[node]
        return spelled[::-1]

    def _step(self, node: int, column: int) -> tuple[tuple[Any, ...], float]:
        key = node, column
        if key not in self._steps:
            gain, states = self._length_bonus, []
            for (scorer, weight), state in zip(self._scorers, self._states[node], strict=True):
                new_state, score = scorer.step(state, self._token_ids[column])
                states.append(new_state)
                gain += weight * score
            self._steps[key] = tuple(states), gain
        return self._steps[key]


@dataclass(frozen=True)
class _Beam:
    """N prefixes with the log-probability of their alignments so far, by whether the last frame was blank."""

    nodes: Ints
    parents: Ints
    columns: Ints
    """Lattice column of the last token; -1 for the empty prefix."""
    fused: Floats
    blank: Floats
    token: Floats


@dataclass(frozen=True)
class _Found:
    columns: list[int]
    ctc_score: float
    total: float


def _join(
    biased: Sequence[_Found], plain: Sequence[_Found], biased_tree: _PrefixTree, plain_tree: _PrefixTree
) -> list[_Found]:
    """Return the biased results that hold a hotword and all plain ones, scored alike, best first.

    A phrase that is begun and breaks off loses its bonus, but may have crowded the best text out of the beam.
    """
    scores = {tuple(item.columns): item.ctc_score for item in plain}
    for item in biased:
        columns = tuple(item.columns)
        if biased_tree.score(columns) > plain_tree.score(columns):
            scores[columns] = max(item.ctc_score, scores.get(columns, -math.inf))
    found = [_Found(list(columns), score, score + biased_tree.score(columns)) for columns, score in scores.items()]
    return sorted(found, key=lambda item: -item.total)


def _search(lattice: _Lattice, tree: _PrefixTree, beam_size: int, beam_threshold: float) -> list[_Found]:
    """Run the beam over all frames and return the surviving prefixes, best first."""
    root, never = np.zeros(1, dtype=np.int64), np.full(1, -np.inf)
    beam = _Beam(root, root - 1, root - 1, fused=np.zeros(1), blank=np.zeros(1), token=never)
    for frame, candidates in zip(lattice.log_probs, lattice.candidates, strict=True):
        beam = _advance(beam, frame, candidates, tree, beam_size=beam_size, beam_threshold=beam_threshold)
    ctc_scores = np.logaddexp(beam.blank, beam.token).tolist()
    found = [
        _Found(tree.columns_of(node), ctc_score, ctc_score + tree.fused[node] + tree.finish(node))
        for node, ctc_score in zip(beam.nodes.tolist(), ctc_scores, strict=True)
    ]
    return sorted(found, key=lambda item: -item.total)


def _advance(
    beam: _Beam,
    frame: Floats,
    candidates: Ints,
    tree: _PrefixTree,
    *,
    beam_size: int,
    beam_threshold: float,
) -> _Beam:
    """Take one frame: every prefix stays or grows by a candidate; the best ``beam_size`` results survive."""
    total = np.logaddexp(beam.blank, beam.token)
    # A frame of blank, or of the last token again, leaves the prefix as it is (the root's column -1 reads blank).
    repeat = np.where(beam.columns >= 0, frame[beam.columns], -np.inf)
    stay_blank = total + frame[-1]
    stay_token = beam.token + repeat
    if not candidates.size:
        return replace(beam, blank=stay_blank, token=stay_token)
    grown = np.where(beam.columns[:, None] == candidates, beam.blank[:, None], total[:, None]) + frame[candidates]

    # Where a prefix and its parent are both in the beam, growing the parent by that token is the prefix itself:
    # add that mass here and take it out of `grown`.
    row_of = {node: row for row, node in enumerate(beam.nodes.tolist())}
    parent_rows = np.array([row_of.get(parent, -1) for parent in beam.parents.tolist()])
    rows = np.flatnonzero(parent_rows >= 0)
    if rows.size:
        sources, columns = parent_rows[rows], beam.columns[rows]
        arriving = np.where(beam.columns[sources] == columns, beam.blank[sources], total[sources]) + repeat[rows]
        stay_token[rows] = np.logaddexp(stay_token[rows], arriving)
        which, place = np.nonzero(candidates == columns[:, None])
        grown[sources[which], place] = -np.inf

    stay_score = np.logaddexp(stay_blank, stay_token) + beam.fused
    grown_score = grown + beam.fused[:, None]
    floor = max(stay_score.max(), grown_score.max(initial=-np.inf)) - beam_threshold
    if len(stay_score) >= beam_size:  # whoever stays below all of these even after scoring need not be scored
        floor = max(floor, np.partition(stay_score, -beam_size)[-beam_size] - tree.max_gain - MARGIN)
    row, place = np.nonzero(grown_score > floor)
    column = candidates[place]
    grown_score = grown_score[row, place] + tree.gains(beam.nodes[row], column)

    scores = np.concatenate([stay_score, grown_score])
    order = np.argsort(-scores, kind="stable")[:beam_size]
    order = order[scores[order] > max(scores[order[0]] - beam_threshold, -np.inf)]
    if not order.size:
        return beam  # this frame gives every continuation probability 0: no ranking is left to make
    stays = order[order < len(stay_score)]
    grows = order[order >= len(stay_score)] - len(stay_score)
    row, place, column = row[grows], place[grows], column[grows]
    sources = beam.nodes[row]
    pairs = zip(sources.tolist(), column.tolist(), strict=True)
    nodes = [tree.child(*pair) for pair in pairs]
    return _Beam(
        nodes=np.concatenate([beam.nodes[stays], np.array(nodes, dtype=np.int64)]),
        parents=np.concatenate([beam.parents[stays], sources]),
        columns=np.concatenate([beam.columns[stays], column]),
        fused=np.concatenate([beam.fused[stays], np.array([tree.fused[node] for node in nodes])]),
        blank=np.concatenate([stay_blank[stays], np.full(len(nodes), -np.inf)]),
        token=np.concatenate([stay_token[stays], grown[row, place]]),
    )


def _with_times(lattices: Sequence[_Lattice], results: Sequence[Sequence[_Found]]) -> list[list[Hypothesis]]:
    """Give each result of each utterance the token frames of its best alignment; all are aligned as one batch."""
    rows = [(lattice, item) for lattice, found in zip(lattices, results, strict=True) for item in found]
    num_frames = [len(lattice.log_probs) for lattice, _ in rows]
    num_columns = [len(lattice.token_ids) for lattice, _ in rows]
    log_probs = torch.zeros(len(rows), max(num_frames, default=0), max(num_columns, default=1), dtype=torch.float64)
    tokens = [torch.tensor(item.columns, dtype=torch.long) + 1 for _, item in rows]
    for frames, (lattice, _) in zip(log_probs, rows, strict=True):  # blank comes first
        frames[: len(lattice.log_probs), : len(lattice.token_ids)] = torch.from_numpy(lattice.log_probs).roll(1, 1)
    aligned = viterbi_align(
        log_probs,
        torch.tensor(num_frames, dtype=torch.long),
        pad_sequence(tokens, batch_first=True) if rows else torch.zeros(0, 0, dtype=torch.long),
        torch.tensor([len(ids) for ids in tokens], dtype=torch.long),
        blank_id=0,
    )
    hypotheses = iter(
        Hypothesis(
            tokens=[lattice.token_ids[column] for column in item.columns],
            starts=path.starts,
            ends=path.ends,
            scores=path.scores,
            total=item.total,
            ctc_score=item.ctc_score,
        )
        for (lattice, item), path in zip(rows, aligned.paths(), strict=True)
    )
    return [list(islice(hypotheses, len(found))) for found in results]
