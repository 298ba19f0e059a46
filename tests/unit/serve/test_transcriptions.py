"""Transcriptions as OpenAI's own client asks for them."""

import json

import openai
import pytest

from speechnar import Transcriber
from tests.unit.serve.conftest import Running, serving
from tests.unit.tiny import save_tiny_model


@pytest.fixture(scope="module")
def client(running: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def transcript(clip):
    return Transcriber.load(device="cpu").transcribe(clip, word_timestamps=True)


def test_every_format_says_what_the_library_says(client, clip, transcript):
    def ask(response_format):
        return client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", clip), response_format=response_format
        )

    assert transcript.text
    found = ask("json")
    assert found.text == transcript.text
    assert ask("text") == transcript.to_txt()
    assert ask("srt") == transcript.to_srt()
    assert ask("vtt") == transcript.to_vtt()


def test_verbose_json_has_words_and_segments(client, clip, transcript):
    found = client.audio.transcriptions.create(
        model="joint-asr", file=clip, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    wanted = transcript.to_dict()
    assert found.text == transcript.text
    assert found.duration == wanted["duration"]
    assert [(s.start, s.end, s.text) for s in found.segments] == [
        (s["start"], s["end"], s["text"]) for s in wanted["segments"]
    ]
    words = [word for segment in wanted["segments"] for word in segment["words"]]
    assert [(w.start, w.end, w.word) for w in found.words] == [(w["start"], w["end"], w["word"]) for w in words]


def test_words_are_left_out_unless_asked_for(client, clip):
    found = client.audio.transcriptions.create(model="joint-asr", file=clip, response_format="verbose_json")
    assert found.words is None


def test_a_language_is_given(client, clip):
    found = client.audio.transcriptions.create(
        model="joint-asr", file=clip, response_format="verbose_json", language="de"
    )
    assert found.language == "german"


def test_it_streams_what_it_says_in_the_end(client, clip):
    events = list(client.audio.transcriptions.create(model="whisper-1", file=clip, stream=True))
    assert [event.type for event in events[-1:]] == ["transcript.text.done"]
    assert "".join(event.delta for event in events[:-1]) == events[-1].text != ""


def test_translations_are_english(client, clip, tmp_path):
    folder = str(save_tiny_model(tmp_path / "tiny", to="eng"))
    with serving(st_model=folder) as running:
        own = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
        expected = Transcriber.load(folder, device="cpu").translate(clip, to="eng").text
        assert own.audio.translations.create(model="whisper-1", file=clip).text == expected != ""
    with pytest.raises(openai.BadRequestError, match="does not translate"):
        client.audio.translations.create(model="whisper-1", file=clip)


@pytest.mark.parametrize(
    ("fields", "has_file", "status", "says"),
    [
        ({"model": "nope"}, True, 404, "there is no model 'nope'"),
        ({"model": "../../etc"}, True, 404, "there is no model"),
        ({"model": "/"}, True, 404, "there is no model"),
        ({}, True, 400, "model"),
        ({"model": "joint-asr"}, False, 400, "file"),
        ({"model": "joint-asr", "response_format": "diarized_json"}, True, 400, "response_format"),
        ({"model": "joint-asr", "timestamp_granularities[]": "letter"}, True, 400, "granularities"),
        ({"model": "joint-asr", "language": "klingon"}, True, 400, "language"),
        ({"model": "joint-asr", "stream": "true", "response_format": "srt"}, True, 400, "streamed"),
    ],
)
def test_wrong_requests_are_told_in_one_line(running, clip, fields, has_file, status, says):  # noqa: PLR0917  # cases
    with running.client() as client:
        files = {"file" if has_file else "other": ("a.wav", clip)}
        response = client.post("/v1/audio/transcriptions", data=fields, files=files)
    error = response.json()["error"]
    assert response.status_code == status, error
    assert says in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no audio",
        b"#EXTM3U\nhttp://127.0.0.1/secret\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"PK\3\4zip",
    ],
)
def test_what_is_no_audio_is_named_as_the_client_named_it(running, content):
    name = 'a\r\nSet-Cookie: x=1;"<b>.wav'
    with running.client() as client:
        response = client.post("/v1/audio/transcriptions", data={"model": "joint-asr"}, files={"file": (name, content)})
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "speechnar-" not in message
    assert "/tmp" not in message
    assert "set-cookie" not in response.headers


def test_names_with_markup_come_back_as_json_only(running, clip):
    with running.client() as client:
        response = client.post(
            "/v1/audio/transcriptions", data={"model": "joint-asr"}, files={"file": ("<script>.wav", clip)}
        )
    assert response.headers["content-type"] == "application/json"
    assert "script" not in json.dumps(response.json())


def test_hotwords_are_counted_and_each_taken_once(running, clip, monkeypatch):
    wishes = []
    transcribe = running.service.transcribe

    async def note(request, wish, *rest):
        wishes.append(wish)
        return await transcribe(request, wish, *rest)

    def ask(hotwords):
        with running.client() as client:
            data = {"model": "joint-asr", "hotwords": hotwords}
            return client.post("/v1/audio/transcriptions", data=data, files={"file": clip})

    monkeypatch.setattr(running.service, "transcribe", note)
    many = ask(",".join(map(str, range(1001))))
    assert (many.status_code, many.json()["error"]["param"]) == (400, "hotwords")
    assert ask("seven, nine,," * 700).status_code == 200
    assert [wish.options.hotwords for wish in wishes] == [("seven", "nine")]
