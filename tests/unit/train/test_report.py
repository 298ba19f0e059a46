"""What a run writes about itself, read back by other means than wrote it."""

import json
import logging
import math
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from speechnar.train import report
from speechnar.train.report import Entry, Reporter, plot_history


def train_entry(step: int, loss: float, **parts: float) -> Entry:
    return {"kind": "train", "step": step, "epoch": 0, "loss": loss, "parts": parts, "lr": 0.5}


def valid_entry(step: int, loss: float, **metrics: float) -> Entry:
    return {"kind": "valid", "step": step, "epoch": 0, "loss": loss, "parts": {}, "metrics": metrics}


def read_log(folder: Path) -> list[Entry]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def test_entries_go_to_the_history_the_log_and_the_board(tmp_path, caplog):
    history: list[Entry] = []
    entries = [train_entry(3, 2.0, ctc=1.5), valid_entry(4, 1.0, wer=0.25), train_entry(6, math.nan)]
    with caplog.at_level(logging.INFO, logger="speechnar.train.report"):
        reporter = Reporter(tmp_path, history, step=0, max_steps=10, writes=True)
        for entry in entries:
            reporter.record(entry)
            assert read_log(tmp_path)[-1]["step"] == entry["step"]  # at once, should the run be killed
        reporter.close()
    assert history == entries
    assert read_log(tmp_path) == [*entries[:2], {**entries[2], "loss": None}]  # JSON has no NaN
    assert caplog.messages[:2] == [
        "train step 3 epoch 0: loss 2 lr 0.5 ctc 1.5",
        "valid step 4 epoch 0: loss 1 wer 0.25",
    ]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    found = {name: [(event.step, event.value) for event in board.Scalars(name)] for name in board.Tags()["scalars"]}
    assert found.pop("train/loss")[0] == (3, 2.0)
    assert found == {
        "train/lr": [(3, 0.5), (6, 0.5)],
        "train/ctc": [(3, 1.5)],
        "valid/loss": [(4, 1.0)],
        "valid/wer": [(4, 0.25)],
    }


def test_steps_behind_the_last_checkpoint_are_forgotten(tmp_path):
    first = Reporter(tmp_path, [], step=0, max_steps=None, writes=True)
    for step in (1, 2, 3):
        first.record(train_entry(step, float(step)))
    first.close()
    history = [train_entry(1, 1.0)]
    again = Reporter(tmp_path, history, step=1, max_steps=None, writes=True)
    again.record(train_entry(2, 20.0))
    again.close()
    assert [(entry["step"], entry["loss"]) for entry in read_log(tmp_path)] == [(1, 1.0), (2, 20.0)]
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, 1.0), (2, 20.0)]


def test_other_processes_remember_but_write_nothing(tmp_path):
    history: list[Entry] = []
    reporter = Reporter(tmp_path, history, step=0, max_steps=1, writes=False)
    reporter.advance(1, 0.5)
    reporter.record(train_entry(1, 0.5))
    reporter.close()
    assert [entry["step"] for entry in history] == [1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("metrics", [{}, {"wer": 0.25}])
def test_the_plot_has_a_panel_for_metrics_if_there_are_any(tmp_path, metrics):
    history = [train_entry(1, 3.0), valid_entry(2, 2.0, **metrics), train_entry(3, 1.0), valid_entry(4, 1.5)]
    plot_history(history, tmp_path / "history.png")
    content = (tmp_path / "history.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
    assert (width, height) == (800, 700 if metrics else 400)
    assert [path.name for path in tmp_path.iterdir()] == ["history.png"]


@pytest.mark.parametrize("every_s", [0.0, 1000.0])
def test_validations_are_drawn_now_and_then_and_at_the_end(tmp_path, monkeypatch, every_s):
    monkeypatch.setattr(report, "PLOTTED_EVERY_S", every_s)
    path = tmp_path / "history.png"
    reporter = Reporter(tmp_path, [], step=0, max_steps=None, writes=True)
    reporter.record(train_entry(1, 1.0))
    assert not path.exists()
    reporter.record(valid_entry(1, 1.0))
    assert path.exists() == (every_s == 0)
    drawn = path.stat().st_mtime_ns if path.exists() else None
    reporter.close()
    assert path.exists()
    assert drawn in (None, path.stat().st_mtime_ns), "nothing has changed since"
