"""Mean and variance normalisation of features, and readers of other toolkits' statistics.

Shapes: B utterances, T frames, F features.
"""

import math
import re
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechnar.audio.fbank import frame_mask
from speechnar.errors import DataError, ShapeError

MIN_STD = 1e-10
"""Smallest deviation divided by; ESPnet's ``GlobalMVN`` uses the same floor."""

Stats = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Mean (F,) and standard deviation (F,)."""


class GlobalCmvn(nn.Module):
    """Subtract a stored mean and divide by a stored deviation; padding becomes 0."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("std", torch.ones(num_features))

    def forward(self, feats: Tensor, feat_lens: Tensor) -> Tensor:
        """Map ``feats`` (B, T, F), anything beyond ``feat_lens``, to (B, T, F)."""
        normalized = (feats - self.mean) / self.std.clamp(min=MIN_STD)
        return normalized.masked_fill(~frame_mask(feat_lens, feats.size(1))[..., None], 0.0)


class UtteranceCmvn(nn.Module):
    """Subtract each utterance's own mean and divide by its own deviation; padding becomes 0.

    Args:
        correction: subtracted from the number of frames in the deviation: 1 gives that of a sample (Bessel).
        variance_offset: added to the variance.
        std_offset: added to the deviation.
    """

    def __init__(self, *, correction: int = 0, variance_offset: float = 0.0, std_offset: float = 0.0) -> None:
        super().__init__()
        self.correction = correction
        self.variance_offset = variance_offset
        self.std_offset = std_offset

    def forward(self, feats: Tensor, feat_lens: Tensor) -> Tensor:
        """Map ``feats`` (B, T, F), anything beyond ``feat_lens``, to (B, T, F)."""
        valid = frame_mask(feat_lens, feats.size(1))[..., None]
        feats = feats.masked_fill(~valid, 0.0)
        count = feat_lens.clamp(min=1)[:, None, None]
        centred = (feats - feats.sum(1, keepdim=True) / count).masked_fill(~valid, 0.0)
        variance = centred.square().sum(1, keepdim=True) / (count - self.correction).clamp(min=1)
        std = (variance + self.variance_offset).clamp(min=MIN_STD**2).sqrt()
        return centred / (std + self.std_offset)


class PeakRange(nn.Module):
    """Whisper's: decades above the point 8 decades below the utterance's loudest band, shifted and scaled; padding 0.

    Maps natural logarithms of energies x to (max(log10 x, peak - 8) + 4) / 4. The peak is that of the utterance's own
    frames (Radford et al. 2022, section 2.2, and their ``log_mel_spectrogram``, where it is that of 30 s).
    """

    def forward(self, feats: Tensor, feat_lens: Tensor) -> Tensor:
        """Map ``feats`` (B, T, F), anything beyond ``feat_lens``, to (B, T, F)."""
        padding = ~frame_mask(feat_lens, feats.size(1))[..., None]
        decades = (feats / math.log(10)).masked_fill(padding, -torch.inf)
        peak = decades.flatten(1).amax(1) if feats.size(1) else feats.new_zeros(feats.size(0))
        scaled = (decades.maximum((peak - 8)[:, None, None]) + 4) / 4
        return scaled.masked_fill(padding, 0.0)


def compute_cmvn(batches: Iterable[tuple[Tensor, Tensor]]) -> Stats:
    """Return mean and deviation over all real frames of batches of (feats (B, T, F), feat_lens (B,)).

    Raises:
        DataError: there is not a single frame.
    """
    total: Tensor | None = None
    squares, count = torch.zeros(()), 0
    for feats, feat_lens in batches:
        kept = feats.double()[frame_mask(feat_lens, feats.size(1))]  # (N, F)
        total = kept.sum(0) if total is None else total + kept.sum(0)
        squares = squares + kept.square().sum(0)
        count += kept.size(0)
    if total is None or count == 0:
        raise DataError("feature statistics need at least one frame, got none")
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    return mean.float().numpy(), std.float().numpy()


def _from_sums(sums: NDArray[np.float64], squares: NDArray[np.float64], count: float, path: Path) -> Stats:
    if not count > 0 or sums.shape != squares.shape:
        raise DataError(f"{path}: statistics must hold sums of equal width over at least one frame, got count {count}")
    mean = sums / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-20))
    return mean.astype(np.float32), std.astype(np.float32)


def read_kaldi_cmvn(path: str | Path) -> Stats:
    """Read one Kaldi statistics matrix (2, F + 1), binary or text, with or without an archive key before it.

    Row 0 holds the sums and the count, row 1 the sums of squares and a 0 (Kaldi, ``transform/cmvn.h``).

    Raises:
        DataError: it is not such a file.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    matrix = _binary_matrix(content, path) if b"\0B" in content[:256] else _text_matrix(content, path)
    if matrix.ndim != 2 or matrix.shape[0] != 2 or matrix.shape[1] < 2:
        raise DataError(f"{path}: statistics must be a (2, F + 1) matrix, got {matrix.shape}")
    return _from_sums(matrix[0, :-1], matrix[1, :-1], float(matrix[0, -1]), path)


def _binary_matrix(content: bytes, path: Path) -> NDArray[np.float64]:
    at = content.index(b"\0B") + 2
    kind = content[at : at + 3]
    width = {b"FM ": 4, b"DM ": 8}.get(kind)
    if width is None:
        raise DataError(f"{path}: must be an uncompressed float or double matrix, got {kind!r}")
    try:
        four, rows, also_four, cols = struct.unpack_from("<bibi", content, at + 3)
    except struct.error:
        raise DataError(f"{path}: ends inside the matrix header") from None
    data = content[at + 13 : at + 13 + max(0, rows * cols) * width]
    if (four, also_four) != (4, 4) or rows < 0 or cols < 0 or len(data) != rows * cols * width:
        raise DataError(f"{path}: the matrix is damaged or cut off")
    return np.frombuffer(data, f"<f{width}").reshape(rows, cols).astype(np.float64)


def _text_matrix(content: bytes, path: Path) -> NDArray[np.float64]:
    found = re.search(rb"\[([^\]]*)\]", content)
    if found is None:
        raise DataError(f"{path}: must hold a Kaldi matrix in brackets")
    try:
        rows = [[float(value) for value in line.split()] for line in found[1].split(b"\n") if line.strip()]
        return np.array(rows, dtype=np.float64)
    except ValueError:
        raise DataError(f"{path}: the matrix must be of numbers, in rows of equal length") from None


def read_am_mvn(path: str | Path) -> Stats:
    """Read FunASR's ``am.mvn``: ``<AddShift>`` holds minus the mean, ``<Rescale>`` one over the deviation.

    Raises:
        DataError: it is not such a file.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from None
    vectors = []
    for tag in ("<AddShift>", "<Rescale>"):
        found = re.search(re.escape(tag) + r"[^\[]*\[([^\]]*)\]", text)
        if found is None:
            raise DataError(f"{path}: {tag} with a vector in brackets is missing")
        try:
            vectors.append(np.array([float(value) for value in found[1].split()], dtype=np.float32))
        except ValueError:
            raise DataError(f"{path}: {tag} must hold numbers") from None
    shift, scale = vectors
    if shift.shape != scale.shape or not shift.size or not np.all(scale > 0):
        raise ShapeError(f"{path}: shift and scale must be of one length and scale positive")
    return -shift, 1.0 / scale
