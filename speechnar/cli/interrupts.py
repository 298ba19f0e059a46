"""Ctrl-C ends the command with one line and a status of its own, wherever it has come."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import current_thread, main_thread
from types import FrameType

from speechnar.cli.output import complain

INTERRUPTED = 130
"""The exit status."""
RAISED_AGAIN_S = 1.0
"""After an interrupt that was lost."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C end what is done here, wherever it has come.

    While torch is imported, its C++ drops a KeyboardInterrupt or aborts of it: the program ends at once, as nothing is
    written by then. Callbacks from C (soundfile's) drop it as well: it is raised again until it comes through. And
    others turn it into an error of their own (RuntimeError where a class is being made, before Python 3.12; ImportError
    where a C extension imports), or take what it cut short for bad input: once it has come, all that is left is an
    interrupt.
    """
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread()
    if not is_ours or not hasattr(signal, "setitimer"):
        yield
        return

    has_come = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal has_come
        has_come = True
        spec = getattr(sys.modules.get("torch"), "__spec__", None)
        if getattr(spec, "_initializing", False):
            complain("interrupted")
            os._exit(INTERRUPTED)
        signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, RAISED_AGAIN_S)
        signal.default_int_handler(number, frame)

    alarm = signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGINT, interrupt)
    try:
        try:
            yield
        except Exception:
            if not has_come:
                raise
        if has_come:
            raise KeyboardInterrupt
    finally:
        if signal.getsignal(signal.SIGALRM) is interrupt:  # first, or it would still come when all is over
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGINT, signal.default_int_handler)
