"""Speak: text to speech that is heard while it is made, in the model's voice or in one that is given."""

import base64
from collections import deque
from collections.abc import Iterator
from itertools import count

import numpy as np

from demo import words
from demo.drawing import Figure
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
from speechnar import ConfigError
from speechnar.audio.io import Samples, to_int16
from speechnar.extras import needs
from speechnar.hub import CONSENT

with needs("demo"):
    import gradio as gr

SENTENCES = (
    "Hello there. How are you today?",
    "The meeting moved from 10:30 to noon; please tell Dr. Smith.",
    "It cost $5.20, which nobody had expected.",
)
MAX_LETTERS = 5000
PX_PER_S = 240
DRAWN_S = 30.0
"""Of long speech, what is drawn."""
RESENT_PIECES = 24
"""Pieces of sound that are sent again with the newest: pages may leave out an update when several come at once."""
_numbers = count(1)


def build(page: Page) -> None:
    """Lay out the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            text = gr.Textbox(
                SENTENCES[0], label=f"Text, up to {MAX_LETTERS:,} letters", lines=4, max_length=MAX_LETTERS
            )
            run, stop = buttons("Speak")
            gr.Examples([[sentence] for sentence in SENTENCES], inputs=[text], label="Try")
            with gr.Accordion("In somebody's voice", open=False):
                gr.Markdown(CONSENT)
                voice = recording("Voice: up to 15 s are used")
                voice_text = gr.Textbox(label="What the voice says; empty: it is transcribed")
            with gr.Accordion("Speed, steps, seed, model", open=False):
                speed = gr.Slider(0.5, 2.0, value=1.0, step=0.05, label="Speed")
                steps = own_or([1, 2, 4, 8, 16, 32], "Steps: more are slower")
                seed = seed_box()
                model = model_choice(page, page.offer.voices)
        with gr.Column(scale=3, min_width=300):
            status = gr.HTML(label="What is being done")
            live = gr.HTML(label="Sound while it is made")
            speech = made_sound("Speech")
            figure = gr.HTML(label="Picture")

    def speak(  # noqa: PLR0917  # gradio passes what the boxes hold by position
        job: Job,
        text: str,
        voice: str | None,
        voice_text: str,
        speed: float,
        steps: int,
        seed: float | None,
        name: str,
    ) -> Iterator[Updates]:
        if len(text) > MAX_LETTERS:
            raise ConfigError(f"at most {MAX_LETTERS:,} letters are spoken at once, there are {len(text):,}")
        model = job.run(lambda: page.shelf.synthesizer(name))
        clock, first_s, made_s = Clock(), 0.0, 0.0
        player = _LivePlayer(model.sample_rate)
        making = job.watch(
            lambda report: model.synthesize(
                text,
                voice=voice,
                voice_text=(voice_text.strip() or None) if voice else None,
                speed=speed,
                steps=steps or None,
                seed=int(seed or 0),
                heard=report,
            )
        )
        while True:
            try:
                samples = next(making)
            except StopIteration as end:
                spoken = end.value
                break
            first_s = first_s or clock.seconds
            made_s += len(samples) / model.sample_rate
            yield {live: player.play(samples), status: words.working(f"{made_s:.1f} s spoken")}
        wall_s = clock.seconds
        drawn = [token for token in spoken.tokens if token.end <= DRAWN_S and any(map(str.isalnum, token.text))]
        shown = spoken.samples[: round(DRAWN_S * spoken.sample_rate)]
        picture = Figure(shown, spoken.sample_rate, title="Speech, and when its sounds are spoken", px_per_s=PX_PER_S)
        picture.labels([token.text for token in drawn], [(token.start, token.end) for token in drawn])
        yield {
            status: words.pace(spoken.duration, wall_s, "speech")
            + words.note(f"The first sound came after {first_s:.2f} s.")
            + words.warnings(explain(note, (voice,)) for note in job.notes),
            speech: (spoken.sample_rate, to_int16(spoken.samples)),
            figure: picture.html(),
        }

    connect(
        page,
        run,
        stop,
        speak,
        inputs=[text, voice, voice_text, speed, steps, seed, model],
        status=status,
        results=[live, speech, figure],
        name="speak",
    )


class _LivePlayer:
    """Sound for the page's script to play as it comes (`page.js`)."""

    def __init__(self, sample_rate: int) -> None:
        self._number = next(_numbers)
        self._rate = sample_rate
        self._pieces: deque[tuple[int, str]] = deque(maxlen=RESENT_PIECES)
        self._count = 0

    def play(self, samples: Samples) -> str:
        """Return HTML with a piece, and with the last ones before it."""
        encoded = base64.b64encode(np.asarray(to_int16(samples), dtype="<i2").tobytes()).decode()
        self._pieces.append((self._count, encoded))
        self._count += 1
        parts = "".join(f'<i data-piece="{number}" data-pcm="{pcm}"></i>' for number, pcm in self._pieces)
        return f'<div hidden class="sn-pcm" data-speech="{self._number}" data-rate="{self._rate}">{parts}</div>'
