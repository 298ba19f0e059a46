"""Phases for magnitudes: those of a sound whose spectrum comes near them.

Shapes: B utterances, T frames, N samples of the window; frames lie as those of `speechnar.audio.stft`.
Sources: Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984 (to go back and forth
between spectrum and samples); Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013 (to go
beyond each step by a share of the last one).
"""

import torch
from torch import Tensor

from speechnar.audio.stft import inverse_stft, stft

MOMENTUM = 0.99
MIN_MAGNITUDE = 1e-9


def find_phases(magnitudes: Tensor, frame_lens: Tensor, window: Tensor, hop_length: int, *, iterations: int) -> Tensor:
    """Map ``magnitudes`` (B, N / 2 + 1, T) to a spectrum of these magnitudes, complex, each utterance as if alone.

    In a graph that is exported, which has no complex numbers, it is (B, N / 2 + 1, T, 2), real and imaginary.
    ``iterations`` 0 leaves all phases at zero. Frames beyond ``frame_lens`` (B,) must be finite.

    What frames on either side have to do with a frame: `reach_frames`.
    """
    in_parts = torch.compiler.is_exporting()
    spectrum = torch.stack([magnitudes, torch.zeros_like(magnitudes)], dim=-1)
    if not in_parts:
        spectrum = torch.view_as_complex(spectrum)
    before = torch.zeros_like(spectrum)
    for _ in range(iterations):
        wav = inverse_stft(spectrum, frame_lens, window, hop_length)
        heard = stft(wav, window, hop_length, in_parts=in_parts)
        # In the direction of the published step, y + a (y - x) with a = MOMENTUM; its length is given to it anyway.
        ahead = heard - MOMENTUM / (1 + MOMENTUM) * before
        before = heard
        spectrum = _with_magnitudes(ahead, magnitudes, in_parts=in_parts)
    return spectrum


def reach_frames(num_samples: int, hop_length: int, *, iterations: int) -> int:
    """Return how many frames on either side the samples of a frame depend on, a window being of so many samples."""
    of_samples = -(-(num_samples - hop_length) // (2 * hop_length))  # whose windows are over those of a hop
    of_windows = (num_samples - 1) // hop_length  # whose windows meet that of a frame
    return of_samples + iterations * of_windows


def _with_magnitudes(spectrum: Tensor, magnitudes: Tensor, *, in_parts: bool) -> Tensor:
    if in_parts:
        found = spectrum.square().sum(-1).sqrt()
        return spectrum * (magnitudes / found.clamp(min=MIN_MAGNITUDE))[..., None]
    return spectrum * (magnitudes / spectrum.abs().clamp(min=MIN_MAGNITUDE))
