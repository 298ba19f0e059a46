"""What every benchmark shares: timing two things alternately, and the shape of a result file."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def load_average() -> float:
    """Return the machine's load of the last minute."""
    return round(os.getloadavg()[0], 2)


def median_seconds(a: Callable[[], object], b: Callable[[], object], runs: int) -> tuple[float, float]:
    """Run ``a`` and ``b`` alternately, after one run of each that does not count, and return the medians."""
    seconds: dict[str, list[float]] = {"a": [], "b": []}
    for run in range(runs + 1):
        for name, call in (("a", a), ("b", b)):
            started = time.perf_counter()
            call()
            if run:
                seconds[name].append(time.perf_counter() - started)
    return statistics.median(seconds["a"]), statistics.median(seconds["b"])


def write_result(
    name: str,
    *,
    what: str,
    threads: int,
    runs: int,
    load_before: float,
    a: Mapping[str, Any],
    b: Mapping[str, Any],
    result: str,
    note: str = "",
    folder: Path = RESULTS,
) -> Path:
    """Write ``folder/name.json`` and print the result.

    Args:
        name: also the name of the file.
        what: what was measured, for a reader who does not know the script.
        threads: CPU threads used.
        runs: behind each median.
        load_before: of the machine, before it started.
        a: ``label`` and ``median_s``; may hold more numbers of this side.
        b: likewise; ``ratio`` is b's ``median_s`` over a's.
        result: the outcome in one line, for tables.
        note: conditions that a reader must know.
        folder: where to.
    """
    values = {
        "name": name,
        "what": what,
        "threads": threads,
        "runs": runs,
        "load_before": load_before,
        "a": dict(a),
        "b": dict(b),
        "ratio": round(b["median_s"] / a["median_s"], 3) if a["median_s"] else None,
        "result": result,
        "note": note,
        "machine": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} cores",
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(path)
    print(f"{name}: {result}")
    return path
