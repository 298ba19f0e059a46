"""The web page: speech to text with word times, language and subtitles. Needs ``speechnar[demo]``.

Everything happens on this machine: the page binds to 127.0.0.1 and models load when they are first used.
"""

from collections.abc import Callable
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from speechnar import Comparison, SpeechnarError, Transcriber, Transcript, list_models
from speechnar.hub import DEFAULT_MODEL
from speechnar.text.languages import name_of
from speechnar.text.transcript import write_transcript

MAX_FILE_SIZE = "200mb"
CLEAN_EVERY_S = 3600
"""Uploads and subtitles are deleted at this age."""


def build_app(transcriber_factory: Callable[[str], Transcriber]) -> gr.Blocks:
    """Lay out the page; ``transcriber_factory`` turns a model's name into a model on first use."""
    names = [info.name for info in list_models()] or [DEFAULT_MODEL]

    def transcribe(path: str | None, model: str, language: str) -> tuple[Any, ...]:
        if not path:
            raise gr.Error("Record or upload something first.")
        try:
            transcript = transcriber_factory(model).transcribe(path, language=language or "auto", word_timestamps=True)
        except SpeechnarError as error:
            raise gr.Error(str(error)) from None
        rows = [
            [f"{word.start:.2f}", f"{word.end:.2f}", word.word, f"{word.probability:.2f}"]
            for segment in transcript.segments
            for word in segment.words or ()
        ]
        return transcript.text, _describe_language(transcript), rows, _write_subtitles(transcript, Path(path))

    def compare(path: str | None, model: str, language: str) -> tuple[str, list[list[str]]]:
        if not path:
            raise gr.Error("Record or upload something first.")
        try:
            found = transcriber_factory(model).compare(path, language=language or "auto")
        except SpeechnarError as error:
            raise gr.Error(str(error)) from None
        rows = [[item.decoder, f"{item.wall_s:.3f}", f"{item.rtf:.4f}"] for item in found]
        return "".join(_mark_differences(item) for item in found), rows

    with gr.Blocks(title="speechnar", delete_cache=(CLEAN_EVERY_S, CLEAN_EVERY_S)) as app:
        gr.Markdown("# speechnar\nNon-autoregressive speech recognition, on this machine.")
        with gr.Tab("Transcribe"):
            with gr.Row():
                with gr.Column():
                    audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Speech")
                    model = gr.Dropdown(names, value=names[0], label="Model", allow_custom_value=True)
                    language = gr.Textbox("auto", label="Language (a code or an English name; auto detects it)")
                    button = gr.Button("Transcribe", variant="primary")
                with gr.Column():
                    text = gr.Textbox(label="Text", lines=6)
                    detected = gr.Textbox(label="Language")
                    subtitles = gr.File(label="Subtitles", file_count="multiple")
            words = gr.Dataframe(headers=["start (s)", "end (s)", "word", "probability"], label="Words")
        with gr.Tab("Compare decoders"):
            gr.Markdown("One encoder, several decoders. Marked words differ from the first decoder's.")
            compared_audio = gr.Audio(sources=["upload", "microphone"], type="filepath", label="Speech")
            with gr.Row():
                compared_model = gr.Dropdown(names, value=names[0], label="Model", allow_custom_value=True)
                compared_language = gr.Textbox("auto", label="Language")
            compare_button = gr.Button("Compare", variant="primary")
            texts = gr.HTML(label="Texts")
            times = gr.Dataframe(headers=["decoder", "time (s)", "real-time factor"], label="Times")
        compare_button.click(
            compare,
            inputs=[compared_audio, compared_model, compared_language],
            outputs=[texts, times],
            api_name="compare",
            concurrency_limit=1,
        )
        button.click(
            transcribe,
            inputs=[audio, model, language],
            outputs=[text, detected, words, subtitles],
            api_name="transcribe",
            concurrency_limit=1,
        )
    return app


def main(*, device: str = "auto", port: int = 7860) -> None:
    """Serve the page to this machine."""
    load = lru_cache(maxsize=2)(lambda name: Transcriber.load(name, device=device))
    app = build_app(load).queue(max_size=16)
    app.launch(server_name="127.0.0.1", server_port=port, max_file_size=MAX_FILE_SIZE)


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
