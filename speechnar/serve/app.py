"""The application: its routes, and the HTTP server around it."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import current_thread, main_thread
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from speechnar.errors import SpeechnarError
from speechnar.hub import list_models
from speechnar.serve import realtime, speech, transcriptions
from speechnar.serve.faults import RequestError, as_request_error, tidy
from speechnar.serve.guard import Guard
from speechnar.serve.options import ServeOptions
from speechnar.serve.service import OPENAI_ASR, OPENAI_TTS, Service

HEADER_S = 15
"""Until the head of a request must be there."""
GRACE_S = 30
"""For what is under way when the server is told to stop."""
MAX_MESSAGE_BYTES = 4 << 20
"""Of a WebSocket."""


def create_app(options: ServeOptions | None = None) -> FastAPI:
    """Return the application with its routes; models are loaded by the first request that needs them.

    Raises:
        ConfigError: a limit of the options is out of its range.
    """
    options = options or ServeOptions()
    service = Service(options)
    # It warns of every malformed form, which the client is told.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        dropping = asyncio.create_task(service.drop_idle())
        yield
        dropping.cancel()
        await asyncio.to_thread(service.close)

    # No pages of documentation: they would load scripts of other hosts.
    app = FastAPI(title="speechnar", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.service = service
    app.add_middleware(Guard, options=options, metrics=service.metrics)
    for router in (transcriptions, speech, realtime):
        app.include_router(router.build_router(service))
    _add_faults(app)
    started = int(time.time())

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        shipped = {info.name for info in await asyncio.to_thread(list_models)}
        names = shipped | options.models | {*OPENAI_ASR, *OPENAI_TTS}
        return {"object": "list", "data": [_model(name, started) for name in sorted(names)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _model(await asyncio.to_thread(service.transcribers.find, name), started)

    return app


def serve(options: ServeOptions, *, host: str, port: int) -> None:
    """Serve until told to stop: what is under way is finished, what comes meanwhile is refused."""
    config = uvicorn.Config(
        create_app(options),
        host=host,
        port=port,
        http=PatientProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        ws_max_size=MAX_MESSAGE_BYTES,
    )
    if current_thread() is main_thread():
        # uvicorn raises it once more when all is done; that is no death.
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    uvicorn.Server(config).run()


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "speechnar"}


def _add_faults(app: FastAPI) -> None:
    """Tell every error in the form of OpenAI's API."""

    def tell(error: RequestError) -> JSONResponse:
        return JSONResponse({"error": error.body()}, error.status, error.headers)

    @app.exception_handler(ClientDisconnect)
    async def left(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        return tell(RequestError(error.status_code, tidy(str(error.detail)), headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> JSONResponse:
        fault = error.errors()[0]
        place = ".".join(str(part) for part in fault["loc"] if part != "body")
        return tell(RequestError(400, f"{place or 'body'}: {fault['msg']}", param=place or None))

    async def failed(request: Request, error: Exception) -> JSONResponse:
        return tell(as_request_error(error))

    for kind in (RequestError, SpeechnarError, OSError, Exception):
        app.add_exception_handler(kind, failed)


class PatientProtocol(H11Protocol):
    """HTTP whose head must arrive within `HEADER_S`: who sends it byte by byte holds no connection for ever."""

    def connection_made(self, transport: Any) -> None:
        """Begin, and look from time to time whether a head has come."""
        super().connection_made(transport)
        self._served = self._num_served()
        self._watch()

    def _num_served(self) -> int | None:
        return None if self.cycle is None else id(self.cycle)

    def _watch(self) -> None:
        self._watcher = self.loop.call_later(HEADER_S, self._look)

    def _look(self) -> None:
        if self.transport is None or self.transport.is_closing():
            return
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and self._served == self._num_served():
            self.transport.close()
            return
        self._served = self._num_served() if is_idle else None
        self._watch()

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection over to a session, which has a patience of its own."""
        self._watcher.cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._watcher.cancel()
        super().connection_lost(exc)
