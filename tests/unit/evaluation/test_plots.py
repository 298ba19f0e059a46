"""Drawings, looked at as matplotlib has them."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from speechnar.evaluation import plots
from speechnar.evaluation.plots import AXES, plot_log_mels, plot_reports


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Return what is saved."""
    figures = []

    class Watched(Figure):
        def savefig(self, *args, **kwargs):
            figures.append(self)
            super().savefig(*args, **kwargs)

    monkeypatch.setattr(plots, "Figure", Watched)
    return figures


def test_log_mels_share_time_and_colours(tmp_path, drawn):
    rng = np.random.default_rng(0)
    log_mels = {"recorded": rng.normal(size=(150, 8)), "spoken": rng.normal(size=(200, 8)) + 3}
    plot_log_mels(log_mels, tmp_path / "new" / "u1.png")
    assert imread(tmp_path / "new" / "u1.png").shape[:2] == (360, 1000)  # 1.8 inches for each
    (figure,) = drawn
    assert [panel.get_ylabel() for panel in figure.axes] == list(log_mels)
    assert {panel.get_xlim() for panel in figure.axes} == {(0.0, 2.0)}
    images = [panel.images[0] for panel in figure.axes]
    for image, values in zip(images, log_mels.values(), strict=True):
        np.testing.assert_array_equal(image.get_array(), values.T)
        assert tuple(image.get_extent()) == (0, len(values) / 100, 0, 8)
    assert images[0].get_clim() == images[1].get_clim()
    lowest, highest = images[0].get_clim()
    assert lowest == np.quantile(log_mels["recorded"], 0.05)
    assert highest == log_mels["spoken"].max()


def report(system: str, bleu: float, *, options=(), masked=0, whole=False, model="a", **costs: float) -> dict:
    known = {"options": dict(options), "masked": masked, "whole": whole, "model": model, **costs}
    return {"system": system, "bleu": bleu, **known}


def test_systems_with_the_same_options_are_a_curve(tmp_path, drawn):
    costs = {"erasure": 0.1, "seconds_per_sentence": 0.2}
    reports = [
        report("wait3", 0.30, options={"delay": 3}, laal=5.0, **costs),
        report("wait1", 0.20, options={"delay": 1}, laal=2.0, **costs),
        report("masked", 0.25, masked=2, laal=3.0, **costs),
        report("other", 0.22, options={"delay": 2}, model="b", laal=4.0, **costs),
        report("whole", 0.35, whole=True, seconds_per_sentence=0.1),
    ]
    plot_reports(reports, tmp_path / "all.png")
    assert [path.name for path in tmp_path.iterdir()] == ["all.png"]
    (figure,) = drawn
    assert [panel.get_xlabel() for panel in figure.axes] == list(AXES.values())
    lines = [[list(zip(*line.get_data(), strict=True)) for line in panel.lines] for panel in figure.axes]
    assert lines[0] == [[(2.0, 20.0), (5.0, 30.0)], [(3.0, 25.0)], [(4.0, 22.0)]]
    assert lines[2][-1] == [(0.1, 35.0)]
    assert [len(of_panel) for of_panel in lines] == [3, 3, 4]
    assert [text.get_text() for text in figure.axes[0].texts] == ["wait1", "wait3", "masked", "other"]
