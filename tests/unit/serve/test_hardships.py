"""Faults and attacks beside those of `test_guard` and `test_uploads`: nobody is held up, and nothing leaks."""

import asyncio
import base64
import gzip
import io
import json
import shutil
import socket
import tempfile
import threading
import time
import zipfile
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
import uvicorn
import websockets

from speechnar.serve import app as app_module
from speechnar.serve import guard
from speechnar.text.transcript import Transcript
from tests.unit.serve.conftest import as_wav, serving
from tests.unit.tiny import save_tiny_model

URL = "/v1/audio/transcriptions"
FIELDS = {"model": "joint-asr"}


def until(happens, seconds=30.0):
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


# Clients that leave, or never come to an end.


def test_who_leaves_in_the_middle_of_a_stream_holds_nothing(running, clip):
    long = as_wav(np.tile(np.frombuffer(clip[44:], "<i2"), 10), 8000)
    for path, sent in (
        (URL, {"data": {**FIELDS, "stream": "true"}, "files": {"file": long}}),
        ("/v1/audio/speech", {"json": {"model": "fsdd-tts", "input": "One two. " * 40, "response_format": "pcm"}}),
    ):
        with running.client() as client, client.stream("POST", path, **sent) as response:
            assert response.status_code == 200
            next(response.iter_bytes())
        until(lambda: running.service.num_sessions == 0 and not running.service.speaking.locked())
    with running.client() as client:
        assert client.post(URL, data=FIELDS, files={"file": clip}).status_code == 200
        body = {"model": "fsdd-tts", "input": "One.", "steps": 1}
        assert client.post("/v1/audio/speech", json=body).status_code == 200


def test_an_upload_that_drips_is_left(monkeypatch):
    monkeypatch.setattr(guard, "MIN_UPLOAD_RATE", 1000)
    head = b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n"
    head += b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    with serving(idle_s=0.6) as running, socket.create_connection(("127.0.0.1", running.port)) as sock:
        sock.sendall(head)
        sock.settimeout(0.1)
        answer = b""
        for _ in range(100):  # a byte comes before it is idle, again and again
            try:
                answer = sock.recv(1000)
                break
            except TimeoutError:
                sock.sendall(b"x")
        assert b" 408 " in answer


def test_an_answer_that_nobody_takes_is_given_up(monkeypatch):
    monkeypatch.setattr(app_module, "TAKE_S", 0.3)
    ended = threading.Event()

    async def app(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        gone = asyncio.create_task(receive_all(receive))
        while not gone.done():
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            await asyncio.sleep(0)
        ended.set()

    async def receive_all(receive):
        while (await receive())["type"] != "http.disconnect":
            pass

    config = uvicorn.Config(app, port=0, http=app_module.PatientProtocol, log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    with socket.create_connection(("127.0.0.1", server.servers[0].sockets[0].getsockname()[1])) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert ended.wait(20)
    server.should_exit = True
    thread.join(20)


def test_two_hundred_sessions(clip, tiny):
    async def talk(running):
        async def one():
            try:
                async with websockets.connect(f"ws://127.0.0.1:{running.port}/v1/realtime", open_timeout=60) as held:
                    first = json.loads(await held.recv())["type"]
                    audio = base64.b64encode(clip[44:]).decode()
                    await held.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
                    await all_here.wait()
                    return first
            except websockets.ConnectionClosed as closed:
                return closed.rcvd.code

        all_here = asyncio.Event()
        tasks = [asyncio.create_task(one()) for _ in range(200)]
        while sum(task.done() for task in tasks) < 200 - 32:
            await asyncio.sleep(0.05)
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as client:
            assert (await client.get("/health")).status_code == 200
        all_here.set()
        found = await asyncio.gather(*tasks)
        assert found.count("session.created") == 32
        assert found.count(1013) == 168

    with serving(asr_model=tiny, max_sessions=32) as running:
        asyncio.run(asyncio.wait_for(talk(running), 120))
        until(lambda: running.service.num_sessions == 0)
        with running.client() as client:
            assert client.post(URL, data={"model": "whisper-1"}, files={"file": clip}).status_code == 200


# Faults of the machine.


def test_a_model_that_is_removed_while_serving_concerns_nobody_else(clip, tiny, tmp_path):
    gone = shutil.copytree(tiny, tmp_path / "gone")
    with serving(asr_model=tiny, more_models=(str(gone),)) as running, running.client() as client:
        shutil.rmtree(gone)
        refused = client.post(URL, data={"model": str(gone)}, files={"file": clip})
        assert refused.status_code == 404
        assert client.post(URL, data={"model": "whisper-1"}, files={"file": clip}).status_code == 200
        shutil.copytree(tiny, gone)
        assert client.post(URL, data={"model": str(gone)}, files={"file": clip}).status_code == 200


def test_a_place_for_uploads_that_cannot_be_written_is_told(running, clip, monkeypatch, tmp_path):
    with running.client() as client:
        with monkeypatch.context() as patched:
            patched.setattr(tempfile, "tempdir", str(tmp_path / "none"))
            for content in (clip, clip * 200):  # in memory until it is measured; and on disk while it comes
                response = client.post(URL, data=FIELDS, files={"file": content})
                assert response.status_code == 507
                assert str(tmp_path) not in response.text
        assert client.post(URL, data=FIELDS, files={"file": clip}).status_code == 200


def test_clocks_that_jump_change_nothing(running, clip, monkeypatch):
    now = time.time
    with running.client() as client:
        for jump in (-1e9, 1e9):
            monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
            assert client.post(URL, data=FIELDS, files={"file": clip}).status_code == 200


def test_told_to_stop_it_finishes_what_is_under_way_and_refuses_what_has_no_time_left(clip, monkeypatch):
    monkeypatch.setattr(app_module, "REFUSE_S", 0.3)
    may_go, answers = threading.Event(), []

    class Slow:
        @contextmanager
        def use(self, name):
            yield self

        def transcribe_many(self, audios, **wish):
            assert may_go.wait(30)
            return [Transcript("a", "a", "transcribe", "eng", 1.0, 1.0, "done", ()) for _ in audios]

    def ask():
        with httpx.Client(base_url=running.url, timeout=60) as client:
            answers.append(client.post(URL, data=FIELDS, files={"file": clip}))

    with serving(batch_s=0) as running:
        monkeypatch.setattr(running.service.short, "_pool", Slow())
        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda: len(running.service.short._jobs) == len(threads) - 1)
        running.server.should_exit = True
        until(lambda: len(answers) == 2)
        assert [answer.status_code for answer in answers] == [503, 503]
        assert all(answer.headers["retry-after"] for answer in answers)
        may_go.set()
        for thread in threads:
            thread.join(30)
    assert answers[2].status_code == 200


# Attacks.


def test_nothing_that_a_client_names_is_opened_or_fetched(running, clip):
    with socket.create_server(("127.0.0.1", 0)) as trap:
        address = f"127.0.0.1:{trap.getsockname()[1]}"
        trap.settimeout(0.2)
        names = (
            f"http://{address}/a.wav", f"concat:http://{address}/a|/etc/passwd", "file:///etc/passwd",
            f"rtmp://{address}/a", f"//{address}/a.wav", "../../etc/passwd", "/etc/passwd", "a.wav\0.m3u8",
        )  # fmt: skip
        scripts = (
            f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://{address}/a.ts\n", f"concat:http://{address}/a",
            f"\n\nffconcat version 1.0\nfile http://{address}/a\n", f"[playlist]\nFile1=http://{address}/a\n",
            f"<?xml version='1.0'?><MPD><BaseURL>http://{address}/</BaseURL></MPD>", f"http://{address}/a.wav",
            f"v=0\nc=IN IP4 127.0.0.1\nm=audio {trap.getsockname()[1]} RTP/AVP 0\n", f"RIFF....WAVEhttp://{address}/",
        )  # fmt: skip
        with running.client() as client:
            for name in names:
                answer = client.post(URL, data=FIELDS, files={"file": (name, clip)})
                assert answer.status_code == 200  # it is but a name
                for fields in ({"model": name}, {**FIELDS, "language": name}):
                    assert client.post(URL, data=fields, files={"file": clip}).status_code in (400, 404)
                spoken = {"model": "fsdd-tts", "input": "one", "voice": name, "steps": 1}
                assert client.post("/v1/audio/speech", json=spoken).status_code == 400
                path = client.build_request("GET", f"/v1/models/{name.replace(chr(0), '%00')}")
                assert client.send(path).status_code in (404, 400)
            for script in scripts:
                for name in ("a.wav", "a.m3u8", "a.mpd", "a.sdp", "a.ffconcat"):
                    answer = client.post(URL, data=FIELDS, files={"file": (name, script.encode())})
                    assert answer.status_code == 400
                    assert "root:" not in answer.text
        with pytest.raises(TimeoutError):
            trap.accept()


def test_bombs_take_neither_memory_nor_time(running, clip):
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.wav", bytes(50_000_000))
    packed = gzip.compress(bytes(50_000_000))
    with running.client() as client:
        for content in (zipped.getvalue(), packed):
            assert len(content) < 100_000
            assert client.post(URL, data=FIELDS, files={"file": content}).status_code == 400
        head = {"Content-Encoding": "gzip", "Content-Type": "application/json"}  # which is not unpacked
        assert client.post("/v1/audio/speech", content=packed, headers=head).status_code == 400
        deep = b"[" * 1_000_000
        assert client.post("/v1/audio/speech", content=deep, headers=head).status_code == 400
        assert client.post(URL, data=FIELDS, files={"file": clip}).status_code == 200


def test_markup_in_names_and_texts_is_never_a_page(running, clip):
    with running.client() as client:
        for response_format in ("json", "verbose_json", "text", "srt", "vtt"):
            fields = {**FIELDS, "response_format": response_format, "prompt": "<script>alert(1)</script>"}
            answer = client.post(URL, data=fields, files={"file": ("<img src=x onerror=alert(1)>.wav", clip)})
            assert answer.status_code == 200
            assert answer.headers["content-type"].split(";")[0] in ("application/json", "text/plain")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "<" not in answer.text
        for name in ("\x1b[31m\x07.wav", "a\r\nX-Injected: 1.wav", "\u202egnp.wav", "\u0000"):
            answer = client.post(URL, data=FIELDS, files={"file": (name, b"no audio")})
            assert answer.status_code == 400
            assert answer.json()["error"]["message"].isprintable()
            assert "x-injected" not in answer.headers
        told = client.get("/v1/models/%0d%0aX-Injected:%201%3Cscript%3E")
        assert told.status_code == 404
        assert "x-injected" not in told.headers
        assert told.headers["content-type"] == "application/json"


@pytest.mark.parametrize("where", ["head", "body"])
def test_parts_and_fields_without_end_are_refused(running, where):
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n'
    content = part * 1 + b"X: y\r\n" * 200_000 if where == "head" else (part + b"\r\n\r\n") * 50_000
    head = {"Content-Type": "multipart/form-data; boundary=b"}
    started = time.process_time()
    with running.client() as client:
        assert client.post(URL, content=content, headers=head).status_code == 400
    assert time.process_time() - started < 10
