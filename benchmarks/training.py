"""Our training step against ESPnet's, of OWSM-CTC with the same weights and batches, each in a process of its own.

A step goes from samples to updated weights: features, loss, gradients, their norm, AdamW. Ours is what ``speechnar
train`` does, with what it sets on this machine; ESPnet's is its trainer's. Both are of the package espnet, in this
environment. Steps are taken by turns (A B A B); the first of each do not count. Dropout draws other numbers on either
side, so that losses are alike, not equal.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.result import RESULTS, load_average, write_result
from benchmarks.sides import ask, started
from tests.unit.tiny import RATE, speechlike

# The sizes of `OwsmCtcConfig.small`.
SMALL = {"dim": 256, "num_blocks": 6, "heads": 4, "interctc": [2, 4], "prompt_blocks": 2}
TINY = {"dim": 32, "num_blocks": 3, "heads": 2, "interctc": [1], "prompt_blocks": 1}
SIDES = ("ours", "espnet")
CLIP_NORM, LR = 5.0, 1e-4
TOKENS_PER_S = 4.0
SPECIAL_IDS = 20
"""Ids below are of specials."""
Step = Callable[[], float]


def main() -> int:
    """Write a result for each precision; with --side serve steps to another process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precisions", nargs="+", choices=("bf16", "fp32"), default=["bf16", "fp32"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each utterance")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tiny", action="store_true", help="a model too small to say anything, to try the script")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side is not None:
        serve(args)
        return 0
    for precision in args.precisions:
        compare(precision, args)
    return 0


def compare(precision: str, args: argparse.Namespace) -> None:
    """Measure one precision."""
    load = load_average()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        # ESPnet first: it writes the model that ours is read from.
        workers = {
            side: stack.enter_context(
                started("-m", "benchmarks.training", *arguments_of(side, precision, Path(folder), args))
            )
            for side in SIDES[::-1]
        }
        taken: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for _ in range(args.runs + 1):
            for side in SIDES:
                taken[side].append(ask(workers[side]))
    sides = {side: summary(f"speechnar {precision}" if side == "ours" else "ESPnet", taken[side]) for side in SIDES}
    ours, theirs = sides["ours"], sides["espnet"]
    write_result(
        f"training_{precision}",
        what=f"a training step of OWSM-CTC ({'tiny' if args.tiny else '19 M'}), {args.batch} utterances of "
        f"{args.seconds:g} s, {precision}",
        threads=args.threads,
        runs=args.runs,
        load_before=load,
        a=ours,
        b=theirs,
        result=f"speechnar {ours['median_s']:.3f} s, ESPnet {theirs['median_s']:.3f} s "
        f"({theirs['median_s'] / ours['median_s']:.2f} times ours)",
        note=f"first losses {ours['first_loss']:.2f} and {theirs['first_loss']:.2f}",
        folder=args.output,
    )


def summary(label: str, steps: list[dict[str, float]]) -> dict[str, Any]:
    """Return the medians of steps, the first of which does not count."""
    return {
        "label": label,
        "median_s": round(statistics.median(step["wall_s"] for step in steps[1:]), 4),
        "median_cpu_s": round(statistics.median(step["cpu_s"] for step in steps[1:]), 4),
        "first_loss": round(steps[0]["loss"], 4),
    }


def arguments_of(side: str, precision: str, folder: Path, args: argparse.Namespace) -> list[object]:
    """Return what a side is told."""
    return [
        *("--side", side, "--folder", folder, "--precisions", precision, "--batch", args.batch),
        *("--seconds", args.seconds, "--threads", args.threads, *(["--tiny"] if args.tiny else [])),
    ]


def serve(args: argparse.Namespace) -> None:
    """Take a step for each line of stdin, and say what it took."""
    torch.set_num_threads(args.threads)
    build = build_ours if args.side == "ours" else build_espnet
    with ExitStack() as stack:
        step = build(args.folder, args.precisions[0], args, stack)
        print("{}", flush=True)
        for _ in sys.stdin:
            wall, cpu = time.perf_counter(), time.process_time()
            loss = step()
            spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "loss": loss}
            print(json.dumps(spent), flush=True)


def build_espnet(folder: Path, precision: str, args: argparse.Namespace, stack: ExitStack) -> Step:
    """Write a model of random weights into ``folder``, and return a step of ESPnet's trainer."""
    from tests.reference import espnet_models as reference  # noqa: PLC0415  # this side alone needs it

    del stack
    task = reference.import_espnet(folder)
    tokenizer = reference.train_tokenizer()
    options = reference.owsm_ctc_options(tokenizer.pieces, **(TINY if args.tiny else SMALL))
    model = reference.build(task, options).train()
    reference.write_folder(folder / "espnet", model, options, tokenizer)
    batch = make_batch(tokenizer.vocab_size, tokenizer.id_of, args.batch, args.seconds)
    padded = {name: value for name, value in batch.items() if name.startswith(("speech", "text", "prefix"))}
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss, _, weight = model(**padded)
            loss = (loss * weight).sum() / weight.sum()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=CLIP_NORM)
        if torch.isfinite(norm):
            optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


def build_ours(folder: Path, precision: str, args: argparse.Namespace, stack: ExitStack) -> Step:
    """Return a step of ``speechnar train`` on the model in ``folder``."""
    from speechnar.data.batch import SpeechBatch  # noqa: PLC0415  # this side alone needs them
    from speechnar.interop import convert_espnet  # noqa: PLC0415
    from speechnar.models.base import Trainable, load_model  # noqa: PLC0415
    from speechnar.train.loop import TrainConfig, _LossModule, _Run, build_accelerator  # noqa: PLC0415
    from speechnar.train.machine import tuned  # noqa: PLC0415
    from speechnar.train.optim import OptimConfig  # noqa: PLC0415

    convert_espnet(folder / "espnet", folder / "ours")
    loaded = load_model(folder / "ours")
    assert isinstance(loaded.model, Trainable)
    model, tokenizer = loaded.model.train(), loaded.tokenizer
    made = make_batch(tokenizer.vocab_size, tokenizer.id_of, args.batch, args.seconds)
    tokens, lens, valid = made["text"], made["text_lengths"], torch.ones(args.batch, dtype=torch.bool)
    batch = SpeechBatch(
        wav=made["speech"],
        wav_lens=made["speech_lengths"],
        tokens=tokens,
        token_lens=lens,
        asr_tokens=tokens,
        asr_token_lens=lens,
        tokens_valid=valid,
        asr_valid=valid,
        utt_ids=tuple(map(str, range(args.batch))),
        prefix=made["prefix"],
        prompt=made["text_prev"],
        prompt_lens=made["text_prev_lengths"],
    )
    config = TrainConfig(max_steps=1, device="cpu", precision=precision, clip_norm=CLIP_NORM, optim=OptimConfig(lr=LR))
    stack.enter_context(tuned(config))
    accelerator = build_accelerator(config)
    turns = model.turns()
    run = _Run(model, turns, accelerator, config, folder)
    run.set_lr(LR)
    wrapped = accelerator.prepare_model(_LossModule(model, turns))
    return lambda: run.update(wrapped, [batch])


def make_batch(vocab_size: int, id_of: Callable[[str], int], size: int, seconds: float) -> dict[str, Tensor]:
    """Return ``size`` utterances with random texts, by ESPnet's names; all are equally long, so nothing is padded."""
    rng = np.random.default_rng(0)
    wav = torch.from_numpy(np.stack([speechlike(seconds, seed=seed) for seed in range(size)]))
    head = [id_of("<eng>"), id_of("<asr>")]
    num_tokens = max(1, round(seconds * TOKENS_PER_S))
    text = torch.tensor([[*head, *rng.integers(SPECIAL_IDS, vocab_size - 3, num_tokens)] for _ in range(size)])
    text_lengths = torch.full((size,), text.size(1))
    previous = torch.full((size, 1), id_of("<na>"))
    return {
        "speech": wav,
        "speech_lengths": torch.full((size,), round(seconds * RATE)),
        "text": text,
        "text_lengths": text_lengths,
        "text_ctc": text,
        "text_ctc_lengths": text_lengths,
        "text_prev": previous,
        "text_prev_lengths": torch.ones(size, dtype=torch.int64),
        "prefix": torch.tensor([head] * size),
        "prefix_lengths": torch.full((size,), len(head)),
    }


if __name__ == "__main__":
    sys.exit(main())
