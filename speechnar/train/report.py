"""What a run tells: `log.jsonl`, TensorBoard, a progress bar or log lines, and a plot."""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from speechnar.extras import needs
from speechnar.train.checkpoint import write_text

with needs("train"):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from torch.utils.tensorboard import SummaryWriter

logger = logging.getLogger(__name__)

PLOTTED_EVERY_S = 30.0
"""At most, and at the end: drawing takes longer than many a validation."""

Entry = dict[str, Any]
"""One line of the log: ``kind`` ("train" or "valid"), ``step``, ``epoch``, ``loss``, ``parts``, and the kind's own."""


class Reporter:
    """Appends entries to ``history`` and shows them; only the main process of several writes."""

    def __init__(self, exp_dir: Path, history: list[Entry], *, step: int, max_steps: int | None, writes: bool) -> None:
        self._exp_dir = exp_dir
        self._history = history
        self._writes = writes
        self._plotted_at, self._is_plotted = time.monotonic(), True
        if not writes:
            return
        # A killed run may have logged steps after its last checkpoint: they will be taken, and logged, again.
        write_text(exp_dir / "log.jsonl", "".join(f"{_to_json(entry)}\n" for entry in history))
        self._log = (exp_dir / "log.jsonl").open("a", encoding="utf-8")
        self._board = SummaryWriter(exp_dir / "tensorboard", purge_step=step + 1)
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._progress = Progress(
            *columns, TextColumn("{task.description}"), console=Console(stderr=True), disable=not sys.stderr.isatty()
        )
        self._task = self._progress.add_task("", total=max_steps, completed=step)
        self._progress.start()

    def advance(self, step: int, loss: float) -> None:
        """Move the progress bar."""
        if self._writes:
            self._progress.update(self._task, completed=step, description=f"loss {loss:.4g}")

    def record(self, entry: Entry) -> None:
        """Add an entry to the history, `log.jsonl`, TensorBoard and the log."""
        self._history.append(entry)
        if not self._writes:
            return
        self._log.write(f"{_to_json(entry)}\n")
        self._log.flush()
        scalars = _scalars(entry)
        for name, value in scalars.items():
            self._board.add_scalar(f"{entry['kind']}/{name}", value, entry["step"])
        shown = " ".join(f"{name} {value:.4g}" for name, value in scalars.items())
        logger.info("%s step %d epoch %d: %s", entry["kind"], entry["step"], entry["epoch"], shown)
        if entry["kind"] == "valid":
            self._is_plotted = False
            if time.monotonic() >= self._plotted_at + PLOTTED_EVERY_S:
                self._plot()

    def close(self) -> None:
        """Plot what is not plotted yet, and release the files and the terminal."""
        if self._writes:
            self._progress.stop()
            self._board.close()
            self._log.close()
            if not self._is_plotted:
                self._plot()

    def _plot(self) -> None:
        plot_history(self._history, self._exp_dir / "history.png")
        self._plotted_at, self._is_plotted = time.monotonic(), True


def plot_history(history: Sequence[Entry], path: Path) -> None:
    """Draw training and validation loss, and below them the validation's other metrics, over the steps."""
    valid = [entry for entry in history if entry["kind"] == "valid"]
    names = sorted({name for entry in valid for name in entry["metrics"]})
    figure = Figure(figsize=(8, 4 + 3 * bool(names)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1 + bool(names), 1, sharex=True, squeeze=False)[:, 0]
    for kind in ("train", "valid"):
        entries = [entry for entry in history if entry["kind"] == kind]
        panels[0].plot([e["step"] for e in entries], [e["loss"] for e in entries], label=f"{kind} loss")
    for name in names:
        panels[1].plot([e["step"] for e in valid], [e["metrics"].get(name, math.nan) for e in valid], label=name)
    for panel in panels:
        panel.grid(alpha=0.3)
        panel.legend()
    panels[-1].set_xlabel("step")
    temporary = path.with_name(f"{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _scalars(entry: Mapping[str, Any]) -> dict[str, float]:
    flat = {name: value for name, value in entry.items() if isinstance(value, int | float)}
    flat.update(entry["parts"])
    flat.update(entry.get("metrics", {}))
    return {name: value for name, value in flat.items() if name not in ("step", "epoch")}


def _to_json(entry: Entry) -> str:
    """JSON has no NaN or Infinity: they become null."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(plain(entry))
