"""Low-rank updates of frozen linear layers, trained in their place and merged into them afterwards.

Shapes: O outputs, I inputs, R rank.
Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, section 4.1: ``W + alpha / R B A``,
A (R, I) normal at first and B (O, R) zero, so that training begins at W.
Differs from the paper: all linear layers are adapted, not only the queries and values of attention. And W is changed
where it stands, not beside it, so that whatever reads ``layer.weight`` is adapted; this forms the gradient of W before
that of A and B, so memory is saved by the optimiser and in checkpoints, hardly in time.
"""

import math
from collections import Counter

from torch import Tensor, nn
from torch.nn.utils import parametrize

from speechnar.errors import ConfigError

SCALE = 2.0
"""alpha / R."""


class LowRankUpdate(nn.Module):
    """What is added to a weight (O, I)."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        num_out, num_in = weight.shape
        self.down = nn.Parameter(weight.new_empty(rank, num_in).normal_(std=1 / math.sqrt(num_in)))
        self.up = nn.Parameter(weight.new_zeros(num_out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        """Return ``weight`` (O, I) with the update."""
        return weight + SCALE * (self.up @ self.down)


def add_lora(model: nn.Module, rank: int) -> int:
    """Give every linear layer of ``model`` a trainable update of ``rank``; all else is left as it is.

    Layers that share their weight with others, and those that are hardly larger than their update, get none.

    Returns:
        How many layers got one.

    Raises:
        ConfigError: the rank is below 1, or no layer is large enough for it.
    """
    if rank < 1:
        raise ConfigError(f"the rank of LoRA must be at least 1, got {rank}")
    owners = Counter(id(p) for module in model.modules() for p in module._parameters.values() if p is not None)
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and min(module.weight.shape) > rank and owners[id(module.weight)] == 1
    ]
    if not layers:
        raise ConfigError(f"the model has no linear layer of more than {rank} inputs and outputs; lower the rank")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRankUpdate(layer.weight, rank))
    return len(layers)


def merge_lora(model: nn.Module) -> None:
    """Add the updates to the weights and forget them: names and shapes are those of before `add_lora`."""
    for module in list(model.modules()):
        if isinstance(module, nn.Linear) and parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
