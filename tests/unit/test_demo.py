"""The page's function, called as gradio would."""

import json
import re
import threading
from html import unescape
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import soundfile

from speechnar.asr.transcriber import Comparison, Transcriber
from speechnar.audio.io import to_int16
from speechnar.hub import CONSENT, ModelInfo
from speechnar.models.base import save_model
from speechnar.mt.translator import Translator
from speechnar.sound.generator import Generator, GeneratorOptions
from speechnar.text.transcript import Transcript
from speechnar.tts.synthesizer import Synthesizer
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.mt.test_translator import CARD, TOKENIZER, make
from tests.unit.tiny import RATE, save_tiny_joint, save_tiny_model, save_tiny_tts, vowels, write_speechlike

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

    page = demo_app.build_app(load, load, load, load)
    assert not loads, "models must load on first use"
    (function,) = (fn.fn for fn in page.fns.values() if fn.api_name == "transcribe")
    return function


def not_wanted(name: str) -> Any:
    raise AssertionError(f"{name} was not to be loaded")


@pytest.fixture(scope="module")
def speech_page(folder, tmp_path_factory):
    voice = save_tiny_tts(tmp_path_factory.mktemp("models") / "tts")
    model = Synthesizer.load(voice, device="cpu", recognizer=str(folder))
    page = demo_app.build_app(
        lambda name: Transcriber.load(name, device="cpu"), lambda name: model, not_wanted, not_wanted
    )
    return {fn.api_name: fn.fn for fn in page.fns.values()}, model, page


def test_text_is_spoken(speech_page, tmp_path):
    functions, model, page = speech_page
    rate, samples = functions["speak"]("Hello.", "any", None, "", "2", 7, 1.5)
    expected = model.synthesize("Hello.", steps=2, seed=7, speed=1.5)
    assert rate == expected.sample_rate
    np.testing.assert_array_equal(samples, to_int16(expected.samples))
    path = tmp_path / "voice.wav"
    soundfile.write(path, vowels(2.0), 16000, subtype="FLOAT")
    _, samples = functions["speak"]("Hello.", "any", str(path), "the cat", "", None, 1.0)
    expected = model.synthesize("Hello.", voice=path, voice_text="the cat")
    np.testing.assert_array_equal(samples, to_int16(expected.samples))
    with pytest.raises(gr.Error, match="letter or a digit"):
        functions["speak"]("...", "any", None, "ignored without a voice", "1", 0, 1.0)
    shown = json.dumps(page.get_config_file(), default=str)
    assert shown.count(json.dumps(CONSENT)[1:-1]) == 2, "beside the voice, and beside the recording to be edited"


def test_speech_is_edited(speech_page, tmp_path):
    functions, model, _ = speech_page
    path = tmp_path / "talk.wav"
    soundfile.write(path, vowels(2.0), 16000)
    (rate, samples), rows = functions["edit"](str(path), "any", "the dog", "the cat", "1", 0)
    expected = model.edit(path, "the dog", old_text="the cat", steps=1)
    np.testing.assert_array_equal(samples, to_int16(expected.samples))
    assert rate == 16000
    assert [(row[0], row[2]) for row in rows] == [("cat", "dog")]
    with pytest.raises(gr.Error, match="first"):
        functions["edit"](None, "any", "the dog", "", "1", 0)
    with pytest.raises(gr.Error, match="new text"):
        functions["edit"](str(path), "any", "", "", "1", 0)


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "magnet"
    save_model(folder, make_generator("magnet"), WORDS)
    return folder


def test_sound_is_made(generator, tmp_path, monkeypatch):
    model, loads, shown = Generator.load(generator, device="cpu"), [], []

    def load(name: str) -> Generator:
        loads.append(name)
        return model

    monkeypatch.setattr(gr.Progress, "__call__", lambda self, done, desc, unit: shown.append((desc, *done)))
    page = demo_app.build_app(not_wanted, not_wanted, not_wanted, load)
    (generate,) = (fn.fn for fn in page.fns.values() if fn.api_name == "generate")
    assert not loads, "models must load on first use"
    rate, samples = generate("dog", "any", None, 0.3, "6", "1.5", 7)
    options = GeneratorOptions(guidance=1.5)
    expected = model.generate("dog", seconds=0.3, steps=6, seed=7, options=options)
    assert (rate, loads) == (16000, ["any"])
    np.testing.assert_array_equal(samples, to_int16(expected.samples))
    assert shown[-1] == ("codebook 4 of 4", 1, 1)
    path = write_speechlike(tmp_path / "a.wav", 0.5, rate=22050)
    _, samples = generate(" ", "any", str(path), 0.3, "", "", None)
    np.testing.assert_array_equal(samples, to_int16(model.generate(seconds=0.3, continue_from=path).samples))
    for prompt, seconds, guidance, message in (
        ("horse", 0.3, "", "it knows 3 words: dog, cat, barks"),
        ("dog", None, "", "seconds must lie in"),
        ("dog", 1e9, "", "seconds must lie in"),
        ("dog", 0.3, "nan", "guidance must lie in"),
        ("dog", 0.3, "much", "Guidance must be a number or empty"),
    ):
        with pytest.raises(gr.Error, match=message):
            generate(prompt, "any", None, seconds, "", guidance, 0)


def test_transcribe_fills_every_box(page, folder, tmp_path):
    path = tmp_path / "my talk.wav"
    soundfile.write(path, vowels(3.0), RATE)
    text, language, rows, subtitles = page(str(path), str(folder), "auto")
    assert text == Transcriber.load(folder, device="cpu").transcribe(path).text
    assert "probability" in language
    assert " ".join(row[2] for row in rows).replace(" ", "") == text.replace(" ", "")
    assert [Path(file).name for file in subtitles] == ["my talk.srt", "my talk.vtt"]
    assert Path(subtitles[0]).read_text().startswith("1\n00:00:")
    assert Path(subtitles[1]).read_text().startswith("WEBVTT\n")


def test_noise_is_of_an_unknown_language(page, folder, tmp_path):
    assert page(str(write_speechlike(tmp_path / "a.wav", 1.0)), str(folder), "auto")[1] == "unknown"


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
    page = demo_app.build_app(lambda name: Transcriber.load(name, device="cpu"), not_wanted, not_wanted, not_wanted)
    (compare,) = (fn.fn for fn in page.fns.values() if fn.api_name == "compare")
    path = write_speechlike(tmp_path / "a.wav", 3.0)
    html, rows = compare(str(path), str(folder), "auto")
    assert [row[0] for row in rows] == ["ctc", "cassnat", "paraformer", "refiner", "transformer_ar"]
    assert all(float(seconds) > 0 and float(rtf) > 0 for _, seconds, rtf in rows)
    assert html.startswith("<p><b>ctc</b>: ")
    assert "<mark>" in html
    with pytest.raises(gr.Error, match="first"):
        compare(None, str(folder), "auto")


@pytest.fixture(scope="module")
def captions_page(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("captions")
    for kind in ("fretna_ctc", "wait_k"):
        save_model(root / kind, make(kind), TOKENIZER, card=CARD)
    silence = np.zeros(RATE, dtype=np.float32)
    soundfile.write(root / "talk.wav", np.concatenate([vowels(2.5), silence, vowels(1.5, seed=1)]), RATE)
    page = demo_app.build_app(
        lambda name: Transcriber.load(name, device="cpu"),
        not_wanted,
        lambda name: Translator.load(name, device="cpu"),
        not_wanted,
    )
    return {fn.api_name: fn.fn for fn in page.fns.values()}, root


def said(folder: Path, wav: np.ndarray) -> list[str]:
    stream = Transcriber.load(folder, device="cpu").stream()
    stream.push(wav)
    return stream.finish().text.split()


def rows_of(html: str) -> list[list[str]]:
    """Return the cells of captions that are final."""
    assert html.startswith("<table>") and "opacity" not in html
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]


def words_of(html: str) -> list[str]:
    return [word for row in rows_of(html) for word in row[0].split()]


def test_a_recording_is_captioned_and_translated(captions_page, folder):
    functions, root = captions_page
    shown = list(functions["caption"](str(root / "talk.wav"), str(folder), "auto", ""))
    assert len(shown) > 3 and all(html.count("opacity") == 1 for html in shown[:2]), "what may change is grey"
    words = said(folder, soundfile.read(root / "talk.wav", dtype="float32")[0])
    assert words_of(shown[-1]) == words and len(rows_of(shown[-1])) == 2
    *_, last = functions["caption"](str(root / "talk.wav"), str(folder), "auto", str(root / "fretna_ctc"))
    assert words_of(last) == words
    translator = Translator.load(root / "fretna_ctc", device="cpu")
    assert [row[1] for row in rows_of(last)] == [translator.translate(row[0]).text for row in rows_of(last)]


def test_mistakes_in_captions_are_shown(captions_page, folder, tmp_path):
    functions, root = captions_page
    talk = str(root / "talk.wav")
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    for given, says in (
        ((None, str(folder), "auto", ""), "first"),
        ((str(tmp_path / "bad.wav"), str(folder), "auto", ""), "not audio|cannot be decoded"),
        ((talk, "no such model", "auto", ""), "no such model"),
        ((talk, str(folder), "rus", ""), "eng, deu, fra"),
        ((talk, str(folder), "auto", "no such model"), "no such model"),
        ((talk, str(folder), "auto", str(root / "wait_k")), "take another translator"),
        ((talk, str(folder), "fra", str(root / "fretna_ctc")), "translates from eng into deu, got source 'fra'"),
    ):
        with pytest.raises(gr.Error, match=says):
            list(functions["caption"](*given))
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE, dtype=np.float32), RATE)
    assert list(functions["caption"](str(tmp_path / "silence.wav"), str(folder), "auto", "")) == [
        "<p>No speech was heard.</p>"
    ]


@pytest.mark.parametrize("channels", [1, 2])
def test_the_microphone_is_captioned_to_its_last_word(captions_page, folder, channels):
    functions, root = captions_page
    wav = soundfile.read(root / "talk.wav", dtype="int16")[0]
    listening = functions["listen"](str(folder), "auto", "")
    chunks, not_wanted = next(listening)
    assert not_wanted == ""
    functions["hear"](None, chunks)
    for begin in range(0, len(wav), RATE // 2):  # all before the first is heard: none may be lost
        chunk = wav[begin : begin + RATE // 2]
        functions["hear"]((RATE, chunk if channels == 1 else np.stack([chunk] * 2, axis=1)), chunks)
    functions["stop"](chunks)
    *_, (_, last) = listening
    assert words_of(last) == said(folder, wav)


def test_captions_come_while_the_microphone_is_on(captions_page, folder):
    functions, root = captions_page
    wav = soundfile.read(root / "talk.wav", dtype="int16")[0]
    listening = functions["listen"](str(folder), "auto", "")
    chunks, _ = next(listening)
    shown: SimpleQueue[str] = SimpleQueue()
    thread = threading.Thread(target=lambda: [shown.put(html) for _, html in listening])
    thread.start()
    functions["hear"]((RATE, wav[: 2 * RATE]), chunks)
    assert "opacity" in shown.get(timeout=60)
    functions["stop"](chunks)
    thread.join(timeout=60)
    assert not thread.is_alive() and "opacity" not in shown.get()
    functions["hear"]((RATE, wav), None)  # before it is switched on, and after
    functions["stop"](None)


def test_a_microphone_that_is_gone_is_not_waited_for(captions_page, folder, monkeypatch):
    functions, _ = captions_page
    monkeypatch.setattr(demo_app, "SILENT_S", 0.01)
    *_, (_, last) = functions["listen"](str(folder), "auto", "")
    assert last == "<p>No speech was heard.</p>"
    listening = functions["listen"]("no such model", "auto", "")
    next(listening)
    with pytest.raises(gr.Error, match="no such model"):
        next(listening)


def test_each_tab_offers_the_models_of_its_task(monkeypatch):
    def offered(**models: tuple[str, str]) -> tuple[list[list[str]], bool]:
        infos = [ModelInfo(name, kind, (task,), 1, (), "", "shipped", Path()) for name, (kind, task) in models.items()]
        monkeypatch.setattr(demo_app, "list_models", lambda: infos)
        page = demo_app.build_app(not_wanted, not_wanted, not_wanted, not_wanted)
        blocks = [block for block in page.blocks.values() if isinstance(block, gr.Dropdown)]
        is_hinted = demo_app.NO_TRANSLATOR_HINT in json.dumps(page.get_config_file()["components"], default=str)
        return [[name for _, name in block.choices] for block in blocks], is_hinted

    ears, mouth, band = ("joint", "asr"), ("tts", "tts"), ("magnet", "generation")
    found = offered(ears=ears, mouth=mouth, band=band, words=("fretna_ctc", "mt"), late=("wait_k", "mt"))
    assert found == ([["ears"], ["ears"], ["ears"], ["", "words"], ["mouth"], ["mouth"], ["band"]], False)
    several = {"a": ("owsm_ctc", "asr"), "joint-asr": ("owsm_ctc", "asr"), "b": ears, "fsdd-tts": mouth}
    found, _ = offered(**several, **{"ljspeech-tts": mouth})
    assert found[:3] == [["joint-asr", "a", "b"], ["b"], ["joint-asr", "a", "b"]]
    assert found[4] == ["ljspeech-tts", "fsdd-tts"]
    assert offered(ears=ears, late=("wait_k", "mt"))[1], "nothing can take back what captions take back"


def test_texts_are_escaped_before_they_are_shown():
    transcript = Transcript("a", "m", "transcribe", "eng", None, 1.0, "<script> & x", ())
    html = demo_app._mark_differences(Comparison("ctc", transcript, 1.0, (True, False, True)))
    assert html == "<p><b>ctc</b>: &lt;script&gt; <mark>&amp;</mark> x</p>"


def test_the_served_page_answers(folder, generator, tmp_path):
    """Through the real queue and HTTP, on this machine only."""
    client_module = pytest.importorskip("gradio_client")
    path = write_speechlike(tmp_path / "a.wav", 1.0)
    page = demo_app.build_app(
        lambda name: Transcriber.load(name, device="cpu"),
        not_wanted,
        not_wanted,
        lambda name: Generator.load(generator, device="cpu"),
    ).queue(max_size=2)
    page.launch(server_name="127.0.0.1", server_port=None, prevent_thread_lock=True, quiet=True)
    try:
        client = client_module.Client(page.local_url, verbose=False, download_files=str(tmp_path / "down"))
        text, *_, subtitles = client.predict(
            client_module.handle_file(str(path)), str(folder), "auto", api_name="/transcribe"
        )
        assert text == Transcriber.load(folder, device="cpu").transcribe(path).text
        assert len(subtitles) == 2
        made = client.predict("dog", "any", None, 0.3, "", "", 1, api_name="/generate")
        expected = Generator.load(generator, device="cpu").generate("dog", seconds=0.3, seed=1)
        np.testing.assert_array_equal(soundfile.read(made, dtype="int16")[0], to_int16(expected.samples))
    finally:
        page.close()
