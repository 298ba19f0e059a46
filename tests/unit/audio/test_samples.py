"""What samples may be: one rule for files, arrays and streams."""

import io
import warnings

import numpy as np
import pytest
import soundfile
import torch

from speechnar.audio.io import AudioStream, PushedAudio, read_audio, read_original
from speechnar.audio.samples import MAX_LEVEL, Mixer, array_samples, check_format
from speechnar.errors import AudioError

RATE = 16000


def quiet_with(value: float, dtype=np.float32) -> np.ndarray:
    samples = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(dtype)
    samples[2 * RATE] = value
    return samples


def as_file(samples: np.ndarray, subtype: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, RATE, format="WAV", subtype=subtype)
    return buffer.getvalue()


def push(samples: np.ndarray) -> None:
    audio = PushedAudio(RATE, RATE)
    audio.push(samples[:RATE])
    audio.push(samples[RATE:])


WAYS = {
    "float file": lambda samples: read_audio(as_file(samples, "FLOAT")),
    "double file": lambda samples: read_audio(as_file(samples, "DOUBLE")),
    "file for editing": lambda samples: read_original(as_file(samples, "FLOAT")),
    "array": lambda samples: read_audio(samples, sample_rate=RATE),
    "tensor": lambda samples: read_audio(torch.from_numpy(samples), sample_rate=RATE),
    "stream": push,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("value", "says"),
    [
        (1e20, r"must lie in \[-1, 1\], one is 1e\+20 \(after .* s\); re-export it"),
        (-1e38, r"one is 1e\+38"),
        (8.5, "they have the scale of 16 bits, divide by 32768"),
        (-20000.0, "one is 2e.04 .*they have the scale of 16 bits, divide by 32768"),
        (8e6, "24 bits, divide by 8388608"),
        (2e9, "32 bits"),
        (np.nan, "NaN or infinite"),
        (-np.inf, "NaN or infinite"),
    ],
)
def test_one_sample_far_beyond_full_scale_is_refused_by_every_way_in(way, value, says):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match=says):
            WAYS[way](quiet_with(value))


@pytest.mark.parametrize("way", WAYS)
def test_what_is_a_little_too_loud_is_taken(way):
    WAYS[way](quiet_with(MAX_LEVEL))
    WAYS[way](np.zeros(3 * RATE, dtype=np.float32))


def test_values_beyond_float32_are_refused_without_a_word_of_numpy():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match=r"one is 1e\+300"):
            read_audio(quiet_with(1e300, np.float64), sample_rate=RATE)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_width_of_floats_is_taken(dtype):
    samples = torch.tensor([0.0, 0.5, -0.25], dtype=dtype)
    assert array_samples(samples).tolist() == [0.0, 0.5, -0.25]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_integers_have_the_scale_of_their_type(dtype):
    low = np.iinfo(dtype).min
    assert array_samples(np.array([0, low // 2, low], dtype=dtype)).tolist() == [0.0, -0.5, -1.0]


def test_integers_of_another_scale_are_refused():
    with pytest.raises(AudioError, match="int16 or int32, got int64; they have the scale of 16 bits, divide by 32768"):
        array_samples(np.array([0, 16384, -32768]))
    with pytest.raises(AudioError, match="scale of 32 bits, divide by 2147483648"):
        array_samples(np.array([0, -(2**31)]))
    of_16_bits = np.array([0, 16384, -32000], dtype=np.int32)
    with pytest.raises(AudioError, match="the largest is 32000; if they are of 16 bits, divide by 32768"):
        array_samples(of_16_bits)
    assert array_samples(of_16_bits, start_s=1.0)[1] == 2.0**-17, "a piece of a recording may be silent"
    assert array_samples(np.zeros(9, dtype=np.int32)).tolist() == [0.0] * 9
    for other in (np.array([1, 2], dtype=np.uint8), np.array([1j]), np.array(["a"]), np.array([True])):
        with pytest.raises(AudioError, match="must be of floats"):
            array_samples(other)


@pytest.mark.parametrize("rate", ["16000", None, 0, 1e9, float("nan")])
def test_impossible_rates(rate):
    with pytest.raises(AudioError, match="sample rate must"):
        check_format(rate, 1, "stream")
    with pytest.raises(AudioError, match="sample rate must"):
        PushedAudio(rate, RATE)


def test_channels_that_cancel_are_not_silence(caplog):
    left = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    inverted = np.stack([left, -0.999 * left], axis=1)
    np.testing.assert_array_equal(np.concatenate(list(AudioStream(as_file(inverted, "FLOAT")))), left)
    assert caplog.messages == ["audio bytes: its channels cancel each other, channel 0 is taken"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("level", [1e25, np.inf, np.nan])
def test_channels_far_beyond_full_scale_are_refused_without_a_stray_line(level):
    loud = np.full((RATE, 2), level, dtype=np.float32)
    with pytest.raises(AudioError, match=r"samples must lie in|NaN or infinite"):
        list(AudioStream(as_file(loud, "FLOAT")))


@pytest.mark.parametrize("channels", [1, 2, 8, 64])
def test_other_channels_are_averaged(channels):
    generator = np.random.default_rng(0)
    apart = generator.normal(0, 0.1, (4000, channels)).astype(np.float32)
    one = np.zeros((4000, channels), dtype=np.float32)
    one[:, -1] = apart[:, 0]
    for block in (apart, one, np.zeros_like(one), np.ones_like(one)):
        np.testing.assert_allclose(Mixer(None, "a")(block), block.mean(axis=1), atol=1e-6)
