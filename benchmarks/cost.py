"""What transcribing costs over the length of a recording and over the number of clips decoded together, as a plot.

Every case is a program of its own, with a peak of memory of its own. Seconds are of transcribing alone: loading comes
before, with one short recording, and does not count.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.memory import TEST_SET, recordings, write_recording
from benchmarks.result import RESULTS, ROOT, load_average, write_result
from speechnar.hub import DEFAULT_MODEL

LENGTHS_S = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3600.0, 10800.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
CLIP_S = 10.0
CASE = """
import json, resource, sys, time
import torch
model, precision, threads, clips, path = sys.argv[1:]
torch.set_num_threads(int(threads))
from speechnar import DecodeOptions, Transcriber
transcriber = Transcriber.load(model, device="cpu", precision=precision)
clips = int(clips)
files = [path] * max(clips, 1)
options = DecodeOptions(vad=False, batch_seconds=clips * 60.0) if clips else DecodeOptions()
transcriber.transcribe(files[0] if clips else path.replace("long", "short"))
wall, cpu = time.perf_counter(), time.process_time()
heard = transcriber.transcribe(files if clips else path, options=options)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
seconds = sum(each.duration for each in heard) if clips else heard.duration
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"audio_s": seconds, "wall_s": wall, "cpu_s": cpu, "peak_bytes": peak}))
"""
"""Transcribes one recording, or so many clips at once; prints what that took."""


def main() -> int:
    """Measure, and write ``cost.json`` and its plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or folder; default: %(default)s")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--lengths", type=float, nargs="+", default=LENGTHS_S, metavar="SECONDS")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "cost.svg", help="default: %(default)s")
    args = parser.parse_args()
    load = load_average()
    with tempfile.TemporaryDirectory() as folder:
        spoken = recordings(TEST_SET)
        long, clip = Path(folder) / "long.wav", Path(folder) / "clip.wav"
        write_recording(clip, CLIP_S, spoken)
        by_length = []
        for seconds in args.lengths:
            write_recording(long, seconds, spoken)
            write_recording(long.with_name("short.wav"), CLIP_S, spoken)
            by_length.append(measure(args, 0, long))
        by_batch = [{"clips": clips, **measure(args, clips, clip)} for clips in args.batches]
    longest, largest = by_length[-1], by_batch[-1]
    path = write_result(
        "cost",
        what=f"transcribing by {Path(args.model).name}, {args.precision}: 1 recording of up to "
        f"{longest['audio_s'] / 60:.3g} min, and up to {largest['clips']} clips of {CLIP_S:g} s at once",
        threads=args.threads,
        runs=1,
        load_before=load,
        a={"label": "one recording", "median_s": longest["wall_s"], "cases": by_length},
        b={"label": "clips at once", "median_s": largest["wall_s"], "cases": by_batch},
        result=f"{times(longest)} times real time at {longest['audio_s'] / 60:.3g} min, {times(largest)} with "
        f"{largest['clips']} clips; at most {max(c['peak_bytes'] for c in by_length) / 2**20:,.0f} and "
        f"{max(c['peak_bytes'] for c in by_batch) / 2**20:,.0f} MiB",
        folder=args.output,
    )
    draw(json.loads(path.read_text(encoding="utf-8")), args.plot)
    return 0


def measure(args: argparse.Namespace, clips: int, path: Path) -> dict[str, float]:
    """Return what one case takes; without ``clips`` it is a whole recording."""
    case = [args.model, args.precision, str(args.threads), str(clips), str(path)]
    command = [sys.executable, "-c", CASE, *case]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: round(value, 4) for name, value in found.items()}


def times(case: dict[str, float]) -> str:
    """Return how many times faster than real time a case is."""
    return f"{case['audio_s'] / case['wall_s']:.3g}"


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw seconds and memory over length, and over clips at once, as an image."""
    from matplotlib import rc_context  # noqa: PLC0415  # of an extra
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(10, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex="col")
    sides: Sequence[tuple[str, str, str]] = (
        ("a", "audio_s", "length of a recording, seconds"),
        ("b", "clips", f"clips of {CLIP_S:g} s at once"),
    )
    for column, (side, over, label) in enumerate(sides):
        cases = result[side]["cases"]
        x = [case[over] for case in cases]
        for row, (values, name) in enumerate(
            (
                ([case["wall_s"] for case in cases], "seconds"),
                ([case["peak_bytes"] / 2**20 for case in cases], "peak memory, MiB"),
            )
        ):
            panel = panels[row][column]
            panel.plot(x, values, marker="o")
            panel.set_xscale("log")
            panel.set_yscale("log" if row == 0 else "linear")
            panel.set_ylabel(name)
            panel.set_ylim(bottom=0 if row else None)
            panel.grid(alpha=0.3)
        panels[1][column].set_xlabel(label)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rc_context({"svg.hashsalt": "speechnar"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


if __name__ == "__main__":
    sys.exit(main())
