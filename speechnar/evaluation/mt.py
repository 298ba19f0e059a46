"""Score logs of `speechnar.evaluation.translate`: quality of what is said in the end, flicker, lag and computation.

``python -m speechnar.evaluation.mt DATA_DIR LOG... --target deu`` prints a line of JSON for each log, and with
``--plot FILE`` draws them all.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from speechnar.data.parallel_text import Sentence
from speechnar.errors import DataError
from speechnar.evaluation.translate import TranslationLog
from speechnar.extras import needs
from speechnar.metrics.simultaneous import WORD_S, score_streams
from speechnar.metrics.translation import bleu, chrf

with needs("eval"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

AXES = {
    "laal": "latency: length-adaptive average lagging, source words",
    "erasure": "erasure: words taken back per word of the translation",
    "seconds_per_sentence": "computation: seconds per sentence",
}
"""What quality is drawn over: names in a report, and what they mean."""


def score_log(
    log: TranslationLog, sentences: Mapping[str, Sentence], *, target: str, word_s: float = WORD_S
) -> dict[str, Any]:
    """Return what is known of a system, and its figures.

    Scores of texts are fractions, of detokenised and cased text (``bleu``, ``chrf``) and of lower-cased text, with
    their signatures. What needs updates (`speechnar.metrics.simultaneous.StreamScore`) is left out of logs of whole
    sentences, but for the seconds.

    Args:
        log: of a system.
        sentences: by id, with texts in ``target``.
        target: ISO 639-3 language.
        word_s: seconds from one source word to the next.

    Raises:
        DataError: a sentence of the log has no reference.
    """
    refs = []
    for utt_id in log.sentences:
        ref = sentences[utt_id].in_language(target) if utt_id in sentences else None
        if ref is None:
            raise DataError(f"sentence {utt_id!r} of the log has no reference in {target}; is it of other data?")
        refs.append(ref)
    streams = list(log.sentences.values())
    hyps = [" ".join(stream.final) for stream in streams]
    scores = {
        "bleu": bleu(refs, hyps, lang=target),
        "chrf": chrf(refs, hyps),
        "bleu_lowercase": bleu(refs, hyps, lang=target, lowercase=True),
    }
    report: dict[str, Any] = {**log.about}
    for name, score in scores.items():
        report |= {name: round(score.value, 5), f"{name}_signature": score.signature}
    streamed = asdict(score_streams(streams, [len(ref.split()) for ref in refs], word_s=word_s))
    if log.about.get("whole"):
        kept = ("seconds_per_sentence", "update_p50_s", "update_p95_s", "updates", "sentences")
        streamed = {name: streamed[name] for name in kept}
    else:
        report["word_s"] = word_s
    figures = {**streamed, "evaluations_per_update": log.evaluations / streamed["updates"]}
    return report | {
        name: None if math.isnan(value) else round(value, 6) if isinstance(value, float) else value
        for name, value in figures.items()
    }


def plot_reports(reports: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw BLEU over latency, erasure and computation as an image: a point for each report, named by its system.

    Systems that differ only in the values of the same options are a curve. What read whole sentences has computation
    alone.
    """
    curves: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for report in reports:
        options = (*sorted(report["options"]), *(["masked"] if report["masked"] else []))
        curves.setdefault((report["model"], bool(report.get("whole")), options), []).append(report)
    figure = Figure(figsize=(12, 7 * len(AXES)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(AXES), 1, squeeze=False)[:, 0]
    for panel, (name, meaning) in zip(panels, AXES.items(), strict=True):
        for curve in curves.values():
            points = sorted((r[name], 100 * r["bleu"], r["system"]) for r in curve if r.get(name) is not None)
            if not points:
                continue
            (line,) = panel.plot([x for x, _, _ in points], [y for _, y, _ in points], marker="o")
            for x, y, system in points:
                panel.annotate(system, (x, y), (4, 4), textcoords="offset points", fontsize=7, color=line.get_color())
        panel.grid(alpha=0.3)
        panel.set_xlabel(meaning)
        panel.set_ylabel("BLEU")
    panels[-1].set_xscale("log")
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    figure.savefig(temporary, format="png")
    temporary.replace(path)
