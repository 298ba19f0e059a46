"""The server as a process, and its smaller routes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import httpx
import pytest


def test_health_models_and_metrics(running, clip):
    with running.client() as client:
        assert client.get("/health").json()["status"] == "ok"
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert {"joint-asr", "whisper-1", "tts-1"} <= set(names)
        assert client.get("/v1/models/whisper-1").json()["id"]
        assert client.get("/v1/models/no/such").status_code == 404
        client.post("/v1/audio/transcriptions", data={"model": "joint-asr"}, files={"file": clip})
        text = client.get("/metrics").text
    seconds = re.search(r'speechnar_audio_seconds_total\{task="transcribe"\} ([\d.]+)', text)
    assert seconds
    assert float(seconds[1]) > 0
    assert re.search(r'speechnar_requests_total\{method="POST",route="/v1/audio/transcriptions",status="200"\}', text)
    assert "speechnar_queued_seconds 0.0" in text


def test_no_page_of_documentation_loads_scripts_of_others(running):
    with running.client() as client:
        assert client.get("/docs").status_code == client.get("/redoc").status_code == 404
        assert "/v1/audio/speech" in client.get("/openapi.json").json()["paths"]


@pytest.mark.slow  # a process that imports torch and loads a model
def test_the_command_finishes_what_is_under_way_and_ends(clip):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "speechnar", "serve", "--port", str(port), "--device", "cpu", "--threads", "1"]
    env = {**os.environ, "SPEECHNAR_API_KEYS": "one, two"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                httpx.get(f"{url}/health")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        assert httpx.get(f"{url}/v1/models").status_code == 401
        with httpx.Client(base_url=url, headers={"Authorization": "Bearer two"}, timeout=60) as client:
            body = {"model": "fsdd-tts", "input": "One. " * 9, "response_format": "pcm", "steps": 1}
            with client.stream("POST", "/v1/audio/speech", json=body) as response:
                parts = response.iter_bytes()
                size = len(next(parts))
                process.send_signal(signal.SIGTERM)
                size += sum(map(len, parts))
        assert response.status_code == 200
        assert size > 9 * 2000
        stdout, stderr = process.communicate(timeout=40)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    assert stdout == ""
    assert '"route": "/v1/audio/speech"' in stderr
    assert "Traceback" not in stderr
