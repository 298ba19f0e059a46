"""Normalisers by name, and masks that are drawn while training only."""

import pytest
import torch

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.audio.cmvn import GlobalCmvn, PeakRange, UtteranceCmvn
from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.nn.frontend import augmented, build_augmenter, build_normalizer, extended, normalized_features


@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("global", GlobalCmvn),
        ("utterance", UtteranceCmvn),
        ("nemo", UtteranceCmvn),
        ("seamless", UtteranceCmvn),
        ("wav2vec2", UtteranceCmvn),
        ("peak", PeakRange),
    ],
)
def test_every_normaliser_leaves_padding_zero_and_knows_the_utterance_alone(kind, cls):
    frontend, normalizer = LogMel(LogMelConfig(num_mels=8)), build_normalizer(kind, 8)
    assert isinstance(normalizer, cls)
    wav, lens = torch.randn(2, 3200), torch.tensor([3200, 1600])
    with torch.autocast("cpu", torch.bfloat16):
        feats, feat_lens = normalized_features(frontend, normalizer, wav, lens)
    assert feats.dtype == torch.float32
    assert not feats[1, int(feat_lens[1]) :].any()
    alone, _ = normalized_features(frontend, normalizer, wav[1:, :1600], lens[1:])
    torch.testing.assert_close(feats[1:, : alone.size(1)], alone, atol=1e-4, rtol=1e-4)


def test_short_utterances_are_extended_with_zeros():
    wav = torch.tensor([[1.0, 2.0, 3.0], [4.0, torch.nan, torch.nan]])
    longer, lens = extended(wav, torch.tensor([3, 1]), 2)
    assert longer.tolist() == [[1, 2, 3], [4, 0, 0]]
    assert lens.tolist() == [3, 2]
    longer, lens = extended(wav[1:], torch.tensor([1]), 5)
    assert longer.tolist() == [[4, 0, 0, 0, 0]]
    assert lens.tolist() == [5]


def test_masks_are_drawn_while_training_only():
    augmenter = build_augmenter(SpecAugmentConfig(freq_masks=1, freq_width=4, time_masks=0))
    assert augmenter is not None
    feats, lens = torch.ones(4, 10, 6), torch.full((4,), 10)
    torch.manual_seed(0)
    assert not torch.equal(augmented(augmenter, feats, lens), feats)
    assert torch.equal(augmented(augmenter.eval(), feats, lens), feats)
    assert build_augmenter(None) is None
    assert torch.equal(augmented(None, feats, lens), feats)


def test_a_band_is_masked_in_all_frames_that_were_stacked():
    augmenter = build_augmenter(SpecAugmentConfig(freq_masks=1, freq_width=5, time_masks=1, time_ratio=0.3))
    feats, lens = torch.randn(8, 10, 18), torch.full((8,), 10)
    torch.manual_seed(0)
    stacked = augmented(augmenter, feats, lens, stacked=3)
    torch.manual_seed(0)
    single = augmented(augmenter, torch.ones(8, 10, 6), lens)
    torch.testing.assert_close(stacked, feats * torch.cat([single] * 3, dim=2))
    assert 0 < int((stacked == 0).sum()) < stacked.numel()
