"""How long music takes, as its users get it: in a running program, and by the command from its start to the file.

By a model that is named, its prompt the first word it knows, or by one of the music recipe's size with random weights,
whose work is the same. Codec, loudness and files are counted.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.result import RESULTS, ROOT, load_average, median_seconds, write_result
from speechnar.config import load_config
from speechnar.errors import SpeechnarError
from speechnar.hub import resolve_model
from speechnar.models.base import load_model, save_model
from speechnar.models.sound.magnet import Magnet, MagnetConfig
from speechnar.sound.generator import Generator
from speechnar.text.tokenizer import LexiconTokenizer
from speechnar.train.run import RunConfig


def main() -> int:
    """Measure; exit status 1 if there is no such model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="name or folder; default: random weights of the recipe's size")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = load_average()
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        try:
            folder = resolve_model(args.model) if args.model else save_random_model(out / "random")
            loaded = load_model(folder)
            generator = Generator(loaded)
        except SpeechnarError as error:
            print(error)
            return 1
        prompt = next(piece for piece in loaded.tokenizer.pieces if not piece.startswith("<")).lstrip("▁")
        command = [sys.executable, "-m", "speechnar", "generate", prompt, "-m", str(folder), "-d", "cpu"]
        command += ["--seconds", str(args.seconds), "-q", "-o", str(out / "b.wav")]
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        in_program, by_command = median_seconds(
            lambda: generator.generate(prompt, seconds=args.seconds).save(out / "a.wav"),
            lambda: subprocess.run(command, env=environment, check=True),
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


def save_random_model(folder: Path) -> Path:
    """Write a model of the music recipe's size with random weights, which knows one word."""
    torch.manual_seed(0)
    config = load_config(ROOT / "recipes" / "opsound" / "music" / "conf" / "magnet.yaml", RunConfig).model
    assert isinstance(config, MagnetConfig)
    tokenizer = LexiconTokenizer(("<blank>", "<unk>", "music"), {})
    save_model(folder, Magnet(config, tokenizer), tokenizer)
    return folder


if __name__ == "__main__":
    sys.exit(main())
