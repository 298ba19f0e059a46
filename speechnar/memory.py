"""Memory that this process keeps: what tensors leave is used again, instead of being asked of the kernel anew."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt``, malloc.h."""
_TOP_PAD_BYTES = 1 << 26
WITHOUT_BOUND = 2**31 - 1
_asked = 0
"""The most that anybody in this process has asked for."""


def keep_memory(most: int = WITHOUT_BOUND) -> bool:
    """Let freed memory stay with the process from now on, however large its pieces; return whether it will.

    glibc maps every large tensor anew, and the kernel clears each of its pages when it is first touched: of a training
    step on a CPU that is a sixth to a third, of recognition by a large vocabulary a tenth to a fifth. Other C libraries
    have no such parameters, and are left alone.

    Args:
        most: bytes at the end of the heap beyond which it shrinks again; what was asked for before is not taken back.
    """
    global _asked  # noqa: PLW0603  # as glibc's own parameters are: one for all of a process
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    _asked = max(_asked, most)
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _asked, _M_TOP_PAD: _TOP_PAD_BYTES}
    return all([mallopt(parameter, value) == 1 for parameter, value in settings.items()])
