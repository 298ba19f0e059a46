"""What stands before every request: who may ask, from where, how much and how fast it may send; and what is logged."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import MutableMapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speechnar.serve.faults import RequestError
from speechnar.serve.metrics import Metrics
from speechnar.serve.options import ServeOptions

access_log = logging.getLogger("speechnar.serve.access")

OPEN_PATHS = ("/health",)
_KEY_PROTOCOL = "openai-insecure-api-key."
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WEBSOCKET")
MIN_UPLOAD_RATE = 1000
"""Bytes a second that an upload has on the whole, once it has lasted as long as a client may be idle."""
_NO_SNIFF = (b"x-content-type-options", b"nosniff")
_WS_REFUSED = 1008
"""Close code of a WebSocket: policy violation."""


class Guard:
    """ASGI middleware; what it refuses never reaches a route.

    Without keys anybody who reaches the port is served, but no web page of another site that a visitor's browser has
    open: what comes with an ``Origin`` must come from a page of this server, loaded by its address or ``localhost``.
    """

    def __init__(self, app: ASGIApp, options: ServeOptions, metrics: Metrics) -> None:
        self._app = app
        self._options = options
        self._keys = [key.encode() for key in options.api_keys]
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request or session."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        started, status = time.monotonic(), 0

        async def note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # What was said is text, whatever tags somebody has spoken or put into a name.
                message["headers"] = [*message.get("headers", ()), _NO_SNIFF]
            await send(message)

        try:
            self._admit(scope, headers)
        except RequestError as error:
            await _refuse(scope, receive, note_status, error)
        else:
            is_upload = scope["type"] == "http"
            await self._app(scope, self._bounded(receive) if is_upload else receive, note_status)
        finally:
            self._log(scope, status, time.monotonic() - started)

    def _admit(self, scope: Scope, headers: MutableMapping[str, str]) -> None:
        if scope["path"] in OPEN_PATHS:
            return
        if self._keys:
            if not self._has_key(headers):
                raise RequestError(
                    401, "a key is needed: Authorization: Bearer KEY", code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )  # fmt: skip
        elif (origin := headers.get("origin")) and not _is_own(origin, headers.get("host", "")):
            raise RequestError(403, "requests of other sites' pages are served only with a key", code="foreign_origin")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._options.max_upload_bytes:
            raise self._too_large()

    def _has_key(self, headers: MutableMapping[str, str]) -> bool:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = [key] if scheme.lower() == "bearer" else []
        protocols = map(str.strip, headers.get("sec-websocket-protocol", "").split(","))
        given += [name.removeprefix(_KEY_PROTOCOL) for name in protocols if name.startswith(_KEY_PROTOCOL)]
        return any(hmac.compare_digest(key, one.strip().encode()) for key in self._keys for one in given)

    def _bounded(self, receive: Receive) -> Receive:
        """Return ``receive`` that counts what is uploaded and waits for it no longer than is decent."""
        num_bytes, is_complete = 0, False
        started, idle_s = time.monotonic(), self._options.idle_s

        async def bounded() -> Message:
            nonlocal num_bytes, is_complete
            if is_complete:  # what follows is but the news that the client has left
                return await receive()
            behind_s = time.monotonic() - started - num_bytes / MIN_UPLOAD_RATE
            try:
                message = await asyncio.wait_for(receive(), max(0.0, min(idle_s, idle_s - behind_s)))
            except asyncio.TimeoutError:
                raise RequestError(408, f"too little came for {idle_s:g} s") from None
            num_bytes += len(message.get("body", b""))
            is_complete = not message.get("more_body", False)
            if num_bytes > self._options.max_upload_bytes:
                raise self._too_large()
            return message

        return bounded

    def _too_large(self) -> RequestError:
        return RequestError(413, f"a request may have {self._options.max_upload_bytes} bytes", code="too_large")

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        """Write a line of JSON that holds nothing of what was said, nor names that a client chose."""
        route = getattr(scope.get("route"), "path", None) or "unknown"
        method = scope.get("method", "WEBSOCKET")
        method = method if method in _METHODS else "other"  # a client may make up any
        self._metrics.requests.labels(route, method, str(status)).inc()
        line = {
            "method": method,
            "route": route,
            "status": status,
            "ms": round(1000 * seconds),
            **scope.get("work", {}),
        }
        access_log.info("%s", json.dumps(line))


def _is_own(origin: str, host: str) -> bool:
    """Tell whether a page came from this server by its address: any name may be made to lead here (rebinding)."""
    try:
        page = urlsplit(origin)
        if page.hostname != "localhost":
            ip_address(page.hostname or "")
    except ValueError:
        return False
    return page.netloc == host


def note_work(scope: Scope, **values: Any) -> None:
    """Put what a request was about (seconds, a model of ours) into its line of the log."""
    scope.setdefault("work", {}).update(values)


async def _refuse(scope: Scope, receive: Receive, send: Send, error: RequestError) -> None:
    if scope["type"] == "websocket":
        await receive()  # websocket.connect
        await send({"type": "websocket.close", "code": _WS_REFUSED, "reason": str(error)})
        return
    # What the client still sends is not read: the connection ends with the answer.
    response = JSONResponse({"error": error.body()}, error.status, {**error.headers, "Connection": "close"})
    await response(scope, receive, send)
