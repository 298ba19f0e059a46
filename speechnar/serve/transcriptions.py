"""``POST /v1/audio/transcriptions`` and ``/v1/audio/translations``, whole or as server-sent events.

``temperature``, ``prompt`` and ``chunking_strategy`` are taken and have no effect: decoding is the same every time, and
long recordings are always cut at pauses. Source of the forms: OpenAI's API reference, "Audio".
"""

import json
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.datastructures import FormData

from speechnar.asr.options import AUTO, DecodeOptions
from speechnar.audio.source import EncodedAudio
from speechnar.serve.faults import RequestError, as_request_error
from speechnar.serve.guard import note_work
from speechnar.serve.lanes import Wish
from speechnar.serve.service import OPENAI_ASR, Service
from speechnar.serve.uploads import HeldAudio, uploaded_audio
from speechnar.text.languages import name_of
from speechnar.text.transcript import Segment, Transcript

GRANULARITIES = "timestamp_granularities[]"
MAX_HOTWORDS = 1000
_TRUE = ("true", "1")


def build_router(service: Service) -> APIRouter:
    """Return the two routes."""
    router = APIRouter()

    @router.post("/v1/audio/transcriptions")
    async def transcriptions(request: Request) -> Response:
        return await _answer(service, request, to=None)

    @router.post("/v1/audio/translations")
    async def translations(request: Request) -> Response:
        return await _answer(service, request, to="eng")

    return router


async def _answer(service: Service, request: Request, *, to: str | None) -> Response:
    async with AsyncExitStack() as stack:
        opened = uploaded_audio(request, max_seconds=service.options.max_audio_s)
        form, recording, seconds = await stack.enter_async_context(opened)
        layout = _layout(form)
        wish = _wish(service, form, to)
        note_work(request.scope, seconds=round(seconds, 2), model=service.transcribers.find(wish.model))
        if _field(form, "stream").lower() in _TRUE:
            if to is not None or layout is not _LAYOUTS["json"]:
                raise RequestError(400, "only transcriptions as json are streamed", param="stream")
            events = _events(service, wish, recording, seconds)
            first = await anext(events)  # what is wrong with the request is still told by a status
            # The recording goes when the answer has been sent, or nobody takes it any more.
            return _EventResponse(first, events, stack.pop_all())
        transcript = await service.transcribe(request, wish, recording, seconds)
        return layout(transcript)


def _wish(service: Service, form: FormData, to: str | None) -> Wish:
    if "model" not in form:
        raise RequestError(400, "the form needs the name of a 'model'", param="model")
    model = _field(form, "model") or OPENAI_ASR[0]  # Open WebUI sends an empty one unless it is told another
    if to is not None and model in OPENAI_ASR:
        model = service.options.st_model or service.options.asr_model
    granularities = {str(value) for value in form.getlist(GRANULARITIES)} or {"segment"}
    if not granularities <= {"word", "segment"}:
        raise RequestError(400, f"{GRANULARITIES} must be word or segment", param=GRANULARITIES)
    hotwords = dict.fromkeys(word.strip() for word in _field(form, "hotwords").split(",") if word.strip())
    if len(hotwords) > MAX_HOTWORDS:
        raise RequestError(400, f"hotwords may be {MAX_HOTWORDS}, got {len(hotwords)}", param="hotwords")
    return Wish(
        model=model,
        to=to,
        language=_field(form, "language") or AUTO,
        word_timestamps="word" in granularities,
        options=DecodeOptions(hotwords=tuple(hotwords)),
    )


def _field(form: FormData, name: str) -> str:
    value = form.get(name, "")
    if not isinstance(value, str):
        raise RequestError(400, f"{name} must be text, not a file", param=name)
    return value.strip()


# Layouts of a transcript.


def _layout(form: FormData) -> Callable[[Transcript], Response]:
    name = _field(form, "response_format") or "json"
    if name not in _LAYOUTS:
        raise RequestError(400, f"response_format must be one of {', '.join(_LAYOUTS)}", param="response_format")
    return _LAYOUTS[name]


def _usage(seconds: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": round(seconds)}


def _json(transcript: Transcript) -> Response:
    return JSONResponse({"text": transcript.text, "usage": _usage(transcript.duration)})


def _verbose_json(transcript: Transcript) -> Response:
    """Return all that is known; of OpenAI's fields that have no meaning here, the values of "nothing" are given."""
    tidied = transcript.to_dict()
    words = [word for segment in tidied["segments"] for word in segment.get("words", ())]
    values = {
        "task": transcript.task,
        "language": name_of(transcript.language).lower(),
        "language_probability": transcript.language_probability,
        "duration": tidied["duration"],
        "text": transcript.text,
        "segments": [_segment(segment) for segment in tidied["segments"]],
        "usage": _usage(transcript.duration),
    }
    if words or any("words" in segment for segment in tidied["segments"]):
        values["words"] = words
    return JSONResponse(values)


def _segment(segment: dict[str, Any]) -> dict[str, Any]:
    text = segment["text"].encode()
    return {
        "id": segment["id"],
        "seek": round(100 * segment["start"]),
        "start": segment["start"],
        "end": segment["end"],
        "text": segment["text"],
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": segment["avg_logprob"] if segment["avg_logprob"] is not None else 0.0,
        "compression_ratio": len(text) / len(zlib.compress(text)) if text else 0.0,
        "no_speech_prob": 0.0,
    }


_LAYOUTS: dict[str, Callable[[Transcript], Response]] = {
    "json": _json,
    "text": lambda transcript: PlainTextResponse(transcript.to_txt()),
    "srt": lambda transcript: PlainTextResponse(transcript.to_srt()),
    "verbose_json": _verbose_json,
    "vtt": lambda transcript: PlainTextResponse(transcript.to_vtt()),
}


# Server-sent events.


async def _events(
    service: Service, wish: Wish, recording: HeldAudio | EncodedAudio, seconds: float
) -> AsyncIterator[dict[str, Any]]:
    """Yield the text of each utterance as it is recognised, and at the end all of it."""
    with ExitStack() as stack:
        stack.enter_context(service.session())
        transcriber = await run_in_threadpool(stack.enter_context, service.transcribers.use(wish.model))
        stream = transcriber.stream(language=wish.language, options=wish.options)
        blocks = recording.blocks(transcriber.sample_rate)
        texts: list[str] = []

        def push() -> tuple[Segment, ...] | None:
            block = next(blocks, None)
            return None if block is None else stream.push(block)

        while (segments := await run_in_threadpool(push)) is not None:
            for segment in segments:
                yield _delta(texts, segment.text)
        transcript = await run_in_threadpool(stream.finish)
        for segment in transcript.segments[len(texts) :]:
            yield _delta(texts, segment.text)
        service.metrics.audio_seconds.labels("transcribe").inc(seconds)
        yield {"type": "transcript.text.done", "text": transcript.text, "usage": _usage(seconds)}


def _delta(texts: list[str], text: str) -> dict[str, Any]:
    texts.append(text)
    return {"type": "transcript.text.delta", "delta": text if len(texts) == 1 else f" {text}"}


class _EventResponse(StreamingResponse):
    """Events to a client, and the end of what they are made of, whether it has stayed or not."""

    def __init__(self, first: dict[str, Any], rest: AsyncIterator[dict[str, Any]], stack: AsyncExitStack) -> None:
        self._stack = stack
        self._rest = rest
        super().__init__(self._lines(first), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._stack:
            try:
                await super().__call__(scope, receive, send)
            finally:
                await self._rest.aclose()  # type: ignore[attr-defined]  # a generator

    async def _lines(self, first: dict[str, Any]) -> AsyncIterator[str]:
        yield _line(first)
        try:
            async for event in self._rest:
                yield _line(event)
        except Exception as error:  # the status has been sent; what is wrong is told as an event
            yield _line({"type": "error", "error": as_request_error(error).body()})


def _line(event: dict[str, Any]) -> str:
    return f"data: {json.dumps(event, ensure_ascii=False)}\n\n"
