"""A Python of its own that imports torch once, for many tests of what happens in a fresh process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

ROOT = Path(__file__).parents[1]
# Every task has a fork for itself, which ends as an interpreter does.
SERVER = """
import json, os, sys, torch

torch.set_num_threads(1)
for line in sys.stdin:
    task = json.loads(line)
    child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        file = os.open(task[name], os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = open(0, closefd=False)
    exec(task["code"])
    break
"""


class Interpreter:
    """Runs code in forks of a process that has imported torch, which takes longer than what most tests ask of it."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> "Interpreter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()

    def run(self, code: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ``code`` by itself, with ``input`` on its stdin."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with TemporaryDirectory() as folder:
            files = {name: Path(folder) / name for name in ("stdin", "stdout", "stderr")}
            files["stdin"].write_bytes(input)
            task = {"code": code, **{name: str(path) for name, path in files.items()}}
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(code, status, files["stdout"].read_bytes(), files["stderr"].read_bytes())

    def speechnar(self, *arguments: object, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run the command with ``arguments``."""
        argv = [os.fsdecode(each) if isinstance(each, bytes) else str(each) for each in arguments]
        return self.run(f"from speechnar.cli.main import main; sys.exit(main({argv!r}))", input)
