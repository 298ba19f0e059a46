"""Drawings of what was scored, the only part of evaluation that needs matplotlib."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechnar.extras import needs

with needs("eval"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

AXES = {
    "laal": "latency: length-adaptive average lagging, source words",
    "erasure": "erasure: words taken back per word of the translation",
    "seconds_per_sentence": "computation: seconds per sentence",
}
"""What quality is drawn over: names in a report, and what they mean."""


def plot_log_mels(log_mels: Mapping[str, NDArray[np.float32]], path: str | Path) -> None:
    """Draw log-mels (T, F) of 100 frames a second by name, one below the other on one time axis, to a PNG file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(10, 1.8 * len(log_mels)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(log_mels), 1, sharex=True, squeeze=False)[:, 0]
    lowest = min(float(np.quantile(values, 0.05)) for values in log_mels.values())
    highest = max(float(values.max()) for values in log_mels.values())
    for panel, (name, values) in zip(panels, log_mels.items(), strict=True):
        extent = (0, len(values) / 100, 0, values.shape[1])
        panel.imshow(values.T, origin="lower", aspect="auto", extent=extent, vmin=lowest, vmax=highest)
        panel.set_ylabel(name)
    panels[-1].set_xlim(0, max(len(values) for values in log_mels.values()) / 100)
    panels[-1].set_xlabel("seconds")
    figure.savefig(path)


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
