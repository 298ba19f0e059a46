"""Our MAGNeT against audiocraft's on the same random weights, in one process: ``CLONE`` is of its repository.

What is timed is 10 s of codes with guidance, in the paper's 50 steps, with the published network in a fifth of them; in
every precision of ours by turns with audiocraft's float32 (A B A B). How far the logits of each codebook agree is
stated. The text encoder is left out on both sides, its features are random numbers. What audiocraft needs, and what is
put in the place of xformers, is told in ``tests/reference/make_golden_magnet.py``.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from benchmarks.result import RESULTS, load_average, median_seconds, write_result
from speechnar.decode.mask_predict import MaskPredictConfig, mask_predict
from speechnar.hub import Precision
from speechnar.interop import convert_audiocraft
from speechnar.interop.audiocraft import CODEC_FILE, MODEL_FILE
from speechnar.models.base import load_model
from speechnar.models.prepare import precisions_of, prepare
from speechnar.models.sound.magnet import Magnet
from tests.reference import make_golden_magnet as reference

SECONDS, FRAME_RATE, TEXT_TOKENS = 10, 50, 16
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


def main() -> int:
    """Write a result for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clone", type=Path, metavar="CLONE")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=("recipe", "published"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, help="default: 3, of the published size 1")
    parser.add_argument("--precisions", nargs="+", default=precisions_of(torch.device("cpu")))
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    reference.put_modules()
    sys.path.insert(0, str(args.clone))
    for name in args.sizes:
        size, load = SIZES[name], load_average()
        runs = args.runs or size.runs
        for precision in args.precisions:
            theirs, ours, num_parameters, agreement = build(size, precision)
            ours_s, theirs_s = median_seconds(ours, theirs, runs)
            write_result(
                f"speed_magnet_{name}" + ("" if precision == "fp32" else f"_{precision}"),
                what=f"MAGNeT, {num_parameters / 1e6:.1f} M random parameters: codes of {SECONDS} s on a CPU, "
                f"{precision}",
                threads=args.threads,
                runs=runs,
                load_before=load,
                a={"label": "speechnar", "median_s": round(ours_s, 4), **agreement},
                b={"label": "audiocraft 1.4", "median_s": round(theirs_s, 4)},
                result=f"speechnar {ours_s:.2f} s, audiocraft {theirs_s:.2f} s ({theirs_s / ours_s:.2f} times ours)",
                note=f"guidance, {' + '.join(map(str, size.steps))} steps; codec and text encoder are not counted; "
                f"{100 * agreement['same_codes']:.1f} % of the most probable codes alike, logits within "
                f"{agreement['logits_within']:.2g}",
                folder=args.output,
            )
    return 0


def build(size: Size, precision: Precision) -> tuple[Callable[[], object], Callable[[], object], int, dict[str, float]]:
    """Return what generates once with audiocraft, what does so with our copy, the parameters, and the agreement."""
    options, codec_options = copy.deepcopy(reference.MODEL), copy.deepcopy(reference.CODEC)
    network: dict[str, Any] = {"dim": size.dim, "num_heads": size.heads, "num_layers": size.layers, "card": size.codes}
    network |= {"subcodes_context": 5, "compression_model_framerate": FRAME_RATE, "segment_duration": SECONDS}
    options["transformer_lm"] |= network
    options["dataset"]["segment_duration"] = SECONDS
    codec_options["rvq"]["bins"] = size.codes
    codec_options["sample_rate"] = FRAME_RATE * 48
    theirs, codec = reference.make_models(options, codec_options)
    with tempfile.TemporaryDirectory() as folder:
        for name, model, settings in ((MODEL_FILE, theirs, options), (CODEC_FILE, codec, codec_options)):
            stored = {"xp.cfg": yaml.safe_dump(settings), "best_state": model.state_dict()}
            torch.save(stored, Path(folder) / name)
        convert_audiocraft(folder, Path(folder) / "ours")
        ours = load_model(Path(folder) / "ours").model
    assert isinstance(ours, Magnet)
    features = torch.randn(2, TEXT_TOKENS, ours.config.condition.text_dim)
    parts = (ours.transformer, ours.embed, ours.heads)
    num_parameters = sum(each.numel() for part in parts for each in part.parameters())
    sampling = MaskPredictConfig(steps=size.steps)
    prepare(ours, precision)
    agreement = agree(theirs, ours, features)
    return (
        lambda: run_theirs(theirs, features, sampling),
        lambda: run_ours(ours, features, sampling),
        num_parameters,
        agreement,
    )


@torch.no_grad()
def agree(theirs: Any, ours: Magnet, features: torch.Tensor) -> dict[str, float]:
    """Return the share of frames and codebooks with the same most probable code, and how far logits differ at most."""
    codes = torch.randint(
        0, theirs.card + 1, (1, reference.BOOKS, NUM_FRAMES), generator=torch.Generator().manual_seed(0)
    )
    mask = torch.ones(1, features.size(1))
    told = theirs.condition_provider.conditioners["description"].output_proj(features[:1])
    condition = ours.condition.of_features(features[:1], torch.tensor([features.size(1)]))
    same, farthest = [], 0.0
    for codebook in range(reference.BOOKS):
        expected = theirs(codes, [], {"description": (told, mask)}, stage=codebook)[:, codebook].float()
        found = ours(codes, codebook, condition)
        same.append((expected.argmax(-1) == found.argmax(-1)).float().mean().item())
        farthest = max(farthest, (expected - found).abs().max().item())
    return {"same_codes": sum(same) / len(same), "logits_within": farthest}


@torch.no_grad()
def run_theirs(model: Any, features: torch.Tensor, sampling: MaskPredictConfig) -> torch.Tensor:
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
def run_ours(model: Magnet, features: torch.Tensor, sampling: MaskPredictConfig) -> torch.Tensor:
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
