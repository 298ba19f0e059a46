"""What the routes of a server share: its options, models, queues and counters."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from fastapi import Request

from speechnar.asr.transcriber import Transcriber
from speechnar.audio.source import EncodedAudio
from speechnar.hub import list_models
from speechnar.serve.faults import RequestError, busy
from speechnar.serve.lanes import Job, TranscriptionLane, Wish
from speechnar.serve.metrics import Metrics
from speechnar.serve.options import ServeOptions
from speechnar.serve.pool import ModelPool
from speechnar.serve.uploads import HELD_S, HeldAudio
from speechnar.text.transcript import Transcript
from speechnar.tts.synthesizer import Synthesizer

OPENAI_ASR = ("whisper-1", "gpt-4o-transcribe", "gpt-4o-mini-transcribe")
OPENAI_TTS = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")
"""Names of OpenAI's models, which clients send unless told otherwise: they stand for the server's own."""
DISCONNECT_POLL_S = 0.5
_CLIENT_LEFT = 499
"""Status of a request whose client has left, as nginx has it; nobody reads it."""

Result = TypeVar("Result")


class Service:
    """All that a server holds."""

    def __init__(self, options: ServeOptions) -> None:
        self.options = options
        self.metrics = Metrics()
        known = {name: name for name in {info.name for info in list_models()} | options.models}
        idle_s, max_bytes = options.model_idle_s, options.max_model_bytes
        self.transcribers: ModelPool[Transcriber] = ModelPool(
            lambda name: Transcriber.load(name, device=options.device),
            {**known, **dict.fromkeys(OPENAI_ASR, options.asr_model)},
            idle_s=idle_s,
            max_bytes=max_bytes,
        )
        self.synthesizers: ModelPool[Synthesizer] = ModelPool(
            lambda name: Synthesizer.load(name, device=options.device, recognizer=options.asr_model),
            {**known, **dict.fromkeys(OPENAI_TTS, options.tts_model)},
            idle_s=idle_s,
            max_bytes=max_bytes,
        )
        queue = {"max_queue_s": options.max_queue_s, "batch_s": options.batch_s}
        # Short recordings do not wait behind long ones.
        self.short = TranscriptionLane("short", self.transcribers, **queue)
        self.long = TranscriptionLane("long", self.transcribers, **queue)
        self.speaking = asyncio.Semaphore(1)
        self.num_waiting_texts = 0
        self.num_sessions = 0
        watch = self.metrics.watch
        watch("speechnar_sessions", "Clients that are served piece by piece.", lambda: self.num_sessions)
        watch("speechnar_queued_seconds", "Audio that waits.", lambda: self.short.queued_s + self.long.queued_s)
        watch("speechnar_model_bytes", "Of models in memory.", lambda: sum(pool.num_bytes for pool in self.pools))

    @property
    def pools(self) -> tuple[ModelPool[Transcriber], ModelPool[Synthesizer]]:
        """All models."""
        return self.transcribers, self.synthesizers

    async def transcribe(
        self, request: Request, wish: Wish, recording: HeldAudio | EncodedAudio, seconds: float
    ) -> Transcript:
        """Return the transcript when its turn has come.

        Raises:
            RequestError: too much waits already, the model is not here, or the client has left meanwhile.
            SpeechnarError: as of `speechnar.Transcriber.transcribe`.
        """
        self.transcribers.find(wish.model)
        job = Job(wish, recording, seconds)
        (self.short if seconds <= HELD_S else self.long).put(job)
        try:
            with self.metrics.latency.labels("transcribe").time():
                transcript = await unless_left(request, asyncio.wrap_future(job.future))
        finally:
            job.left.set()
        self.metrics.audio_seconds.labels("transcribe").inc(seconds)
        return transcript

    @contextmanager
    def session(self) -> Iterator[None]:
        """Count a client that is served piece by piece.

        Raises:
            RequestError: there are too many already (429).
        """
        if self.num_sessions >= self.options.max_sessions:
            raise busy(f"{self.num_sessions} sessions are open; try again in a while")
        self.num_sessions += 1
        try:
            yield
        finally:
            self.num_sessions -= 1

    async def drop_idle(self) -> None:
        """Drop models that nobody asks for, from time to time, until cancelled."""
        while True:
            await asyncio.sleep(min(self.options.model_idle_s / 4, 30.0))
            for pool in self.pools:
                pool.drop_idle()

    def refuse_waiting(self) -> None:
        """Tell those whose recordings wait to come back."""
        for lane in (self.short, self.long):
            lane.refuse_waiting()

    def close(self) -> None:
        """Finish what waits."""
        for lane in (self.short, self.long):
            lane.close()


async def unless_left(request: Request, work: Awaitable[Result]) -> Result:
    """Wait for ``work``, and cancel it if the client leaves before.

    Raises:
        RequestError: it has left.
    """
    task = asyncio.ensure_future(work)
    try:
        while not (await asyncio.wait({task}, timeout=DISCONNECT_POLL_S))[0]:
            if await request.is_disconnected():
                raise RequestError(_CLIENT_LEFT, "the client has left")
        return await task
    finally:
        task.cancel()
