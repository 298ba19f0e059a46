"""Music and sound: masked codes of a codec, filled in by parallel steps before one's eyes."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from demo import words
from demo.drawing import DIM, Figure
from demo.machine import Job
from demo.page import (
    Clock,
    Page,
    Updates,
    buttons,
    connect,
    explain,
    made_sound,
    model_choice,
    own_or,
    recording,
    seed_box,
)
from speechnar import ConfigError, Generator, GeneratorOptions, Sketch, Sound, SpeechnarError
from speechnar.audio.io import to_int16
from speechnar.extras import needs

with needs("demo"):
    import gradio as gr

MAX_S = 60
DRAW_EVERY_S = 0.8
"""Drawing takes time from what is drawn."""
LEGEND = (
    '<p class="sn-legend">Below, the codes that the sound is made of, a row for each codebook, the coarsest first. '
    "Bright: decided. Dim: a draft that may be masked again. Black: not tried yet.</p>"
)
GO_ON, FILL_IN = "go on from its end", "make a part of it anew, from what is on both sides"
STAGES = ("Sketching the sound", "Adding shape", "Adding detail", "Adding fine detail")


def build(page: Page) -> list[tuple[Any, list[Any], list[Any]]]:
    """Lay out the tab; return what is to be done when it is opened."""
    tab = _MusicTab(page)
    return [(tab.describe, [tab.model], [tab.chips, tab.status])]


class _MusicTab:
    """The boxes, and what they do."""

    def __init__(self, page: Page) -> None:
        self.page = page
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                prompt = gr.Textbox(label="Prompt; empty: what the model likes", lines=1)
                self.chips = gr.CheckboxGroup([], label="Words that the model knows", visible=False)
                seconds = gr.Slider(1, MAX_S, value=10, step=1, label=f"Seconds, up to {MAX_S}")
                run, stop = buttons("Generate")
                with gr.Accordion("Go on from a recording, or make a part of it anew", open=False):
                    given = recording("Recording")
                    choices = [(GO_ON, "continue"), (FILL_IN, "infill")]
                    task = gr.Radio(choices, value="continue", label="What to do with it")
                    with gr.Row(visible=False) as part:
                        start = gr.Number(1, label="From, in seconds", minimum=0, min_width=100)
                        end = gr.Number(3, label="To, in seconds", minimum=0, min_width=100)
                with gr.Accordion("Steps, guidance, seed, model", open=False):
                    steps = own_or([8, 16, 30, 60, 120], "Steps of a window: more are slower")
                    guidance = own_or([1, 2, 3, 5, 10], "Guidance: weight of the prompt")
                    seed = seed_box()
                    self.model = model_choice(page, page.offer.generators)
            with gr.Column(scale=3, min_width=300):
                self.status = gr.HTML(label="What is being done")
                self.figure = gr.HTML(label="Picture")
                self.sound = made_sound("Sound")
        connect(
            page,
            run,
            stop,
            self.generate,
            inputs=[prompt, seconds, given, task, start, end, steps, guidance, seed, self.model],
            status=self.status,
            results=[self.figure, self.sound],
            name="generate",
        )
        quiet: Any = {"show_progress": "hidden", "api_visibility": "private"}
        task.input(show_task, [task], [part, seconds], **quiet)
        self.chips.input(" ".join, [self.chips], [prompt], **quiet)
        self.model.change(self.describe, [self.model], [self.chips, self.status], **quiet)

    def generate(  # noqa: PLR0917  # gradio passes what the boxes hold by position
        self,
        job: Job,
        prompt: str,
        seconds: float,
        given: str | None,
        task: str,
        start: float | None,
        end: float | None,
        steps: int,
        guidance: int,
        seed: float | None,
        name: str,
    ) -> Iterator[Updates]:
        """Make sound from words, behind a recording, or within one."""
        wanted, part_s = prompt.strip() or None, (float(start or 0), float(end or 0))
        is_infill = task == "infill"
        if is_infill and not given:
            raise ConfigError("give the recording of which a part is to be made anew")
        model, clock = job.run(lambda: self.page.shelf.generator(name)), Clock()

        def make(report: Callable[[tuple[str, float, str]], None]) -> Sound:
            artist = _Artist(model, report)
            options: Any = {
                "steps": steps or None,
                "seed": int(seed or 0),
                "options": GeneratorOptions(guidance=float(guidance) if guidance and wanted else None),
                "progress": artist.progress,
                "watch": artist.draw,
            }
            if is_infill and given:
                return model.infill(given, *part_s, wanted, **options)
            return model.generate(wanted, seconds=float(seconds), continue_from=given, **options)

        making = job.watch(make)
        while True:
            try:
                stage, share, picture = next(making)
            except StopIteration as finished:
                made: Sound = finished.value
                break
            yield {self.status: words.working(stage, share), self.figure: picture}
        made_s = part_s[1] - part_s[0] if is_infill else seconds
        yield {
            self.status: words.pace(made_s, clock.seconds, "sound")
            + words.warnings(explain(text, (given,)) for text in job.notes),
            self.figure: _draw_infill(made, part_s) if is_infill else _draw(made, seconds),
            self.sound: (made.sample_rate, to_int16(made.samples)),
        }

    def describe(self, name: str) -> Updates:
        """Offer the words that a model knows."""
        try:
            with self.page.machine.job() as job:
                known = job.run(lambda: self.page.shelf.generator(name)).words
        except SpeechnarError as error:
            return {self.status: words.error(explain(error))}
        return {self.chips: gr.update(choices=list(known), value=[], visible=bool(known))}


def show_task(task: str) -> tuple[Updates, Updates]:
    """Show the boxes of a task: where a part begins and ends, or how long what is made is to be."""
    return gr.update(visible=task == "infill"), gr.update(interactive=task != "infill")


def _draw(made: Sound, seconds: float) -> str:
    begin = len(made.samples) - round(seconds * made.sample_rate)  # behind the recording that it goes on from
    picture = Figure(made.samples[max(begin, 0) :], made.sample_rate, title="Sound")
    return picture.grid(made.codes, np.ones(made.codes.shape, dtype=bool)).html() + LEGEND


def _draw_infill(made: Sound, part_s: tuple[float, float]) -> str:
    picture = Figure(made.samples, made.sample_rate, title="The recording, and what of it was made anew")
    return picture.mark([part_s], "made anew").html()


class _Artist:
    """Draws what is there, now and then, and says in words what is being done."""

    def __init__(self, model: Generator, report: Callable[[tuple[str, float, str]], None]) -> None:
        self._model = model
        self._report = report
        self._drawn_at = 0.0
        self._picture = ""
        self._done: dict[str, tuple[int, int]] = {}

    def draw(self, sketch: Sketch) -> None:
        """Show decided codes bright, drafts dim, and what was not tried dark."""
        if time.perf_counter() - self._drawn_at < DRAW_EVERY_S:
            return
        is_decided = sketch.is_final[0] & (sketch.codes[0] >= 0)
        brightness = np.where(is_decided, 1.0, DIM).astype(np.float32)
        samples = self._model.preview(sketch)
        figure = Figure(samples, self._model.sample_rate, title="Sound so far", brightness=brightness)
        self._picture = figure.grid(sketch.codes, sketch.is_final).html() + LEGEND
        self._drawn_at = time.perf_counter()

    def progress(self, stage: str, done: int, total: int) -> None:
        """Report the stage and the share of it that is done."""
        numbers = [int(part) for part in stage.split() if part.isdigit()]
        text = STAGES[min(numbers[0], len(STAGES)) - 1] if numbers else "Writing sound"
        self._report((f"{text}: {done} of {total} steps", done / total, self._picture))
