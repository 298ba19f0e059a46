"""Work that waits its turn: bounded queues, a thread each, and requests of several clients decoded together."""

import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

from speechnar.asr.options import DecodeOptions
from speechnar.asr.transcriber import Transcriber
from speechnar.audio.blocks import Samples
from speechnar.audio.source import Recording
from speechnar.errors import SpeechnarError
from speechnar.serve.faults import busy
from speechnar.serve.pool import ModelPool
from speechnar.text.transcript import Transcript


@dataclass(frozen=True)
class Wish:
    """What is to be made of a recording; those with the same can be decoded together."""

    model: str
    to: str | None
    language: str
    word_timestamps: bool
    options: DecodeOptions


@dataclass
class Job:
    """A recording on its way to a transcript."""

    wish: Wish
    recording: Recording
    seconds: float
    future: "Future[Transcript]" = field(default_factory=Future)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when nobody waits for it any more."""

    @property
    def name(self) -> str | None:
        """What messages call the recording."""
        return self.recording.name

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        """Yield the recording, as long as somebody waits for it.

        Raises:
            SpeechnarError: nobody does.
        """
        for block in self.recording.blocks(sample_rate):
            if self.left.is_set():
                raise SpeechnarError("nobody waits for this transcript any more")
            yield block


class TranscriptionLane:
    """A queue of jobs and the thread that does them.

    Args:
        pool: the models.
        max_queue_s: seconds of audio that may wait.
        batch_s: seconds of audio of equal wishes that are done together; 0: one job at a time.
    """

    def __init__(self, name: str, pool: ModelPool[Transcriber], *, max_queue_s: float, batch_s: float) -> None:
        self._pool = pool
        self._max_queue_s = max_queue_s
        self._batch_s = batch_s
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name=f"speechnar-{name}", daemon=True)
        self._thread.start()

    @property
    def queued_s(self) -> float:
        """Seconds of audio that wait."""
        with self._changed:
            return sum(job.seconds for job in self._jobs)

    def put(self, job: Job) -> None:
        """Let ``job`` wait its turn.

        Raises:
            RequestError: too much waits already (429), or the server stops (503).
        """
        with self._changed:
            if self._is_closed:
                raise busy("the server stops", status=503)
            waiting_s = sum(waiting.seconds for waiting in self._jobs)
            if self._jobs and waiting_s + job.seconds > self._max_queue_s:
                raise busy(f"{waiting_s:.0f} s of audio wait to be transcribed; try again in a while")
            self._jobs.append(job)
            self._changed.notify()

    def refuse_waiting(self) -> None:
        """Tell those who wait to come back, and take nothing more; what is under way is finished."""
        with self._changed:
            self._is_closed = True
            waiting = [job for job in self._jobs if job.future.set_running_or_notify_cancel()]
            self._jobs.clear()
            self._changed.notify()
        for job in waiting:
            job.future.set_exception(busy("the server stops", status=503))

    def close(self) -> None:
        """Do what waits, take nothing more, and end."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            try:
                self._do(batch)
            except Exception as error:  # whatever it is, those who wait must hear of it, and the next be served
                for job in batch:
                    if not job.future.done():
                        job.future.set_exception(error)

    def _take(self) -> list[Job]:
        """Return the oldest job and those like it; nothing when the lane is closed and empty."""
        with self._changed:
            while True:
                while self._jobs and not self._jobs[0].future.set_running_or_notify_cancel():
                    self._jobs.popleft()
                if self._jobs:
                    break
                if self._is_closed:
                    return []
                self._changed.wait()
            batch = [self._jobs.popleft()]
            seconds = batch[0].seconds
            for job in [*self._jobs]:
                if job.wish == batch[0].wish and seconds + job.seconds <= self._batch_s:
                    self._jobs.remove(job)
                    if job.future.set_running_or_notify_cancel():
                        batch.append(job)
                        seconds += job.seconds
            return batch

    def _do(self, batch: list[Job]) -> None:
        wish = batch[0].wish
        with self._pool.use(wish.model) as transcriber:
            found = transcriber.transcribe_many(
                batch,
                to=wish.to,
                language=wish.language,
                word_timestamps=wish.word_timestamps,
                options=wish.options,
            )
            for job, result in zip(batch, found, strict=True):
                if isinstance(result, SpeechnarError):
                    job.future.set_exception(result)
                else:
                    job.future.set_result(result)
