"""A tiny recogniser on real recordings, trained by as many processes as start this program.

Usage: torchrun ... -m tests.unit.train.many EXP_DIR [NAME=VALUE | dropout]...
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from speechnar.config import parse_config
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.models.asr.owsm_ctc import OwsmCtcConfig
from speechnar.text.tokenizer import SentencePieceTokenizer, task_specials
from speechnar.train.loop import TrainResult
from speechnar.train.run import RunConfig, run_training
from tests.unit.tiny import TEXTS, write_speechlike


def write_data(folder: Path, utterances: int, longest: float) -> Path:
    """Write recordings of a second to ``longest`` seconds, once for all processes: the first one does it."""
    done = folder / "done"
    if int(os.environ.get("RANK", "0")) == 0 and not done.exists():
        folder.mkdir(parents=True)
        lengths = np.random.default_rng(0).uniform(1.0, max(longest, 1.01), size=utterances)
        found = []
        for number, length in enumerate(lengths):
            path = write_speechlike(folder / f"utt{number:03d}.wav", float(length), seed=number)
            text = ("a cat", "the dog", "a dog", "the cat")[number % 4]
            found.append(Utterance(path.stem, path, text, path.stem, duration_s=float(length), lang="eng"))
        write_kaldi_dir(folder / "train", found)
        write_kaldi_dir(folder / "dev", found[:8])
        SentencePieceTokenizer.train(TEXTS, 60, task_specials(("eng",), ())).save(folder / "tokenizer")
        done.touch()
    while not done.exists():
        time.sleep(0.1)
    return folder


def train_tiny(
    exp: Path,
    *,
    grad_accum: int = 1,
    parallel: str = "ddp",
    dropout: bool = False,
    max_steps: int | None = 12,
    epochs: int | None = None,
    utterances: int = 24,
    longest: float = 1.5,
) -> TrainResult:
    """Train without randomness of the model, unless ``dropout`` asks for it; note the process in ``exp/pid.<rank>``."""
    data = write_data(exp.parent / f"data-{utterances}-{longest:g}", utterances, longest)
    exp.mkdir(parents=True, exist_ok=True)
    (exp / f"pid.{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))
    model = OwsmCtcConfig.debug()
    if not dropout:
        still = {name: 0.0 for name in type(model.encoder).model_fields if name.endswith("dropout")}
        prompt = model.prompt.model_copy(update={"dropout": 0.0}) if model.prompt is not None else None
        model = model.model_copy(
            update={"encoder": model.encoder.model_copy(update=still), "spec_augment": None, "prompt": prompt}
        )
    values = {
        "model": model,
        "data": {"train": data / "train", "dev": data / "dev", "batch_seconds": max(4.0, longest), "num_buckets": 2},
        "train": {
            "optim": {"lr": 1e-3, "schedule": {"kind": "inv_sqrt", "warmup_steps": 10}},
            "max_steps": None if epochs else max_steps,
            "max_epochs": epochs,
            "device": "cpu",
            "parallel": parallel,
            "grad_accum": grad_accum,
            "log_every": 1,
            "validate_every": 6,
            "save_every": 3,
        },
        "tokenizer": data / "tokenizer",
        "average": 2,
    }
    return run_training(parse_config(values, RunConfig), exp)


if __name__ == "__main__":
    given = dict(argument.partition("=")[::2] for argument in sys.argv[2:])
    train_tiny(
        Path(sys.argv[1]),
        parallel=given.get("parallel", "ddp"),
        dropout="dropout" in given,
        max_steps=int(given.get("max_steps", "12")),
        epochs=int(given["epochs"]) if "epochs" in given else None,
        utterances=int(given.get("utterances", "24")),
        longest=float(given.get("longest", "1.5")),
    )
