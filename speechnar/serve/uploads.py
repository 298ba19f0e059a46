"""Uploaded recordings: on disk while they wait, in memory where they are short, and measured before they queue."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import IO

import numpy as np
from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile

from speechnar.audio.blocks import Samples
from speechnar.audio.io import AudioStream, resample
from speechnar.audio.source import EncodedAudio
from speechnar.errors import AudioError
from speechnar.serve.faults import RequestError, tidy

HELD_S = 60.0
"""Recordings up to this long are decoded once and held; longer ones are read again while they are transcribed."""
HELD_RATE = 16000
MAX_FIELDS, MAX_FIELD_BYTES = 40, 1 << 16
_COPIED_BYTES = 1 << 20


@dataclass(frozen=True)
class HeldAudio:
    """A short recording as samples at `HELD_RATE`."""

    name: str
    samples: Samples

    def blocks(self, sample_rate: int) -> Iterator[Samples]:
        """Yield the recording at ``sample_rate``."""
        yield resample(self.samples, HELD_RATE, sample_rate)


@asynccontextmanager
async def uploaded_audio(
    request: Request, *, max_seconds: float
) -> AsyncIterator[tuple[FormData, HeldAudio | EncodedAudio, float]]:
    """Give the fields of a form, the recording under ``file``, and its seconds; at the end the recording goes.

    Raises:
        RequestError: it is no form with a file, or the recording cannot be read or is too long (400).
    """
    async with request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES) as form:
        upload = form.get("file")
        if not isinstance(upload, UploadFile):
            raise RequestError(400, "the form needs a recording under 'file'", param="file")
        name = tidy(upload.filename or "") or "the recording"
        with NamedTemporaryFile(prefix="speechnar-") as file:
            await run_in_threadpool(_copy, upload.file, file.file)
            recording, seconds = await run_in_threadpool(_measure, name, file.name, max_seconds)
            yield form, recording, seconds


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    source.seek(0)
    shutil.copyfileobj(source, target, _COPIED_BYTES)
    target.flush()


def _measure(name: str, path: str, max_seconds: float) -> tuple[HeldAudio | EncodedAudio, float]:
    held: list[Samples] = []
    num_samples = 0
    try:
        for block in AudioStream(path, target_rate=HELD_RATE, max_seconds=max_seconds, name=name):
            num_samples += len(block)
            if num_samples <= HELD_S * HELD_RATE:
                held.append(block)
    except AudioError as error:
        raise RequestError(400, str(error), param="file") from None
    seconds = num_samples / HELD_RATE
    return (HeldAudio(name, np.concatenate(held)) if seconds <= HELD_S else EncodedAudio(name, path)), seconds
