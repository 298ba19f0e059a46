"""Live captions: what is said while it is said, from a microphone or a recording that is heard at its own pace."""

import time
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

import numpy as np

from demo import words
from demo.machine import Job
from demo.models import language_choices
from demo.page import LANES, SENTENCE, Page, Updates, buttons, connect, explain, model_choice, recording
from speechnar import CaptionStream, CaptionUpdate, SpeechnarError
from speechnar.audio.io import AudioStream, PushedAudio, Samples
from speechnar.extras import needs

with needs("demo"):
    import gradio as gr

EVERY_S = 0.8
"""Captions are brought up to date, at most."""
CHUNK_S = 0.4
"""Of the microphone. When it is switched off, browsers keep what has not filled a chunk."""
SILENT_S = 30.0
"""A microphone that sends nothing for so long is gone."""

Chunks: TypeAlias = SimpleQueue[tuple[int, Any] | None]
"""What a microphone has sent and nobody has heard yet: Hz and samples (S,) or (S, C); None when it is switched off."""
Heard: TypeAlias = tuple[Samples, float]
"""Samples, and when the last of them was there, in seconds of the machine's clock."""


def build(page: Page) -> None:
    """Lay out the tab."""
    _CaptionsTab(page)


class _CaptionsTab:
    """The boxes, and what they do."""

    def __init__(self, page: Page) -> None:
        self.page = page
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                microphone = gr.Audio(sources=["microphone"], streaming=True, label="Microphone", buttons=[])
                self.audio = recording("Or a recording, heard at its own pace")
                run, stop = buttons("Caption the recording")
                with gr.Accordion("Language, translation, model", open=False):
                    known = page.offer.languages(page.offer.recognizers[0])
                    language = gr.Dropdown(language_choices(known), value="auto", label="Language")
                    choices = [("captions alone", ""), *((name, name) for name in page.offer.translators)]
                    translator = gr.Dropdown(choices, value="", label="Translate by", allow_custom_value=True)
                    model = model_choice(page, page.offer.recognizers)
                    is_paced = gr.Checkbox(True, label="At its own pace (else as fast as possible)")
            with gr.Column(scale=3, min_width=300):
                about = words.note("Black words stay; grey ones are new or have just changed.")
                self.status = gr.HTML(label="What is being done", value=about)
                self.shown = gr.HTML(label="Words")
        self.pushed = gr.State()
        settings = [model, language, translator]
        connect(
            page,
            run,
            stop,
            self.caption,
            inputs=[self.audio, *settings, is_paced],
            status=self.status,
            results=[self.shown],
            others=[self.audio],
            name="caption",
        )
        # In two steps: with the recording, Gradio closes whatever the microphone itself started, the last words unseen.
        microphone.start_recording(
            SimpleQueue,
            None,
            [self.pushed],
            api_name="switch_on",
            concurrency_limit=LANES,
            show_progress="hidden",
        ).then(
            self.listen,
            [self.pushed, *settings],
            [self.shown, self.status],
            api_name="listen",
            concurrency_limit=LANES,
            show_progress="hidden",
        )
        # Gradio drops chunks that come while one is being worked on: they are only put down here.
        microphone.stream(
            hear,
            [microphone, self.pushed],
            None,
            api_name="hear",
            stream_every=CHUNK_S,
            time_limit=None,
            concurrency_limit=LANES,
        )
        microphone.stop_recording(switch_off, [self.pushed], None, api_name="switch_off")
        model.change(
            lambda name: gr.update(choices=language_choices(page.offer.languages(name)), value="auto"),
            [model],
            [language],
            show_progress="hidden",
            api_visibility="private",
        )

    def caption(  # noqa: PLR0917  # gradio passes what the boxes hold by position
        self, job: Job, path: str | None, name: str, language: str, translator: str | None, is_paced: bool
    ) -> Iterator[Updates]:
        """Caption a recording."""
        given = path
        path, about = self.page.recording_or_example(job, path, SENTENCE)
        yield {self.audio: path} if given is None else {}
        stream, rate = self._open(job, name, language, translator)
        blocks = AudioStream(path, target_rate=rate, block_seconds=EVERY_S)
        for html, line in _render(job, stream, _paced(blocks, rate) if is_paced else _at_once(blocks), rate):
            yield {self.shown: html, self.status: about + line}

    def listen(self, chunks: Chunks, name: str, language: str, translator: str | None) -> Iterator[Updates]:
        """Caption what `hear` puts down, until the microphone is switched off or the page closed."""
        yield {self.shown: "", self.status: words.working("Starting")}
        try:
            with self.page.machine.job(is_live=True) as job:
                stream, rate = self._open(job, name, language, translator)
                yield {self.status: words.working("Listening")}
                for html, line in _render(job, stream, _recorded(chunks, rate), rate):
                    yield {self.shown: html, self.status: line}
        except SpeechnarError as error:
            yield {self.shown: "", self.status: words.error(explain(error))}

    def _open(self, job: Job, name: str, language: str, translator: str | None) -> tuple[CaptionStream, int]:
        shelf = self.page.shelf
        transcriber = job.run(lambda: shelf.transcriber(name))
        source = None if language == "auto" else language
        translation = job.run(lambda: shelf.translator(translator)).stream(source=source) if translator else None
        return CaptionStream(transcriber.stream(language=language), translation), transcriber.sample_rate


def hear(chunk: tuple[int, Any] | None, chunks: Chunks | None) -> None:
    """Put down what the microphone has heard."""
    if chunk is not None and chunks is not None:
        chunks.put(chunk)


def switch_off(chunks: Chunks | None) -> None:
    """End what the microphone hears."""
    if chunks is not None:
        chunks.put(None)


def _at_once(blocks: Iterable[Samples]) -> Iterator[Heard]:
    for block in blocks:
        yield block, time.perf_counter()


def _paced(blocks: Iterable[Samples], rate: int) -> Iterator[Heard]:
    """Yield blocks not before they would have been heard; whoever is late is given more at once."""
    due = time.perf_counter()
    late: list[Samples] = []
    for block in blocks:
        due += len(block) / rate
        late.append(block)
        wait_s = due - time.perf_counter()
        if wait_s > 0:
            time.sleep(wait_s)
            yield np.concatenate(late), due
            late = []
    if late:
        yield np.concatenate(late), due


def _recorded(chunks: Chunks, target_rate: int) -> Iterator[Heard]:
    """Yield what has come since the last time, together: whoever is slow is given more at once."""
    audio: PushedAudio | None = None
    is_over = False
    while not is_over:
        try:
            waiting = [chunks.get(timeout=SILENT_S)]
        except Empty:
            break
        came = time.perf_counter()
        while not chunks.empty():
            waiting.append(chunks.get())
        is_over = None in waiting
        heard = []
        for rate, samples in filter(None, waiting):
            audio = audio or PushedAudio(rate, target_rate)
            heard.append(audio.push(samples if samples.ndim == 1 else samples.mean(axis=1).astype(samples.dtype)))
        if heard:
            yield np.concatenate(heard), came
    if audio is not None:
        yield audio.finish(), time.perf_counter()


def _render(job: Job, stream: CaptionStream, heard: Iterable[Heard], rate: int) -> Iterator[tuple[str, str]]:
    """Yield all captions and how they are doing, both HTML, after every block and at the end."""
    rows: list[tuple[str, ...]] = []
    growing: list[tuple[str, ...]] = []
    heard_s = lag_s = 0.0
    num_words = num_erased = 0

    def take(updates: tuple[CaptionUpdate, ...]) -> None:
        nonlocal growing, num_words, num_erased
        for update in updates:
            num_erased += update.erased
            parts = [part for part in (update, update.translation) if part is not None]
            row = [tuple(words.grey_unstable(part) for part in parts)] if update.text else []
            if update.is_final:
                rows.extend(row)
                num_words += len(update.text.split())
            growing = [] if update.is_final else row

    def line() -> str:
        taken_back = num_erased / max(num_words, 1)
        return f"{heard_s:.0f} s heard, captions {lag_s:.1f} s behind, {taken_back:.2f} words taken back for each"

    for samples, came in heard:
        take(job.run(lambda samples=samples: stream.push(samples)))
        heard_s += len(samples) / rate
        lag_s = time.perf_counter() - came
        yield words.captions_html([*rows, *growing]), words.working(line())
    take(job.run(stream.finish))
    html = words.captions_html(rows) if rows else '<p class="sn-empty">No speech found.</p>'
    yield html, words.note(f"{line()}.") + words.warnings(job.notes)
