"""What a recogniser gains from minutes of one speaker: error rates before and after, minutes and memory.

The first minutes of a Kaldi data directory, in the order of its ids, are learnt from; the next ones, which nothing was
learnt from, are measured by. Each way is a process of its own, because a process's peak of memory never falls. The
models that come out are thrown away: a speaker set aside for evaluation may be measured with, never shipped.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.result import RESULTS, ROOT, load_average
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.files import replacing


def main() -> int:
    """Fine-tune with all weights and with LoRA, and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="Kaldi data directory")
    parser.add_argument("--name", required=True, help="of the result: finetuning_NAME.json")
    parser.add_argument("--model", default="joint-asr")
    parser.add_argument("--minutes", type=float, default=10.0, help="learnt from; default: %(default)s")
    parser.add_argument("--dev-minutes", type=float, default=8.0, help="measured by; default: %(default)s")
    parser.add_argument("--language", default="en")
    parser.add_argument("--updates", type=int, default=40)
    parser.add_argument("--lora", type=int, nargs="*", default=[0, 8], help="ranks; 0: all weights")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--work", type=Path, help="folder for what is in between; a run that was cut short goes on there"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(measure(args.model, Path(args.child), args.language, args.updates, args.lora[0])))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        learnt, kept = split_minutes(read_kaldi_dir(args.data), args.minutes, args.dev_minutes)
        write_kaldi_dir(work / "learnt", learnt)
        write_kaldi_dir(work / "kept", kept)
        load = load_average()
        runs = []
        for rank in args.lora:
            runs.append(run_child(args, work, rank))
            print(json.dumps(runs[-1]), flush=True)
    values = {
        "name": f"finetuning_{args.name}",
        "what": f"{args.model} trained further on {args.name}",
        "learnt_minutes": round(sum(u.duration_s for u in learnt) / 60, 2),
        "kept_minutes": round(sum(u.duration_s for u in kept) / 60, 2),
        "kept_utterances": len(kept),
        "threads": args.threads,
        "load_before": load,
        "load_after": load_average(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "runs": runs,
    }
    args.output.mkdir(parents=True, exist_ok=True)
    with replacing(args.output / f"finetuning_{args.name}.json") as partial:
        partial.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(values))
    return 0


def split_minutes(
    utterances: Sequence[Utterance], minutes: float, dev_minutes: float
) -> tuple[list[Utterance], list[Utterance]]:
    """Return the utterances of the first ``minutes``, and those of the ``dev_minutes`` that follow."""
    learnt: list[Utterance] = []
    kept: list[Utterance] = []
    seconds = 0.0
    for utterance in utterances:
        if seconds >= (minutes + dev_minutes) * 60:
            break
        (learnt if seconds < minutes * 60 else kept).append(utterance)
        seconds += utterance.duration_s
    return learnt, kept


def run_child(args: argparse.Namespace, work: Path, rank: int) -> dict[str, Any]:
    """Measure one way in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.finetuning",
        str(args.data),
        "--name",
        args.name,
        "--model",
        args.model,
    ]
    command += ["--language", args.language, "--updates", str(args.updates), "--lora", str(rank), "--child", str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    run = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def measure(model: str, work: Path, language: str, updates: int, rank: int) -> dict[str, Any]:
    """Fine-tune on ``work/learnt`` and return error rates on ``work/kept``, as fractions, minutes and MiB."""
    from speechnar.evaluation.finetuning import finetune  # noqa: PLC0415  # of the child alone

    name = f"lora{rank}" if rank else "whole"
    report = finetune(
        model, work / "learnt", work / name, dev=work / "kept", language=language, updates=updates, lora=rank or None
    )
    rates = {
        f"{unit}_{when}": round(getattr(scores, unit).rate, 4)
        for when, scores in (("before", report.before), ("after", report.after))
        for unit in ("wer", "cer")
    }
    return {
        "trained": name,
        "updates": report.updates,
        **rates,
        "minutes": round(report.minutes, 2),
        "peak_mib": round(report.peak_mib),
    }


if __name__ == "__main__":
    sys.exit(main())
