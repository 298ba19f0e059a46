"""The web page: speech to text at once or live, text to speech, speech with other words, music and sound.

Needs ``speechnar[demo]``. Everything happens on this machine: the page binds to 127.0.0.1, asks no other host for
anything, and models load when they are first used.
"""

import os
from pathlib import Path

# Read when gradio is imported: nothing is told to anybody, and browsers keep no list of what was asked.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}

from demo import captions, compare, edit, music, speak, transcribe
from demo.models import Offer, Shelf
from demo.page import LANES, Page
from speechnar.extras import needs

with needs("demo"):
    import gradio as gr

MAX_FILE_SIZE = "200mb"
CLEAN_EVERY_S = 3600
"""Uploads and subtitles are deleted at this age."""
MAX_WAITING = 64
TITLE = "# speechnar\nNon-autoregressive speech recognition, synthesis and sound. Nothing leaves this machine."


def build_app(page: Page) -> gr.Blocks:
    """Lay out the page."""
    with gr.Blocks(title="speechnar", analytics_enabled=False, delete_cache=(CLEAN_EVERY_S, CLEAN_EVERY_S)) as app:
        gr.Markdown(TITLE)
        with gr.Tabs(elem_id="sn-tabs"):
            with gr.Tab("Transcribe"):
                opening = transcribe.build(page)
            with gr.Tab("Live captions"):
                captions.build(page)
            with gr.Tab("Speak"):
                speak.build(page)
            with gr.Tab("Edit speech"):
                edit.build(page)
            with gr.Tab("Music") as music_tab:
                chosen = music.build(page)
            with gr.Tab("Compare decoders"):
                compare.build(page)
        for function, inputs, outputs in opening:
            app.load(function, inputs, outputs, show_progress="hidden", api_visibility="private")
        for function, inputs, outputs in chosen:
            music_tab.select(function, inputs, outputs, show_progress="hidden", api_visibility="private")
    return app.queue(max_size=MAX_WAITING, default_concurrency_limit=LANES)


def launch(page: Page, *, port: int | None = 7860, in_background: bool = False) -> gr.Blocks:
    """Serve the page to this machine; return when it is closed, or at once."""
    app = build_app(page)
    here = Path(__file__).parent
    app.launch(
        server_name="127.0.0.1",
        server_port=port,
        max_file_size=MAX_FILE_SIZE,
        allowed_paths=[page.folder.name],
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=(here / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{(here / 'page.js').read_text(encoding='utf-8')}</script>",
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        prevent_thread_lock=in_background,
        quiet=in_background,
    )
    return app


def main(*, device: str = "auto", port: int = 7860) -> None:
    """Serve the page to this machine."""
    launch(Page(Shelf(device=device), Offer()), port=port)
