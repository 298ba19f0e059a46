"""Recordings of any length through an encoder of fixed buffer: overlapping buffers, one global CTC collapse.

Shapes: B buffers, S samples, T positions, V vocabulary (blank included).
Source: Peng et al., "OWSM-CTC", ACL 2024, section 4.5, and ESPnet's ``decode_long_batched_buffered``.

Differs from the paper: buffers begin at the recording, without a leading context of zeros; the positions that belong to
the language and task prefix are not counted as audio, so that a seam lies where it should; and neighbours may change
over at the frame nearest to the middle of their overlap that both call blank. ``reference_offset`` turns all three off.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from speechnar.config import Config
from speechnar.decode.align import CtcPath
from speechnar.decode.ctc import collapse
from speechnar.errors import ConfigError, ShapeError

Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps wav (B, S) float32 and wav_lens (B,) to log_probs (B, T, V) and lens (B,), prefix positions first."""

Samples = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32]
FramePath = tuple[Labels, Scores]
"""Label and log-probability of consecutive frames."""


class LongformConfig(Config):
    """How a recording is cut into buffers and put together again."""

    buffer_s: float = Field(default=30.0, gt=0)
    """What the encoder sees at once; rounded to whole frames."""
    context_s: float = Field(default=4.0, ge=0)
    """What a buffer hears beyond the frames it contributes, on either side; rounded to whole frames."""
    batch_size: int = Field(default=16, ge=1)
    """Buffers encoded together."""
    pad_to_buffer: bool = True
    """Pad the last buffer with zeros to full length, as models trained on full buffers expect."""
    reference_offset: bool = False
    """Reproduce ESPnet's buffers and positions label for label, off by the prefix, joined in the middle."""

    @model_validator(mode="after")
    def _check_context(self) -> "LongformConfig":
        if 2 * self.context_s >= self.buffer_s:
            raise ValueError(f"context_s must be below half of buffer_s = {self.buffer_s}, got {self.context_s}")
        if self.reference_offset and self.context_s == 0:
            raise ValueError("reference_offset needs context_s > 0: without context ESPnet keeps no frame at all")
        return self

    @property
    def pads(self) -> bool:
        """Whether every buffer has full length."""
        return self.pad_to_buffer or self.reference_offset


@dataclass(frozen=True)
class LongformResult:
    """The frame path of a whole recording and its tokens; frame f begins f * frame_shift_s into the recording."""

    path: CtcPath
    labels: Labels
    """Best label of every frame (T,). With ``reference_offset`` frame f is at index f + num_prefix."""
    log_probs: Scores
    """Log-probability of each label (T,), nats."""
    num_samples: int
    """Length of the recording."""


def transcribe_stream(
    blocks: Iterable[Samples],
    encode: Encode,
    *,
    config: LongformConfig,
    blank_id: int,
    sample_rate: int,
    frame_shift_s: float,
    num_prefix: int = 0,
) -> LongformResult:
    """Decode a recording that arrives as 1-D float32 ``blocks`` of any size, in one pass.

    Holds ``batch_size`` buffers of audio, their log-probabilities, and 12 bytes for every frame heard so far. A
    recording within one buffer is encoded as it is, an empty one not at all. With ``pad_to_buffer`` the result covers
    the padding of the last buffer too, since a token may be emitted after its sound: clip times to the recording.

    Raises:
        ConfigError: buffer and context leave no frame between them.
        ShapeError: a block is not one-dimensional, or ``encode`` returns shapes that do not fit its input.
    """
    audio = _CountedBlocks(blocks)
    if config.reference_offset:
        grid = _Grid.of_reference(config, sample_rate, frame_shift_s)
        encoded = _encode_buffers(_cut_reference(audio, grid), encode, config, grid.buffer_samples)
        pieces = list(_keep_reference(encoded, grid))
    else:
        grid = _Grid.of_frames(config, sample_rate, frame_shift_s)
        encoded = _encode_buffers(_cut(audio, grid), encode, config, grid.buffer_samples)
        heard = ((labels[num_prefix:], scores[num_prefix:]) for labels, scores in encoded)
        pieces = list(_join_at_seams(heard, grid, blank_id))
    labels = np.concatenate([np.zeros(0, dtype=np.int64), *(labels for labels, _ in pieces)])
    scores = np.concatenate([np.zeros(0, dtype=np.float32), *(scores for _, scores in pieces)])
    num_frames = torch.tensor([len(labels)])
    (path,) = collapse(torch.from_numpy(labels)[None], torch.from_numpy(scores)[None], num_frames, blank_id)
    if config.reference_offset:
        path = _shift(path, -num_prefix)
    return LongformResult(path, labels, scores, audio.num_samples)


@dataclass(frozen=True)
class _Grid:
    """The buffer layout: consecutive buffers begin one chunk apart and share two contexts."""

    buffer_samples: int
    context_samples: int
    chunk_samples: int
    buffer_frames: int
    context_frames: int

    @property
    def chunk_frames(self) -> int:
        return self.buffer_frames - 2 * self.context_frames

    @classmethod
    def of_frames(cls, config: LongformConfig, sample_rate: int, frame_shift_s: float) -> "_Grid":
        """Round to whole frames, so that frames of neighbouring buffers coincide."""
        frame_samples = round(sample_rate * frame_shift_s)
        buffer, context = (round(seconds / frame_shift_s) for seconds in (config.buffer_s, config.context_s))
        chunk = buffer - 2 * context
        if chunk < 1:
            raise ConfigError(
                f"a buffer of {config.buffer_s} s must hold a frame of {frame_shift_s} s between two contexts "
                f"of {config.context_s} s; lower context_s"
            )
        return cls(buffer * frame_samples, context * frame_samples, chunk * frame_samples, buffer, context)

    @classmethod
    def of_reference(cls, config: LongformConfig, sample_rate: int, frame_shift_s: float) -> "_Grid":
        """Truncate as ESPnet does: with a context of no whole number of frames its buffers repeat some."""
        frame_rate = round(1 / frame_shift_s, 6)
        return cls(
            buffer_samples=int(sample_rate * config.buffer_s),
            context_samples=int(sample_rate * config.context_s),
            chunk_samples=int(sample_rate * (config.buffer_s - 2 * config.context_s)),
            buffer_frames=int(frame_rate * config.buffer_s),
            context_frames=int(frame_rate * config.context_s),
        )


class _CountedBlocks:
    """Blocks on their way through, checked and counted."""

    def __init__(self, blocks: Iterable[Samples]) -> None:
        self._blocks = blocks
        self.num_samples = 0

    def __iter__(self) -> Iterator[Samples]:
        for block in self._blocks:
            if block.ndim != 1:
                raise ShapeError(f"audio blocks must be one-dimensional, got shape {block.shape}")
            self.num_samples += block.size
            yield block


def _cut(blocks: Iterable[Samples], grid: _Grid) -> Iterator[Samples]:
    """Yield full buffers while more audio follows them, then the rest, which is longer than two contexts."""
    window = np.empty(grid.buffer_samples, dtype=np.float32)
    filled = 0
    for block in blocks:
        done = 0
        while done < block.size:
            if filled == window.size:
                yield window.copy()
                filled = window.size - grid.chunk_samples
                window[:filled] = window[grid.chunk_samples :].copy()
            taken = min(window.size - filled, block.size - done)
            window[filled : filled + taken] = block[done : done + taken]
            filled += taken
            done += taken
    if filled:
        yield window[:filled].copy()


def _cut_reference(blocks: Iterable[Samples], grid: _Grid) -> Iterator[Samples]:
    """Yield ESPnet's buffers: a context of zeros around the recording, and always a buffer that is not full last."""
    silence = np.zeros(grid.context_samples, dtype=np.float32)
    buffer = silence
    for buffer in _cut(chain([silence], blocks, [silence]), grid):
        yield buffer
    if len(buffer) == grid.buffer_samples:
        yield buffer[grid.chunk_samples :]


def _encode_buffers(
    buffers: Iterator[Samples], encode: Encode, config: LongformConfig, buffer_samples: int
) -> Iterator[FramePath]:
    """Yield the best label and its log-probability at every position of every buffer, prefix included."""
    while batch := list(islice(buffers, config.batch_size)):
        lens = [len(buffer) for buffer in batch]
        wav = np.zeros((len(batch), buffer_samples if config.pads else max(lens)), dtype=np.float32)
        for row, buffer in zip(wav, batch, strict=True):
            row[: len(buffer)] = buffer
        wav_lens = torch.full((len(batch),), buffer_samples) if config.pads else torch.tensor(lens)
        log_probs, out_lens = encode(torch.from_numpy(wav), wav_lens)
        if log_probs.ndim != 3 or len(log_probs) != len(batch) or out_lens.shape != wav_lens.shape:
            raise ShapeError(
                f"encode must map ({len(batch)}, S) samples to ({len(batch)}, T, V) and ({len(batch)},), "
                f"got {tuple(log_probs.shape)} and {tuple(out_lens.shape)}"
            )
        best = log_probs.max(dim=-1)
        rows = zip(best.indices.cpu().numpy(), best.values.float().cpu().numpy(), out_lens.tolist(), strict=True)
        yield from ((labels[:n].copy(), scores[:n].copy()) for labels, scores, n in rows)


def _keep_reference(encoded: Iterable[FramePath], grid: _Grid) -> Iterator[FramePath]:
    kept = slice(grid.context_frames, -grid.context_frames)
    for labels, scores in encoded:
        yield labels[: grid.buffer_frames][kept], scores[: grid.buffer_frames][kept]


def _join_at_seams(encoded: Iterable[FramePath], grid: _Grid, blank_id: int) -> Iterator[FramePath]:
    """Yield of each buffer the frames from its seam with the one before to its seam with the one after."""
    left: FramePath | None = None
    begin = 0
    for right in encoded:
        if left is not None:
            cut = _blank_seam(left[0][grid.chunk_frames :], right[0], grid.context_frames, blank_id)
            yield _frames(left, begin, grid.chunk_frames + cut, blank_id)
            begin = cut
        left = right
    if left is not None:
        yield left[0][begin:], left[1][begin:]


def _blank_seam(left: Labels, right: Labels, middle: int, blank_id: int) -> int:
    """Return the frame nearest to ``middle`` that both call blank, leaving either side half of its context."""
    reach = middle // 2
    window = slice(middle - reach, middle + reach + 1)
    size = min(len(left[window]), len(right[window]))
    quiet = np.flatnonzero((left[window][:size] == blank_id) & (right[window][:size] == blank_id))
    if not quiet.size:
        return middle
    return middle - reach + int(quiet[np.abs(quiet - reach).argmin()])


def _frames(piece: FramePath, begin: int, end: int, blank_id: int) -> FramePath:
    """Return frames [begin, end), blank where the encoder gave fewer (its subsampling may swallow the last one)."""
    labels, scores = piece[0][begin:end], piece[1][begin:end]
    missing = end - begin - len(labels)
    return np.pad(labels, (0, missing), constant_values=blank_id), np.pad(scores, (0, missing))


def _shift(path: CtcPath, frames: int) -> CtcPath:
    starts = [max(frame + frames, 0) for frame in path.starts]
    return replace(path, starts=starts, ends=[max(frame + frames, 0) for frame in path.ends])
