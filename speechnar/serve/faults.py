"""What a client is told when something goes wrong, in the form of OpenAI's API."""

import logging
from collections.abc import Mapping
from typing import Any

from speechnar.errors import AudioError, ConfigError, ModelNotFoundError, SpeechnarError

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 5
MAX_MESSAGE_CHARS = 500


class RequestError(Exception):
    """A request that is not served, with the HTTP status that says why."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """Return what stands under ``error``."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"message": tidy(str(self)), "type": kind, "param": self.param, "code": self.code}


def busy(message: str, *, status: int = 429) -> RequestError:
    """Return what tells a client to come back."""
    return RequestError(status, message, code="busy", headers={"Retry-After": str(RETRY_AFTER_S)})


def as_request_error(error: Exception) -> RequestError:
    """Return how an error is told: a mistake of the client in its words, one of ours without what is inside."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, ModelNotFoundError):
        return RequestError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, AudioError | ConfigError):
        return RequestError(400, str(error))
    if isinstance(error, OSError) and not isinstance(error, SpeechnarError):
        logger.error("cannot read or write: %s", error.strerror or type(error).__name__)
        return RequestError(507, "the server has no room for this upload; try again later", code="storage")
    logger.error("internal error", exc_info=error)
    return RequestError(500, f"internal error ({type(error).__name__})", code="internal_error")


def tidy(text: str) -> str:
    """Return ``text`` in one line without control characters, of a bounded length."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 1] + "…"
