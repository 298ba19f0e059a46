"""What the tabs share: the boxes, the buttons that start and stop work, and what becomes of errors."""

import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any, TypeAlias

from demo import words
from demo.machine import Job, Machine, Stopped
from demo.models import Offer, Shelf
from speechnar import AudioError, SpeechnarError
from speechnar.audio.io import Samples, read_audio
from speechnar.extras import needs

with needs("demo"):
    import gradio as gr

logger = logging.getLogger(__name__)

Updates: TypeAlias = dict[Any, Any]
"""Components and what they are to show."""
Work: TypeAlias = Callable[..., Iterator[Updates]]
"""Is given the job and what the boxes hold."""

LANES = 16
"""Visitors who can be at work in one tab; the machine gives them turns."""
CLIP_S = 30.0
"""The longest recording of tabs that look at it as a whole."""
DRAWN_RATE = 16000
_FOLDERS = re.compile(r"(?:/[^\s/:'\"]+)+/(?=[^\s/:'\"]+)")


@dataclass(frozen=True)
class Example:
    """A sentence that a shipped voice speaks, so that there is something to try."""

    model: str
    text: str

    @property
    def label(self) -> str:
        """What it is."""
        return f"An example, synthesized by {self.model}: “{self.text}”"


SENTENCE = Example("ljspeech-tts", "Please enter your password. The number you have dialed is not in service.")
DIGITS = Example("fsdd-tts", "one two three four five")
"""What every recogniser here understands, though voice activity detection does not take it for speech."""


@dataclass
class Page:
    """What all tabs work with."""

    shelf: Shelf
    offer: Offer
    machine: Machine = field(default_factory=Machine)
    folder: TemporaryDirectory[str] = field(default_factory=lambda: TemporaryDirectory(prefix="speechnar-examples-"))
    """Of the examples, spoken when they are first asked for."""
    _lock: Lock = field(default_factory=Lock)

    def speak_example(self, job: Job, example: Example) -> str:
        """Return the file of an example."""
        path = Path(self.folder.name) / f"example-{example.model}.wav"
        with self._lock:
            if not path.exists():
                model = job.run(lambda: self.shelf.synthesizer(example.model))
                speech = job.run(lambda: model.synthesize(example.text))
                speech.save(path)
        return str(path)

    def recording_or_example(self, job: Job, path: str | None, example: Example) -> tuple[str, str]:
        """Return the file that was given, or that of an example, and what is to be said about it."""
        if path:
            return path, ""
        return self.speak_example(job, example), words.note(f"{example.label} Record or upload your own.")


def recording(label: str, **options: Any) -> gr.Audio:
    """Return a box for a recording."""
    return gr.Audio(sources=["upload", "microphone"], type="filepath", label=label, buttons=[], **options)


def made_sound(label: str) -> gr.Audio:
    """Return a box for what was made, which can be played and downloaded."""
    return gr.Audio(label=label, interactive=False, buttons=["download"])


def model_choice(page: Page, names: list[str]) -> gr.Dropdown:
    """Return a box for a model, which says what the chosen one is for."""
    about = page.offer.about
    box = gr.Dropdown(names, value=names[0], label="Model", info=about(names[0]), allow_custom_value=True)
    box.change(lambda name: gr.update(info=about(name)), [box], [box], show_progress="hidden", api_visibility="private")
    return box


def seed_box() -> gr.Number:
    """Return a box for a seed; an empty one counts as 0."""
    return gr.Number(0, label="Seed: the same one gives the same result", precision=0, minimum=0)


def own_or(numbers: list[int], label: str) -> gr.Dropdown:
    """Return a box for a number that may be left to the model: 0."""
    return gr.Dropdown([("the model's own", 0), *((str(number), number) for number in numbers)], value=0, label=label)


def buttons(text: str) -> tuple[gr.Button, gr.Button]:
    """Return what starts a tab's work, by Ctrl+Enter too, and what stops it."""
    with gr.Row():
        run = gr.Button(text, variant="primary", elem_classes="sn-run", scale=3)
        stop = gr.Button("Stop", variant="stop", interactive=False, elem_classes="sn-stop", scale=1, min_width=90)
    return run, stop


def connect(
    page: Page,
    run: gr.Button,
    stop: gr.Button,
    work: Work,
    *,
    inputs: list[Any],
    status: gr.HTML,
    results: list[Any],
    others: list[Any] | None = None,
    name: str,
) -> None:
    """Let ``run`` do ``work``, whose updates are shown as they come, until it ends, is stopped, or its page is closed.

    An error stands in ``status``, where the result would, and ``results`` are emptied: none is left of the time before.
    ``others`` may be changed by the work, but are left as they are.
    """
    ready = {run: gr.update(interactive=True), stop: gr.update(interactive=False)}
    running = gr.State()

    def call(*values: Any) -> Iterator[Updates]:
        empty = {component: cleared(component) for component in results}
        busy = {run: gr.update(interactive=False), stop: gr.update(interactive=True)}
        yield {status: words.working("Starting"), **busy, **empty}
        try:
            with page.machine.job() as job:
                yield {running: job}
                yield from filter(None, work(job, *values))  # gradio takes an empty one for a missing result
        except Stopped:
            yield {status: words.note("Stopped.")}
        except SpeechnarError as error:
            yield {status: words.error(explain(error, values)), **empty}
        except Exception:  # a mistake of ours: the page goes on, the log says what
            logger.exception("%s failed", name)
            yield {status: words.error("Something went wrong in this program; its log says what."), **empty}
        yield ready

    def end(job: Job | None) -> Any:
        if job is not None:
            job.stop()
        return gr.update(interactive=False)

    outputs = [status, run, stop, running, *results, *(others or [])]
    run.click(
        call, inputs, outputs, api_name=name, concurrency_limit=LANES, show_progress="hidden", trigger_mode="once"
    )
    # The work itself says that it has stopped. If Gradio cancelled it, what it showed last might stay for good.
    stop.click(end, [running], [stop], concurrency_limit=LANES, show_progress="hidden", api_visibility="private")


def cleared(component: Any) -> Any:
    """Return the update that empties a component."""
    if isinstance(component, gr.State):
        return None
    return gr.update(value="" if isinstance(component, gr.HTML | gr.Textbox) else None)


def explain(problem: Exception | str, values: tuple[Any, ...] = ()) -> str:
    """Return what an error or a warning says, files named as the visitor knows them."""
    text = str(problem)
    for value in values:
        if isinstance(value, str) and "/" in value:
            text = text.replace(value, Path(value).name)
    return _FOLDERS.sub("", text)


def read_clip(path: str) -> Samples:
    """Return the samples (S,) of a recording of up to `CLIP_S`, at `DRAWN_RATE`.

    Raises:
        AudioError: it is longer, or cannot be read.
    """
    heard = read_audio(path, target_rate=DRAWN_RATE)
    if heard.duration > CLIP_S + 0.05:
        raise AudioError(f"this takes up to {CLIP_S:g} s, the recording lasts {heard.duration:.1f} s; cut it first")
    return heard.samples


class Clock:
    """How long something takes."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.perf_counter() - self._started
