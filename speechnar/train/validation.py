"""Means over utterances, and the scores of a model on held-out data."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import torch
from torch import Tensor, nn

from speechnar.errors import DataError
from speechnar.extras import needs
from speechnar.models.base import LossOutput, Trainable
from speechnar.train.feed import DevData, prefetch
from speechnar.train.parallel import is_sharded

with needs("train"):
    from accelerate import Accelerator

Evaluate = Callable[[nn.Module], dict[str, float]]
"""Scores a model on held-out data, lower is better: ``{"wer": 0.1}``."""


def validate(model: Trainable, dev_data: DevData, accelerator: Accelerator) -> dict[str, float]:
    """Return the mean over all utterances of ``dev_data`` of the loss (``loss``) and of its parts.

    Processes share the batches; where the model lies in pieces, which all of them must hold out, each takes all.

    Raises:
        DataError: there is no batch, or fewer than processes.
    """
    sums: dict[str, Tensor] = {}
    first, every = (0, 1) if is_sharded(model) else (accelerator.process_index, accelerator.num_processes)
    batches = itertools.islice(dev_data.batches(0), first, None, every)
    with _evaluating(model), accelerator.autocast(), closing(prefetch(batches)) as ready:
        for batch in ready:
            add_sums(sums, weighted_sums(model.loss(batch.to(accelerator.device))))
    if not sums:
        raise DataError("the held-out data has no batch (every process needs one); were all utterances dropped?")
    totals = accelerator.reduce(torch.stack(list(sums.values())), reduction="sum")
    return means_of(dict(zip(sums, totals.tolist(), strict=True)))


def score(model: nn.Module, accelerator: Accelerator, evaluate: Evaluate) -> dict[str, float]:
    """Return what ``evaluate`` finds, under the precision of training; the main process of several does it.

    Where the model lies in pieces, all do.
    """
    if not (accelerator.is_main_process or is_sharded(model)):
        return {}
    with _evaluating(model), accelerator.autocast():
        return evaluate(model)


def weighted_sums(output: LossOutput) -> dict[str, Tensor]:
    """Turn means over utterances into sums: they can be added across batches of unequal size."""
    weight = output.weight.to(output.total.device, torch.float32)
    means = {**output.parts, "loss": output.total}
    return {**{name: mean.float() * weight for name, mean in means.items()}, "weight": weight}


def add_sums(sums: dict[str, Tensor], weighted: dict[str, Tensor]) -> None:
    """Add what `weighted_sums` returned to ``sums``, in place and without its graph."""
    for name, value in weighted.items():
        sums[name] = sums[name] + value.detach() if name in sums else value.detach()


def means_of(sums: dict[str, float]) -> dict[str, float]:
    """Turn sums back into means over utterances; ``loss`` is NaN where nothing was added."""
    weight = sums.get("weight", 0.0)
    means = {name: value / weight if weight else math.nan for name, value in sums.items() if name != "weight"}
    return {"loss": math.nan, **means}


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; the mode it was in comes back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
