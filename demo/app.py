"""The web page: speech to text at once or live, text to speech, speech with other words, music and sound.

Needs ``speechnar[demo]``.

Everything happens on this machine: the page binds to 127.0.0.1 and models load when they are first used.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from html import escape
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias, TypeVar

import numpy as np

from speechnar import (
    CaptionStream,
    CaptionUpdate,
    Comparison,
    ConfigError,
    Generator,
    GeneratorOptions,
    SpeechnarError,
    Synthesizer,
    Transcriber,
    Transcript,
    TranslationUpdate,
    Translator,
    list_models,
)
from speechnar.audio.io import AudioStream, PushedAudio, Samples, to_int16
from speechnar.extras import needs
from speechnar.hub import CONSENT, DEFAULT_MODEL, DEFAULT_MUSIC_MODEL, DEFAULT_TTS_MODEL, ModelInfo
from speechnar.text.languages import name_of
from speechnar.text.transcript import write_transcript

with needs("demo"):
    import gradio as gr

MAX_FILE_SIZE = "200mb"
CLEAN_EVERY_S = 3600
"""Uploads and subtitles are deleted at this age."""
CAPTION_EVERY_S = 1.0
CHUNK_S = 0.5
"""Of the microphone. When it is switched off, browsers keep what has not filled a chunk."""
SILENT_S = 30.0
"""A microphone that sends nothing for so long is gone."""

COMPARED_KINDS = ("joint",)
"""Of models with several decoders."""
CAPTION_TRANSLATOR_KINDS = ("fretna", "fretna_ctc", "reta")
"""Of models that translate text; wait-k cannot take back what captions take back."""
SENTENCES = (
    ["Hello there. How are you today?"],
    ["The meeting moved from 10:30 to noon; please tell Dr. Smith."],
    ["It cost $5.20, which nobody had expected."],
)
EDIT_HINT = (
    "Only the words that differ are spoken anew. Without the old text the recording is transcribed, and words that the "
    "recogniser mishears count as changed."
)
CAPTIONS_HINT = (
    "What is said, while it is being said; what is grey is new or has just changed. A recording is captioned as fast "
    "as possible."
)
NO_TRANSLATOR_HINT = (
    "No model that translates text is on this machine, so there are captions alone; to have them translated, type the "
    "folder of a model that recipes/multi30k/mt has trained."
)

Number = TypeVar("Number", int, float)
Chunks: TypeAlias = SimpleQueue[tuple[int, Any] | None]
"""What a microphone has sent and nobody has heard yet: Hz and samples (S,) or (S, C); None when it is switched off."""


GENERATE_HINT = (
    "A prompt is words that the model knows (a wrong one is answered with them); without one it makes what it likes. A "
    "recording is gone on from: it comes first. Empty boxes leave the choice to the model."
)


def build_app(
    transcriber_factory: Callable[[str], Transcriber],
    synthesizer_factory: Callable[[str], Synthesizer],
    translator_factory: Callable[[str], Translator],
    generator_factory: Callable[[str], Generator],
) -> gr.Blocks:
    """Lay out the page; the factories turn a model's name into a model on first use."""
    models = list_models()
    recognizers = _names_for("asr", models, DEFAULT_MODEL)
    compared = _names_of(COMPARED_KINDS, models) or recognizers
    translators = _names_of(CAPTION_TRANSLATOR_KINDS, models)
    voices = _names_for("tts", models, DEFAULT_TTS_MODEL)
    generators = _names_for("generation", models, DEFAULT_MUSIC_MODEL)
    with gr.Blocks(title="speechnar", delete_cache=(CLEAN_EVERY_S, CLEAN_EVERY_S)) as app:
        gr.Markdown("# speechnar\nNon-autoregressive speech recognition, synthesis and sound, on this machine.")
        with gr.Tab("Transcribe"):
            _lay_out_transcribe(transcriber_factory, recognizers)
        with gr.Tab("Compare decoders"):
            _lay_out_compare(transcriber_factory, compared)
        with gr.Tab("Live captions"):
            _lay_out_captions(transcriber_factory, translator_factory, recognizers, translators)
        with gr.Tab("Speak"):
            _lay_out_speak(synthesizer_factory, voices)
        with gr.Tab("Edit speech"):
            _lay_out_edit(synthesizer_factory, voices)
        with gr.Tab("Music and sound"):
            _lay_out_generate(generator_factory, generators)
    return app


def main(*, device: str = "auto", port: int = 7860) -> None:
    """Serve the page to this machine."""
    load = lru_cache(maxsize=2)(lambda name: Transcriber.load(name, device=device))
    load_voice = lru_cache(maxsize=2)(lambda name: Synthesizer.load(name, device=device))
    load_translator = lru_cache(maxsize=2)(lambda name: Translator.load(name, device=device))
    load_generator = lru_cache(maxsize=2)(lambda name: Generator.load(name, device=device))
    app = build_app(load, load_voice, load_translator, load_generator).queue(max_size=16)
    app.launch(server_name="127.0.0.1", server_port=port, max_file_size=MAX_FILE_SIZE)


def _lay_out_transcribe(transcriber_factory: Callable[[str], Transcriber], names: list[str]) -> None:
    def transcribe(path: str | None, model: str, language: str) -> tuple[Any, ...]:
        audio, options = _given(path), {"language": language or "auto", "word_timestamps": True}
        transcript = _answer(lambda: transcriber_factory(model).transcribe(audio, **options))
        rows = [
            [f"{word.start:.2f}", f"{word.end:.2f}", word.word, f"{word.probability:.2f}"]
            for segment in transcript.segments
            for word in segment.words or ()
        ]
        return transcript.text, _describe_language(transcript), rows, _write_subtitles(transcript, Path(audio))

    with gr.Row():
        with gr.Column():
            audio = _recording("Speech")
            model = _choice(names)
            language = gr.Textbox("auto", label="Language (a code or an English name; auto detects it)")
            button = gr.Button("Transcribe", variant="primary")
        with gr.Column():
            text = gr.Textbox(label="Text", lines=6)
            detected = gr.Textbox(label="Language")
            subtitles = gr.File(label="Subtitles", file_count="multiple")
    words = gr.Dataframe(headers=["start (s)", "end (s)", "word", "probability"], label="Words")
    _connect(button, transcribe, inputs=[audio, model, language], outputs=[text, detected, words, subtitles])


def _lay_out_compare(transcriber_factory: Callable[[str], Transcriber], names: list[str]) -> None:
    def compare(path: str | None, model: str, language: str) -> tuple[str, list[list[str]]]:
        audio = _given(path)
        found = _answer(lambda: transcriber_factory(model).compare(audio, language=language or "auto"))
        rows = [[item.decoder, f"{item.wall_s:.3f}", f"{item.rtf:.4f}"] for item in found]
        return "".join(_mark_differences(item) for item in found), rows

    gr.Markdown("One encoder, several decoders. Marked words differ from the first decoder's.")
    audio = _recording("Speech")
    with gr.Row():
        model = _choice(names)
        language = gr.Textbox("auto", label="Language")
    button = gr.Button("Compare", variant="primary")
    texts = gr.HTML(label="Texts")
    times = gr.Dataframe(headers=["decoder", "time (s)", "real-time factor"], label="Times")
    _connect(button, compare, inputs=[audio, model, language], outputs=[texts, times])


def _lay_out_captions(
    transcriber_factory: Callable[[str], Transcriber],
    translator_factory: Callable[[str], Translator],
    names: list[str],
    translators: list[str],
) -> None:
    def open_stream(model: str, language: str, translator: str | None) -> tuple[CaptionStream, int]:
        transcriber = transcriber_factory(model)
        speech = transcriber.stream(language=language or "auto")
        source = None if language in ("", "auto") else language
        translation = translator_factory(translator).stream(source=source) if translator else None
        return CaptionStream(speech, translation), transcriber.sample_rate

    def caption(path: str | None, model: str, language: str, translator: str | None) -> Iterator[str]:
        audio = _given(path)
        with _errors_shown():
            stream, rate = open_stream(model, language, translator)
            yield from _render_captions(stream, AudioStream(audio, target_rate=rate, block_seconds=CAPTION_EVERY_S))

    def listen(model: str, language: str, translator: str | None) -> Iterator[tuple[Chunks, str]]:
        chunks: Chunks = SimpleQueue()
        yield chunks, ""  # so that nothing is missed while models load
        with _errors_shown():
            stream, rate = open_stream(model, language, translator)
            for shown in _render_captions(stream, _recorded(chunks, rate)):
                yield chunks, shown

    # Gradio drops chunks that come while one is being worked on: they are only put down here.
    def hear(chunk: tuple[int, Any] | None, chunks: Chunks | None) -> None:
        if chunk is not None and chunks is not None:
            chunks.put(chunk)

    def stop(chunks: Chunks | None) -> None:
        if chunks is not None:
            chunks.put(None)

    gr.Markdown(CAPTIONS_HINT if translators else f"{CAPTIONS_HINT}\n\n{NO_TRANSLATOR_HINT}")
    with gr.Row():
        with gr.Column():
            microphone = gr.Audio(sources=["microphone"], streaming=True, label="Microphone")
            audio = _recording("Recording")
            model = _choice(names)
            language = gr.Textbox("auto", label="Language")
            translator = gr.Dropdown(
                [("captions alone", ""), *translators], value="", label="Translate by", allow_custom_value=True
            )
            button = gr.Button("Caption", variant="primary")
        with gr.Column():
            captions = gr.HTML(label="Captions")
    settings, pushed = [model, language, translator], gr.State()
    _connect(button, caption, inputs=[audio, *settings], outputs=[captions])
    microphone.start_recording(
        listen, settings, [pushed, captions], api_name="listen", concurrency_limit=1, show_progress="hidden"
    )
    microphone.stream(hear, [microphone, pushed], None, api_name="hear", stream_every=CHUNK_S, time_limit=None)
    microphone.stop_recording(stop, [pushed], None, api_name="stop")


def _lay_out_speak(synthesizer_factory: Callable[[str], Synthesizer], names: list[str]) -> None:
    def speak(  # noqa: PLR0917  # gradio passes what the boxes hold by position
        text: str,
        model: str,
        voice: str | None,
        voice_text: str,
        steps: str | None,
        seed: float | None,
        speed: float,
    ) -> tuple[int, Any]:
        said = (voice_text or None) if voice else None
        options = {"seed": int(seed or 0), "speed": speed, "voice": voice, "voice_text": said}
        speech = _answer(
            lambda: synthesizer_factory(model).synthesize(text, steps=_optional(steps, int, "Steps"), **options)
        )
        return speech.sample_rate, to_int16(speech.samples)

    with gr.Row():
        with gr.Column():
            text = gr.Textbox(label="Text", lines=4)
            gr.Examples([list(sentence) for sentence in SENTENCES], inputs=[text])
            model = _choice(names)
            gr.Markdown(CONSENT)
            voice = _recording("Voice: up to 15 s; empty: the model's own")
            voice_text = gr.Textbox(label="What the voice says; empty: it is transcribed")
        with gr.Column():
            steps, seed = _sampling()
            speed = gr.Slider(0.5, 2.0, value=1.0, label="Speed")
            button = gr.Button("Speak", variant="primary")
            speech = gr.Audio(label="Speech", interactive=False)
    _connect(button, speak, inputs=[text, model, voice, voice_text, steps, seed, speed], outputs=[speech])


def _lay_out_edit(synthesizer_factory: Callable[[str], Synthesizer], names: list[str]) -> None:
    def edit(  # noqa: PLR0917  # gradio passes what the boxes hold by position
        path: str | None, model: str, new_text: str, old_text: str, steps: str | None, seed: float | None
    ) -> tuple[tuple[int, Any], list[list[str]]]:
        audio = _given(path)
        options = {"old_text": old_text or None, "seed": int(seed or 0)}
        edited = _answer(
            lambda: synthesizer_factory(model).edit(audio, new_text, steps=_optional(steps, int, "Steps"), **options)
        )
        rows = [
            [
                *(change.old_text, f"{change.old_start:.2f} to {change.old_end:.2f}"),
                *(change.new_text, f"{change.new_start:.2f} to {change.new_end:.2f}"),
            ]
            for change in edited.changes
        ]
        return (edited.sample_rate, to_int16(edited.samples)), rows

    gr.Markdown(f"{EDIT_HINT}\n\n{CONSENT}")
    with gr.Row():
        with gr.Column():
            audio = _recording("Recording")
            new_text = gr.Textbox(label="All that is to be said")
            old_text = gr.Textbox(label="All that is said; empty: it is transcribed")
            model = _choice(names)
        with gr.Column():
            steps, seed = _sampling()
            button = gr.Button("Edit", variant="primary")
            speech = gr.Audio(label="Speech", interactive=False)
    changes = gr.Dataframe(headers=["was", "from, to (s)", "is now", "from, to (s)"], label="Changes")
    _connect(button, edit, inputs=[audio, model, new_text, old_text, steps, seed], outputs=[speech, changes])


def _lay_out_generate(generator_factory: Callable[[str], Generator], names: list[str]) -> None:
    def generate(  # noqa: PLR0917  # gradio passes what the boxes hold by position
        prompt: str,
        model: str,
        continue_from: str | None,
        seconds: float | None,
        steps: str | None,
        guidance: str | None,
        seed: float | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  # how gradio finds out that a bar is wanted
    ) -> tuple[int, Any]:
        def show(stage: str, done: int, total: int) -> None:
            progress((done, total), desc=stage, unit="steps")

        def make() -> Any:
            return generator_factory(model).generate(
                prompt.strip() or None,
                seconds=seconds or 0.0,
                steps=_optional(steps, int, "Steps"),
                seed=int(seed or 0),
                continue_from=continue_from,
                options=GeneratorOptions(guidance=_optional(guidance, float, "Guidance")),
                progress=show,
            )

        sound = _answer(make)
        return sound.sample_rate, to_int16(sound.samples)

    gr.Markdown(GENERATE_HINT)
    with gr.Row():
        with gr.Column():
            prompt = gr.Textbox(label="Prompt")
            model = _choice(names)
            continue_from = _recording("Recording to go on from")
        with gr.Column():
            seconds = gr.Number(10, label="Seconds", minimum=0)
            steps = gr.Textbox("", label="Steps of a window, shared out over the codebooks")
            guidance = gr.Textbox("", label="Guidance: weight of the prompt")
            seed = gr.Number(0, label="Seed", precision=0, minimum=0)
            button = gr.Button("Generate", variant="primary")
            sound = gr.Audio(label="Sound", interactive=False)
    boxes = [prompt, model, continue_from, seconds, steps, guidance, seed]
    _connect(button, generate, inputs=boxes, outputs=[sound])


def _names_for(task: str, models: list[ModelInfo], default: str) -> list[str]:
    """Return the models of a task, the package's own choice first."""
    names = [info.name for info in models if task in info.tasks]
    return sorted(names, key=lambda name: name != default) or [default]


def _names_of(kinds: tuple[str, ...], models: list[ModelInfo]) -> list[str]:
    return [info.name for info in models if info.kind in kinds]


def _recording(label: str) -> gr.Audio:
    return gr.Audio(sources=["upload", "microphone"], type="filepath", label=label)


def _choice(names: list[str]) -> gr.Dropdown:
    return gr.Dropdown(names, value=names[0], label="Model", allow_custom_value=True)


def _sampling() -> tuple[gr.Textbox, gr.Number]:
    steps = gr.Textbox("", label="Steps; empty: as many as the model is made for")
    return steps, gr.Number(0, label="Seed", precision=0, minimum=0)


# A number box cannot be empty: browsers send 0 for it.
def _optional(text: str | None, kind: type[Number], name: str) -> Number | None:
    """Return the number that a box holds, None where it is empty.

    Raises:
        ConfigError: it holds something else.
    """
    if not (text or "").strip():
        return None
    try:
        return kind(text)
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name} must be {what} or empty, got {str(text)[:40]!r}") from None


def _connect(button: gr.Button, function: Callable[..., Any], *, inputs: list[Any], outputs: list[Any]) -> None:
    button.click(function, inputs=inputs, outputs=outputs, api_name=function.__name__, concurrency_limit=1)


def _given(path: str | None) -> str:
    if not path:
        raise gr.Error("Record or upload something first.")
    return path


def _answer(call: Callable[[], Any]) -> Any:
    """Return what ``call`` returns; a mistake of the user is shown on the page."""
    with _errors_shown():
        return call()


@contextmanager
def _errors_shown() -> Iterator[None]:
    try:
        yield
    except SpeechnarError as error:
        raise gr.Error(str(error)) from None


def _recorded(chunks: Chunks, target_rate: int) -> Iterator[Samples]:
    """Yield what has come since the last time, together: whoever is slow is given more at once."""
    audio: PushedAudio | None = None
    is_over = False
    while not is_over:
        try:
            waiting = [chunks.get(timeout=SILENT_S)]
        except Empty:
            break
        while not chunks.empty():
            waiting.append(chunks.get())
        is_over = None in waiting
        heard = []
        for rate, samples in filter(None, waiting):
            audio = audio or PushedAudio(rate, target_rate)
            heard.append(audio.push(samples if samples.ndim == 1 else samples.mean(axis=1).astype(samples.dtype)))
        if heard:
            yield np.concatenate(heard)
    if audio is not None:
        yield audio.finish()


def _render_captions(stream: CaptionStream, blocks: Iterable[Samples]) -> Iterator[str]:
    """Yield all captions as HTML whenever a block has changed them, and at the end."""

    def updates() -> Iterator[tuple[CaptionUpdate, ...]]:
        for block in blocks:
            yield stream.push(block)
        yield stream.finish()

    final = growing = ""
    for changes in updates():
        for update in changes:
            shown = [part for part in (update, update.translation) if part is not None]
            row = f"<tr>{''.join(f'<td>{_grey_unstable(part)}</td>' for part in shown)}</tr>" if update.text else ""
            final, growing = (final + row, "") if update.is_final else (final, row)
        if changes:
            yield f"<table>{final}{growing}</table>"
    if not final:
        yield "<p>No speech was heard.</p>"


def _grey_unstable(shown: CaptionUpdate | TranslationUpdate) -> str:
    """Return a text as HTML, its words escaped and those that are new or have changed grey unless it is final."""
    if shown.is_final:
        return escape(shown.text)
    return f'{escape(shown.stable)} <span style="opacity: 0.5">{escape(shown.unstable)}</span>'


def _mark_differences(item: Comparison) -> str:
    """Return a decoder's text as HTML, its words escaped and those that differ marked."""
    words = [escape(word) for word in item.transcript.text.split()]
    marked = (word if agrees else f"<mark>{word}</mark>" for word, agrees in zip(words, item.agrees, strict=True))
    return f"<p><b>{escape(item.decoder)}</b>: {' '.join(marked)}</p>"


def _describe_language(transcript: Transcript) -> str:
    if transcript.language == "und":
        return "unknown"
    known = f"{name_of(transcript.language)} ({transcript.language})"
    if transcript.language_probability is None:
        return known
    return f"{known}, probability {transcript.language_probability:.2f}"


def _write_subtitles(transcript: Transcript, upload: Path) -> list[str]:
    """Write beside the upload, in gradio's cache, so that both are deleted together."""
    return [str(write_transcript(transcript, name, upload.parent, upload.stem)) for name in ("srt", "vtt")]


if __name__ == "__main__":
    main()
