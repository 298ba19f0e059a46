"""Every parser of outside data, given files that are almost right, for as long as you like.

    python -m tests.fuzz --minutes 20            all parsers in turn
    python -m tests.fuzz audio --seed 4711       one case again, with its traceback

A case is a target and a seed, which say what is changed in a file that is right. It is a finding if anything but an
error of ours comes out, if it takes longer than 30 s or more than 1.5 GB, if it ends the process, if it opens a file
for writing, or any file outside its folder and the installation, if it starts a program or looks for a network, or if a
library writes to stderr by itself.
"""

import argparse
import gzip
import io
import json
import logging
import lzma
import os
import random
import resource
import signal
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import yaml

from speechnar.audio.io import read_audio
from speechnar.config import Config, load_config
from speechnar.data.download import extract_archive
from speechnar.data.kaldi import read_kaldi_dir
from speechnar.data.parallel_text import read_sentences
from speechnar.decode.lm import NgramLm
from speechnar.errors import SpeechnarError
from speechnar.hub import read_card
from speechnar.interop.files import read_tensors, read_yaml
from speechnar.models.base import load_model
from speechnar.text.byte_pairs import BytePairTokenizer
from speechnar.text.tokenizer import load_tokenizer
from speechnar.text.words import read_words
from speechnar.train.checkpoint import load_checkpoint, save_checkpoint
from tests.unit.tiny import save_tiny_model, save_tiny_whisper

MAX_S, MAX_BYTES = 30, 1_500_000_000
FORBIDDEN_EVENTS = frozenset(
    {"os.system", "os.exec", "os.fork", "os.posix_spawn", "subprocess.Popen", "socket.connect"}
)
INSTALLED = (sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]), "/dev/", "/proc/self", "/usr/", "/sys/")
WORDS: tuple[bytes, ...] = (
    b"\x00", b"\xff" * 4, b"\x7f\xff\xff\xff", b"-1", b"1e999", b"999999999", b"NaN", b"null", b"[[[[", b"{}", b"\n",
    b" ", b"&a ", b"*a", b"!!python/object/apply:os.system ", b"<blank>", b"<unk>", b"../../etc/passwd", b"/etc/passwd",
    b"|", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\\N", b"ngram 1=999999999", b"RIFF", b"fLaC", b"OggS",
    b"\\ud800", b"\\u0000",
)  # fmt: skip


class Sizes(Config):
    """A configuration of the kinds that there are."""

    name: str = "a"
    size: int = 3
    rate: float = 0.5
    parts: tuple[int, ...] = (1, 2)


def wav(seconds: float = 0.4) -> np.ndarray:
    return (0.3 * np.random.default_rng(0).normal(size=round(16000 * seconds))).astype(np.float32).clip(-1, 1)


def sound(format: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wav(), 16000, format=format, subtype=subtype)
    return buffer.getvalue()


def files_of(save: Callable[[Path], Any]) -> dict[str, bytes]:
    """Return what ``save`` writes into a folder."""
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def packed(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/b.txt", "text" * 100)
    else:
        with tarfile.open(fileobj=buffer, mode=kind) as archive:
            info = tarfile.TarInfo("a/b.txt")
            info.size = 400
            archive.addfile(info, io.BytesIO(b"text" * 100))
    return buffer.getvalue()


ARPA = b"""\\data\\
ngram 1=4
ngram 2=2

\\1-grams:
-1.0 <s> -0.5
-1.0 </s>
-0.7 the -0.3
-0.9 cat

\\2-grams:
-0.2 <s> the
-0.3 the cat

\\end\\
"""
KALDI = {
    "wav.scp": b"a-1 a.wav\na-2 b.flac\n",
    "text": b"a-1 the cat\na-2 a dog\n",
    "utt2spk": b"a-1 a\na-2 a\n",
    "utt2dur": b"a-1 0.4\na-2 0.4\n",
    "utt2lang": b"a-1 eng\na-2 eng\n",
    "text.deu": b"a-1 die Katze\n",
    "a.wav": sound("WAV"),
    "b.flac": sound("FLAC"),
}
YAML = yaml.safe_dump({"name": "b", "size": 4, "parts": [1, 2], "rate": 0.1}).encode()
CARD = b"---\nlanguage: [eng, deu]\nlicense: mit\ntasks: [asr]\n---\n# A model\n"
BPE = json.dumps(
    {"model": {"vocab": {"a": 0, "b": 1}, "merges": ["a b"]}, "added_tokens": [{"content": "<x>", "id": 2}]}
)


def check_archive(folder: Path) -> None:
    extract_archive(next(folder.iterdir()), folder.parent / f"{folder.name}-out")


TARGETS: dict[str, tuple[Callable[[], Sequence[dict[str, bytes]]], Callable[[Path], Any]]] = {
    "audio": (
        lambda: [
            {f"a.{format.lower()}": sound(format, subtype)}
            for format, subtype in (
                ("WAV", None),
                ("WAV", "FLOAT"),
                ("FLAC", None),
                ("OGG", None),
                ("OGG", "OPUS"),
                ("MP3", None),
                ("AIFF", None),
                ("AU", None),
                ("NIST", None),
                ("W64", None),
                ("CAF", None),
                ("RF64", None),
            )
        ],
        lambda folder: read_audio(next(folder.iterdir()), max_seconds=3600),
    ),
    "configuration": (lambda: [{"a.yaml": YAML}], lambda folder: load_config(folder / "a.yaml", Sizes)),
    "card": (lambda: [{"README.md": CARD}], read_card),
    "foreign yaml": (lambda: [{"config.yaml": YAML}], lambda folder: read_yaml(folder / "config.yaml")),
    "model": (lambda: [files_of(save_tiny_model)], load_model),
    "tokenizer": (
        lambda: (
            [
                {k: v for k, v in files_of(save).items() if k.split(".")[0] in ("tokens", "merges", "tokenizer")}
                for save in (save_tiny_model, save_tiny_whisper)
            ]
            + [{"tokens.txt": "<blank>\n<unk>\n▁\na\nb\n".encode(), "lexicon.txt": b"ab a b\nba b a\n"}]
        ),
        lambda folder: load_tokenizer(folder).encode("the cat <eng> ab <BLANK>"),
    ),
    "byte pairs": (
        lambda: [{"tokenizer.json": BPE.encode()}],
        lambda f: BytePairTokenizer.from_json(f / "tokenizer.json"),
    ),
    "language model": (
        lambda: [{"lm.arpa": ARPA}, {"lm.arpa": gzip.compress(ARPA)}],
        lambda folder: NgramLm.read_arpa(folder / "lm.arpa"),
    ),
    "words": (
        lambda: [{"eng.xz": lzma.compress(b"-127 the of\n-250 cat\n-431 l'homme\n")}],
        lambda folder: read_words(folder / "eng.xz"),
    ),
    "data directory": (lambda: [KALDI], read_kaldi_dir),
    "parallel texts": (
        lambda: [{name: KALDI[name] for name in ("text", "utt2lang", "text.deu")}],
        read_sentences,
    ),
    "checkpoint": (
        lambda: [files_of(lambda f: save_checkpoint(f / "a.pt", {"model": {"x": torch.arange(50.0)}, "step": 3}))],
        lambda folder: (load_checkpoint(folder / "a.pt"), read_tensors(folder / "a.pt", ["model"])),
    ),
    "archive": (
        lambda: [{f"a.{kind[2:] or 'zip'}": packed(kind)} for kind in ("zip", "w:gz", "w:xz", "w:")],
        check_archive,
    ),
}
if find_spec("fastapi") is not None:  # of the extra serve
    from tests import fuzz_serve

    TARGETS |= {
        "forms": (lambda: fuzz_serve.started(fuzz_serve.forms(sound("WAV"))), fuzz_serve.send),
        "bodies": (lambda: fuzz_serve.started(fuzz_serve.bodies()), fuzz_serve.send),
        "sessions": (lambda: fuzz_serve.started(fuzz_serve.sessions(sound("RAW", "PCM_16"))), fuzz_serve.send),
    }
WRITES = frozenset({"archive", "forms"})
"""Targets that unpack something beside what they are given."""


@cache
def originals(target: str) -> Sequence[dict[str, bytes]]:
    return TARGETS[target][0]()


def mutate(content: bytes, rng: random.Random) -> bytes:
    """Return ``content`` with a few changes of a few kinds."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(changed) + 1)
        span = rng.choice((1, 2, 4, 16, 200))
        kind = rng.randrange(7)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + span] = rng.randbytes(span)
        elif kind == 2:
            del changed[at : at + span]
        elif kind == 3:
            changed[at:at] = changed[max(0, at - span) : at] * rng.choice((1, 2, 100))
        elif kind == 4:
            changed[at:at] = rng.choice(WORDS)
        elif kind == 5:
            del changed[at:]
        else:
            changed[at : at + 4] = rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 20)).to_bytes(4, "little")
    return bytes(changed)


def write_case(target: str, seed: int, folder: Path) -> None:
    """Write the files of a case: those of one original, of which one or two are changed."""
    rng = random.Random(f"{target} {seed}")  # no secret
    files = dict(rng.choice(originals(target)))
    for name in rng.sample(sorted(files), min(len(files), rng.choice((1, 1, 2)))):
        files[name] = mutate(files[name], rng)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


class Watch:
    """Records what a case does that no parser may do; hooks of audits last as long as the process."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.may_write = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in FORBIDDEN_EVENTS:
            self.seen.append(f"{event} {args!r}"[:200])
        elif event == "open" and isinstance(args[0], str | bytes):
            path, flags = os.fsdecode(args[0]), args[2] or 0
            is_inside = Path(path).resolve().is_relative_to(self.folder.parent.resolve())
            is_ours = path.startswith(
                (sys.prefix, sys.base_prefix, str(Path(__file__).parents[1]), "/dev/", "/proc/self")
            )
            if flags & (os.O_WRONLY | os.O_RDWR) and not (self.may_write and is_inside):
                self.seen.append(f"wrote {path}")
            elif not is_inside and not is_ours:
                self.seen.append(f"read {path}")


WATCH = Watch()


@contextmanager
def watched(folder: Path, *, may_write: bool) -> Iterator[list[str]]:
    WATCH.folder, WATCH.may_write, WATCH.seen = folder, may_write, []
    try:
        yield WATCH.seen
    finally:
        WATCH.folder = None


@contextmanager
def stderr_heard(path: Path) -> Iterator[list[str]]:
    """Yield what will hold the lines that libraries write to stderr by themselves."""
    heard: list[str] = []
    before, file = os.dup(2), os.open(path, os.O_RDWR | os.O_CREAT)
    os.dup2(file, 2)
    try:
        yield heard
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(file)
        heard += [f"stderr: {line}" for line in path.read_text(errors="replace").splitlines()]


def run_case(target: str, seed: int) -> str | None:
    """Return what is wrong with what happened, with the traceback if there is one; None: all is well."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as root:
        folder = Path(root) / "case"
        folder.mkdir()
        write_case(target, seed, folder)
        with stderr_heard(Path(root) / "stderr") as heard, watched(folder, may_write=target in WRITES) as seen:
            started = time.process_time()  # whoever waits, for however long, is seen from outside
            try:
                TARGETS[target][1](folder)
            except SpeechnarError as error:
                if "\n" in str(error) and target != "data directory":  # which lists faults, one a line
                    return f"a message of several lines: {error}"
            except BaseException:
                WATCH.folder = None
                return traceback.format_exc()
            taken_s = time.process_time() - started
        if seen or heard:
            return "; ".join([*seen, *heard])[:2000]
        return f"took {taken_s:.0f} s" if taken_s > MAX_S else None


def fuzz(target: str, first: int, seconds: float) -> Iterator[tuple[int, str | None]]:
    """Yield seeds and what they found, from ``first`` on, for a time; of the last seed, whatever it found."""
    until, seed = time.monotonic() + seconds, first
    while time.monotonic() < until:
        with tempfile.NamedTemporaryFile() as progress:
            child = os.fork()
            if child == 0:
                _work(target, seed, until, Path(progress.name))
            seed, what = _attend(child, Path(progress.name), seed)
            yield seed, what
            seed += 1


def _work(target: str, seed: int, until: float, progress: Path) -> None:
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + MAX_BYTES,) * 2)
    originals(target)  # a server takes its time to start, which is none of a case
    while time.monotonic() < until:
        progress.write_text(str(seed))
        found = run_case(target, seed)
        if found is not None:
            progress.write_text(f"{seed}\n{found}")
            os._exit(1)
        seed += 1
    os._exit(0)


def _attend(child: int, progress: Path, seed: int) -> tuple[int, str | None]:
    """Wait for a worker to end; return the last seed that it tried, and what was found."""
    last, since, looked = "", time.monotonic(), time.monotonic()
    while True:
        if time.monotonic() - looked > 1.0:  # this process was stopped, or starved, and the worker with it
            since += time.monotonic() - looked
        looked = time.monotonic()
        ended, status = os.waitpid(child, os.WNOHANG)
        now = progress.read_text()
        if ended:
            tried, _, found = now.partition("\n")
            code = os.waitstatus_to_exitcode(status)
            return int(tried or seed), found or (f"ended with status {code}" if code else None)
        if now != last or not now:
            last, since = now, time.monotonic()
        if time.monotonic() - since > 2 * MAX_S:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return int(last.partition("\n")[0] or seed), f"hung for {2 * MAX_S} s"
        time.sleep(0.05)


def main() -> int:
    """Fuzz all targets, or those that are named; return whether anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="for all targets together; default: %(default)s")
    parser.add_argument("--seed", type=int, help="only this case")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with; default: %(default)s")
    args = parser.parse_args()
    targets = args.targets or list(TARGETS)
    if args.seed is not None:
        found = [run_case(target, args.seed) for target in targets]
        print("\n".join(map(str, found)))
        return int(any(found))
    logging.getLogger("speechnar").addHandler(logging.NullHandler())
    count = 0
    for target in targets:
        for seed, what in fuzz(target, args.first, 60 * args.minutes / len(targets)):
            if what is not None:
                count += 1
                print(f"{target} --seed {seed}: {what.strip()}\n", flush=True)
        print(f"{target}: {seed + 1 - args.first} cases", flush=True)
    print(f"{count} findings")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
