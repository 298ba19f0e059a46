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
from speechnar import Generator, GeneratorOptions, Sketch, SpeechnarError
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
STAGES = ("Sketching the sound", "Adding shape", "Adding detail", "Adding fine detail")


def build(page: Page) -> list[tuple[Any, list[Any], list[Any]]]:
    """Lay out the tab; return what is to be done when it is opened."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            prompt = gr.Textbox(label="Prompt; empty: what the model likes", lines=1)
            chips = gr.CheckboxGroup([], label="Words that the model knows", visible=False)
            seconds = gr.Slider(1, MAX_S, value=10, step=1, label=f"Seconds, up to {MAX_S}")
            run, stop = buttons("Generate")
            with gr.Accordion("Go on from a recording", open=False):
                before = recording("It comes first, and the sound goes on from it")
            with gr.Accordion("Steps, guidance, seed, model", open=False):
                steps = own_or([8, 16, 30, 60, 120], "Steps of a window: more are slower")
                guidance = own_or([1, 2, 3, 5, 10], "Guidance: weight of the prompt")
                seed = seed_box()
                model = model_choice(page, page.offer.generators)
        with gr.Column(scale=3, min_width=300):
            status = gr.HTML(label="What is being done")
            figure = gr.HTML(label="Picture")
            sound = made_sound("Sound")

    def generate(  # noqa: PLR0917  # gradio passes what the boxes hold by position
        job: Job,
        prompt: str,
        seconds: float,
        before: str | None,
        steps: int,
        guidance: int,
        seed: float | None,
        name: str,
    ) -> Iterator[Updates]:
        model, clock = job.run(lambda: page.shelf.generator(name)), Clock()
        wanted = prompt.strip() or None

        def make(report: Callable[[tuple[str, float, str]], None]) -> Any:
            artist = _Artist(model, report)
            return model.generate(
                wanted,
                seconds=float(seconds),
                steps=steps or None,
                seed=int(seed or 0),
                continue_from=before,
                options=GeneratorOptions(guidance=float(guidance) if guidance and wanted else None),
                progress=artist.progress,
                watch=artist.draw,
            )

        making = job.watch(make)
        while True:
            try:
                stage, share, picture = next(making)
            except StopIteration as end:
                made = end.value
                break
            yield {status: words.working(stage, share), figure: picture}
        begin = len(made.samples) - round(seconds * made.sample_rate)  # behind the recording that it goes on from
        picture = Figure(made.samples[max(begin, 0) :], made.sample_rate, title="Sound")
        picture.grid(made.codes, np.ones(made.codes.shape, dtype=bool))
        yield {
            status: words.pace(seconds, clock.seconds, "sound")
            + words.warnings(explain(text, (before,)) for text in job.notes),
            figure: picture.html() + LEGEND,
            sound: (made.sample_rate, to_int16(made.samples)),
        }

    def choose(words_chosen: list[str]) -> str:
        return " ".join(words_chosen)

    def describe(name: str) -> Updates:
        try:
            with page.machine.job() as job:
                known = job.run(lambda: page.shelf.generator(name)).words
        except SpeechnarError as error:
            return {status: words.error(explain(error))}
        return {chips: gr.update(choices=list(known), value=[], visible=bool(known))}

    connect(
        page,
        run,
        stop,
        generate,
        inputs=[prompt, seconds, before, steps, guidance, seed, model],
        status=status,
        results=[figure, sound],
        name="generate",
    )
    chips.input(choose, [chips], [prompt], show_progress="hidden", api_visibility="private")
    model.change(describe, [model], [chips, status], show_progress="hidden", api_visibility="private")
    return [(describe, [model], [chips, status])]


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
