"""What a training run asks of the machine that it is on: memory that is kept, and products that may be rounded."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from speechnar.memory import keep_memory
from speechnar.train.loop import TrainConfig, cpu_computes_bf16


@contextmanager
def tuned(config: TrainConfig) -> Iterator[None]:
    """Train as fast as this machine can in the precision that ``config`` asks for.

    On a CPU memory is kept, from now on. A run in bfloat16 also multiplies in it those matrices that autocast leaves in
    float32.
    """
    is_on_cpu = config.device == "cpu" or not torch.accelerator.is_available()
    before = torch.get_float32_matmul_precision()
    if is_on_cpu:
        keep_memory()
        if config.precision == "bf16" and cpu_computes_bf16():
            torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
