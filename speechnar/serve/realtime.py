"""``WS /v1/realtime``: live captions in OpenAI's events of realtime transcription.

Both forms of a session are taken, that of ``session.update`` and the older ``transcription_session.update``. With voice
activity detection by the server (the default) an utterance is an item; without, what was appended until ``commit``.
Since the text of an open utterance may change in any word, ``delta`` comes once an utterance is finished; what is known
of it before is told by ``speechnar.caption``, an extension: its stable and unstable parts, and how many words were
taken back. Source: OpenAI's API reference, "Realtime".
"""

import asyncio
import base64
import binascii
import json
import uuid
from contextlib import ExitStack
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import numpy as np
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool

from speechnar.asr.options import AUTO
from speechnar.asr.transcriber import Transcriber
from speechnar.audio.blocks import Samples
from speechnar.captions import CaptionStream, CaptionUpdate
from speechnar.errors import SpeechnarError
from speechnar.serve.faults import RequestError, as_request_error
from speechnar.serve.guard import note_work
from speechnar.serve.service import Service
from speechnar.text.languages import to_iso3

PROTOCOL = "realtime"
DEFAULT_RATE = 24000
RATES = (8000, 16000, 24000, 44100, 48000)
MAX_BEHIND_S = 60.0
"""Audio that a client may send ahead of what is recognised."""
MAX_COMMIT_S = 30.0
"""Of a turn that the client ends itself."""
_TRY_AGAIN, _GOING_AWAY, _REFUSED, _FAILED = 1013, 1001, 1008, 1011
"""Close codes of a WebSocket."""


@dataclass(frozen=True)
class _Settings:
    """What a session was told."""

    model: str
    language: str = AUTO
    sample_rate: int = DEFAULT_RATE
    server_vad: bool = True

    def updated(self, session: dict[str, Any]) -> "_Settings":
        """Return these with what ``session`` changes.

        Raises:
            RequestError: a value cannot be honoured.
            ConfigError: there is no such language.
        """
        audio = _object(_object(session, "audio"), "input")
        old = session.get("input_audio_format")
        given = audio.get("format", old)
        told = _object({"told": given if isinstance(given, dict) else {"type": given or "audio/pcm"}}, "told")
        kind, rate = told.get("type"), told.get("rate", DEFAULT_RATE if given is not None else self.sample_rate)
        if kind not in ("audio/pcm", "pcm16") or rate not in RATES:
            raise RequestError(400, f"audio must be audio/pcm at a rate of {RATES}, got {told!r}", param="format")
        name = "transcription" if "transcription" in audio else "input_audio_transcription"
        transcription = _object(audio if name in audio else session, name)
        language = _text(transcription, "language") or self.language
        if language != AUTO:
            to_iso3(language)
        settings = replace(self, sample_rate=rate, model=_text(transcription, "model") or self.model, language=language)
        for place in (audio, session):
            if "turn_detection" in place:
                settings = replace(settings, server_vad=place["turn_detection"] is not None)
                break
        return settings

    def to_dict(self) -> dict[str, Any]:
        """Return the session as events tell it."""
        return {
            "type": "transcription",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": self.sample_rate},
                    "transcription": {
                        "model": self.model,
                        "language": None if self.language == AUTO else self.language,
                    },
                    "turn_detection": {"type": "server_vad"} if self.server_vad else None,
                }
            },
        }


def build_router(service: Service) -> APIRouter:
    """Return the route."""
    router = APIRouter()

    @router.websocket("/v1/realtime")
    async def realtime(socket: WebSocket) -> None:
        offered = socket.headers.get("sec-websocket-protocol", "")
        await socket.accept(subprotocol=PROTOCOL if PROTOCOL in map(str.strip, offered.split(",")) else None)
        with ExitStack() as stack:
            try:
                stack.enter_context(service.session())
            except RequestError as error:
                await socket.close(_TRY_AGAIN, str(error))
                return
            model = socket.query_params.get("model") or service.options.asr_model
            session = _Session(service, socket, _Settings(model), stack)
            try:
                await session.run()
            except (WebSocketDisconnect, RuntimeError) as error:  # a socket that is closed while something is sent
                if isinstance(error, RuntimeError) and "close" not in str(error):
                    raise
            finally:
                note_work(socket.scope, seconds=round(session.seconds, 2))
                service.metrics.audio_seconds.labels("captions").inc(session.seconds)

    return router


class _Session:
    """One client's audio and what is told of it."""

    def __init__(self, service: Service, socket: WebSocket, settings: _Settings, stack: ExitStack) -> None:
        self._service = service
        self._socket = socket
        self._settings = settings
        self._stack = stack
        self._id = f"sess_{uuid.uuid4().hex}"
        self._transcriber: Transcriber | None = None
        self._captions: CaptionStream | None = None
        self._pending: list[Samples] = []
        """Audio that nobody has looked at."""
        self._item: str | None = None
        self._last_item: str | None = None
        self._ends_here = False
        """Whether the open utterance is over, whatever follows."""
        self._arrived = asyncio.Event()
        self.seconds = 0.0

    async def run(self) -> None:
        """Take events until the client leaves or falls silent."""
        await self._send("session.created", session={"id": self._id, **self._settings.to_dict()})
        working = asyncio.create_task(self._work())
        try:
            while True:
                reading = asyncio.create_task(self._socket.receive())
                await asyncio.wait({reading, working}, timeout=self._service.options.idle_s,
                                   return_when=asyncio.FIRST_COMPLETED)  # fmt: skip
                if working.done():
                    reading.cancel()
                    error = as_request_error(_failure(working))
                    await self._send("error", error=error.body())
                    await self._socket.close(_FAILED if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR else _REFUSED)
                    return
                if not reading.done():
                    reading.cancel()
                    await self._socket.close(_GOING_AWAY, "nothing came for a while")
                    return
                message = reading.result()
                if message["type"] == "websocket.disconnect":
                    return
                try:
                    await self._take(message.get("text"))
                except (RequestError, SpeechnarError) as error:
                    await self._send("error", error=as_request_error(error).body())
        finally:
            working.cancel()

    # What the client says.

    async def _take(self, text: str | None) -> None:
        try:
            event = json.loads(text or "")
        except (ValueError, RecursionError):
            raise RequestError(400, "an event must be a JSON object in a text message") from None
        kind = event.get("type") if isinstance(event, dict) else None
        if kind in ("session.update", "transcription_session.update"):
            await self._update(_object(event, "session"))
        elif kind == "input_audio_buffer.append":
            self._append(event.get("audio"))
        elif kind == "input_audio_buffer.clear":
            self._pending.clear()
            self._captions = None
            await self._send("input_audio_buffer.cleared")
        elif kind == "input_audio_buffer.commit":
            await self._commit()
        else:
            raise RequestError(400, f"there is no event {str(kind)[:60]!r} here", param="type")

    async def _update(self, session: dict[str, Any]) -> None:
        settings = self._settings.updated(session)
        self._service.transcribers.find(settings.model)
        if self._transcriber is not None and settings != self._settings:
            raise RequestError(400, "a session cannot be changed once audio has come; open another")
        self._settings = settings
        await self._send("session.updated", session={"id": self._id, **settings.to_dict()})

    def _append(self, audio: Any) -> None:
        try:
            data = base64.b64decode(audio, validate=True)
        except (TypeError, ValueError, binascii.Error):
            raise RequestError(400, "audio must be base64", param="audio") from None
        if len(data) % 2:
            raise RequestError(400, "audio must be whole samples of 16 bits", param="audio")
        samples = np.frombuffer(data, "<i2").astype(np.float32) / 32768.0
        limit_s = MAX_BEHIND_S if self._settings.server_vad else MAX_COMMIT_S
        waiting = sum(map(len, self._pending)) + len(samples)
        if waiting > limit_s * self._settings.sample_rate:
            raise RequestError(429, f"{limit_s:g} s wait already; this audio is left out", code="buffer_full")
        self.seconds += len(samples) / self._settings.sample_rate
        self._pending.append(samples)
        if self._settings.server_vad:
            self._arrived.set()

    async def _commit(self) -> None:
        if self._settings.server_vad:
            self._ends_here = True
            self._arrived.set()
            return
        if not self._pending:
            raise RequestError(
                400, "nothing was appended that could be committed", code="input_audio_buffer_commit_empty"
            )
        samples = np.concatenate(self._pending)
        self._pending.clear()
        await self._open_item()
        transcriber = await self._load()
        transcript = await run_in_threadpool(
            transcriber.transcribe,
            samples,
            sample_rate=self._settings.sample_rate,
            language=self._settings.language,
        )
        await self._close_item(transcript.text, len(samples) / self._settings.sample_rate)

    # What is recognised.

    async def _work(self) -> None:
        """Caption what has come, all of it at once, while more comes."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            pending, ends_here = self._pending[:], self._ends_here
            self._pending.clear()
            self._ends_here = False
            updates: list[CaptionUpdate] = []
            if pending:
                captions = await self._captioning()
                updates += await run_in_threadpool(captions.push, np.concatenate(pending))
            if ends_here and self._captions is not None:
                updates += await run_in_threadpool(self._captions.finish)
                self._captions = None
            for update in updates:
                await self._show(update)

    async def _captioning(self) -> CaptionStream:
        if self._captions is None:
            transcriber = await self._load()
            settings = self._settings
            stream = transcriber.stream(sample_rate=settings.sample_rate, language=settings.language)
            self._captions = CaptionStream(stream)
        return self._captions

    async def _show(self, update: CaptionUpdate) -> None:
        if self._item is None:
            await self._send("input_audio_buffer.speech_started", item_id=self._new_item())
        if update.is_final:
            await self._send("input_audio_buffer.speech_stopped", item_id=self._item)
            await self._open_item()
            await self._close_item(update.text, None)
            return
        await self._send(
            "speechnar.caption",
            item_id=self._item,
            stable=update.stable,
            unstable=update.unstable,
            erased=update.erased,
        )

    async def _load(self) -> Transcriber:
        if self._transcriber is None:
            held = self._service.transcribers.use(self._settings.model)
            self._transcriber = await run_in_threadpool(self._stack.enter_context, held)
        return self._transcriber

    # What the client is told.

    def _new_item(self) -> str:
        self._item = f"item_{uuid.uuid4().hex[:24]}"
        return self._item

    async def _open_item(self) -> None:
        item = self._item or self._new_item()
        await self._send("input_audio_buffer.committed", item_id=item, previous_item_id=self._last_item)
        content = [{"type": "input_audio", "transcript": None}]
        shown = {"id": item, "type": "message", "role": "user", "status": "completed", "content": content}
        await self._send("conversation.item.added", item=shown, previous_item_id=self._last_item)

    async def _close_item(self, text: str, seconds: float | None) -> None:
        place = {"item_id": self._item, "content_index": 0}
        name = "conversation.item.input_audio_transcription"
        await self._send(f"{name}.delta", **place, delta=text)
        usage = {} if seconds is None else {"usage": {"type": "duration", "seconds": seconds}}
        await self._send(f"{name}.completed", **place, transcript=text, **usage)
        self._last_item, self._item = self._item, None

    async def _send(self, kind: str, **values: Any) -> None:
        event = {"type": kind, "event_id": f"event_{uuid.uuid4().hex[:24]}", **values}
        await self._socket.send_text(json.dumps(event, ensure_ascii=False))


def _failure(task: "asyncio.Task[None]") -> Exception:
    error = task.exception()
    return error if isinstance(error, Exception) else RuntimeError("captions ended")


def _object(values: dict[str, Any], name: str) -> dict[str, Any]:
    found = values.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise RequestError(400, f"{name} must be an object", param=name)
    return found


def _text(values: dict[str, Any], name: str) -> str | None:
    found = values.get(name)
    if found is not None and not isinstance(found, str):
        raise RequestError(400, f"{name} must be a string", param=name)
    try:
        (found or "").encode()
    except UnicodeEncodeError:  # JSON can spell half a pair of surrogates, which no answer could repeat
        raise RequestError(400, f"{name} must be Unicode", param=name) from None
    return found
