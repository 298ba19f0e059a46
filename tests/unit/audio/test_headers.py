"""What headers say of the length, and files that end before."""

import io
import struct
import wave

import numpy as np
import pytest
import soundfile

from speechnar.audio.headers import find_unknown_size, is_cut, looks_like_mp3
from speechnar.audio.io import AudioStream, read_audio
from speechnar.errors import AudioError

RATE = 16000
SAMPLES = np.random.default_rng(0).normal(0, 0.1, 6 * RATE).astype(np.float32)


def encoded(format: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, SAMPLES, RATE, format=format, subtype=subtype)
    return buffer.getvalue()


KINDS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("RF64", None), ("AIFF", None), ("AU", None), ("W64", None)]
KINDS += [("OGG", "VORBIS"), ("OGG", "OPUS")]


@pytest.mark.parametrize(("format", "subtype"), KINDS)
def test_a_file_that_ends_too_early_is_read_with_a_warning(format, subtype, caplog):
    whole = encoded(format, subtype)
    read_audio(whole)
    assert not caplog.records
    part = read_audio(whole[: len(whole) // 2])
    assert 1.5 < part.duration < 4
    (message,) = caplog.messages
    assert message == f"audio bytes: ends after {part.duration:.1f} s, before its header says; is it cut off?"


def test_frames_that_are_missing_are_noticed():
    mp3 = encoded("MP3")
    half = io.BytesIO(mp3[: len(mp3) // 2])
    with soundfile.SoundFile(half) as sound:
        assert is_cut(sound, half, len(sound.read()))


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000])
def test_a_size_that_its_writer_did_not_know_is_none(size, caplog):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(bytes(2 * RATE))
    content = bytearray(buffer.getvalue())
    content[40:44] = struct.pack("<I", size)
    assert read_audio(bytes(content)).duration == 1.0
    assert not caplog.records


@pytest.mark.parametrize("riff", [0, 36, 0xFFFFFFFF])
@pytest.mark.parametrize("as_path", [True, False])
@pytest.mark.parametrize("num_channels", [1, 2])
def test_a_recorder_that_never_came_to_write_the_size(riff, as_path, num_channels, tmp_path, caplog):
    whole = io.BytesIO()
    data = np.stack([SAMPLES] * num_channels, axis=1)
    soundfile.write(whole, data, RATE, format="WAV", subtype="PCM_16")
    content = bytearray(whole.getvalue())
    content[4:8] = struct.pack("<I", riff)
    content[40:44] = bytes(4)
    source = tmp_path / "a.wav"
    source.write_bytes(content)
    found = read_audio(source if as_path else bytes(content), target_rate=RATE)
    np.testing.assert_array_equal(found.samples, read_audio(whole.getvalue(), target_rate=RATE).samples)
    assert not caplog.records


def chunk(name: bytes, content: bytes = b"", size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(content) if size is None else size) + content + b"\0" * (len(content) % 2)


@pytest.mark.parametrize(
    ("chunks", "found"),
    [
        ([chunk(b"fmt ", bytes(16)), chunk(b"data")], None),
        ([chunk(b"fmt ", bytes(16)), chunk(b"data"), chunk(b"LIST", b"abc")], None),
        ([chunk(b"fmt ", bytes(16)), chunk(b"data"), chunk(b"LIST", b"ab"), chunk(b"data", b"abcd")], None),
        ([chunk(b"fmt ", bytes(16)), chunk(b"data", b"abcd"), chunk(b"data")], None),
        ([chunk(b"fmt ", bytes(16)), chunk(b"data"), b"\1\2\3\4" * 9], 40),
        ([chunk(b"fmt ", bytes(16)), chunk(b"data"), b"abcdefgh" * 9], 40),
        ([chunk(b"fmt ", bytes(16)), chunk(b"data"), bytes(100)], 40),
        ([chunk(b"fmt ", bytes(16)), chunk(b"LIST", b"abc"), chunk(b"data"), b"\1\2"], 52),
        ([chunk(b"fmt ", size=0xFFFFFFFF), chunk(b"data"), bytes(100)], None),
        ([chunk(b"data"), chunk(b"abcd") * 200], 16),
        ([], None),
    ],
)
def test_data_of_no_byte_and_chunks_behind_them_are_told_from_data_of_unknown_size(chunks, found):
    assert find_unknown_size(io.BytesIO(b"RIFF\0\0\0\0WAVE" + b"".join(chunks))) == found
    assert find_unknown_size(io.BytesIO(b"RIFX\0\0\0\0WAVE" + b"".join(chunks))) is None


@pytest.mark.parametrize("format", ["FLAC", "WAV"])
def test_what_is_too_long_by_its_header_is_refused_before_anything_is_decoded(format, monkeypatch):
    monkeypatch.setattr(soundfile.SoundFile, "read", None)
    with pytest.raises(AudioError, match="at most 5 s of audio are accepted, it lasts 6 s"):
        list(AudioStream(encoded(format), max_seconds=5))


def test_ogg_ends_by_its_last_page():
    whole = io.BytesIO(encoded("OGG"))
    with soundfile.SoundFile(whole) as sound:
        num_read = len(sound.read())
        assert not is_cut(sound, whole, num_read)
        for content in (whole.getvalue()[:-1], whole.getvalue()[:30], b"OggS", b""):
            cut = io.BytesIO(content)
            assert is_cut(sound, cut, num_read) == (content != whole.getvalue()[:-1])


@pytest.mark.parametrize("head", [b"ID3\x04", b"\xff\xfb\x90", b"\xff\xe2"])
def test_heads_of_mpeg_audio(head):
    assert looks_like_mp3(head)


@pytest.mark.parametrize("head", [b"", b"\xff", b"\xff\x00", b"RIFF", b"fLaC"])
def test_other_heads(head):
    assert not looks_like_mp3(head)
