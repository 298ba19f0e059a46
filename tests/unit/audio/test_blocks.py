"""Blocks to clips and batches; expected values are slices of the whole recording."""

import numpy as np
import pytest

from speechnar.audio.blocks import Blocks, batches, cut, gather

WAV = np.arange(1, 101, dtype=np.float32)


def in_blocks(size: int) -> Blocks:
    return Blocks(WAV[i : i + size] for i in range(0, len(WAV), size))


@pytest.mark.parametrize("size", [1, 7, 30, 100])
def test_clips_are_slices(size):
    spans = [(0, 0), (0, 3), (3, 10), (10, 41), (60, 61), (90, 130), (200, 210)]
    found = list(cut(in_blocks(size), spans))
    assert [clip.tolist() for clip in found] == [WAV[first:end].tolist() for first, end in spans]


def test_clips_are_cut_while_blocks_come():
    """Nothing is read beyond the block in which a clip ends, and a clip does not keep more than itself in memory."""
    blocks = in_blocks(10)
    clips = cut(blocks, [(5, 8), (25, 42)])
    first = next(clips)
    assert blocks.num_samples == 10
    assert first.base is None
    assert next(clips).tolist() == WAV[25:42].tolist()
    assert blocks.num_samples == 50


def test_what_is_pushed_back_comes_next_and_is_counted_once():
    blocks = in_blocks(60)
    block = next(blocks)
    blocks.push_back(block[50:])
    blocks.push_back(block[40:50])
    assert np.concatenate(list(blocks)).tolist() == WAV[40:].tolist()
    assert blocks.num_samples == 100


def test_a_batch_is_padded_to_its_longest_and_stays_within_the_limit():
    assert list(batches([3, 10, 4, 5, 6], 12)) == [[1], [4, 3], [2, 0]]
    assert list(batches([3, 10, 4, 5, 6], 13)) == [[1], [4, 3], [2, 0]]
    assert list(batches([6, 6, 6], 18)) == [[0, 1, 2]]
    assert list(batches([6, 6, 6], 17)) == [[0, 1], [2]]
    assert list(batches([50, 40], 10)) == [[0], [1]]  # longer than the limit: alone
    assert list(batches([], 10)) == []


def test_a_group_is_closed_by_the_clip_that_fills_it():
    clips = [WAV[:n] for n in (4, 5, 1, 12, 3, 0)]
    assert [[len(clip) for clip in group] for group in gather(iter(clips), 10)] == [[4, 5, 1], [12], [3, 0]]
    assert list(gather(iter([]), 10)) == []
