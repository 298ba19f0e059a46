"""How long codes of sound take: MAGNeT, its mode that encodes a code once (ENAT), and the cached autoregressive twin.

All in one run, each in fp32 and, where the processor has it, in bf16, with guidance (two rows at every evaluation), at
the size of the recipe's model and at the published one (MAGNeT small, MusicGen small). Weights are random, for the work
does not depend on them; codec and text encoder are not counted. FLOPs are those of all matrix products, counted
operation by operation in networks of one layer and two: each further layer adds as many as the second.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.result import RESULTS, ROOT, load_average, write_result
from speechnar.config import load_config
from speechnar.decode.mask_predict import MaskPredictConfig, mask_predict
from speechnar.models.sound.code_model import CodeModelConfig, Condition, TextCondition
from speechnar.models.sound.enat import Enat, EnatConfig
from speechnar.models.sound.magnet import Magnet, MagnetConfig
from speechnar.models.sound.music_ar import MusicAr, MusicArConfig
from speechnar.text.tokenizer import LexiconTokenizer
from speechnar.train.loop import cpu_computes_bf16
from speechnar.train.run import RunConfig

FRAMES = (250, 500, 1500)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TWIN = "autoregressive"
LONG_FRAMES, LONG_STEPS = 1500, (60, 10, 10, 10)
"""The paper takes more steps for 30 s."""
TEXT_TOKENS = 16
"""Of a prompt, where layers attend to it."""
CLAIM = "about 7 times as fast as the autoregressive baseline (abstract of the paper, on a GPU)"

AnyConfig = MagnetConfig | EnatConfig | MusicArConfig
Generate = Callable[[], int]
"""Generates once and returns the number of sequential evaluations."""


@dataclass(frozen=True)
class Size:
    """The networks that are compared at one size."""

    name: str
    systems: dict[str, AnyConfig]
    frames: tuple[int, ...]
    runs: int


def sizes() -> list[Size]:
    """Return the sizes that are measured."""
    conf = ROOT / "recipes" / "opsound" / "music" / "conf"
    ours: dict[str, Any] = {
        name: load_config(conf / f"{file}.yaml", RunConfig).model
        for name, file in (("MAGNeT", "magnet"), ("ENAT", "enat"), (TWIN, "music_ar"))
    }
    published: dict[str, AnyConfig] = {
        "MAGNeT": MagnetConfig.published(),
        "ENAT": EnatConfig.published(),
        TWIN: MusicArConfig.published(),
    }
    return [Size("recipe", ours, FRAMES, 3), Size("published", published, FRAMES, 1)]


def quick_size() -> Size:
    """Return one that takes a moment."""
    systems: dict[str, AnyConfig] = {"MAGNeT": MagnetConfig.debug(), "ENAT": EnatConfig.debug()}
    return Size("tiny", {**systems, TWIN: MusicArConfig.debug()}, (24, 48), 1)


def main() -> int:
    """Measure each size and write ``music_<size>.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=("recipe", "published"), default=("recipe", "published"))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="default: those the processor computes in")
    parser.add_argument("--frames", nargs="+", type=int, help="default: 250, 500 and 1500")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, help="default: 3, of the published size 1")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few frames")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtypes = args.dtypes or [name for name in DTYPES if name == "float32" or cpu_computes_bf16()]
    for size in [quick_size()] if args.quick else [each for each in sizes() if each.name in args.sizes]:
        load = load_average()
        runs = args.runs or size.runs
        lengths = args.frames or size.frames
        cases = [case for frames in lengths for case in time_length(size, frames, runs, dtypes)]
        middle = lengths[len(lengths) // 2]
        best = {case["system"]: case for case in cases if case["asked_frames"] == middle and case["is_faster_dtype"]}
        write_result(
            f"music_{size.name}",
            what=f"codes of sound by networks of the {size.name} size, in the faster precision of each",
            threads=args.threads,
            runs=runs,
            load_before=load,
            a={**best["MAGNeT"], "cases": cases, "claim_of_paper": CLAIM},
            b=best[TWIN],
            result="; ".join(shown(cases, frames) for frames in lengths),
            note=f"random weights, with guidance; codec and text encoder are not counted; {' and '.join(dtypes)}",
            folder=args.output,
        )
    return 0


def time_length(size: Size, frames: int, runs: int, dtypes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a case for each system and each of ``dtypes`` at ``frames``, rounded up to whole spans."""
    span_len = max(config.span_len for config in size.systems.values() if not isinstance(config, MusicArConfig))
    window = -(-frames // span_len) * span_len
    cases: list[dict[str, Any]] = []
    for system, given in size.systems.items():
        config = given.model_copy(update={"window_frames": window})
        flops = count_flops(config)
        seconds: dict[str, float] = {}
        for dtype in dtypes:
            model = build(config, DTYPES[dtype])
            prepare(model, warm_up=True)()
            generate = prepare(model)
            times = []
            for _ in range(runs):
                started = time.perf_counter()
                evaluations = generate()
                times.append(time.perf_counter() - started)
            seconds[dtype] = statistics.median(times)
            cases.append(
                {
                    "label": f"{system}, {window} frames, {dtype}",
                    "system": system,
                    "asked_frames": frames,
                    "frames": window,
                    "dtype": dtype,
                    "median_s": round(seconds[dtype], 4),
                    "evaluations": evaluations,
                    "gflop": round(flops / 1e9, 3),
                }
            )
        for case in cases[-len(dtypes) :]:
            case["is_faster_dtype"] = case["dtype"] == min(seconds, key=lambda each: seconds[each])
    twin = next(case["median_s"] for case in cases if case["system"] == TWIN and case["is_faster_dtype"])
    for case in cases:
        case["times_as_fast_as_twin"] = round(twin / case["median_s"], 3) if case["median_s"] else None
    return cases


def build(config: AnyConfig, dtype: torch.dtype) -> Magnet | Enat | MusicAr:
    """Return a network with random weights."""
    torch.manual_seed(0)
    tokenizer = LexiconTokenizer(("<blank>", "<unk>", "music"), {})
    if isinstance(config, MusicArConfig):
        model: Magnet | Enat | MusicAr = MusicAr(config, tokenizer)
    elif isinstance(config, EnatConfig):
        model = Enat(config, tokenizer)
    else:
        model = Magnet(config, tokenizer)
    return model.eval().requires_grad_(False).to(dtype)


def prepare(model: Magnet | Enat | MusicAr, *, warm_up: bool = False) -> Generate:
    """Return what fills a window without a prompt, or in few steps to warm up."""
    config, num_codebooks = model.config, model.config.codec.num_codebooks
    condition, unconditional = condition_of(model, is_conditional=True), condition_of(model, is_conditional=False)

    def generate() -> int:
        evaluations = 0

        def count(*_: object) -> None:
            nonlocal evaluations
            evaluations += 1

        options: dict[str, Any] = {"generators": [torch.Generator().manual_seed(0)], "progress": count}
        if isinstance(model, MusicAr):
            num_frames = num_codebooks if warm_up else config.window_frames
            start = torch.zeros(1, num_codebooks, 0, dtype=torch.int64)
            model.generate(start, num_frames, condition, unconditional=unconditional, **options)
            return evaluations
        sampling = sampling_of(model.config)
        if warm_up:
            sampling = sampling.model_copy(update={"steps": (1,) * num_codebooks})
        codes = torch.zeros(1, num_codebooks, config.window_frames, dtype=torch.int64)
        known = torch.zeros(config.window_frames, dtype=torch.bool)
        predictor = model.predictor(condition, unconditional)
        mask_predict(predictor, codes, known, sampling, span_len=model.config.span_len, **options)
        return evaluations

    return generate


def sampling_of(config: MagnetConfig) -> MaskPredictConfig:
    """Return the steps of a window of this length: more of the published size, where the paper takes more."""
    is_published = config.network.model_dim == CodeModelConfig.published().model_dim
    if is_published and config.window_frames >= LONG_FRAMES:
        return config.sampling.model_copy(update={"steps": LONG_STEPS})
    return config.sampling


def condition_of(model: Magnet | Enat | MusicAr, *, is_conditional: bool) -> Condition:
    """Return the condition of a word, or of features of a text that no encoder has made."""
    if not isinstance(model.condition, TextCondition):
        return model.condition.of_texts(["music" if is_conditional else None], torch.device("cpu"))
    weight = model.condition.project.weight
    features = torch.randn(1, TEXT_TOKENS, weight.size(1), dtype=weight.dtype)
    return model.condition.of_features(features, torch.tensor([TEXT_TOKENS if is_conditional else 0]))


def count_flops(config: AnyConfig) -> float:
    """Return the FLOPs of a window, two for each multiplication of a matrix product."""
    counts = []
    for num_layers in (1, 2):
        network = config.network.model_copy(update={"num_layers": num_layers})
        generate = prepare(build(config.model_copy(update={"network": network}), torch.float32))
        # This operation of CPUs is not among those that the counter knows.
        attention = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}
        with FlopCounterMode(display=False, custom_mapping=attention) as counter:
            generate()
        counts.append(counter.get_total_flops())
    return counts[0] + (config.network.num_layers - 1) * (counts[1] - counts[0])


def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **_options: Any) -> int:
    found: int = sdpa_flop_count(query, key, value)
    return found


def shown(cases: list[dict[str, Any]], frames: int) -> str:
    """Return the numbers of one length for a table."""
    parts = [
        f"{case['system']} {case['median_s']:.2f} s ({case['dtype']}, {case['evaluations']} evaluations, "
        f"{case['gflop']:.4g} GFLOP)"
        for case in cases
        if case["asked_frames"] == frames and case["is_faster_dtype"]
    ]
    return f"{frames} frames: {', '.join(parts)}"


if __name__ == "__main__":
    sys.exit(main())
