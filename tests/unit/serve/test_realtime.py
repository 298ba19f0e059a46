"""Live captions by OpenAI's events of realtime transcription."""

import asyncio
import base64
import io
import json
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest
import soundfile
import websockets

from speechnar import Transcriber
from tests.unit.serve.conftest import serving
from tests.unit.serve.test_hardships import until as happens

COMPLETED = "conversation.item.input_audio_transcription.completed"


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 60))


@asynccontextmanager
async def session(running, **connection):
    url = f"ws://127.0.0.1:{running.port}/v1/realtime?intent=transcription"
    async with websockets.connect(url, **connection) as socket:
        created = json.loads(await socket.recv())
        assert created["type"] == "session.created"
        yield socket


async def send(socket, kind, **values):
    await socket.send(json.dumps({"type": kind, **values}))


async def until(socket, kind):
    events = []
    while not events or events[-1]["type"] != kind:
        events.append(json.loads(await socket.recv()))
    return events


async def append(socket, samples, sizes=(4800,)):
    data = np.rint(samples * 32767).astype("<i2").tobytes()
    place = 0
    for index in range(len(data)):
        size = 2 * sizes[index % len(sizes)]
        await send(socket, "input_audio_buffer.append", audio=base64.b64encode(data[place : place + size]).decode())
        place += size
        if place >= len(data):
            return


def pcm(rate, **turn_detection):
    audio = {"format": {"type": "audio/pcm", "rate": rate}, "transcription": {"language": "en"}, **turn_detection}
    return {"type": "transcription", "audio": {"input": audio}}


@pytest.fixture(scope="module")
def samples(clip):
    sound, rate = soundfile.read(io.BytesIO(clip), dtype="float32")
    assert rate == 16000
    return sound


def test_captions_grow_and_end_as_a_stream_of_the_library(running, samples):
    stream = Transcriber.load(device="cpu").stream(language="en")
    stream.push(np.rint(samples * 32767).astype(np.int16))
    wanted = stream.finish()

    async def talk():
        async with session(running) as socket:
            await send(socket, "session.update", session=pcm(16000))
            (updated,) = await until(socket, "session.updated")
            assert updated["session"]["audio"]["input"]["transcription"]["language"] == "en"
            await append(socket, samples, sizes=(1, 700, 4800))
            await send(socket, "input_audio_buffer.commit")
            return await until(socket, COMPLETED)

    events = run(talk())
    kinds = [event["type"] for event in events]
    assert kinds[0] == "input_audio_buffer.speech_started"
    assert kinds[-4:] == [
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.input_audio_transcription.delta",
        COMPLETED,
    ]
    assert events[-1]["transcript"] == events[-2]["delta"] == wanted.text != ""
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1
    captions = [event for event in events if event["type"] == "speechnar.caption"]
    assert all({"stable", "unstable", "erased"} <= event.keys() for event in captions)


def test_what_comes_as_fast_as_it_is_spoken_is_captioned_before_it_ends(running, samples):
    stream = Transcriber.load(device="cpu").stream(language="en")
    stream.push(np.rint(samples * 32767).astype(np.int16))
    wanted = stream.finish()
    size = 1600  # 0.1 s

    async def talk(block_s):
        async with session(running) as socket:
            await send(socket, "session.update", session=pcm(16000))
            await until(socket, "session.updated")
            hearing = asyncio.create_task(timed(socket))
            started = time.monotonic()
            for index, start in enumerate(range(0, len(samples), size)):
                await asyncio.sleep(max(0.0, started + index * block_s - time.monotonic()))
                await append(socket, samples[start : start + size])
            ended = time.monotonic()
            await send(socket, "input_audio_buffer.commit")
            return ended, await hearing

    async def timed(socket):
        events = []
        while not events or events[-1][1]["type"] != COMPLETED:
            event = json.loads(await socket.recv())
            events.append((time.monotonic(), event))
        return events

    _, at_once = run(talk(0.0))  # which loads the model too
    ended, events = run(talk(0.1))
    assert any(event["type"] == "speechnar.caption" and at < ended for at, event in events)
    assert events[-1][1]["transcript"] == at_once[-1][1]["transcript"] == wanted.text != ""


def test_without_voice_activity_detection_the_client_ends_turns(running, samples):
    wanted = Transcriber.load(device="cpu").transcribe(np.rint(samples * 32767).astype(np.int16), sample_rate=16000)

    async def talk():
        async with session(running) as socket:
            old = {"input_audio_format": "pcm16", "input_audio_transcription": {"model": "whisper-1"}}
            await send(socket, "transcription_session.update", session={**old, "turn_detection": None})
            await until(socket, "session.updated")
            await send(socket, "session.update", session=pcm(16000, turn_detection=None))
            await until(socket, "session.updated")
            await append(socket, samples)
            await send(socket, "input_audio_buffer.commit")
            first = await until(socket, COMPLETED)
            await append(socket, samples[:8000])
            await send(socket, "input_audio_buffer.clear")
            await until(socket, "input_audio_buffer.cleared")
            await send(socket, "input_audio_buffer.commit")
            (nothing,) = await until(socket, "error")
            await append(socket, samples)
            await send(socket, "input_audio_buffer.commit")
            return first, nothing, await until(socket, COMPLETED)

    first, nothing, second = run(talk())
    assert first[-1]["transcript"] == second[-1]["transcript"] == wanted.text
    assert nothing["error"]["code"] == "input_audio_buffer_commit_empty"
    assert second[0]["previous_item_id"] == first[-1]["item_id"]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ("nonsense", "JSON object"),
        ("[" * 100_000, "JSON object"),
        ("[]", "no event"),
        (json.dumps({"type": "response.create"}), "no event"),
        (json.dumps({"type": "input_audio_buffer.append", "audio": "?"}), "base64"),
        (json.dumps({"type": "input_audio_buffer.append"}), "base64"),
        (json.dumps({"type": "input_audio_buffer.append", "audio": "AA=="}), "16 bits"),
        (json.dumps({"type": "session.update", "session": []}), "object"),
        (json.dumps({"type": "session.update", "session": pcm(12345)}), "rate"),
        (json.dumps({"type": "session.update", "session": {"input_audio_format": "g711_ulaw"}}), "audio/pcm"),
        (
            json.dumps({"type": "session.update", "session": {"input_audio_transcription": {"model": "/etc"}}}),
            "no model",
        ),
        (json.dumps({"type": "session.update", "session": {"input_audio_transcription": {"model": 3}}}), "string"),
        (json.dumps({"type": "session.update", "session": {"input_audio_transcription": {"language": "null"}}}), "ISO"),
        (
            json.dumps({"type": "session.update", "session": {"input_audio_transcription": {"language": "\ud800"}}}),
            "Unicode",
        ),
    ],
)
def test_a_mistake_is_told_and_the_session_goes_on(running, message, says):
    async def talk():
        async with session(running) as socket:
            await socket.send(message)
            (event,) = await until(socket, "error")
            await send(socket, "session.update", session=pcm(24000))
            await until(socket, "session.updated")
            return event

    assert says in run(talk())["error"]["message"]


def test_a_language_that_the_model_does_not_know_ends_the_session_as_a_mistake_of_the_client(running, samples):
    async def talk():
        async with session(running) as socket:
            await send(socket, "session.update", session={"input_audio_transcription": {"language": "ja"}})
            await append(socket, samples[:4800])
            said = (await until(socket, "error"))[-1]
            assert "jpn" in said["error"]["message"] or "ja" in said["error"]["message"]
            assert said["error"]["type"] == "invalid_request_error"
            await socket.wait_closed()
            assert socket.close_code == 1008

    run(talk())


def test_what_comes_too_fast_is_left_out_and_told(running):
    async def talk():
        async with session(running) as socket:
            await send(socket, "session.update", session=pcm(8000, turn_detection=None))
            await until(socket, "session.updated")
            await append(socket, np.zeros(8000 * 31, dtype=np.float32), sizes=(8000 * 31,))
            return await until(socket, "error")

    assert run(talk())[-1]["error"]["code"] == "buffer_full"


def test_sessions_are_counted_and_the_idle_are_left():
    async def talk(running):
        async with session(running), session(running):
            with pytest.raises(websockets.ConnectionClosed) as refused:
                async with session(running):
                    pass
            assert refused.value.rcvd.code == 1013
        async with session(running) as socket:  # there is room again
            with pytest.raises(websockets.ConnectionClosed) as left:
                await socket.recv()
            return left.value.rcvd.code

    with serving(max_sessions=2, idle_s=0.5) as running:
        assert run(talk(running)) == 1001
        happens(lambda: running.service.num_sessions == 0)  # the client may see it first


def test_a_key_may_come_as_a_protocol(samples):
    async def talk(running):
        protocols = [websockets.Subprotocol("realtime"), websockets.Subprotocol("openai-insecure-api-key.secret")]
        async with session(running, subprotocols=protocols) as socket:
            assert socket.subprotocol == "realtime"
        with pytest.raises(websockets.InvalidStatus):
            async with session(running):
                pass

    with serving(api_keys=("secret",)) as running:
        run(talk(running))
