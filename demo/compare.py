"""Compare decoders: what each makes of one recording, and how it cuts speech into tokens."""

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from demo import words
from demo.drawing import Figure
from demo.machine import Job
from demo.models import language_choices
from demo.page import CLIP_S, DIGITS, DRAWN_RATE, Page, Updates, buttons, connect, model_choice, read_clip, recording
from demo.transcribe import DECODERS
from speechnar import Comparison
from speechnar.audio.io import Samples
from speechnar.extras import needs

if TYPE_CHECKING:
    from speechnar import TokenCuts

with needs("demo"):
    import gradio as gr

PX_PER_S = 240
CUTS = {
    "ctc": "CTC: the curve is the probability of anything but blank; each label is a spike where it begins.",
    "cassnat": "CASS-NAT: the trigger mask. Each row is a token and the frames that CTC's alignment lets it see; the "
    "last one is the end of the sentence.",
    "paraformer": "Paraformer: the curve is the weight of each frame (alpha); where the weights add up to one, a token "
    "fires.",
}
ONE_DECODER = "This model has one decoder, so that there is nothing to compare; below is how it cuts speech."
NO_WEIGHTS = (
    "Paraformer: this model takes the tokens of CTC's path in place of weights that fire; these are their times."
)


def build(page: Page) -> None:
    """Lay out the tab."""
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            audio = recording(f"Speech, up to {CLIP_S:g} s")
            run, stop = buttons("Compare")
            with gr.Accordion("Language, model", open=False):
                language = gr.Dropdown(
                    language_choices(page.offer.languages(page.offer.comparable[0])), value="auto", label="Language"
                )
                model = model_choice(page, page.offer.comparable)
        with gr.Column(scale=3, min_width=300):
            status = gr.HTML(
                label="What is being done",
                value=words.note("One encoder, several decoders. Marked words differ from the first one's."),
            )
            table = gr.HTML(label="Texts")
    cuts = gr.HTML(label="Pictures")

    def compare(job: Job, path: str | None, language: str, name: str) -> Iterator[Updates]:
        given = path
        path, about = page.recording_or_example(job, path, DIGITS)
        yield {audio: path} if given is None else {}
        samples = job.run(lambda: read_clip(path))
        model = job.run(lambda: page.shelf.transcriber(name))
        yield {status: about + words.working("Decoding")}
        found = job.run(lambda: model.compare(path, language=language))
        yield {status: about + words.working("Looking how each cuts it"), table: _table(found)}
        drawn = job.run(lambda: model.cuts(path, language=language))
        total_s = sum(item.wall_s for item in found)
        about += words.note(ONE_DECODER) if len(found) == 1 else ""
        yield {
            status: about
            + words.pace(len(found) * len(samples) / DRAWN_RATE, total_s, "sound, for all decoders together"),
            cuts: "".join(_draw(samples, each) for each in drawn),
        }

    def describe(name: str) -> Updates:
        return {language: gr.update(choices=language_choices(page.offer.languages(name)), value="auto")}

    connect(
        page,
        run,
        stop,
        compare,
        inputs=[audio, language, model],
        status=status,
        results=[table, cuts],
        others=[audio],
        name="compare",
    )
    model.change(describe, [model], [language], show_progress="hidden", api_visibility="private")


def _table(found: tuple[Comparison, ...]) -> str:
    rows = "".join(
        f"<tr><th>{escape(DECODERS.get(item.decoder, item.decoder))}</th>"
        f"<td>{words.mark_words(item.transcript.text, item.agrees) or '<i>nothing</i>'}</td>"
        f"<td>{item.wall_s:.2f} s</td><td>{item.rtf:.3f}</td></tr>"
        for item in found
    )
    head = "<tr><th>Decoder</th><th>Text</th><th>Time</th><th>Real-time factor</th></tr>"
    return f'<table class="sn-compare"><thead>{head}</thead><tbody>{rows}</tbody></table>'


def _draw(samples: Samples, cut: "TokenCuts") -> str:
    name = DECODERS.get(cut.decoder, cut.decoder)
    figure = Figure(samples, DRAWN_RATE, title=f"How {name} cuts it", px_per_s=PX_PER_S)
    tokens = [token.replace("▁", "·").replace("Ġ", "·") for token in cut.tokens]
    if len(cut.weights):
        figure.curve(cut.weights, cut.frame_shift_s, "weight of each frame")
    figure.ticks(cut.spans, "token").labels(tokens, cut.spans)
    if cut.windows:
        # Tokens behind the end of the sentence are not written, though CTC has a segment for each.
        figure.mask(cut.windows, tokens + ["end"] * (len(cut.windows) - len(tokens)))
    about = CUTS.get(cut.decoder, "") if len(cut.weights) else NO_WEIGHTS
    return f'<section class="sn-cut"><p>{escape(about)}</p>{figure.html()}</section>'
