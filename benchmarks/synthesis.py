"""How fast text becomes speech: the whole chain against real time, how soon the first sound comes, what takes long.

A model folder is given, or one of the default size with random weights is made, whose work is the same: it depends on
the weights only in how long the speech is, which is set to a usual pace. Block sizes 1, 4 and all, those of Figure 4 of
ARDiT's paper, are here the same weights cut differently.
"""

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.result import RESULTS, load_average, write_result
from speechnar.errors import SpeechnarError
from speechnar.hub import resolve_model
from speechnar.models.base import LoadedModel, load_model
from speechnar.models.tts.tts import Tts, TtsConfig
from speechnar.text.phonemes import PhonemeTokenizer
from speechnar.tts.acoustic import AcousticModel
from speechnar.tts.synthesizer import Synthesizer
from speechnar.tts.voice import Listener

TEXT = "The first thing she saw was a letter on the table, and it was not for her. She opened it all the same."
TOKEN_S = 0.085
"""How long a phoneme lasts in reading aloud, about."""
BLOCK_SIZES: tuple[int | None, ...] = (4, 1, None)
STEPS = (16, 1)


def main() -> int:
    """Measure all block sizes and numbers of steps; exit status 1 if there is no such model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="name or folder; default: random weights of the default size")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a small model, one run, few steps")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        loaded = random_model(quick=args.quick) if args.model is None else load_model(resolve_model(args.model))
        acoustic = AcousticModel(loaded)
    except SpeechnarError as error:
        print(error)
        return 1
    runs = 1 if args.quick else args.runs
    load = load_average()
    cases = [
        time_case(acoustic, size, steps, runs) for steps in ((2, 1) if args.quick else STEPS) for size in BLOCK_SIZES
    ]
    num_weights = {
        name: sum(parameter.numel() for parameter in part.parameters()) / 1e6
        for name, part in (("ARDiT", acoustic.model.ardit), ("vocoder", acoustic.model.vocoder))
    }
    sizes = ", ".join(f"{name} {millions:.1f} M" for name, millions in num_weights.items())
    write_result(
        "synthesis",
        what="text to speech: time to first sound (median_s) and real-time factor of the whole chain",
        threads=args.threads,
        runs=runs,
        load_before=load,
        a={**cases[0], "cases": cases},
        b=cases[len(BLOCK_SIZES)],
        result="; ".join(shown(case) for case in cases),
        note=f"model {loaded.name} ({sizes} weights); {len(TEXT)} characters, spoken in {cases[0]['audio_s']:.1f} s",
        folder=args.output,
    )
    return 0


def random_model(*, quick: bool) -> LoadedModel:
    """Return a model with random weights that speaks at a usual pace."""
    torch.manual_seed(0)
    tokenizer = PhonemeTokenizer()
    config = TtsConfig.debug() if quick else TtsConfig()
    model = Tts.from_config(config, tokenizer).eval()
    with torch.no_grad():
        model.durations.output.weight.zero_()
        model.durations.output.bias.fill_(TOKEN_S / model.latent_shift_s).log1p_()
        model.ardit.output.weight.normal_(std=0.02)
    return LoadedModel(model, tokenizer, config, "random")


def time_case(acoustic: AcousticModel, block_size: int | None, steps: int, runs: int) -> dict[str, Any]:
    """Time the chain with one block size and number of steps, after one run that does not count."""
    model = acoustic.model
    before = model.ardit.config
    model.ardit.config = before.model_copy(update={"block_size": block_size})
    try:
        synthesizer = Synthesizer(acoustic, Listener("", "cpu", acoustic))
        measured = [time_stream(synthesizer, steps) for _ in range(runs + 1)][1:]
        parts = [time_parts(acoustic, steps) for _ in range(runs + 1)][1:]
    finally:
        model.ardit.config = before
    audio_s = measured[0]["audio_s"]
    evaluations = measured[0]["evaluations"]
    size = "all" if block_size is None else block_size
    return {
        "label": f"blocks of {size}, {steps} {'step' if steps == 1 else 'steps'}",
        "median_s": round(statistics.median(run["first_s"] for run in measured), 4),
        "max_s": round(max(run["first_s"] for run in measured), 4),
        "rtf": round(statistics.median(run["total_s"] for run in measured) / audio_s, 4),
        "audio_s": round(audio_s, 3),
        "evaluations_per_s": round(evaluations / audio_s, 2),
        "speech_ms_per_evaluation": round(1000 * audio_s / evaluations, 1),
        **{
            f"{name}_rtf": round(statistics.median(run[name] for run in parts) / parts[0]["audio_s"], 4)
            for name in ("ardit", "codec", "vocoder")
        },
    }


def time_stream(synthesizer: Synthesizer, steps: int) -> dict[str, float]:
    """Return when the first sound and the last one are there after the call, and what it took."""
    trunk = synthesizer._acoustic.model.ardit.trunk
    evaluations = 0

    def count(*_: object) -> None:
        nonlocal evaluations
        evaluations += 1

    handle = trunk.register_forward_hook(count)
    started = time.perf_counter()
    first_s, num_samples = 0.0, 0
    for part in synthesizer.stream(TEXT, steps=steps):
        first_s = first_s or time.perf_counter() - started
        num_samples += len(part)
    total_s = time.perf_counter() - started
    handle.remove()
    audio_s = num_samples / synthesizer.sample_rate
    return {"first_s": first_s, "total_s": total_s, "audio_s": audio_s, "evaluations": evaluations}


@torch.no_grad()
def time_parts(acoustic: AcousticModel, steps: int) -> dict[str, float]:
    """Return the seconds that each network takes for one sentence, and how long that is."""
    spelling = acoustic.spell(TEXT.split())
    durations = acoustic.predict(spelling)
    length = max(round(durations.sum() / acoustic.latent_shift_s), 1)
    gap = torch.zeros(1, length, acoustic.latent_dim, device=acoustic.device)
    blocks: Iterator[Tensor] = acoustic.fill(
        acoustic.batch(spelling, durations, gap), 0, length, seeds=[0], num_steps=steps
    )
    times = [time.perf_counter()]
    latents = torch.cat(list(blocks), dim=1)[0]
    times.append(time.perf_counter())
    feats = acoustic.decode(latents)
    times.append(time.perf_counter())
    acoustic.vocode(feats)
    times.append(time.perf_counter())
    ardit, codec, vocoder = (end - begin for begin, end in itertools.pairwise(times))
    return {"ardit": ardit, "codec": codec, "vocoder": vocoder, "audio_s": length * acoustic.latent_shift_s}


def shown(case: dict[str, Any]) -> str:
    """Return the numbers of one case for a table."""
    return (
        f"{case['label']}: first sound after {1000 * case['median_s']:.0f} ms, real-time factor {case['rtf']:.3f} "
        f"(ARDiT {case['ardit_rtf']:.3f}, vocoder {case['vocoder_rtf']:.3f}), "
        f"{case['evaluations_per_s']:.1f} evaluations/s of speech"
    )


if __name__ == "__main__":
    sys.exit(main())
