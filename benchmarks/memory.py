"""Memory does not grow with the length of a recording: three hours against ten minutes.

Each file is transcribed by a process of its own, because a process's peak never falls. The files alternate recorded
speech (from a Kaldi data directory) with faint noise; without a data directory they are noise of changing colour,
in which voice activity detection finds nothing, so that only decoding by windows says something.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from benchmarks.result import RESULTS, ROOT, load_average, write_result

RATE = 16000
GAP_S = 0.7
LIMIT_MIB = 300.0
WAYS = ("pauses", "windows")
TEST_SET = ROOT / "recipes" / "asterisk" / "s2t" / "data" / "test"


def main() -> int:
    """Measure the ways through a long recording; exit status 1 if memory grows by more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="name or folder; default: the package's")
    parser.add_argument("--short-minutes", type=float, default=10.0)
    parser.add_argument("--long-minutes", type=float, default=180.0)
    parser.add_argument("--data", type=Path, default=TEST_SET, help="Kaldi data directory with speech")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="default: both")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    parser.add_argument("--child", nargs=2, metavar=("FILE", "WAY"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(_transcribe_here(args.model, *args.child, args.threads)))
        return 0
    clips = recordings(args.data)
    too_much = False
    for way in args.ways:
        load = load_average()
        short, long = compare(
            args.model, args.short_minutes * 60, args.long_minutes * 60, way=way, clips=clips, threads=args.threads
        )
        growth = long["peak_mib"] - short["peak_mib"]
        too_much |= growth > LIMIT_MIB
        write_result(
            f"memory_{way}",
            what=f"peak memory of transcribing one long recording, cut at {way}",
            threads=args.threads,
            runs=1,
            load_before=load,
            a={"label": f"{args.short_minutes:g} minutes", "median_s": short["wall_s"], **short},
            b={"label": f"{args.long_minutes:g} minutes", "median_s": long["wall_s"], **long},
            result=f"{growth:+.0f} MiB from {args.short_minutes:g} to {args.long_minutes:g} minutes "
            f"({short['peak_mib']:.0f} to {long['peak_mib']:.0f} MiB; allowed {LIMIT_MIB:.0f})",
            note=f"model {short['model']}; " + ("recorded speech and noise" if clips else "noise, no recorded speech"),
            folder=args.output,
        )
    return int(too_much)


def recordings(data_dir: Path) -> list[Path]:
    """Return the recordings of a Kaldi data directory, or none where there is no such directory."""
    if not (data_dir / "wav.scp").is_file():
        return []
    lines = (data_dir / "wav.scp").read_text(encoding="utf-8").splitlines()
    return [Path(line.split(maxsplit=1)[1]) for line in lines]


def compare(
    model: str | None, short_s: float, long_s: float, *, way: str, clips: Sequence[Path] = (), threads: int = 2
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the measurements (``peak_mib``, ``wall_s``, ``words``, ``model``) of a short and of a long recording.

    Args:
        model: name or folder; None for the package's default.
        short_s: length of the short recording.
        long_s: length of the long one.
        way: ``pauses`` (voice activity detection) or ``windows``.
        clips: recordings of speech to fill the files with, at 16 kHz.
        threads: of torch.
    """
    with tempfile.TemporaryDirectory() as folder:
        measured = []
        for seconds in (short_s, long_s):
            path = Path(folder) / f"{seconds:g}s.wav"
            write_recording(path, seconds, clips)
            measured.append(_transcribe_elsewhere(model, path, way, threads))
            path.unlink()
    return measured[0], measured[1]


def write_recording(path: Path, seconds: float, clips: Sequence[Path] = ()) -> None:
    """Write ``seconds`` of speech and noise, block by block."""
    missing = round(seconds * RATE)
    with soundfile.SoundFile(path, "w", samplerate=RATE, channels=1, subtype="PCM_16") as file:
        for block in _blocks(clips):
            file.write(block[:missing])
            missing -= len(block)
            if missing <= 0:
                return


def _blocks(clips: Sequence[Path]) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    times = np.arange(5 * RATE) / RATE
    for clip in cycle(clips or [None]):
        if clip is not None:
            yield soundfile.read(clip, dtype="float32")[0]
        else:  # four tones a second under noise
            pitch = rng.uniform(100, 3000, 20)[(times * 4).astype(int)]
            yield (0.3 * np.sin(2 * np.pi * pitch * times) + 0.02 * rng.standard_normal(len(times))).astype(np.float32)
        yield (0.001 * rng.standard_normal(round(GAP_S * RATE))).astype(np.float32)


def _transcribe_elsewhere(model: str | None, audio: Path, way: str, threads: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", "--child", str(audio), way, "--threads", str(threads)]
    if model is not None:
        command += ["--model", str(model)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _transcribe_here(model: str | None, audio: str, way: str, threads: int) -> dict[str, Any]:
    import torch  # noqa: PLC0415  # the parent must stay small

    from speechnar import DecodeOptions, Transcriber  # noqa: PLC0415

    torch.set_num_threads(threads)
    transcriber = Transcriber.load(*([model] if model else []), device="cpu")
    started = time.perf_counter()
    transcript = transcriber.transcribe(audio, options=DecodeOptions(vad=way == "pauses"))
    return {
        "peak_mib": round(_peak_mib(), 1),
        "wall_s": round(time.perf_counter() - started, 2),
        "words": len(transcript.text.split()),
        "model": transcriber.name,
    }


def _peak_mib() -> float:
    """Return this program's peak resident memory.

    On Linux ``ru_maxrss`` outlives exec, so a small child of a large parent would report the parent; ``VmHWM`` does
    not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    import resource  # noqa: PLC0415  # not on every system

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


if __name__ == "__main__":
    sys.exit(main())
