"""Our MAGNeT against audiocraft's on the same random weights, each side in a process: ``CLONE`` is of its repository.

What is timed is 10 s of codes with guidance, in the paper's 50 steps, with the published network in a fifth of them; in
every precision of ours and in audiocraft's float32 by turns (A B C A B C). How far the logits of each codebook agree is
stated, and the peak memory of each process. The text encoder is left out on both sides, its features are random
numbers. What audiocraft needs, and what is put in the place of xformers, is told in
``tests/reference/make_golden_magnet.py``.
"""

import argparse
import copy
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

from benchmarks.result import RESULTS, load_average, write_result
from benchmarks.sides import ask, started
from speechnar.decode.mask_predict import MaskPredictConfig, mask_predict
from speechnar.hub import Precision
from speechnar.interop import convert_audiocraft
from speechnar.interop.audiocraft import CODEC_FILE, MODEL_FILE
from speechnar.models.prepare import load_prepared, precisions_of
from speechnar.models.sound.magnet import Magnet
from tests.reference import make_golden_magnet as reference

SECONDS, FRAME_RATE, TEXT_TOKENS, TEXT_DIM = 10, 50, 16, 512
NUM_FRAMES = SECONDS * FRAME_RATE // reference.SPAN * reference.SPAN


class Size(NamedTuple):
    """A network, how many codes a codebook has, how often it is timed, and the steps of the codebooks."""

    dim: int
    heads: int
    layers: int
    codes: int
    runs: int
    steps: tuple[int, ...] = MaskPredictConfig().steps


SIZES = {
    "tiny": Size(16, 2, 2, 32, 1),
    "recipe": Size(192, 4, 6, 512, 3),
    "published": Size(1024, 16, 24, 2048, 1, (4, 2, 2, 2)),
}


MAKE, THEIRS, OURS = "make", "audiocraft 1.4", "ours"


def main() -> int:
    """Write a result for each size and precision; with --side be one of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clone", type=Path, metavar="CLONE")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=("recipe", "published"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, help="default: 3, of the published size 1")
    parser.add_argument("--precisions", nargs="+", default=precisions_of(torch.device("cpu")))
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for name in args.sizes:
        if args.side is None:
            compare(name, args)
        else:
            serve(SIZES[name], args)
    return 0


def compare(name: str, args: argparse.Namespace) -> None:
    """Measure one size."""
    size, load = SIZES[name], load_average()
    runs = args.runs or size.runs
    sides = [*args.precisions, THEIRS]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        told = (args.clone, "--sizes", name, "--folder", folder, "--threads", args.threads, "--side")
        with started("-m", "benchmarks.speed_magnet", *told, MAKE) as maker:
            num_parameters = ask(maker)["parameters"]
        workers = {side: stack.enter_context(started("-m", "benchmarks.speed_magnet", *told, side)) for side in sides}
        rounds = [{side: ask(worker) for side, worker in workers.items()} for _ in range(runs + 1)]
        logits = {side: torch.load(Path(folder) / f"{side}.pt") for side in sides}
    spent = {
        side: {
            "median_s": round(statistics.median(each[side]["wall_s"] for each in rounds[1:]), 4),
            "peak_bytes": rounds[-1][side]["peak_bytes"],
        }
        for side in sides
    }
    for precision in args.precisions:
        ours, theirs, agreement = spent[precision], spent[THEIRS], agree(logits[precision], logits[THEIRS])
        write_result(
            f"speed_magnet_{name}" + ("" if precision == "fp32" else f"_{precision}"),
            what=f"MAGNeT, {num_parameters / 1e6:.1f} M random parameters: codes of {SECONDS} s on a CPU, {precision}",
            threads=args.threads,
            runs=runs,
            load_before=load,
            a={"label": f"speechnar {precision}", **ours, **agreement},
            b={"label": THEIRS, **theirs},
            result=f"speechnar {ours['median_s']:.2f} s, audiocraft {theirs['median_s']:.2f} s "
            f"({theirs['median_s'] / ours['median_s']:.2f} times ours); peak memory {ours['peak_bytes'] / 2**30:.1f} "
            f"and {theirs['peak_bytes'] / 2**30:.1f} GiB",
            note=f"guidance, {' + '.join(map(str, size.steps))} steps; codec and text encoder are not counted; "
            f"{100 * agreement['same_codes']:.1f} % of the most probable codes alike, logits within "
            f"{agreement['logits_within']:.2g}",
            folder=args.output,
        )


def agree(ours: Tensor, theirs: Tensor) -> dict[str, float]:
    """Return the share of frames and codebooks with the same most probable code, and how far logits differ at most."""
    return {
        "same_codes": (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item(),
        "logits_within": (ours - theirs).abs().max().item(),
    }


@torch.no_grad()
def serve(size: Size, args: argparse.Namespace) -> None:
    """Work for each line of stdin, and say what it took."""
    folder: Path = args.folder
    features = torch.randn(2, TEXT_TOKENS, TEXT_DIM, generator=torch.Generator().manual_seed(0))
    sampling = MaskPredictConfig(steps=size.steps)
    codes = torch.randint(
        0, size.codes + 1, (1, reference.BOOKS, NUM_FRAMES), generator=torch.Generator().manual_seed(0)
    )
    work: Callable[[], object]
    if args.side == MAKE:
        print(json.dumps({}), flush=True)
        sys.stdin.readline()
        print(json.dumps({"parameters": make(size, args.clone, folder)}), flush=True)
        return
    if args.side == THEIRS:
        theirs = read_theirs(size, args.clone, folder)
        logits, work = logits_of_theirs(theirs, codes, features), lambda: run_theirs(theirs, features, sampling)
    else:
        ours = read_ours(folder, args.side)
        logits, work = logits_of_ours(ours, codes, features), lambda: run_ours(ours, features, sampling)
    torch.save(logits, folder / f"{args.side}.pt")
    print(json.dumps({}), flush=True)
    for _ in sys.stdin:
        began = time.perf_counter()
        work()
        wall_s = time.perf_counter() - began
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"wall_s": wall_s, "peak_bytes": peak_bytes}), flush=True)


def options_of(size: Size) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what audiocraft is told of the network and of its codec."""
    options, codec_options = copy.deepcopy(reference.MODEL), copy.deepcopy(reference.CODEC)
    network: dict[str, Any] = {"dim": size.dim, "num_heads": size.heads, "num_layers": size.layers, "card": size.codes}
    network |= {"subcodes_context": 5, "compression_model_framerate": FRAME_RATE, "segment_duration": SECONDS}
    options["transformer_lm"] |= network
    options["dataset"]["segment_duration"] = SECONDS
    codec_options["rvq"]["bins"] = size.codes
    codec_options["sample_rate"] = FRAME_RATE * 48
    return options, codec_options


def make(size: Size, clone: Path, folder: Path) -> int:
    """Write a model of random weights, as audiocraft stores it and as we do; return how many parameters it has."""
    options, codec_options = options_of(size)
    reference.put_modules()
    sys.path.insert(0, str(clone))
    theirs, codec = reference.make_models(options, codec_options)
    for name, model, settings in ((MODEL_FILE, theirs, options), (CODEC_FILE, codec, codec_options)):
        torch.save({"xp.cfg": yaml.safe_dump(settings), "best_state": model.state_dict()}, folder / name)
    convert_audiocraft(folder, folder / OURS)
    return sum(each.numel() for each in theirs.parameters())


def read_theirs(size: Size, clone: Path, folder: Path) -> Any:
    """Return audiocraft's network."""
    reference.put_modules()
    sys.path.insert(0, str(clone))
    model, _ = reference.make_models(*options_of(size))
    model.load_state_dict(torch.load(folder / MODEL_FILE, mmap=True)["best_state"])
    return model


def read_ours(folder: Path, precision: Precision) -> Magnet:
    """Return our network, prepared."""
    model = load_prepared(folder / OURS, precision=precision).model
    assert isinstance(model, Magnet)
    return model


def logits_of_theirs(model: Any, codes: Tensor, features: Tensor) -> Tensor:
    """Return what the network finds of all codebooks of ``codes``, (K, T, V)."""
    told = model.condition_provider.conditioners["description"].output_proj(features[:1])
    condition = {"description": (told, torch.ones(1, features.size(1)))}
    found = [model(codes, [], condition, stage=codebook)[0, codebook] for codebook in range(reference.BOOKS)]
    return torch.stack(found).float()


def logits_of_ours(model: Magnet, codes: Tensor, features: Tensor) -> Tensor:
    """Return the same of our network."""
    condition = model.condition.of_features(features[:1], torch.tensor([features.size(1)]))
    return torch.stack([model(codes, codebook, condition)[0] for codebook in range(reference.BOOKS)])


@torch.no_grad()
def run_theirs(model: Any, features: Tensor, sampling: MaskPredictConfig) -> Tensor:
    """Return the codes (1, K, T) that audiocraft makes; the first of ``features`` are told, the second are not."""
    mask = torch.tensor([1.0, 0.0])[:, None].expand(2, features.size(1))
    project = model.condition_provider.conditioners["description"].output_proj
    condition = {"description": (project(features) * mask[..., None], mask)}
    codes = torch.full((1, reference.BOOKS, NUM_FRAMES), model.card)
    for stage, steps in enumerate(sampling.steps):
        codes, _ = model._generate_stage(
            codes, condition, stage=stage, device="cpu", temp=sampling.temperature, top_p=sampling.top_p,
            max_cfg_coef=sampling.guidance[0], min_cfg_coef=sampling.guidance[1], timesteps=steps,
        )  # fmt: skip
    return codes


@torch.no_grad()
def run_ours(model: Magnet, features: Tensor, sampling: MaskPredictConfig) -> Tensor:
    """Return the codes (1, K, T) that we make."""
    condition, unconditional = (
        model.condition.of_features(rows[None], torch.tensor([count]))
        for rows, count in zip(features, (features.size(1), 0), strict=True)
    )
    return mask_predict(
        model.predictor(condition, unconditional),
        torch.zeros(1, reference.BOOKS, NUM_FRAMES, dtype=torch.int64),
        torch.zeros(NUM_FRAMES, dtype=torch.bool),
        sampling,
        span_len=model.config.span_len,
        generators=[torch.Generator().manual_seed(0)],
    )


if __name__ == "__main__":
    sys.exit(main())
