"""Spectrograms as pictures, with what belongs to times of them: words, phones, spikes, masks.

Shapes: S samples, T frames, R rows of a picture.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image

Floats = npt.NDArray[np.float32]
Span = tuple[float, float]

PX_PER_S = 110
MAX_PX = 6000
ROWS = 96
HOP_S, WINDOW_S = 0.01, 0.032
RANGE_DB = 65.0
"""From the loudest to the darkest."""
CODE_PX = 12
DIM = 0.35
"""Brightness of what is not decided yet."""
# Black, violet, red, orange, pale yellow: readable with every common colour blindness, and in print.
_COLOURS = np.array([[8, 6, 22], [72, 24, 106], [168, 50, 92], [240, 112, 48], [250, 196, 80], [252, 250, 200]])


class Figure:
    """A spectrogram and rows below it, as SVG."""

    def __init__(
        self,
        samples: Floats,
        sample_rate: int,
        *,
        title: str,
        brightness: Floats | None = None,
        px_per_s: float = PX_PER_S,
    ) -> None:
        """Draw samples (S,); ``brightness`` (T',) in [0, 1] dims parts of them, spread over their length."""
        self.seconds = max(len(samples) / sample_rate, 0.1)
        self.scale = min(px_per_s, MAX_PX / self.seconds)
        self.width = self.seconds * self.scale
        self._title = title
        self._height = float(ROWS)
        href = _png(spectrogram(samples, sample_rate), brightness)
        self._parts = [
            f'<image href="{href}" width="{self.width:.1f}" height="{ROWS}" preserveAspectRatio="none"/>',
            *self._seconds(),
        ]

    def mark(self, spans: Iterable[Span], name: str) -> "Figure":
        """Mark spans of time on the spectrogram."""
        for start, end in spans:
            x, width = start * self.scale, max((end - start) * self.scale, 2)
            self._parts.append(
                f'<rect class="sn-mark" x="{x:.1f}" y="1" width="{width:.1f}" height="{ROWS - 2}">'
                f"<title>{escape(name)}: {start:.2f} to {end:.2f} s</title></rect>"
            )
        return self

    def curve(self, values: Floats, shift_s: float, name: str) -> "Figure":
        """Draw ``values`` (T,) in [0, 1], one every ``shift_s`` seconds, over the spectrogram."""
        points = " ".join(
            f"{(i + 0.5) * shift_s * self.scale:.1f},{ROWS - 3 - float(value) * (ROWS - 8):.1f}"
            for i, value in enumerate(values.clip(0, 1))
        )
        self._parts.append(f'<polyline class="sn-curve" points="{points}"><title>{escape(name)}</title></polyline>')
        return self

    def ticks(self, spans: Iterable[Span], name: str) -> "Figure":
        """Draw a line at the beginning of every span."""
        for number, (start, _) in enumerate(spans, 1):
            x = start * self.scale
            self._parts.append(
                f'<line class="sn-tick" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{ROWS}">'
                f"<title>{escape(name)} {number}: {start:.2f} s</title></line>"
            )
        return self

    def labels(self, texts: Sequence[str], spans: Sequence[Span], *, marked: Sequence[bool] | None = None) -> "Figure":
        """Write texts below their spans; such as would run into the one before go to a second line."""
        ends = [0.0, 0.0]
        top = self._height
        for i, (text, (start, end)) in enumerate(zip(texts, spans, strict=True)):
            x = start * self.scale
            line = 0 if x >= ends[0] or ends[0] <= ends[1] else 1
            x = max(x, ends[line])
            ends[line] = x + 8 * len(text) + 5
            style = ' class="sn-differs"' if marked is not None and marked[i] else ""
            self._parts.append(
                f'<text x="{x + 1:.1f}" y="{top + 15 + 15 * line:.0f}"{style}>{escape(text)}'
                f"<title>{start:.2f} to {end:.2f} s</title></text>"
            )
        self._height += 36 if ends[1] else 21
        return self

    def mask(self, windows: Sequence[Span], texts: Sequence[str]) -> "Figure":
        """Draw which times each token may see, a row each."""
        row = max(3.0, min(8.0, 160 / max(len(windows), 1)))
        for i, ((start, end), text) in enumerate(zip(windows, texts, strict=True)):
            self._parts.append(
                f'<rect class="sn-window" x="{start * self.scale:.1f}" y="{self._height + 3 + i * row:.1f}" '
                f'width="{max((end - start) * self.scale, 2):.1f}" height="{row - 1:.1f}">'
                f"<title>{escape(text)}: {start:.2f} to {end:.2f} s</title></rect>"
            )
        self._height += 6 + len(windows) * row
        return self

    def grid(self, codes: npt.NDArray[np.int16], is_final: npt.NDArray[np.bool_]) -> "Figure":
        """Draw masked codes (K, T), a row each: dark where nothing was tried (below 0), dim where it is a draft."""
        shades = ((codes.astype(np.int64) * 97 % 101) / 101 * 0.7 + 0.3).astype(np.float32)
        shown = np.where(codes < 0, 0.0, np.where(is_final, shades, shades * DIM)).astype(np.float32)
        height = CODE_PX * len(codes)
        self._parts.append(
            f'<image class="sn-codes" href="{_png(shown, None)}" y="{self._height + 4:.0f}" width="{self.width:.1f}" '
            f'height="{height}" preserveAspectRatio="none"/>'
        )
        self._height += height + 6
        return self

    def html(self) -> str:
        """Return it as HTML that scrolls where it is wider than the page."""
        return (
            f'<div class="sn-figure" tabindex="0" role="img" aria-label="{escape(self._title)}">'
            f'<svg width="{self.width:.0f}" height="{self._height:.0f}" '
            f'viewBox="0 0 {self.width:.1f} {self._height:.1f}">{"".join(self._parts)}</svg></div>'
        )

    def _seconds(self) -> Iterable[str]:
        step = 1 if self.seconds <= 30 else 10
        for second in range(step, int(self.seconds) + 1, step):
            x = second * self.scale
            yield f'<line class="sn-second" x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="5"/>'
            yield f'<text class="sn-second" x="{x + 3:.1f}" y="11">{second} s</text>'


def spectrogram(samples: Floats, sample_rate: int) -> Floats:
    """Return (R, T) in [0, 1]: loudness by frequency, on a mel-like scale from low, in the last row, to high."""
    hop, size = max(round(HOP_S * sample_rate), 1), max(round(WINDOW_S * sample_rate), 8)
    padded = np.pad(samples.astype(np.float32), (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[: len(samples) + 1 : hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size).astype(np.float32), axis=1)).T ** 2  # (bins, T)
    top = 2595 * np.log10(1 + min(sample_rate / 2, 8000) / 700)
    edges = 700 * (10 ** (np.linspace(0, top, ROWS + 1) / 2595) - 1) * size / sample_rate
    rows = [power[int(low) : max(int(np.ceil(high)), int(low) + 1)].mean(0) for low, high in pairwise(edges)]
    decibel = 10 * np.log10(np.stack(rows[::-1]) + 1e-10)
    shown: Floats = ((decibel - decibel.max()) / RANGE_DB + 1).clip(0, 1).astype(np.float32)
    return shown if decibel.max() > -90 else np.zeros_like(shown)


def _png(shown: Floats, brightness: Floats | None) -> str:
    """Return values (R, T) in [0, 1] as a picture in a URL."""
    places = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(shown, places, _COLOURS[:, channel]) for channel in range(3)]
    image = np.stack(channels, axis=-1)
    if brightness is not None and len(brightness):
        columns = (np.arange(image.shape[1]) * len(brightness) // image.shape[1]).clip(0, len(brightness) - 1)
        image *= brightness[columns][None, :, None]
    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, "PNG", optimize=False)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
