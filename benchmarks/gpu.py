"""Recognisers of published shapes on a GPU: real-time factors at batch 1 and 64, within ten minutes.

Weights are random, of which the work of a CTC recogniser does not depend; Paraformer's integrate-and-fire is biased to
a usual number of tokens. Each utterance has 30 s (OWSM-CTC) or 10 s (Paraformer). Timed are all of it, from samples in
the host's memory to text (``text``), and the network alone, from samples on the device to the best labels there, or to
Paraformer's encoder output (how many tokens come of it is not known before): as it stands (``network``), by
torch.compile (``compiled``), and as a CUDA graph of fixed shape (``graph``). What a torch or a device does not offer is
noted, not counted. ``--device cpu --size debug`` tries the script.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.result import RESULTS, load_average, write_result
from speechnar import DecodeOptions, Transcriber
from speechnar.hub import Precision
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.asr.paraformer import Paraformer, ParaformerConfig
from speechnar.models.base import LoadedModel
from speechnar.models.prepare import precisions_of, prepare
from speechnar.nn.cif import CifPredictor
from speechnar.nn.undrawn import Undrawn
from speechnar.text.tokenizer import SENTENCE_PIECES, CharTokenizer
from tests.unit.tiny import RATE, speechlike

SIGNS = (*range(0x4E00, 0x9FA0), *range(0x20000, 0x2A000))
"""Code points of the tokens of random models."""
CIF_BIAS = -1.0
WEIGHT_STD = 0.02
DEBUG_SECONDS, DEBUG_VOCAB = 2.0, 60
Decode = Callable[[], object]


@dataclass(frozen=True)
class Shape:
    """A published model, and what it is given."""

    make: Callable[[bool], Any]
    """From whether it is to be tiny to its configuration."""
    model_cls: Any
    vocab_size: int
    seconds: float
    specials: tuple[str, ...] = ()


SHAPES = {
    "owsm_ctc": Shape(
        lambda tiny: OwsmCtcConfig.debug() if tiny else OwsmCtcConfig.published(),
        OwsmCtc,
        50002,
        30.0,
        ("<na>", "<nolang>", "<eng>", "<asr>"),
    ),
    "paraformer": Shape(
        lambda tiny: ParaformerConfig.debug() if tiny else ParaformerConfig.large(), Paraformer, 8404, 10.0
    ),
}


def main() -> int:
    """Write a result for each shape, precision and batch; exit status 1 without the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--size", choices=("published", "debug"), default="published")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--minutes", type=float, default=9.0, help="after which nothing new is begun")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device; --device cpu --size debug tries the script")
        return 1
    ends = time.monotonic() + 60 * args.minutes
    for name in args.shapes:
        for precision in precisions_of(device):
            bench = Bench(name, precision, device, tiny=args.size == "debug")
            for batch in args.batches:
                write(bench, batch, args, ends)
            del bench
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return 0


class Bench:
    """A model in one precision on a device."""

    def __init__(self, name: str, precision: Precision, device: torch.device, *, tiny: bool) -> None:
        shape = SHAPES[name]
        self.name, self.precision, self.device = name, precision, device
        self.seconds = DEBUG_SECONDS if tiny else shape.seconds
        vocab_size = DEBUG_VOCAB if tiny else shape.vocab_size
        signs = map(chr, SIGNS[: vocab_size - len(shape.specials) - 2 - len(SENTENCE_PIECES)])
        tokenizer = CharTokenizer(["<blank>", "<unk>", *shape.specials, *signs, *SENTENCE_PIECES])
        config = shape.make(tiny)
        torch.manual_seed(0)
        with torch.device(device), Undrawn():
            self.model = shape.model_cls.from_config(config, tokenizer)
        draw_weights(self.model)
        self.num_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.model = prepare(self.model.to(device).eval(), precision)
        self.transcriber = Transcriber(LoadedModel(self.model, tokenizer, config, name, precision))

    def wavs(self, batch: int) -> list[np.ndarray]:
        """Return so many utterances."""
        return [speechlike(self.seconds, seed=seed % 8) for seed in range(batch)]

    def text(self, batch: int) -> Decode:
        """Return what turns samples in the host's memory into text."""
        wavs = self.wavs(batch)
        options = DecodeOptions(vad=False, batch_seconds=batch * self.seconds + 1)
        return lambda: self.transcriber.transcribe(list(wavs), sample_rate=RATE, options=options)

    def network(self, batch: int) -> Decode:
        """Return what turns samples on the device into the best labels there."""
        wav, lens = self._given(batch)
        return lambda: self.labels(wav, lens)

    def compiled(self, batch: int) -> Decode:
        """Return the same by torch.compile, for this shape."""
        wav, lens = self._given(batch)
        labels = torch.compile(self.labels, dynamic=False)
        return lambda: labels(wav, lens)

    def graph(self, batch: int) -> Decode:
        """Return the same as a CUDA graph that is replayed."""
        wav, lens = self._given(batch)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), torch.inference_mode():
            for _ in range(3):
                self.labels(wav, lens)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode(), torch.cuda.graph(graph):
            self.labels(wav, lens)
        return graph.replay

    @torch.inference_mode()
    def labels(self, wav: Tensor, lens: Tensor) -> Tensor:
        """Return the best label of each position (B, T), or what the encoder makes of each frame (B, T, D)."""
        out = self.model.encode(wav, lens)
        found: Tensor = out.posteriors.best().classes if isinstance(self.model, OwsmCtc) else out.enc
        return found

    def _given(self, batch: int) -> tuple[Tensor, Tensor]:
        wav = torch.from_numpy(np.stack(self.wavs(batch))).to(self.device)
        return wav, torch.full((batch,), wav.size(1), device=self.device)


MODES: dict[str, Callable[[Bench, int], Decode]] = {
    "text": Bench.text,
    "network": Bench.network,
    "compiled": Bench.compiled,
    "graph": Bench.graph,
}


@torch.no_grad()
def draw_weights(model: torch.nn.Module) -> None:
    """Draw all matrices anew, small enough for deep networks; norms stay as they are made."""
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2:
            parameter.normal_(std=WEIGHT_STD)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.fill_(1.0)
    for module in model.modules():
        if isinstance(module, CifPredictor):
            module.proj.bias.fill_(CIF_BIAS)


def write(bench: Bench, batch: int, args: argparse.Namespace, ends: float) -> None:
    """Measure one batch in all modes, as far as there is time, and write the result."""
    load = load_average()
    audio_s = batch * bench.seconds
    found: dict[str, float] = {}
    notes: list[str] = []
    for mode in args.modes:
        if time.monotonic() > ends:
            notes.append(f"{mode}: no time left")
            continue
        try:
            found[mode] = median_of(MODES[mode](bench, batch), bench.device, args.runs)
        except Exception as error:  # what a torch or a device lacks must not cost the other results
            notes.append(f"{mode}: {type(error).__name__}")
            print(f"{bench.name} {bench.precision} batch {batch}, {mode}: {' '.join(str(error).split())[:300]}")
    if not found:
        return
    factors = {mode: round(seconds / audio_s, 6) for mode, seconds in found.items()}
    first = next(iter(found))
    best = min(found, key=found.__getitem__)
    peak = torch.cuda.max_memory_allocated(bench.device) if bench.device.type == "cuda" else 0
    name = torch.cuda.get_device_name(bench.device) if bench.device.type == "cuda" else bench.device.type
    write_result(
        f"gpu_{bench.name}_{bench.precision}_batch{batch}",
        what=f"{bench.name}, {bench.num_parameters / 1e6:.1f} M random parameters, {bench.precision}, on {name}: "
        f"{batch} x {bench.seconds:g} s",
        threads=torch.get_num_threads(),
        runs=args.runs,
        load_before=load,
        a={"label": first, "median_s": round(found[first], 6), "rtf": factors, "peak_bytes": peak},
        b={"label": best, "median_s": round(found[best], 6)},
        result="; ".join(f"{mode} {took:.4f} s, {audio_s / took:,.0f} times real time" for mode, took in found.items()),
        note="; ".join(notes),
        folder=args.output,
    )


def median_of(decode: Decode, device: torch.device, runs: int) -> float:
    """Return the median seconds of a call, after two that do not count."""
    seconds: list[float] = []
    for run in range(runs + 2):
        started = time.perf_counter()
        decode()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if run > 1:
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


if __name__ == "__main__":
    sys.exit(main())
