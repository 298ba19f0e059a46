"""How a model is spread over processes: whole on each (DDP), or in pieces (FSDP2); and blocks computed again.

Source: Rajbhandari et al., "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", SC 2020, section 5.3
(weights, gradients and optimiser states in pieces); Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016
(activations computed again).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from speechnar.errors import ConfigError
from speechnar.extras import needs

with needs("train"):
    from accelerate import Accelerator

Parallel: TypeAlias = Literal["ddp", "fsdp"]
BLOCKS = "layers"
"""What encoders and decoders call the list of their blocks, which they call one after the other."""
# What the loop and the evaluations call of a model beside ``forward``.
_ENTRANCES = ("loss", "recognize_with", "translate")
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """Return the blocks of all encoders and decoders in ``model``."""
    lists = [
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] == BLOCKS and isinstance(module, nn.ModuleList)
    ]
    return [block for found in lists for block in found]


def checkpoint_blocks(model: nn.Module) -> None:
    """Keep of each block only its input, and compute it again in the backward pass.

    Raises:
        ConfigError: there are no blocks, or one counts what it has seen, which it would do twice.
    """
    blocks = blocks_of(model)
    if not blocks:
        raise ConfigError(f"gradient_checkpointing: {type(model).__name__} has no blocks to compute again")
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for block in blocks for module in block.modules()):
        raise ConfigError("gradient_checkpointing: batch norms of the model would count each batch twice; leave it out")
    for block in blocks:
        block.forward = partial(_again, block.forward)


def _again(forward: Any, *args: Any, **more: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **more)
    return checkpoint(forward, *args, use_reentrant=False, **more)


def shard(model: nn.Module, accelerator: Accelerator) -> None:
    """Leave on each process its piece of every weight; whole blocks are put together only while they compute.

    To be called before optimisers are made and before methods of ``model`` are kept.
    """
    if accelerator.num_processes == 1:
        return
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in blocks_of(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name in _ENTRANCES:
        if hasattr(model, name):
            register_fsdp_forward_method(model, name)


def is_sharded(model: nn.Module) -> bool:
    """Return whether `shard` has taken the model to pieces."""
    return isinstance(model, FSDPModule)


@contextmanager
def accumulating(model: nn.Module, wrapped: nn.Module, accelerator: Accelerator, *, is_last: bool) -> Iterator[None]:
    """Let processes exchange gradients only in the last of several backward passes."""
    if is_sharded(model):
        cast(FSDPModule, model).set_requires_gradient_sync(is_last)
        with accelerator.autocast():
            yield
    elif is_last:
        yield
    else:
        with accelerator.no_sync(wrapped):
            yield


def whole(value: Tensor) -> Tensor:
    """Return a value that may lie in pieces, on every process."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(tensors: list[Tensor]) -> list[Tensor]:
    """Return what this process has of each tensor, to be changed in place."""
    return [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]


def weights_of(model: nn.Module) -> dict[str, Any]:
    """Return whole weights to be saved: of a sharded model, on the main process; all must call this."""
    return get_model_state_dict(model, options=_WHOLE) if is_sharded(model) else model.state_dict()


def load_weights(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load whole weights, of which a sharded model takes its pieces."""
    if is_sharded(model):
        set_model_state_dict(model, dict(state), options=_WHOLE)
    else:
        model.load_state_dict(state)


def optimizer_state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the whole state of an optimiser, as `weights_of`."""
    return get_optimizer_state_dict(model, optimizer, options=_WHOLE) if is_sharded(model) else optimizer.state_dict()


def load_optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load what `optimizer_state_of` returned.

    Raises:
        ValueError: it is of the other way to spread a model.
    """
    names_weights = any(isinstance(name, str) for group in state["param_groups"] for name in group["params"])
    if names_weights != is_sharded(model):
        raise ValueError("the checkpoint was written under another train.parallel")
    if names_weights:
        set_optimizer_state_dict(model, optimizer, state, options=_WHOLE)
    else:
        optimizer.load_state_dict(state)
