"""What stands before an encoder of speech: features, their normalisation, and SpecAugment while training.

A recogniser keeps the three as ``frontend``, ``normalizer`` and ``spec_augment``: their names are those of the weights.

Shapes: B utterances, S samples, T frames, F features.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.augment import SpecAugment, SpecAugmentConfig
from speechnar.audio.cmvn import GlobalCmvn, PeakRange, UtteranceCmvn
from speechnar.nn.lengths import valid_mask, zero_padding

Normalization = Literal["global", "utterance", "nemo", "seamless", "wav2vec2", "peak"]
"""Features less a stored mean over a stored deviation; or less their own, as such or to the letter of a toolkit; or
Whisper's range below the peak."""


def build_normalizer(kind: Normalization, num_features: int) -> nn.Module:
    """Return the normaliser that a configuration names."""
    match kind:
        case "global":
            return GlobalCmvn(num_features)
        case "utterance":
            return UtteranceCmvn()
        case "nemo":  # ``normalize_batch``, ``per_feature``
            return UtteranceCmvn(correction=1, std_offset=1e-5)
        case "seamless":  # transformers' ``SeamlessM4TFeatureExtractor``
            return UtteranceCmvn(correction=1, variance_offset=1e-7)
        case "wav2vec2":  # transformers' ``Wav2Vec2FeatureExtractor``
            return UtteranceCmvn(variance_offset=1e-7)
        case "peak":
            return PeakRange()


def build_augmenter(config: SpecAugmentConfig | None) -> SpecAugment | None:
    """Return the augmenter that a configuration describes; None: features stay as they are."""
    return None if config is None else SpecAugment(config)


def extended(wav: Tensor, wav_lens: Tensor, shortest: int) -> tuple[Tensor, Tensor]:
    """Extend utterances of ``wav`` (B, S) that are shorter than ``shortest`` samples with zeros to that length."""
    wav = zero_padding(wav, valid_mask(wav_lens, wav.size(1)))
    return F.pad(wav, (0, max(0, shortest - wav.size(1)))), wav_lens.clamp(min=shortest)


def normalized_features(
    frontend: nn.Module, normalizer: nn.Module, wav: Tensor, wav_lens: Tensor
) -> tuple[Tensor, Tensor]:
    """Map ``wav`` (B, S) in [-1, 1] to normalised features (B, T, F), float32 under any autocast, and lengths (B,)."""
    with torch.autocast(wav.device.type, enabled=False):
        feats, feat_lens = frontend(wav, wav_lens)
        return normalizer(feats, feat_lens), feat_lens


def augmented(augmenter: SpecAugment | None, feats: Tensor, feat_lens: Tensor, *, stacked: int = 1) -> Tensor:
    """Mask ``feats`` (B, T, F) while training; a band is masked in all ``stacked`` frames of a feature vector."""
    if augmenter is None or not augmenter.training:
        return feats
    if stacked == 1:
        return augmenter(feats, feat_lens)
    kept = augmenter(feats.new_ones(*feats.shape[:2], feats.size(2) // stacked), feat_lens)
    return feats * kept.repeat(1, 1, stacked)
