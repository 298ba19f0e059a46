"""How long music takes, as its users get it: in a running program, and by the command from its start to the file.

By a model that is named, its prompt the first word it knows; codec, loudness and files are counted.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.result import RESULTS, load_average, median_seconds, write_result
from speechnar.errors import SpeechnarError
from speechnar.generator import Generator
from speechnar.hub import DEFAULT_MUSIC_MODEL, resolve_model
from speechnar.models.base import load_model


def main() -> int:
    """Measure; exit status 1 if there is no such model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MUSIC_MODEL, help="name or folder; default: %(default)s")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = load_average()
    try:
        folder = resolve_model(args.model)
        loaded = load_model(folder)
        generator = Generator(loaded)
    except SpeechnarError as error:
        print(error)
        return 1
    prompt = next(piece for piece in loaded.tokenizer.pieces if not piece.startswith("<")).lstrip("▁")
    command = [sys.executable, "-m", "speechnar", "generate", prompt, "-m", str(folder), "-d", "cpu"]
    command += ["--seconds", str(args.seconds), "-q"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    with tempfile.TemporaryDirectory() as out:
        in_program, by_command = median_seconds(
            lambda: generator.generate(prompt, seconds=args.seconds).save(Path(out) / "a.wav"),
            lambda: subprocess.run([*command, "-o", f"{out}/b.wav"], env=environment, check=True),
            args.runs,
        )
    write_result(
        "generating",
        what=f"{args.seconds:g} s of music by the model {loaded.name}, in a running program (a) and by the command",
        threads=args.threads,
        runs=args.runs,
        load_before=load,
        a={"label": "in a running program", "median_s": round(in_program, 4)},
        b={"label": "by the command", "median_s": round(by_command, 4)},
        result=f"{in_program:.2f} s in a running program, {by_command:.2f} s by the command",
        note=f"prompt {prompt!r}; codec and file are included, of the command its start, too",
        folder=args.output,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
