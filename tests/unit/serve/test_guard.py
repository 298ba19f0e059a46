"""Who is served, and how much of what they send is read."""

import asyncio
import json
import logging
import socket
import threading
import time

import pytest

from speechnar.serve import app as app_module
from tests.unit.serve.conftest import serving


def test_keys():
    with serving(api_keys=("secret", "other")) as running:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer wrong"}, 401),
            ({"Authorization": "Basic secret"}, 401),
            ({"Authorization": "Bearer secret"}, 200),
            ({"Authorization": "bearer other"}, 200),
        ):
            with running.client(**headers) as client:
                assert client.get("/v1/models").status_code == status
                assert client.get("/metrics").status_code == status
                assert client.get("/health").status_code == 200


def test_pages_of_other_sites_are_not_served(running):
    with running.client(Origin="http://evil.example") as client:
        assert client.get("/v1/models").status_code == 403
    with running.client(Origin=running.url) as client:
        assert client.get("/v1/models").status_code == 200
    name = f"evil.example:{running.port}"  # which somebody has made to lead here
    with running.client(Origin=f"http://{name}", Host=name) as client:
        assert client.get("/v1/models").status_code == 403
    for origin in ("null", "http://[", ""):
        with running.client(Origin=origin) as client:
            assert client.get("/v1/models").status_code == (403 if origin else 200)


def test_methods_that_are_made_up_are_counted_as_one(running):
    with running.client() as client:
        for method in ("SPAM", "EGGS"):
            client.request(method, "/v1/models")
        text = client.get("/metrics").text
    assert 'method="other"' in text
    assert "SPAM" not in text
    assert "EGGS" not in text


def test_large_uploads_are_refused_by_their_head_and_by_what_comes(clip):
    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 10_000

    with serving(max_upload_bytes=200_000) as running, running.client() as client:
        fields = {"model": "joint-asr"}
        assert client.post("/v1/audio/transcriptions", data=fields, files={"file": clip}).status_code == 200
        refused = client.post("/v1/audio/transcriptions", data=fields, files={"file": clip * 10})
        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "too_large"
        head = {"Content-Type": "multipart/form-data; boundary=b"}
        assert client.post("/v1/audio/transcriptions", content=endless(), headers=head).status_code == 413


def test_who_sends_nothing_is_left():
    with serving(idle_s=0.3) as running, socket.create_connection(("127.0.0.1", running.port)) as sock:
        sock.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
        )
        sock.settimeout(10)
        assert b" 408 " in sock.recv(1000)


def test_who_sends_half_a_head_is_left(monkeypatch):
    monkeypatch.setattr(app_module, "HEADER_S", 0.3)
    with serving() as running:
        with socket.create_connection(("127.0.0.1", running.port)) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost")
            sock.settimeout(10)
            assert sock.recv(1000) == b""
        with running.client() as client:
            assert client.get("/health").status_code == 200


def test_a_client_that_leaves_in_the_middle_disturbs_nobody(running, clip):
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", running.port)) as sock:
            sock.sendall(
                b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
    with running.client() as client:
        files = {"file": clip}
        assert client.post("/v1/audio/transcriptions", data={"model": "joint-asr"}, files=files).status_code == 200


def test_the_log_holds_what_happened_and_nothing_that_was_said(running, clip, caplog):
    with caplog.at_level(logging.INFO), running.client() as client:
        response = client.post(
            "/v1/audio/transcriptions", data={"model": "joint-asr"}, files={"file": ("secret-name.wav", clip)}
        )
        client.get("/secret-path")
        time.sleep(0.1)
    text = response.json()["text"]
    lines = [json.loads(record.message) for record in caplog.records if record.name == "speechnar.serve.access"]
    # Beside them, there may be lines of clients that have left before.
    (served,) = (line for line in lines if line["status"] == 200)
    assert served["route"] == "/v1/audio/transcriptions"
    assert served["model"] == "joint-asr"
    assert served["seconds"] > 0
    assert "unknown" in [line["route"] for line in lines]
    assert text
    assert text not in caplog.text
    assert "secret" not in "".join(map(json.dumps, lines))


def test_many_clients_at_once_each_get_their_own(running, clip):
    found, lock = [], threading.Lock()

    def ask(language):
        with running.client() as client:
            fields = {"model": "joint-asr", "language": language, "response_format": "verbose_json"}
            answer = client.post("/v1/audio/transcriptions", data=fields, files={"file": clip}).json()
        with lock:
            found.append((language, answer["language"]))

    names = {"en": "english", "de": "german", "fr": "french", "it": "italian"}
    threads = [threading.Thread(target=ask, args=(code,)) for code in list(names) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted((code, names[code]) for code in list(names) * 3)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "GET"])
def test_wrong_methods_and_paths_are_told_in_the_same_form(running, method):
    with running.client() as client:
        response = client.request(method, "/v1/audio/transcriptions")
        assert response.status_code == 405
        assert response.json()["error"]["type"] == "invalid_request_error"
        assert client.get("/v1/nothing").json()["error"]["message"]


def test_the_event_loop_answers_while_a_model_works(running, clip):
    async def watch():
        loop = asyncio.get_running_loop()
        with running.client() as client:
            slow = loop.run_in_executor(
                None,
                lambda: client.post("/v1/audio/transcriptions", data={"model": "joint-asr"}, files={"file": clip}),
            )
            with running.client() as other:
                assert other.get("/health").status_code == 200
            return (await slow).status_code

    assert asyncio.run(watch()) == 200
