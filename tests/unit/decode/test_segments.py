"""Segments and trigger masks by hand-written examples; a frame loop as the independent implementation."""

import pytest
import torch

from speechnar.decode.align import viterbi_align
from speechnar.decode.segments import aligned_segments, path_segments


def rows(labels, lens=None, **expand):
    """Spell each slot's frames: "110" for a slot that sees frames 0 and 1 of 3."""
    labels = torch.tensor(labels)
    lens = torch.tensor([labels.size(1)] * len(labels) if lens is None else lens)
    segments = path_segments(labels, lens, 0)
    mask = segments.trigger_mask(labels.size(1), **expand).int()
    return [
        ["".join(map(str, row)) for row in rows[:count]]
        for rows, count in zip(mask.tolist(), segments.slot_lens.tolist(), strict=True)
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 1, 0, 2, 0], ["110000", "001110", "000001"]),
        ([1, 0, 1, 1, 0], ["10000", "01100", "00011"]),  # a repeat
        ([1, 2, 3], ["100", "010", "001", "001"]),  # first emitted on the last frame: the end sees it too
        ([0, 0, 1], ["111", "001"]),
        ([0, 0, 0], ["111"]),  # no token
        ([1, 1, 1], ["100", "011"]),
        ([3], ["1", "1"]),
        ([0], ["1"]),
    ],
)
def test_a_segment_ends_where_its_token_begins(labels, expected):
    assert rows([labels]) == [expected]


def test_expansion_adds_frames_within_the_utterance():
    labels = [[0, 0, 1, 0, 0, 2, 0, 0]]
    assert rows(labels, left=1) == [["11100000", "00111100", "00000111"]]
    assert rows(labels, right=1) == [["11110000", "00011110", "00000011"]]
    assert rows(labels, left=1, right=1) == [["11110000", "00111110", "00000111"]]
    assert rows(labels, left=2, right=9) == [["11111111", "01111111", "00001111"]]


def test_padding_is_never_seen():
    labels = [[0, 1, 0, 2, 0, 0], [2, 2, 0, 1, 3, 3]]
    assert rows(labels, [6, 3], left=1, right=1) == [
        ["111000", "011110", "000111"],
        ["110000", "111000"],
    ]
    assert rows([[2, 2, 0]], left=1, right=1) == [["110", "111"]]


def test_starts_and_ends_are_those_of_the_runs():
    segments = path_segments(torch.tensor([[0, 1, 1, 0, 1, 2], [3, 3, 3, 0, 9, 9]]), torch.tensor([6, 4]), 0)
    assert segments.token_lens.tolist() == [3, 1]
    assert segments.starts.tolist()[0] == [1, 4, 5]
    assert segments.ends.tolist()[0] == [3, 5, 6]
    assert (segments.starts[1, 0], segments.ends[1, 0]) == (0, 3)


def test_every_row_sees_a_frame_even_beyond_the_slots_and_in_impossible_alignments():
    torch.manual_seed(0)
    log_probs = torch.randn(3, 4, 5).log_softmax(-1)
    tokens, lens = torch.tensor([[1, 1, 1, 2], [1, 2, 3, 4], [1, 0, 0, 0]]), torch.tensor([4, 4, 1])
    alignment = viterbi_align(log_probs, lens, tokens, torch.tensor([4, 4, 0]), 0)
    assert alignment.possible.tolist() == [False, True, True]
    segments = aligned_segments(alignment, lens)
    for expand in ({}, {"left": 1, "right": 1}):
        assert segments.trigger_mask(4, **expand).any(-1).all()
    assert segments.trigger_mask(4)[1].int().tolist() == [*torch.eye(4).int().tolist(), [0, 0, 0, 1]]


def test_an_alignment_and_its_path_give_the_same_segments():
    torch.manual_seed(1)
    log_probs = torch.randn(6, 20, 4).log_softmax(-1)
    lens, token_lens = torch.tensor([20, 17, 12, 9, 3, 1]), torch.tensor([6, 5, 2, 1, 1, 0])
    tokens = torch.randint(1, 4, (6, 6))
    alignment = viterbi_align(log_probs, lens, tokens, token_lens, 0)
    assert alignment.possible.all()
    aligned, path = aligned_segments(alignment, lens), path_segments(alignment.labels, lens, 0)
    assert torch.equal(aligned.token_lens, path.token_lens)
    count = aligned.slot_lens[:, None] > torch.arange(7)
    for expand in ({}, {"left": 1}, {"right": 2}):
        assert torch.equal(aligned.trigger_mask(20, **expand)[count], path.trigger_mask(20, **expand)[count])
    frames, before = torch.zeros(7, 20, dtype=torch.bool), 0
    labels = alignment.labels[0].tolist()
    for t, label in enumerate(labels):  # as the paper words it: a segment ends with the frame that emits its token
        frames[before, t] = True
        before += label != 0 and (t == 0 or labels[t - 1] != label)
    frames[before, 19] = True
    assert torch.equal(aligned.trigger_mask(20)[0], frames)


def test_windows_stay_within_the_utterance():
    segments = path_segments(torch.tensor([[1, 0, 2, 0, 0]]), torch.tensor([4]), 0)
    begins, ends = segments.windows(left=2, right=2)
    assert (begins.tolist(), ends.tolist()) == ([[0, 0, 1]], [[3, 4, 4]])


def test_no_tokens_at_all():
    segments = path_segments(torch.zeros(2, 3, dtype=torch.long), torch.tensor([3, 2]), 0)
    assert segments.starts.shape == (2, 0)
    assert segments.trigger_mask(3).int().tolist() == [[[1, 1, 1]], [[1, 1, 0]]]


def test_room_for_more_tokens_changes_no_token():
    labels, lens = torch.tensor([[0, 1, 1, 0, 2, 0], [3, 3, 0, 0, 0, 0]]), torch.tensor([6, 3])
    found, roomy = (path_segments(labels, lens, 0, max_tokens=size) for size in (None, 6))
    assert found.starts.size(1) == 2
    assert roomy.starts.size(1) == 6
    assert torch.equal(roomy.token_lens, found.token_lens)
    for row, size in enumerate(found.token_lens):
        assert torch.equal(roomy.starts[row, :size], found.starts[row, :size])
        assert torch.equal(roomy.ends[row, :size], found.ends[row, :size])
