"""What a training run asks of the machine that it is on: memory that is kept, and products that may be rounded."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from speechnar.train.loop import TrainConfig, cpu_computes_bf16

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt``, malloc.h."""
NEVER, TOP_PAD_BYTES = 2**31 - 1, 1 << 26


def keep_memory() -> bool:
    """Let freed memory stay with the process from now on, however large its pieces; return whether it will.

    glibc maps every large tensor anew, and the kernel clears each of its pages when it is first touched: of a training
    step on a CPU that is a sixth to a third. Other C libraries have no such parameters, and are left alone.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: NEVER, _M_TOP_PAD: TOP_PAD_BYTES}
    return all([mallopt(parameter, value) == 1 for parameter, value in settings.items()])


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
