"""CTC head: encoder frames to log-probabilities, and the CTC loss.

Shapes: B utterances, T frames, D model width, V vocabulary (blank included), U tokens.
Source: Graves et al., "Connectionist Temporal Classification", ICML 2006, sections 3 and 4.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.lengths import valid_mask

LOGITS_AT_ONCE = 2**18
"""A megabyte: what a core's cache holds."""
FRAMES_AT_ONCE = 192
"""Fewer are slower, as the head's weights are read for each part; all of 30 s at once are, too."""
FRAMES_ON_GPU = 2048
CLASSES_OF_BLOCK = 256
"""Of which the largest is found together."""
NEVER = -1e4
"""The logarithm of as good as nothing; of nothing, gradients would not be numbers."""


class CtcHead(nn.Module):
    """One linear layer over encoder frames; every recogniser in this package shares it."""

    def __init__(self, model_dim: int, vocab_size: int, *, blank_id: int = 0) -> None:
        super().__init__()
        if not 0 <= blank_id < vocab_size:
            raise ConfigError(f"blank_id must lie in [0, {vocab_size}), got {blank_id}")
        self.blank_id = blank_id
        self.proj = nn.Linear(model_dim, vocab_size)

    def forward(self, enc: Tensor) -> Tensor:
        """Map ``enc`` (B, T, D) to log-probabilities (B, T, V), float32 under any autocast."""
        return self.proj(enc).log_softmax(dim=-1, dtype=torch.float32)

    def loss(self, log_probs: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Return nats per utterance (B,), float32; 0 where U tokens cannot fit T frames (`fits` counts those)."""
        return F.ctc_loss(
            log_probs.transpose(0, 1), tokens, enc_lens, token_lens, self.blank_id, reduction="none", zero_infinity=True
        )

    def nats(self, enc: Tensor, enc_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Return the `loss` of what ``enc`` (B, T, D) is mapped to, without a tensor of all (B, T, V) and sooner.

        A path visits only the blank and the tokens of its text. The recursions are run over these alone; what all of
        them lack to be probabilities among the whole vocabulary is added for each frame.
        """
        visited = self.visit(enc, tokens, token_lens)
        log_probs = visited.logits.log_softmax(2)
        among_visited = F.ctc_loss(
            log_probs.transpose(0, 1), visited.classes, enc_lens, token_lens, 0, reduction="none", zero_infinity=True
        )
        lacking = self._normalizers(enc) - visited.logits.logsumexp(2)
        lacking = lacking.where(valid_mask(enc_lens, enc.size(1)), 0.0).sum(1)
        return (among_visited + lacking).where(fits(enc_lens, tokens, token_lens), 0.0)

    def visit(self, enc: Tensor, tokens: Tensor, token_lens: Tensor) -> "VisitedClasses":
        """Return what paths of each text can visit in frames ``enc`` (B, T, D); paddings may hold anything."""
        is_token = torch.arange(tokens.size(1), device=tokens.device) < token_lens[:, None]
        names = F.pad(tokens.where(is_token, self.blank_id), (1, 0), value=self.blank_id)
        # A repeated token is one class: that of its first place.
        classes = (names[:, :, None] == names[:, None, :]).int().argmax(2)
        is_unused = classes != torch.arange(names.size(1), device=names.device)
        logits = torch.baddbmm(self.proj.bias[names][:, None], enc, self.proj.weight[names].transpose(1, 2))
        return VisitedClasses(logits.float().masked_fill(is_unused[:, None], NEVER), classes[:, 1:], names)

    def best(self, enc: Tensor) -> Tensor:
        """Return the class (B, T) of the largest log-probability in each frame of ``enc`` (B, T, D)."""
        return torch.cat([best_class(logits) for logits in self._some_logits(enc)]).view(enc.shape[:2])

    def _some_logits(self, enc: Tensor) -> Iterator[Tensor]:
        """Yield the logits (N, V) of some rows of ``enc`` (B, T, D) after others, float32."""
        least = FRAMES_AT_ONCE if enc.device.type == "cpu" else FRAMES_ON_GPU
        num_rows = max(least, LOGITS_AT_ONCE // self.proj.out_features)
        for part in torch.split(enc.flatten(0, 1), num_rows):
            yield self.proj(part).float()

    def _normalizers(self, enc: Tensor) -> Tensor:
        """Return the logarithm of the sum of exponentials of all logits of each frame, (B, T)."""
        device = enc.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else enc.dtype
        given = (x.to(dtype) for x in (enc.flatten(0, 1), self.proj.weight, self.proj.bias))
        with torch.autocast(device, enabled=False):
            sums: Tensor = _LogSumExpOfLinear.apply(*given)  # type: ignore[no-untyped-call]
        return sums.view(enc.shape[:2])


@dataclass(frozen=True)
class BestClasses:
    """The best class of each frame."""

    classes: Tensor
    """(B, T) int64"""
    scores: Tensor
    """(B, T) float32, its log-probability."""
    picked: Tensor
    """(B, T, L) float32, the log-probabilities of the classes that were asked for."""


@dataclass(frozen=True)
class CtcPosteriors:
    """What a CTC head says of frames, computed when it is asked for: of a large vocabulary, it is most of the work."""

    head: CtcHead
    enc: Tensor
    """(B, T, D)"""

    @cached_property
    def log_probs(self) -> Tensor:
        """All log-probabilities (B, T, V), float32."""
        with self._mode:
            log_probs: Tensor = self.head(self.enc)
            return log_probs

    @torch.no_grad()
    def best(self, picked: Tensor | None = None) -> BestClasses:
        """Return the best class of each frame without `log_probs`; of the classes ``picked`` (L,) what those say."""
        columns = torch.zeros(0, dtype=torch.int64, device=self.enc.device) if picked is None else picked
        found = []
        with self._mode:
            for logits in self.head._some_logits(self.enc):
                classes = best_class(logits)
                best = classes[:, None]
                # Of the best class, the softmax is one over the sum of exponentials; `logsumexp` takes twice as long.
                scores = logits.softmax(1).gather(1, best).log()
                normalizers = logits.gather(1, best) - scores
                found.append((classes, scores.squeeze(1), logits[:, columns] - normalizers))
            return BestClasses(*(self._of_frames(parts) for parts in zip(*found, strict=True)))

    @property
    def _mode(self) -> AbstractContextManager[None]:
        """The mode that ``enc`` was computed in, which may have ended."""
        return torch.inference_mode() if self.enc.is_inference() else nullcontext()

    def fed_into(self, layer: nn.Module) -> Tensor:
        """Return what ``layer`` makes of the probabilities (B, T, V), in the type of ``enc``.

        Without gradients the probabilities of all frames are never in memory together, but in a graph that is exported,
        which does not know how many there are.
        """
        if torch.is_grad_enabled() or torch.compiler.is_exporting():
            fed: Tensor = layer(self.log_probs.exp().to(self.enc.dtype))
            return fed
        parts = (logits.softmax(1).to(self.enc.dtype) for logits in self.head._some_logits(self.enc))
        return self._of_frames([layer(part) for part in parts])

    def _of_frames(self, parts: Sequence[Tensor]) -> Tensor:
        """Join rows (N, ...) to (B, T, ...)."""
        rows = torch.cat(list(parts))
        return rows.view(*self.enc.shape[:2], *rows.shape[1:])


@dataclass(frozen=True)
class VisitedClasses:
    """The logits of a text's own tokens and the blank, which is class 0."""

    logits: Tensor
    """(B, T, U + 1) float32; `NEVER` for a token that has another class already, and for padding."""
    classes: Tensor
    """(B, U) int64, of each token; equal tokens have the same, and padding has the blank's."""
    names: Tensor
    """(B, U + 1) int64, the token of each class."""


class _LogSumExpOfLinear(torch.autograd.Function):
    """Rows x (N, D) to the logsumexp (N,) of their logits: some rows at once, whose logits stay in the cache.

    The backward pass computes logits again, which takes less time than to read and write all of them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        parts = [F.linear(part, weight, bias).float().logsumexp(1) for part in _cut_rows(x, weight)]
        sums = torch.cat(parts)
        ctx.save_for_backward(x, weight, bias, sums)
        return sums

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias, sums = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grad_weight, grad_bias = (torch.zeros_like(y, dtype=torch.float32) for y in (weight, bias))
        all_rows = (_cut_rows(y, weight) for y in (x, sums, grads[0], grad_x))
        for rows, sums_of_rows, grad, grad_rows in zip(*all_rows, strict=True):
            probs = F.linear(rows, weight, bias).float().sub_(sums_of_rows[:, None]).exp_().mul_(grad[:, None])
            grad_bias += probs.sum(0)
            probs = probs.to(weight.dtype)
            grad_rows.copy_(probs @ weight)
            grad_weight += probs.T @ rows
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def best_class(logits: Tensor) -> Tensor:
    """Return the class (N,) of the largest of ``logits`` (N, V), the first of equals.

    `argmax` counts along, one by one; the largest of a block is found many at once, and its place in that block alone.
    """
    num_classes = logits.size(1)
    last = num_classes - num_classes % CLASSES_OF_BLOCK
    if last == 0:
        return logits.argmax(1)
    peaks = logits.unfold(1, CLASSES_OF_BLOCK, CLASSES_OF_BLOCK).amax(2)
    if last < num_classes:
        peaks = torch.cat([peaks, logits[:, last:].amax(1, keepdim=True)], dim=1)
    within = torch.arange(CLASSES_OF_BLOCK, device=logits.device)
    places = (peaks.argmax(1, keepdim=True) * CLASSES_OF_BLOCK + within).clamp_(max=num_classes - 1)
    return places.gather(1, logits.gather(1, places).argmax(1, keepdim=True)).squeeze(1)


def _cut_rows(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    """Cut ``x`` (N, ...) into views of so many rows that their logits stay in the cache."""
    return torch.split(x, max(LOGITS_AT_ONCE // weight.size(0), 1))


def fits(enc_lens: Tensor, tokens: Tensor, token_lens: Tensor) -> Tensor:
    """Return bool (B,): True where a CTC path exists, that is T >= U + the number of immediate repeats."""
    inside = torch.arange(tokens.size(1), device=tokens.device)[1:] < token_lens[:, None]
    repeats = ((tokens[:, 1:] == tokens[:, :-1]) & inside).sum(1)
    return enc_lens >= token_lens + repeats
