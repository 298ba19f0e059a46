import io
import logging
import tracemalloc
import wave

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.audio.io import Audio, AudioStream, PushedAudio, _has_media_extra, read_audio, resample
from speechnar.errors import AudioError, ConfigError
from tests.fuzz import write_case
from tests.unit.disk import file_size_limit


def tone(seconds, rate, hz=440.0):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples, rate, format="WAV", subtype=None):
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def test_every_kind_of_source_gives_the_same_samples(tmp_path):
    samples = tone(0.3, 16000)
    path = tmp_path / "a b.wav"
    Audio(samples, 16000).save(path)
    from_path = read_audio(path).samples
    assert np.abs(from_path - samples).max() < 1e-4
    with path.open("rb") as file:
        for source in (str(path), path.read_bytes(), file):
            assert np.array_equal(read_audio(source).samples, from_path)
    assert np.array_equal(read_audio(samples, sample_rate=16000).samples, samples)
    assert np.array_equal(read_audio(torch.tensor(samples), sample_rate=16000).samples, samples)
    integers = read_audio(np.array([0, 16384, -32768], dtype=np.int16), sample_rate=16000).samples
    assert integers.tolist() == [0.0, 0.5, -1.0]


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
def test_resampled_tone_keeps_length_and_frequency(rate):
    audio = read_audio(encoded(tone(1.0, rate), rate))
    assert abs(len(audio.samples) - 16000) <= 1
    assert abs(np.abs(np.fft.rfft(audio.samples[:16000], 16000)).argmax() - 440) <= 1


@pytest.mark.parametrize("format", ["FLAC", "OGG", "MP3", "NIST"])
def test_other_formats(format):
    audio = read_audio(encoded(tone(0.5, 16000), 16000, format))
    assert abs(audio.duration - 0.5) < 0.1


@pytest.mark.parametrize(("stored", "subtype"), [("PCM_16", None), ("PCM_24", "PCM_24"), ("FLOAT", "FLOAT")])
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_what_was_read_is_written_back_bit_for_bit(tmp_path, stored, subtype, suffix):
    if (stored, suffix) == ("FLOAT", ".flac"):
        with pytest.raises(AudioError, match=r"a\.flac: cannot be written"):
            Audio(tone(0.1, 16000), 16000).save(tmp_path / "a.flac", subtype="FLOAT")
        return
    rng = np.random.default_rng(0)
    high = 2**15 if stored == "PCM_16" else 2**31
    integers = rng.integers(-high, high, 5000)
    integers[:2] = -high, high - 1
    data = integers.astype(np.int16 if stored == "PCM_16" else np.int32)
    if stored == "FLOAT":
        data = rng.normal(size=5000).astype(np.float32)
    first, second = tmp_path / f"first{suffix}", tmp_path / f"second{suffix}"
    soundfile.write(first, data, 16000, subtype=stored)
    read_audio(first).save(second, subtype=subtype)
    assert soundfile.info(second).subtype == stored
    np.testing.assert_array_equal(soundfile.read(second)[0], soundfile.read(first)[0])


def test_loud_samples_are_clipped(tmp_path):
    Audio(np.array([2.0, -2.0, 0.5], dtype=np.float32), 16000).save(tmp_path / "a.wav")
    assert soundfile.read(tmp_path / "a.wav", dtype="int16")[0].tolist() == [32767, -32768, 16384]


@pytest.mark.parametrize("rate", [16000, 44100])
def test_blocks_join_to_the_whole(rate):
    content = encoded(np.random.default_rng(0).normal(0, 0.1, rate).astype(np.float32), rate)
    whole = read_audio(content).samples
    blocks = list(AudioStream(content, block_seconds=0.07))
    assert len(blocks) > 10
    assert np.abs(np.concatenate(blocks) - whole).max() < 1e-6
    assert np.abs(whole - resample(soundfile.read(io.BytesIO(content), dtype="float32")[0], rate, 16000)).max() < 1e-3


def test_eight_channels_are_mixed_or_chosen():
    channels = np.stack([tone(0.1, 16000) * (c + 1) / 8 for c in range(8)], axis=1)
    content = encoded(channels, 16000, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(content).samples, channels.mean(1), atol=1e-6)
    np.testing.assert_allclose(read_audio(content, channel=2).samples, channels[:, 2], atol=1e-6)
    with pytest.raises(AudioError, match="no channel 8"):
        read_audio(content, channel=8)


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_one_sample_is_audio(rate):
    assert 1 <= len(read_audio(encoded(np.array([0.5]), rate)).samples) <= 2


def test_unusable_inputs_are_named(tmp_path):
    nan = np.zeros(100, dtype=np.float32)
    nan[50] = np.nan
    text = tmp_path / "text.wav"
    text.write_text("this is no audio\n" * 100)
    (tmp_path / "empty.wav").write_bytes(b"")
    no_rate = bytearray(encoded(np.zeros(100), 16000))
    no_rate[24:28] = bytes(4)
    for source, message in (
        (tmp_path / "missing.wav", r"^/\S+missing.wav: does not exist; give"),
        (tmp_path, "folder"),
        ("a\0b.wav", "no file name|does not exist"),
        (tmp_path / "empty.wav", "empty"),
        (text, "text.wav"),
        (encoded(np.zeros((0,)), 16000), "no audio samples"),
        (encoded(nan, 16000, subtype="FLOAT"), "NaN"),
        (bytes(no_rate), "rate|decode"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
        (b"\x00" * 64, "decode"),
        (encoded(np.zeros(100), 500), "rate"),
    ):
        with pytest.raises(AudioError, match=message) as caught:
            read_audio(source)
        assert "\n" not in str(caught.value)
    for array, rate, message in (
        (np.zeros((2, 5)), 16000, "1-D"),
        (np.zeros(0), 16000, "no audio"),
        (np.zeros(5), None, "sample_rate"),
        (np.zeros(5), 0, "rate"),
        (nan, 16000, "NaN"),
        (np.array(["a"]), 16000, "float"),
    ):
        with pytest.raises(AudioError, match=message):
            read_audio(array, sample_rate=rate)


def test_decoded_seconds_are_capped_whatever_the_file_size():
    bomb = encoded(np.zeros(16000 * 60, dtype=np.int16), 16000, "FLAC")
    assert len(bomb) < 60_000
    stream = AudioStream(bomb, block_seconds=1.0, max_seconds=3.0)
    seconds = 0.0
    with pytest.raises(AudioError, match="at most 3 s"):
        for block in stream:
            seconds += len(block) / 16000
    assert seconds <= 3.0
    with pytest.raises(AudioError, match="at most 1 s"):
        read_audio(np.zeros(16001), sample_rate=16000, max_seconds=1.0)


def test_truncated_files_give_what_is_there_or_an_error():
    content = encoded(tone(2.0, 16000), 16000)
    assert 0 < read_audio(content[: len(content) // 2]).duration < 2.0
    flac = encoded(np.random.default_rng(0).normal(0, 0.1, 32000), 16000, "FLAC")
    with pytest.raises(AudioError, match=r"damaged|decode"):
        read_audio(flac[: len(flac) // 2])


def test_files_are_read_without_calls_back_into_python(tmp_path, monkeypatch):
    """Such a call drops an interrupt, and what is missing then counts as damage."""
    samples = tone(0.3, 16000)
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, 16000, subtype="FLOAT")
    called = []
    monkeypatch.setattr(soundfile.SoundFile, "_init_virtual_io", lambda self, file: called.append(file))
    np.testing.assert_array_equal(read_audio(path).samples, samples)
    assert not called
    read_audio(path.read_bytes())
    assert called  # bytes have no other way


def test_joined_mp3_files_are_read_to_the_end():
    pytest.importorskip("av")
    joined = b"".join(encoded(tone(seconds, 16000), 16000, "MP3") for seconds in (1.0, 3.0))
    assert abs(read_audio(joined).duration - 4.0) < 0.3


def test_packets_that_do_not_decode_are_left_out_and_reported(caplog):
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="adts") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for start in range(0, 32 * 1024, 1024):
            block = tone(3.0, 16000)[None, start : start + 1024]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), "fltp", "mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    content = buffer.getvalue()
    with caplog.at_level(logging.WARNING, logger="speechnar"):
        assert 0.5 < read_audio(content[: len(content) // 2]).duration < 1.5
    assert "do not decode" in caplog.text


@pytest.mark.parametrize(
    "script",
    [
        "ffconcat version 1.0\nfile secret.wav\n",
        "\ufeff#EXTM3U\n#EXTINF:1,\nsecret.wav\n",
        "<!-- {} --><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static' mediaPresentationDuration='PT1S'><Period>"
        "<AdaptationSet mimeType='audio/wav'><Representation id='a' bandwidth='1'><BaseURL>secret.wav</BaseURL>"
        "</Representation></AdaptationSet></Period></MPD>".format("x" * 100),
        "v=0\nc=IN IP4 127.0.0.1\nm=audio 9999 RTP/AVP 0\n",
    ],
    ids=["concat", "hls", "dash", "sdp"],
)
def test_scripts_cannot_make_the_decoder_open_another_file(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Audio(tone(0.5, 16000), 16000).save("secret.wav")
    (tmp_path / "upload.mp4").write_text(script, encoding="utf-8")
    for source in (tmp_path / "upload.mp4", "upload.mp4", script.encode()):
        with pytest.raises(AudioError, match="not audio"):
            read_audio(source)


def test_no_address_is_ever_opened():
    for source in ("http://127.0.0.1:9/a.wav", "concat:a.wav|b.wav", "pipe:0", "-"):
        with pytest.raises(AudioError, match="does not exist"):
            read_audio(source)


@pytest.mark.skipif(not _has_media_extra(), reason="PyAV is not installed")
def test_damaged_media_say_nothing_on_stderr_by_themselves(tmp_path, capfd):
    """PyAV tells of exceptions in the files that it is given, as of a seek to before their beginning."""
    for seed in (1215, 2412, 2972):  # of the fuzzer, which found it
        folder = tmp_path / str(seed)
        folder.mkdir()
        write_case("audio", seed, folder)
        with pytest.raises(AudioError):
            read_audio(next(folder.iterdir()))
    assert capfd.readouterr().err == ""


def test_a_long_file_needs_memory_for_a_block_only():
    content = encoded(np.zeros(16000 * 600, dtype=np.int16), 16000, "FLAC")
    tracemalloc.start()
    try:
        num_samples = sum(len(block) for block in AudioStream(content, target_rate=8000, block_seconds=5.0))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_samples == 8000 * 600
    assert peak < 4_000_000  # the whole would be 19 MB


def test_impossible_options_are_refused():
    for options in ({"target_rate": 0}, {"block_seconds": 0.0}, {"max_seconds": -1.0}):
        with pytest.raises(ConfigError, match="positive"):
            AudioStream(b"", **options)


def test_g722_through_pyav(tmp_path):
    av = pytest.importorskip("av")
    path = tmp_path / "tone.g722"
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("adpcm_g722", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray((tone(0.5, 16000) * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = 16000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    audio = read_audio(path)
    assert abs(audio.duration - 0.5) < 0.05
    assert abs(np.abs(np.fft.rfft(audio.samples, 16000)).argmax() - 440) <= 3


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
@pytest.mark.parametrize("num_samples", [1, 2_600_000])
def test_long_recordings_are_written(tmp_path, suffix, num_samples):
    """Vorbis at one go overflowed the stack at 2.5 million samples."""
    path = tmp_path / f"a{suffix}"
    Audio(np.zeros(num_samples, dtype=np.float32), 24000).save(path)
    assert soundfile.info(path).frames >= num_samples
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "subtype"), [(".wav", "PCM_24"), (".flac", None), (".ogg", None), (".mp3", None)])
def test_half_an_hour_is_written_and_comes_back(tmp_path, suffix, subtype):
    path = tmp_path / f"a{suffix}"
    audio = Audio(tone(1800, 24000), 24000)
    audio.save(path, subtype=subtype)
    back = read_audio(path, target_rate=24000)
    assert back.duration == pytest.approx(1800, abs=0.1)
    assert np.abs(back.samples[:24000]).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, suffix):
    noise = np.random.default_rng(0).normal(0, 0.1, 200_000).astype(np.float32)
    with file_size_limit(8000), pytest.raises(AudioError, match=rf"a\{suffix}: cannot be written"):
        Audio(noise, 24000).save(tmp_path / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_long_names_are_written(tmp_path):
    path = tmp_path / f"{'я' * 125}.wav"
    Audio(tone(0.1, 16000), 16000).save(path)
    assert read_audio(path).duration == pytest.approx(0.1)


def test_saving_is_refused_clearly(tmp_path):
    with pytest.raises(AudioError, match="cannot be written"):
        Audio(tone(0.1, 16000), 16000).save(tmp_path / "missing" / "a.wav")
    with pytest.raises(AudioError, match="cannot be written"):
        Audio(tone(0.1, 16000), 16000).save(tmp_path / "a.unknown")
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 60))
def test_damaged_headers_never_escape_as_other_errors(noise, position):
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(b"\1\0" * 50)
    content = bytearray(buffer.getvalue())
    content[position : position + len(noise)] = noise
    try:
        assert np.isfinite(read_audio(bytes(content), max_seconds=60).samples).all()
    except AudioError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("rates", [(8000, 16000), (44100, 16000), (16000, 8000), (16000, 16000)])
def test_pushed_pieces_are_resampled_like_the_whole(rates):
    wav = np.random.default_rng(0).standard_normal(9000).astype(np.float32)
    whole = resample(wav, *rates)
    for size in (1, 7, 1000, 9000):
        audio = PushedAudio(*rates)
        pieces = [audio.push(wav[begin : begin + size]) for begin in range(0, len(wav), size)]
        assert np.array_equal(np.concatenate([*pieces, audio.push(wav[:0]), audio.finish()]), whole)


def test_pushes_that_are_no_audio_are_refused():
    audio = PushedAudio(8000, 16000)
    audio.push(np.zeros(12000))
    with pytest.raises(AudioError, match=r"after 1\.5 s"):
        audio.push(np.array([np.inf]))
    with pytest.raises(AudioError, match="1-D"):
        audio.push(np.zeros((1, 5)))
    assert len(audio.push(np.zeros(0))) + len(audio.finish()) <= 24000
    with pytest.raises(AudioError, match="sample rate must lie in"):
        PushedAudio(0, 16000)
