"""What training and decoding take at a scale that is not at hand: measured small, computed large.

``measure`` times and weighs small models on this machine, in one process and in pieces on two, and writes
``results/scaling_measured.json``. ``simulate`` computes from that file, from the configuration of the 1.01 B model and
from the figures of `Machine` (a maker's, not ours) what larger ones take, checks itself against the measured cases, and
writes ``results/scaling.json`` and the tables of ``docs/scaling.md``.

Model of a step of N devices (Rajbhandari et al. 2020, section 7, for what pieces cost in exchange):
computing ``3 F / rate`` (4 with blocks computed again, F the forward operations), exchanging ``3 W (N - 1) / N / link``
beside it (W bytes of weights), reading beside both; the slowest of the three is the step. Memory of a device: 16 bytes
a weight (weight, gradient, two moments of AdamW) over N, one whole block and its gradient, and what is kept for the
backward pass.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.result import RESULTS, ROOT, load_average
from speechnar.data.batch import Example, SpeechBatch, SpeechCollator
from speechnar.files import replacing
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.base import Trainable
from speechnar.text.tokenizer import SentencePieceTokenizer, task_specials
from speechnar.train.loop import TrainConfig, build_accelerator
from speechnar.train.parallel import blocks_of, checkpoint_blocks, local, shard

MEASURED, SIMULATED = RESULTS / "scaling_measured.json", RESULTS / "scaling.json"
DOCUMENT = ROOT / "docs" / "scaling.md"
RATE = 16000
FRAMES_PER_S = 12.5
"""Positions of an encoder that joins eight frames of 10 ms."""
STATE_BYTES = 16
VOCABULARY = 50_000
"""Pieces of the 1.01 B model."""
TEXTS = ["the cat sat on the mat", "a dog ran home", "he said good day to the cat", "we ran to the dog and sat"] * 5
SIZES = {"a": (144, 4, 4), "b": (192, 6, 4), "c": (256, 8, 4)}
"""Width, blocks and heads of the models that are measured; rates are of b, and predict a and c."""
PUBLISHED = "published"
"""The 1.01 B model without its 50,000 pieces and its prompts, of which a step is weighed with blocks computed again."""
CLIP_S, NUM_CLIPS, RUNS = 8.0, 2, 3
HOURS_A_MONTH = 730.0


@dataclass(frozen=True)
class Machine:
    """What one device can do, by its maker, and which share of it training is taken to reach."""

    name: str = "H200"
    flops: float = 989e12
    """Of bfloat16 without sparsity, a second."""
    used_share: float = 0.35
    """Assumed, not measured: no such device was at hand."""
    memory_bytes: float = 141e9
    link_bytes: float = 50e9
    """A second, of each device to others of another machine (400 Gbit/s)."""
    storage_bytes: float = 1e9
    """A second, of each machine of eight devices from shared storage."""
    price_an_hour: float = 3.0
    """Dollars, assumed."""


@dataclass(frozen=True)
class Shape:
    """What a step's costs depend on."""

    num_layers: int
    model_dim: int
    block_weights: int
    """Of all blocks together."""
    other_weights: int
    front_flops: float
    """A second of speech, of the convolutions in front."""

    @property
    def weights(self) -> int:
        """All of them."""
        return self.block_weights + self.other_weights

    def forward_flops(self, clip_s: float) -> float:
        """Return the operations of one clip: a product and a sum for each weight and frame, and attention."""
        frames = clip_s * FRAMES_PER_S
        attention = self.num_layers * 4 * frames**2 * self.model_dim
        return 2 * self.block_weights * frames + attention + self.front_flops * clip_s


def shape_of(config: OwsmCtcConfig, tokenizer: SentencePieceTokenizer, *, vocabulary: int | None = None) -> Shape:
    """Count the weights of a model without making it."""
    with torch.device("meta"):
        model = OwsmCtc.from_config(config, tokenizer)
    blocks = blocks_of(model.encoder)
    in_blocks = sum(weight.numel() for block in blocks for weight in block.parameters())
    total = sum(weight.numel() for weight in model.parameters())
    width = int(config.encoder.model_dim)
    if vocabulary is not None:  # is projected to and back, and embedded for prompts
        rows = 2 * width + (config.prompt.model_dim if config.prompt is not None else 0)
        total += rows * (vocabulary - tokenizer.vocab_size)
    channels = config.encoder.subsampling_channels or width
    mels = config.frontend.num_mels
    # Three convolutions of 3 x 3, each of which halves time and frequency, and a projection.
    front = 18 * channels * (50 * mels / 2 + channels * (25 * mels / 4 + 12.5 * mels / 8))
    front += 2 * 12.5 * channels * mels / 8 * width
    return Shape(len(blocks), width, in_blocks, total - in_blocks, front)


@cache
def tokenizer_for_shapes() -> SentencePieceTokenizer:
    """Return a tokenizer of few pieces."""
    return SentencePieceTokenizer.train(TEXTS, 60, task_specials(("eng",), ()))


def config_of_size(size: str) -> OwsmCtcConfig:
    """Return a model of one of `SIZES`, or the published one, without randomness."""
    if size == PUBLISHED:
        return OwsmCtcConfig.published().model_copy(update={"spec_augment": None, "prompt": None})
    width, layers, heads = SIZES[size]
    small = OwsmCtcConfig.small()
    sized = {"model_dim": width, "num_layers": layers, "num_heads": heads, "ff_dim": 4 * width, "gate_dim": 4 * width}
    encoder = small.encoder.model_copy(update=sized)
    return small.model_copy(update={"encoder": encoder, "spec_augment": None, "prompt": None, "interctc_layers": (2,),
                                    "interctc_asr_only": (False,)})  # fmt: skip


def batch_for(tokenizer: SentencePieceTokenizer) -> SpeechBatch:
    """Return noise with a text."""
    torch.manual_seed(0)
    clips = torch.randn(NUM_CLIPS, round(CLIP_S * RATE)) * 0.1
    return SpeechCollator(tokenizer)(
        [Example(f"u{number}", clip.numpy(), "a cat", lang="eng") for number, clip in enumerate(clips)]
    )


# Measuring.


def measure(part: str) -> dict[str, Any]:
    """Time small models in one process (``steps``), or weigh them in pieces on two (``pieces``)."""
    torch.set_num_threads(1)
    tokenizer = tokenizer_for_shapes()
    load = load_average()
    if part == "steps":
        cases = (("a", False), ("b", False), ("c", False), ("c", True))
        found = [time_step(size, tokenizer, again=again) for size, again in cases]
    else:
        found = [run_pieces(size) for size in ("a", "c", PUBLISHED)]
    return {part: found, f"load_of_{part}": [load, load_average()], "runs": RUNS,
            "what": "training steps of random OWSM-CTC models, one thread, fp32; CPU seconds, medians"}  # fmt: skip


def time_step(size: str, tokenizer: SentencePieceTokenizer, *, again: bool) -> dict[str, Any]:
    """Return CPU seconds of a step, and what it keeps for the backward pass."""
    torch.manual_seed(0)
    model = OwsmCtc.from_config(config_of_size(size), tokenizer).train()
    if again:
        checkpoint_blocks(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batch = batch_for(tokenizer)
    seconds = []
    for _ in range(RUNS + 1):
        started = time.process_time()
        model.loss(batch).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.process_time() - started)
    kept = kept_bytes(model, batch)
    shape = shape_of(config_of_size(size), tokenizer)
    return {
        "size": size, "again": again, "num_layers": shape.num_layers, "model_dim": shape.model_dim,
        "audio_s": CLIP_S * NUM_CLIPS, "cpu_s": round(sorted(seconds[1:])[RUNS // 2], 4), "kept_bytes": kept,
    }  # fmt: skip


def kept_bytes(model: Trainable, batch: SpeechBatch) -> int:
    """Return the bytes that a forward pass keeps for the backward one, weights not counted."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = model.loss(batch).total
    total = sum(seen.values())
    loss.backward()
    model.zero_grad()
    return total


def run_pieces(size: str) -> dict[str, Any]:
    """Weigh a model that lies in pieces on two processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "benchmarks.scaling", "child", "--size", size]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found


def weigh_piece(size: str) -> dict[str, Any] | None:
    """Take a step in pieces; return what the first process holds behind it, and its peak over what it began with."""
    accelerator = build_accelerator(TrainConfig(max_steps=1, device="cpu"))
    tokenizer = tokenizer_for_shapes()
    torch.manual_seed(0)
    whole = OwsmCtc.from_config(config_of_size(size), tokenizer).train()
    if size == PUBLISHED:
        checkpoint_blocks(whole)
    model: nn.Module = whole
    shard(model, accelerator)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batch = batch_for(tokenizer)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loss = model.loss(batch).total  # type: ignore[operator]  # of a module
    loss.backward()
    optimizer.step()
    weights = local([weight.detach() for weight in model.parameters()])
    grads = local([weight.grad for weight in model.parameters() if weight.grad is not None])
    states = [value for state in optimizer.state.values() for value in state.values() if value.dim()]
    held = sum(tensor.numel() * tensor.element_size() for tensor in [*weights, *grads, *local(states)])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    world, is_first = accelerator.num_processes, accelerator.is_main_process
    accelerator.end_training()
    if not is_first:
        return None
    return {"size": size, "processes": world, "held_bytes": held, "peak_growth_bytes": grown}


# Simulating.


@dataclass(frozen=True)
class Kept:
    """Bytes kept for the backward pass for each second of speech and channel: by each block, and by the rest."""

    a_block: float
    rest: float

    def bytes_of(self, num_layers: int, model_dim: int, audio_s: float) -> float:
        """Return those of a model."""
        return audio_s * model_dim * (self.a_block * num_layers + self.rest)


def kept(measured: dict[str, Any], *, again: bool) -> Kept:
    """Return what is kept, from two models that differ in their number of blocks.

    Computed again, each block keeps its input in float32, which is not among what was weighed, and one at a time is
    there as a whole.
    """
    found = {(step["size"], step["again"]): step for step in measured["steps"]}
    b, c = (_kept_a_channel(found[size, False]) for size in ("b", "c"))
    layers_b, layers_c = (found[size, False]["num_layers"] for size in ("b", "c"))
    a_block = (c - b) / (layers_c - layers_b)
    if again:
        return Kept(4 * FRAMES_PER_S, _kept_a_channel(found["c", True]) + a_block)
    return Kept(a_block, c - a_block * layers_c)


def _kept_a_channel(step: dict[str, Any]) -> float:
    return float(step["kept_bytes"] / (step["audio_s"] * step["model_dim"]))


def flops_a_second(measured: dict[str, Any], size: str = "b") -> float:
    """Return what one thread of this machine does, by the step of one model."""
    step = next(step for step in measured["steps"] if step["size"] == size and not step["again"])
    return float(3 * NUM_CLIPS * _shape(step).forward_flops(CLIP_S) / step["cpu_s"])


def check(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Return for each measured case that was not used to predict what is predicted."""
    rate = flops_a_second(measured)
    found = []
    for step in measured["steps"]:
        factor = 4 if step["again"] else 3
        predicted = factor * NUM_CLIPS * _shape(step).forward_flops(CLIP_S) / rate
        name = f"step of {_shape(step).weights / 1e6:.1f} M, CPU s" + (", blocks again" if step["again"] else "")
        found.append(_compared(name, step["cpu_s"], predicted, is_used=step["size"] == "b"))
    for step in (step for step in measured["steps"] if not step["again"]):
        predicted = kept(measured, again=False).bytes_of(step["num_layers"], step["model_dim"], step["audio_s"])
        name = f"kept by {_shape(step).weights / 1e6:.1f} M, MB"
        found.append(_compared(name, step["kept_bytes"] / 1e6, predicted / 1e6, is_used=step["size"] != "a"))
    for piece in measured["pieces"]:
        predicted = STATE_BYTES * _shape(piece).weights / piece["processes"]
        name = f"held by one of {piece['processes']} with {_shape(piece).weights / 1e6:.1f} M, MB"
        found.append(_compared(name, piece["held_bytes"] / 1e6, predicted / 1e6, is_used=False))
    return found


def _compared(name: str, measured: float, predicted: float, *, is_used: bool) -> dict[str, Any]:
    return {
        "case": name, "measured": round(measured, 3), "predicted": round(predicted, 3),
        "ratio": round(predicted / measured, 3), "is_used": is_used,
    }  # fmt: skip


def _shape(values: dict[str, Any]) -> Shape:
    return shape_of(config_of_size(values["size"]), tokenizer_for_shapes())


def memory_of(shape: Shape, devices: int, batch_s: float, kept_of: Kept) -> dict[str, float]:
    """Return gigabytes of one device: its piece, a whole block and its gradient, what is kept, and the sum."""
    piece = STATE_BYTES * shape.weights / devices
    block = 8 * max(shape.block_weights / shape.num_layers, shape.other_weights)
    activations = kept_of.bytes_of(shape.num_layers, shape.model_dim, batch_s)
    parts = {"piece": piece, "block": block, "kept": activations, "sum": piece + block + activations}
    return {name: round(value / 1e9, 2) for name, value in parts.items()}


def training(
    shape: Shape, machine: Machine, *, devices: int, hours: float, epochs: float, batch_s: float
) -> dict[str, Any]:
    """Return what training on ``hours`` of speech takes, with blocks computed again and 30 s clips."""
    compute = 4 * batch_s / 30 * shape.forward_flops(30.0) / (machine.flops * machine.used_share)
    exchange = 3 * 4 * shape.weights * (devices - 1) / devices / machine.link_bytes
    reading = batch_s * 8 * stored_bytes_a_second() / machine.storage_bytes
    parts = {"computing": compute, "exchanging": exchange, "reading": reading}
    step = max(parts.values())
    wall_h = hours * epochs / (devices * batch_s / 3600) * step / 3600
    return {
        "devices": devices, "hours": hours, "epochs": epochs, "batch_s_a_device": batch_s,
        **{f"{name}_s": round(value, 3) for name, value in parts.items()},
        "bottleneck": max(parts, key=lambda name: parts[name]),
        "days": round(wall_h / 24, 1), "dollars": round(wall_h * devices * machine.price_an_hour, -2),
        "storage_tb": round(hours * 3600 * stored_bytes_a_second() / 1e12, 1),
        "shards_of_1_gb": round(hours * 3600 * stored_bytes_a_second() / 1e9),
    }  # fmt: skip


def decoding(shape: Shape, machine: Machine, *, hours: float, months: float) -> dict[str, Any]:
    """Return what decoding ``hours`` in ``months`` takes, padding to 30 s not counted."""
    seconds = hours * 3600 / 30 * shape.forward_flops(30.0) / (machine.flops * machine.used_share)
    devices = seconds / 3600 / (HOURS_A_MONTH * months)
    bytes_a_second = hours * 3600 * stored_bytes_a_second() / (HOURS_A_MONTH * months * 3600)
    return {
        "hours": hours, "months": months, "devices": round(devices, 2), "device_hours": round(seconds / 3600),
        "dollars": round(seconds / 3600 * machine.price_an_hour, -1),
        "read_mb_a_second": round(bytes_a_second / 1e6, 1),
        "utterances": round(hours * 360), "journal_gb": round(hours * 360 * 60 / 1e9, 1),
        "storage_tb": round(hours * 3600 * stored_bytes_a_second() / 1e12, 1),
    }  # fmt: skip


def stored_bytes_a_second() -> float:
    """Return what FLAC of 16 kHz takes: about half of 16 bits a sample."""
    return 16_000.0


def simulate(measured: dict[str, Any]) -> dict[str, Any]:
    """Compute what is too large to be measured."""
    machine = Machine()
    shape = shape_of(OwsmCtcConfig.published(), tokenizer_for_shapes(), vocabulary=VOCABULARY)
    kept_of = {again: kept(measured, again=again) for again in (False, True)}
    return {
        "machine": asdict(machine),
        "model": {**asdict(shape), "weights": shape.weights},
        "checks": check(measured),
        "memory": [
            {"devices": devices, "again": again, "batch_s": 60.0, **memory_of(shape, devices, 60.0, kept_of[again])}
            for devices in (1, 2, 8, 64)
            for again in (False, True)
        ],
        "training": [
            training(shape, machine, devices=devices, hours=180_000, epochs=3, batch_s=batch_s)
            for devices, batch_s in ((8, 240.0), (64, 240.0), (64, 30.0), (512, 60.0))
        ],
        "decoding": [decoding(shape, machine, hours=1e6, months=1)],
    }


def tables(values: dict[str, Any]) -> dict[str, str]:
    """Return the tables of the document by name."""
    found = {}
    for name in ("checks", "memory", "training", "decoding"):
        rows = values[name]
        lines = ["| " + " | ".join(title.replace("_", " ") for title in rows[0]) + " |", "|" + "---|" * len(rows[0])]
        lines += ["| " + " | ".join(map(_shown, row.values())) + " |" for row in rows]
        found[name] = "\n".join(lines)
    return found


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int | float) else str(value)


def fill(text: str, values: dict[str, Any]) -> str:
    """Return the document with its tables anew."""
    for name, table in tables(values).items():
        begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
        head, _, rest = text.partition(begin)
        text = head + begin + table + end + rest.partition(end)[2]
    return text


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def main() -> int:
    """Measure, or simulate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "simulate", "child"))
    parser.add_argument("--part", choices=("steps", "pieces"), action="append", help="of measure; default: both")
    parser.add_argument("--size", choices=(*SIZES, PUBLISHED), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.what == "child":
        found = weigh_piece(args.size)
        if found is not None:
            print(json.dumps(found))
    elif args.what == "measure":
        for part in args.part or ("steps", "pieces"):
            found = measure(part)
            before = json.loads(MEASURED.read_text(encoding="utf-8")) if MEASURED.is_file() else {}
            _write(MEASURED, json.dumps({**before, **found}, indent=1) + "\n")
    else:
        values = simulate(json.loads(MEASURED.read_text(encoding="utf-8")))
        _write(SIMULATED, json.dumps(values, indent=1) + "\n")
        _write(DOCUMENT, fill(DOCUMENT.read_text(encoding="utf-8"), values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
