"""How long a stream keeps its listener waiting: wall time of every push, and audio time to the final segment.

First `ParaformerStream` alone, with random weights and noise for speech: its work does not depend on what it hears, but
for the number of tokens. Then `Transcriber.stream` over recorded speech, joined with pauses, in several chunk sizes.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.memory import recordings
from benchmarks.result import RESULTS, ROOT, load_average, write_result
from benchmarks.word_times import speech_span
from speechnar import Transcriber
from speechnar.audio.io import read_audio
from speechnar.models.asr.paraformer import Paraformer, ParaformerConfig
from speechnar.models.asr.paraformer_head import CifConfig
from speechnar.models.asr.paraformer_stream import ParaformerStream
from speechnar.nn.sanm import WindowConfig
from speechnar.text.tokenizer import LexiconTokenizer

RATE = 16000
PAUSE_S = 1.0
NATIVE_CHUNK_S = 0.6
CHUNKS_S = (0.6, 0.2, 0.06)
VOCABULARY = 8404
"""Tokens of FunASR's published Paraformer."""
TEST_SETS = tuple(ROOT / "recipes" / "joint" / "s2t" / "data" / name / "test" for name in ("an4", "asterisk"))

Wave = npt.NDArray[np.float32]


def main() -> int:
    """Measure both; exit status 1 without recorded speech."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="name or folder; default: the package's")
    parser.add_argument("--data", type=Path, help="Kaldi data directory; default: a test set of recipes/joint/s2t")
    parser.add_argument("--seconds", type=float, default=90.0, help="speech to stream (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="10 s of speech, and the small model alone")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    seconds = 10.0 if args.quick else args.seconds
    clips = [path for folder in ([args.data] if args.data else TEST_SETS) for path in recordings(folder)]
    if not clips:
        print("no recorded speech; make it by recipes/joint/s2t/run.sh --stop_stage 1, or name a directory by --data")
        return 1
    load = load_average()
    measured = [time_native("small", online(ParaformerConfig.small()), seconds)]
    if not args.quick:
        measured.append(time_native("FunASR's online size", ParaformerConfig.large_online(), seconds))
    write_result(
        "streaming_paraformer",
        what=f"time to take a chunk of {NATIVE_CHUNK_S:g} s (median_s) with a Paraformer that streams",
        threads=args.threads,
        runs=1,
        load_before=load,
        a=measured[0],
        b=measured[-1],
        result="; ".join(shown(side) for side in measured),
        note=f"random weights; noise for speech, {seconds:g} s",
        folder=args.output,
    )
    load = load_average()
    transcriber = Transcriber.load(*([args.model] if args.model else []), device="cpu")
    wav, ends_s = join(clips, seconds)
    sides = [time_stream(transcriber, wav, ends_s, chunk_s) for chunk_s in CHUNKS_S]
    write_result(
        "streaming_transcriber",
        what="time to take a chunk (median_s), and to the final segment of an utterance, of Transcriber.stream",
        threads=args.threads,
        runs=1,
        load_before=load,
        a={**sides[0], "cases": sides},
        b=sides[-1],
        result="; ".join(shown(side) for side in sides),
        note=f"model {transcriber.name}; {len(ends_s)} recordings, {len(wav) / RATE:.0f} s, pauses of {PAUSE_S:g} s",
        folder=args.output,
    )
    return 0


def online(config: ParaformerConfig) -> ParaformerConfig:
    """Return ``config`` with FunASR's windows and a causal decoder, so that it can stream."""
    encoder = config.encoder.model_copy(update={"windows": WindowConfig()})
    shift = (config.head.kernel_size - 1) // 2
    head = config.head.model_copy(update={"fsmn_shift": shift, "embedder": CifConfig(threshold="fixed")})
    return config.model_copy(update={"encoder": encoder, "head": head})


def time_native(name: str, config: ParaformerConfig, seconds: float) -> dict[str, Any]:
    """Time `ParaformerStream` with random weights on noise."""
    torch.manual_seed(0)
    pieces = ("<blank>", "<sos>", "<eos>", *(chr(0x4E00 + i) for i in range(VOCABULARY - 4)), "<unk>")
    model = Paraformer(config, LexiconTokenizer(pieces, {})).eval()
    wav = 0.1 * torch.randn(round(seconds * RATE))
    num_tokens = 0

    def push(stream: ParaformerStream, chunk: Wave) -> None:
        nonlocal num_tokens
        num_tokens += len(stream.push(torch.from_numpy(chunk)).tokens)

    push(ParaformerStream(model), wav[: 2 * RATE].numpy())  # does not count
    num_tokens = 0
    stream = ParaformerStream(model)
    walls = [timed(lambda chunk=chunk: push(stream, chunk)) for chunk in cut(wav.numpy(), NATIVE_CHUNK_S)]
    tail_s = timed(stream.finish)
    size = sum(parameter.numel() for parameter in model.parameters())
    label = f"{name}, {size / 1e6:.1f} M parameters"
    return {**summary(label, walls, sum(walls) + tail_s, seconds), "tokens": num_tokens, "finish_s": round(tail_s, 4)}


def time_stream(transcriber: Transcriber, wav: Wave, ends_s: Sequence[float], chunk_s: float) -> dict[str, Any]:
    """Time `Transcriber.stream`, and how long after the end of each recording's speech a segment of it is final.

    A recording counts if a segment comes after its end and before that of the next. The wait is audio that had to be
    pushed, and beside it the time that the push took which returned the segment.
    """
    transcriber.stream().push(wav[: 2 * RATE])  # does not count
    stream = transcriber.stream()
    walls: list[float] = []
    finals: list[tuple[float, float]] = []  # audio time and wall time of the pushes that returned segments
    pushed_s = 0.0
    for chunk in cut(wav, chunk_s):
        started = time.perf_counter()
        segments = stream.push(chunk)
        walls.append(time.perf_counter() - started)
        pushed_s += len(chunk) / RATE
        if segments:
            finals.append((pushed_s, walls[-1]))
    tail_s = timed(stream.finish)
    waits = []
    for end_s, next_end_s in zip(ends_s, [*ends_s[1:], len(wav) / RATE], strict=True):
        after = next(((at_s, wall_s) for at_s, wall_s in finals if end_s < at_s <= next_end_s), None)
        if after is not None:
            waits.append((after[0] - end_s, after[1]))
    values = summary(f"chunks of {1000 * chunk_s:g} ms", walls, sum(walls) + tail_s, len(wav) / RATE)
    values |= {"recordings": len(ends_s), "waits": len(waits), "words": len(stream.finish().text.split())}
    if waits:
        values["final_after_s"] = round(statistics.median(audio_s for audio_s, _ in waits), 3)
        values["final_compute_s"] = round(statistics.median(wall_s for _, wall_s in waits), 4)
    return values


def join(clips: Sequence[Path], seconds: float) -> tuple[Wave, list[float]]:
    """Join recordings with faint pauses to at least ``seconds``; return also when the speech of each one ends."""
    rng = np.random.default_rng(0)
    parts: list[Wave] = []
    ends_s: list[float] = []
    for index in rng.permutation(len(clips)):
        clip = read_audio(clips[index], target_rate=RATE).samples
        first, last = speech_span(clip)
        ends_s.append((sum(map(len, parts)) + last - first) / RATE)
        parts += [clip[first:last], (1e-4 * rng.standard_normal(round(PAUSE_S * RATE))).astype(np.float32)]
        if sum(map(len, parts)) >= seconds * RATE:
            break
    return np.concatenate(parts), ends_s


def cut(wav: Wave, chunk_s: float) -> Iterator[Wave]:
    """Yield chunks of ``chunk_s`` seconds; the last one may be shorter."""
    size = round(chunk_s * RATE)
    return (wav[begin : begin + size] for begin in range(0, len(wav), size))


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that ``call`` took."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def summary(label: str, walls: Sequence[float], total_s: float, audio_s: float) -> dict[str, Any]:
    """Return the numbers of one side."""
    return {
        "label": label,
        "median_s": round(statistics.median(walls), 5),
        "p95_s": round(float(np.percentile(walls, 95)), 5),
        "max_s": round(max(walls), 5),
        "pushes": len(walls),
        "rtf": round(total_s / audio_s, 4),
    }


def shown(side: dict[str, Any]) -> str:
    """Return the numbers of one side for a table."""
    text = (
        f"{side['label']}: median {1000 * side['median_s']:.1f} ms, 95 % within {1000 * side['p95_s']:.0f} ms, "
        f"longest {1000 * side['max_s']:.0f} ms, real-time factor {side['rtf']:.3f}"
    )
    if "final_after_s" in side:
        compute_ms = 1000 * side["final_compute_s"]
        text += f", final {side['final_after_s']:.2f} s after the end of speech and {compute_ms:.0f} ms of computing"
    return text


if __name__ == "__main__":
    sys.exit(main())
