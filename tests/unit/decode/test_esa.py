from itertools import product

import pytest
import torch
from torch.nn import functional as F

from speechnar.decode.esa import ctc_log_likelihood, sample_segments
from speechnar.decode.segments import path_segments
from speechnar.errors import ConfigError

LENS = torch.tensor([9, 6, 1])


def posteriors(*, batch=3, num_frames=9, vocab=5, seed=0):
    torch.manual_seed(seed)
    return (2 * torch.randn(batch, num_frames, vocab)).log_softmax(-1)


def rows_of(sampled, utterance):
    """Spell the segmentations of one utterance as tuples of the frames where tokens begin."""
    rows = (sampled.utterance_index == utterance).nonzero().squeeze(1).tolist()
    segments = sampled.segments
    return [tuple(segments.starts[row, : segments.token_lens[row]].tolist()) for row in rows]


def starts_of(labels):
    return tuple(t for t, label in enumerate(labels) if label != 0 and (t == 0 or labels[t - 1] != label))


def test_enough_samples_find_every_segmentation_of_the_unsure_frames_and_no_other():
    log_probs = posteriors()
    sampled = sample_segments(log_probs, LENS, 0, num_alignments=3000, threshold=0.6)
    two_best = log_probs.topk(2).indices
    for i, num_frames in enumerate(LENS.tolist()):
        unsure = [float(log_probs[i, t].max().exp()) < 0.6 for t in range(num_frames)]
        choices = [two_best[i, t].tolist() if unsure[t] else [int(two_best[i, t, 0])] for t in range(num_frames)]
        expected = {starts_of(labels) for labels in product(*choices)}
        found = rows_of(sampled, i)
        assert len(found) == len(set(found)), "equal segmentations are decoded twice"
        assert set(found) == expected
        assert found[0] == starts_of(two_best[i, :num_frames, 0].tolist()), "the best path comes first"
    assert sampled.utterance_index.tolist() == sorted(sampled.utterance_index.tolist())


def test_one_sample_is_the_best_path():
    log_probs = posteriors()
    sampled = sample_segments(log_probs, LENS, 0, num_alignments=1)
    best = path_segments(log_probs.argmax(-1), LENS, 0)
    assert torch.equal(sampled.segments.starts, best.starts)
    assert sampled.utterance_index.tolist() == [0, 1, 2]


def test_half_of_the_draws_take_the_second_best():
    log_probs = torch.tensor([0.4, 0.35, 0.25]).log().expand(1, 4, 3)  # blank, then token 1
    sampled = sample_segments(log_probs, torch.tensor([4]), 0, num_alignments=2)
    assert rows_of(sampled, 0)[0] == ()
    counts = [0, 0]
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        sampled = sample_segments(log_probs, torch.tensor([4]), 0, num_alignments=2, generator=generator)
        counts[0] += len(rows_of(sampled, 0)) == 1  # all four frames stayed blank: 1 in 16
        counts[1] += any(0 in row for row in rows_of(sampled, 0))
    assert 3 <= counts[0] <= 25
    assert 75 <= counts[1] <= 125


def test_an_utterance_draws_the_same_in_any_batch_and_padding_may_be_nan():
    log_probs = posteriors(num_frames=14)
    lens = torch.tensor([14, 6, 3])
    for i, num_frames in enumerate(lens.tolist()):
        log_probs[i, num_frames:] = torch.nan
    whole = sample_segments(log_probs, lens, 0, num_alignments=7)
    for i, num_frames in enumerate(lens.tolist()):
        alone = sample_segments(log_probs[i : i + 1, :num_frames], lens[i : i + 1], 0, num_alignments=7)
        assert rows_of(alone, 0) == rows_of(whole, i)
    again = sample_segments(log_probs, lens, 0, num_alignments=7)
    assert torch.equal(again.segments.starts, whole.segments.starts)


def test_likelihood_equals_the_ctc_loss_over_the_whole_vocabulary():
    log_probs = posteriors(vocab=6)
    index = torch.tensor([0, 0, 1, 1, 2, 2, 0])
    tokens = torch.tensor([[1, 2, 3], [4, 4, 5], [5, 5, 5], [2, 9, 9], [3, 3, 9], [9, 9, 9], [2, 1, 2]])
    token_lens = torch.tensor([3, 3, 3, 1, 2, 0, 3])
    expected = -F.ctc_loss(
        log_probs[index].transpose(0, 1), tokens.clamp(max=5), LENS[index], token_lens, reduction="none"
    )
    noisy = log_probs.clone()
    noisy[1, 6:] = torch.nan
    noisy[2, 1:] = torch.nan
    found = ctc_log_likelihood(noisy, LENS, tokens, token_lens, utterance_index=index, blank_id=0)
    torch.testing.assert_close(found, expected)
    assert found[4] == -torch.inf


def test_messages():
    with pytest.raises(ConfigError, match="num_alignments >= 1"):
        sample_segments(posteriors(), LENS, 0, num_alignments=0)
    with pytest.raises(ConfigError, match="threshold"):
        sample_segments(posteriors(), LENS, 0, num_alignments=2, threshold=1.5)


@pytest.mark.parametrize("num_kept", [1, 2, 5])
def test_the_kept_segmentations_are_those_of_the_most_probable_paths(num_kept):
    log_probs = posteriors()
    drawn = sample_segments(log_probs, LENS, 0, num_alignments=3000, threshold=0.6)
    kept = sample_segments(log_probs, LENS, 0, num_alignments=3000, num_kept=num_kept, threshold=0.6)
    two_best = log_probs.topk(2).indices
    for i, num_frames in enumerate(LENS.tolist()):
        unsure = [float(log_probs[i, t].max().exp()) < 0.6 for t in range(num_frames)]
        choices = [two_best[i, t].tolist() if unsure[t] else [int(two_best[i, t, 0])] for t in range(num_frames)]
        scores = {}  # of the most probable path drawn first for each segmentation: all are drawn, so any may be
        for labels in product(*choices):
            score = sum(float(log_probs[i, t, label]) for t, label in enumerate(labels))
            scores.setdefault(starts_of(labels), []).append(score)
        found, all_found = rows_of(kept, i), rows_of(drawn, i)
        assert len(found) == min(num_kept, len(all_found))
        assert found == [row for row in all_found if row in found], "the order is that of the draws"
        assert found[0] == all_found[0], "the best path is always kept"
        worst_kept = min(max(scores[row]) for row in found)
        left_out = [min(scores[row]) for row in all_found if row not in found]
        assert all(score <= worst_kept + 1e-5 for score in left_out)


def test_an_impossible_number_to_keep_is_refused():
    with pytest.raises(ConfigError, match="num_kept"):
        sample_segments(posteriors(), LENS, 0, num_alignments=4, num_kept=0)
