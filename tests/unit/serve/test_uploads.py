"""Uploads: measured, bounded, and gone afterwards."""

import errno
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechnar import Transcriber
from speechnar.serve import uploads
from tests.unit.serve.conftest import as_wav, serving

FIELDS = {"model": "joint-asr"}


def post(client, content, name="a.wav"):
    return client.post("/v1/audio/transcriptions", data=FIELDS, files={"file": (name, content)})


def test_long_recordings_are_read_again_and_say_the_same(running, clip, monkeypatch):
    monkeypatch.setattr(uploads, "HELD_S", 1.0)
    with running.client() as client:
        assert post(client, clip).json()["text"] == Transcriber.load(device="cpu").transcribe(clip).text


def test_nothing_stays_on_disk(clip, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with serving() as running, running.client() as client:
        assert post(client, clip).status_code == 200
        assert post(client, b"no audio" * 1_000_000).status_code == 400
    assert not list(tmp_path.iterdir())


def test_seconds_are_bounded_whatever_the_bytes(tmp_path):
    # An hour of silence is a small FLAC.
    path = tmp_path / "bomb.flac"
    soundfile.write(path, np.zeros(600 * 8000, dtype=np.int16), 8000)
    with serving(max_audio_s=60) as running, running.client() as client:
        response = post(client, path.read_bytes())
    assert path.stat().st_size < 100_000
    assert response.status_code == 400
    assert "at most 60 s" in response.json()["error"]["message"]


@pytest.mark.parametrize("claimed", [0, 0xFFFFFFFF, 44, 10**6])
def test_headers_that_lie_about_the_length_do_no_harm(running, clip, claimed):
    place = clip.index(b"data") + 4
    lying = clip[:place] + claimed.to_bytes(4, "little") + clip[place + 4 :]
    with running.client() as client:
        assert post(client, lying).status_code in (200, 400)
        assert post(client, clip).status_code == 200


@pytest.mark.parametrize("samples", [np.zeros(1, dtype=np.int16), np.zeros(16000, dtype=np.int16)])
def test_the_shortest_and_silence_have_no_words(running, samples):
    with running.client() as client:
        response = post(client, as_wav(samples, 16000))
    assert response.status_code == 200
    assert not any(map(str.isalpha, response.json()["text"]))


def test_a_full_disk_is_told(running, clip, monkeypatch):
    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with running.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr(uploads, "_copy", full)
            response = post(client, clip)
        assert response.status_code == 507
        assert str(Path(tempfile.gettempdir())) not in response.text
        assert post(client, clip).status_code == 200


def test_thousands_of_parts_are_refused(running, clip):
    with running.client() as client:
        many = {f"field{number}": "x" for number in range(2000)}
        response = client.post("/v1/audio/transcriptions", data={**FIELDS, **many}, files={"file": clip})
        assert response.status_code == 400
        two = [("file", ("a.wav", clip)), ("file", ("b.wav", clip))]
        assert client.post("/v1/audio/transcriptions", data=FIELDS, files=two).status_code == 400
        long_field = {**FIELDS, "prompt": "x" * (1 << 17)}
        assert client.post("/v1/audio/transcriptions", data=long_field, files={"file": clip}).status_code == 400


def test_an_opus_recording_is_heard(running, clip):
    samples, rate = soundfile.read(io.BytesIO(clip), dtype="float32")
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="OGG", subtype="OPUS")
    with running.client() as client:
        assert post(client, file.getvalue(), "a.ogg").json()["text"]
