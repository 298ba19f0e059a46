"""How well workers of a Ray cluster on this machine are used: one corpus by one process and two, one worker and two.

The two processes, each with half of the corpus and nothing in common, are what two workers can be at best on this
machine: what they lose against one is the machine's, what workers lose against them is Ray's. Efficiency is the time
that workers were at work on units (by the journal) over the time that they were there. What is lost is told apart:
starting (Ray, importing torch, loading the model, until the first unit is begun), waiting (units that are handed out
too late, and the end, when one worker has none left), and contention (a unit takes longer beside another one, as both
share caches, memory and cores).
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile

from benchmarks.result import RESULTS, load_average
from speechnar.data.corpus import CorpusItem, read_corpus
from speechnar.files import replacing
from speechnar.scale.journal import JOURNAL
from speechnar.scale.run import Engine, run_job
from speechnar.scale.transcribing import TranscribingJob

RATE = 16000


def main() -> int:
    """Measure and write ``scaling_ray.json``; exit status 1 if any text differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("speech", type=Path, help="an audio file of some minutes, which is cut into recordings")
    parser.add_argument("--model", default="joint-asr")
    parser.add_argument("--recordings", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=3.0, help="of a recording; default: %(default)s")
    parser.add_argument("--unit-seconds", type=float, default=60.0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    load = load_average()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        items = cut(args.speech, folder / "corpus", args.recordings, args.seconds)
        ways: tuple[tuple[str, Engine, int], ...] = (
            ("process", "local", 1), ("processes", "local", 2), ("ray1", "ray", 1), ("ray2", "ray", 2)
        )  # fmt: skip
        runs, texts = [], []
        for name, engine, workers in ways:
            shares = [items] if engine == "ray" else [items[part::workers] for part in range(workers)]
            outs = [folder / f"{name}-{part}" for part in range(len(shares))]
            started = time.monotonic()
            calls = [
                multiprocessing.get_context("spawn").Process(
                    target=run_share, args=(args, out, share, engine, workers if engine == "ray" else None)
                )
                for out, share in zip(outs, shares, strict=True)
            ]
            for call in calls:
                call.start()
            for call in calls:
                call.join()
            wall_s = time.monotonic() - started
            runs.append({"way": name, "workers": workers, **use_of(outs, workers, wall_s)})
            print(json.dumps(runs[-1]), flush=True)
            if len(outs) == 1:  # a half of the corpus has other neighbours in its batches
                texts.append(texts_of(outs[0]))
    values = {
        "name": "scaling_ray",
        "what": f"{args.recordings} recordings of {args.seconds:g} s, {args.model}, one thread a worker",
        "cores": os.cpu_count(),
        "load_before": load,
        "load_after": load_average(),
        "same_texts": all(found == texts[0] for found in texts),
        "runs": runs,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    with replacing(args.output / "scaling_ray.json") as partial:
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(values))
    return 0 if values["same_texts"] else 1


def run_share(
    args: argparse.Namespace, out: Path, items: list[CorpusItem], engine: Engine, workers: int | None
) -> None:
    """Go through a share of the corpus; a process of its own, whose start counts."""
    job = TranscribingJob(model=args.model, out=out, threads=1, device="cpu", precision="fp32")
    run_job(job, items, engine=engine, workers=workers, unit_seconds=args.unit_seconds)


def cut(speech: Path, folder: Path, number: int, seconds: float) -> list[CorpusItem]:
    """Write pieces of a recording, which overlap where it is too short for so many."""
    folder.mkdir(parents=True)
    samples, rate = soundfile.read(speech, dtype="float32", always_2d=True)
    size = round(seconds * rate)
    room = len(samples) - size
    for index in range(number):
        begin = index * room // max(number - 1, 1)
        soundfile.write(folder / f"{index:05d}.wav", samples[begin : begin + size, 0], rate)
    return read_corpus([folder])


def use_of(outs: list[Path], workers: int, wall_s: float) -> dict[str, Any]:
    """Return how the time of the workers was used, by the journal."""
    lines = [line for out in outs for line in (out / JOURNAL).read_text(encoding="utf-8").splitlines()]
    walls = [json.loads(line)["wall_s"] for line in lines]
    return {
        "units": len(walls),
        "wall_s": round(wall_s, 2),
        "mean_unit_s": round(sum(walls) / len(walls), 3),
        "efficiency": round(sum(walls) / (workers * wall_s), 3),
        "lost_s_a_worker": round(wall_s - sum(walls) / workers, 2),
    }


def texts_of(out: Path) -> dict[str, str]:
    """Return the texts by id."""
    rows = [
        json.loads(line) for path in out.glob("part-*.jsonl") for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return {row["utt_id"]: row["text"] for row in rows}


if __name__ == "__main__":
    sys.exit(main())
