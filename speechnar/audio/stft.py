"""Short-time Fourier transform, and its inverse, of frames that each stand for a hop of samples of their own.

Shapes: B utterances, T frames, N samples of the window, S = T hop samples.
Source: Griffin and Lim, "Signal estimation from modified short-time Fourier transform", 1984 (least squares: overlap,
add, and divide by the summed squares of the windows).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from speechnar.audio.fbank import frame_mask
from speechnar.errors import ConfigError

MIN_ENVELOPE = 1e-11


def stft(wav: Tensor, window: Tensor, hop_length: int, *, in_parts: bool = False) -> Tensor:
    """Map whole hops of samples, (B, T hop), to the complex spectrum (B, N / 2 + 1, T) that `inverse_stft` inverts.

    ``in_parts``: as (B, N / 2 + 1, T, 2), real and imaginary, by operations that graphs know that are exported.
    """
    num_samples = window.numel()
    # The first window is centred on the first hop, and the last one on the last hop.
    padded = F.pad(wav, ((num_samples - hop_length) // 2,) * 2)
    if not in_parts:
        return torch.fft.rfft(padded.unfold(1, num_samples, hop_length) * window).transpose(1, 2)
    angles = _angles(num_samples, wav.device).T
    kernels = (torch.cat([angles.cos(), -angles.sin()]) * window.double()).float()[:, None]
    return torch.stack(F.conv1d(padded[:, None], kernels, stride=hop_length).chunk(2, dim=1), dim=-1)


def inverse_stft(spectrum: Tensor, frame_lens: Tensor, window: Tensor, hop_length: int) -> Tensor:
    """Map ``spectrum`` (B, N / 2 + 1, T) complex to samples (B, T hop), each utterance as if it were alone.

    The spectrum may also be (B, N / 2 + 1, T, 2), its real and imaginary parts, as `torch.view_as_real` has them.

    Frame t is centred on the hop samples from t hop on, as ``LogMelConfig`` has it with padding same. Frames beyond
    ``frame_lens`` (B,) must be finite; their samples are 0. Equal to `torch.istft` but for the place of the frames,
    which there are centred on multiples of the hop.

    Raises:
        ConfigError: the windows do not overlap by half at least, or by an odd number of samples.
    """
    num_samples, num_frames = window.numel(), spectrum.size(2)
    if not 1 <= hop_length <= num_samples // 2 or (num_samples - hop_length) % 2:
        raise ConfigError(
            f"hop_length must be at most half of the window's {num_samples} samples, and both even or both odd, "
            f"got {hop_length}"
        )
    if num_frames == 0:
        return window.new_zeros(len(spectrum), 0)
    valid = frame_mask(frame_lens, num_frames)[:, None]  # (B, 1, T)
    frames = _inverse_rfft(spectrum, num_samples) * window[:, None] * valid
    # Windows of frames beyond an utterance's end must not count in the sum it is divided by.
    envelope = _overlap_add(window.square()[:, None] * valid, hop_length)
    wav = _overlap_add(frames, hop_length) / envelope.clamp(min=MIN_ENVELOPE)
    first, length = (num_samples - hop_length) // 2, num_frames * hop_length
    return wav[:, first : first + length] * frame_mask(frame_lens * hop_length, length)


def _inverse_rfft(spectrum: Tensor, num_samples: int) -> Tensor:
    """Map a spectrum (B, N / 2 + 1, T), complex or in two parts, to samples of frames (B, N, T); N is even."""
    if spectrum.is_complex():
        return torch.fft.irfft(spectrum, num_samples, dim=1)
    angles = _angles(num_samples, spectrum.device)
    bins = torch.arange(angles.size(1), device=spectrum.device)
    # All bins but the first and the last stand for two.
    is_single = (bins == 0) | (bins == num_samples // 2)
    weights = torch.where(is_single, 1 / num_samples, 2 / num_samples)
    cosines, sines = (angles.cos() * weights).float(), (angles.sin() * weights).float()
    real, imaginary = spectrum.unbind(-1)
    return cosines @ real - sines @ imaginary


def _angles(num_samples: int, device: torch.device) -> Tensor:
    """Return (N, N / 2 + 1) float64, that of each sample in each bin, in radians."""
    places = torch.arange(num_samples, dtype=torch.float64, device=device)[:, None]
    bins = torch.arange(num_samples // 2 + 1, dtype=torch.float64, device=device)
    return places * bins * (2 * math.pi / num_samples)


def _overlap_add(frames: Tensor, hop_length: int) -> Tensor:
    """Map (B, N, T) to (B, (T - 1) hop + N)."""
    num_samples, num_frames = frames.shape[1:]
    length = (num_frames - 1) * hop_length + num_samples
    return F.fold(frames, (1, length), (1, num_samples), stride=(1, hop_length))[:, 0, 0]
