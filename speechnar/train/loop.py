"""The training loop: any `speechnar.models.base.Trainable`, on the CPU, one GPU or many.

A model of several networks that learn from each other says what each of them learns (`speechnar.models.base.Turn`):
every update takes their turns in order, on the same batches, each with an optimiser of its own.

An update's gradient is the mean over the utterances of all its batches (of every process and accumulation step), so
batches of unequal size weigh as they would in one large batch. A run killed at any moment resumes from its last
checkpoint; on the CPU the continued run equals an uninterrupted one bit for bit.
"""

import copy
import itertools
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from speechnar.config import Config
from speechnar.errors import CheckpointError, ConfigError, SpeechnarError
from speechnar.extras import needs
from speechnar.models.base import LossOutput, Trainable, Turn
from speechnar.train import checkpoint as ckpt
from speechnar.train.feed import Batch, DevData, TrainData, groups, prefetch, stream
from speechnar.train.optim import OptimConfig, build_ema, build_optimizer, set_lr
from speechnar.train.parallel import (
    Parallel,
    accumulating,
    checkpoint_blocks,
    is_sharded,
    load_optimizer_state,
    load_weights,
    local,
    optimizer_state_of,
    shard,
    weights_of,
    whole,
)
from speechnar.train.report import Entry, Reporter
from speechnar.train.validation import Evaluate, add_sums, means_of, score, validate, weighted_sums
from speechnar.train.watch import watching

with needs("train"):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, gather_object

logger = logging.getLogger(__name__)


class TrainConfig(Config):
    """How long, how precisely and how often."""

    optim: OptimConfig = OptimConfig()
    max_steps: PositiveInt | None = None
    """Updates, not batches; None trains for max_epochs."""
    max_epochs: PositiveInt | None = None
    seed: NonNegativeInt = 0
    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: autocast; weights and optimiser stay in float32. Where a processor lacks it: fp32, and a warning."""
    parallel: Parallel = "ddp"
    """Of several processes: ddp keeps the model on each, fsdp a piece of it, its gradients and its optimiser."""
    gradient_checkpointing: bool = False
    """Compute blocks again in the backward pass, instead of keeping what is in them: less memory, a third more time."""
    grad_accum: PositiveInt = 1
    """Batches in one update, on each process."""
    clip_norm: PositiveFloat | None = 5.0
    ema_decay: float | None = Field(default=None, gt=0, lt=1)
    """Keep a running average of the weights, and validate and export that."""
    log_every: PositiveInt = 50
    validate_every: PositiveInt = 1000
    save_every: PositiveInt = 500
    """Steps between checkpoints to resume from; every validation also writes one."""
    keep_checkpoints: PositiveInt = 5
    """Weights kept: those of the best validations."""
    select: str = "loss"
    """What makes a checkpoint best, lower is better: loss, one of its parts, or a metric of the evaluation.

    Or newest: the last validations, where nothing measured says what is better, as for a vocoder against adversaries.
    """
    max_nan_steps: NonNegativeInt = 50
    """Updates skipped for a loss or gradient that is not finite before the run gives up."""
    prefetch: PositiveInt = 3
    """Batches prepared ahead."""

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if self.max_steps is None and self.max_epochs is None:
            raise ValueError("set max_steps or max_epochs, or both; the run would never end")
        if self.parallel == "fsdp" and self.ema_decay is not None:
            raise ValueError("ema_decay keeps a whole model on each process; leave it out, or set parallel to ddp")
        return self


@dataclass(frozen=True)
class TrainResult:
    """What a run came to."""

    step: int
    epoch: int
    best_step: int
    best_metrics: dict[str, float]
    nan_steps: int
    history: list[Entry]


@dataclass
class TrainState:
    """Where a run is, beside the weights; plain containers, saved in every checkpoint."""

    step: int = 0
    epoch: int = 0
    nan_steps: int = 0
    seconds: float = 0.0
    data: dict[str, Any] | None = None
    """The position behind the last batch used for an update (not the last one prefetched)."""
    sums: dict[str, float] = field(default_factory=dict)
    """Weighted sums since the last logged step."""
    history: list[Entry] = field(default_factory=list)
    best: list[dict[str, Any]] = field(default_factory=list)
    """``{"step": int, "metrics": {...}}`` of the best validations, best first."""


def train(
    model: Trainable,
    train_data: TrainData,
    dev_data: DevData,
    config: TrainConfig,
    exp_dir: str | Path,
    *,
    evaluate: Evaluate | None = None,
    begins: Callable[[], None] | None = None,
) -> TrainResult:
    """Train ``model`` in place, or continue the run that ``exp_dir`` holds; return how it went.

    Written to ``exp_dir``: ``checkpoints/``, ``log.jsonl``, ``tensorboard/``, ``history.png``. ``begins`` is called
    when nothing is in the way of the first update any more.

    Raises:
        ConfigError: the model is not `Trainable`, or ``select`` names no metric.
        DataError: the training or held-out data has no batch.
        CheckpointError: the run to continue is unreadable or of another model.
        SpeechnarError: more than ``max_nan_steps`` updates were not finite.
    """
    if not isinstance(model, Trainable):
        raise ConfigError(f"to be trained, {type(model).__name__} must be a Trainable (speechnar.models.base)")
    exp_dir = Path(exp_dir)
    (exp_dir / ckpt.FOLDER).mkdir(parents=True, exist_ok=True)
    accelerator = build_accelerator(config, num_turns=len(model.turns()))
    seed_everything(config.seed + accelerator.process_index)
    _place(model, config, accelerator)
    turns = model.turns()
    run = _Run(model, turns, accelerator, config, exp_dir)
    run.resume()
    state = run.state
    if state.data is not None:
        train_data.load_state_dict(copy.deepcopy(state.data))
    losses = _LossModule(model, turns)
    wrapped = losses if is_sharded(model) else accelerator.prepare_model(losses)
    world = accelerator.num_processes
    batches = stream(train_data, state.epoch, config.max_epochs, resumed=state.data is not None)
    items = prefetch(batches, config.prefetch * world)
    steps_left = None if config.max_steps is None else max(0, config.max_steps - state.step)
    reporter = Reporter(
        exp_dir, state.history, step=state.step, max_steps=config.max_steps, writes=accelerator.is_main_process
    )
    started = time.monotonic() - state.seconds
    with closing(items), closing(reporter), watching() as watch:
        for group in itertools.islice(groups(items, config.grad_accum, world), steps_left):
            if begins is not None:
                begins()
                begins = None
            watch.step = state.step = state.step + 1
            state.epoch, state.data = group[-1].epoch, group[-1].data
            lr = config.optim.lr_at(state.step)
            run.set_lr(lr)
            # Every process reads the same stream and takes its share of it.
            loss = run.update(wrapped, [item.batch for item in group[accelerator.process_index :: world]])
            state.seconds = time.monotonic() - started
            reporter.advance(state.step, loss)
            if state.step % config.log_every == 0:
                reporter.record(run.train_entry(lr))
            if state.step % config.validate_every == 0:
                reporter.record(run.validate(dev_data, evaluate))
                run.save()
            elif state.step % config.save_every == 0:
                run.save()
        if begins is not None:
            begins()
        if not run.is_validated:
            reporter.record(run.validate(dev_data, evaluate))
            run.save()
    best: dict[str, Any] = state.best[0] if state.best else {"step": state.step, "metrics": {}}
    return TrainResult(state.step, state.epoch, best["step"], best["metrics"], state.nan_steps, state.history)


def _place(model: Trainable, config: TrainConfig, accelerator: Accelerator) -> None:
    """Bring the model, or this process's piece of it, to the device."""
    model.to(accelerator.device).train()
    if config.gradient_checkpointing:
        checkpoint_blocks(model)
    if config.parallel == "fsdp":
        if len(model.turns()) > 1:
            raise ConfigError(f"{type(model).__name__} learns in turns, which parallel fsdp does not know; use ddp")
        shard(model, accelerator)


class _Run:
    """The parts of a run that its checkpoints hold, and the operations on all of them."""

    def __init__(
        self,
        model: Trainable,
        turns: Sequence[Turn],
        accelerator: Accelerator,
        config: TrainConfig,
        exp_dir: Path,
    ) -> None:
        self.model = model
        self.turns = turns
        self.optimizers = {turn.name: build_optimizer(model, config.optim, turn.prefix) for turn in turns}
        self.accelerator = accelerator
        self.config = config
        self.folder = exp_dir / ckpt.FOLDER
        self.state = TrainState()
        self._is_last_whole = True
        self.ema: AveragedModel | None = build_ema(model, config.ema_decay) if config.ema_decay else None

    def resume(self) -> None:
        """Restore the last checkpoint, if there is one."""
        found = ckpt.load_last(self.folder)
        if found is None:
            return
        path, payload = found
        self._is_last_whole = path.name == ckpt.LAST
        try:
            self.state = TrainState(**payload["state"])
            load_weights(self.model, payload["model"])
            # Runs older than turns have one optimiser.
            states = payload["optimizers"] if "optimizers" in payload else {"all": payload["optimizer"]}
            for name, optimizer in self.optimizers.items():
                load_optimizer_state(self.model, optimizer, states[name])
            if self.ema is not None:
                self.ema.module.load_state_dict(payload["ema"] or payload["model"])
                self.ema.n_averaged.fill_(payload["ema_updates"])
            world = self.accelerator.num_processes
            if world != len(payload["rng"]):
                logger.warning(
                    "%s: was left by %d processes and goes on with %d: the data go on where they were, but batches are "
                    "shared otherwise and random numbers are others, so it is not the run that it would have been",
                    path, len(payload["rng"]), world,
                )  # fmt: skip
            # Those beyond the old number start afresh.
            if self.accelerator.process_index < len(payload["rng"]):
                ckpt.set_rng_state(payload["rng"][self.accelerator.process_index])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{path}: is not of this model and configuration ({reason})") from None
        # Where it is not the last one, weights that it ranks may have gone since.
        self.state.best = [kept for kept in self.state.best if (self.folder / ckpt.step_file(kept["step"])).exists()]
        if self.accelerator.is_main_process:
            ckpt.publish_best(self.folder, self.state.best)
        logger.info("resumed from %s at step %d", path, self.state.step)

    def save(self) -> None:
        """Write the checkpoint to resume from and, if this step was validated and ranks among the best, its weights."""
        rng = gather_object([ckpt.rng_state()])
        # Of a model in pieces these are put together by all.
        weights = (weights_of(self.exported), weights_of(self.model))
        optimizers = {name: optimizer_state_of(self.model, one) for name, one in self.optimizers.items()}
        if self.accelerator.is_main_process:
            if self.is_validated and self._rank(self.state.history[-1]):
                ckpt.save_checkpoint(self.folder / ckpt.step_file(self.state.step), {"model": weights[0]})
            payload = {
                "state": asdict(self.state),
                "model": weights[1],
                "optimizers": optimizers,
                "ema": weights[0] if self.ema is not None else None,
                "ema_updates": int(self.ema.n_averaged) if self.ema is not None else 0,
                "rng": rng,
            }
            previous = self.folder / ckpt.PREVIOUS if self._is_last_whole else None
            ckpt.save_checkpoint(self.folder / ckpt.LAST, payload, previous=previous)
            self._is_last_whole = True
            # Only now may older weights go: until here the previous checkpoint listed them.
            ckpt.publish_best(self.folder, self.state.best)
        self.accelerator.wait_for_everyone()

    @property
    def exported(self) -> Trainable:
        """The model to validate and to keep."""
        return self.model if self.ema is None else cast(Trainable, self.ema.module)

    @property
    def is_validated(self) -> bool:
        """Whether the validation of this very step is the last entry of the history."""
        last = self.state.history[-1] if self.state.history else None
        return last is not None and last["kind"] == "valid" and last["step"] == self.state.step

    def set_lr(self, lr: float) -> None:
        """Use ``lr`` for the next update."""
        for optimizer in self.optimizers.values():
            set_lr(optimizer, lr)

    def update(self, wrapped: nn.Module, batches: Sequence[Batch]) -> float:
        """Take every turn over ``batches`` and return the sum of their mean losses.

        A turn whose loss or gradient is not finite changes nothing but its count.
        """
        losses, has_changed = [], False
        for index in range(len(self.turns)):
            loss, is_finite = self._take_turn(wrapped, index, batches)
            losses.append(loss)
            has_changed |= is_finite
        if has_changed and self.ema is not None:
            self.ema.update_parameters(self.model)
        return sum(losses)

    def _take_turn(self, wrapped: nn.Module, index: int, batches: Sequence[Batch]) -> tuple[float, bool]:
        """Take one optimiser step; return the mean loss, and whether it was finite and changed anything."""
        name = self.turns[index].name
        optimizer = self.optimizers[name]
        statistics = _batch_statistics(self.model)
        before = [buffer.clone() for buffer in statistics]
        with self._only_learning(optimizer):
            sums, grad_norm = self._backward(wrapped, index, batches)
        is_finite = math.isfinite(sums["loss"]) and math.isfinite(grad_norm)
        if is_finite:
            optimizer.step()
            for key, value in {**sums, "grad_norm": grad_norm, "updates": 1.0}.items():
                label = f"{self._label(name)}{key}"
                self.state.sums[label] = self.state.sums.get(label, 0.0) + value
        else:
            for buffer, old in zip(statistics, before, strict=True):
                buffer.copy_(old)
            self._count_nan(sums["loss"], grad_norm)
        optimizer.zero_grad()
        return sums["loss"] / sums["weight"] if sums["weight"] else math.nan, is_finite

    @contextmanager
    def _only_learning(self, optimizer: torch.optim.Optimizer) -> Iterator[None]:
        """Give the parameters that are not of ``optimizer`` no gradient."""
        own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        others = [p for p in self.model.parameters() if p.requires_grad and id(p) not in own]
        for parameter in others:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in others:
                parameter.requires_grad_(True)

    def _label(self, turn: str) -> str:
        """Return what the logged names of a turn begin with."""
        return f"{turn}/" if len(self.optimizers) > 1 else ""

    def _backward(self, wrapped: nn.Module, turn: int, batches: Sequence[Batch]) -> tuple[dict[str, float], float]:
        """Leave the clipped mean gradient of a turn in its parameters; return weighted sums and the norm before."""
        sums: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            is_last = index == len(batches) - 1
            with accumulating(self.model, wrapped, self.accelerator, is_last=is_last):
                output = wrapped(batch.to(self.accelerator.device), turn)
                weighted = weighted_sums(output)
                self.accelerator.backward(weighted["loss"])
            add_sums(sums, weighted)
        totals = self.accelerator.reduce(torch.stack(list(sums.values())), reduction="sum")
        weight = totals[list(sums).index("weight")]
        # Processes are averaged by the backward pass, and each contributed a sum over its utterances.
        scale = self.accelerator.num_processes / weight.clamp(min=1e-8)
        grads = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = whole(nn.utils.get_total_norm(grads)) * scale
        if self.config.clip_norm is not None:
            scale = scale * (self.config.clip_norm / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(local(grads), scale)
        *values, grad_norm = torch.cat([totals, norm[None]]).tolist()  # the step's only wait for the device
        return dict(zip(sums, values, strict=True)), grad_norm

    def _count_nan(self, loss: float, grad_norm: float) -> None:
        state = self.state
        state.nan_steps += 1
        logger.warning(
            "step %d skipped: loss sum %g, gradient norm %g (%d so far)", state.step, loss, grad_norm, state.nan_steps
        )
        if state.nan_steps > self.config.max_nan_steps:
            raise SpeechnarError(
                f"step {state.step}: {state.nan_steps} updates had a loss or gradient that is not finite, "
                f"max_nan_steps allows {self.config.max_nan_steps}; lower lr, set clip_norm, or look at the data"
            )

    def train_entry(self, lr: float) -> Entry:
        """Summarise the updates since the last entry, and forget them."""
        sums, self.state.sums = self.state.sums, {}
        means: dict[str, float] = {}
        more: dict[str, float] = {"lr": lr}
        for label in map(self._label, self.optimizers):
            own = {key.removeprefix(label): value for key, value in sums.items() if key.startswith(label)}
            more[f"{label}grad_norm"] = own.pop("grad_norm", math.nan) / own.pop("updates", 1.0)
            means |= {f"{label}{name}": value for name, value in means_of(own).items()}
        if len(self.optimizers) > 1:
            means["loss"] = sum(means[f"{self._label(name)}loss"] for name in self.optimizers)
        return self._entry("train", means, **more, nan_steps=self.state.nan_steps)

    def validate(self, dev_data: DevData, evaluate: Evaluate | None) -> Entry:
        """Score the weights that would be exported."""
        means = validate(self.exported, dev_data, self.accelerator)
        scores = score(self.exported, self.accelerator, evaluate) if evaluate is not None else {}
        return self._entry("valid", means, metrics=scores)

    def _rank(self, entry: Entry) -> bool:
        """Place a validation among the best; return whether it is one of those to keep."""
        scores = {**entry["parts"], **entry["metrics"], "loss": entry["loss"], "newest": -float(entry["step"])}
        select = self.config.select
        if select not in scores:
            raise ConfigError(f"select must be one of {', '.join(sorted(scores))}; got {select}")
        if math.isfinite(scores[select]):
            self.state.best.append({"step": self.state.step, "metrics": scores})
        # Early error rates are often all 1.0: the loss decides between equals, or the first steps would be kept.
        self.state.best.sort(key=lambda kept: (kept["metrics"].get(select, math.inf), kept["metrics"]["loss"]))
        del self.state.best[self.config.keep_checkpoints :]
        return any(kept["step"] == self.state.step for kept in self.state.best)

    def _entry(self, kind: str, means: dict[str, float], **more: Any) -> Entry:
        state = self.state
        place = {"kind": kind, "step": state.step, "epoch": state.epoch, "seconds": round(state.seconds, 1)}
        parts = {name: value for name, value in means.items() if name != "loss"}
        return {**place, "loss": means["loss"], "parts": parts, **more}


def build_accelerator(config: TrainConfig, num_turns: int = 1) -> Accelerator:
    """Make the Accelerator of a run; where there are turns, a loss need not reach all parameters.

    Raises:
        ConfigError: the device cannot compute in the precision asked for.
    """
    # Accelerate keeps its settings process-wide and refuses to change them; a second run may want others.
    AcceleratorState._reset_state(reset_partial_state=True)
    is_on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    precision = "no" if config.precision == "fp32" else config.precision
    if precision == "bf16" and is_on_cpu and not cpu_computes_bf16():
        logger.warning("this processor has no bfloat16 arithmetic, so training computes in fp32")
        precision = "no"
    try:
        return Accelerator(
            cpu=config.device == "cpu",
            mixed_precision=precision,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=num_turns > 1)],
        )
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"precision={config.precision} cannot be had on this device ({reason})") from None


def cpu_computes_bf16() -> bool:
    """Return whether the processor multiplies in bfloat16; one that only imitates it takes tens of times longer."""
    has_library: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_library and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def _batch_statistics(model: nn.Module) -> list[Tensor]:
    """Collect the running statistics that a forward pass over bad data would spoil for good."""
    norms = (module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return [buffer for norm in norms for buffer in norm.buffers()]


class _LossModule(nn.Module):
    """Lets wrappers that know only ``forward``, such as DistributedDataParallel, call ``loss``."""

    def __init__(self, model: Trainable, turns: Sequence[Turn]) -> None:
        super().__init__()
        self.model = model
        self.turns = turns

    def forward(self, batch: Any, turn: int) -> LossOutput:
        return self.turns[turn].loss(batch)
