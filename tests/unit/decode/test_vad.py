import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from speechnar.decode.vad import (
    SAMPLE_RATE,
    SURE_PROB,
    SURE_WINDOWS,
    WINDOW_SAMPLES,
    Endpointer,
    VadConfig,
    detect_speech,
    holds_speech,
)
from speechnar.errors import AudioError, ShapeError
from tests.unit.noises import no_speech
from tests.unit.tiny import vowels


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Three AN4 utterances between seconds of silence."""
    soundfile = pytest.importorskip("soundfile")
    corpora = os.environ.get("SPEECHNAR_CORPORA")
    archive = Path(corpora or "") / "an4_sphere.tar.gz"
    if corpora is None or not archive.is_file():
        pytest.skip("set SPEECHNAR_CORPORA to a folder with an4_sphere.tar.gz")
    silence = np.zeros(SAMPLE_RATE, dtype=np.float32)
    parts = [silence]
    with tarfile.open(archive) as tar:  # stops at the third utterance instead of unpacking the archive
        for member in tar:
            if member.name.endswith(".sph") and member.size > 2 * 2 * SAMPLE_RATE:
                content = tar.extractfile(member)
                assert content is not None
                samples, sample_rate = soundfile.read(io.BytesIO(content.read()), dtype="float32")
                assert sample_rate == SAMPLE_RATE
                parts += [samples, silence]
            if len(parts) == 7:
                return np.concatenate(parts)
    raise AssertionError("the archive holds too few utterances")


def in_blocks(samples: np.ndarray, size: int):
    return (samples[i : i + size] for i in range(0, len(samples), size))


@pytest.mark.parametrize("kind", ["silence", "tone", "noise", "short", "empty"])
def test_no_speech_in_what_is_none(kind):
    time_s = np.arange(3 * SAMPLE_RATE) / SAMPLE_RATE
    samples = {
        "silence": np.zeros(len(time_s)),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time_s),
        "noise": 0.05 * np.random.default_rng(0).standard_normal(len(time_s)),
        "short": np.zeros(100),
        "empty": np.zeros(0),
    }[kind]
    assert detect_speech([samples.astype(np.float32)]) == []


def test_nobody_surely_speaks_in_noise_silence_and_music():
    assert [name for name, wav in no_speech() if holds_speech([wav])] == []


@pytest.mark.parametrize("level_db", [-30, -10, 0])
def test_somebody_surely_speaks_wherever_the_speech_is(level_db):
    spoken = vowels(0.6) * np.float32(10 ** (level_db / 20) / 0.3)
    noises = [0.001 * np.random.default_rng(seed).standard_normal(SAMPLE_RATE) for seed in (0, 1)]
    wav = np.concatenate([noises[0], spoken, noises[1]]).astype(np.float32)
    assert holds_speech(in_blocks(wav, 700))
    assert not holds_speech([wav[:SAMPLE_RATE]])


def hear(monkeypatch: pytest.MonkeyPatch, probs: list[float]) -> np.ndarray:
    """Let the network say ``probs``, whatever it hears; return as many windows."""

    class Scripted:
        def __init__(self):
            self.heard = iter(probs)

        def hear(self, windows):
            return (next(self.heard) for _ in windows)

    monkeypatch.setattr("speechnar.decode.vad.Silero", Scripted)
    return np.zeros(len(probs) * WINDOW_SAMPLES, dtype=np.float32)


def test_no_more_is_read_than_is_needed(monkeypatch):
    probs = [0.0] * 3 + [SURE_PROB] * (SURE_WINDOWS - 1) + [0.0] + [SURE_PROB] * SURE_WINDOWS
    blocks = in_blocks(hear(monkeypatch, [*probs, *[0.0] * 10]), WINDOW_SAMPLES)
    assert holds_speech(blocks)
    assert len(list(blocks)) == 10
    assert not holds_speech(in_blocks(hear(monkeypatch, [*probs[:-1], 0.0]), WINDOW_SAMPLES))


def test_speech_that_passes_the_threshold_is_not_sure_yet(monkeypatch):
    """As music does it: a window or two, again and again."""
    wav = hear(monkeypatch, [0.0] * 20 + [0.9, 0.9, 0.6] * 10 + [0.0] * 40 + [0.9] * 10 + [0.0] * 40)
    config = VadConfig(min_speech_duration_ms=100, min_silence_duration_ms=500, speech_pad_ms=200)
    assert [segment.is_sure for segment in detect_speech([wav], config)] == [False, True]
    assert [heard.is_sure for heard in Endpointer(config).push(wav) if heard.is_over] == [False, True]


@pytest.mark.parametrize("block_samples", [333, 512, 48_000])
def test_blocks_equal_silero_on_the_whole_recording(speech, block_samples):
    from silero_vad import get_speech_timestamps, load_silero_vad

    config = VadConfig(threshold=0.4, min_silence_duration_ms=200, max_speech_duration_s=2.0, speech_pad_ms=60)
    expected = get_speech_timestamps(torch.from_numpy(speech), load_silero_vad(), **config.model_dump())
    found = detect_speech(in_blocks(speech, block_samples), config)
    assert [(s.start_s * SAMPLE_RATE, s.end_s * SAMPLE_RATE) for s in found] == [
        (item["start"], item["end"]) for item in expected
    ]
    assert all(segment.end_s - segment.start_s <= 2.0 for segment in found)


def test_finds_utterances_between_silence(speech):
    found = detect_speech([speech])
    assert len(found) >= 3
    assert found[0].start_s > 0.9 and found[-1].end_s < len(speech) / SAMPLE_RATE - 0.5
    ends = [0.0, *(segment.end_s for segment in found)]
    assert all(end <= segment.start_s < segment.end_s for end, segment in zip(ends, found, strict=False))


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * SAMPLE_RATE), dtype=np.float32)


def endpoints(wav: np.ndarray, config: VadConfig, size: int) -> list[tuple[float, float]]:
    """Return the segments in seconds, and check that what is said on the way leads to them."""
    endpointer = Endpointer(config)
    heard = [state for block in in_blocks(wav, size) for state in endpointer.push(block)]
    heard += endpointer.finish()
    found, begin, end = [], 0, 0
    for state in heard:
        assert state.begin >= begin and state.begin <= state.end <= len(wav)
        if state.begin == begin and state.end > state.begin:
            assert state.end >= end  # speech once certain stays so
        begin, end = state.begin, state.end
        assert state.is_over or not state.is_sure
        if state.is_over:
            found.append((state.begin / SAMPLE_RATE, state.end / SAMPLE_RATE))
            begin = state.end
    return found


@pytest.mark.parametrize("size", [100, 512, 7000, 10**6])
@pytest.mark.parametrize("min_speech_ms", [100, 1000])
def test_endpoints_are_those_of_the_whole_recording(size, min_speech_ms):
    config = VadConfig(min_speech_duration_ms=min_speech_ms, min_silence_duration_ms=400, speech_pad_ms=150)
    parts = [silence(0.5), vowels(0.5), silence(0.3), vowels(1.2, seed=1), silence(0.6), vowels(0.4, seed=2)]
    wav = np.concatenate([*parts, silence(1.0), vowels(1.4, seed=3)])
    expected = [(segment.start_s, segment.end_s) for segment in detect_speech([wav], config)]
    assert len(expected) == (3 if min_speech_ms == 100 else 2)
    assert endpoints(wav, config, size) == expected
    assert expected[-1][1] == len(wav) / SAMPLE_RATE  # it ends in speech


def test_long_speech_is_cut_in_a_pause_or_anywhere():
    config = VadConfig(min_silence_duration_ms=500, speech_pad_ms=200, max_speech_duration_s=3.0)
    spans = endpoints(vowels(10.0), config, 1000)
    assert len(spans) >= 4
    assert all(end - start <= 3.0 for start, end in spans)
    assert [start for start, _ in spans[1:]] == [end for _, end in spans[:-1]]  # nothing is left out
    assert spans[-1][1] == 10.0
    first, second = endpoints(np.concatenate([vowels(2.3), silence(0.3), vowels(2.0, seed=1)]), config, 1000)
    assert 2.3 <= first[1] <= second[0] <= 2.6


def test_leaves_no_global_state_and_needs_no_torchaudio(interpreter):
    """In a fresh process: silero-vad sets torch's thread count when it is first imported."""
    program = """
sys.modules["torchaudio"] = None
import numpy as np
torch.set_num_threads(2)
from speechnar.decode.vad import detect_speech
assert detect_speech([np.zeros(2000, dtype=np.float32)]) == []
assert torch.get_num_threads() == 2, torch.get_num_threads()
assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
"""
    done = interpreter.run(program)
    assert done.returncode == 0, done.stderr


def test_inputs_are_checked():
    with pytest.raises(AudioError, match="16000 Hz, got 8000 Hz"):
        detect_speech([], sample_rate=8000)
    with pytest.raises(ShapeError, match="one-dimensional"):
        detect_speech([np.zeros((2, 512), dtype=np.float32)])
    with pytest.raises(ValueError, match="threshold"):
        VadConfig(threshold=1.0)
