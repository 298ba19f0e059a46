"""The page's function, called as gradio would."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speechnar.api import Comparison, Transcriber
from speechnar.audio.io import to_int16
from speechnar.hub import CONSENT
from speechnar.synthesizer import Synthesizer
from speechnar.text.transcript import Transcript
from tests.unit.tiny import save_tiny_joint, save_tiny_model, save_tiny_tts, vowels, write_speechlike

gr = pytest.importorskip("gradio")

from demo import app as demo_app  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def page(folder):
    loads = []

    def load(name: str) -> Transcriber:
        loads.append(name)
        return Transcriber.load(name, device="cpu")

    page = demo_app.build_app(load, load)
    assert not loads, "models must load on first use"
    (function,) = (fn.fn for fn in page.fns.values() if fn.api_name == "transcribe")
    return function


def no_voice(name: str) -> Synthesizer:
    raise AssertionError(f"{name} was not to be loaded")


@pytest.fixture(scope="module")
def speech_page(folder, tmp_path_factory):
    voice = save_tiny_tts(tmp_path_factory.mktemp("models") / "tts")
    model = Synthesizer.load(voice, device="cpu", recognizer=str(folder))
    page = demo_app.build_app(lambda name: Transcriber.load(name, device="cpu"), lambda name: model)
    return {fn.api_name: fn.fn for fn in page.fns.values()}, model, page


def test_text_is_spoken(speech_page, tmp_path):
    functions, model, page = speech_page
    rate, samples = functions["speak"]("Hello.", "any", None, "", 2, 7, 1.5)
    expected = model.synthesize("Hello.", steps=2, seed=7, speed=1.5)
    assert rate == expected.sample_rate
    np.testing.assert_array_equal(samples, to_int16(expected.samples))
    path = tmp_path / "voice.wav"
    soundfile.write(path, vowels(2.0), 16000, subtype="FLOAT")
    _, samples = functions["speak"]("Hello.", "any", str(path), "the cat", 1, None, 1.0)
    expected = model.synthesize("Hello.", voice=path, voice_text="the cat", steps=1)
    np.testing.assert_array_equal(samples, to_int16(expected.samples))
    with pytest.raises(gr.Error, match="letter or a digit"):
        functions["speak"]("...", "any", None, "ignored without a voice", 1, 0, 1.0)
    shown = json.dumps(page.get_config_file())
    assert shown.count(json.dumps(CONSENT)[1:-1]) == 2, "beside the voice, and beside the recording to be edited"


def test_speech_is_edited(speech_page, tmp_path):
    functions, model, _ = speech_page
    path = tmp_path / "talk.wav"
    soundfile.write(path, vowels(2.0), 16000)
    (rate, samples), rows = functions["edit"](str(path), "any", "the dog", "the cat", 1, 0)
    expected = model.edit(path, "the dog", old_text="the cat", steps=1)
    np.testing.assert_array_equal(samples, to_int16(expected.samples))
    assert rate == 16000
    assert [(row[0], row[2]) for row in rows] == [("cat", "dog")]
    with pytest.raises(gr.Error, match="first"):
        functions["edit"](None, "any", "the dog", "", 1, 0)
    with pytest.raises(gr.Error, match="new text"):
        functions["edit"](str(path), "any", "", "", 1, 0)


def test_transcribe_fills_every_box(page, folder, tmp_path):
    path = write_speechlike(tmp_path / "my talk.wav", 3.0)
    text, language, rows, subtitles = page(str(path), str(folder), "auto")
    assert text == Transcriber.load(folder, device="cpu").transcribe(path).text
    assert "probability" in language
    assert " ".join(row[2] for row in rows).replace(" ", "") == text.replace(" ", "")
    assert [Path(file).name for file in subtitles] == ["my talk.srt", "my talk.vtt"]
    assert Path(subtitles[0]).read_text().startswith("1\n00:00:")
    assert Path(subtitles[1]).read_text().startswith("WEBVTT\n")


def test_a_given_language_has_no_probability(page, folder, tmp_path):
    path = write_speechlike(tmp_path / "a.wav", 1.0)
    assert page(str(path), str(folder), "de")[1] == "German (deu)"


@pytest.mark.parametrize("content", [None, b"no audio", b""])
def test_bad_audio_is_shown(page, folder, tmp_path, content):
    path = tmp_path / "upload.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(gr.Error):
        page(str(path) if content is not None else None, str(folder), "auto")


def test_unknown_models_and_languages_are_shown(page, folder, tmp_path):
    path = write_speechlike(tmp_path / "a.wav", 1.0)
    with pytest.raises(gr.Error, match="no such model"):
        page(str(path), "no such model", "auto")
    with pytest.raises(gr.Error, match="eng, deu, fra"):
        page(str(path), str(folder), "rus")


def test_decoders_are_compared_with_differences_marked(tmp_path):
    folder = save_tiny_joint(tmp_path / "joint")
    page = demo_app.build_app(lambda name: Transcriber.load(name, device="cpu"), no_voice)
    (compare,) = (fn.fn for fn in page.fns.values() if fn.api_name == "compare")
    path = write_speechlike(tmp_path / "a.wav", 3.0)
    html, rows = compare(str(path), str(folder), "auto")
    assert [row[0] for row in rows] == ["ctc", "cassnat", "paraformer", "transformer_ar"]
    assert all(float(seconds) > 0 and float(rtf) > 0 for _, seconds, rtf in rows)
    assert html.startswith("<p><b>ctc</b>: ")
    assert "<mark>" in html
    with pytest.raises(gr.Error, match="first"):
        compare(None, str(folder), "auto")


def test_texts_are_escaped_before_they_are_shown():
    transcript = Transcript("a", "m", "transcribe", "eng", None, 1.0, "<script> & x", ())
    html = demo_app._mark_differences(Comparison("ctc", transcript, 1.0, (True, False, True)))
    assert html == "<p><b>ctc</b>: &lt;script&gt; <mark>&amp;</mark> x</p>"


def test_the_served_page_answers(folder, tmp_path):
    """Through the real queue and HTTP, on this machine only."""
    client_module = pytest.importorskip("gradio_client")
    path = write_speechlike(tmp_path / "a.wav", 1.0)
    page = demo_app.build_app(lambda name: Transcriber.load(name, device="cpu"), no_voice).queue(max_size=2)
    page.launch(server_name="127.0.0.1", server_port=None, prevent_thread_lock=True, quiet=True)
    try:
        client = client_module.Client(page.local_url, verbose=False, download_files=str(tmp_path / "down"))
        text, *_, subtitles = client.predict(
            client_module.handle_file(str(path)), str(folder), "auto", api_name="/transcribe"
        )
        assert text == Transcriber.load(folder, device="cpu").transcribe(path).text
        assert len(subtitles) == 2
    finally:
        page.close()
