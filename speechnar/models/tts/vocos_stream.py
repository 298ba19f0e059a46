"""Vocos while log-mels come: frames in, samples out, exactly those of the whole.

Every convolution keeps the frames that its kernel still needs, so that each frame is computed once; the samples of a
hop come when all windows over them are there. `delay_frames` says how long frames are held back.

Shapes: T frames, F mel bands, D model width, S samples.
"""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.griffin_lim import reach_frames
from speechnar.models.tts.vocos import KERNEL_SIZE, Vocos, _ConvNeXtBlock

REACH = KERNEL_SIZE // 2
"""Frames on either side that a convolution needs."""


class VocoderStream:
    """One utterance, turned into samples as its frames come; put together they are those of one call."""

    def __init__(self, model: Vocos) -> None:
        self._model = model
        frontend = model.config.frontend
        self._hop_length = frontend.hop_length
        self._overlap = num_overlapping(model)
        self._blocks = [cast(_ConvNeXtBlock, block) for block in model.blocks]
        self._convs = [_ConvStream(model.embed), *(_ConvStream(block.depthwise) for block in self._blocks)]
        self._spectrum: Tensor | None = None
        """Of the frames whose windows reach into samples to come, and of those before them that they reach into."""
        self._num_settled = 0
        """Frames at the beginning of it whose own samples are out."""

    @torch.no_grad()
    def push(self, feats: Tensor) -> Tensor:
        """Take log-mels (T, F), T perhaps 0; return the samples (S,) that are certain by now."""
        return self._advance(feats[None], last=False)

    @torch.no_grad()
    def finish(self) -> Tensor:
        """Return the samples that remain; nothing can be pushed afterwards."""
        embed = self._convs[0].conv
        return self._advance(embed.weight.new_zeros(1, 0, embed.in_channels), last=True)

    def _advance(self, feats: Tensor, *, last: bool) -> Tensor:
        _, x = self._convs[0].push(feats, last=last)
        x = self._model.norm_in(x)
        for block, conv in zip(self._blocks, self._convs[1:], strict=True):
            centres, convolved = conv.push(x, last=last)
            x = block.transform(centres, convolved)
        return self._overlap_add(self._model.spectrum(x), last=last)

    def _overlap_add(self, spectrum: Tensor, *, last: bool) -> Tensor:
        held = spectrum if self._spectrum is None else torch.cat([self._spectrum, spectrum], dim=2)
        num_held, first = held.size(2), self._num_settled
        end = num_held if last else max(num_held - self._overlap, first)
        passed = max(end - self._overlap, 0)
        self._spectrum, self._num_settled = held[:, :, passed:], end - passed
        if end == first:
            return self._model.window[:0]
        wav = self._model.sound(held, torch.tensor([num_held], device=held.device))[0]
        return wav[first * self._hop_length : end * self._hop_length]


def num_overlapping(model: Vocos) -> int:
    """Return how many frames on either side, of the spectrum, the samples of a frame depend on."""
    frontend, iterations = model.config.frontend, model.config.phase_iterations
    return reach_frames(frontend.win_length, frontend.hop_length, iterations=iterations)


def delay_frames(model: Vocos) -> int:
    """Return how many frames on either side the samples of a frame depend on."""
    return REACH * (1 + len(model.blocks)) + num_overlapping(model)


class _ConvStream:
    """A convolution over time with zeros at both ends, by pieces."""

    def __init__(self, conv: nn.Conv1d) -> None:
        self.conv = conv
        self._held = conv.weight.new_zeros(1, REACH, conv.in_channels)

    def push(self, x: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """Take (1, T, C); return the frames whose surroundings are known now, before and after the convolution."""
        x = torch.cat([self._held, x], dim=1)
        if last:
            x = F.pad(x, (0, 0, 0, REACH))
        num_out = max(x.size(1) - 2 * REACH, 0)
        self._held = x[:, num_out:]
        centres = x[:, REACH : REACH + num_out]
        if num_out == 0:
            return centres, x.new_zeros(1, 0, self.conv.out_channels)
        conv = self.conv
        convolved = F.conv1d(x.transpose(1, 2), conv.weight, conv.bias, groups=conv.groups)
        return centres, convolved.transpose(1, 2)
