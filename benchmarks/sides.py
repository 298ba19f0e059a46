"""Programs that are measured by turns: each does its work once for every line that it is given, and says what it took.

A side is ready when it has printed its first line of JSON; it may say other things between them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.result import ROOT


@contextmanager
def started(*arguments: object, root: Path = ROOT) -> Iterator["subprocess.Popen[str]"]:
    """Start Python with ``arguments`` as a side, of the checkout at ``root``, and wait until it is ready.

    It ends with the context.
    """
    command, environment = [sys.executable, *map(str, arguments)], {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, cwd=root, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            answer(process)
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()


def ask(process: "subprocess.Popen[str]") -> dict[str, float]:
    """Let a side do its work once, and return what it says."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return answer(process)


def answer(process: "subprocess.Popen[str]") -> dict[str, float]:
    """Return the next line that a side says in JSON."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            found: dict[str, float] = json.loads(line)
            return found
    raise SystemExit(f"a side ended with status {process.wait()}; what it said stands above")
