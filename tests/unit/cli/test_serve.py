"""The server as a process."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from speechnar.cli.main import main

httpx = pytest.importorskip("httpx")


@pytest.mark.slow  # a process that imports torch and loads a model
def test_the_command_finishes_what_is_under_way_and_ends():
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max-sessions", "0"], "max_sessions must be above 0"),
        (["--max-audio", "nan"], "max_audio_s must be above 0"),
        (["--voices", "no/such/folder"], "'no/such/folder' is none"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message, capsys):
    assert main(["serve", "--port", "0", *options]) == 2
    assert message in capsys.readouterr().err
