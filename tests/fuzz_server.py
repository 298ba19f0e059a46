"""The live server, given requests that are almost right, for as long as you like.

    python -m tests.fuzz_server --minutes 10           requests of all kinds in turn
    python -m tests.fuzz_server speech --seed 4711     one request again, and what is answered

The server is a process of its own with small models. A case is a kind of request and a seed, which say what is changed
in one that is right. It is a finding if the answer has a status of 500 or more, if what came whole is not answered
within a minute, if a session ends by a fault of the server's, if an answer shows a path of this machine, if the server
writes of an error that it did not expect, or if it ends.
"""

import argparse
import base64
import contextlib
import http.client
import io
import json
import logging
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import websockets
import websockets.sync.client

from tests.fuzz import WORDS, mutate

ANSWER_S, LEFT_S = 60.0, 0.5
"""Until what came whole must be answered; until the client leaves where something may be missing."""
COUNTED_S = 5.0
"""The most that one case counts towards the minutes asked for: whoever sleeps meanwhile does not fuzz."""
NO_ANSWER = "no answer"
START_S = STOP_S = 300.0
"""However slow the machine is."""
HOSTILE = (
    "", " ", "\0", "\n", "\r\nSet-Cookie: a=b", "../../../etc/passwd", "/etc/passwd", "file:///etc/passwd",
    "http://127.0.0.1:9/", "concat:/etc/passwd|/etc/hostname", "<script>alert(1)</script>", "\x1b[31m", "\ud800",
    "😀" * 50, "x" * 5000, "-1", "0", "1e999", "NaN", "true", "null", "[]", "{}", "%00", "%s%n", "a.g722", "a.m3u8",
    ".", "..", "CON",
)  # fmt: skip
VALUES = (None, True, -1, 0, 1, 10**30, 1e300, float("nan"), [], {}, [[]], {"a": None}, *HOSTILE)
"""What may stand in JSON, and more."""
PATHS = (
    "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/audio/speech", "/v1/audio/models", "/v1/audio/voices",
    "/v1/models", "/v1/models/x", "/v1/models/../../etc/passwd", "/v1/models/%2e%2e%2f%00", "/v1/realtime", "/health",
    "/metrics", "/openapi.json", "/", "//", "/%", "/" + "a" * 3000, "*", "http://127.0.0.1/health",
)  # fmt: skip


@cache
def sounds() -> tuple[bytes, ...]:
    """Return short recordings in several formats."""
    noise = np.random.default_rng(0).normal(0, 0.1, 3200).astype(np.float32)
    made = []
    for format, subtype in (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", None), ("OGG", "OPUS"), ("MP3", None)):
        file = io.BytesIO()
        soundfile.write(file, noise, 16000, format=format, subtype=subtype)
        made.append(file.getvalue())
    return tuple(made)


# Requests.


def request(path: str, body: bytes, kind: str, *, method: str = "POST", more: str = "") -> bytes:
    """Return the bytes of a request."""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{more}"
    head += f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode("utf-8", "surrogatepass") + body


def transcription(rng: random.Random) -> bytes:
    """Return an upload with fields, names and sounds that are not quite right."""
    right = {
        "model": ("whisper-1", "gpt-4o-transcribe"),
        "response_format": ("json", "text", "srt", "vtt", "verbose_json"),
        "language": ("en", "de", "auto"),
        "stream": ("true", "false"),
        "timestamp_granularities[]": ("word", "segment"),
        "hotwords": ("a cat, the dog",),
        "prompt": ("hello",),
        "temperature": ("0",),
    }
    fields = [(name, rng.choice(values)) for name, values in right.items() if name == "model" or rng.random() < 0.4]
    if rng.random() < 0.5:
        at = rng.randrange(len(fields))
        name, value = fields[at]
        fields[at] = rng.choice(((name, rng.choice(HOSTILE)), (rng.choice(HOSTILE), value), (name, value * 30)))
    content = rng.choice(sounds())
    if rng.random() < 0.7:
        content = mutate(content, rng) if rng.random() < 0.8 else b"".join(rng.choices(WORDS, k=rng.randrange(20)))
    parts = [(f'form-data; name="{name}"', value.encode("utf-8", "surrogatepass")) for name, value in fields]
    filename = rng.choice(HOSTILE) if rng.random() < 0.3 else "a.wav"
    parts.insert(rng.randrange(len(parts) + 1), (f'form-data; name="file"; filename="{filename}"', content))
    body = b"".join(
        b"--fuzz\r\nContent-Disposition: " + head.encode("utf-8", "surrogatepass") + b"\r\n\r\n" + value + b"\r\n"
        for head, value in parts
    )
    body += b"--fuzz--\r\n"
    if rng.random() < 0.2:
        body = mutate(body, rng)
    path = rng.choice(("/v1/audio/transcriptions", "/v1/audio/transcriptions", "/v1/audio/translations"))
    return request(path, body, "multipart/form-data; boundary=fuzz")


def speech(rng: random.Random) -> bytes:
    """Return a wish for speech whose values are not quite right."""
    wanted: dict[str, Any] = {
        "model": "tts-1", "input": rng.choice(("one", "two three.", "# 4 *5*", "<speak>six</speak>")), "steps": 1,
        "voice": rng.choice((*("alloy",) * 4, "me", "short", "nobody")), "stream_format": rng.choice(("audio", "sse")),
        "response_format": rng.choice(("mp3", "opus", "flac", "wav", "pcm")),
    }  # fmt: skip
    for _ in range(rng.randrange(3)):
        wanted[rng.choice((*wanted, "speed", "seed", "instructions", "more"))] = rng.choice(VALUES)
    body = json.dumps(wanted).encode()
    if rng.random() < 0.2:
        body = mutate(body, rng)
    return request("/v1/audio/speech", body, rng.choice((*("application/json",) * 8, "text/plain", "x")))


def head(rng: random.Random) -> bytes:
    """Return a request with an odd method, path or header."""
    odd = (
        "Transfer-Encoding: chunked\r\n", "Transfer-Encoding: gzip, chunked\r\n", "Content-Length: -1\r\n",
        "Content-Length: 99999999999999999999\r\n", "Expect: 100-continue\r\n", "Upgrade: websocket\r\n",
        "Upgrade: h2c\r\nHTTP2-Settings: AAAA\r\n", "Authorization: Bearer \xff\r\n", "Origin: http://[\r\n",
        "Origin: null\r\n", "Range: bytes=0-,-1,5-2\r\n", "Cookie: " + "a=b; " * 500 + "\r\n", "X: \0\r\n",
        "Host: \r\n", "Sec-WebSocket-Protocol: ,,realtime\r\n", "Content-Encoding: gzip\r\n",
    )  # fmt: skip
    kind = rng.choice(
        ("application/json", "multipart/form-data", "multipart/form-data; boundary=", "", "\u00ff/\u00ff")
    )
    more = "".join(rng.sample(odd, rng.randrange(3)))
    method = rng.choice(("GET", "POST", "HEAD", "OPTIONS", "PUT", "TRACE", "CONNECT", "SPAM", "g"))
    return request(rng.choice(PATHS), rng.choice(WORDS) * rng.randrange(3), kind, method=method, more=more)


def torn(rng: random.Random) -> bytes:
    """Return a request of another kind of which any byte may be wrong or missing."""
    return mutate(rng.choice((transcription, speech, head))(rng), rng)


def events(rng: random.Random) -> list[str | bytes]:
    """Return what is said in a session."""

    def event() -> dict[str, Any]:
        kind = rng.choice(("session.update", "transcription_session.update", "append", "append", "commit", "clear"))
        if "session" in kind:
            sound = {"format": {"type": "audio/pcm", "rate": rng.choice((8000, 16000, 24000))}, "turn_detection": None}
            new = {"type": "transcription", "audio": {"input": {**sound, "transcription": {"language": "en"}}}}
            old = {"input_audio_format": "pcm16", "input_audio_transcription": {"model": "whisper-1"}}
            return {"type": kind, "session": rng.choice((new, old))}
        values = (
            {"audio": base64.b64encode(rng.randbytes(2 * rng.randrange(5000))).decode()} if kind == "append" else {}
        )
        return {"type": f"input_audio_buffer.{kind}", **values}

    said: list[str | bytes] = []
    for _ in range(rng.randrange(1, 6)):
        values: Any = event()
        if rng.random() < 0.5:
            place = values
            while (inner := [key for key in place if isinstance(place[key], dict)]) and rng.random() < 0.7:
                place = place[rng.choice(inner)]
            place[rng.choice([*place, "more"])] = rng.choice(VALUES)
        text = json.dumps(values)
        said.append(mutate(text.encode(), rng) if rng.random() < 0.1 else text)
    return said


KINDS: dict[str, Callable[[random.Random], bytes] | None] = {
    "transcription": transcription,
    "speech": speech,
    "head": head,
    "torn": torn,
    "session": None,
}
WHOLE = frozenset({"transcription", "speech"})
"""Kinds of which every byte that is announced is sent."""


# Cases.


def run_case(port: int, kind: str, seed: int) -> tuple[str, str | None]:
    """Return what was answered, in short, and what is wrong with it; None: nothing."""
    rng = random.Random(f"{kind} {seed}")  # no secret
    make = KINDS[kind]
    if make is None:
        return _talk(port, events(rng))
    status, body = _ask(port, make(rng), ANSWER_S if kind in WHOLE else LEFT_S)
    if status is None:
        return NO_ANSWER, NO_ANSWER if kind in WHOLE else None
    if status >= http.client.INTERNAL_SERVER_ERROR:
        return str(status), f"status {status}: {body[:300]!r}"
    return str(status), f"shows a path: {body[:300]!r}" if tempfile.gettempdir().encode() in body else None


def _ask(port: int, content: bytes, patience_s: float) -> tuple[int | None, bytes]:
    with socket.create_connection(("127.0.0.1", port), timeout=patience_s) as sock:
        with contextlib.suppress(OSError):  # refused before all is sent; what is said of it comes all the same
            sock.sendall(content)
        response = http.client.HTTPResponse(sock)
        try:
            response.begin()
            return response.status, response.read(1 << 20)
        except (OSError, http.client.HTTPException):
            return getattr(response, "status", None) if response.headers else None, b""


def _talk(port: int, said: list[str | bytes]) -> tuple[str, str | None]:
    heard: list[str] = []
    url = f"ws://127.0.0.1:{port}/v1/realtime"
    try:
        with websockets.sync.client.connect(url, open_timeout=ANSWER_S, close_timeout=LEFT_S) as connection:
            with contextlib.suppress(websockets.ConnectionClosed):  # what was said before can still be read
                for message in said:
                    connection.send(message)
            with contextlib.suppress(TimeoutError):
                while True:
                    event = json.loads(connection.recv(timeout=LEFT_S))
                    heard.append(event["type"])
                    if event["type"] == "error" and event["error"]["type"] == "server_error":
                        return "error", f"a fault of the server's: {event}"
    except TimeoutError:
        return NO_ANSWER, NO_ANSWER
    except websockets.ConnectionClosed as closed:
        code = closed.rcvd.code if closed.rcvd else None
        return f"closed {code}", f"closed by {code}" if code in (None, 1006, 1011) else None
    return ", ".join(sorted(set(heard))), None


# The server.


@contextmanager
def serving() -> Iterator[tuple[int, "subprocess.Popen[bytes]", Path]]:
    """Start a server and give its port, its process and the file of its log."""
    with tempfile.TemporaryDirectory(prefix="fuzz-server-") as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        log = Path(folder) / "log"
        with log.open("wb") as file:
            command = [sys.executable, "-m", "tests.fuzz_server", "--serve", str(port), folder]
            process = subprocess.Popen(command, stderr=file)
        try:
            until = time.monotonic() + START_S
            while time.monotonic() < until and process.poll() is None:
                with contextlib.suppress(OSError):
                    if _ask(port, request("/health", b"", "x", method="GET"), ANSWER_S)[0] == http.client.OK:
                        break
                time.sleep(0.2)
            else:
                raise SystemExit(f"the server did not start: {log.read_text(errors='replace')[-2000:]}")
            yield port, process, log
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            finally:
                process.kill()


def serve_small(port: int, folder: Path) -> None:
    """Serve small models, with limits that are small."""
    from speechnar.serve.app import serve  # only the process that serves needs them
    from speechnar.serve.options import ServeOptions
    from tests.unit.tiny import save_tiny_model

    logging.basicConfig(level=logging.ERROR)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    voices = folder / "voices"
    voices.mkdir()
    for name, seconds in (("me", 1.0), ("short", 0.2)):
        soundfile.write(voices / f"{name}.wav", np.random.default_rng(0).normal(0, 0.1, round(16000 * seconds)), 16000)
    save_tiny_model(folder / "tiny")
    os.chdir(folder)
    model = "./tiny"  # a folder is asked for, and so told, by the name under which it is served
    options = ServeOptions(
        asr_model=model, st_model=model, tts_model="fsdd-tts", voices=voices, device="cpu", idle_s=5.0,
        max_text_chars=200, max_audio_s=60.0, max_upload_bytes=1_000_000,
    )  # fmt: skip
    serve(options, host="127.0.0.1", port=port)


def main() -> int:
    """Fuzz with all kinds of requests, or those that are named; return whether anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"default: all of {', '.join(KINDS)}")
    parser.add_argument("--minutes", type=float, default=1.0, help="default: %(default)s")
    parser.add_argument("--seed", type=int, help="only this case")
    parser.add_argument("--first", type=int, default=0, help="seed to begin with; default: %(default)s")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve_small(int(args.serve[0]), Path(args.serve[1]))
        return 0
    kinds = args.kinds or list(KINDS)
    num_cases = num_findings = 0
    answers: dict[str, dict[str, int]] = {kind: {} for kind in kinds}
    with serving() as (port, process, log):
        left_s = 60 * args.minutes
        for seed in count(args.first) if args.seed is None else [args.seed]:
            for kind in kinds:
                size, began = log.stat().st_size, time.monotonic()
                answer, what = run_case(port, kind, seed)
                if what == NO_ANSWER:  # so it looks, too, if this machine slept
                    answer, what = run_case(port, kind, seed)
                left_s -= min(time.monotonic() - began, COUNTED_S)
                written = log.read_bytes()[size:].decode(errors="replace").strip()
                if process.poll() is not None:
                    what = f"the server ended with status {process.returncode}"
                if what or written:
                    num_findings += 1
                    print(f"{kind} --seed {seed}: {what or 'the server wrote'}\n{written[-3000:]}\n", flush=True)
                answers[kind][answer] = answers[kind].get(answer, 0) + 1
                num_cases += 1
            if process.poll() is not None or left_s < 0:
                break
        code = _ask(port, request("/health", b"", "x", method="GET"), ANSWER_S)[0] if process.poll() is None else None
        for kind, found in answers.items():
            print(f"{kind}: {', '.join(f'{times} x {answer}' for answer, times in sorted(found.items()))}")
        print(f"{num_cases} cases, {num_findings} findings; /health says {code}")
    return int(num_findings > 0 or code != http.client.OK)


if __name__ == "__main__":
    sys.exit(main())
