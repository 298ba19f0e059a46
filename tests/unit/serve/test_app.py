"""The server as a process, and its smaller routes."""

import re


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
