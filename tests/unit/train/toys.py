"""A model of a few parameters and its data; as a program, a training run to kill.

Usage: python -m tests.unit.train.toys EXP_DIR SECONDS_PER_BATCH, or EXP_DIR plain, or EXP_DIR duel
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from speechnar.models.base import LossOutput, Trainable, Turn
from speechnar.train.loop import TrainConfig, TrainResult, train


@dataclass
class ToyBatch:
    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> "ToyBatch":
        return ToyBatch(self.x.to(device), self.y.to(device))


class ToyData:
    """``num_batches`` batches of 3 to 5 rows; ``spoiled`` maps (epoch, batch) to a value put into its rows."""

    def __init__(self, num_batches: int = 7, *, spoiled: dict[tuple[int, int], float] | None = None, delay_s=0.0):
        self.num_batches = num_batches
        self.spoiled = spoiled or {}
        self.delay_s = delay_s
        self.position = (0, 0)
        self.resume: tuple[int, int] | None = None

    def batches(self, epoch: int) -> Iterator[ToyBatch]:
        start = self.resume[1] if self.resume and self.resume[0] == epoch else 0
        self.resume = None
        for index in range(start, self.num_batches):
            time.sleep(self.delay_s)
            rng = np.random.default_rng((epoch, index))
            x = torch.tensor(rng.normal(size=(3 + index % 3, 4)), dtype=torch.float32)
            y = x.sum(1, keepdim=True)
            self.position = (epoch, index + 1)
            yield ToyBatch(x + self.spoiled.get((epoch, index), 0.0), y)

    def state_dict(self) -> dict[str, Any]:
        return {"position": list(self.position)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.position = self.resume = tuple(state["position"])


class ToyModel(Trainable):
    def __init__(self, *, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()
        layers = [nn.Linear(4, 8), nn.Dropout(dropout), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Linear(8, 1)]
        self.net = nn.Sequential(*layers)

    def loss(self, batch: ToyBatch) -> LossOutput:
        error = ((self.net(batch.x) - batch.y) ** 2).mean()
        return LossOutput(error, {"mse": error.detach()}, torch.tensor(float(len(batch.x))))


class ToyDuel(Trainable):
    """Two players: one wants to be where the other is, who wants to be 2 minus that. Both end at 1.

    Rows are weighed at random. Only the second player looks at them: spoiled ones spoil her turn alone.
    """

    def __init__(self, *, dropout: float = 0.2) -> None:
        super().__init__()
        self.first, self.second = nn.ParameterDict({"x": torch.zeros(1)}), nn.ParameterDict({"x": torch.zeros(1)})
        self.dropout = nn.Dropout(dropout)

    def turns(self) -> list[Turn]:
        return [Turn("first", self.first_loss, "first."), Turn("second", self.second_loss, "second.")]

    def first_loss(self, batch: ToyBatch) -> LossOutput:
        return self.weigh((self.first["x"] - self.second["x"]).square().expand(len(batch.x)))

    def second_loss(self, batch: ToyBatch) -> LossOutput:
        return self.weigh((2 - self.first["x"] - self.second["x"] + 0 * batch.x.mean(1)).square())

    def weigh(self, errors: Tensor) -> LossOutput:
        error = self.dropout(errors).mean()
        return LossOutput(error, {"error": error.detach()}, torch.tensor(float(len(errors))))

    def loss(self, batch: ToyBatch) -> LossOutput:
        return self.weigh(((self.first["x"] - 1).square() + (self.second["x"] - 1).square()).expand(len(batch.x)))


def toy_config(**changes: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "optim": {"lr": 1e-2, "schedule": {"kind": "inv_sqrt", "warmup_steps": 10}},
        "max_steps": 40,
        "device": "cpu",
        "grad_accum": 2,
        "ema_decay": 0.9,
        "log_every": 3,
        "validate_every": 10,
        "save_every": 4,
        "keep_checkpoints": 2,
    }
    return TrainConfig.model_validate({**values, **changes})


def run_toy(exp_dir: Path, delay_s: float = 0.0) -> tuple[nn.Module, TrainResult]:
    torch.manual_seed(0)
    model = ToyModel()
    return model, train(model, ToyData(delay_s=delay_s), ToyData(3), toy_config(), exp_dir)


def run_plain_toy(exp_dir: Path, grad_accum: int) -> TrainResult:
    """Run a model without randomness or batch statistics: any split of an update over processes is equal."""
    torch.manual_seed(0)
    return train(ToyModel(dropout=0.0, norm=False), ToyData(), ToyData(3), toy_config(grad_accum=grad_accum), exp_dir)


if __name__ == "__main__":
    if sys.argv[2] == "duel":
        train(ToyDuel(dropout=0.0), ToyData(), ToyData(3), toy_config(grad_accum=1), sys.argv[1])
    else:
        run_plain_toy(Path(sys.argv[1]), grad_accum=1)
