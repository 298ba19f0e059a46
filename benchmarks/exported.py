"""What an exported recogniser costs beside the model itself: graphs of ONNX, and packages of ``torch.export``.

A package is the same module, captured by ``torch.export`` and compiled by AOTInductor for this processor, which takes a
C++ compiler. ``--folder`` keeps what is written, so that a second call only measures. All run alternately on one
recording of noise; what CTC's search takes is not counted.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.result import RESULTS, load_average, write_result
from speechnar.asr.onnx import load_onnx
from speechnar.export.recogniser import export_onnx, graph_of, waveform_inputs
from speechnar.hub import DEFAULT_MODEL
from speechnar.models.base import load_model
from speechnar.models.prepare import load_prepared
from speechnar.published import obtain_model

PACKAGE = "package.pt2"


def main() -> int:
    """Write what is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for what is exported")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10.0, help="of sound; default: %(default)s")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--write-only", action="store_true", help="do not measure")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    source = obtain_model(args.model)
    write(source, args.folder)
    if not args.write_only:
        measure(args, source)
    return 0


def write(source: Path, folder: Path) -> None:
    """Write both graphs and the package, as far as they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    for precision in ("fp32", "int8"):
        if not (folder / precision).exists():
            export_onnx(load_model(source), source, folder / precision, decoder="ctc", precision=precision)
    if not (folder / PACKAGE).exists():
        graph, config = graph_of(load_model(source), "ctc")
        inputs = waveform_inputs(config.sample_rate, config.default_prefix)
        program = torch.export.export(
            graph.eval(),
            (),
            {name: given.example for name, given in inputs.items()},
            dynamic_shapes={name: given.sizes for name, given in inputs.items()},
        )
        torch._inductor.aoti_compile_and_package(program, package_path=str(folder / PACKAGE))


def measure(args: argparse.Namespace, source: Path) -> None:
    """Run all alternately, and write the medians."""
    load = load_average()
    rate = load_model(source).model.sample_rate  # type: ignore[attr-defined]
    wav = 0.1 * torch.randn(1, round(args.seconds * rate), generator=torch.Generator().manual_seed(0))
    lens = torch.tensor([wav.size(1)])
    package = torch._inductor.aoti_load_package(str(args.folder / PACKAGE))
    prefix = torch.tensor([graph_of(load_model(source), "ctc")[1].default_prefix])
    runs: dict[str, Callable[[], Any]] = {
        "torch": of_model(source, "fp32", wav, lens, prefix),
        "torch, auto precision": of_model(source, "auto", wav, lens, prefix),
        "onnx": of_graph(args.folder / "fp32", wav, lens, prefix),
        "onnx int8": of_graph(args.folder / "int8", wav, lens, prefix),
        "torch.export package": lambda: package(wav=wav, wav_lens=lens, prefix=prefix),
    }
    taken: dict[str, list[float]] = {name: [] for name in runs}
    with torch.inference_mode():
        for run in range(args.runs + 1):
            for name, call in runs.items():
                started = time.perf_counter()
                call()
                if run:
                    taken[name].append(time.perf_counter() - started)
    medians = {name: round(median(seconds), 4) for name, seconds in taken.items()}
    write_result(
        f"exported_{args.seconds:g}s",
        what=f"{args.model} to the log-probabilities of CTC for {args.seconds:g} s of sound, as exported",
        threads=args.threads,
        runs=args.runs,
        load_before=load,
        a={"label": "torch.export package", "median_s": medians["torch.export package"], "all": medians},
        b={"label": "torch", "median_s": medians["torch"]},
        result="; ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in medians.items()),
        note="one recording at a time",
        folder=args.output,
    )


def of_model(source: Path, precision: Any, wav: Tensor, lens: Tensor, prefix: Tensor) -> Callable[[], Any]:
    """Return a run of the model itself."""
    model: Any = load_prepared(source, device=torch.device("cpu"), precision=precision).model
    return lambda: model.encode(wav, lens, prefix=prefix)


def of_graph(folder: Path, wav: Tensor, lens: Tensor, prefix: Tensor) -> Callable[[], Any]:
    """Return a run of a graph."""
    model: Any = load_onnx(folder).model
    return lambda: model.encode(wav, lens, prefix=prefix)


if __name__ == "__main__":
    sys.exit(main())
