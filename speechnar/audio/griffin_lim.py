"""Phases for magnitudes: those of a sound whose spectrum comes near them.

Shapes: B utterances, T frames, N samples of the window; frames lie as those of `speechnar.audio.istft`.
Sources: Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984 (to go back and forth
between spectrum and samples); Perraudin, Balazs and Søndergaard, "A fast Griffin-Lim algorithm", WASPAA 2013 (to go
beyond each step by a share of the last one).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from speechnar.audio.istft import inverse_stft

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
        heard = _stft_in_parts(wav, window, hop_length) if in_parts else stft(wav, window, hop_length)
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


def stft(wav: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Map whole hops of samples, (B, T hop), to the complex spectrum (B, N / 2 + 1, T) that `inverse_stft` inverts."""
    frames = _padded(wav, window, hop_length).unfold(1, window.numel(), hop_length)
    return torch.fft.rfft(frames * window).transpose(1, 2)


def _padded(wav: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Let the first window be centred on the first hop, and the last one on the last hop."""
    return F.pad(wav, ((window.numel() - hop_length) // 2,) * 2)


def _stft_in_parts(wav: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Return what `stft` does as (B, N / 2 + 1, T, 2)."""
    num_samples = window.numel()
    places = torch.arange(num_samples, dtype=torch.float64, device=wav.device)
    bins = torch.arange(num_samples // 2 + 1, dtype=torch.float64, device=wav.device)[:, None]
    angles = places * bins * (2 * math.pi / num_samples)
    kernels = (torch.cat([angles.cos(), -angles.sin()]) * window.double()).float()[:, None]
    found = F.conv1d(_padded(wav, window, hop_length)[:, None], kernels, stride=hop_length)
    return torch.stack(found.chunk(2, dim=1), dim=-1)


def _with_magnitudes(spectrum: Tensor, magnitudes: Tensor, *, in_parts: bool) -> Tensor:
    if in_parts:
        found = spectrum.square().sum(-1).sqrt()
        return spectrum * (magnitudes / found.clamp(min=MIN_MAGNITUDE))[..., None]
    return spectrum * (magnitudes / spectrum.abs().clamp(min=MIN_MAGNITUDE))
