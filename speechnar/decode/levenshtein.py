"""Editing by insertions and deletions: labels to learn it from, edits of whole batches, and the refinement loop.

Sequences begin and end with a token that is never deleted. A *gap* is the place between two neighbours.

Shapes: B sentences, N hypothesis tokens, M reference tokens, both with their ends.
Sources: Gu, Wang and Zhao, "Levenshtein Transformer", NeurIPS 2019, sections 2 and 4.2 (the three operations and their
oracle); Han et al., "Faster Re-translation Using Non-Autoregressive Model For Simultaneous Neural Machine
Translation", 2020 (edits are told how far they are from the end of what was shown before: ``old_lens``).
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from speechnar.errors import ConfigError, ShapeError


@dataclass(frozen=True, kw_only=True)
class EditLabels:
    """The shortest edit without substitutions from one sequence to another."""

    deleted: Tensor
    """bool (B, N): tokens of the hypothesis that go."""
    missing: Tensor
    """bool (B, M): tokens of the reference that come. What is in neither set is the longest common subsequence."""


def edit_labels(hyp: Tensor, hyp_lens: Tensor, ref: Tensor, ref_lens: Tensor) -> EditLabels:
    """Align ``hyp`` (B, N) with ``ref`` (B, M) by a longest common subsequence; padding may hold anything.

    Of several the one that matches earliest is taken, and where nothing matches, a deletion before an insertion. Takes
    N steps for the table and N + M to walk it, each for the whole batch and without a host sync.

    Raises:
        ShapeError: the four tensors do not fit each other.
    """
    if hyp.ndim != 2 or ref.ndim != 2 or not len(hyp) == len(ref) == len(hyp_lens) == len(ref_lens):
        raise ShapeError(
            "edit labels need hyp (B, N), hyp_lens (B,), ref (B, M), ref_lens (B,), got "
            f"{tuple(hyp.shape)}, {tuple(hyp_lens.shape)}, {tuple(ref.shape)}, {tuple(ref_lens.shape)}"
        )
    batch, num_hyp = hyp.shape
    num_ref = ref.size(1)
    device = hyp.device
    is_hyp = torch.arange(num_hyp, device=device) < hyp_lens[:, None]
    is_ref = torch.arange(num_ref, device=device) < ref_lens[:, None]
    equal = (hyp[:, :, None] == ref[:, None, :]) & is_hyp[:, :, None] & is_ref[:, None, :]
    # Length of the longest common subsequence of what begins at i and at j; one row and column more than tokens.
    table = torch.zeros(num_hyp + 1, batch, num_ref + 1, dtype=torch.int32, device=device)
    for first in range(num_hyp - 1, -1, -1):
        row = torch.maximum(table[first + 1, :, :-1], equal[:, first] + table[first + 1, :, 1:])
        table[first, :, :-1] = row.flip(1).cummax(1).values.flip(1)  # skipping reference tokens costs nothing
    table = table.transpose(0, 1)

    rows = torch.arange(batch, device=device)
    i = j = torch.zeros(batch, dtype=torch.int64, device=device)
    # One column more, for what is written beyond the end of a sentence.
    deleted = torch.zeros(batch, num_hyp + 1, dtype=torch.bool, device=device)
    missing = torch.zeros(batch, num_ref + 1, dtype=torch.bool, device=device)
    equal = F.pad(equal, (0, 1, 0, 1))
    for _ in range(num_hyp + num_ref):
        can_delete, can_insert = i < hyp_lens, j < ref_lens
        matches = equal[rows, i, j]
        is_longer = table[rows, (i + 1).clamp(max=num_hyp), j] >= table[rows, i, (j + 1).clamp(max=num_ref)]
        deletes = can_delete & ~matches & (is_longer | ~can_insert)
        inserts = can_insert & ~matches & ~deletes
        deleted[rows, i] |= deletes
        missing[rows, j] |= inserts
        i, j = i + (matches | deletes), j + (matches | inserts)
    return EditLabels(deleted=deleted[:, :-1], missing=missing[:, :-1])


def gap_counts(missing: Tensor, lens: Tensor) -> Tensor:
    """Return how many tokens are missing in each gap between those that are not: (B, M), 0 beyond the gaps there are.

    Args:
        missing: bool (B, M); neither the first nor the last of ``lens``.
        lens: (B,)
    """
    inside = torch.arange(missing.size(1), device=missing.device) < lens[:, None]
    gap = (~missing & inside).cumsum(1) - 1
    return torch.zeros_like(gap).scatter_add(1, gap.clamp(min=0), (missing & inside).long())


def select(tokens: Tensor, lens: Tensor, keep: Tensor, *, pad_id: int) -> tuple[Tensor, Tensor]:
    """Return those of ``tokens`` (B, N) where ``keep`` (B, N), in their order, and their numbers (B,)."""
    keep = keep & (torch.arange(tokens.size(1), device=tokens.device) < lens[:, None])
    new_lens = keep.sum(1)
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    width = int(new_lens.max()) if len(tokens) else 0  # later passes are as short as they can be
    places = torch.arange(width, device=tokens.device)
    return tokens.gather(1, order)[:, :width].where(places < new_lens[:, None], pad_id), new_lens


def insert(tokens: Tensor, lens: Tensor, counts: Tensor, *, placeholder_id: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Open ``counts`` (B, N - 1) places in the gaps of ``tokens`` (B, N), each held by ``placeholder_id``."""
    is_token = torch.arange(tokens.size(1), device=tokens.device) < lens[:, None]
    counts = counts.where(is_token[:, 1:], 0)
    new_lens = lens + counts.sum(1)
    width = int(new_lens.max()) if len(tokens) else 0
    places = torch.arange(tokens.size(1), device=tokens.device) + F.pad(counts.cumsum(1), (1, 0))
    is_inside = torch.arange(width, device=tokens.device) < new_lens[:, None]
    opened = torch.full_like(is_inside, pad_id, dtype=tokens.dtype).masked_fill(is_inside, placeholder_id)
    opened = F.pad(opened, (0, 1))  # padding goes to a column of its own
    return opened.scatter(1, places.where(is_token, width), tokens)[:, :-1], new_lens


def old_len_behind(counts: Tensor, old_lens: Tensor) -> Tensor:
    """Return (B,) old tokens once ``counts`` (B, gaps) places are open: those in gaps before the old end count as old.

    Gap i lies behind token i, of which the first is the start of the sentence: gap ``old_lens`` is where to append.
    """
    gaps = torch.arange(counts.size(1), device=counts.device)
    return old_lens + counts.where(gaps < old_lens[:, None], 0).sum(1)


class Editor(Protocol):
    """A model that edits: each method is one evaluation of it."""

    def deletions(self, tokens: Tensor, lens: Tensor, old_lens: Tensor) -> Tensor:
        """Return bool (B, N): True for tokens of ``tokens`` (B, N) that are to go, never the first or the last."""

    def insertions(self, tokens: Tensor, lens: Tensor, old_lens: Tensor) -> Tensor:
        """Return how many places to open in each gap (B, N - 1)."""

    def fill(self, tokens: Tensor, lens: Tensor) -> Tensor:
        """Return ``tokens`` (B, N) with a token for each placeholder."""


@dataclass(frozen=True, kw_only=True)
class Refined:
    """What editing came to."""

    tokens: Tensor
    """(B, N), with start and end."""
    lens: Tensor
    """(B,)"""
    iterations: int
    """Of the sentence that took most."""
    evaluations: int
    """Of the decoder, one after another."""

    def inner_rows(self) -> list[list[int]]:
        """Return the tokens of each sentence without start and end."""
        return [row[1 : n - 1] for row, n in zip(self.tokens.tolist(), self.lens.tolist(), strict=True)]


def refine(
    editor: Editor,
    tokens: Tensor,
    lens: Tensor,
    max_lens: Tensor,
    *,
    max_iterations: int,
    placeholder_id: int,
    pad_id: int,
) -> Refined:
    """Delete, open places and fill them, until nothing changes, or changes back, or ``max_iterations`` times.

    Args:
        editor: decides.
        tokens: (B, N) with start and end; nothing is deleted of a sentence that has no more.
        lens: (B,), at least 2.
        max_lens: (B,) tokens, start and end included, that insertions do not exceed.
        max_iterations: at least 1.
        placeholder_id: holds an open place.
        pad_id: stands beyond ``lens``.

    Raises:
        ConfigError: ``max_iterations`` is less than 1.
    """
    if max_iterations < 1:
        raise ConfigError(f"max_iterations must be at least 1, got {max_iterations}")
    old_lens = lens - 2
    running = torch.ones_like(lens, dtype=torch.bool)
    before: tuple[Tensor, Tensor] | None = None
    evaluations = 0
    iterations = 0
    while iterations < max_iterations and bool(running.any()):
        iterations += 1
        was = tokens, lens
        has_inner = (lens > 2) & running
        if bool(has_inner.any()):
            deleted = editor.deletions(tokens, lens, old_lens) & has_inner[:, None]
            evaluations += 1
            is_old = torch.arange(tokens.size(1), device=tokens.device) <= old_lens[:, None]
            old_lens = old_lens - (deleted & is_old).sum(1)
            tokens, lens = select(tokens, lens, ~deleted, pad_id=pad_id)
        counts = editor.insertions(tokens, lens, old_lens) * running[:, None]
        evaluations += 1
        is_gap = torch.arange(counts.size(1), device=tokens.device) < lens[:, None] - 1
        room = (max_lens - lens).clamp(min=0)[:, None]
        counts = F.pad(counts.where(is_gap, 0).cumsum(1).minimum(room), (1, 0)).diff(dim=1)
        if bool(counts.any()):
            old_lens = old_len_behind(counts, old_lens)
            tokens, lens = insert(tokens, lens, counts, placeholder_id=placeholder_id, pad_id=pad_id)
            tokens = editor.fill(tokens, lens)
            evaluations += 1
        is_done = _is_same((tokens, lens), was)
        if before is not None:
            is_done |= _is_same((tokens, lens), before)
        running = running & ~is_done
        before = was
    return Refined(tokens=tokens, lens=lens, iterations=iterations, evaluations=evaluations)


def _is_same(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Return bool (B,): True where two batches of (tokens, lens), padded alike, hold the same sentence."""
    width = max(first[0].size(1), second[0].size(1))
    padded = [F.pad(tokens, (0, width - tokens.size(1)), value=-1) for tokens, _ in (first, second)]
    inside = torch.arange(width, device=first[1].device) < first[1][:, None]
    return (first[1] == second[1]) & ((padded[0] == padded[1]) | ~inside).all(1)
