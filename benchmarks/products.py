"""What this processor multiplies in a second in each precision: the bound of every model on it.

Matrices of 1,024 rows and columns, as they stand in a prepared model, and float32 by torch's own choice beside them.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.result import load_average, write_result
from speechnar.models.prepare import FloatLinear, Int8Linear, find_processor

SIZE = 1024


def main() -> int:
    """Measure all that this processor has, in turns, and write ``products.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=41)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = load_average()
    with torch.inference_mode():
        seconds = measure(products(), runs=args.runs)
    rates = {name: 2 * SIZE**3 / median / 1e9 for name, median in seconds.items()}
    sides = [
        {"label": name, "median_s": seconds[name], "gflop_s": round(rates[name])}
        for name in (min(seconds, key=seconds.__getitem__), "torch fp32")
    ]
    write_result(
        "products",
        what=f"products of matrices of {SIZE} rows and columns: {torch.backends.cpu.get_cpu_capability()}",
        threads=args.threads,
        runs=args.runs,
        load_before=load,
        a=sides[0],
        b=sides[1],
        result=", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in rates.items()),
        note="int8 with the scaling of its inputs and outputs",
    )
    return 0


def products() -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Return what multiplies in each precision."""
    layer, processor = nn.Linear(SIZE, SIZE), find_processor()
    found: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"torch fp32": layer}
    if processor.packs:
        found["fp32"] = FloatLinear(layer)
    if processor.has_bf16:
        found["bf16"] = FloatLinear(layer, dtype=torch.bfloat16)
    if processor.int8_levels:
        found["int8"] = Int8Linear(layer, levels=processor.int8_levels)
    return found


def measure(calls: dict[str, Callable[[torch.Tensor], torch.Tensor]], *, runs: int) -> dict[str, float]:
    """Return the median seconds of each, which are called in turns; the first round does not count."""
    x = torch.randn(SIZE, SIZE)
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call(x)
            if run:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


if __name__ == "__main__":
    sys.exit(main())
