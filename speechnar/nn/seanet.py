"""SEANet: samples to latents at a low rate by strided convolutions, and back by transposed ones.

Shapes: B utterances, S samples (or steps at a rate between), T frames, C channels of a layer, D latent channels.
Sources: Tagliasacchi et al., "SEANet", Interspeech 2020; Défossez et al., "High Fidelity Neural Audio Compression",
TMLR 2023 (EnCodec), section 3.1. Layers stand in the order of audiocraft's ``SEANetEncoder`` and ``SEANetDecoder``
(not causal, zero padding), so that its checkpoints can be read.
"""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from speechnar.errors import ConfigError
from speechnar.nn.lengths import valid_mask

KERNEL_SIZE = 7
"""Of the first and the last convolution."""
RESIDUAL_KERNEL_SIZE = 3
ELU_GAIN = 1.55
"""One over the mean square of ELU of a normal variable."""
AnyConv = TypeVar("AnyConv", nn.Conv1d, nn.ConvTranspose1d)
RESIDUAL_SCALE, OUTPUT_SCALE = 0.3, 0.1
"""Of what residual blocks add at first, and of the samples."""
COMPRESS = 2
"""A residual block is narrower than what it adds to by this."""


class SeanetEncoder(nn.Module):
    """Samples to latents, one for every ``hop_length`` samples.

    Args:
        ratios: how much each block slows down, in the order of the decoder: the last one is the encoder's first.
        latent_dim: channels of a latent.
        num_filters: channels at the rate of the samples; each block doubles them.
        num_residual_layers: residual blocks before each strided convolution.
        lstm_layers: recurrent layers at the rate of the latents.
    """

    def __init__(
        self,
        ratios: Sequence[int],
        *,
        latent_dim: int,
        num_filters: int,
        num_residual_layers: int = 1,
        lstm_layers: int = 0,
    ) -> None:
        super().__init__()
        _check(ratios)
        width = num_filters
        layers: list[nn.Module] = [_Conv(1, width, KERNEL_SIZE)]
        for ratio in reversed(ratios):
            layers += [_Residual(width, 2**index) for index in range(num_residual_layers)]
            layers += [nn.ELU(), _Conv(width, 2 * width, 2 * ratio, stride=ratio)]
            width *= 2
        if lstm_layers:
            layers.append(_Recurrent(width, lstm_layers))
        layers += [nn.ELU(), _Conv(width, latent_dim, KERNEL_SIZE)]
        self.layers = nn.ModuleList(layers)

    def forward(self, wav: Tensor, wav_lens: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ``wav`` (B, S) to latents (B, T, D), T = ceil(S / hop_length), and their lengths (B,).

        Args:
            wav: beyond the lengths it may hold anything.
            wav_lens: (B,); None: all are S long, and so are the lengths returned.
        """
        x, lens = _run(self.layers, wav[:, None], wav_lens)
        return _clear(x, lens).transpose(1, 2), lens


class SeanetDecoder(nn.Module):
    """Latents to samples, ``hop_length`` for each; arguments as of `SeanetEncoder`."""

    def __init__(
        self,
        ratios: Sequence[int],
        *,
        latent_dim: int,
        num_filters: int,
        num_residual_layers: int = 1,
        lstm_layers: int = 0,
    ) -> None:
        super().__init__()
        _check(ratios)
        width = num_filters * 2 ** len(ratios)
        layers: list[nn.Module] = [_Conv(latent_dim, width, KERNEL_SIZE)]
        if lstm_layers:
            layers.append(_Recurrent(width, lstm_layers))
        for ratio in ratios:
            layers += [nn.ELU(), _TransposedConv(width, width // 2, 2 * ratio, stride=ratio)]
            width //= 2
            layers += [_Residual(width, 2**index) for index in range(num_residual_layers)]
        layers += [nn.ELU(), _Conv(width, 1, KERNEL_SIZE, scale=OUTPUT_SCALE)]
        self.layers = nn.ModuleList(layers)

    def forward(self, latents: Tensor, latent_lens: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ``latents`` (B, T, D), anything beyond their lengths, to samples (B, T hop_length) and lengths (B,).

        Samples beyond the lengths are 0. ``latent_lens`` None: all are T long, and so are the lengths returned.
        """
        x, lens = _run(self.layers, latents.transpose(1, 2), latent_lens)
        return _clear(x, lens)[:, 0], lens


def _check(ratios: Sequence[int]) -> None:
    if not ratios or any(ratio < 1 for ratio in ratios):
        raise ConfigError(f"ratios must be at least one number, each 1 or more; got {list(ratios)}")


def _run(layers: nn.ModuleList, x: Tensor, lens: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Map ``x`` (B, C, S) and lengths (B,) through ``layers``; whatever looks beyond its own step, sees zeros there."""
    for layer in layers:
        if isinstance(layer, nn.ELU):
            x = layer(x)
        else:
            x, lens = layer(x, lens)
    return x, lens


def _clear(x: Tensor, lens: Tensor | None) -> Tensor:
    """Return ``x`` (B, C, S) with zeros beyond ``lens``."""
    return x if lens is None else x.masked_fill(~valid_mask(lens, x.size(2))[:, None], 0.0)


class _Conv(nn.Module):
    """Convolution whose last window is full: S steps become ceil(S / stride)."""

    def __init__(
        self, before: int, after: int, kernel_size: int, *, stride: int = 1, dilation: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = (kernel_size - 1) * dilation + 1 - stride
        conv = nn.Conv1d(before, after, kernel_size, stride, dilation=dilation)
        self.conv = weight_norm(_initialized(conv, before * kernel_size, scale))

    def forward(self, x: Tensor, lens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        right = self.padding // 2
        extra = -x.size(2) % self.stride
        y: Tensor = self.conv(F.pad(_clear(x, lens), (self.padding - right, right + extra)))
        return y, None if lens is None else (lens + self.stride - 1) // self.stride


class _TransposedConv(nn.Module):
    """Transposed convolution that makes ``stride`` steps of each."""

    def __init__(self, before: int, after: int, kernel_size: int, *, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.padding = kernel_size - stride
        conv = nn.ConvTranspose1d(before, after, kernel_size, stride)
        self.conv = weight_norm(_initialized(conv, before * kernel_size // stride, 1.0))

    def forward(self, x: Tensor, lens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        right = self.padding // 2
        y: Tensor = self.conv(_clear(x, lens))
        y = y[:, :, self.padding - right : y.size(2) - right]
        return y, None if lens is None else lens * self.stride


class _Residual(nn.Module):
    """Adds what two convolutions make of its input."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        hidden = width // COMPRESS
        convs = [
            _Conv(width, hidden, RESIDUAL_KERNEL_SIZE, dilation=dilation),
            _Conv(hidden, width, 1, scale=RESIDUAL_SCALE),
        ]
        self.block = nn.ModuleList([nn.ELU(), convs[0], nn.ELU(), convs[1]])

    def forward(self, x: Tensor, lens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        y, _ = _run(self.block, x, lens)
        return x + y, lens


class _Recurrent(nn.Module):
    """Adds what an LSTM makes of the steps up to each."""

    def __init__(self, width: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, num_layers)

    def forward(self, x: Tensor, lens: Tensor | None) -> tuple[Tensor, Tensor | None]:
        x = _clear(x, lens)
        with torch.autocast(x.device.type, enabled=False):  # in half precision its errors add up over time
            y, _ = self.lstm(x.float().permute(2, 0, 1))
        return x + y.permute(1, 2, 0), lens


def _initialized(conv: AnyConv, num_inputs: int, scale: float) -> AnyConv:
    """Draw the weights of ``conv`` so that what ELU leaves of unit variance comes out with deviation ``scale``.

    By torch's own choice, less than a thousandth of the differences between sounds would pass through encoder and
    decoder, and hundreds of steps are lost until some do.
    """
    nn.init.normal_(conv.weight, std=scale * (ELU_GAIN / num_inputs) ** 0.5)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)
    return conv


def hop_length(ratios: Sequence[int]) -> int:
    """Return the samples of a latent."""
    return math.prod(ratios)
