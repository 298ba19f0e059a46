"""Masked codes, filled in a few parallel steps: the schedules of MAGNeT, its span masks, and its decoding.

The codebooks are filled one after another. In each, every step predicts all spans that are masked, and keeps the most
confident; what is kept once stays.

Shapes: B utterances, K codebooks, T frames, C spans (chunks of frames that are masked together), M masked frames,
V codes of a codebook.
Source: Ziv et al., "Masked Audio Generation using a Single Non-Autoregressive Transformer" (MAGNeT), ICLR 2024,
sections 3.1 (spans), 3.3 (rescoring, guidance) and appendix C (mean rate of masks); details as audiocraft's
``MagnetLMModel`` and its solver.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from speechnar.config import Config
from speechnar.errors import ConfigError, ShapeError

KEPT_SCORE = -1e4
"""Of spans that are not to be masked again."""
MIN_TEMPERATURE = 0.01
EPSILON = 1e-6
"""A weight of the condition that differs less from 1 is 1, as in the last step of a codebook."""


class MaskPredictConfig(Config):
    """How masked codes are filled; the defaults are MAGNeT's for music of 10 s."""

    steps: tuple[PositiveInt, ...] = Field(default=(20, 10, 10, 10), min_length=1)
    """Network evaluations in each codebook."""
    temperature: PositiveFloat = 3.0
    """At the first step of a codebook; it falls to 0 at the last."""
    top_p: float = Field(default=0.9, gt=0, le=1)
    """Codes are drawn from the most probable ones that have this share together."""
    guidance: tuple[NonNegativeFloat, NonNegativeFloat] = (10.0, 1.0)
    """Weight of the condition while all is masked, and in the end; 1 is none beyond it."""


class Predictor(Protocol):
    """What predicts masked codes."""

    mask_id: int
    """Stands for a code that is not known: V."""

    def begin(self, codes: Tensor, codebook: int) -> None:
        """Prepare for a codebook of ``codes`` (B, K, T), those below which are complete; known frames are in all."""

    def __call__(
        self, codes: Tensor, codebook: int, positions: Tensor, *, is_guided: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits (B, M, V) float32 at ``positions`` (B, M), with the condition and without (None: not needed).

        Args:
            codes: (B, K, T), ``mask_id`` where masked and in all codebooks above, but for known frames.
            codebook: which is being filled.
            positions: frames that are masked, rising.
            is_guided: False where those without the condition will not be looked at.
        """


Rescore = Callable[[Tensor, int, Tensor], Tensor]
"""Of ``codes`` (B, K, T), the codebook and ``positions`` (B, M): probabilities (B, M) of the codes there."""
Progress = Callable[[int, int], None]
"""Told how many steps are done, and how many there are."""
Watch = Callable[[Tensor, Tensor], None]
"""Shown ``codes`` (B, K, T) after a step, the mask's id where nothing was tried yet, and bool (B, K, T): True where a
code stays, False where it is a draft that the next step may mask again."""


@lru_cache(maxsize=64)
def span_starts(num_frames: int, span_len: int) -> tuple[int, ...]:
    """Return how many starts of spans mask 0, 1, ... 100 % of ``num_frames`` on average (appendix C).

    With n starts drawn without replacement, the mean rate is 1 - C(T - L, n) / C(T, n).
    """
    if not 1 <= span_len < num_frames:
        raise ConfigError(f"span_len must lie in [1, {num_frames}), the frames of a window; got {span_len}")
    rates, left = [0.0], (num_frames - span_len) / num_frames
    for count in range(1, num_frames):
        rates.append(1 - left)
        left *= (num_frames - span_len - count) / (num_frames - count)
    return tuple(int(np.searchsorted(rates, percent / 100)) for percent in range(101))


def draw_spans(rates: Tensor, num_frames: int, span_len: int, generator: torch.Generator | None = None) -> Tensor:
    """Return bool (B, T), True in random spans that mask a share ``rates`` (B,) on average; one span at least.

    Spans may overlap, and end with the last frame.
    """
    device = rates.device
    table = torch.tensor(span_starts(num_frames, span_len), device=device)
    counts = table[(100 * rates).round().long()].clamp(min=1)
    ranks = torch.rand(len(rates), num_frames, generator=generator, device=device).argsort(1)
    mask = starts = ranks < counts[:, None]
    for shift in range(1, span_len):
        mask = mask | torch.nn.functional.pad(starts, (shift, 0))[:, :num_frames]
    return mask


def masked_share(num_steps: int) -> list[float]:
    """Return the share of spans that is masked at each step: a quarter of a cosine, 1 to 0; 1 if there is one step.

    Differs from audiocraft, which computes it in single precision: half of 166 spans may be 82 there.
    """
    return [math.cos(step / max(num_steps - 1, 1) * math.pi * 0.5) for step in range(num_steps)]


def masked_chunks(num_chunks: int, num_steps: int) -> list[int]:
    """Return the spans that are masked at each step, out of ``num_chunks``; one at least."""
    return [max(int(share * num_chunks), 1) for share in masked_share(num_steps)]


def temperatures(start: float, num_steps: int) -> list[float]:
    """Return the temperature of each step, which falls evenly to 0."""
    return [start * (num_steps - 1 - step) / num_steps for step in range(num_steps)]


def guidances(start: float, end: float, num_steps: int) -> list[float]:
    """Return the weight of the condition at each step, which falls with the share that is masked."""
    return [share * start + (1 - share) * end for share in masked_share(num_steps)]


def draw_codes(probs: Tensor, uniforms: Tensor, top_p: float) -> Tensor:
    """Return the codes (B, M) that ``uniforms`` (B, M) in [0, 1) pick from the most probable of ``probs`` (B, M, V)."""
    ordered, ids = probs.sort(dim=-1, descending=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before > top_p, 0.0)
    sums = ordered.cumsum(-1)
    picks = (sums <= uniforms[..., None] * sums[..., -1:]).sum(-1, keepdim=True)
    last = (ordered > 0).sum(-1, keepdim=True) - 1
    return ids.gather(-1, picks.minimum(last))[..., 0]


@torch.no_grad()
def mask_predict(
    predict: Predictor,
    codes: Tensor,
    known: Tensor,
    config: MaskPredictConfig,
    *,
    span_len: int,
    generators: Sequence[torch.Generator],
    rescore: Rescore | None = None,
    rescore_weight: float = 0.5,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Return ``codes`` (B, K, T) with all that is not known filled in.

    Args:
        predict: the network.
        codes: (B, K, T); where not known they may be anything.
        known: bool (T,), True where all utterances have codes that are to stay.
        config: how.
        span_len: frames of a span; T is a multiple of it.
        generators: on the CPU, one for each utterance: what it becomes depends on no other.
        rescore: another model's probabilities, mixed with the network's own in the choice of what to keep, in the first
            codebook.
        rescore_weight: their share.
        progress: called after each step.
        watch: likewise, before it.

    Raises:
        ShapeError: shapes or the number of generators do not fit.
        ConfigError: there are not as many numbers of steps as codebooks, or all is known.
    """
    batch, num_codebooks, num_frames = codes.shape
    if known.shape != (num_frames,) or num_frames % span_len or len(generators) != batch:
        raise ShapeError(
            f"need known (T,), T a multiple of {span_len}, and a generator for each of {batch} utterances; got codes "
            f"{tuple(codes.shape)}, known {tuple(known.shape)} and {len(generators)} generators"
        )
    if len(config.steps) != num_codebooks:
        raise ConfigError(f"steps must be one number for each of {num_codebooks} codebooks, got {list(config.steps)}")
    if bool(known.all()):
        raise ConfigError("all codes are known, there is nothing to generate")
    codes = torch.where(known, codes, predict.mask_id)
    done = 0
    for codebook, num_steps in enumerate(config.steps):
        filler = _Filler(predict, codes, codebook, known, span_len)
        masked = filler.masked_chunks(num_steps)
        schedule = zip(
            masked,
            [*masked[1:], 0],
            temperatures(config.temperature, num_steps),
            guidances(*config.guidance, num_steps),
            strict=True,
        )
        for num_masked, num_drafts, temperature, guidance in schedule:
            uniforms = torch.stack([torch.rand(num_frames, generator=generator) for generator in generators])
            filler.step(
                num_masked,
                max(temperature, MIN_TEMPERATURE),
                guidance,
                uniforms.to(codes.device),
                config.top_p,
                rescore=rescore if codebook == 0 else None,
                rescore_weight=rescore_weight,
            )
            done += 1
            if watch is not None:
                watch(codes, filler.stays(num_drafts))
            if progress is not None:
                progress(done, sum(config.steps))
    return codes


class _Filler:
    """One codebook of ``codes``, in which it writes."""

    def __init__(self, predict: Predictor, codes: Tensor, codebook: int, known: Tensor, span_len: int) -> None:
        self.predict = predict
        self.codes = codes
        self.codebook = codebook
        self.known = known
        self.original = codes[:, codebook].clone()
        self.span_len = span_len
        self.is_kept = known.view(-1, span_len).all(1)
        self.num_free = int((~self.is_kept).sum())
        self.scores = torch.zeros(len(codes), len(self.is_kept), device=codes.device)
        self.scores[:, self.is_kept] = KEPT_SCORE
        predict.begin(codes, codebook)

    def masked_chunks(self, num_steps: int) -> list[int]:
        return masked_chunks(self.num_free, num_steps)

    def stays(self, num_drafts: int) -> Tensor:
        """Return bool (B, K, T): all below this codebook, all known, and in it all but ``num_drafts`` spans."""
        stays = self.known.expand(self.codes.shape).clone()
        stays[:, : self.codebook] = True
        drafts = torch.zeros_like(self.scores, dtype=torch.bool)
        drafts.scatter_(1, self.scores.topk(num_drafts, dim=1).indices, True)
        stays[:, self.codebook] |= ~drafts.repeat_interleave(self.span_len, dim=1)
        return stays

    def step(
        self,
        num_masked: int,
        temperature: float,
        guidance: float,
        uniforms: Tensor,
        top_p: float,
        *,
        rescore: Rescore | None,
        rescore_weight: float,
    ) -> None:
        """Mask the spans of the highest scores, fill them, and score them anew."""
        current = self.codes[:, self.codebook]
        chunks = self.scores.topk(num_masked, dim=1).indices.sort(1).values
        frames = torch.arange(self.span_len, device=chunks.device)
        positions = (chunks[..., None] * self.span_len + frames).flatten(1)  # (B, M)
        current.scatter_(1, positions, self.predict.mask_id)
        current.copy_(torch.where(self.known, self.original, current))
        is_guided = abs(guidance - 1) > EPSILON
        logits, unconditional = self.predict(self.codes, self.codebook, positions, is_guided=is_guided)
        if is_guided and unconditional is not None:
            logits = unconditional + (logits - unconditional) * guidance
        probs = (logits.float() / temperature).softmax(-1)
        picks = draw_codes(probs, uniforms.gather(1, positions), top_p)
        chosen = probs.gather(-1, picks[..., None])[..., 0]
        current.scatter_(1, positions, picks)
        current.copy_(torch.where(self.known, self.original, current))
        if rescore is not None:
            others = rescore(self.codes, self.codebook, positions)
            chosen = rescore_weight * others + (1 - rescore_weight) * chosen
        spans = chosen.view(len(chosen), -1, self.span_len)
        self.scores.fill_(KEPT_SCORE).scatter_(1, chunks, 1 - spans.amax(2))
