"""Blocks of a recording to clips of it, and clips to batches; S samples, float32 mono."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]


class Blocks(Iterator[Samples]):
    """Blocks on their way through, counted, of which one can be pushed back."""

    def __init__(self, blocks: Iterator[Samples]) -> None:
        self._blocks = blocks
        self._pushed: list[Samples] = []
        self.num_samples = 0

    def __next__(self) -> Samples:
        if self._pushed:
            return self._pushed.pop()
        block = next(self._blocks)
        self.num_samples += len(block)
        return block

    def push_back(self, block: Samples) -> None:
        """Return what is left of a block, to come next."""
        self._pushed.append(block)


def batches(sizes: Sequence[int], limit: int) -> Iterator[list[int]]:
    """Yield indices, longest first, in batches whose padded size stays within ``limit`` (but at least one each)."""
    batch: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        if batch and sizes[batch[0]] * (len(batch) + 1) > limit:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def gather(clips: Iterator[Samples], limit: int) -> Iterator[list[Samples]]:
    """Yield lists of clips, each list closed by the clip that brings it to ``limit`` samples."""
    group: list[Samples] = []
    for clip in clips:
        group.append(clip)
        if sum(map(len, group)) >= limit:
            yield group
            group = []
    if group:
        yield group


def cut(blocks: Iterator[Samples], spans: Sequence[tuple[int, int]]) -> Iterator[Samples]:
    """Yield the samples of each span (first, last + 1; in order, without overlap), holding little more than one."""
    held = np.zeros(0, dtype=np.float32)
    begin = 0  # position of held[0]
    for first, end in spans:
        while begin + len(held) < end and (block := next(blocks, None)) is not None:
            passed = min(max(first - begin, 0), len(held))
            held = np.concatenate([held[passed:], block])
            begin += passed
        yield held[max(first - begin, 0) : max(end - begin, 0)].copy()
