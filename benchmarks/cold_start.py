"""From the command to the transcript of five seconds, beside ``import torch`` alone: programs of their own, by turns.

What the processor was busy (user and kernel) is counted beside the time on the clock, which depends on what else the
machine does; in programs of their own, also part by part.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.memory import TEST_SET, recordings, write_recording
from benchmarks.result import RESULTS, ROOT, load_average, write_result
from speechnar.hub import DEFAULT_MODEL

AUDIO_S = 5.0
PARTS = """
import json, sys, time
spent, before = {}, time.process_time()
def part(name):
    global before
    spent[name], before = time.process_time() - before, time.process_time()
import torch
part("import torch")
from speechnar.asr.transcriber import Transcriber
part("other imports")
from speechnar.audio.io import read_audio
from speechnar.decode.vad import holds_speech
from speechnar.models import base, prepare
from speechnar.published import obtain_model
folder = obtain_model(sys.argv[2])
base.read_model_config(folder)
part("configuration")
base.load_tokenizer(folder)
part("tokenizer")
loaded = base.load_model(folder)
part("weights, and the two once more")
prepare.prepare(loaded.model)
part("packing")
holds_speech([read_audio(sys.argv[1], target_rate=16000, max_seconds=60).samples])
part("reading, voice activity")
Transcriber(loaded).transcribe(sys.argv[1])
part("reading, voice activity once more, recognition")
print(json.dumps(spent))
"""
"""A program that prints the CPU seconds of its parts."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write ``cold_start.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    load_before = load_average()
    with tempfile.TemporaryDirectory() as folder:
        audio = Path(folder) / "speech.wav"
        write_recording(audio, AUDIO_S, recordings(TEST_SET))
        programs = {
            "transcribe": (sys.executable, "-m", "speechnar", "transcribe", str(audio)),
            "torch": (sys.executable, "-c", "import torch"),
        }
        spent = alternate(programs, runs=args.runs, threads=args.threads)
        parts = spent_in_parts(audio, runs=args.runs, threads=args.threads)
    (ours_s, ours_cpu_s), (torch_s, torch_cpu_s) = spent["transcribe"], spent["torch"]
    write_result(
        "cold_start",
        what=f"`speechnar transcribe` of {AUDIO_S:g} s of audio and `import torch`, each from the start of a program",
        threads=args.threads,
        runs=args.runs,
        load_before=load_before,
        a={
            "label": "speechnar transcribe",
            "median_s": round(ours_s, 3),
            "median_cpu_s": round(ours_cpu_s, 3),
            "parts_cpu_s": parts,
        },
        b={"label": "import torch", "median_s": round(torch_s, 3), "median_cpu_s": round(torch_cpu_s, 3)},
        result=f"{ours_s - torch_s:.2f} s above importing torch ({ours_cpu_s - torch_cpu_s:.2f} s of a processor)",
        folder=args.output,
    )
    return 0


def alternate(programs: Mapping[str, Sequence[str]], *, runs: int, threads: int = 1) -> dict[str, tuple[float, float]]:
    """Run ``programs`` by turns, once in vain, and return the medians of seconds and of CPU seconds of each."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for run in range(runs + 1):
        for name, command in programs.items():
            seconds = _spend(command, threads)
            if run:
                spent[name].append(seconds)
    walls = {name: statistics.median(wall for wall, _ in seconds) for name, seconds in spent.items()}
    return {name: (walls[name], statistics.median(cpu for _, cpu in seconds)) for name, seconds in spent.items()}


def spent_in_parts(audio: Path, *, runs: int, threads: int, model: str = DEFAULT_MODEL) -> dict[str, float]:
    """Return the median CPU seconds of each part of transcribing ``audio``."""
    command = (sys.executable, "-c", PARTS, str(audio), model)
    found = [json.loads(_run(command, threads)) for _ in range(runs)]
    return {name: round(statistics.median(each[name] for each in found), 4) for name in found[0]}


def _run(command: Sequence[str], threads: int) -> str:
    """Run a program, with the byte-code of its modules on the disk, as an installed package has it."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True, text=True)
    return done.stdout


def _spend(command: Sequence[str], threads: int) -> tuple[float, float]:
    before, started = _children_s(), time.perf_counter()
    _run(command, threads)
    return time.perf_counter() - started, _children_s() - before


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
