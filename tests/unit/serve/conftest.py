"""A server with the shipped models, and clips for it."""

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
import soundfile
import uvicorn

from speechnar import Synthesizer
from speechnar.serve import app as app_module
from speechnar.serve.options import ServeOptions
from speechnar.serve.service import Service


@dataclass(frozen=True)
class Running:
    port: int
    service: Service
    server: uvicorn.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=headers, timeout=60)


@contextmanager
def serving(**options) -> Iterator[Running]:
    app = app_module.create_app(ServeOptions(device="cpu", **options))
    config = uvicorn.Config(
        app, port=0, http=app_module.PatientProtocol, log_config=None, access_log=False, timeout_graceful_shutdown=20
    )
    server = app_module.PatientServer(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield Running(server.servers[0].sockets[0].getsockname()[1], app.state.service, server)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    with serving() as it:
        yield it


@pytest.fixture(scope="session")
def clip() -> bytes:
    """Somebody says a few digits: a WAV file."""
    speech = Synthesizer.load("fsdd-tts", device="cpu").synthesize("seven three nine", seed=1, steps=2)
    return as_wav(speech.samples, speech.sample_rate)


def as_wav(samples: np.ndarray, sample_rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, sample_rate, format="WAV", subtype="PCM_16")
    return file.getvalue()
