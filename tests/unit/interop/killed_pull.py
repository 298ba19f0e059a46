"""A process whose children pull a model and are killed: ``python -m tests.unit.interop.killed_pull NAME STEP``.

Everything is imported once, and nothing is computed before the children are made. A child kills itself at the n-th
thing that it does to a file below ``$HF_HOME``, or at the n-th piece of a download; the next child must end up with the
model whatever the first has left. This is done for every STEP-th n until a child comes through alive.
"""

import hashlib
import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_url, snapshot_download, try_to_load_from_cache
from huggingface_hub.file_download import http_get

import speechnar.interop.pull
import speechnar.interop.repository
import speechnar.models.asr.owsm_ctc
from speechnar.published import obtain_model

EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.symlink", "os.unlink")
CHUNK_BYTES = 20_000
IMPORTED = (HfApi, hf_hub_url, snapshot_download, try_to_load_from_cache, http_get)
"""What each child would import otherwise."""


def child(work: Callable[[], None]) -> int:
    """Start a child that does this and nothing else."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def status_of(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def pull_and_die(name: str, last: int) -> None:
    """Pull, and be killed at the event of number ``last``."""
    count = 0

    def happened() -> None:
        nonlocal count
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event in EVENTS and args and str(args[0]).startswith(os.environ["HF_HOME"]):
            happened()

    write = speechnar.interop.repository._Bounded.write

    def counted(file: speechnar.interop.repository._Bounded, data: bytes, /) -> int:
        happened()
        return write(file, data)

    constants.DOWNLOAD_CHUNK_SIZE = CHUNK_BYTES
    speechnar.interop.repository._Bounded.write = counted
    sys.addaudithook(hook)
    obtain_model(name)


def pull_and_check(name: str) -> None:
    """Pull, and print what came of it."""
    folder = obtain_model(name)
    assert {path.name for path in folder.parents[1].iterdir()} == {"revisions", folder.parent.name}
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    line = json.dumps({"digest": digest, "files": sorted(path.name for path in folder.iterdir())})
    os.write(1, f"{line}\n".encode())  # in one piece


def main(name: str, step: int) -> None:
    home = Path(os.environ["HF_HOME"])
    both = [child(lambda: pull_and_check(name)) for _ in range(2)]  # two at once convert once
    assert [status_of(pid) for pid in both] == [0, 0]
    print("both", flush=True)
    sys.stdin.readline()
    last, killed = 1, -signal.SIGKILL
    while killed == -signal.SIGKILL:
        shutil.rmtree(home)
        killed = status_of(child(lambda last=last: pull_and_die(name, last)))
        assert status_of(child(lambda: pull_and_check(name))) == 0, f"not mended after event {last}"
        last += step
    print(f"killed {(last - 1) // step - 1} times", flush=True)
    sys.exit(killed)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
