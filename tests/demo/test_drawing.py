"""Pictures of sound, and what stands where in them."""

import base64
import io
import re

import numpy as np
import pytest

pytest.importorskip("gradio")

from PIL import Image

from demo.drawing import DIM, MAX_PX, PX_PER_S, ROWS, Figure, spectrogram

RATE = 16000


def tone(hz, seconds=1.0):
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE).astype(np.float32)


def pictures(html):
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        for data in re.findall(r"base64,([^\"]+)\"", html)
    ]


def test_a_tone_stands_at_its_frequency_on_a_mel_scale():
    rows = [int(spectrogram(tone(hz), RATE)[:, 20:80].mean(1).argmax()) for hz in (300, 1000, 3000)]
    mels = [2595 * np.log10(1 + hz / 700) for hz in (300, 1000, 3000)]
    expected = [ROWS - 1 - int(mel / (2595 * np.log10(1 + 8000 / 700)) * ROWS) for mel in mels]
    assert all(abs(row - place) <= 1 for row, place in zip(rows, expected, strict=True))


def test_silence_is_black_and_the_time_is_kept():
    shown = spectrogram(np.concatenate([np.zeros(RATE), tone(500)]).astype(np.float32), RATE)
    assert abs(shown.shape[1] - 200) <= 1
    assert shown[:, :90].max() == 0 and shown[:, 110:190].max() > 0.9
    assert not spectrogram(np.zeros(RATE, dtype=np.float32), RATE).any()
    assert spectrogram(np.zeros(0, dtype=np.float32), RATE).shape[0] == ROWS


def test_things_stand_at_their_times():
    figure = Figure(tone(500, 2.0), RATE, title="a <b>").labels(["x", "<y>"], [(0.0, 0.5), (1.5, 2.0)])
    html = figure.mark([(1.0, 1.5)], "new").ticks([(0.5, 0.6)], "token").html()
    assert f'width="{2 * PX_PER_S}"' in html and 'aria-label="a &lt;b&gt;"' in html
    assert f'class="sn-mark" x="{PX_PER_S:.1f}" y="1" width="{PX_PER_S / 2:.1f}"' in html
    assert f'<line class="sn-tick" x1="{PX_PER_S / 2:.1f}"' in html
    assert f'<text x="{1.5 * PX_PER_S + 1:.1f}"' in html and "&lt;y&gt;" in html and "<y>" not in html


def test_labels_do_not_run_into_each_other():
    figure = Figure(tone(500), RATE, title="t")
    html = figure.labels(["long", "word", "here"], [(0.0, 0.1), (0.1, 0.2), (0.9, 1.0)]).html()
    lines = re.findall(r'<text x="[\d.]+" y="(\d+)">(?:long|word|here)', html)
    assert lines[0] != lines[1] and lines[2] == lines[0]


def test_a_curve_and_a_mask_are_drawn_to_scale():
    curve = Figure(tone(500), RATE, title="t").curve(np.array([0.0, 1.0, 2.0], dtype=np.float32), 0.1, "weights").html()
    points = re.search(r'points="([^"]+)"', curve)[1].split()
    xs, ys = zip(*(map(float, point.split(",")) for point in points), strict=True)
    assert xs == pytest.approx([0.05 * PX_PER_S, 0.15 * PX_PER_S, 0.25 * PX_PER_S], abs=0.06)
    assert ys[0] > ys[1] == ys[2] > 0
    mask = Figure(tone(500), RATE, title="t").mask([(0.0, 0.5), (0.5, 1.0)], ["a", "end"]).html()
    assert mask.count('class="sn-window"') == 2 and "end: 0.50 to 1.00 s" in mask


def test_codes_are_bright_when_decided_dim_as_drafts_and_dark_when_untried():
    codes = np.array([[5, 5, -1]], dtype=np.int16)
    figure = Figure(tone(500), RATE, title="t").grid(codes, np.array([[True, False, False]]))
    bright, dim, dark = pictures(figure.html())[1][0].sum(1)
    assert bright > 2 * dim > 2 * dark > 0


def test_what_is_not_decided_is_dim():
    whole, half = (
        pictures(Figure(tone(500), RATE, title="t", brightness=brightness).html())[0]
        for brightness in (None, np.array([1.0, DIM], dtype=np.float32))
    )
    np.testing.assert_array_equal(half[:, :50], whole[:, :50])
    assert half[:, 52:].sum() == pytest.approx(DIM * whole[:, 52:].sum(), rel=0.1)


def test_a_picture_of_a_long_recording_is_not_endless():
    assert Figure(tone(500, 100.0), RATE, title="t").width == MAX_PX
