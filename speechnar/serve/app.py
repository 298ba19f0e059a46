"""The application: its routes, and the HTTP server around it."""

import asyncio
import logging
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from socket import socket
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
TAKE_S = 60.0
"""Until a client must have taken some of what waits for it."""
GRACE_S = 30
"""For what is under way when the server is told to stop."""
REFUSE_S = 20
"""After which those who still wait by then are told to come back, before the time is up."""
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
    PatientServer(config).run()


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


class PatientServer(uvicorn.Server):
    """A server that, told to stop, does as much of what waits as it has time for, and refuses the rest."""

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Stop."""
        app: Any = self.config.app
        refusing = asyncio.get_running_loop().call_later(REFUSE_S, app.state.service.refuse_waiting)
        try:
            await super().shutdown(sockets)
        finally:
            refusing.cancel()


class PatientProtocol(H11Protocol):
    """HTTP with an end to patience, so that nobody holds a connection, or a model that speaks to it, for ever.

    A head must arrive within `HEADER_S`, and of an answer that has piled up something must be taken within `TAKE_S`.
    """

    _taking: asyncio.TimerHandle | None = None

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

    def pause_writing(self) -> None:
        """Wait until the client has taken what has piled up, but not for ever."""
        super().pause_writing()
        if self.transport is not None:
            self._taking = self.loop.call_later(TAKE_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._let_take()

    def _let_take(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def handle_websocket_upgrade(self, event: Any) -> None:
        """Hand the connection over to a session, which has a patience of its own."""
        self._watcher.cancel()
        super().handle_websocket_upgrade(event)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._watcher.cancel()
        self._let_take()
        super().connection_lost(exc)
