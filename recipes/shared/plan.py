"""Print what a recipe's stages would run and what each command takes, for ``run.sh --dry-run``.

Costs are computed from what was measured: operations, CPU seconds and memory of a training step of the configuration
for each second of sound, and seconds for each utterance of what is done to data (``benchmarks/recipes.py``, which says
on what). What an accelerator makes of the operations is assumed (``benchmarks/scaling.py``), and so is the speed of
downloads. How much data there are, and what the paper reports, is in the recipe's ``scale.yaml``, with sources.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from speechnar.config import load_config
from speechnar.train.run import RunConfig

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DOWNLOAD_BYTES = 12.5e6
"""A second: 100 Mbit/s, assumed."""
STATE_BYTES = 16
"""Of each weight that is trained: itself, its gradient and two moments of AdamW."""
FORWARD_SHARE = 1 / 3
"""Of a step's operations: the backward pass takes twice as many."""
AGAIN = 4 / 3
"""What a step costs with blocks computed again."""
PROGRAM_GB = 0.5
"""Of a program that loads no model."""
WAV_BYTES = 2


@dataclass(frozen=True)
class Cost:
    """What a command takes; hours are of one CPU thread, and of all devices together at work if it may use them."""

    cpu_h: float | None = None
    device_h: float | None = None
    memory_gb: float = PROGRAM_GB
    disk_gb: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """What costs are computed from."""

    folder: Path
    """Of the recipe."""
    scale: Mapping[str, Any]
    measured: Mapping[str, Any]
    machine: Mapping[str, Any]
    parts: Sequence[str]
    devices: int
    kept_again: float
    """Share of what is kept for the backward pass with blocks computed again."""

    def size(self, directories: Sequence[str]) -> tuple[float, int]:
        """Return hours and utterances of data directories, by their names; of the ones that are not known, none."""
        hours, utterances = 0.0, 0
        sets = self.scale["sets"]
        for name in directories:
            path = Path(name)
            key = path.name if path.name in sets else f"{path.parent.name}/{path.name}"
            found = sets.get(key)
            if key in ("train", "librispeech/train") and self.parts and "parts" in self.scale:
                chosen = [self.scale["parts"][part] for part in self.parts]
                found = {key: sum(part[key] for part in chosen) for key in ("hours", "utterances")}
            if found is not None:
                hours += found["hours"]
                utterances += found["utterances"]
        return hours, utterances

    def step(self, config: str) -> Mapping[str, Any] | None:
        """Return what was measured of a configuration."""
        path = os.path.relpath((self.folder / config).resolve(), ROOT / "recipes")
        found: Mapping[str, Any] | None = self.measured["steps"].get(path)
        return found

    def forward(self, config: str, hours: float, times: float = 1.0) -> Cost:
        """Return what it takes to apply a configuration's model to so many hours."""
        step = self.step(config)
        if step is None:
            return Cost(note=f"{config} was not measured")
        seconds = hours * 3600 * times * FORWARD_SHARE
        return Cost(
            cpu_h=seconds * step["cpu_s_a_second"] / 3600,
            device_h=seconds * step["flops_a_second"] / self.rate / 3600,
            memory_gb=PROGRAM_GB + 4 * step["weights"] / 1e9,
        )

    @property
    def rate(self) -> float:
        """Operations a second of all devices."""
        return float(self.machine["flops"] * self.machine["used_share"] * self.devices)

    def data(self, what: str, directories: Sequence[str]) -> Cost:
        """Return what something done to each utterance takes."""
        _, utterances = self.size(directories)
        return Cost(cpu_h=utterances * self.measured["stages"][f"{what}_s_an_utterance"] / 3600)


def cost_of_training(plan: Plan, words: Sequence[str]) -> Cost:
    """Return what ``train CONFIG --exp DIR KEY=VALUE...`` takes."""
    config = words[0]
    overrides = [word for word in words[1:] if "=" in word and not word.startswith("-")]
    run = load_config(plan.folder / config, RunConfig, overrides)
    step = plan.step(config)
    if step is None:
        return Cost(note=f"{config} was not measured")
    train = next(word.partition("=")[2] for word in overrides if word.startswith("data.train="))
    hours, _ = plan.size(train.strip("[]").split(","))
    if run.data.kind == "codes":
        batch_s = run.data.batch_frames / plan.scale["frames_a_second"]
    else:
        batch_s = run.data.batch_seconds
    update_s = batch_s * run.train.grad_accum * plan.devices
    updates = hours * 3600 * (run.train.max_epochs or 0) / update_s
    if run.train.max_steps is not None:
        updates = min(updates or run.train.max_steps, run.train.max_steps)
    seconds = updates * update_s * (AGAIN if run.train.gradient_checkpointing else 1)
    pieces = plan.devices if run.train.parallel == "fsdp" else 1
    frozen = step["weights"] - step["trained"]
    kept = step["kept_bytes_a_second"] * batch_s * (plan.kept_again if run.train.gradient_checkpointing else 1)
    memory = STATE_BYTES * step["trained"] / pieces + 4 * frozen + kept
    size = f"{step['weights'] / 1e6:,.0f} M weights"
    checkpoints = 2 * (12 * step["trained"] + 4 * frozen) + (run.train.keep_checkpoints + 1) * 4 * step["weights"]
    return Cost(
        cpu_h=seconds * step["cpu_s_a_second"] / 3600,
        device_h=seconds * step["flops_a_second"] / plan.rate / 3600,
        memory_gb=PROGRAM_GB + memory / 1e9,
        disk_gb=checkpoints / 1e9,
        note=f"{size}, {updates:,.0f} updates of {update_s:,.0f} s; {hours:,.0f} h to hear",
    )


def cost_of_download(plan: Plan, words: Sequence[str]) -> Cost:
    """Return what ``data download URL FILE`` takes."""
    size = plan.scale.get("archives_gb", {}).get(Path(words[0]).name)
    if size is None:
        return Cost(note="of unknown size")
    return Cost(cpu_h=size * 1e9 / DOWNLOAD_BYTES / 3600, disk_gb=size, note="at 100 Mbit/s")


def cost_of_preparing(plan: Plan, words: Sequence[str]) -> Cost:
    """Return what a script of the recipe's own takes: unpacking is not timed, but its disk is counted once a corpus."""
    sets = plan.scale["sets"]
    hours, utterances = plan.size(words)
    if not utterances:  # a script that makes all of them
        hours, utterances = plan.size(list(sets))
    seconds = utterances * plan.measured["stages"]["preparing_s_an_utterance"]
    disk = hours * 3600 * plan.scale["unpacked_bytes_a_second"] / 1e9
    return Cost(cpu_h=seconds / 3600, disk_gb=disk, note="unpacking not counted in the time")


def cost_of_codes(plan: Plan, words: Sequence[str]) -> Cost:
    """Return what ``data codes`` takes: the codec's forward pass, at most."""
    hours, _ = plan.size(words)
    cost = plan.forward(plan.scale["codec"], hours, plan.scale["codec_times"])
    disk = hours * 3600 * plan.scale["frames_a_second"] * 4 * 2 / 1e9
    return Cost(cost.cpu_h, cost.device_h, cost.memory_gb, disk, cost.note)


def cost_of_decoding(plan: Plan, words: Sequence[str]) -> Cost:
    """Return what ``decode MODEL DIR OUT`` takes, or that of ``tts`` and ``sound``: STEPS forward passes."""
    hours, _ = plan.size(words[1:2])
    steps = float(words[words.index("--steps") + 1]) if "--steps" in words else plan.scale.get("steps", 1.0)
    cost = plan.forward(plan.scale["model"], hours, steps)
    rate = plan.scale.get("sounds_rate", 0)
    return Cost(cost.cpu_h, cost.device_h, cost.memory_gb, hours * 3600 * rate * WAV_BYTES / 1e9, cost.note)


def cost_of_scoring(plan: Plan, words: Sequence[str]) -> Cost:
    """Return what ``score DIR HYP`` takes; of sounds, without the judges."""
    return plan.data("scoring", words[:1])


def cost_of_export(plan: Plan, words: Sequence[str]) -> Cost:
    """Return what averages and packs take: reading and writing the weights."""
    step = plan.step(plan.scale["model"])
    weights = 0 if step is None else step["weights"]
    large = plan.measured["stages"]["checkpoints"][-1]
    seconds = 6 * 4 * weights * large["written_s"] / large["bytes"]
    return Cost(cpu_h=seconds / 3600, memory_gb=PROGRAM_GB + 12 * weights / 1e9, disk_gb=4 * weights / 1e9)


VERBS: dict[tuple[str, ...], Callable[[Plan, Sequence[str]], Cost]] = {
    ("train",): cost_of_training,
    ("data", "download"): cost_of_download,
    ("data", "tokenizer"): lambda plan, words: plan.data("tokenizing", words[:-1]),
    ("data", "words"): lambda plan, words: plan.data("tokenizing", words),
    ("data", "describe"): lambda plan, words: plan.data("describing", words),
    ("data", "codes"): cost_of_codes,
    ("decode",): cost_of_decoding,
    ("tts", "decode"): cost_of_decoding,
    ("sound", "decode"): cost_of_decoding,
    ("score",): cost_of_scoring,
    ("tts", "score"): cost_of_scoring,
    ("sound", "score"): cost_of_scoring,
    ("average",): cost_of_export,
    ("pack",): cost_of_export,
    ("tts", "fit-codec"): cost_of_export,
}


def cost_of(plan: Plan, command: Sequence[str]) -> Cost:
    """Return what a command takes."""
    if "speechnar" in command:
        words = command[command.index("speechnar") + 1 :]
        for verb, cost in VERBS.items():
            if tuple(words[: len(verb)]) == verb:
                return cost(plan, words[len(verb) :])
    elif any(word.startswith("local/") for word in command):
        return cost_of_preparing(plan, command)
    return Cost(note="not known")


def share_kept_again(measured: Mapping[str, Any]) -> float:
    """Return what is kept with blocks computed again over what is kept without, of the model weighed both ways."""
    again = next(step for step in measured["steps"] if step["again"])
    usual = next(step for step in measured["steps"] if not step["again"] and step["size"] == again["size"])
    return float(again["kept_bytes"] / usual["kept_bytes"])


def shown_hours(hours: float) -> str:
    """Return so many hours in the unit that fits."""
    if hours < 1 / 60:
        return f"{hours * 3600:.0f} s"
    if hours < 1:
        return f"{hours * 60:.0f} min"
    return f"{hours:,.1f} h" if hours < 100 else f"{hours:,.0f} h"


def shown(cost: Cost, plan: Plan) -> str:
    """Return a line of what a command takes."""
    found = []
    if cost.cpu_h is not None:
        found.append(f"{shown_hours(cost.cpu_h)} of a CPU thread")
    if cost.device_h is not None:
        found.append(f"or {shown_hours(cost.device_h)} on {plan.devices} {plan.machine['name']}")
    found.append(f"{cost.memory_gb:.1f} GB of memory")
    found.append(f"{cost.disk_gb:.1f} GB of disk")
    return ", ".join(found) + (f" ({cost.note})" if cost.note else "")


def main() -> int:
    """Print the plan of the notes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notes", type=Path)
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--parts", default="")
    parser.add_argument("--devices", type=int, default=1)
    args = parser.parse_args()
    path = args.recipe / "scale.yaml"
    notes = [line.split("\x1f") for line in args.notes.read_text(encoding="utf-8").splitlines()]
    if not path.is_file():
        for stage, *command in notes:
            print(f"stage {stage}\n  {shlex.join(command)}")
        print(f"{path} is missing: no costs are known", file=sys.stderr)
        return 0
    plan = Plan(
        folder=args.recipe,
        scale=yaml.safe_load(path.read_text(encoding="utf-8")),
        measured=json.loads((RESULTS / "scaling_recipes.json").read_text(encoding="utf-8")),
        machine=json.loads((RESULTS / "scaling.json").read_text(encoding="utf-8"))["machine"],
        parts=args.parts.split(),
        devices=args.devices,
        kept_again=share_kept_again(json.loads((RESULTS / "scaling_measured.json").read_text(encoding="utf-8"))),
    )
    told, costs = None, []
    for stage, *command in notes:
        if stage != told:
            print(f"stage {stage}")
            told = stage
        costs.append(cost_of(plan, command))
        print(f"  {shlex.join(command)}\n    {shown(costs[-1], plan)}")
    total = Cost(
        sum(cost.cpu_h or 0.0 for cost in costs),
        sum(cost.cpu_h or 0.0 if cost.device_h is None else cost.device_h for cost in costs),
        max((cost.memory_gb for cost in costs), default=0.0),
        sum(cost.disk_gb for cost in costs),
    )
    print(f"all: {shown(total, plan)}")
    for aim in plan.scale["paper"]:
        print(f"the paper ({aim['source']}): {aim['number']}")
    share = f"{plan.machine['used_share']:.0%} of its maker's figure"
    print(f"Threads as measured (benchmarks/recipes.py); the {plan.machine['name']} is assumed to reach {share}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
