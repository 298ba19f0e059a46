"""Edit speech: the words of a recording as text; those that are changed are spoken anew."""

from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any

from demo import words
from demo.drawing import Figure
from demo.machine import Job
from demo.page import (
    CLIP_S,
    DRAWN_RATE,
    SENTENCE,
    Clock,
    Page,
    Updates,
    buttons,
    connect,
    explain,
    made_sound,
    model_choice,
    own_or,
    read_clip,
    recording,
    seed_box,
)
from speechnar import ConfigError, SpeechnarError
from speechnar.audio.io import Samples, resample, to_int16
from speechnar.extras import needs
from speechnar.hub import CONSENT

if TYPE_CHECKING:
    from speechnar import EditedSpeech

with needs("demo"):
    import gradio as gr

MOST_CHANGED = 0.5
"""Share of the words; whoever changes more is asked."""
LEAST_ALIKE = 0.35
"""Of the letters of what is heard and of what is said to be said: below, one of them is wrong."""
EXAMPLE_CHANGE = ("password", "number")


def build(page: Page) -> None:
    """Lay out the tab."""
    _EditTab(page)


class _EditTab:
    """The boxes, and what they do."""

    def __init__(self, page: Page) -> None:
        self.page = page
        gr.Markdown(f"Only the words that differ are spoken anew. {CONSENT}")
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                self.audio = recording(f"Recording, mono, up to {CLIP_S:g} s")
                self.old = gr.Textbox(label="What is said; correct it first", lines=2)
                self.new = gr.Textbox(label="What is to be said; change some words", lines=2)
                self.diff = gr.HTML(label="Changes")
                run, stop = buttons("Edit")
                with gr.Accordion("Everything, candidates, steps, seed, model", open=False):
                    everything = gr.Checkbox(False, label="Even if most words change")
                    candidates = gr.Slider(1, 16, value=8, step=1, label="Candidates, of which the best one is kept")
                    steps = own_or([1, 2, 4, 8, 16, 32], "Steps: more are slower")
                    seed = seed_box()
                    model = model_choice(page, page.offer.voices)
            with gr.Column(scale=3, min_width=300):
                self.status = gr.HTML(label="What is being done")
                self.before = gr.HTML(label="Recording before")
                self.speech = made_sound("After")
                self.after = gr.HTML(label="Picture after")
        self.heard = gr.State("")
        connect(
            page,
            run,
            stop,
            self.edit,
            inputs=[self.audio, self.old, self.new, self.heard, everything, candidates, steps, seed, model],
            status=self.status,
            results=[self.before, self.speech, self.after],
            others=[self.audio, self.old, self.new, self.diff, self.heard],
            name="edit",
        )
        outputs = [self.status, self.old, self.new, self.heard, self.diff]
        for event in (self.audio.upload, self.audio.stop_recording, self.audio.clear):
            event(self.hear, [self.audio], outputs, show_progress="hidden", api_name="hear_words")
        gr.on(  # one for both boxes: of two, the one that is asked first may answer last
            # Not `input`, which knows of single keys only: not of what is pasted, dictated or composed.
            [self.old.change, self.new.change],
            show_diff,
            [self.old, self.new],
            [self.diff],
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )

    def hear(self, path: str | None) -> Iterator[Updates]:
        """Transcribe a recording that was given, so that its words can be corrected and changed."""
        empty = {self.old: "", self.new: "", self.heard: "", self.diff: ""}
        if not path:
            yield {**empty, self.status: ""}
            return
        yield {**empty, self.status: words.working("Listening to what is said")}
        try:
            with self.page.machine.job() as job:
                yield from self._show(_listen(job, self.page, path))
        except SpeechnarError as error:
            yield {self.status: words.error(explain(error, (path,)))}

    def edit(  # noqa: PLR0917  # gradio passes what the boxes hold by position
        self,
        job: Job,
        path: str | None,
        old: str,
        new: str,
        heard: str,
        everything: bool,
        candidates: int,
        steps: int,
        seed: float | None,
        name: str,
    ) -> Iterator[Updates]:
        """Speak the words that change; of a recording whose words are not known yet, show them first."""
        about = ""
        if not path:
            path, about = self.page.recording_or_example(job, path, SENTENCE)
            old, new, heard = SENTENCE.text, SENTENCE.text.replace(*EXAMPLE_CHANGE), ""
            yield {self.audio: path, self.old: old, self.new: new, self.diff: show_diff(old, new)}
        samples = job.run(lambda: read_clip(path))
        if not old.strip():
            yield {self.status: words.working("Listening to what is said")}
            yield from self._show(_listen(job, self.page, path))
            return
        check_change(old, new, everything=everything)
        yield {self.status: about + words.working("Speaking the words that change")}
        model, clock = job.run(lambda: self.page.shelf.synthesizer(name)), Clock()
        options = {"steps": steps or None, "candidates": int(candidates), "seed": int(seed or 0)}
        edited: EditedSpeech = job.run(lambda: model.edit(path, new, old_text=old, **options))
        wall_s = clock.seconds
        notes = [explain(note, (path,)) for note in job.notes]
        if heard and alikeness(old, heard) < LEAST_ALIKE:
            notes.append(f"The recording sounds like “{heard[:120]}”, not like what you wrote; is that its text?")
        spoken_s = sum(change.new_end - change.new_start for change in edited.changes)
        yield {
            self.status: about + words.pace(spoken_s, wall_s, "new speech") + words.warnings(notes),
            self.before: f"<h4>Before</h4>{words.player(words.file_url(path))}"
            + _draw(samples, DRAWN_RATE, [(c.old_start, c.old_end, c.old_text) for c in edited.changes]),
            self.speech: (edited.sample_rate, to_int16(edited.samples)),
            self.after: _draw(
                resample(edited.samples, edited.sample_rate, DRAWN_RATE),
                DRAWN_RATE,
                [(c.new_start, c.new_end, c.new_text) for c in edited.changes],
            ),
        }

    def _show(self, text: str) -> Iterator[Updates]:
        if not text:
            yield {self.status: words.error("No speech found in the recording; write down what is said.")}
            return
        yield {self.old: text, self.new: text, self.heard: text, self.diff: ""}
        # Comes last: whoever writes into a box before the page has filled it would lose what was written.
        hint = "This is what was heard. Correct it if need be, then change words in the text below."
        yield {self.status: words.note(hint)}


def show_diff(old: str, new: str) -> str:
    """Return what changes, as HTML."""
    return words.change_html(old.split(), new.split()) if old.strip() and new.strip() else ""


def _listen(job: Job, page: Page, path: str) -> str:
    job.run(lambda: read_clip(path))
    model = job.run(lambda: page.shelf.transcriber(page.offer.recognizers[0]))
    text: str = job.run(lambda: model.transcribe(path)).text
    return text


def check_change(old: str, new: str, *, everything: bool) -> None:
    """Refuse what was surely not meant, before anything is spoken.

    Raises:
        ConfigError: nothing would change, or nearly everything.
    """
    if not new.strip():
        raise ConfigError("write down what is to be said")
    share = words.share_changed(old.split(), new.split())
    if all(kind == "equal" for kind, *_ in words.opcodes(old.split(), new.split())):
        raise ConfigError("nothing would change: the two texts have the same words; change some in the second one")
    if share > MOST_CHANGED and not everything:
        raise ConfigError(
            f"{'everything' if share == 1 else f'{share:.0%} of the words'} would change; correct what is said, or "
            "tick “Even if most words change”"
        )


def alikeness(one: str, other: str) -> float:
    """Return which share of the letters of two texts they have in common, in order."""
    letters = ["".join(filter(str.isalnum, text)).casefold() for text in (one, other)]
    return SequenceMatcher(None, *letters, autojunk=False).ratio()


def _draw(samples: Samples, rate: int, changes: list[tuple[float, float, str]]) -> str:
    spans = [(start, end) for start, end, _ in changes]
    figure = Figure(samples, rate, title="Speech with the words that change").mark(spans, "changed")
    shown: list[Any] = [text or "…" for *_, text in changes]
    return figure.labels(shown, spans).html()
