"""The page in a browser, with the shipped models: what a visitor does, and what must not happen meanwhile.

Skips where no Chromium is installed; playwright drives that of the system and fetches none.
"""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("SPEECHNAR_BROWSER")
pytestmark = [
    pytest.mark.slow,  # a server, a browser and every shipped model
    pytest.mark.timeout(180),  # each
    pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium, whose program SPEECHNAR_BROWSER names"),
]

ROOT = Path(__file__).parents[2]
TABS = ("Transcribe", "Live captions", "Speak", "Edit speech", "Music", "Compare decoders")
RATE = 16000
SAID = "Please enter your password. The number you have dialed is not in service."
STEPS, SEED = "Steps: more are slower", "Seed: the same one gives the same result"
PATIENCE_MS = 60_000
"""For what a page shows at once, or within seconds; much longer than that only on a busy machine."""
FIRST_ANSWER_S = 10
"""From the click to what a tab shows, models being loaded meanwhile."""
playwright.expect.set_options(timeout=PATIENCE_MS)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",
)


class Server:
    """The page, served by a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"from demo.app import main; main(port={self.port})"],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while True:
            try:
                urllib.request.urlopen(self.url, timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, "the page is not served"
                time.sleep(0.2)

    def cpu_s(self) -> float:
        """Return the time that it has computed, in all threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


class Visitor:
    """Somebody at the page, and all that goes wrong there."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.faults: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.faults.append(f"script: {error}"))
        page.on("response", lambda answer: answer.status >= 400 and self.faults.append(f"{answer.status} {answer.url}"))
        page.on("requestfailed", self._failed)
        page.on("request", self._requested)
        page.goto(url)
        page.get_by_role("tab", name=TABS[-1], exact=True).wait_for()

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.faults.append(f"console: {message.text}")

    def _failed(self, request: Any) -> None:
        # What the page itself ends is none: its streams of events, and what a player need not read to its end.
        if "ERR_ABORTED" not in str(request.failure):
            self.faults.append(f"failed: {request.url} {request.failure}")

    def _requested(self, request: Any) -> None:
        if not re.match(r"http://127\.0\.0\.1:|data:|blob:", request.url):
            self.faults.append(f"foreign host: {request.url}")

    def open(self, tab: str) -> None:
        self.page.get_by_role("tab", name=tab, exact=True).click()

    @property
    def panel(self) -> Any:
        return self.page.locator("div[role=tabpanel]:visible")

    @property
    def run(self) -> Any:
        return self.page.locator(".sn-run:visible")

    def press(self) -> str:
        """Press the tab's button, wait until it is done, and return what is said about the result."""
        self.watch()
        self.run.click()
        return self.wait()

    def watch(self) -> None:
        """Mark what is said about results so far: what quick work does in between, pages may leave out."""
        self.page.evaluate("document.querySelectorAll('.sn-note, .sn-error').forEach((line) => (line.dataset.old = 1))")

    def wait(self) -> str:
        """Wait until work that began since `watch` is done."""
        self.page.wait_for_function(
            """() => {
                const seen = (what) => [...document.querySelectorAll(what)].some((part) => part.offsetParent);
                const isNew = seen(".sn-note:not([data-old]), .sn-error:not([data-old])");
                return isNew && !seen(".sn-working") && !seen(".sn-run:disabled");
            }"""
        )
        return self.said()

    def said(self) -> str:
        lines = self.page.locator(".sn-note:visible, .sn-error:visible, .sn-warning:visible, .sn-working:visible")
        return "\n".join(lines.all_inner_texts())

    def upload(self, path: Path) -> None:
        """Give a recording to the open tab."""
        self.panel.locator("input[type=file]").first.set_input_files(path)
        self.panel.locator("[data-testid=waveform-controls]").first.wait_for()

    def unfold_all(self) -> None:
        """Show the rare options."""
        for fold in self.panel.locator("button.label-wrap").all():
            fold.click()

    def options(self) -> set[str]:
        """Return the names of all boxes of the open tab but those for recordings and the words to be clicked."""
        roles = "textbox|combobox|listbox|spinbutton|checkbox|radio"
        named = re.findall(rf'- \'?(?:{roles}) "([^"]*)"', self.panel.aria_snapshot())  # quoted where it has a colon
        chips = self.panel.locator("[data-testid=checkbox-group] label").all_inner_texts()
        return {name.removeprefix("number input for ") for name in named} - {
            *map(str.strip, chips),
            "Select input device",
        }

    def change(self, label: str, value: str | bool) -> None:
        """Change what a box holds, as a visitor would."""
        box = self.panel.get_by_label(label, exact=True).or_(
            self.panel.get_by_label(f"number input for {label}", exact=True)
        )
        if isinstance(value, bool):
            box.set_checked(value)
        elif box.get_attribute("role") in ("listbox", "combobox"):
            self.choose(label, value or None)
        else:
            box.fill(value)

    def unfold(self, name: str) -> None:
        self.panel.get_by_role("button", name=name).click()

    def choose(self, label: str, option: str | None = None) -> None:
        """Choose an option of a drop-down, the last one unless told otherwise."""
        box = self.panel.get_by_label(label, exact=True)
        box.click()
        options = self.page.get_by_role("option")
        (options.last if option is None else self.page.get_by_role("option", name=option, exact=True)).click()

    def sound(self, label: str) -> tuple[np.ndarray, int]:
        """Return the samples of what was made, as downloaded."""
        link = self.panel.locator("a[download]").last
        link.wait_for()
        answer = self.page.request.get(link.evaluate("link => link.href"))
        path = Path(self.folder) / f"{label}.wav"
        path.write_bytes(answer.body())
        samples, rate = soundfile.read(path, dtype="float32")
        return samples, rate

    folder: Path


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def sentence(tmp_path_factory) -> Path:
    """Return what the page's own example says: the shipped recogniser is sure of some of its words."""
    from demo.page import SENTENCE
    from speechnar import Synthesizer

    path = tmp_path_factory.mktemp("speech") / "my talk.wav"
    Synthesizer.load(SENTENCE.model, device="cpu").synthesize(SENTENCE.text).save(path)
    return path


@pytest.fixture(scope="module")
def browser(sentence) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        # What its microphone hears, again and again.
        flags = [*FLAGS, f"--use-file-for-fake-audio-capture={sentence}"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def visit(server, browser, tmp_path) -> Iterator[Any]:
    """Return a function that opens the page; in the end, nothing may have gone wrong in any."""
    contexts, visitors = [], []

    def open_page(**options: Any) -> Visitor:
        contexts.append(browser.new_context(permissions=["microphone"], accept_downloads=True, **options))
        visitors.append(Visitor(contexts[-1].new_page(), server.url))
        visitors[-1].folder = tmp_path
        return visitors[-1]

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for visitor in visitors for fault in visitor.faults] == []
    assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    ("tab", "says", "shows"),
    [
        ("Transcribe", "English", ".sn-word"),
        ("Live captions", "words taken back", ".sn-captions td"),
        ("Speak", "of speech in", ".sn-figure svg"),
        ("Edit speech", "of new speech in", ".sn-figure .sn-mark"),
        ("Music", "of sound in", ".sn-figure .sn-codes"),
        ("Compare decoders", "decoders together", ".sn-figure .sn-curve"),
    ],
)
def test_each_tab_answers_as_it_opens(visit, record_property, tab, says, shows):
    visitor = visit()
    visitor.open(tab)
    visitor.run.wait_for()
    is_busy = os.getloadavg()[0] > 1  # with other work than this page's
    visitor.watch()
    started = time.monotonic()
    visitor.run.click()
    visitor.page.locator(f"{shows}:visible").first.wait_for()
    first_s = time.monotonic() - started
    assert says in visitor.wait()
    record_property("first_answer_s", round(first_s, 2))
    assert first_s < FIRST_ANSWER_S or is_busy
    assert not visitor.page.locator(".sn-error:visible").count()


def test_words_can_be_read_clicked_followed_and_corrected(visit, sentence):
    visitor = visit()
    page = visitor.page
    visitor.upload(sentence)
    assert "English" in visitor.press()
    words = page.locator(".sn-word")
    assert "number" in words.all_inner_texts()
    word = words.nth(3)
    start = float(word.get_attribute("data-start"))
    assert start > 0.3
    word.click()
    place = page.evaluate("document.querySelector('.sn-transcript audio').currentTime")
    assert place == pytest.approx(start, abs=0.3)
    page.wait_for_function("document.querySelectorAll('.sn-word.sn-now').length == 1")
    page.wait_for_function("document.querySelector('.sn-transcript audio').currentTime > 1")
    text = page.get_by_label("Text to be corrected")
    text.fill("Quite another text.")
    page.get_by_text("Text and subtitles are as you wrote").wait_for()
    links = page.locator("a[download]:visible")
    names = [Path(link.get_attribute("download") or "").name for link in links.all()]
    (subtitles,) = [link for link, name in zip(links.all(), names, strict=True) if name.endswith(".srt")]
    assert "Quite another text." in page.request.get(subtitles.evaluate("link => link.href")).text()


def test_speech_is_heard_while_it_is_made(visit):
    visitor = visit()
    visitor.open("Speak")
    visitor.page.get_by_label("Text, up to").fill("One sentence. And then another one, a little longer.")
    assert "The first sound came after" in visitor.press()
    assert int(visitor.page.evaluate("document.documentElement.dataset.played")) > 5
    samples, rate = visitor.sound("speech")
    assert rate == RATE and len(samples) > 2 * RATE and np.abs(samples).max() > 0.05


def test_a_word_is_edited(visit, sentence):
    visitor = visit()
    visitor.open("Edit speech")
    visitor.upload(sentence)
    visitor.page.get_by_text("This is what was heard").wait_for()
    old, new = (visitor.page.get_by_label(label) for label in ("What is said", "What is to be said"))
    assert "number" in old.input_value() and new.input_value() == old.input_value()
    old.fill(SAID)
    new.fill(SAID.replace("password", "number"))
    playwright.expect(visitor.page.locator("del")).to_have_count(1)  # those of what was heard are gone
    playwright.expect(visitor.page.locator("del")).to_have_text("password.")
    playwright.expect(visitor.page.locator("ins")).to_have_text("number.")
    assert "of new speech in" in visitor.press()
    edited, _ = visitor.sound("edited")
    recorded, _ = soundfile.read(sentence, dtype="float32")
    np.testing.assert_allclose(edited[: RATE // 2], recorded[: RATE // 2], atol=1e-4)
    assert len(edited) != len(recorded)


def test_captions_advance_while_the_microphone_is_on(visit):
    visitor = visit()
    visitor.open("Live captions")
    page = visitor.page
    # Gradio fetches what encodes the sound when the page opens, and whoever records before it is there is not heard.
    page.wait_for_function("performance.getEntriesByType('resource').filter((f) => /module-/.test(f.name)).length > 1")
    page.wait_for_timeout(1000)
    page.get_by_role("button", name="Record", exact=True).click()
    page.locator(".sn-captions .sn-unstable").first.wait_for()
    first = page.locator(".sn-captions").inner_text()
    page.wait_for_function("first => document.querySelector('.sn-captions').innerText.length > first.length", arg=first)
    assert re.search(r"\d+ s heard, captions [\d.]+ s behind", visitor.said())
    page.get_by_role("button", name="Stop", exact=True).first.click()
    page.wait_for_function("!document.querySelector('.sn-unstable, .sn-working')")


OPTIONS: dict[str, tuple[dict[str, str | bool], str]] = {
    "Transcribe": ({"Model": "joint-asr", "Decoder": "", "Language": "Spanish"}, "Spanish."),
    "Live captions": (
        {
            "Model": "joint-asr",
            "Language": "English",
            "Translate by": "multi30k-eng-deu",
            "At its own pace (else as fast as possible)": False,
        },
        "words taken back",
    ),
    "Speak": (
        {
            "Text, up to 5,000 letters": "one two three",
            "What the voice says; empty: it is transcribed": "",
            "Speed": "1.5",
            STEPS: "2",
            SEED: "3",
            "Model": "fsdd-tts",
        },
        "of speech in",
    ),
    "Edit speech": (
        {
            "What is said; correct it first": SAID,
            "What is to be said; change some words": SAID.replace("password", "number"),
            "Even if most words change": True,
            "Candidates, of which the best one is kept": "2",
            STEPS: "1",
            SEED: "3",
        }
        | {"Model": "ljspeech-tts"},
        "of new speech in",
    ),
    "Music": (
        {
            "Prompt; empty: what the model likes": "coffee",
            "Seconds, up to 60": "2",
            "go on from its end": True,
            "make a part of it anew, from what is on both sides": True,
            "From, in seconds": "1",
            "To, in seconds": "2",
        }
        | {
            "Steps of a window: more are slower": "8",
            "Guidance: weight of the prompt": "2",
            SEED: "3",
            "Model": "opsound-music",
        },
        "1.0 s of sound",
    ),
    "Compare decoders": ({"Language": "English", "Model": "joint-asr"}, "decoders together"),
}
"""Of each tab, all options and what they are changed to, and what the result then says."""
WITH_RECORDING = ("Transcribe", "Live captions", "Edit speech", "Music", "Compare decoders")


@pytest.mark.parametrize("tab", TABS)
def test_every_option_is_changed_and_heeded(visit, sentence, tab):
    changes, says = OPTIONS[tab]
    visitor = visit()
    visitor.open(tab)
    visitor.unfold_all()
    if tab in WITH_RECORDING:
        visitor.upload(sentence)
    if tab == "Edit speech":
        visitor.page.get_by_text("This is what was heard").wait_for()
        for label in ("What is said; correct it first", "What is to be said; change some words"):
            playwright.expect(visitor.panel.get_by_label(label, exact=True)).not_to_have_value("")
    for label, value in changes.items():
        visitor.change(label, value)
    assert visitor.options() == set(changes), "each option of the tab, and no other"
    assert says in visitor.press()
    assert not visitor.page.locator(".sn-error:visible").count()
    if tab == "Live captions":
        assert visitor.page.locator(".sn-captions tr").first.locator("td").count() == 2, "words and their translation"


def test_words_that_the_model_of_music_knows_are_clicked(visit):
    visitor = visit()
    visitor.open("Music")
    chip = visitor.panel.get_by_role("checkbox").first
    chip.check()
    playwright.expect(visitor.page.get_by_label("Prompt")).to_have_value(re.compile(r"\w+"))


def test_short_work_passes_long_work_which_ends_with_its_page(visit, server, sentence, tmp_path):
    samples, rate = soundfile.read(sentence, dtype="int16")
    samples = np.concatenate([samples, np.zeros(rate // 2, dtype=np.int16)])
    long = tmp_path / "ten minutes.wav"
    soundfile.write(long, np.tile(samples, 600 * rate // len(samples) + 1)[: 600 * rate], rate)
    first, second = visit(), visit()
    first.upload(long)
    second.upload(sentence)
    first.run.click()
    first.page.locator(".sn-partial p").first.wait_for()
    assert "English" in second.press()
    assert "heard" in first.said(), "the long one is not done yet"
    first.page.close()
    deadline = time.monotonic() + 60
    while True:
        before = server.cpu_s()
        time.sleep(1)
        if server.cpu_s() - before < 0.3:
            break
        assert time.monotonic() < deadline, "the server works on for a page that is closed"


def test_work_can_be_stopped(visit):
    visitor = visit()
    visitor.open("Music")
    visitor.page.get_by_label("number input for Seconds, up to 60").fill("60")
    visitor.run.click()
    visitor.page.locator(".sn-working:visible", has_text="steps").wait_for()
    visitor.page.locator(".sn-stop:visible").click()
    visitor.page.get_by_text("Stopped.").wait_for()
    playwright.expect(visitor.run).to_be_enabled(timeout=PATIENCE_MS)


def test_mistakes_stand_where_the_result_was(visit, sentence, tmp_path):
    visitor = visit()
    visitor.upload(sentence)
    visitor.press()
    assert visitor.page.locator(".sn-word").count() > 3
    silent = tmp_path / "silent.wav"
    soundfile.write(silent, np.zeros(RATE, dtype=np.int16), RATE)
    again = visit()
    again.upload(silent)
    again.press()
    assert again.page.locator(".sn-empty").inner_text() == "No speech found."
    visitor.unfold("Language, model, decoder")
    box = visitor.panel.get_by_label("Model", exact=True)
    box.fill("no such model")
    box.press("Enter")
    visitor.page.locator(".sn-error:visible").wait_for()
    said = visitor.press()
    assert "no such model" in said and "/" not in said.replace("owner/name", "")
    assert visitor.page.locator(".sn-word").count() == 0, "the old result is gone"


def test_keys_change_tabs_and_run(visit):
    visitor = visit()
    page = visitor.page
    page.get_by_role("tab", name="Transcribe").focus()
    for tab in TABS[1:3]:
        page.keyboard.press("ArrowRight")
        playwright.expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
    page.get_by_label("Text, up to").fill("Hello.")
    visitor.watch()
    page.keyboard.press("Control+Enter")
    assert "of speech in" in visitor.wait()
    page.get_by_role("tab", name="Speak").focus()
    page.keyboard.press("ArrowLeft")
    playwright.expect(page.get_by_role("tab", name="Live captions")).to_have_attribute("aria-selected", "true")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_page_shows_all_tabs_and_needs_no_scrolling_sideways(visit, scheme):
    visitor = visit(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    page = visitor.page
    for tab in TABS:
        button = page.get_by_role("tab", name=tab, exact=True)
        box = button.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390
        visitor.open(tab)
        visitor.run.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    visitor.open("Speak")
    assert page.get_by_label("Text, up to").bounding_box()["y"] < visitor.run.bounding_box()["y"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.search(r"\d+", background)[0])
    assert (red < 60) == (scheme == "dark")
