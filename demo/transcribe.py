"""Transcribe: a recording of any length to words that follow it, can be corrected, and become subtitles."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import soundfile

from demo import words
from demo.machine import Job
from demo.models import language_choices
from demo.page import CLIP_S, SENTENCE, Clock, Page, Updates, buttons, connect, explain, model_choice, recording
from speechnar import DecodeOptions, Segment, SpeechnarError, Transcriber, Transcript
from speechnar.audio.io import AudioStream
from speechnar.extras import needs
from speechnar.text.transcript import FORMATS, write_transcript

with needs("demo"):
    import gradio as gr

BLOCK_S = 10.0
"""Of a long recording, what is heard in one step."""
SHOWN_SEGMENTS = 4
"""Of a long recording, while it is heard."""
DECODERS = {
    "ctc": "CTC",
    "cassnat": "CASS-NAT",
    "paraformer": "Paraformer",
    "refiner": "refined CTC",
    "transformer_ar": "autoregressive",
}


def build(page: Page) -> list[tuple[Any, list[Any], list[Any]]]:
    """Lay out the tab; return what is to be done when the page opens."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            audio = recording("Speech (up to 200 MB; long recordings come piece by piece)")
            run, stop = buttons("Transcribe")
            with gr.Accordion("Language, model, decoder", open=False):
                language = gr.Dropdown(
                    language_choices(page.offer.languages(page.offer.recognizers[0])), value="auto", label="Language"
                )
                model = model_choice(page, page.offer.recognizers)
                decoder = gr.Dropdown([("the model's own", "")], value="", label="Decoder")
        with gr.Column(scale=3, min_width=300):
            status = gr.HTML(label="What is being done")
            shown = gr.HTML(label="Words")
            text = gr.Textbox(label="Text to be corrected; each line is a caption", lines=3, visible=False)
            files = gr.File(label="Text and subtitles", file_count="multiple", interactive=False, visible=False)
    transcript, folder = gr.State(), gr.State()

    def transcribe(job: Job, path: str | None, language: str, name: str, decoder: str) -> Iterator[Updates]:
        model = job.run(lambda: page.shelf.transcriber(name))
        given = path
        path, about = page.recording_or_example(job, path, SENTENCE)
        yield {audio: path} if given is None else {}
        clock, found = Clock(), None
        for found, share in _hear(job, model, path, language, DecodeOptions(decoder=decoder or None)):
            if isinstance(found, Transcript):
                break
            heard = f"{words.clock(found[-1].end)} heard" if found else "Listening"
            partial = "".join(f"<p>{segment.text}</p>" for segment in found[-SHOWN_SEGMENTS:])
            yield {status: words.working(heard, share), shown: f'<div class="sn-partial">{partial}</div>'}
        assert isinstance(found, Transcript)
        found = replace(found, file=Path(path).name)
        where = mkdtemp(prefix="subtitles-", dir=Path(path).parent)
        is_speech = bool(found.text.strip())
        yield {
            status: about
            + words.note(words.language_of(found))
            + words.pace(found.duration, clock.seconds, "sound")
            + words.warnings(explain(warning, (path,)) for warning in job.notes),
            shown: words.transcript_html(found, words.file_url(path)),
            text: gr.update(value="\n".join(segment.text for segment in found.segments), visible=is_speech),
            files: gr.update(value=_write(found, where) if is_speech else None, visible=is_speech),
            transcript: found,
            folder: where,
        }

    def correct(text: str, transcript: Transcript | None, folder: str | None) -> Any:
        if transcript is None or folder is None or not text.strip():
            return gr.skip()
        if text.splitlines() == [segment.text for segment in transcript.segments]:  # as it was heard
            return {files: _write(transcript, folder)}
        try:
            corrected = words.with_lines(transcript, text)
        except ValueError as error:
            return {status: words.error(str(error))}
        return {files: _write(corrected, folder), status: words.note("Text and subtitles are as you wrote.")}

    def describe(name: str) -> Updates:
        try:
            with page.machine.job() as job:
                model = job.run(lambda: page.shelf.transcriber(name))
        except SpeechnarError as error:
            return {status: words.error(explain(error))}
        own = [("the model's own", "")]
        found = [(DECODERS.get(each, each), each) for each in model.decoders]
        known = model.languages or page.offer.languages(name)
        return {
            language: gr.update(choices=language_choices(known), value="auto"),
            decoder: gr.update(choices=own + (found if len(found) > 1 else []), value=""),
            status: "",
        }

    connect(
        page,
        run,
        stop,
        transcribe,
        inputs=[audio, language, model, decoder],
        status=status,
        results=[shown, text, files, transcript, folder],
        others=[audio],
        name="transcribe",
    )
    # Not `input`, which knows of single keys only: not of what is pasted, dictated or composed.
    text.change(
        correct, [text, transcript, folder], [files, status], trigger_mode="always_last", show_progress="hidden",
        api_visibility="private",
    )  # fmt: skip
    model.change(describe, [model], [language, decoder, status], show_progress="hidden", api_visibility="private")
    return [(describe, [model], [language, decoder, status])]


def _hear(
    job: Job, model: Transcriber, path: str, language: str, options: DecodeOptions
) -> Iterator[tuple[Transcript | list[Segment], float | None]]:
    """Yield the segments so far, with the share of the recording that they cover if that is known; then all of it."""
    total_s = _duration(path)
    if total_s is not None and total_s <= CLIP_S:
        yield (
            job.run(lambda: model.transcribe(path, language=language, word_timestamps=True, options=options)),
            1.0,
        )
        return
    stream = model.stream(language=language, word_timestamps=True, options=options)
    segments: list[Segment] = []
    heard_s = 0.0
    for block in job.each(AudioStream(path, target_rate=model.sample_rate, block_seconds=BLOCK_S)):
        segments += job.run(lambda block=block: stream.push(block))
        heard_s += len(block) / model.sample_rate
        yield segments, None if total_s is None else min(heard_s / total_s, 1.0)
    yield job.run(stream.finish), 1.0


def _duration(path: str) -> float | None:
    try:
        return float(soundfile.info(path).duration)
    except soundfile.SoundFileError:  # of other decoders, or not audio at all: whoever reads it says so
        return None


def _write(transcript: Transcript, folder: str) -> list[str]:
    stem = Path(transcript.file or "transcript").stem
    return [str(write_transcript(transcript, each, folder, stem)) for each in FORMATS]
