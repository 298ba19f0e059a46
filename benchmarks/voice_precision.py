"""A voice in every precision: how long it takes to speak, and how far what its vocoder makes is from float32's.

Each side is a program of its own, which speaks the same sentences in turn (A B A B). ``--against FOLDER`` adds another
checkout of this repository, as it speaks by default. Distances are of samples that the vocoder makes of the same
log-mels: the root mean square over frequencies of the difference of log spectra, its mean over frames, and the mean
difference of log-mels, all in decibels, of frames within 60 dB of the loudest. One decibel is about what can be heard.
"""

import argparse
import statistics
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.result import RESULTS, ROOT, load_average, write_result
from benchmarks.sides import ask, started
from speechnar.hub import DEFAULT_TTS_MODEL
from speechnar.models.prepare import precisions_of
from speechnar.tts.synthesizer import Synthesizer

TEXT = "The first thing she saw was a letter on the table, and it was not for her. She opened it all the same."
DEFAULT = "default"
SPEAK = """
import json, resource, sys, time
import torch
model, precision, threads, text = sys.argv[1:]
torch.set_num_threads(int(threads))
from speechnar import Synthesizer
more = {} if precision == "default" else {"precision": precision}
synthesizer = Synthesizer.load(model, device="cpu", **more)
print("{}", flush=True)
for _ in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    speech = synthesizer.synthesize(text, seed=1)
    spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, "audio_s": speech.duration}
    print(json.dumps({**spent, "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)
"""
"""A program that speaks once for each line of stdin; it needs nothing that older versions lack."""
FFT, HOP, RANGE_DB = 1024, 256, 60.0


def main() -> int:
    """Write a result for each precision beside float32 or the other checkout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_TTS_MODEL, help="name or folder; default: %(default)s")
    parser.add_argument("--precisions", nargs="+", default=precisions_of(torch.device("cpu")))
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout; default: float32 of this one")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = load_average()
    model = Path(args.model).resolve() if Path(args.model).is_dir() else args.model
    sides = {name: (ROOT, name) for name in args.precisions}
    other = "fp32" if args.against is None else str(args.against.name)
    sides[other] = (ROOT, "fp32") if args.against is None else (args.against.resolve(), DEFAULT)
    spent = alternate(sides, str(model), runs=args.runs, threads=args.threads)
    exact = Synthesizer.load(model, device="cpu", precision="fp32")
    feats = spoken_feats(exact)
    for name in args.precisions:
        far = distances(exact, Synthesizer.load(model, device="cpu", precision=name), feats)
        ours, theirs = ({"label": f"speechnar {side}", **spent[side]} for side in (name, other))
        write_result(
            f"voice_{Path(args.model).name}_{name}",
            what=f"{Path(args.model).name}: two sentences spoken on a CPU, {name}",
            threads=args.threads,
            runs=args.runs,
            load_before=load,
            a={**ours, **far},
            b=theirs,
            result=f"{ours['median_s']:.3f} s, {other} {theirs['median_s']:.3f} s "
            f"({theirs['median_s'] / ours['median_s']:.2f} times as long), for {ours['audio_s']:.1f} s of speech",
            note=f"vocoder within {far['spectral_db']:.3f} dB of fp32's spectrum, {far['mel_db']:.3f} dB of its "
            "log-mels",
            folder=args.output,
        )
    return 0


def alternate(
    sides: dict[str, tuple[Path, str]], model: str, *, runs: int, threads: int
) -> dict[str, dict[str, float]]:
    """Let all sides, each a checkout and a precision, speak in turns; return their medians. A first round is no run."""
    with ExitStack() as stack:
        programs = {
            name: stack.enter_context(started("-c", SPEAK, model, precision, threads, TEXT, root=root))
            for name, (root, precision) in sides.items()
        }
        rounds = [{name: ask(program) for name, program in programs.items()} for _ in range(runs + 1)][1:]
    names = {"wall_s": "median_s", "cpu_s": "median_cpu_s", "audio_s": "audio_s", "peak_bytes": "peak_bytes"}
    return {
        side: {label: round(statistics.median(each[side][name] for each in rounds), 4) for name, label in names.items()}
        for side in sides
    }


@torch.no_grad()
def spoken_feats(synthesizer: Synthesizer) -> Tensor:
    """Return the log-mels (T, F) of what a voice says."""
    speech = synthesizer.synthesize(TEXT, seed=1)
    return synthesizer._acoustic.log_mel(np.asarray(speech.samples))


def distances(exact: Synthesizer, other: Synthesizer, feats: Tensor) -> dict[str, float]:
    """Return how far the vocoders of two models are, in decibels."""
    wavs = [torch.from_numpy(each._acoustic.vocode(feats)) for each in (exact, other)]
    spectra = [to_db(wav) for wav in wavs]
    loud = spectra[0].amax(0) > spectra[0].max() - RANGE_DB
    floor = spectra[0].max() - RANGE_DB
    a, b = (spectrum[:, loud].clamp(min=floor) for spectrum in spectra)
    mels = [each.clamp(min=-10.0) for each in (exact._acoustic.log_mel(wav.numpy()) for wav in wavs)]
    return {
        "spectral_db": round((a - b).square().mean(0).sqrt().mean().item(), 4),
        "mel_db": round((mels[0] - mels[1]).abs().mean().item() * 20 / float(np.log(10)), 4),
    }


def to_db(wav: Tensor) -> Tensor:
    """Return the log spectrum (frequencies, frames) of samples (S,)."""
    spectrum: Any = torch.stft(wav, FFT, HOP, window=torch.hann_window(FFT), return_complex=True)
    decibels: Tensor = 20 * spectrum.abs().clamp(min=1e-7).log10()
    return decibels


if __name__ == "__main__":
    sys.exit(main())
