"""What a server is sent, for `tests.fuzz`: forms with recordings, bodies of JSON, and the events of a session.

The application runs without a socket. Whatever comes, what it answers must be an answer: no status of 500 or above, no
event that the wire could not carry.
"""

import asyncio
import base64
import io
import json
import logging
import tempfile
import wave
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from speechnar.serve.app import create_app
from speechnar.serve.options import ServeOptions
from tests.unit.tiny import save_tiny_model, save_tiny_tts

BOUNDARY = "boundary"
ROUTES = {
    "transcriptions": ("/v1/audio/transcriptions", f"multipart/form-data; boundary={BOUNDARY}"),
    "translations": ("/v1/audio/translations", f"multipart/form-data; boundary={BOUNDARY}"),
    "speech": ("/v1/audio/speech", "application/json"),
}
"""Paths, and what is sent there, by the names of the files that hold it; any other name is that of a session."""
LINGERS_S = 0.02
"""What the client of a session waits for captions before it leaves."""


def forms(recording: bytes) -> list[dict[str, bytes]]:
    """Return files that hold forms with a recording."""
    words = {"response_format": "verbose_json", "timestamp_granularities[]": "word"}
    return [
        {"transcriptions": _form(recording)},
        {"transcriptions": _form(recording, language="en", hotwords="cat, dog", stream="true")},
        {"transcriptions": _form(recording, **words)},
        {"translations": _form(recording, response_format="srt")},
    ]


def _form(recording: bytes, **fields: str) -> bytes:
    named = {"model": "whisper-1", **fields}
    parts = [f'Content-Disposition: form-data; name="{k}"\r\n\r\n{v}'.encode() for k, v in named.items()]
    head = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\n'
    mark = f"--{BOUNDARY}".encode()
    return b"".join(mark + b"\r\n" + part + b"\r\n" for part in (*parts, head + recording)) + mark + b"--\r\n"


def bodies() -> list[dict[str, bytes]]:
    """Return files that hold texts to be spoken, and how."""
    wish = {"model": "tts-1", "input": "the cat", "voice": "alloy", "steps": 1, "response_format": "wav"}
    more = ({}, {"speed": 1.5, "seed": 3, "response_format": "pcm"}, {"stream_format": "sse"})
    return [{"speech": json.dumps({**wish, **changes}).encode()} for changes in more]


def sessions(samples: bytes) -> list[dict[str, bytes]]:
    """Return files that hold the events of sessions, one a line, with ``samples`` of 16 bits."""
    return [{"session": _session(samples, turn_detection)} for turn_detection in (None, {"type": "server_vad"})]


def _session(samples: bytes, turn_detection: dict[str, str] | None) -> bytes:
    heard = {"model": "whisper-1", "language": "en"}
    audio = {"format": {"type": "audio/pcm", "rate": 16000}, "transcription": heard, "turn_detection": turn_detection}
    append = {"type": "input_audio_buffer.append", "audio": base64.b64encode(samples).decode()}
    older = {"input_audio_format": "pcm16", "input_audio_transcription": heard}
    events = [
        {"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio}}},
        append,
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.clear"},
        {"type": "transcription_session.update", "session": older},
        append,
        {"type": "input_audio_buffer.commit"},
    ]
    return "\n".join(map(json.dumps, events)).encode()


def started(files: list[dict[str, bytes]]) -> list[dict[str, bytes]]:
    """Return ``files``, once there is a server to send them to."""
    _server()
    return files


@cache
def _server() -> tuple[asyncio.AbstractEventLoop, Any]:
    """Return a loop and an application with models in memory; their files are gone."""
    loop = asyncio.new_event_loop()
    with tempfile.TemporaryDirectory(prefix="fuzz-models-") as root:
        asr, tts = str(save_tiny_model(Path(root) / "asr")), str(save_tiny_tts(Path(root) / "tts"))
        app = create_app(ServeOptions(asr_model=asr, st_model=asr, tts_model=tts, device="cpu"))
        # One of each: what is imported and read with the first request is there.
        silence = bytes(2 * 16000)
        for files in (*forms(_wav(silence)), *bodies(), *sessions(silence)):
            for name, content in files.items():
                loop.run_until_complete(_ask(app, name, content))
    return loop, app


def _wav(samples: bytes) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", None))
        file.writeframes(samples)
    return buffer.getvalue()


def send(folder: Path) -> None:
    """Send what the one file of ``folder`` holds.

    Raises:
        RuntimeError: the server failed; the cause is its own error.
    """
    loop, app = _server()
    (path,) = folder.iterdir()
    with _temporary_files(folder.parent), _failures() as failures:
        status = loop.run_until_complete(_ask(app, path.name, path.read_bytes()))
    if failures or status >= 500:
        raise RuntimeError(f"the server failed with status {status}") from next(iter(failures), None)


@contextmanager
def _temporary_files(folder: Path) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextmanager
def _failures() -> Iterator[list[BaseException]]:
    """Yield what will hold the errors that the server keeps for its log."""
    found: list[BaseException] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.exc_info[1]) if record.exc_info else None  # type: ignore
    logger = logging.getLogger("speechnar.serve")
    logger.addHandler(handler)
    try:
        yield found
    finally:
        logger.removeHandler(handler)


async def _ask(app: Any, name: str, content: bytes) -> int:
    """Send a request, or the events of a session, and return the status, of a session 0."""
    scope: dict[str, Any] = {"asgi": {"version": "3.0"}, "http_version": "1.1", "root_path": "", "query_string": b""}
    scope |= {"client": ("127.0.0.1", 9), "server": ("127.0.0.1", 80), "headers": [(b"host", b"localhost")]}
    if name in ROUTES:
        path, kind = ROUTES[name]
        scope |= {"type": "http", "method": "POST", "scheme": "http", "path": path, "raw_path": path.encode()}
        scope["headers"] += [(b"content-type", kind.encode()), (b"content-length", str(len(content)).encode())]
        coming = [{"type": "http.request", "body": content, "more_body": False}]
    else:
        scope |= {"type": "websocket", "scheme": "ws", "path": "/v1/realtime", "subprotocols": []}
        lines = content.decode(errors="replace").split("\n")
        coming = [{"type": "websocket.connect"}, *({"type": "websocket.receive", "text": line} for line in lines)]
    status = 0

    async def receive() -> MutableMapping[str, Any]:
        if coming:
            return coming.pop(0)
        if name in ROUTES:
            await asyncio.Event().wait()  # the client waits for the answer
        await asyncio.sleep(LINGERS_S)
        return {"type": "websocket.disconnect", "code": 1000}

    async def take(message: MutableMapping[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        message.get("text", "").encode()

    await app(scope, receive, take)
    return status
