"""What clients other than OpenAI's own send, and what they make of the answer.

Sources: Open WebUI, ``backend/open_webui/routers/audio.py``; Home Assistant, ``components/openai_conversation/stt.py``
and the custom components ``openai_stt`` (einToast/openai_stt_ha) and ``openai_tts`` (sfortis/openai_tts). Home
Assistant's own local speech, Wyoming, is another protocol (events as lines of JSON over TCP), which this server does
not speak.
"""

import asyncio
import base64
import io
import json
import wave

import numpy as np
import openai
import soundfile
import websockets

from speechnar.audio.io import resample, to_int16
from tests.unit.serve.conftest import serving


def test_open_webui_is_told_models_and_voices_and_hears_mp3(clip, tmp_path):
    for name in ("me.wav", "alloy.wav", "bad\nname.wav", "notes.txt"):
        (tmp_path / name).write_bytes(clip)
    with serving(voices=tmp_path) as running, running.client(**{"X-OpenWebUI-User-Name": "Jo"}) as client:
        models = [model["id"] for model in client.get("/v1/audio/models").json().get("models", [])]
        assert {"tts-1", "tts-1-hd", "fsdd-tts"} <= set(models)
        assert "joint-asr" not in models
        voices = {voice["id"]: voice["name"] for voice in client.get("/v1/audio/voices").json().get("voices", [])}
        assert {"alloy", "echo", "fable", "onyx", "nova", "shimmer", "me"} <= set(voices)
        assert not {"notes", "bad\nname"} & set(voices)
        asked = {"input": "one", "model": "fsdd-tts", "voice": "nova", "steps": 1}
        spoken = client.post("/v1/audio/speech", json=asked)
        assert spoken.status_code == 200
        assert soundfile.info(io.BytesIO(spoken.content)).format == "MP3"
        assert client.post("/v1/audio/speech", json={**asked, "voice": "who"}).json()["error"]["message"]


def test_open_webui_sends_a_file_and_a_model_that_may_be_empty(running, clip):
    with running.client(Authorization="Bearer sk-anything") as client:
        found = {}
        for model in ("", "whisper-1"):
            response = client.post("/v1/audio/transcriptions", data={"model": model}, files={"file": ("u.wav", clip)})
            response.raise_for_status()
            found[model] = response.json()["text"]
        assert found[""] == found["whisper-1"] != ""
        refused = client.post("/v1/audio/transcriptions", data={"model": ""}, files={"file": ("u.wav", b"none")})
        assert refused.json()["error"].get("message", "")


def test_home_assistant_sends_a_stereo_wav_with_language_and_prompt(running, clip):
    samples, rate = soundfile.read(io.BytesIO(clip), dtype="int16")
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(2)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes(np.stack([samples] * 2, axis=1).tobytes())
    client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    found = client.audio.transcriptions.create(
        model="gpt-4o-mini-transcribe", file=("a.wav", file.getvalue()), response_format="json",
        language="en", prompt="Digits.",
    )  # fmt: skip
    assert found.text


def test_the_component_openai_stt_by_http(running, clip):
    fields = {
        "file": ("whisper_audio.wav", clip, "audio/wav"), "model": (None, "gpt-4o-mini-transcribe"),
        "language": (None, "en-US"), "prompt": (None, ""), "temperature": (None, "0"),
        "response_format": (None, "json"),
    }  # fmt: skip
    with running.client(Authorization="Bearer key") as client:
        response = client.post("/v1/audio/transcriptions", files=fields)
        assert response.status_code == 200
        assert response.json()["text"].strip()


def test_the_component_openai_stt_by_websocket(running, clip):
    samples, rate = soundfile.read(io.BytesIO(clip), dtype="float32")
    data = to_int16(resample(samples, rate, 24000)).tobytes()

    async def talk():
        url = f"ws://127.0.0.1:{running.port}/v1/realtime?intent=transcription"
        headers = {"Authorization": "Bearer key", "OpenAI-Beta": "realtime=v1"}
        async with websockets.connect(url, additional_headers=headers) as socket:
            transcription = {"model": "gpt-4o-mini-transcribe", "prompt": "", "language": "en-US"}
            session = {
                "input_audio_format": "pcm16", "input_audio_transcription": transcription,
                "turn_detection": {"type": "server_vad"},
                "input_audio_noise_reduction": None,
            }  # fmt: skip
            await socket.send(json.dumps({"type": "transcription_session.update", "session": session}))
            for start in range(0, len(data), 2048):
                audio = base64.b64encode(data[start : start + 2048]).decode()
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
            while (event := json.loads(await socket.recv()))["type"] != (
                "conversation.item.input_audio_transcription.completed"
            ):
                assert event["type"] != "error"
            return event["transcript"]

    assert asyncio.run(asyncio.wait_for(talk(), 60)).strip()


def test_the_component_openai_tts_plays_a_wav(running):
    wanted = {"model": "fsdd-tts", "input": "one two", "voice": "shimmer", "response_format": "wav", "speed": 1.0}
    with running.client() as client:
        response = client.post("/v1/audio/speech", json=wanted)
    assert response.headers["content-type"] == "audio/wav"
    samples, rate = soundfile.read(io.BytesIO(response.content))
    assert len(samples) > 0.3 * rate
