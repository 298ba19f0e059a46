"""What a training step of each recipe costs at its paper's scale, measured small, for ``run.sh --dry-run``.

Each configuration is built as it stands, with random weights, and takes one step on two clips of noise, in a process of
its own: its operations are counted (matrix products, convolutions and attention, forward and backward), the CPU seconds
of one thread are taken of another such step, and what the forward pass keeps for the backward one is weighed. Beside
that: the seconds an utterance costs where directories are written and read, described, made a tokenizer of, and scored,
and how fast a checkpoint is written. Differs from the recipes: tokens are those of a made-up list, as long as the
recipe's; words condition MAGNeT where T5, which is frozen, does.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.result import RESULTS, ROOT, load_average
from speechnar.config import load_config
from speechnar.data.batch import Example, SpeechCollator
from speechnar.data.build_tokenizer import build_tokenizer
from speechnar.data.codes import CodeBatch
from speechnar.data.describe import describe_dirs
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.evaluation.scores import score_dir
from speechnar.files import replacing
from speechnar.models.base import Trainable
from speechnar.nn.undrawn import Undrawn
from speechnar.text.phonemes import PhonemeTokenizer
from speechnar.text.tokenizer import SENTENCE_PIECES, CharTokenizer, Tokenizer
from speechnar.train.checkpoint import save_checkpoint
from speechnar.train.run import RunConfig, build_model

RECIPES = ROOT / "recipes"
NAME = "scaling_recipes"
NUM_CLIPS = 2
UTTERANCES = 2000
WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dogs", "ran", "home", "to", "see", "what", "they", "said")
SIGNS = (*range(0x4E00, 0x9FA0), *range(0x20000, 0x2A000))
"""Code points of made-up tokens."""
SPECIALS = ("<na>", "<nolang>", "<eng>", "<deu>", "<asr>", "<st_deu>")
CHECKPOINTS = (40_000_000, 250_000_000)
"""Weights of models whose checkpoints, of three numbers each, are timed: the shipped recogniser's, and more."""


@dataclass(frozen=True)
class Case:
    """A configuration, and what it is given."""

    clip_s: float
    """Of the corpus' mean or below, but for pieces that are cut from each clip."""
    vocab_size: int | None
    """None: phonemes."""
    overrides: tuple[str, ...] = ()


WORDS_CONDITION = ("model.condition={kind: words}",)
CASES = {
    "librispeech/asr/conf/train.yaml": Case(6.0, 5000),
    "librispeech/asr/conf/train_cassnat.yaml": Case(6.0, 5000),
    "librispeech/asr/conf/train_paraformer.yaml": Case(6.0, 5000),
    "aishell1/asr/conf/train_paraformer.yaml": Case(5.0, 4200),
    "aishell1/asr/conf/train_cassnat.yaml": Case(5.0, 4200),
    "mustc/st/conf/train.yaml": Case(4.0, 4000),
    "libritts/tts/conf/autoencoder.yaml": Case(3.0, None),
    "libritts/tts/conf/masked.yaml": Case(3.0, None),
    "libritts/tts/conf/vocos_gan.yaml": Case(6.0, None),
    "libritts/tts/conf/ardit.yaml": Case(3.0, None),
    "libritts/tts/conf/one_step.yaml": Case(3.0, None),
    "audiocaps/audio/conf/encodec_gan.yaml": Case(10.0, 5000),
    "audiocaps/audio/conf/magnet.yaml": Case(10.0, 5000, WORDS_CONDITION),
    "../conf/sound_classifier.yaml": Case(10.0, 5000, ("data.train=data", "data.dev=data", "tokenizer=data")),
    "owsm/s2t/conf/train.yaml": Case(6.0, 50_000),
}


def measure(name: str) -> dict[str, Any]:
    """Return what a step of one configuration costs, for each second of sound."""
    torch.set_num_threads(1)
    case = CASES[name]
    config = load_config(RECIPES / name, RunConfig, case.overrides)
    tokenizer = make_tokenizer(case.vocab_size)
    torch.manual_seed(0)
    with Undrawn():
        model = build_model(config.model, tokenizer)
    for weight in model.parameters():
        nn.init.normal_(weight, std=0.02)
    model.train()
    batch = make_batch(model, config, tokenizer, case.clip_s)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    audio_s = NUM_CLIPS * case.clip_s
    with Operations() as counter:
        most = 0
        for turn in model.turns():
            kept.clear()
            with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
                loss = turn.loss(batch).total
            most = max(most, sum(kept.values()))
            loss.backward()
            model.zero_grad()
    started = time.process_time()
    for turn in model.turns():
        turn.loss(batch).total.backward()
        model.zero_grad()
    cpu_s = time.process_time() - started
    return {
        "weights": sum(weight.numel() for weight in model.parameters()),
        "trained": sum(weight.numel() for weight in model.parameters() if weight.requires_grad),
        "audio_s": audio_s,
        "flops_a_second": round(counter.total / audio_s),
        "cpu_s_a_second": round(cpu_s / audio_s, 4),
        "kept_bytes_a_second": round(most / audio_s),
    }


class Operations(TorchDispatchMode):
    """Counts operations, two for a product and its sum, of whatever is computed within."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do what is asked for, and count it where it is known to count."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution_backward.default:  # torch's own count overlooks groups
            grad, given, weight, *_, transposed, _, _, wanted = args
            positions, channels = (given, weight.size(0)) if transposed else (grad, weight.size(0))
            self.total += 2 * positions.numel() // channels * weight.numel() * sum(wanted[:2])
            return out
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def make_tokenizer(vocab_size: int | None) -> Tokenizer:
    """Return a tokenizer of so many tokens, or of phonemes."""
    if vocab_size is None:
        return PhonemeTokenizer()
    signs = map(chr, SIGNS[: vocab_size - len(SPECIALS) - 2 - len(SENTENCE_PIECES) - 26])
    letters = "abcdefghijklmnopqrstuvwxyz"
    return CharTokenizer(["<blank>", "<unk>", *SPECIALS, *letters, *signs, *SENTENCE_PIECES])


def make_batch(model: Trainable, config: RunConfig, tokenizer: Tokenizer, clip_s: float) -> Any:
    """Return clips of noise with about four letters a second, or codes if the configuration learns from these."""
    text = " ".join(WORDS[: max(2, round(clip_s))])
    if config.data.kind == "codes":
        codec = model.codec
        frames = round(clip_s * codec.config.frame_rate)
        tokens = torch.tensor([tokenizer.encode(text)] * NUM_CLIPS)
        return CodeBatch(
            codes=torch.randint(codec.config.codebook_size, (NUM_CLIPS, codec.config.num_codebooks, frames)),
            code_lens=torch.full((NUM_CLIPS,), frames),
            tokens=tokens,
            token_lens=torch.full((NUM_CLIPS,), tokens.size(1)),
            utt_ids=tuple(map(str, range(NUM_CLIPS))),
        )
    rate = int(getattr(model, "sample_rate", 16000))
    clips = torch.randn(NUM_CLIPS, round(clip_s * rate)) * 0.1
    examples = [
        Example(str(number), clip.numpy(), text, lang="eng", spk_id=str(number)) for number, clip in enumerate(clips)
    ]
    return SpeechCollator(tokenizer, sample_rate=rate)(examples)


def measure_stages(folder: Path) -> dict[str, Any]:
    """Return seconds for each utterance of what is done to data, and of checkpoints."""
    torch.set_num_threads(1)
    soundfile.write(folder / "tone.wav", torch.randn(16000).numpy() * 0.1, 16000)
    content = (folder / "tone.wav").read_bytes()
    paths = [folder / f"{number:05d}.wav" for number in range(UTTERANCES)]
    for path in paths:
        path.write_bytes(content)

    def prepare() -> None:
        seconds = [float(soundfile.info(path).duration) for path in paths]
        write_kaldi_dir(
            folder / "data",
            (
                Utterance(path.stem, path, " ".join(WORDS[number % 7 :]), "s", duration, lang="eng")
                for number, (path, duration) in enumerate(zip(paths, seconds, strict=True))
            ),
        )

    found = {"preparing": timed(prepare)}
    utterances = read_kaldi_dir(folder / "data")
    found["tokenizing"] = timed(lambda: build_tokenizer(utterances, folder / "tokenizer", vocab_size=40))
    found["describing"] = timed(lambda: describe_dirs([folder / "data"], folder / "tokenizer"))
    hyp = folder / "hyp"
    hyp.write_text("".join(f"{utterance.utt_id} {utterance.text}\n" for utterance in utterances), encoding="utf-8")
    found["scoring"] = timed(lambda: score_dir(folder / "data", hyp))
    rates = {f"{name}_s_an_utterance": round(seconds / UTTERANCES, 6) for name, seconds in found.items()}
    return {**rates, "checkpoints": [time_checkpoint(folder, weights) for weights in CHECKPOINTS]}


def time_checkpoint(folder: Path, weights: int) -> dict[str, float]:
    """Return the seconds that a checkpoint keeps a run waiting, and those that copying it first would."""
    payload = {name: torch.randn(weights) for name in ("model", "mean", "square")}
    path = folder / "last.pt"
    written = timed(lambda: save_checkpoint(path, payload))
    copied = timed(lambda: {name: tensor.clone() for name, tensor in payload.items()})
    return {
        "weights": weights,
        "bytes": path.stat().st_size,
        "written_s": round(written, 2),
        "copied_s": round(copied, 2),
    }


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    started = time.monotonic()
    call()
    return time.monotonic() - started


def main() -> int:
    """Write ``scaling_recipes.json``; configurations that are not named keep what was measured before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}, or stages; default: all")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.child == "stages":
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure_stages(Path(folder))))
        return 0
    if args.child is not None:
        print(json.dumps(measure(args.child)))
        return 0
    path = args.output / f"{NAME}.json"
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name in args.names or ("stages", *CASES):
        load = load_average()
        command = [sys.executable, "-m", "benchmarks.recipes", "--child", name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found = {**json.loads(run.stdout.splitlines()[-1]), "load_before": load}
        print(name, json.dumps(found), flush=True)
        values = {
            "name": NAME,
            "what": "training steps of the recipes' configurations, random weights, one thread, fp32",
            "cores": os.cpu_count(),
            "stages": values.get("stages", {}),
            "steps": values.get("steps", {}),
        }
        if name == "stages":
            values["stages"] = found
        else:
            values["steps"][name] = found
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
