"""Size and time of an install into a fresh environment: what inference needs, and what each extra adds to it.

Two environments are made of the Python that runs this, by uv, which must be on the path, with its cache and its sources
of packages as they are: one with a build of torch for CPUs, which is put there first (``--cpu-torch`` names it, as uv
takes it), and one with the build that uv chooses by itself. The extras then join the first one. Sizes are those of the
files of every package that is needed, be it by way of others; an extra adds what the core does not have. What the cache
lacks comes from the network, so that this is no part of ``make bench``.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from benchmarks.result import RESULTS, ROOT, load_average, write_result

EXTRAS = ("media", "train", "eval", "demo", "serve", "onnx", "t5")
"""What users ask for; ``espnet`` has a torch of its own, ``dev`` is for whoever works on the package."""
MB = 1e6
# Prints what is installed: version, bytes and requirements of every distribution.
LISTING = """
import json
from importlib.metadata import distributions

found = {}
for one in distributions():
    paths = {file.locate() for file in one.files or ()}
    size = sum(path.stat().st_size for path in paths if path.is_file())
    found[one.name] = {"version": one.version, "size": size, "requires": one.requires or []}
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Distribution:
    """A package that is installed."""

    version: str
    size: int
    """Bytes of its files."""
    requires: tuple[Requirement, ...]


def main() -> int:
    """Measure both, once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpu-torch", required=True, metavar="WHEEL", help="a build of torch for CPUs")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    load, cached = load_average(), cached_archives()
    cpu = measure([args.cpu_torch], EXTRAS)
    default = measure([], ())
    shown = ", ".join(f"{name} {size:.0f} MB" for name, size in cpu["extras_mb"].items())
    write_result(
        "install",
        what="an install for inference into a fresh environment by uv: size, and time",
        threads=1,
        runs=1,
        load_before=load,
        a=cpu,
        b=default,
        result="; ".join(
            f"{side['label']}: {side['mb']:,} MB in {side['median_s']:.0f} s, {side['computed_s']:.0f} s of them busy"
            for side in (cpu, default)
        )
        + f"; extras add {shown}",
        note=f"Python {sys.version.split()[0]}; uv's cache held {cached} archives before, {cached_archives()} after, "
        "and what it lacked was fetched and unpacked; sizes without compiled bytecode",
        folder=args.output,
    )
    return 0


def measure(first: Sequence[str], extras: Sequence[str]) -> dict[str, Any]:
    """Install ``first``, then the package, then its ``extras``; return a side of the result.

    Returns:
        ``label``, the build of torch; ``median_s`` of the install, of which a processor was busy for ``computed_s``;
        its size ``mb``, of which ``torch_mb`` are torch and what that needs; ``num_packages``; and ``extras_mb``, what
        each extra adds.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder)
        python = Path(folder) / "bin" / "python"
        started, computed_s = time.perf_counter(), children_s()
        if first:
            install(python, *first)
        install(python, str(ROOT))
        seconds, computed_s = time.perf_counter() - started, children_s() - computed_s
        if extras:
            install(python, f"{ROOT}[{','.join(extras)}]")
        known = installed(python)
    core = needed_by(known, "speechnar")
    size = {name: known[name].size / MB for name in known}
    added = {extra: needed_by(known, "speechnar", extra) - core for extra in extras}
    return {
        "label": f"torch {known['torch'].version}",
        "median_s": round(seconds, 1),
        "computed_s": round(computed_s, 1),
        "mb": round(sum(size[name] for name in core)),
        "torch_mb": round(sum(size[name] for name in needed_by(known, "torch"))),
        "num_packages": len(core),
        "extras_mb": {extra: round(sum(size[name] for name in names)) for extra, names in added.items()},
    }


def install(python: Path, *wanted: str) -> None:
    """Install into the environment of ``python``."""
    subprocess.run(["uv", "pip", "install", "--quiet", "--python", python, *wanted], check=True)


def children_s() -> float:
    """Return the processor time of all that was run so far, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def cached_archives() -> int:
    """Return how many packages uv has unpacked before, of whatever version."""
    folder = Path(subprocess.run(["uv", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip())
    return sum(1 for _ in folder.glob("archive-*/*"))


def installed(python: Path) -> dict[str, Distribution]:
    """Return what an environment has, by canonical name."""
    listed = json.loads(subprocess.run([python, "-c", LISTING], capture_output=True, text=True, check=True).stdout)
    return {
        canonicalize_name(name): Distribution(one["version"], one["size"], tuple(map(Requirement, one["requires"])))
        for name, one in listed.items()
    }


def needed_by(known: Mapping[str, Distribution], name: str, extra: str = "") -> set[str]:
    """Return the names of what the package ``name`` needs, with one of its extras, itself included.

    What is not installed is left out: it is for other systems or other versions of Python.
    """
    waiting, found = [(name, extra)], set()
    while waiting:
        name, extra = waiting.pop()
        if (name, extra) in found or name not in known:
            continue
        found.add((name, extra))
        for wanted in known[name].requires:
            if wanted.marker is None or wanted.marker.evaluate({"extra": extra}):
                waiting += [(canonicalize_name(wanted.name), more) for more in ("", *wanted.extras)]
    return {name for name, _ in found}


if __name__ == "__main__":
    sys.exit(main())
