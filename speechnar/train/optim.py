"""AdamW, which parameters it decays, and the learning rate as a pure function of the step."""

import math
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from speechnar.config import Config
from speechnar.errors import ConfigError

LR_SHARE = "lr_share"
"""Of an optimiser's group: its learning rate as a share of that of the step."""


class InverseSqrtSchedule(Config):
    """Linear warm-up, then the peak times ``sqrt(warmup_steps / step)`` (Vaswani et al. 2017, equation 3)."""

    kind: Literal["inv_sqrt"] = "inv_sqrt"
    warmup_steps: PositiveInt = 10_000

    def share(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 1) as a share of the peak."""
        return min(step / self.warmup_steps, math.sqrt(self.warmup_steps / step))


class PiecewiseLinearSchedule(Config):
    """Straight lines from (0, 0) through the knots, then inverse square root (Peng et al. 2024, OWSM-CTC)."""

    kind: Literal["piecewise_linear"] = "piecewise_linear"
    knots: tuple[tuple[PositiveInt, NonNegativeFloat], ...] = ((30_000, 0.25), (60_000, 1.0))
    """(step, share of the peak), steps rising, the last share 1; the default is OWSM-CTC's."""

    @model_validator(mode="after")
    def _check(self) -> "PiecewiseLinearSchedule":
        steps = [step for step, _ in self.knots]
        if not steps or steps != sorted(set(steps)) or self.knots[-1][1] != 1.0:
            raise ValueError("knots must have rising steps and end with a share of 1.0")
        return self

    def share(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 1) as a share of the peak."""
        start, low = 0, 0.0
        for end, high in self.knots:
            if step <= end:
                return low + (high - low) * (step - start) / (end - start)
            start, low = end, high
        return math.sqrt(start / step)


class CosineSchedule(Config):
    """Linear warm-up to the peak, then half a cosine down to a floor; good for short runs of a known length."""

    kind: Literal["cosine"] = "cosine"
    warmup_steps: PositiveInt = 500
    total_steps: PositiveInt
    """The floor is reached here and kept."""
    floor: float = Field(default=0.01, ge=0, le=1)
    """As a share of the peak."""

    @model_validator(mode="after")
    def _check(self) -> "CosineSchedule":
        if self.total_steps <= self.warmup_steps:
            raise ValueError(f"total_steps must exceed warmup_steps={self.warmup_steps}, got {self.total_steps}")
        return self

    def share(self, step: int) -> float:
        """Return the learning rate of ``step`` (from 1) as a share of the peak."""
        if step <= self.warmup_steps:
            return step / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


class OptimConfig(Config):
    """AdamW and its schedule; betas and eps are those of OWSM-CTC (Peng et al. 2024)."""

    lr: PositiveFloat = 1e-3
    """The peak of the schedule."""
    betas: tuple[float, float] = (0.9, 0.98)
    eps: PositiveFloat = 1e-6
    weight_decay: NonNegativeFloat = 0.01
    """Of matrices only: norms, biases and position tables are never decayed."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Of a pretrained encoder's layers: each learns at this share of the rate of the one above it; 1: all alike.

    Source: Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification", ACL 2018, section 3.2.
    """
    schedule: Annotated[InverseSqrtSchedule | PiecewiseLinearSchedule | CosineSchedule, Field(discriminator="kind")] = (
        InverseSqrtSchedule()
    )

    @model_validator(mode="after")
    def _check(self) -> "OptimConfig":
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must lie in [0, 1), got {self.betas}")
        return self

    def lr_at(self, step: int) -> float:
        """Return the learning rate of the ``step``-th update, counted from 1."""
        return self.lr * self.schedule.share(step)


@runtime_checkable
class HasDepths(Protocol):
    """A model, or a pretrained part of one, whose layers may learn the more slowly the deeper they lie."""

    def depth_of(self, name: str) -> int:
        """Return how many layers lie above the parameter ``name``."""


def build_optimizer(model: nn.Module, config: OptimConfig, prefix: str = "") -> torch.optim.AdamW:
    """Make AdamW over the parameters of ``model`` that require gradients, decayed and undecayed in two groups.

    Only those whose names begin with ``prefix`` are in it. With ``layer_decay`` there are two groups for each layer of
    a pretrained encoder, whose depth ``model.depth_of(name)`` tells, with a share of the rate of their own.

    Raises:
        ConfigError: no parameter requires a gradient.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad and name.startswith(prefix)]
    if not trained:
        part = f" {prefix}*" if prefix else ""
        raise ConfigError(f"the model has no parameter{part} that requires a gradient; nothing can be trained")
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in trained:
        depth = model.depth_of(name) if config.layer_decay < 1 and isinstance(model, HasDepths) else 0
        groups.setdefault((depth, not _is_decayed(name, parameter)), []).append(parameter)
    settings = [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_exempt else config.weight_decay,
            LR_SHARE: config.layer_decay**depth,
        }
        for (depth, is_exempt), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]
    optimizer = torch.optim.AdamW(settings, lr=config.lr_at(1), betas=config.betas, eps=config.eps, fused=True)
    set_lr(optimizer, config.lr_at(1))
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Use ``lr`` for the next update, and of groups that have a share of it, that."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(LR_SHARE, 1.0)


def _is_decayed(name: str, parameter: nn.Parameter) -> bool:
    leaf = name.rpartition(".")[2]
    return parameter.dim() >= 2 and "bias" not in leaf and not leaf.startswith("pos")


def build_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Copy ``model`` into a running average of its weights: ``ema = d * ema + (1 - d) * weights`` at every update.

    ``d`` is ``min(decay, (1 + n) / (10 + n))`` at update n, so that a short run forgets its random start. The first
    update copies; buffers are always copies.
    """

    def average(averaged: Any, current: Any, count: Any) -> None:
        num_updates = int(count)
        torch._foreach_lerp_(averaged, current, 1 - min(decay, (1 + num_updates) / (10 + num_updates)))

    ema = AveragedModel(model, multi_avg_fn=average)
    ema.requires_grad_(False)
    return ema.eval()
