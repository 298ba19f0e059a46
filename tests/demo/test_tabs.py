"""What each tab's button does, called as gradio would, with tiny models."""

import base64
import json
import re
import subprocess
import sys
import threading
from html import unescape
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

from speechnar import Generator, GeneratorOptions, Synthesizer, Transcriber, Translator
from speechnar.audio.io import to_int16
from speechnar.hub import CONSENT
from speechnar.models.base import save_model
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.mt.test_translator import CARD, TOKENIZER, make
from tests.unit.tiny import RATE, save_tiny_joint, save_tiny_model, save_tiny_tts, vowels, write_speechlike

gr = pytest.importorskip("gradio")

from demo import captions  # noqa: E402
from demo.app import build_app  # noqa: E402
from demo.models import Offer  # noqa: E402
from demo.page import Page  # noqa: E402


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    found = {
        "asr": save_tiny_model(root / "tiny"),
        "joint": save_tiny_joint(root / "joint"),
        "tts": save_tiny_tts(root / "tts"),
        "music": root / "magnet",
    }
    save_model(found["music"], make_generator("magnet"), WORDS)
    for kind in ("fretna_ctc", "wait_k"):
        found[kind] = root / kind
        save_model(found[kind], make(kind), TOKENIZER, card=CARD)
    return found


class Tabs:
    """The page's functions by name, and what they show."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self.loads: list[str] = []
        self.voice = Synthesizer.load(folders["tts"], device="cpu", recognizer=str(folders["asr"]))
        self.generator = Generator.load(folders["music"], device="cpu")
        shelf = SimpleNamespace(
            transcriber=self._noting(lambda name: Transcriber.load(name, device="cpu")),
            synthesizer=self._noting(lambda name: self.voice),
            translator=self._noting(lambda name: Translator.load(name, device="cpu")),
            generator=self._noting(lambda name: self.generator),
        )
        offer = Offer([])
        offer.recognizers = [str(folders["asr"])]
        self.page = Page(shelf, offer)
        self.app = build_app(self.page)
        self.functions = {fn.api_name: fn.fn for fn in self.app.fns.values()}

    def _noting(self, load: Any) -> Any:
        return lambda name: self.loads.append(name) or load(name)

    def updates(self, name: str, *values: Any) -> list[dict[str, Any]]:
        """Return what is shown after each update, by the labels of the boxes."""
        shown: dict[str, Any] = {}
        found = []
        for update in self.functions[name](*values):
            for component, value in update.items():
                is_update = isinstance(value, dict) and value.get("__type__") == "update"
                if not is_update or "value" in value:
                    label = getattr(component, "label", None) or type(component).__name__
                    shown[label] = value["value"] if is_update else value
            found.append(dict(shown))
        return found

    def press(self, name: str, *values: Any) -> SimpleNamespace:
        """Return what is shown in the end; ``status`` is where errors stand."""
        shown = self.updates(name, *values)[-1]
        return SimpleNamespace(status=shown.pop("What is being done"), **{"boxes": shown})


@pytest.fixture(scope="module")
def tabs(folders) -> Tabs:
    tabs = Tabs(folders)
    assert not tabs.loads, "models must load on first use"
    return tabs


def is_error(shown: SimpleNamespace, match: str) -> bool:
    message = unescape(re.sub("<[^>]+>", "", shown.status))
    return 'role="alert"' in shown.status and re.search(match, message) is not None


# Transcribe.


def test_a_recording_becomes_words_text_and_subtitles(tabs, folders, tmp_path):
    path = tmp_path / "my talk.wav"
    soundfile.write(path, vowels(3.0), RATE)
    shown = tabs.press("transcribe", str(path), "auto", str(folders["asr"]), "")
    expected = Transcriber.load(folders["asr"], device="cpu").transcribe(path, word_timestamps=True)
    words = [word for segment in expected.segments for word in segment.words]
    assert shown.boxes["Text to be corrected; each line is a caption"] == expected.text
    spans = re.findall(r'data-start="([\d.]+)" data-end="[\d.]+".*?>([^<]+)</span>', shown.boxes["Words"])
    assert [(float(start), unescape(text)) for start, text in spans] == [
        (pytest.approx(word.start, abs=1e-3), word.word) for word in words
    ]
    assert "sure" in shown.status and "as fast as real time" in shown.status
    files = shown.boxes["Text and subtitles"]
    assert [Path(file).name for file in files] == [f"my talk.{kind}" for kind in ("txt", "json", "srt", "vtt", "tsv")]
    assert json.loads(Path(files[1]).read_text())["file"] == "my talk.wav"
    (correct,) = (fn.fn for fn in tabs.app.fns.values() if fn.name == "correct")
    update = correct("corrected words", expected, str(tmp_path))
    assert any("corrected words" in Path(file).read_text() for file in next(iter(update.values())))
    update = correct("one\ntwo", expected, str(tmp_path))
    assert "keep 1 lines" in next(iter(update.values()))
    (names,) = correct(expected.text, expected, str(tmp_path)).values()  # of the model itself: nothing is said
    assert expected.text in Path(names[0]).read_text()
    assert correct("", None, None) == gr.skip(), "emptied for the next recording"


def test_a_long_recording_comes_piece_by_piece(tabs, folders, tmp_path):
    path = tmp_path / "long.wav"
    pause = np.zeros(RATE, dtype=np.float32)
    wav = np.concatenate([part for seed in range(10) for part in (vowels(4.0, seed=seed), pause)])
    soundfile.write(path, wav, RATE)
    updates = tabs.updates("transcribe", str(path), "auto", str(folders["asr"]), "")
    lines = [shown["What is being done"] for shown in updates]
    shares = [float(share) for line in lines for share in re.findall(r'value="([\d.]+)"', line)]
    assert len(shares) >= 5 and shares == sorted(shares) and shares[-1] == 1
    assert sum("sn-partial" in shown.get("Words", "") for shown in updates) >= 4, "text comes while it is heard"
    expected = said(folders["asr"], soundfile.read(path, dtype="float32")[0])
    assert updates[-1]["Text to be corrected; each line is a caption"].split() == expected


def test_a_job_ends_when_its_page_is_closed(tabs, folders, tmp_path):
    path = tmp_path / "long.wav"
    soundfile.write(path, np.concatenate([vowels(4.0)] * 15), RATE)
    visit = tabs.functions["transcribe"](str(path), "auto", str(folders["asr"]), "")
    for _ in range(3):
        next(visit)
    assert tabs.page.machine.num_jobs == 1
    visit.close()  # as gradio does
    assert tabs.page.machine.num_jobs == 0


def test_silence_is_no_speech(tabs, folders, tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE, dtype=np.float32), RATE)
    shown = tabs.press("transcribe", str(tmp_path / "a.wav"), "auto", str(folders["asr"]), "")
    assert "No speech found." in shown.status and "No speech found." in shown.boxes["Words"]
    assert "sure" not in shown.status and shown.boxes["Text and subtitles"] is None
    assert shown.boxes["Text to be corrected; each line is a caption"] == ""


def test_a_given_language_has_no_probability(tabs, folders, tmp_path):
    path = write_speechlike(tmp_path / "a.wav", 1.0)
    assert "German." in tabs.press("transcribe", str(path), "deu", str(folders["asr"]), "").status


@pytest.mark.parametrize("content", [b"no audio", b""])
def test_mistakes_stand_where_the_result_would(tabs, folders, tmp_path, content, capfd):
    path = tmp_path / "upload.wav"
    path.write_bytes(content)
    good = write_speechlike(tmp_path / "good.wav", 1.0)
    for values, says in (
        ((str(path), "auto", str(folders["asr"]), ""), "^upload.wav: "),
        ((str(good), "auto", "no such model", ""), "no such model"),
        ((str(good), "rus", str(folders["asr"]), ""), "eng, deu, fra"),
        ((str(good), "auto", str(folders["asr"]), "paraformer"), "decodes with ctc"),
    ):
        shown = tabs.press("transcribe", *values)
        assert is_error(shown, says), shown.status
        assert str(tmp_path) not in shown.status and not shown.boxes["Words"]
    assert "Traceback" not in capfd.readouterr().err


def test_the_model_says_its_languages_and_decoders(tabs, folders):
    (describe,) = {fn.fn for fn in tabs.app.fns.values() if fn.name == "describe" and len(fn.outputs) == 3}
    update = {getattr(box, "label", ""): value for box, value in describe(str(folders["joint"])).items()}
    assert [code for _, code in update["Language"]["choices"]] == ["auto", "eng", "fra", "deu"]
    assert [name for _, name in update["Decoder"]["choices"]] == [
        "", "ctc", "cassnat", "paraformer", "refiner", "transformer_ar"
    ]  # fmt: skip
    (message,) = describe("no such model").values()
    assert "no such model" in message


# Live captions.


@pytest.fixture(scope="module")
def talk(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("talk") / "talk.wav"
    silence = np.zeros(RATE, dtype=np.float32)
    soundfile.write(path, np.concatenate([vowels(2.5), silence, vowels(1.5, seed=1)]), RATE)
    return path


def said(folder: Path, wav: np.ndarray) -> list[str]:
    stream = Transcriber.load(folder, device="cpu").stream()
    stream.push(wav)
    return stream.finish().text.split()


def rows_of(html: str) -> list[list[str]]:
    """Return the cells of captions that are final."""
    assert html.startswith("<table") and "sn-unstable" not in html
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [[unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", row)] for row in rows]


def words_of(html: str) -> list[str]:
    return [word for row in rows_of(html) for word in row[0].split()]


def test_a_recording_is_captioned_and_translated(tabs, folders, talk):
    model = str(folders["asr"])
    updates = tabs.updates("caption", str(talk), model, "auto", "", False)
    assert sum("sn-unstable" in shown.get("Words", "") for shown in updates) > 1, "what may change is grey"
    assert words_of(updates[-1]["Words"]) == said(folders["asr"], soundfile.read(talk, dtype="float32")[0])
    assert len(rows_of(updates[-1]["Words"])) == 2
    assert "5 s heard" in updates[-1]["What is being done"] and "words taken back" in updates[-1]["What is being done"]
    shown = tabs.press("caption", str(talk), model, "auto", str(folders["fretna_ctc"]), False)
    translator = Translator.load(folders["fretna_ctc"], device="cpu")
    rows = rows_of(shown.boxes["Words"])
    assert [row[1] for row in rows] == [translator.translate(row[0]).text for row in rows]


def test_a_recording_is_heard_at_its_own_pace(monkeypatch):
    now, slept = [100.0], []
    monkeypatch.setattr(captions.time, "perf_counter", lambda: now[0])

    def sleep(seconds):
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(captions.time, "sleep", sleep)
    blocks = [np.full(RATE, i, dtype=np.float32) for i in range(4)]
    heard = []
    for samples, came in captions._paced(blocks, RATE):
        heard.append((sorted({int(value) for value in samples}), came))
        now[0] += 1.5 if len(heard) == 1 else 0.0  # whoever listens is late once
    assert heard == [([0], 101.0), ([1, 2], 103.0), ([3], 104.0)]


def test_mistakes_in_captions_are_shown(tabs, folders, talk, tmp_path):
    model, path = str(folders["asr"]), str(talk)
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    for given, says in (
        ((str(tmp_path / "bad.wav"), model, "auto", "", False), "^bad.wav: "),
        ((path, "no such model", "auto", "", False), "no such model"),
        ((path, model, "rus", "", False), "eng, deu, fra"),
        ((path, model, "auto", "no such model", False), "no such model"),
        ((path, model, "auto", str(folders["wait_k"]), False), "take another translator"),
        ((path, model, "fra", str(folders["fretna_ctc"]), False), "translates from eng into deu, got source 'fra'"),
    ):
        shown = tabs.press("caption", *given)
        assert is_error(shown, says) and not shown.boxes["Words"]
    soundfile.write(tmp_path / "silence.wav", np.zeros(RATE, dtype=np.float32), RATE)
    assert "No speech" in tabs.press("caption", str(tmp_path / "silence.wav"), model, "auto", "", False).boxes["Words"]


def start_listening(tabs: Tabs, *values: Any) -> tuple[Any, Any]:
    chunks = tabs.functions["switch_on"]()
    listening = tabs.functions["listen"](chunks, *values)
    next(listening)
    return listening, chunks


def shown_words(updates: Any) -> list[str]:
    return [value for update in updates for box, value in update.items() if getattr(box, "label", "") == "Words"]


@pytest.mark.parametrize("channels", [1, 2])
def test_the_microphone_is_captioned_to_its_last_word(tabs, folders, talk, channels):
    wav = soundfile.read(talk, dtype="int16")[0]
    listening, chunks = start_listening(tabs, str(folders["asr"]), "auto", "")
    tabs.functions["hear"](None, chunks)
    for begin in range(0, len(wav), RATE // 2):  # all before the first is heard: none may be lost
        chunk = wav[begin : begin + RATE // 2]
        tabs.functions["hear"]((RATE, chunk if channels == 1 else np.stack([chunk] * 2, axis=1)), chunks)
    tabs.functions["switch_off"](chunks)
    assert words_of(shown_words(listening)[-1]) == said(folders["asr"], wav)


def test_several_microphones_are_captioned_at_once(tabs, folders, talk):
    wav = soundfile.read(talk, dtype="int16")[0]
    shown: list[SimpleQueue[str]] = [SimpleQueue() for _ in range(3)]
    visits = [start_listening(tabs, str(folders["asr"]), "auto", "") for _ in shown]

    def look(listening: Any, to: SimpleQueue[str]) -> None:
        for update in listening:
            for html in shown_words([update]):
                to.put(html)

    threads = [threading.Thread(target=look, args=(visit, to)) for (visit, _), to in zip(visits, shown, strict=True)]
    for thread in threads:
        thread.start()
    for _, chunks in visits:
        tabs.functions["hear"]((RATE, wav[: 2 * RATE]), chunks)
    for to in shown:
        assert "sn-unstable" in to.get(timeout=60), "while all are on"
    for _, chunks in visits:
        tabs.functions["switch_off"](chunks)
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    tabs.functions["hear"]((RATE, wav), None)  # before it is switched on, and after
    tabs.functions["switch_off"](None)
    assert tabs.page.machine.num_jobs == 0


def test_a_microphone_that_is_gone_is_not_waited_for(tabs, folders, monkeypatch):
    monkeypatch.setattr(captions, "SILENT_S", 0.01)
    assert "No speech" in shown_words(start_listening(tabs, str(folders["asr"]), "auto", "")[0])[-1]
    assert is_error(tabs.press("listen", SimpleQueue(), "no such model", "auto", ""), "no such model")


# Speak, edit.


def test_text_is_spoken_and_heard_while_it_is_made(tabs, tmp_path):
    updates = tabs.updates("speak", "Hello.", None, "", 1.5, 2, 7, "any")
    expected = tabs.voice.synthesize("Hello.", steps=2, seed=7, speed=1.5)
    rate, samples = updates[-1]["Speech"]
    assert rate == expected.sample_rate
    np.testing.assert_array_equal(samples, to_int16(expected.samples))
    pieces = {}
    for shown in updates:
        pieces.update(re.findall(r'data-piece="(\d+)" data-pcm="([^"]+)"', shown["Sound while it is made"]))
    assert list(map(int, pieces)) == list(range(len(pieces))) and len(pieces) > 2
    heard = np.concatenate([np.frombuffer(base64.b64decode(pcm), dtype="<i2") for pcm in pieces.values()])
    np.testing.assert_array_equal(heard, samples)
    phones = [token.text for token in expected.tokens if any(map(str.isalnum, token.text))]
    assert re.findall(r'<text x="[\d.]+" y="\d+">([^<]+)<title>', updates[-1]["Picture"]) == phones
    path = tmp_path / "voice.wav"
    soundfile.write(path, vowels(2.0), 16000, subtype="FLOAT")
    shown = tabs.press("speak", "Hello.", str(path), "the cat", 1.0, 0, None, "any")
    expected = tabs.voice.synthesize("Hello.", voice=path, voice_text="the cat")
    np.testing.assert_array_equal(shown.boxes["Speech"][1], to_int16(expected.samples))
    assert is_error(tabs.press("speak", "...", None, "ignored", 1.0, 1, 0, "any"), "letter or a digit")
    assert is_error(tabs.press("speak", "a" * 5001, None, "", 1.0, 1, 0, "any"), "at most 5,000 letters")


def test_what_cannot_be_said_is_named(tabs):
    assert "你好" in tabs.press("speak", "Hello 你好 there.", None, "", 1.0, 1, 0, "any").status


def test_consent_is_asked_for_where_voices_are_given(tabs):
    shown = json.dumps(tabs.app.get_config_file(), default=str)
    assert shown.count(json.dumps(CONSENT)[1:-1]) == 2, "beside the voice, and beside the recording to be edited"


EDIT = (False, 2, 1, 0, "any")


def test_speech_is_edited(tabs, tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, vowels(2.0), 16000)
    shown = tabs.press("edit", str(path), "the cat sat", "the dog sat", "", *EDIT)
    expected = tabs.voice.edit(path, "the dog sat", old_text="the cat sat", steps=1, candidates=2)
    np.testing.assert_array_equal(shown.boxes["After"][1], to_int16(expected.samples))
    (change,) = expected.changes
    for box, start, text in (("Recording before", change.old_start, "cat"), ("Picture after", change.new_start, "dog")):
        assert f"changed: {start:.2f} to" in shown.boxes[box] and f">{text}<title>" in shown.boxes[box]


def test_what_is_said_is_shown_before_anything_is_spoken(tabs, folders, tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, vowels(2.0), 16000)
    heard = Transcriber.load(folders["asr"], device="cpu").transcribe(path).text
    for shown in (tabs.press("edit", str(path), " ", "", "", *EDIT), tabs.press("hear_words", str(path))):
        assert shown.boxes["What is said; correct it first"] == heard
        assert shown.boxes["What is to be said; change some words"] == heard
        assert "Correct it" in shown.status and not shown.boxes.get("After")
    assert tabs.press("hear_words", None).boxes["What is said; correct it first"] == ""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("the cat sat", "a dog ran", "everything would change"),
        ("the cat sat down", "the dog ran away", "75% of the words would change"),
        ("the cat sat", "The cat, sat!", "nothing would change"),
        ("the cat sat", "", "write down what is to be said"),
    ],
)
def test_what_was_surely_not_meant_is_said_before_anything_is_spoken(tabs, tmp_path, old, new, says):
    path = tmp_path / "talk.wav"
    soundfile.write(path, vowels(2.0), 16000)
    shown = tabs.press("edit", str(path), old, new, "", *EDIT)
    assert is_error(shown, says) and shown.boxes["After"] is None


def test_everything_may_change_if_that_is_meant_and_a_wrong_text_is_noticed(tabs, tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, vowels(2.0), 16000)
    shown = tabs.press("edit", str(path), "the cat sat", "a dog ran", "quick brown foxes jump", True, 1, 1, 0, "any")
    assert shown.boxes["After"] and "The recording sounds like “quick brown foxes jump”" in unescape(shown.status)
    shown = tabs.press("edit", str(path), "the cat sat", "the dog sat", "the cat sad", *EDIT)
    assert "sounds like" not in shown.status


def test_long_recordings_are_not_edited(tabs, tmp_path):
    soundfile.write(tmp_path / "long.wav", vowels(31.0), 16000)
    assert is_error(tabs.press("edit", str(tmp_path / "long.wav"), "a b", "a c", "", *EDIT), "up to 30 s")


# Music.

GO_ON = ("continue", None, None)


def test_sound_is_made_and_its_codes_are_seen_being_decided(tabs, tmp_path):
    updates = tabs.updates("generate", "dog", 1, None, *GO_ON, 8, 2, 7, "any")
    expected = tabs.generator.generate("dog", seconds=1.0, steps=8, seed=7, options=GeneratorOptions(guidance=2.0))
    rate, samples = updates[-1]["Sound"]
    assert rate == 16000
    np.testing.assert_array_equal(samples, to_int16(expected.samples))
    stages = [unescape(re.sub("<[^>]+>", "", shown["What is being done"])).strip() for shown in updates]
    assert "Sketching the sound: 1 of" in " ".join(stages) and "Adding fine detail" in " ".join(stages)
    assert sum("<svg" in shown.get("Picture", "") for shown in updates[:-2]) > 2
    path = write_speechlike(tmp_path / "a.wav", 0.5, rate=22050)
    shown = tabs.press("generate", " ", 1, str(path), *GO_ON, 0, 0, None, "any")
    expected = tabs.generator.generate(seconds=1.0, continue_from=path)
    np.testing.assert_array_equal(shown.boxes["Sound"][1], to_int16(expected.samples))
    assert is_error(
        tabs.press("generate", "horse", 1, None, *GO_ON, 0, 0, 0, "any"), "it knows 3 words: dog, cat, barks"
    )
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    assert is_error(tabs.press("generate", "", 1, str(tmp_path / "bad.wav"), *GO_ON, 0, 0, 0, "any"), "^bad.wav: ")


def test_a_part_of_a_recording_is_made_anew(tabs, tmp_path):
    path = write_speechlike(tmp_path / "a.wav", 0.5)
    updates = tabs.updates("generate", "dog", 1, str(path), "infill", 0.1, 0.3, 8, 0, 7, "any")
    expected = tabs.generator.infill(path, 0.1, 0.3, "dog", steps=8, seed=7)
    np.testing.assert_array_equal(updates[-1]["Sound"][1], to_int16(expected.samples))
    assert "0.2 s of sound" in updates[-1]["What is being done"] and "sn-mark" in updates[-1]["Picture"]
    assert sum("sn-codes" in shown.get("Picture", "") for shown in updates[:-2]) > 2
    for given, says in (
        ((str(path), "infill", 0.1, 0.7), "within the 0.50 s"),
        ((None, "infill", 1, 2), "give the rec"),
    ):
        assert is_error(tabs.press("generate", "dog", 1, *given, 8, 0, 7, "any"), says)


def test_words_that_a_model_knows_can_be_clicked(tabs):
    (describe,) = {fn.fn for fn in tabs.app.fns.values() if fn.name == "describe" and len(fn.outputs) == 2}
    (update,) = describe("any").values()
    assert update["choices"] == list(WORDS.pieces[2:])


# Compare.


def test_decoders_are_compared_and_what_they_see_is_drawn(tabs, folders, tmp_path):
    path = write_speechlike(tmp_path / "a.wav", 3.0)
    shown = tabs.press("compare", str(path), "auto", str(folders["joint"]))
    names = re.findall(r"<th>([^<]+)</th><td>", shown.boxes["Texts"])
    assert names == ["CTC", "CASS-NAT", "Paraformer", "refined CTC", "autoregressive"]
    assert "<mark>" in shown.boxes["Texts"] and "s</td>" in shown.boxes["Texts"]
    pictures = shown.boxes["Pictures"]
    assert pictures.count("<svg") == 3, "of those that cut speech"
    assert "sn-window" in pictures and "sn-curve" in pictures and "sn-tick" in pictures
    assert is_error(tabs.press("compare", str(path), "rus", str(folders["joint"])), "eng, deu, fra")
    soundfile.write(tmp_path / "long.wav", vowels(31.0), RATE)
    assert is_error(tabs.press("compare", str(tmp_path / "long.wav"), "auto", str(folders["joint"])), "up to 30 s")


# All of it.


@pytest.mark.slow
def test_nothing_is_loaded_and_nobody_is_told_at_import():
    code = (
        "import os, sys, demo.app; "
        "assert os.environ['GRADIO_ANALYTICS_ENABLED'] == 'False'; "
        "print(*[name for name in sys.modules if name.startswith('speechnar.models.') and name.count('.') > 2])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_served_page_answers(tabs, folders, tmp_path):
    """Through the real queue and HTTP, on this machine only."""
    client_module = pytest.importorskip("gradio_client")
    path = write_speechlike(tmp_path / "a.wav", 1.0)
    tabs.app.launch(server_name="127.0.0.1", server_port=None, prevent_thread_lock=True, quiet=True)
    try:
        client = client_module.Client(tabs.app.local_url, verbose=False, download_files=str(tmp_path / "down"))
        expected = Transcriber.load(folders["asr"], device="cpu").transcribe(path).text
        work = client.submit(
            client_module.handle_file(str(path)), "auto", str(folders["asr"]), "", api_name="/transcribe"
        )
        work.result()
        assert any(expected in str(shown) for shown in work.outputs())
    finally:
        tabs.app.close()
