"""What clients are told: their mistakes in words, ours without what is inside."""

import errno

import pytest

from speechnar.errors import AudioError, CheckpointError, ConfigError, ModelNotFoundError
from speechnar.serve.faults import MAX_MESSAGE_CHARS, RequestError, as_request_error, busy, tidy


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (AudioError("a.wav: torn"), 400, "torn"),
        (ConfigError("steps must be 1"), 400, "steps"),
        (ModelNotFoundError("no model x"), 404, "no model x"),
        (CheckpointError("/models/x: damaged"), 500, "internal error (CheckpointError)"),
        (ValueError("secret"), 500, "internal error (ValueError)"),
        (OSError(errno.ENOSPC, "full", "/tmp/secret"), 507, "no room"),
        (busy("later"), 429, "later"),
    ],
)
def test_every_error_has_a_status(error, status, says):
    told = as_request_error(error)
    assert told.status == status
    body = told.body()
    assert says in body["message"]
    assert "secret" not in str(body)
    assert body["type"] == ("invalid_request_error" if status < 500 else "server_error")


def test_messages_are_one_bounded_line():
    assert tidy("a\r\nb\x1b[31m\x00\u2028c") == "a b [31m c"
    assert len(tidy("x" * 10_000)) == MAX_MESSAGE_CHARS
    assert RequestError(400, "a\nb").body()["message"] == "a b"
