"""``POST /v1/audio/speech``: text to sound, sent while it is made.

``GET /v1/audio/models`` and ``/v1/audio/voices`` say what can speak, as Open WebUI asks of servers that are not
OpenAI's. Source of the forms: OpenAI's API reference, "Audio"; Open WebUI's ``routers/audio.py``. Names of OpenAI's
voices stand for the model's own voice; others are files of the server's folder of voices. ``instructions`` are taken
and have no effect.
"""

import base64
import io
import json
import os
import re
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import soundfile
from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field

from speechnar.audio.blocks import Samples
from speechnar.audio.io import to_int16
from speechnar.audio.source import EncodedAudio
from speechnar.hub import list_models
from speechnar.serve.faults import RequestError, as_request_error, busy
from speechnar.serve.guard import note_work
from speechnar.serve.service import OPENAI_TTS, Service, unless_left
from speechnar.tts.options import SPEED_RANGE
from speechnar.tts.synthesizer import Synthesizer

OPENAI_VOICES = (
    "alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse",
)  # fmt: skip
SpeechFormat = Literal["mp3", "opus", "flac", "wav", "pcm"]
_MEDIA_TYPES = {
    "mp3": "audio/mpeg", "opus": "audio/ogg", "flac": "audio/flac", "wav": "audio/wav", "pcm": "audio/pcm",
}  # fmt: skip
_SOUNDFILE = {"mp3": ("MP3", None), "opus": ("OGG", "OPUS"), "flac": ("FLAC", "PCM_16")}
_VOICE_NAME = re.compile(r"[\w-][\w .-]*")
_UNKNOWN_BYTES = 0xFFFFFFFF


class SpeechRequest(BaseModel):
    """What is to be spoken, and how."""

    model: str
    input: str = Field(min_length=1)
    voice: str = OPENAI_VOICES[0]
    response_format: SpeechFormat = "mp3"
    speed: float = Field(1.0, ge=SPEED_RANGE[0], le=SPEED_RANGE[1])
    stream_format: Literal["audio", "sse"] = "audio"
    instructions: str | None = None
    steps: int | None = None
    seed: int = 0


def build_router(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.post("/v1/audio/speech")
    async def speech(request: Request, wanted: SpeechRequest) -> Response:
        limit = service.options.max_text_chars
        if len(wanted.input) > limit:
            raise RequestError(400, f"input may have {limit} characters, got {len(wanted.input)}", param="input")
        service.synthesizers.find(wanted.model)
        voice = _find_voice(service.options.voices, wanted.voice)
        speaking = _Speaking(service, wanted, voice)
        try:
            await unless_left(request, speaking.start())  # what is wrong is still told by a status
        except BaseException:
            speaking.close()
            raise
        note_work(request.scope, chars=len(wanted.input), model=wanted.model)
        return _SpokenResponse(speaking, wanted)

    @router.get("/v1/audio/models")
    async def models() -> dict[str, Any]:
        speaking = {info.name for info in await run_in_threadpool(list_models) if "tts" in info.tasks}
        names = [*OPENAI_TTS, *sorted(speaking | {service.options.tts_model})]
        return {"models": [{"id": name} for name in names]}

    @router.get("/v1/audio/voices")
    async def voices() -> dict[str, Any]:
        names = [*OPENAI_VOICES, *await run_in_threadpool(_list_voices, service.options.voices)]
        return {"voices": [{"id": name, "name": name} for name in names]}

    return router


def _list_voices(folder: Path | None) -> list[str]:
    paths = folder.glob("*.wav") if folder is not None else ()
    return sorted({path.stem for path in paths if _VOICE_NAME.fullmatch(path.stem)} - {*OPENAI_VOICES})


def _find_voice(folder: Path | None, name: str) -> Path | None:
    """Return the recording of a voice; None is the model's own."""
    if name in OPENAI_VOICES:
        return None
    path = folder / f"{name}.wav" if folder is not None and _VOICE_NAME.fullmatch(name) else None
    if path is None or not os.path.isfile(path):  # noqa: PTH113  # unlike Path's, false of a name that no file can have
        raise RequestError(400, f"there is no voice {name[:60]!r} here", param="voice", code="voice_not_found")
    return path


class _Speaking:
    """A text that is being spoken, one at a time; to be closed, whatever comes."""

    def __init__(self, service: Service, wanted: SpeechRequest, voice: Path | None) -> None:
        self._service = service
        self._wanted = wanted
        self._voice = voice
        self._stack = ExitStack()
        self._parts: Iterator[Samples] = iter(())
        self.first: Samples | None = None
        self.sample_rate = 0
        self.num_samples = 0

    async def start(self) -> None:
        """Wait for the turn, and speak until the first sound is there.

        Raises:
            RequestError: too many texts wait already.
            SpeechnarError: as of `speechnar.Synthesizer.stream`.
        """
        service = self._service
        if service.num_waiting_texts >= service.options.max_waiting_texts:
            raise busy(f"{service.num_waiting_texts} texts wait to be spoken; try again in a while")
        service.num_waiting_texts += 1
        try:
            await service.speaking.acquire()
        finally:
            service.num_waiting_texts -= 1
        self._stack.callback(service.speaking.release)
        held = service.synthesizers.use(self._wanted.model)
        synthesizer = await run_in_threadpool(self._stack.enter_context, held)
        self.sample_rate = synthesizer.sample_rate
        self._parts = await run_in_threadpool(self._speak, synthesizer)
        self.first = await self._next()

    def _speak(self, synthesizer: Synthesizer) -> Iterator[Samples]:
        wanted, voice_text = self._wanted, None
        if self._voice is not None and (told := self._voice.with_suffix(".txt")).is_file():
            voice_text = told.read_text(encoding="utf-8").strip()
        return synthesizer.stream(
            wanted.input,
            # Under its name: where the folder lies is nobody's business.
            voice=None if self._voice is None else EncodedAudio(self._voice.stem, str(self._voice)),
            voice_text=voice_text,
            steps=wanted.steps,
            seed=wanted.seed,
            speed=wanted.speed,
        )

    async def parts(self) -> AsyncIterator[Samples]:
        """Yield what is spoken, piece by piece."""
        part = self.first
        while part is not None:
            self.num_samples += len(part)
            yield part
            part = await self._next()
        self._service.metrics.audio_seconds.labels("speech").inc(self.num_samples / self.sample_rate)

    async def _next(self) -> Samples | None:
        return await run_in_threadpool(next, self._parts, None)

    def close(self) -> None:
        """Let the next one speak."""
        self._stack.close()


class _SpokenResponse(StreamingResponse):
    """Sound to a client; the next text is spoken when it has been sent, or nobody takes it any more."""

    def __init__(self, speaking: _Speaking, wanted: SpeechRequest) -> None:
        self._speaking = speaking
        encoder = _build_encoder(wanted.response_format, speaking.sample_rate)
        if wanted.stream_format == "sse":
            super().__init__(self._events(encoder, len(wanted.input)), media_type="text/event-stream")
        else:
            super().__init__(self._bytes(encoder), media_type=_MEDIA_TYPES[wanted.response_format])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._speaking.close()

    async def _bytes(self, encoder: "_Encoder") -> AsyncIterator[bytes]:
        async for part in self._speaking.parts():
            if data := encoder.push(part):
                yield data
        if data := encoder.finish():
            yield data

    async def _events(self, encoder: "_Encoder", num_chars: int) -> AsyncIterator[str]:
        try:
            async for data in self._bytes(encoder):
                yield _event({"type": "speech.audio.delta", "audio": base64.b64encode(data).decode()})
        except Exception as error:  # the status has been sent; what is wrong is told as an event
            yield _event({"type": "error", "error": as_request_error(error).body()})
            return
        usage = {"input_tokens": num_chars, "output_tokens": 0, "total_tokens": num_chars}
        yield _event({"type": "speech.audio.done", "usage": usage})


def _event(values: dict[str, Any]) -> str:
    return f"data: {json.dumps(values)}\n\n"


# From samples to files that grow.


class _Encoder:
    """Raw PCM: 16 bits, little endian, mono."""

    def push(self, samples: Samples) -> bytes:
        """Return the bytes of samples (S,) that are certain."""
        return to_int16(samples).astype("<i2").tobytes()

    def finish(self) -> bytes:
        """Return the remaining bytes."""
        return b""


class _WavEncoder(_Encoder):
    """PCM behind a header that says, as nobody knows it yet, that the sound has no end."""

    def __init__(self, sample_rate: int) -> None:
        fmt = struct.pack("<HHIIHH", 1, 1, sample_rate, 2 * sample_rate, 2, 16)
        riff, data = (struct.pack("<I", _UNKNOWN_BYTES) for _ in range(2))
        self._header = b"RIFF" + riff + b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + data

    def push(self, samples: Samples) -> bytes:
        header, self._header = self._header, b""
        return header + super().push(samples)


class _FileEncoder(_Encoder):
    """What libsndfile writes.

    MP3 and Ogg are sent as they grow; what libsndfile goes back to at the end, the length, is not needed to play them.
    FLAC is sent as a whole, since decoders take its length at its word.
    """

    def __init__(self, sample_rate: int, kind: str, subtype: str | None) -> None:
        self._buffer = io.BytesIO()
        self._num_sent = 0
        self._grows = kind != "FLAC"
        self._file = soundfile.SoundFile(
            self._buffer, "w", samplerate=sample_rate, channels=1, format=kind, subtype=subtype
        )

    def push(self, samples: Samples) -> bytes:
        self._file.write(to_int16(samples))
        return self._rest() if self._grows else b""

    def finish(self) -> bytes:
        self._file.close()
        return self._rest()

    def _rest(self) -> bytes:
        data = self._buffer.getbuffer()[self._num_sent :].tobytes()
        self._num_sent += len(data)
        return data


def _build_encoder(name: SpeechFormat, sample_rate: int) -> _Encoder:
    if name == "pcm":
        return _Encoder()
    if name == "wav":
        return _WavEncoder(sample_rate)
    kind, subtype = _SOUNDFILE[name]
    return _FileEncoder(sample_rate, kind, subtype)
