"""Streams give what their utterances give as clips, however the samples are pushed."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechnar.asr.options import DecodeOptions
from speechnar.asr.recordings import utterances
from speechnar.asr.stream import SpeechStream
from speechnar.asr.transcriber import Transcriber
from speechnar.audio.io import resample
from speechnar.decode.vad import Endpointer
from speechnar.errors import AudioError, ConfigError
from speechnar.models.asr.paraformer import ParaformerConfig
from speechnar.models.asr.paraformer_head import CifConfig
from speechnar.models.asr.paraformer_stream import ParaformerStream
from speechnar.models.asr.seaco import SeacoConfig
from speechnar.models.base import load_model, save_model
from speechnar.nn.sanm import WindowConfig
from speechnar.text.transcript import Segment, Transcript
from tests.unit.tiny import (
    CARD,
    LANGUAGES,
    RATE,
    save_tiny_joint,
    save_tiny_model,
    save_tiny_paraformer,
    save_tiny_whisper,
    vowels,
)

SEACO = SeacoConfig(encoder_layers=1, num_layers=1, num_heads=2, ff_dim=16, kernel_size=3)
ONE = "一二"


def windowed(**changes: object) -> ParaformerConfig:
    """Return a Paraformer that can stream."""
    base = ParaformerConfig.debug()
    windows = WindowConfig(current_frames=4, ahead_frames=2, encoder_look_back=2, decoder_look_back=1)
    head = base.head.model_copy(update={"fsmn_shift": 5, "embedder": CifConfig(threshold="fixed")})
    encoder = base.encoder.model_copy(update={"windows": windows})
    return base.model_copy(update={"head": head, "encoder": encoder, **changes})


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Transcriber]:
    folder = tmp_path_factory.mktemp("models")
    saved = {
        "ctc": save_tiny_model(folder / "ctc"),
        "joint": save_tiny_joint(folder / "joint"),
        "whole": save_tiny_paraformer(folder / "whole"),
        "windowed": save_tiny_paraformer(folder / "windowed", windowed()),
        "hotwords": save_tiny_paraformer(folder / "hotwords", windowed(hotwords=SEACO)),
    }
    joint = load_model(saved["joint"])
    with torch.no_grad():  # else this random decoder writes nothing that is text
        specials = [i for i in range(joint.tokenizer.vocab_size) if joint.tokenizer.is_special(i)]
        joint.model.decoders["cassnat"].out.bias[specials] = -100.0
    save_model(saved["joint"], joint.model, joint.tokenizer, card=CARD)
    return {name: Transcriber.load(path, device="cpu", precision="fp32") for name, path in saved.items()}


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    """Two utterances; the second lasts to the end."""
    silence = np.zeros(RATE, dtype=np.float32)
    return np.concatenate([silence[:8000], vowels(1.5), silence, vowels(1.0, seed=1)])


def spans(wav: np.ndarray, window_s: float = 30.0) -> list[tuple[int, int]]:
    endpointer = Endpointer(utterances(window_s))
    return [(heard.begin, heard.end) for heard in [*endpointer.push(wav), *endpointer.finish()] if heard.is_over]


def pieces(wav: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """Cut ``wav`` into pieces of these sizes, over and over."""
    place = turn = 0
    while place < len(wav):
        size = sizes[turn % len(sizes)]
        yield wav[place : place + size]
        place, turn = place + size, turn + 1


def run(stream: SpeechStream, wav: np.ndarray, sizes: list[int]) -> Transcript:
    """Push ``wav`` in pieces; what came on the way must be what the transcript begins with."""
    early: list[Segment] = []
    for piece in pieces(wav, sizes):
        early += stream.push(piece)
    transcript = stream.finish()
    assert tuple(early) == transcript.segments[: len(early)]
    return transcript


CASES = [
    ("ctc", DecodeOptions()),
    ("ctc", DecodeOptions(beam_size=3, hotwords=("dog",))),
    ("joint", DecodeOptions(decoder="cassnat", num_alignments=4)),
    ("joint", DecodeOptions(decoder="paraformer")),
    ("joint", DecodeOptions(decoder="transformer_ar")),
    ("whole", DecodeOptions()),
    ("windowed", DecodeOptions()),
    ("windowed", DecodeOptions(window_s=1.2)),
]


@pytest.mark.parametrize(("name", "options"), CASES)
def test_pieces_of_any_size_give_the_same(models, recording, name, options):
    def whole() -> Transcript:
        stream = models[name].stream(word_timestamps=True, options=options)
        return run(stream, recording, [len(recording)])

    expected = whole()
    assert expected.text

    @settings(max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.integers(0, 20000), min_size=1, max_size=8).filter(any))
    def check(sizes: list[int]) -> None:
        assert run(models[name].stream(word_timestamps=True, options=options), recording, sizes) == expected

    check()


@pytest.mark.parametrize("name", ["ctc", "windowed"])
def test_single_samples(models, name):
    wav = vowels(0.5, seed=2)
    expected = run(models[name].stream(), wav, [len(wav)])
    assert expected.text
    assert run(models[name].stream(), wav, [1]) == expected


@pytest.mark.parametrize(("name", "options"), CASES)
def test_utterances_are_those_of_clips_to_the_last_word(models, recording, name, options):
    """Bit for bit where clips are decoded; a model that streams keeps its text and its times to the frame."""
    model = models[name]
    transcript = run(model.stream(word_timestamps=True, options=options), recording, [1600])
    places = spans(recording, options.window_s)
    assert len(places) >= 2 and places[-1][1] == len(recording)
    expected = []
    for begin, end in places:
        wav = recording[begin:end]
        clip = model.transcribe(wav, sample_rate=RATE, word_timestamps=True, options=options)
        expected += [(word.word, begin / RATE + word.start) for segment in clip.segments for word in segment.words]
    found = [(word.word, word.start) for segment in transcript.segments for word in segment.words]
    assert [word for word, _ in found] == [word for word, _ in expected]
    assert [start for _, start in found] == pytest.approx([start for _, start in expected], abs=1e-6)
    assert transcript.segments[-1].start >= places[-1][0] / RATE


def test_times_are_in_order_and_segments_numbered(models, recording):
    transcript = run(models["ctc"].stream(word_timestamps=True), recording, [700])
    words = [word for segment in transcript.segments for word in segment.words]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] <= transcript.duration == len(recording) / RATE
    assert all(a.end <= b.start for a, b in pairwise(transcript.segments))
    assert [segment.id for segment in transcript.segments] == list(range(len(transcript.segments)))
    plain = run(models["ctc"].stream(), recording, [700])
    assert plain.text == transcript.text == " ".join(segment.text for segment in transcript.segments)
    assert all(segment.words is None for segment in plain.segments)


def test_an_utterance_is_final_half_a_second_after_it(models, recording):
    """In time for whoever waits for it: 0.5 s of silence, and the windows of 32 ms in which it is heard."""
    stream, place = models["ctc"].stream(), 0
    (begin, end), _ = spans(recording)
    for piece in pieces(recording, [160]):
        place += len(piece)
        if stream.push(piece):
            break
    assert begin < end < place
    assert place - (end - 0.2 * RATE) <= 0.5 * RATE + 2 * 512  # the span has 0.2 s of padding


def test_the_language_is_that_of_all_utterances(models, recording):
    transcript = run(models["ctc"].stream(), recording, [5000])
    clips = [models["ctc"].detect_language(recording[a:b], sample_rate=RATE) for a, b in spans(recording)]
    assert transcript.language in LANGUAGES and len(clips) == 2
    shares = [clip.probabilities[transcript.language] for clip in clips]
    assert min(shares) <= transcript.language_probability <= max(shares)
    given = run(models["ctc"].stream(language="German"), recording, [5000])
    assert (given.language, given.language_probability) == ("deu", None)
    assert run(models["whole"].stream(), recording, [5000]).language == "zho"


# Text that is not all there yet.


@pytest.mark.parametrize(
    ("piece", "partial", "plain", "final"),
    [
        ("ä", "", "", "⁇"),
        ("ä½", "", "", "⁇"),
        ("ä½ł", "你", "你", "你"),
        ("Ġcat", "cat", "cat", "cat"),
        ("?", "?", "", "?"),
    ],
)
def test_a_partial_text_has_whole_characters(tmp_path, piece, partial, plain, final):
    """Of a model that hears one piece in all speech, which may be a part of a character."""
    loaded = load_model(save_tiny_whisper(tmp_path / "bytes"))
    transcriber = Transcriber(loaded)
    with torch.no_grad():
        ctc = loaded.model.trunk.ctc.proj
        ctc.weight.zero_()
        ctc.bias.zero_()[loaded.tokenizer.id_of(piece)] = 10.0
    for options, expected in ((DecodeOptions(), partial), (DecodeOptions(plain=True), plain)):
        stream = transcriber.stream(options=options)
        stream.push(vowels(1.0))
        assert stream.partial() == expected
    stream = transcriber.stream()
    stream.push(vowels(1.0))
    assert stream.finish().text == final


# Hotwords.


def test_hotwords_do_in_a_stream_what_they_do_in_a_clip(models, recording):
    """With CTC's search, and with a model that learnt hotwords; with word times in both."""
    for name, options in (
        ("ctc", DecodeOptions(hotwords=("dog",), hotword_weight=30.0)),
        ("hotwords", DecodeOptions(hotwords=(ONE,))),
    ):
        model = models[name]
        plain = run(model.stream(word_timestamps=True), recording, [4000])
        hot = run(model.stream(word_timestamps=True, options=options), recording, [4000])
        texts = [model.transcribe(recording[a:b], sample_rate=RATE, options=options).text for a, b in spans(recording)]
        assert hot.text == " ".join(texts)
        assert hot != plain
        assert all(segment.words for segment in hot.segments)
        if name == "ctc":
            assert hot.text.split().count("dog") > plain.text.split().count("dog")


# The end, and nothing.


def test_finish_twice_is_finish_once(models, recording):
    stream = models["ctc"].stream()
    stream.push(recording)
    transcript = stream.finish()
    assert stream.finish() is transcript
    assert stream.partial() == ""
    with pytest.raises(ConfigError, match="start another"):
        stream.push(recording)


@pytest.mark.parametrize("name", ["ctc", "windowed"])
@pytest.mark.parametrize("seconds", [0.0, 0.01, 2.0])
def test_without_speech(models, name, seconds):
    stream = models[name].stream()
    assert stream.push(np.zeros(round(seconds * RATE), dtype=np.float32)) == ()
    transcript = stream.finish()
    assert (transcript.text, transcript.segments, transcript.duration) == ("", (), seconds)
    assert (transcript.language, transcript.language_probability) == {"ctc": ("und", 0.0), "windowed": ("zho", None)}[
        name
    ]


def test_an_utterance_in_which_nobody_surely_speaks_has_no_say_in_the_language(models, recording, monkeypatch):
    (_, _), (begin, end) = spans(recording)
    expected = models["ctc"].detect_language(recording[begin:end], sample_rate=RATE)
    push = Endpointer.push
    monkeypatch.setattr(
        Endpointer, "push", lambda self, wav: (replace(heard, is_sure=False) for heard in push(self, wav))
    )
    transcript = run(models["ctc"].stream(), recording, [len(recording)])  # the second ends by itself, not in a push
    assert (transcript.language, transcript.language_probability) == (
        expected.language,
        pytest.approx(expected.probability, rel=1e-4),
    )


# Inputs.


def test_a_push_that_is_refused_changes_nothing(models, recording):
    stream = models["ctc"].stream()
    stream.push(recording[:20000])
    with pytest.raises(AudioError, match=r"NaN or infinite samples \(after 1\.2 s\)"):
        stream.push(np.array([0.0, np.nan], dtype=np.float32))
    for wrong in (np.zeros((2, 5)), b"bytes", "text", None):
        with pytest.raises(AudioError, match="array of samples must be"):
            stream.push(wrong)
    stream.push(recording[20000:])
    assert stream.finish() == run(models["ctc"].stream(), recording, [len(recording)])


def test_tensors_and_integers(models, recording):
    integers = np.round(recording * 32767).astype(np.int16)
    expected = run(models["ctc"].stream(), integers / np.float32(32768), [3000])
    assert run(models["ctc"].stream(), integers, [999]) == expected
    assert run(models["ctc"].stream(), torch.from_numpy(integers), [50000]) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [8000, 44100])
def test_other_rates_are_resampled_with_carried_state(models, recording, rate):
    wav = resample(recording, RATE, rate)
    expected = run(models["ctc"].stream(), resample(wav, rate, RATE), [RATE])
    assert expected.text
    for sizes in ([len(wav)], [441], [1, 5000]):
        assert run(models["ctc"].stream(sample_rate=rate), wav, sizes) == expected


def test_a_model_that_hears_another_rate(tmp_path, recording):
    """The endpoints are found at 16 kHz, the utterances decoded at the model's rate."""
    frontend = ParaformerConfig.debug().frontend.model_copy(update={"sample_rate": 8000})
    model = Transcriber.load(save_tiny_paraformer(tmp_path / "low", windowed(frontend=frontend)), device="cpu")
    wav = resample(recording, RATE, 8000)
    places = spans(resample(wav, 8000, RATE))
    expected = [model.transcribe(wav[a // 2 : b // 2], sample_rate=8000).text for a, b in places]
    transcript = run(model.stream(), wav, [1234])
    assert len(places) == 2 and transcript.text == " ".join(expected)
    assert run(model.stream(sample_rate=RATE), recording, [1234]).duration == len(recording) / RATE


def test_what_cannot_be_honoured_is_refused(models):
    for name, values, match in (
        ("ctc", {"options": DecodeOptions(vad=False)}, "voice activity detection"),
        ("ctc", {"options": DecodeOptions(num_alignments=3)}, "num_alignments is not for decoder ctc"),
        ("windowed", {"options": DecodeOptions(hotwords=(ONE,))}, "hotwords is not for decoder paraformer"),
        ("windowed", {"options": DecodeOptions(beam_size=3)}, "beam_size is not for"),
        ("ctc", {"language": "ita"}, "language must be one of"),
    ):
        with pytest.raises(ConfigError, match=match):
            models[name].stream(**values)
    with pytest.raises(AudioError, match="sample rate must lie in"):
        models["ctc"].stream(sample_rate=10)


# Text that is not final.


def test_partial_text_of_a_model_that_streams_grows_as_tokens_fire(models, recording):
    stream = models["windowed"].stream()
    seen = [""]
    for piece in pieces(recording, [1600]):
        before, closed = seen[-1], stream.push(piece)
        seen.append(stream.partial())
        assert closed or seen[-1].startswith(before)
        if closed:
            assert "".join(segment.text for segment in closed).startswith(before)
    assert len(set(seen)) > 4  # several steps, not all at once
    assert stream.finish() == run(models["windowed"].stream(), recording, [len(recording)])


def test_partial_text_of_other_models_is_that_of_the_clip_so_far(models, recording):
    stream = models["ctc"].stream()
    (begin, _), _ = spans(recording)
    heard = begin + 20 * 512
    stream.push(recording[:8000])
    assert stream.partial() == ""
    stream.push(recording[8000:heard])
    known = heard // 512 * 512  # whole windows
    assert stream.partial() == models["ctc"].transcribe(recording[begin:known], sample_rate=RATE).text
    stream.push(recording[heard:])
    assert stream.finish() == run(models["ctc"].stream(), recording, [len(recording)])


def test_tokens_come_before_the_utterance_ends(models, monkeypatch):
    """The encoder of a model that streams is used by the stream, not by clips; the others are not streamed."""
    used = []
    push = ParaformerStream.push
    monkeypatch.setattr(ParaformerStream, "push", lambda self, wav: used.append(len(wav)) or push(self, wav))
    for name, expected in (("windowed", True), ("whole", False), ("hotwords", True), ("joint", False)):
        used.clear()
        models[name].stream().push(vowels(0.6))
        assert bool(used) is expected, name
    used.clear()
    models["windowed"].stream(options=DecodeOptions(pad=True, window_s=2.0)).push(vowels(0.6))
    models["hotwords"].stream(options=DecodeOptions(hotwords=(ONE,))).push(vowels(0.6))
    assert not used


# State.


def test_streams_do_not_disturb_each_other(models, recording):
    wavs = [recording, recording[::-1].copy(), vowels(2.0, seed=5)]
    alone = [run(models["windowed"].stream(), wav, [len(wav)]) for wav in wavs]
    streams = [models["windowed"].stream() for _ in wavs]
    for place in range(0, len(recording), 1000):
        for stream, wav in zip(streams, wavs, strict=True):
            stream.push(wav[place : place + 1000])
    assert [stream.finish() for stream in streams] == alone


def test_audio_that_was_decoded_is_dropped(models, recording):
    stream = models["ctc"].stream()
    for _ in range(3):
        stream.push(recording)
    stream.push(np.zeros(2 * RATE, dtype=np.float32))
    assert stream._utterance is None
    assert stream._held.base is None and len(stream._held) <= 0.3 * RATE
    assert stream.finish().duration == pytest.approx(3 * len(recording) / RATE + 2.0)


def test_a_window_is_the_longest_utterance(models):
    wav = vowels(5.0, seed=3)
    options = DecodeOptions(window_s=1.5)
    transcript = run(models["ctc"].stream(options=options), wav, [320])
    assert len(spans(wav, 1.5)) >= 4
    assert all(segment.end - segment.start <= 1.5 for segment in transcript.segments)
