"""Speech as OpenAI's own client asks for it."""

import io

import numpy as np
import openai
import pytest
import soundfile

from speechnar import Synthesizer
from speechnar.audio.io import read_audio
from tests.unit.serve.conftest import Running, serving

TEXT = "Seven. Three nine."


@pytest.fixture(scope="module")
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def wanted():
    return Synthesizer.load("fsdd-tts", device="cpu").synthesize(TEXT, steps=1)


def speak(client, response_format, **more):
    body = {"steps": 1, **more}
    return client.audio.speech.create(
        model="fsdd-tts", voice="alloy", input=TEXT, response_format=response_format, extra_body=body
    ).content


@pytest.mark.parametrize("response_format", ["pcm", "wav", "flac"])
def test_lossless_formats_hold_the_library_s_samples(client, wanted, response_format):
    data = speak(client, response_format)
    if response_format == "pcm":
        samples = np.frombuffer(data, "<i2") / 32768
    else:
        samples, rate = soundfile.read(io.BytesIO(data), frames=len(wanted.samples) + 1)
        assert rate == wanted.sample_rate
    assert len(samples) == len(wanted.samples)
    assert np.abs(samples - wanted.samples).max() <= 1 / 32768


@pytest.mark.parametrize("response_format", ["mp3", "opus"])
def test_lossy_formats_hold_all_of_it(client, wanted, response_format):
    sound = read_audio(speak(client, response_format), target_rate=wanted.sample_rate)
    assert sound.duration == pytest.approx(wanted.duration, abs=0.15)
    assert np.abs(sound.samples).max() == pytest.approx(np.abs(wanted.samples).max(), rel=0.5)


def test_it_is_sent_while_it_is_made(client, wanted):
    asked = client.audio.speech.with_streaming_response.create(
        model="fsdd-tts", voice="alloy", input=TEXT, response_format="pcm", extra_body={"steps": 1}
    )
    with asked as response:
        parts = list(response.iter_bytes())
    assert len(parts) > 1
    assert sum(map(len, parts)) == 2 * len(wanted.samples)


def test_events_hold_the_same(running, wanted):
    body = {"model": "fsdd-tts", "input": TEXT, "response_format": "pcm", "stream_format": "sse", "steps": 1}
    with running.client() as client:
        lines = client.post("/v1/audio/speech", json=body).text.split("\n\n")
    assert '"speech.audio.done"' in lines[-2]
    assert all('"speech.audio.delta"' in line for line in lines[:-2])
    assert len(lines) > 3


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"input": ""}, "input"),
        ({"input": "x" * 20_001}, "20000"),
        ({"input": "!?"}, "letter or a digit"),
        ({"speed": 9}, "speed"),
        ({"response_format": "aac"}, "response_format"),
        ({"voice": "../../../etc/passwd"}, "no voice"),
        ({"voice": "somebody"}, "no voice"),
        ({"model": "joint-asr"}, "text into speech"),
        ({"steps": 0}, "steps"),
    ],
)
def test_wrong_requests_are_told(running, values, says):
    body = {"model": "fsdd-tts", "input": TEXT, "steps": 1, **values}
    with running.client() as client:
        response = client.post("/v1/audio/speech", json=body)
        assert response.status_code == 400
        assert says in response.json()["error"]["message"]
        again = {"model": "fsdd-tts", "input": "One.", "steps": 1}
        assert client.post("/v1/audio/speech", json=again).status_code == 200  # nothing is held up


def test_a_voice_of_the_folder_speaks(tmp_path, clip, wanted):
    (tmp_path / "anna.wav").write_bytes(clip)
    (tmp_path / "anna.txt").write_text("seven three nine\n")
    with serving(voices=tmp_path) as running, running.client() as client:
        body = {"model": "fsdd-tts", "input": TEXT, "voice": "anna", "response_format": "pcm", "steps": 1}
        response = client.post("/v1/audio/speech", json=body)
    assert response.status_code == 200
    assert response.content != (wanted.samples * 32768).astype("<i2").tobytes()


def test_a_voice_of_a_name_that_no_file_can_have(tmp_path):
    with serving(voices=tmp_path) as running, running.client() as client:
        body = {"model": "fsdd-tts", "input": TEXT, "voice": "v" * 300, "steps": 1}
        response = client.post("/v1/audio/speech", json=body)
        assert (response.status_code, response.json()["error"]["code"]) == (400, "voice_not_found")


def test_a_voice_that_cannot_be_used_is_told_by_its_name(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.full(1000, 0.1), 16000)
    (tmp_path / "none.wav").write_text("no audio")
    with serving(voices=tmp_path) as running, running.client() as client:
        for name in ("short", "none"):
            body = {"model": "fsdd-tts", "input": TEXT, "voice": name, "steps": 1}
            response = client.post("/v1/audio/speech", json=body)
            assert response.status_code == 400
            message = response.json()["error"]["message"]
            assert name in message
            assert str(tmp_path) not in message
