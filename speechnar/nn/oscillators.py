"""Latents to sound by oscillators and noise: tones that go on without phases being told, and bursts.

A decoder of convolutions that is told the same again and again makes the same samples again and again: of sustained
tones without phases it can only make those whose periods fit into a frame. Oscillators that run on by themselves, their
levels told, can make any.

Shapes: B utterances, S samples, T frames, D latent channels, N oscillators, M bands of noise, R parts of a frame.
Sources: Serra and Smith, "Spectral Modeling Synthesis", Computer Music Journal 1990 (tones and filtered noise); Engel,
Hantrakul, Gu and Roberts, "DDSP", ICLR 2020, section 3 (learned through the synthesiser).
Differs from DDSP: frequencies are fixed, three to a semitone, and no pitch is tracked, so that many tones may sound
together.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.fbank import slaney_mel_matrix
from speechnar.errors import ConfigError
from speechnar.nn.lengths import valid_mask, zero_padding

PER_OCTAVE = 36
LOWEST_HZ, HIGHEST_HZ = 40.0, 7000.0
NOISE_FFT, NUM_BANDS, PARTS = 256, 32, 4
"""Window of the noise's filter in samples, its mel bands, and how often within a frame it changes."""
HIDDEN_DIM = 256
QUIET = -7.0
"""Logarithm of the levels that a new network makes."""


def frequencies(lowest: float, highest: float, per_octave: int) -> Tensor:
    """Return whole numbers of Hz (N,), rising, about ``per_octave`` to an octave; phases are as before each second."""
    num_steps = int(per_octave * torch.log2(torch.tensor(highest / lowest)))
    return torch.unique((lowest * 2.0 ** (torch.arange(num_steps + 1, dtype=torch.float64) / per_octave)).round())


class OscillatorDecoder(nn.Module):
    """Latents to samples, ``hop_length`` for each; as `speechnar.nn.seanet.SeanetDecoder`.

    In evaluation mode the noise is always the same, a second of it again and again: equal codes make equal sound.

    Args:
        sample_rate: of the samples; whole frames make a second.
        hop_length: samples of a frame.
        latent_dim: D.
    """

    table: Tensor
    """(2 N, 2 hop) sines and cosines of a frame and the next, under the triangle by which frames overlap."""
    strides: Tensor
    """(N,) int64, how far each oscillator goes in a frame: so many of ``sample_rate`` parts of a turn, exactly."""
    phases: Tensor
    """(N,) at the start, in turns."""
    noise: Tensor
    """(sample_rate,)"""
    bands: Tensor
    """(M, bins of the filter)"""
    window: Tensor
    """(NOISE_FFT,)"""

    def __init__(self, sample_rate: int, hop_length: int, latent_dim: int) -> None:
        super().__init__()
        if sample_rate % hop_length or hop_length % PARTS:
            raise ConfigError(f"frames of {hop_length} samples, in {PARTS} parts, must divide {sample_rate} samples")
        self.hop_length = hop_length
        self.sample_rate = sample_rate
        generator = torch.Generator().manual_seed(0)
        hz = frequencies(LOWEST_HZ, min(HIGHEST_HZ, 0.45 * sample_rate), PER_OCTAVE)
        angles = 2 * torch.pi * hz[:, None] * torch.arange(2 * hop_length, dtype=torch.float64) / sample_rate
        triangle = 1 - (torch.arange(2 * hop_length, dtype=torch.float64) / hop_length - 1).abs()
        table = torch.stack([angles.sin(), angles.cos()]) * triangle
        self.register_buffer("table", table.flatten(0, 1).float(), persistent=False)
        self.register_buffer("strides", hz.long() * hop_length % sample_rate, persistent=False)
        phases = torch.rand(len(hz), generator=generator, dtype=torch.float64)
        self.register_buffer("phases", phases.float(), persistent=False)
        self.register_buffer("noise", torch.randn(sample_rate, generator=generator), persistent=False)
        bands = torch.from_numpy(slaney_mel_matrix(sample_rate, NOISE_FFT, NUM_BANDS, 0.0, sample_rate / 2)).T
        self.register_buffer("bands", bands / bands.sum(0).clamp(min=1e-9), persistent=False)
        self.register_buffer("window", torch.hann_window(NOISE_FFT), persistent=False)
        self.first = nn.Conv1d(latent_dim, HIDDEN_DIM, 3, padding=1)
        self.second = nn.Conv1d(HIDDEN_DIM, HIDDEN_DIM, 3, padding=1)
        self.levels = nn.Linear(HIDDEN_DIM, len(hz) + PARTS * NUM_BANDS)
        nn.init.constant_(self.levels.bias, QUIET)

    def forward(self, latents: Tensor, latent_lens: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ``latents`` (B, T, D), anything beyond their lengths, to samples (B, T hop_length) and lengths (B,)."""
        num_frames, device = latents.size(1), latents.device
        lens = torch.full((len(latents),), num_frames, device=device) if latent_lens is None else latent_lens
        valid = valid_mask(lens, num_frames)
        x = zero_padding(latents, valid)
        for conv in (self.first, self.second):
            x = zero_padding(F.elu(conv(x.transpose(1, 2)).transpose(1, 2)), valid)
        levels = zero_padding(self.levels(x).float().exp(), valid)
        tones, noise = torch.split(levels, [len(self.strides), PARTS * NUM_BANDS], dim=2)
        with torch.autocast(device.type, enabled=False):
            wav = self._oscillate(tones) + self._rustle(noise.reshape(len(noise), -1, NUM_BANDS))
        wav = zero_padding(wav, valid_mask(lens * self.hop_length, wav.size(1)))
        return wav, None if latent_lens is None else lens * self.hop_length

    def _oscillate(self, levels: Tensor) -> Tensor:
        """Return the sum (B, S) of all oscillators, whose ``levels`` (B, T, N) are told in the middle of each frame."""
        count, hop = levels.size(1), self.hop_length
        # Frame t begins half a frame before its first sample and ends half a frame behind its last one.
        parts_gone = self.strides * torch.arange(count, device=levels.device)[:, None] % self.sample_rate
        angles = 2 * torch.pi * (self.phases + parts_gone / self.sample_rate)
        parts = torch.cat([levels * angles.cos(), levels * angles.sin()], dim=2)  # of sin(a + b)
        rising, falling = torch.split(parts @ self.table, hop, dim=2)
        wav = (F.pad(rising, (0, 0, 0, 1)) + F.pad(falling, (0, 0, 1, 0))).flatten(1)
        return wav[:, hop // 2 : hop // 2 + count * hop]

    def _rustle(self, levels: Tensor) -> Tensor:
        """Return noise (B, S) whose bands have ``levels`` (B, R T, M)."""
        hop = self.hop_length // PARTS
        size = levels.size(1) * hop
        if self.training:
            noise = torch.randn(len(levels), size, device=levels.device)
        else:
            noise = self.noise.repeat(-(-size // len(self.noise)))[:size].expand(len(levels), -1)
        spectrum = torch.stft(noise, NOISE_FFT, hop, window=self.window, return_complex=True, pad_mode="constant")
        gains = (levels @ self.bands).transpose(1, 2)  # (B, bins, R T)
        gains = F.pad(gains, (0, 1), mode="replicate")
        return torch.istft(spectrum * gains, NOISE_FFT, hop, window=self.window, length=size)
