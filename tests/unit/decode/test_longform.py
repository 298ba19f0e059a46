import math

import numpy as np
import pytest
import torch

from speechnar.decode.longform import LongformConfig, transcribe_stream
from speechnar.errors import ConfigError, ShapeError

RATE, HOP, VOCAB, BLANK = 1000, 80, 7, 0
SHIFT_S = HOP / RATE
REACH = 3  # frames to either side that a frame's label depends on
SETTINGS = {"blank_id": BLANK, "sample_rate": RATE, "frame_shift_s": SHIFT_S}


def frame_log_probs(wav: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (B, ceil(S / HOP), V) from a hash of the samples within REACH frames; silence gives blank."""
    num_frames = -(-wav.size(1) // HOP)
    padded = torch.nn.functional.pad(wav.double(), (REACH * HOP, (num_frames + REACH) * HOP - wav.size(1)))
    neighbourhood = padded.unfold(1, (2 * REACH + 1) * HOP, HOP)
    weights = torch.linspace(-3.0, 2.0, neighbourhood.size(2), dtype=torch.float64)
    phase = (neighbourhood @ weights)[..., None]
    logits = 3.0 * torch.sin(phase * torch.arange(1.0, VOCAB + 1, dtype=torch.float64))
    logits[..., BLANK] = torch.where(phase[..., 0] == 0, 9.0, 1.0)
    return logits.log_softmax(-1)


class LocalEncoder:
    """Encodes with `num_prefix` positions in front that carry no audio; remembers what it was given."""

    def __init__(self, num_prefix: int = 2) -> None:
        self.num_prefix = num_prefix
        self.batches: list[tuple[tuple[int, ...], list[int]]] = []

    def __call__(self, wav: torch.Tensor, wav_lens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.batches.append((tuple(wav.shape), wav_lens.tolist()))
        log_probs = frame_log_probs(wav)
        prefix = torch.full((len(wav), self.num_prefix, VOCAB), -5.0).log_softmax(-1)
        prefix[..., VOCAB - 1] = -0.01  # would show up in the text if it were kept
        lens = -(-wav_lens // HOP) + self.num_prefix
        return torch.cat([prefix.double(), log_probs], dim=1), lens


def recording(num_samples: int, seed: int = 0) -> np.ndarray:
    samples = np.random.default_rng(seed).standard_normal(num_samples).astype(np.float32)
    samples[num_samples // 3 : num_samples // 3 + 5 * HOP] = 0.0
    return samples


def in_blocks(samples: np.ndarray, size: int):
    return (samples[i : i + size] for i in range(0, len(samples), size))


def whole(samples: np.ndarray) -> list[int]:
    return frame_log_probs(torch.from_numpy(samples)[None])[0].argmax(-1).tolist() if len(samples) else []


LENGTHS = [
    0, 1, HOP - 1, HOP, 29_990, 30_000, 30_010,
    *(base + off for base in (30_000, 52_000, 74_000) for off in (-1, 1)), 52_000, 74_000, 200_123,
]  # fmt: skip


@pytest.mark.parametrize("num_samples", LENGTHS)
def test_chunked_equals_whole(num_samples):
    samples = recording(num_samples)
    for config in (
        LongformConfig(context_s=4, batch_size=2, pad_to_buffer=False),
        LongformConfig(context_s=1, batch_size=5, pad_to_buffer=False),  # 12.5 frames: must be rounded
    ):
        encoder = LocalEncoder()
        result = transcribe_stream(in_blocks(samples, 7001), encoder, config=config, num_prefix=2, **SETTINGS)
        assert result.labels.tolist() == whole(samples)
        assert result.num_samples == num_samples
        chunk = (375 - 2 * round(config.context_s / SHIFT_S)) * HOP
        expected_buffers = 0 if not num_samples else 1 + math.ceil(max(0, num_samples - 30_000) / chunk)
        assert sum(len(lens) for _, lens in encoder.batches) == expected_buffers
        assert max((len(lens) for _, lens in encoder.batches), default=0) <= config.batch_size


@pytest.mark.parametrize("num_samples", [1, 29_990, 30_001, 52_000, 74_001])
def test_padded_buffers_change_only_what_comes_after_the_recording(num_samples):
    samples = recording(num_samples)
    encoder = LocalEncoder()
    config = LongformConfig(context_s=4)
    result = transcribe_stream([samples], encoder, config=config, num_prefix=2, **SETTINGS)
    expected = whole(samples)
    assert result.labels[: len(expected)].tolist() == expected
    assert all(shape[1] == 30_000 and set(lens) == {30_000} for shape, lens in encoder.batches)


def test_block_size_does_not_matter():
    samples = recording(60_000)
    config = LongformConfig(context_s=2)
    results = [
        transcribe_stream(in_blocks(samples, size), LocalEncoder(), config=config, num_prefix=2, **SETTINGS)
        for size in (1, 80, 30_000, 60_000)
    ]
    assert all(result.labels.tolist() == results[0].labels.tolist() for result in results)
    empty_between = [samples[:10], samples[:0], samples[10:]]
    result = transcribe_stream(empty_between, LocalEncoder(), config=config, num_prefix=2, **SETTINGS)
    assert result.path == results[0].path


def test_path_is_one_global_collapse_with_times():
    samples = recording(80_000)
    config = LongformConfig(pad_to_buffer=False)
    result = transcribe_stream([samples], LocalEncoder(0), config=config, **SETTINGS)
    rebuilt = np.full(len(result.labels), BLANK)
    for token, start, end in zip(result.path.tokens, result.path.starts, result.path.ends, strict=True):
        rebuilt[start:end] = token
    assert rebuilt.tolist() == result.labels.tolist()
    assert result.path.total == pytest.approx(float(result.log_probs.sum()), rel=1e-5)


def reference_labels(samples: np.ndarray, encode, context_s: float, batch_size: int) -> tuple[list[int], int]:
    """ESPnet 202511's decode_long_batched_buffered, from padding to `unmerged`, transcribed with its own names."""
    frames_per_sec = RATE / HOP
    buffer_len, chunk_len = int(RATE * 30), int(RATE * (30 - 2 * context_s))
    speech = np.pad(samples, (int(RATE * context_s), int(RATE * context_s)))
    buffer_list = []
    for i in range(0, len(speech), chunk_len):
        cur_buffer = speech[i : i + buffer_len]
        if len(cur_buffer) < buffer_len:
            buffer_list.append(np.pad(cur_buffer, (0, buffer_len - len(cur_buffer))))
            break
        buffer_list.append(cur_buffer)
    speech = torch.tensor(np.array(buffer_list))
    buffer_frames, context_frames = int(frames_per_sec * 30), int(frames_per_sec * context_s)
    unmerged = []
    for idx in range(0, speech.size(0), batch_size):
        cur = speech[idx : idx + batch_size]
        enc, _ = encode(cur, cur.new_full([cur.size(0)], dtype=torch.long, fill_value=cur.size(1)))
        enc = enc[:, :buffer_frames]
        unmerged.append(enc.argmax(-1)[:, context_frames:-context_frames].reshape(-1))
    return torch.cat(unmerged).tolist(), len(buffer_list)


@pytest.mark.parametrize("num_samples", [0, 1, *LENGTHS[4:]])
@pytest.mark.parametrize("context_s", [1, 2, 4])
def test_reference_offset_reproduces_espnet(num_samples, context_s):
    samples = recording(num_samples)
    expected, num_buffers = reference_labels(samples, LocalEncoder(), context_s, batch_size=3)
    encoder = LocalEncoder()
    config = LongformConfig(context_s=context_s, batch_size=3, reference_offset=True)
    result = transcribe_stream(in_blocks(samples, 4444), encoder, config=config, num_prefix=2, **SETTINGS)
    assert result.labels.tolist() == expected
    assert sum(len(lens) for _, lens in encoder.batches) == num_buffers
    assert all(0 <= start <= end for start, end in zip(result.path.starts, result.path.ends, strict=True))


def test_reference_times_are_corrected_by_the_prefix():
    samples = np.zeros(80_000, dtype=np.float32)
    samples[40_000:40_080] = recording(80)
    results = [
        transcribe_stream(
            [samples], LocalEncoder(), config=LongformConfig(reference_offset=flag), num_prefix=2, **SETTINGS
        )
        for flag in (True, False)
    ]
    assert results[0].path.tokens and results[0].path.tokens == results[1].path.tokens
    assert results[0].path.starts == results[1].path.starts


def test_blank_seam_avoids_a_token_heard_twice():
    """The left buffer hears tokens 1, 2 in frames 323, 324 and the right one in 325, 326; the middle is 325.

    Joined there, the text would be 1 2 1 2.
    """
    heard_at = iter([323, 325 - 275])

    def encode(wav, wav_lens):
        labels = torch.zeros(len(wav), 375, dtype=torch.long)
        for row in labels:
            begin = next(heard_at)
            row[begin], row[begin + 1] = 1, 2
        return torch.nn.functional.one_hot(labels, 3).double().log_softmax(-1), torch.full((len(wav),), 375)

    samples = np.zeros(45_000, dtype=np.float32)
    result = transcribe_stream([samples], encode, config=LongformConfig(), **SETTINGS)
    assert result.path.tokens == [1, 2]


def test_seam_stays_in_the_middle_where_no_frame_is_quiet():
    def encode(wav, wav_lens):
        labels = 1 + torch.arange(375).remainder(2).expand(len(wav), -1)
        return torch.nn.functional.one_hot(labels, 3).double().log_softmax(-1), torch.full((len(wav),), 375)

    samples = np.zeros(45_000, dtype=np.float32)
    result = transcribe_stream([samples], encode, config=LongformConfig(), **SETTINGS)
    assert result.labels.tolist() == [*(1 + i % 2 for i in range(325)), *(1 + i % 2 for i in range(50, 375))]


def test_frames_swallowed_by_the_encoder_are_blank_when_there_is_no_context():
    def encode(wav, wav_lens):
        log_probs = torch.zeros(len(wav), 374, 3)
        log_probs[..., 1] = 1.0
        return log_probs.log_softmax(-1), torch.full((len(wav),), 374)

    samples = np.zeros(60_000, dtype=np.float32)
    result = transcribe_stream([samples], encode, config=LongformConfig(context_s=0), **SETTINGS)
    assert result.labels.tolist() == [1] * 374 + [BLANK] + [1] * 374


def test_memory_holds_a_batch_of_buffers_not_the_recording():
    live, peak = 0, 0

    def blocks():
        nonlocal live
        for _ in range(100):
            live += 1
            yield np.zeros(30_000, dtype=np.float32)

    def encode(wav, wav_lens):
        nonlocal live, peak
        peak, live = max(peak, live), 0  # blocks read since the batch before
        log_probs = torch.zeros(len(wav), 375, 3).log_softmax(-1)
        return log_probs, torch.full((len(wav),), 375)

    config = LongformConfig(batch_size=2, context_s=2)
    result = transcribe_stream(blocks(), encode, config=config, **SETTINGS)
    assert result.num_samples == 3_000_000 and peak <= 3


@pytest.mark.parametrize(
    "wrong", [{"context_s": 15}, {"context_s": -1}, {"batch_size": 0}, {"context_s": 0, "reference_offset": True}]
)
def test_config_is_checked(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LongformConfig(**wrong)


def test_inputs_are_checked():
    config = LongformConfig(buffer_s=0.2, context_s=0.09)
    with pytest.raises(ConfigError, match="between two contexts"):
        transcribe_stream([], LocalEncoder(), config=config, **SETTINGS)
    with pytest.raises(ShapeError, match="one-dimensional"):
        transcribe_stream([np.zeros((2, 3), np.float32)], LocalEncoder(), config=LongformConfig(), **SETTINGS)
    with pytest.raises(ShapeError, match="encode must map"):
        transcribe_stream([recording(9)], lambda wav, lens: (wav, lens), config=LongformConfig(), **SETTINGS)
