"""Griffin-Lim: log-mels back to samples without anything learned, the fallback where there is no vocoder.

Shapes: B utterances, S samples, T frames, F features, W bins of the spectrum.
Sources: Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013 (the momentum); Lee and Seung,
"Algorithms for non-negative matrix factorization", NIPS 2000, theorem 1 (the steps by which bands are spread over bins:
as good as librosa's non-negative least squares here, and a fraction of their cost).
"""

import torch
import torchaudio
from torch import Tensor
from torch.nn import functional as F

from speechnar.audio.fbank import LogMel
from speechnar.errors import ConfigError

SPREADING_STEPS = 50
MIN_MAGNITUDE = 1e-8


@torch.no_grad()
def griffin_lim(
    feats: Tensor, feat_lens: Tensor, frontend: LogMel, *, num_iters: int = 60, momentum: float = 0.99
) -> tuple[Tensor, Tensor]:
    """Return samples (B, T hop) whose features by ``frontend`` are nearly ``feats`` (B, T, F), and their lengths (B,).

    Phases begin at 0, so that equal features give equal samples; each utterance is as if it were alone. Samples
    beyond the lengths are 0; frames beyond ``feat_lens`` may hold anything.

    Raises:
        ConfigError: ``frontend`` does not give magnitudes of S // hop frames (``LogMelConfig.for_vocoder``).
    """
    config = frontend.config
    if config.spectrum != "magnitude" or config.padding != "same":
        raise ConfigError(
            "Griffin-Lim needs features of spectrum magnitude and padding same, "
            f"got {config.spectrum} and {config.padding}"
        )
    wav = feats.new_zeros(len(feats), feats.size(1) * config.hop_length)
    for i, num_frames in enumerate(feat_lens.tolist()):
        if num_frames:
            magnitudes = _magnitudes(feats[i, :num_frames], frontend)
            wav[i, : num_frames * config.hop_length] = _invert(magnitudes, frontend, num_iters, momentum)
    return wav, feat_lens * config.hop_length


def _magnitudes(feats: Tensor, frontend: LogMel) -> Tensor:
    """Return magnitudes (W, T), none negative, whose bands are nearly those of ``feats`` (T, F)."""
    bands, matrix = feats.float().exp().T, frontend.mel_matrix.T  # (F, T), (F, W)
    magnitudes = (torch.linalg.pinv(matrix) @ bands).clamp(min=MIN_MAGNITUDE)
    wanted = matrix.T @ bands
    for _ in range(SPREADING_STEPS):
        magnitudes = magnitudes * wanted / (matrix.T @ (matrix @ magnitudes)).clamp(min=MIN_MAGNITUDE)
    return magnitudes


def _invert(magnitudes: Tensor, frontend: LogMel, num_iters: int, momentum: float) -> Tensor:
    config = frontend.config
    # torchaudio centres frames on multiples of the hop: with one more frame at either end, the middle of the hop that
    # the first frame stands for lies one hop after its first sample.
    magnitudes = F.pad(magnitudes[None], (1, 1), mode="replicate")[0]
    wav = torchaudio.functional.griffinlim(
        magnitudes,
        frontend.window,
        config.n_fft,
        config.hop_length,
        config.win_length,
        power=1.0,
        n_iter=num_iters,
        momentum=momentum,
        length=None,
        rand_init=False,
    )
    first = config.hop_length // 2
    return wav[first : first + (magnitudes.size(1) - 2) * config.hop_length]
