"""Benchmarks of speed run at their smallest."""

import json
import sys

import pytest

from benchmarks import cost, gpu, training
from tests.unit.tiny import save_tiny_model


def test_recognisers_of_published_shapes_are_timed(tmp_path, monkeypatch):
    given = ["gpu", "--device", "cpu", "--size", "debug", "--batches", "2", "--runs", "1", "--modes", "text", "network"]
    monkeypatch.setattr(sys, "argv", [*given, "--output", str(tmp_path)])
    assert gpu.main() == 0
    for name in gpu.SHAPES:
        values = json.loads((tmp_path / f"gpu_{name}_fp32_batch2.json").read_text())
        assert values["a"]["rtf"].keys() == {"text", "network"}
        assert min(values["a"]["rtf"].values()) > 0
        assert not values["note"]


def test_what_a_device_does_not_offer_is_noted(tmp_path, monkeypatch, capsys):
    given = [
        "gpu",
        "--device",
        "cpu",
        "--size",
        "debug",
        "--batches",
        "1",
        "--runs",
        "1",
        "--modes",
        "network",
        "graph",
    ]
    monkeypatch.setattr(sys, "argv", [*given, "--shapes", "paraformer", "--output", str(tmp_path)])
    assert gpu.main() == 0
    values = json.loads((tmp_path / "gpu_paraformer_fp32_batch1.json").read_text())
    assert values["note"].startswith("graph: ")
    assert "batch 1, graph: " in capsys.readouterr().out


@pytest.mark.slow  # four programs that import torch
def test_cost_is_drawn_over_length_and_batch(tmp_path, monkeypatch):
    model = save_tiny_model(tmp_path / "tiny")
    given = ["cost", "--model", str(model), "--lengths", "1", "3", "--batches", "1", "2", "--precision", "fp32"]
    monkeypatch.setattr(sys, "argv", [*given, "--output", str(tmp_path), "--plot", str(tmp_path / "cost.svg")])
    assert cost.main() == 0
    values = json.loads((tmp_path / "cost.json").read_text())
    assert [round(case["audio_s"]) for case in values["a"]["cases"]] == [1, 3]
    assert [round(case["audio_s"]) for case in values["b"]["cases"]] == [10, 20]
    assert "<svg" in (tmp_path / "cost.svg").read_text()


@pytest.mark.slow  # imports ESPnet
def test_training_steps_of_both_sides_start_from_the_same_weights(tmp_path, monkeypatch):
    pytest.importorskip("espnet2")
    given = ["training", "--tiny", "--precisions", "fp32", "--runs", "1", "--threads", "1", "--batch", "2"]
    monkeypatch.setattr(sys, "argv", [*given, "--seconds", "3", "--output", str(tmp_path)])
    assert training.main() == 0
    values = json.loads((tmp_path / "training_fp32.json").read_text())
    assert values["a"]["first_loss"] == pytest.approx(values["b"]["first_loss"], rel=0.1)
    assert values["a"]["median_s"] > 0
