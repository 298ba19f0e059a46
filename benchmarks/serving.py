"""A server under load: clients that ask as fast as they are answered, with batching and without it.

The server is a process of its own; its clients, threads of this one, each send the clips of a Kaldi data directory one
after the other, for so many seconds. What each clip says is known from a first round, one client alone. An answer is
lost if it does not come or is no transcript, and crossed if it is nearer to what another clip says than to its own;
batches are padded, so that a text may differ in a letter. ``median_s`` is that of a request.

There are three parts: ``load`` is that; ``model`` says what batching can win at best, the same clips through the model
without a server, 8 at once and one by one; ``memory`` is what the heaviest load adds to it behind a first minute.
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch

from benchmarks.memory import TEST_SET, recordings
from benchmarks.result import RESULTS, load_average, median_seconds, write_result
from speechnar import Transcriber
from speechnar.audio.io import AudioStream

SHORTEST_S, LONGEST_S = 3.0, 20.0
SIDES = {"together": 60.0, "one by one": 0.0}
"""Seconds of audio of waiting requests that are decoded together."""
PARTS = ("load", "model", "memory")
AT_ONCE = 8
TIMEOUT_S = 600.0
FIRST_S = 60.0
"""After so long under load, memory may not grow any more."""


def main() -> int:
    """Measure each number of clients both ways; exit status 1 if an answer was lost or crossed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="joint-asr", help="default: %(default)s")
    parser.add_argument("--data", type=Path, default=TEST_SET, help="Kaldi data directory with speech")
    parser.add_argument("--clips", type=int, default=24, help="of 3 to 20 s; default: %(default)s")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=40.0, help="for each; default: %(default)s")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    clips = dict(islice(usable(recordings(args.data)), args.clips))
    if not clips:
        parser.error(f"{args.data} has no clips of {SHORTEST_S:g} to {LONGEST_S:g} s")
    if "model" in args.parts:
        measure_model(args, clips)
    status = measure_load(args, clips) if "load" in args.parts else 0
    return status | (watch_memory(args, clips) if "memory" in args.parts else 0)


def measure_load(args: argparse.Namespace, clips: Mapping[Path, float]) -> int:
    """Write what each number of clients got, both ways; exit status as that of `main`."""
    load = load_average()
    found: dict[str, list[dict[str, Any]]] = {}
    wanted: dict[Path, str] = {}
    for label, batch_s in SIDES.items():
        with serving(args.model, batch_s, args.threads) as (url, process):
            known = round_of_one(url, args.model, [*clips][: 1 if wanted else None])  # once, and a model that is loaded
            wanted = wanted or known
            found[label] = [
                {"label": label, **measure(url, process.pid, args.model, clips, wanted, clients, args.seconds)}
                for clients in args.clients
            ]
    for clients, together, alone in zip(args.clients, *found.values(), strict=True):
        gain = together["audio_s_per_s"] / alone["audio_s_per_s"]
        write_result(
            f"serving_{clients}",
            what=f"transcriptions over HTTP: {clients} client{'s' * (clients > 1)}, clips of 3 to 20 s",
            threads=args.threads,
            runs=together["requests"],
            load_before=load,
            a=together,
            b=alone,
            result=f"{together['audio_s_per_s']:.1f} s of audio a second, {gain:.2f} times as many as one by one (in a "
            f"second of one processor {together['audio_s_per_cpu_s']} and {alone['audio_s_per_cpu_s']}); a request "
            f"takes {together['median_s']:.2f} s (95 %: {together['p95_s']:.2f}, 99 %: {together['p99_s']:.2f}); "
            f"{together['lost']} of {together['requests']} lost, {together['crossed']} "
            f"crossed; memory {together['mib_after_a_third']:.0f} to {together['mib_at_the_end']:.0f} MiB",
            note=f"model {args.model}, {len(clips)} clips, {args.seconds:g} s each way; waiting requests of equal "
            "options decoded together, up to 60 s of audio",
            folder=args.output,
        )
    return int(any(side["lost"] or side["crossed"] for sides in found.values() for side in sides))


def measure_model(args: argparse.Namespace, clips: Mapping[Path, float]) -> None:
    """Write what the model itself wins by batches, in this process."""
    load = load_average()
    torch.set_num_threads(args.threads)
    transcriber = Transcriber.load(args.model, device="cpu")
    wavs = [np.concatenate([*AudioStream(path, target_rate=transcriber.sample_rate)]) for path in clips]
    rate = transcriber.sample_rate

    busy_s: dict[int, list[float]] = {AT_ONCE: [], 1: []}

    def transcribe(num: int) -> None:
        began = time.process_time()
        for start in range(0, len(wavs), num):
            transcriber.transcribe([*wavs[start : start + num]], sample_rate=rate)
        busy_s[num].append(time.process_time() - began)

    runs, total_s = 2, sum(clips.values())
    at_once, one = median_seconds(partial(transcribe, AT_ONCE), partial(transcribe, 1), runs)
    busy = {num: total_s / statistics.median(seconds[1:]) for num, seconds in busy_s.items()}
    write_result(
        "serving_model",
        what=f"the model alone, without a server: clips of 3 to 20 s, {AT_ONCE} at once (a) and one by one",
        threads=args.threads,
        runs=runs,
        load_before=load,
        a={
            "label": f"{AT_ONCE} at once",
            "median_s": round(at_once, 4),
            "audio_s_per_s": round(total_s / at_once, 2),
            "audio_s_per_cpu_s": round(busy[AT_ONCE], 2),
        },
        b={
            "label": "one by one",
            "median_s": round(one, 4),
            "audio_s_per_s": round(total_s / one, 2),
            "audio_s_per_cpu_s": round(busy[1], 2),
        },
        result=f"{total_s / at_once:.1f} s of audio a second {AT_ONCE} at once, {total_s / one:.1f} one by one: "
        f"{one / at_once:.2f} times as many; a second of one processor, {busy[AT_ONCE]:.1f} and {busy[1]:.1f}",
        note=f"model {args.model}, {len(clips)} clips, {total_s:.0f} s of audio in memory",
        folder=args.output,
    )


def watch_memory(args: argparse.Namespace, clips: Mapping[Path, float]) -> int:
    """Write how much memory grows behind the first minute under the heaviest load; exit status as that of `main`."""
    load, clients = load_average(), max(args.clients)
    with serving(args.model, SIDES["together"], args.threads) as (url, process):
        wanted = round_of_one(url, args.model, clips)
        first, then = (
            {"label": label, **measure(url, process.pid, args.model, clips, wanted, clients, seconds)}
            for label, seconds in (("first minute", FIRST_S), ("what follows", args.seconds))
        )
    write_result(
        "serving_memory",
        what=f"memory of a server that {clients} clients ask for {args.seconds / 60:g} minutes behind a first one",
        threads=args.threads,
        runs=then["requests"],
        load_before=load,
        a=then,
        b=first,
        result=f"{first['mib_at_the_end']:.0f} MiB after the first minute, {then['mib_after_a_third']:.0f} after a "
        f"third of the others, {then['mib_at_the_end']:.0f} at the end; {then['lost']} of {then['requests']} lost, "
        f"{then['crossed']} crossed",
        note=f"model {args.model}, {len(clips)} clips of 3 to 20 s",
        folder=args.output,
    )
    return int(any(side["lost"] or side["crossed"] for side in (first, then)))


def round_of_one(url: str, model: str, clips: Iterable[Path]) -> dict[Path, str]:
    """Return what each clip says, asked for one by one."""
    with httpx.Client(timeout=TIMEOUT_S) as client:
        return {path: ask(client, url, model, path) for path in clips}


def usable(paths: Sequence[Path]) -> Iterator[tuple[Path, float]]:
    """Yield recordings of the right length with their seconds."""
    for path in paths:
        seconds = sum(map(len, AudioStream(path, target_rate=16000))) / 16000
        if SHORTEST_S <= seconds <= LONGEST_S:
            yield path, seconds


def measure(  # noqa: PLR0917  # a server, what is asked of it, and how
    url: str,
    pid: int,
    model: str,
    clips: Mapping[Path, float],
    wanted: Mapping[Path, str],
    clients: int,
    seconds: float,
) -> dict[str, Any]:
    """Return what a server did for so many clients during so many seconds."""
    lock = threading.Lock()
    taken: list[float] = []
    heard: list[tuple[Path, str]] = []
    num_lost = 0
    started, busy_s = time.monotonic(), cpu_seconds(pid)

    def work(first: int) -> None:
        nonlocal num_lost
        paths = [*clips]
        number = first * len(paths) // clients
        with httpx.Client(timeout=TIMEOUT_S) as client:
            while time.monotonic() < started + seconds:
                path = paths[number % len(paths)]
                number += 1
                began = time.monotonic()
                try:
                    text = ask(client, url, model, path)
                except (httpx.HTTPError, ValueError, KeyError):
                    with lock:
                        num_lost += 1
                    continue
                with lock:
                    taken.append(time.monotonic() - began)
                    heard.append((path, text))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for worker in workers:
        worker.start()
    time.sleep(seconds / 3)
    after_a_third = resident_mib(pid)
    for worker in workers:
        worker.join()
    took_s, busy_s, at_the_end = time.monotonic() - started, cpu_seconds(pid) - busy_s, resident_mib(pid)
    total_s = sum(clips[path] for path, _ in heard)
    if len(taken) < 2:  # quantiles are of several
        raise SystemExit(f"{len(taken)} answers came in {seconds:g} s, {num_lost} were lost; give more --seconds")
    ranks = statistics.quantiles(taken, n=100, method="inclusive")
    return {
        "median_s": round(statistics.median(taken), 4),
        "p95_s": round(ranks[94], 4),
        "p99_s": round(ranks[98], 4),
        "requests": len(taken) + num_lost,
        "lost": num_lost,
        "crossed": sum(nearest(text, path, wanted) != path for path, text in heard),
        "audio_s_per_s": round(total_s / took_s, 2),
        "audio_s_per_cpu_s": round(total_s / busy_s, 2) if busy_s else None,
        "mib_after_a_third": after_a_third,
        "mib_at_the_end": at_the_end,
    }


def nearest(text: str, path: Path, wanted: Mapping[Path, str]) -> Path:
    """Return the clip that says ``text``, ``path`` if several do; else the one that says what is most like it."""
    if text == wanted[path]:
        return path
    return max(wanted, key=lambda other: (SequenceMatcher(None, text, wanted[other]).ratio(), other == path))


def ask(client: httpx.Client, url: str, model: str, path: Path) -> str:
    """Return the text of a clip; what is refused for want of room is asked again.

    Raises:
        httpx.HTTPError: there is no answer, or none of a transcript.
    """
    while True:
        with path.open("rb") as file:
            response = client.post(f"{url}/v1/audio/transcriptions", data={"model": model}, files={"file": file})
        if response.status_code != httpx.codes.TOO_MANY_REQUESTS:
            return str(response.raise_for_status().json()["text"])
        time.sleep(float(response.headers["Retry-After"]))


@contextmanager
def serving(model: str, batch_s: float, threads: int) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run a server and give its address."""
    command = [sys.executable, "-m", "speechnar", "serve", "--port", "8473", "--model", model, "--quiet"]
    command += ["--threads", str(threads), "--batch-seconds", str(batch_s)]
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
    url = "http://127.0.0.1:8473"
    try:
        while process.poll() is None:
            try:
                httpx.get(f"{url}/health").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"the server ended with status {process.returncode}")
        yield url, process
    finally:
        process.terminate()
        process.wait(60)


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """Return the memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


if __name__ == "__main__":
    sys.exit(main())
