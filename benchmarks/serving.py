"""A server under load: clients that ask as fast as they are answered, with batching and without it.

The server is a process of its own; its clients, threads of this one, each send the clips of a Kaldi data directory one
after the other, for so many seconds. What each clip says is known from a first round, one client alone. An answer is
lost if it does not come or is no transcript, and crossed if it is nearer to what another clip says than to its own;
batches are padded, so that a text may differ in a letter. ``median_s`` is that of a request.
"""

import argparse
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path
from typing import Any

import httpx

from benchmarks.memory import TEST_SET, recordings
from benchmarks.result import RESULTS, load_average, write_result
from speechnar.audio.io import AudioStream

SHORTEST_S, LONGEST_S = 3.0, 20.0
SIDES = {"together": 60.0, "one by one": 0.0}
"""Seconds of audio of waiting requests that are decoded together."""


def main() -> int:
    """Measure each number of clients both ways; exit status 1 if an answer was lost or crossed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="joint-asr", help="default: %(default)s")
    parser.add_argument("--data", type=Path, default=TEST_SET, help="Kaldi data directory with speech")
    parser.add_argument("--clips", type=int, default=24, help="of 3 to 20 s; default: %(default)s")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=40.0, help="for each; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    clips = dict(islice(usable(recordings(args.data)), args.clips))
    if not clips:
        parser.error(f"{args.data} has no clips of {SHORTEST_S:g} to {LONGEST_S:g} s")
    load = load_average()
    found: dict[str, list[dict[str, Any]]] = {}
    for label, batch_s in SIDES.items():
        with serving(args.model, batch_s, args.threads) as (url, process):
            wanted = {path: ask(url, args.model, path) for path in clips}
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
            result=f"{together['audio_s_per_s']:.1f} s of audio a second, {gain:.2f} times as many as one by one; "
            f"a request takes {together['median_s']:.2f} s (95 %: {together['p95_s']:.2f}, 99 %: "
            f"{together['p99_s']:.2f}); {together['lost']} of {together['requests']} lost, {together['crossed']} "
            f"crossed; memory {together['mib_after_a_third']:.0f} to {together['mib_at_the_end']:.0f} MiB",
            note=f"model {args.model}, {len(clips)} clips, {args.seconds:g} s each way; waiting requests of equal "
            "options decoded together, up to 60 s of audio",
            folder=args.output,
        )
    return int(any(side["lost"] or side["crossed"] for sides in found.values() for side in sides))


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
    heard_s, num_lost, num_crossed = 0.0, 0, 0
    started = time.monotonic()

    def work(first: int) -> None:
        nonlocal heard_s, num_lost, num_crossed
        paths = [*clips]
        number = first * len(paths) // clients
        while time.monotonic() < started + seconds:
            path = paths[number % len(paths)]
            number += 1
            began = time.monotonic()
            try:
                text = ask(url, model, path)
            except (httpx.HTTPError, ValueError, KeyError):
                with lock:
                    num_lost += 1
                continue
            is_crossed = nearest(text, path, wanted) != path
            with lock:
                taken.append(time.monotonic() - began)
                heard_s += clips[path]
                num_crossed += is_crossed

    workers = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for worker in workers:
        worker.start()
    time.sleep(seconds / 3)
    after_a_third = resident_mib(pid)
    for worker in workers:
        worker.join()
    if len(taken) < 2:  # quantiles are of several
        raise SystemExit(f"{len(taken)} answers came in {seconds:g} s, {num_lost} were lost; give more --seconds")
    ranks = statistics.quantiles(taken, n=100, method="inclusive")
    return {
        "median_s": round(statistics.median(taken), 4),
        "p95_s": round(ranks[94], 4),
        "p99_s": round(ranks[98], 4),
        "requests": len(taken) + num_lost,
        "lost": num_lost,
        "crossed": num_crossed,
        "audio_s_per_s": round(heard_s / (time.monotonic() - started), 2),
        "mib_after_a_third": after_a_third,
        "mib_at_the_end": resident_mib(pid),
    }


def nearest(text: str, path: Path, wanted: Mapping[Path, str]) -> Path:
    """Return the clip that says ``text``, ``path`` if several do; else the one that says what is most like it."""
    if text == wanted[path]:
        return path
    return max(wanted, key=lambda other: (SequenceMatcher(None, text, wanted[other]).ratio(), other == path))


def ask(url: str, model: str, path: Path) -> str:
    """Return the text of a clip; what is refused for want of room is asked again.

    Raises:
        httpx.HTTPError: there is no answer, or none of a transcript.
    """
    while True:
        with path.open("rb") as file:
            response = httpx.post(
                f"{url}/v1/audio/transcriptions", data={"model": model}, files={"file": file}, timeout=600
            )
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


def resident_mib(pid: int) -> float:
    """Return the memory that a process holds now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20, 1)


if __name__ == "__main__":
    sys.exit(main())
