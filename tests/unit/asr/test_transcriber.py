"""The Python surface on a tiny random model."""

import io
import json
import socket
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from speechnar.asr.clips import ClipDecoder
from speechnar.asr.options import DEFAULT_HOTWORD_WEIGHT, DEFAULT_LM_WEIGHT, DecodeOptions
from speechnar.asr.recordings import RecordingTranscriber
from speechnar.asr.segments import to_segments
from speechnar.asr.transcriber import Transcriber, _spell_like
from speechnar.audio.blocks import Blocks, batches, cut, gather
from speechnar.decode.align import CtcPath
from speechnar.errors import AudioError, ConfigError, SpeechnarError
from speechnar.interop import convert
from speechnar.models.base import load_model
from speechnar.text.tokenizer import CharTokenizer
from tests.reference.funasr_folders import read_golden, write_folder
from tests.unit.text.test_byte_pairs import make
from tests.unit.tiny import (
    LANGUAGES,
    RATE,
    save_tiny_joint,
    save_tiny_model,
    save_tiny_paraformer,
    speechlike,
    vowels,
    write_speechlike,
)

PIECES = ("<blank>", "<unk>", "▁", "a", "b", "c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def transcriber(folder) -> Transcriber:
    return Transcriber.load(folder, device="cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Transcriber:
    """A model without language or task tokens."""
    folder = tmp_path_factory.mktemp("models") / "plain"
    return Transcriber.load(save_tiny_model(folder, tasks=False, card="---\nlanguage: en\n---\n"), device="cpu")


@pytest.fixture(scope="module")
def joint(tmp_path_factory) -> Transcriber:
    """A model with every decoder."""
    return Transcriber.load(save_tiny_joint(tmp_path_factory.mktemp("models") / "joint"), device="cpu")


def check_times(transcript) -> None:
    """Everything lies in order inside the recording, in the object and in its JSON."""
    for segments in (transcript.segments,):
        times = [t for segment in segments for word in segment.words or () for t in (word.start, word.end)]
        assert times == sorted(times)
        assert all(0 <= t <= transcript.duration for t in times)
        assert all(a.end <= b.start for a, b in pairwise(segments))
    assert [segment["id"] for segment in transcript.to_dict()["segments"]] == list(range(len(transcript.segments)))


# Results.


def test_result_has_the_promised_fields(transcriber, tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, vowels(3.0), RATE)
    transcript = transcriber.transcribe(path, word_timestamps=True)
    assert transcript.text  # the random model speaks
    values = json.loads(transcript.to_json())
    assert list(values) == [
        *("file", "model", "task", "language", "language_probability", "duration", "text", "segments"),
    ]
    assert (values["file"], values["model"], values["task"]) == (str(path), "tiny", "transcribe")
    assert values["language"] in LANGUAGES
    assert 1 / len(LANGUAGES) <= values["language_probability"] <= 1
    assert values["duration"] == 3.0
    segment = values["segments"][0]
    assert list(segment) == ["id", "start", "end", "text", "avg_logprob", "words"]
    assert list(segment["words"][0]) == ["start", "end", "word", "probability"]
    assert segment["avg_logprob"] < 0
    check_times(transcript)
    joined = " ".join(word["word"] for each in values["segments"] for word in each["words"])
    assert joined.replace(" ", "") == values["text"].replace(" ", "")


def test_words_only_on_request(transcriber):
    transcript = transcriber.transcribe(speechlike(1.0), sample_rate=RATE)
    assert all(segment.words is None for segment in transcript.segments)
    assert "words" not in transcript.to_dict()["segments"][0]


def test_a_given_language_is_believed(transcriber):
    transcript = transcriber.transcribe(speechlike(1.0), sample_rate=RATE, language="German")
    assert (transcript.language, transcript.language_probability) == ("deu", None)


def test_a_given_language_reaches_the_model(transcriber):
    wav = speechlike(3.0)
    texts = {
        transcriber.transcribe(wav, sample_rate=RATE, language=language).segments[0].avg_logprob
        for language in ("eng", "deu", "auto")
    }
    assert len(texts) == 3


def test_translate(transcriber):
    transcript = transcriber.translate(speechlike(2.0), to="de", sample_rate=RATE, language="en")
    assert (transcript.task, transcript.language) == ("translate", "eng")
    with pytest.raises(ConfigError, match="translates to: deu"):
        transcriber.translate(speechlike(2.0), to="fra", sample_rate=RATE)


def test_detect_language(transcriber):
    found = transcriber.detect_language(vowels(2.0), sample_rate=RATE)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    assert set(found.probabilities) == set(LANGUAGES)
    assert list(found.probabilities.values()) == sorted(found.probabilities.values(), reverse=True)
    assert found.probability == found.probabilities[found.language]
    transcript = transcriber.transcribe(vowels(2.0), sample_rate=RATE)
    assert transcript.language == found.language
    assert transcript.language_probability == pytest.approx(found.probability)


def test_what_is_no_speech_has_no_language(transcriber):
    """Whatever the model says of it: this one says something of everything."""
    noise = speechlike(2.0)
    found = transcriber.detect_language(noise, sample_rate=RATE)
    assert (found.language, found.probability) == ("und", 0.0)
    assert found.probabilities == dict.fromkeys(LANGUAGES, 0.0)
    transcript = transcriber.transcribe(noise, sample_rate=RATE)
    assert (transcript.language, transcript.language_probability) == ("und", 0.0)
    assert transcript.text
    values = json.loads(transcript.to_json())
    assert (values["language"], values["language_probability"]) == ("und", 0.0)


def test_language_probability_is_the_share_of_emissions(transcriber):
    """Closed form: P over positions, summed for each language, padding left out."""
    decoder = ClipDecoder(transcriber._loaded)
    log_probs = torch.full((1, 4, transcriber._loaded.tokenizer.vocab_size), -torch.inf)
    eng, deu = (decoder.language_ids[lang] for lang in ("eng", "deu"))
    log_probs[0, 1, eng], log_probs[0, 2, deu], log_probs[0, 2, eng] = np.log([0.5, 0.1, 0.2])
    log_probs[0, 3] = torch.nan
    out = type("Out", (), {"log_probs": log_probs, "lens": torch.tensor([3])})
    mass = decoder.language_mass(out)
    np.testing.assert_allclose(mass[0], [0.7, 0.1, 0.0], rtol=1e-6)
    language, probability = decoder.decide_language(mass[0])
    assert language == "eng"
    assert probability == pytest.approx(0.7 / 0.8)


def test_align(transcriber):
    transcript = transcriber.align(speechlike(4.0), "the cat sat on the mat", sample_rate=RATE)
    assert transcript.task == "align"
    words = [word for segment in transcript.segments for word in segment.words]
    assert [word.word for word in words] == ["the", "cat", "sat", "on", "the", "mat"]
    check_times(transcript)


def test_align_finds_what_the_model_wrote(transcriber):
    """The best path of all is also the best one through its own text, so both give the same times."""
    wav = speechlike(4.0, seed=3)
    heard = transcriber.transcribe(wav, sample_rate=RATE, language="eng", word_timestamps=True)
    tokenizer = transcriber._loaded.tokenizer
    assert tokenizer.decode(tokenizer.encode(heard.text)) == heard.text
    aligned = transcriber.align(wav, heard.text, sample_rate=RATE, language="eng")
    assert aligned.text.split() == heard.text.split()
    assert aligned.segments[0].avg_logprob <= 0


@pytest.mark.parametrize(("text", "match"), [("", "empty"), ("   ", "empty"), ("the Ωmega", "spell")])
def test_align_refuses_text_it_cannot_spell(transcriber, text, match):
    with pytest.raises(ConfigError, match=match):
        transcriber.align(speechlike(1.0), text, sample_rate=RATE)


def test_words_are_brought_to_the_letters_of_the_model():
    """Of one case, of the other, and of both; as bytes it can spell anything."""
    words = ["Paris,", "it's", "NATO", "é!"]
    spelled = {}
    for name, letters in (("lower", "abcdefghijklmnopqrstuvwxyz'"), ("upper", "ABCDEFGHIJKLMNOPQRSTUVWXYZ'")):
        spelled[name] = _spell_like(CharTokenizer(("<blank>", "<unk>", "▁", *letters)), words)
    assert spelled == {"lower": ["paris", "it's", "nato", "e"], "upper": ["PARIS", "IT'S", "NATO", "E"]}
    assert _spell_like(make(), words) == ["Paris", "it's", "NATO", "é"]


def test_align_refuses_what_cannot_fit(transcriber):
    with pytest.raises(AudioError, match="cannot hold"):
        transcriber.align(speechlike(0.4), "the cat sat on the mat and ran", sample_rate=RATE)
    with pytest.raises(AudioError, match="up to 30 s"):
        transcriber.align(np.zeros(31 * RATE, dtype=np.float32), "the cat", sample_rate=RATE)


# Inputs.


def test_all_forms_of_input_agree(transcriber, tmp_path):
    path = write_speechlike(tmp_path / "a.wav", 2.0)
    wav, _ = soundfile.read(path, dtype="float32")
    with path.open("rb") as file:
        found = transcriber.transcribe([str(path), path, path.read_bytes(), io.BytesIO(path.read_bytes()), file])
    assert [item.file for item in found] == [str(path), str(path), None, None, str(path)]
    arrays = transcriber.transcribe([wav, torch.from_numpy(wav)], sample_rate=RATE)
    assert len({item.text for item in found + arrays}) == 1


def test_list_in_list_out(transcriber):
    wav = speechlike(1.0)
    assert transcriber.transcribe([], sample_rate=RATE) == []
    (only,) = transcriber.transcribe([wav], sample_rate=RATE)
    assert only == transcriber.transcribe(wav, sample_rate=RATE)
    assert isinstance(transcriber.transcribe((wav, wav), sample_rate=RATE), list)
    assert isinstance(transcriber.detect_language([wav], sample_rate=RATE), list)
    assert isinstance(transcriber.translate([wav], to="deu", sample_rate=RATE), list)


def test_batches_change_nothing(transcriber):
    """Alone, together, in small batches and read ahead in several pools: the same, in order."""
    wavs = [speechlike(seconds, seed=i) for i, seconds in enumerate((0.7, 3.1, 1.9, 0.3, 2.4, 1.0))]
    alone = [transcriber.transcribe(wav, sample_rate=RATE, word_timestamps=True) for wav in wavs]
    for batch_seconds in (0.1, 4.0, 100.0):
        options = DecodeOptions(batch_seconds=batch_seconds)
        found = transcriber.transcribe(wavs, sample_rate=RATE, word_timestamps=True, options=options)
        assert [item.text for item in found] == [item.text for item in alone]
        assert [item.duration for item in found] == [item.duration for item in alone]


def test_array_needs_a_rate_and_one_dimension(transcriber):
    with pytest.raises(ConfigError, match="sample_rate"):
        transcriber.transcribe(speechlike(1.0))
    with pytest.raises(SpeechnarError):
        transcriber.transcribe(np.zeros((2, 100), dtype=np.float32), sample_rate=RATE)


@pytest.mark.parametrize("verb", ["transcribe", "translate", "detect_language", "align", "compare"])
def test_a_rate_beside_a_file_is_refused(verb, transcriber, tmp_path):
    path = write_speechlike(tmp_path / "a.wav", 1.0)
    options = {"translate": {"to": "deu"}, "align": {"text": "the cat"}}.get(verb, {})
    with pytest.raises(ConfigError, match=f"a file has its own, leave sample_rate={RATE} out"):
        getattr(transcriber, verb)(path, sample_rate=RATE, **options)


@pytest.mark.parametrize("audio", [7, None, {"a": 1}, io.StringIO("text")])
def test_other_inputs_are_refused(transcriber, audio):
    with pytest.raises(ConfigError, match="audio must be a path"):
        transcriber.transcribe(audio)


@pytest.mark.parametrize("num_samples", [1, 100, 1600])
def test_very_short_audio(transcriber, num_samples):
    transcript = transcriber.transcribe(speechlike(1.0)[:num_samples], sample_rate=RATE, word_timestamps=True)
    assert transcript.duration == num_samples / RATE
    check_times(transcript)


def test_other_rates_and_channels(transcriber, tmp_path):
    path = write_speechlike(tmp_path / "eight.wav", 1.0, rate=44100, channels=8)
    assert transcriber.transcribe(path).duration == pytest.approx(1.0, abs=0.01)


def bad_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.wav" for name in ("empty", "text", "truncated", "nan", "none", "header")}
    files["empty"].write_bytes(b"")
    files["text"].write_text("this is no audio\n" * 100)
    whole = write_speechlike(folder / "whole.wav", 1.0).read_bytes()
    files["truncated"].write_bytes(whole[:20])
    files["header"].write_bytes(whole[:44])
    soundfile.write(files["nan"], np.full(RATE, np.nan, dtype=np.float32), RATE, subtype="FLOAT")
    return files


def test_one_bad_file_does_not_stop_the_others(transcriber, tmp_path):
    bad = bad_files(tmp_path)
    good = write_speechlike(tmp_path / "good.wav", 1.0)
    order = [good, *bad.values(), good]
    found = list(transcriber.transcribe_many(order))
    assert len(found) == len(order)
    assert found[0].text == found[-1].text == transcriber.transcribe(good).text
    for path, outcome in zip(bad.values(), found[1:-1], strict=True):
        assert isinstance(outcome, AudioError), path
        assert "\n" not in str(outcome)
        assert str(path) in str(outcome)
    with pytest.raises(AudioError):
        transcriber.transcribe(order)


def test_out_of_memory_halves_the_batch(transcriber, monkeypatch):
    wavs = [speechlike(1.0, seed=i) for i in range(5)]
    expected = [item.text for item in transcriber.transcribe(wavs, sample_rate=RATE)]
    model = transcriber._loaded.model
    encode, sizes = type(model).encode, []

    def small(self, wav, wav_lens, **context):
        sizes.append(len(wav))
        if len(wav) > 2:
            raise torch.OutOfMemoryError("full")
        return encode(self, wav, wav_lens, **context)

    monkeypatch.setattr(type(model), "encode", small)
    assert [item.text for item in transcriber.transcribe(wavs, sample_rate=RATE)] == expected
    assert sizes[0] == 5

    def tiny(self, wav, wav_lens, **context):
        if wav_lens.max() > RATE:
            raise torch.OutOfMemoryError("full")
        return encode(self, wav, wav_lens, **context)

    monkeypatch.setattr(type(model), "encode", tiny)
    first, second = transcriber.transcribe_many([speechlike(2.0), wavs[0]], sample_rate=RATE)
    assert "out of memory" in str(first)
    assert second.text == expected[0]


# Options.


def test_options_change_the_search(transcriber, tmp_path):
    wav = speechlike(3.0)
    plain = transcriber.transcribe(wav, sample_rate=RATE)
    beam = transcriber.transcribe(wav, sample_rate=RATE, options=DecodeOptions(beam_size=4))
    assert beam.text
    hot = transcriber.transcribe(wav, sample_rate=RATE, options=DecodeOptions(hotwords=("dog",), hotword_weight=30.0))
    assert hot.text.split().count("dog") > plain.text.split().count("dog")


@pytest.mark.parametrize("word", ["dog", "▁dog"])
def test_language_model_of_words_or_pieces(transcriber, tmp_path, word):
    lines = ["\\data\\", "ngram 1=3", "", "\\1-grams:", "-1 <s>", "-1 </s>", f"-0.1 {word}", "", "\\end\\"]
    path = tmp_path / "lm.arpa"
    path.write_text("\n".join(lines) + "\n")
    options = DecodeOptions(lm=path, lm_weight=3.0)
    strong = transcriber.transcribe(speechlike(2.0), sample_rate=RATE, options=options)
    none = transcriber.transcribe(speechlike(2.0), sample_rate=RATE, options=DecodeOptions(beam_size=16))
    assert len(strong.text) < len(none.text)  # all other words are unknown to it, and cost


def test_weights_left_out_are_the_defaults(transcriber, tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text("\\data\\\nngram 1=3\n\n\\1-grams:\n-1 <s>\n-1 </s>\n-0.1 dog\n\n\\end\\\n")
    for given, weight, default, other in (
        ({"lm": path}, "lm_weight", DEFAULT_LM_WEIGHT, 0.0),
        ({"hotwords": ("dog",)}, "hotword_weight", DEFAULT_HOTWORD_WEIGHT, 30.0),
    ):
        left_out, same, different = (
            transcriber.transcribe(speechlike(2.0), sample_rate=RATE, options=DecodeOptions(**given, **more))
            for more in ({}, {weight: default}, {weight: other})
        )
        assert left_out == same != different


def test_prompt_reaches_the_model(transcriber):
    wav = speechlike(2.0)
    found = [
        transcriber.transcribe(wav, sample_rate=RATE, options=DecodeOptions(prompt=prompt))
        for prompt in (None, "the cat sat", "")
    ]
    scores = [item.segments[0].avg_logprob for item in found]
    assert scores[0] != scores[1]
    assert scores[0] == pytest.approx(scores[2])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        ({"language": "rus"}, "eng, deu, fra"),
        ({"language": "Klingonese"}, "language"),
    ],
)
def test_what_the_model_cannot_honour_raises_before_anything_is_read(transcriber, call, match):
    with pytest.raises(ConfigError, match=match):
        transcriber.transcribe_many(["/no/such/file.wav"], **call)


def test_model_without_language_tokens(plain):
    wav = speechlike(2.0)
    transcript = plain.transcribe(wav, sample_rate=RATE, word_timestamps=True)
    assert (transcript.language, transcript.language_probability) == ("eng", None)  # from its card
    assert plain.transcribe(wav, sample_rate=RATE, language="en").text == transcript.text
    assert plain.languages == plain.translates_to == ()
    assert plain.align(wav, "the cat", sample_rate=RATE).text == "the cat"
    for call in (
        lambda: plain.detect_language(wav, sample_rate=RATE),
        lambda: plain.translate(wav, to="deu", sample_rate=RATE),
        lambda: plain.transcribe(wav, sample_rate=RATE, language="deu"),
        lambda: plain.transcribe(wav, sample_rate=RATE, options=DecodeOptions(prompt="so")),
    ):
        with pytest.raises(ConfigError, match="plain"):
            call()


def test_load_refuses_unknown_devices(folder):
    with pytest.raises(ConfigError, match="device"):
        Transcriber.load(folder, device="abacus")


def test_loading_a_folder_touches_no_network(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert Transcriber.load(folder, device="cpu").name == "tiny"


# Long recordings.


class Tape:
    """A recording that is made up while it is read, and knows how much of it was in use."""

    name = "tape"

    def __init__(self, seconds: float, block_s: float = 10.0) -> None:
        self.seconds, self.block_s, self.passes = seconds, block_s, 0

    def blocks(self, sample_rate):
        self.passes += 1
        done = 0.0
        while done < self.seconds:
            size = min(self.block_s, self.seconds - done)
            yield speechlike(size, seed=round(done), rate=sample_rate)
            done += size


def test_long_recording_in_windows(transcriber):
    decoder = ClipDecoder(transcriber._loaded, options=DecodeOptions(vad=False))
    ((_, transcript),) = RecordingTranscriber(decoder, word_timestamps=True).transcribe([Tape(95.0)])
    assert transcript.duration == 95.0
    assert transcript.text
    check_times(transcript)
    assert transcript.segments[-1].end > 90


def test_window_seams_do_not_depend_on_blocks(transcriber):
    decoder = ClipDecoder(transcriber._loaded, options=DecodeOptions(vad=False))
    wav = np.concatenate(list(Tape(70.0).blocks(RATE)))
    texts = set()
    for size in (RATE, 7777, len(wav)):
        blocks = (wav[i : i + size] for i in range(0, len(wav), size))
        texts.add(tuple(decoder.decode_windows(blocks)[0].path.tokens))
    assert len(texts) == 1


def test_long_recording_by_speech(transcriber, monkeypatch):
    """Clips are cut where speech was found, and their words are placed there."""
    from speechnar.asr import recordings as recognizer
    from speechnar.decode.vad import SpeechSegment

    def found(blocks, config):
        assert sum(len(block) for block in blocks) == 95 * RATE
        return [SpeechSegment(12.0, 20.0, is_sure=False), SpeechSegment(60.0, 64.5, is_sure=True)]

    monkeypatch.setattr(recognizer, "detect_speech", found)
    tape = Tape(95.0)
    decoder = ClipDecoder(transcriber._loaded)
    ((_, transcript),) = RecordingTranscriber(decoder, word_timestamps=True).transcribe([tape])
    wav = np.concatenate(list(Tape(95.0).blocks(RATE)))
    first, second = decoder.decode([wav[12 * RATE : 20 * RATE], wav[60 * RATE : round(64.5 * RATE)]])
    decode = decoder.tokenizer.decode
    assert transcript.text.split() == f"{decode(first.path.tokens)} {decode(second.path.tokens)}".split()
    check_times(transcript)
    assert transcript.segments[0].start >= 12.0
    assert all(s.end <= 21 or s.start >= 60.0 for s in transcript.segments)
    assert transcript.duration == 95.0
    language, probability = decoder.decide_language(second.language_mass)  # nobody surely speaks in the first
    assert (transcript.language, transcript.language_probability) == (language, pytest.approx(probability, rel=1e-4))


def test_silence_is_silent(transcriber):
    """A random model talks all the time; voice activity detection keeps it from talking over silence."""
    transcript = transcriber.transcribe(np.zeros(40 * RATE, dtype=np.float32), sample_rate=RATE)
    assert (transcript.text, transcript.segments, transcript.language) == ("", (), "und")
    short = transcriber.transcribe(np.zeros(RATE, dtype=np.float32), sample_rate=RATE, options=DecodeOptions(vad=True))
    assert short.text == ""


def test_search_in_windows_is_refused(transcriber):
    options = DecodeOptions(vad=False, beam_size=2)
    with pytest.raises(ConfigError, match="VAD"):
        transcriber.transcribe(np.zeros(31 * RATE, dtype=np.float32), sample_rate=RATE, options=options)


def test_a_window_of_audio_is_not_long(transcriber, tmp_path):
    path = write_speechlike(tmp_path / "a.wav", 30.0)
    assert transcriber.transcribe(path).text  # VAD would find no speech in these tones


# The parts.


def test_batches_are_of_like_length_and_within_the_limit():
    sizes = [5, 1, 9, 2, 9, 30]
    made = list(batches(sizes, 20))
    assert sorted(i for batch in made for i in batch) == list(range(6))
    for batch in made:
        assert len(batch) == 1 or max(sizes[i] for i in batch) * len(batch) <= 20
    assert made[0] == [5]
    assert list(batches([], 20)) == []


def test_cut_returns_the_spans_for_any_blocks():
    wav = np.arange(100, dtype=np.float32)
    spans = [(0, 3), (10, 30), (30, 31), (95, 120)]
    for size in (1, 7, 100):
        clips = list(cut((wav[i : i + size] for i in range(0, 100, size)), spans))
        assert [clip.tolist() for clip in clips] == [wav[a:b].tolist() for a, b in spans]


def test_gather_closes_a_group_at_the_limit():
    clips = [np.zeros(n, dtype=np.float32) for n in (3, 3, 9, 1)]
    assert [[len(c) for c in group] for group in gather(iter(clips), 6)] == [[3, 3], [9], [1]]


def test_blocks_can_be_pushed_back():
    blocks = Blocks(iter([np.zeros(3, dtype=np.float32), np.ones(2, dtype=np.float32)]))
    blocks.push_back(next(blocks)[1:])
    assert [len(block) for block in blocks] == [2, 2]
    assert blocks.num_samples == 5


def test_segments_split_at_pauses_between_words_only():
    tokenizer = CharTokenizer(PIECES)
    #        a  b  |  ▁  c   with 2.5 s before b (inside a word) and 3 s before ▁
    path = CtcPath([3, 4, 2, 5], [10, 36, 67, 68], [11, 37, 68, 69], [-0.1, -0.3, -0.2, -0.4], -9.0)
    segments = to_segments([(5.0, path)], tokenizer, frame_shift_s=0.1, duration_s=12.0, language="eng")
    assert [segment.text for segment in segments] == ["ab", "c"]
    first, second = segments
    assert (first.start, first.end) == (pytest.approx(6.0), pytest.approx(8.78, abs=0.001))  # and 0.08 of pause
    assert second.start == pytest.approx(11.7, abs=0.11)
    assert second.end == pytest.approx(11.98)
    assert first.avg_logprob == pytest.approx(-0.2)


def test_segments_of_unspaced_languages_have_words_of_one_token():
    tokenizer = CharTokenizer(PIECES)
    path = CtcPath([3, 4, 5], [1, 2, 3], [2, 3, 4], [-0.1] * 3, -1.0)
    (segment,) = to_segments([(0.0, path)], tokenizer, frame_shift_s=0.1, duration_s=1.0, language="jpn")
    assert [word.word for word in segment.words] == ["a", "b", "c"]


def test_prefix_positions_are_no_audio(transcriber):
    """Tokens at position p of the output lie in frame p - 2."""
    decoder = ClipDecoder(transcriber._loaded)
    eng, text = decoder.language_ids["eng"], transcriber._loaded.tokenizer.encode("cat")[0]
    path = decoder.text_path(CtcPath([eng, text, text], [0, 1, 7], [1, 3, 9], [-1.0, -2.0, -3.0], -6.0))
    assert (path.tokens, path.starts, path.ends, path.scores) == ([text, text], [0, 5], [1, 7], [-2.0, -3.0])


def test_half_loaded_models_are_refused(folder):
    loaded = load_model(folder)
    with pytest.raises(ConfigError, match="no speech recogniser"):
        ClipDecoder(replace(loaded, model=torch.nn.Linear(1, 1)))


# Decoders.


def test_every_decoder_writes_its_own_text_with_times(joint):
    wav = vowels(3.0)
    texts = {}
    for decoder in joint.decoders:
        options = DecodeOptions(decoder=decoder)
        transcript = joint.transcribe(wav, sample_rate=RATE, word_timestamps=True, options=options)
        check_times(transcript)
        assert transcript.language in LANGUAGES, "the language is CTC's decision whatever writes the text"
        texts[decoder] = transcript.text
    assert list(texts) == ["ctc", "cassnat", "paraformer", "refiner", "transformer_ar"]
    assert joint.transcribe(wav, sample_rate=RATE).text == texts["ctc"]
    assert len(set(texts.values())) > 1


@pytest.mark.parametrize("decoder", ["cassnat", "paraformer", "refiner", "transformer_ar"])
def test_a_decoder_writes_the_same_alone_and_among_others(joint, decoder):
    wavs = [speechlike(seconds, seed=i) for i, seconds in enumerate((0.05, 1.0, 2.5))]
    options = DecodeOptions(decoder=decoder)
    together = joint.transcribe(wavs, sample_rate=RATE, options=options)
    assert [t.text for t in together] == [joint.transcribe(w, sample_rate=RATE, options=options).text for w in wavs]


def test_sampled_alignments_are_an_option_of_cassnat(joint):
    wav = speechlike(2.0)
    best, one, many = (
        joint.transcribe(wav, sample_rate=RATE, options=DecodeOptions(decoder="cassnat", num_alignments=num)).text
        for num in (None, 1, 8)
    )
    assert one == best
    assert (
        many == joint.transcribe(wav, sample_rate=RATE, options=DecodeOptions(decoder="cassnat", num_alignments=8)).text
    )


def test_a_decoder_that_cannot_honour_an_option_says_which_can(joint, transcriber):
    wav = speechlike(1.0)

    def error(model, **options):
        with pytest.raises(ConfigError) as caught:
            model.transcribe(wav, sample_rate=RATE, options=DecodeOptions(**options))
        return str(caught.value)

    assert "decodes with ctc; got decoder 'cassnat'" in error(transcriber, decoder="cassnat")
    assert "use ctc" in error(joint, decoder="paraformer", hotwords=("the cat",))
    assert "use ctc or transformer_ar" in error(joint, decoder="cassnat", beam_size=4)
    assert "use cassnat" in error(joint, num_alignments=4)
    assert "leave it out" in error(transcriber, num_alignments=4)
    with pytest.raises(ConfigError, match="leave it at ctc to translate"):
        joint.translate(wav, sample_rate=RATE, to="deu", options=DecodeOptions(decoder="cassnat"))


def test_only_ctc_decodes_by_overlapping_windows(joint):
    wav = speechlike(4.0)
    options = DecodeOptions(decoder="paraformer", window_s=2.0, vad=False)
    with pytest.raises(ConfigError, match="leave VAD on"):
        joint.transcribe(wav, sample_rate=RATE, options=options)


def test_paraformer_needs_no_ctc(tmp_path):
    model = Transcriber.load(save_tiny_paraformer(tmp_path / "paraformer"), device="cpu")
    assert model.decoders == ("paraformer",)
    wavs = [speechlike(seconds, seed=i) for i, seconds in enumerate([3.0, 0.05, 1.5])]
    together = model.transcribe(wavs, sample_rate=RATE, word_timestamps=True)
    alone = [model.transcribe(wav, sample_rate=RATE, word_timestamps=True) for wav in wavs]
    assert [t.text for t in together] == [t.text for t in alone]
    assert together[0].text
    assert together[0].language == "zho"
    assert "".join(word.word for segment in together[0].segments for word in segment.words) == together[0].text
    check_times(together[0])
    with pytest.raises(ConfigError, match="decodes with paraformer; got decoder 'ctc'"):
        model.transcribe(wavs[0], sample_rate=RATE, options=DecodeOptions(decoder="ctc"))


def test_paraformer_that_learnt_hotwords_takes_them(tmp_path):
    convert(write_folder(read_golden("seaco"), tmp_path / "funasr"), tmp_path / "seaco")
    model = Transcriber.load(tmp_path / "seaco", device="cpu")
    wav = speechlike(2.2)

    def text(*hotwords, weight=None):
        options = DecodeOptions(hotwords=hotwords, hotword_weight=weight)
        return model.transcribe(wav, sample_rate=RATE, options=options).text

    listed = ("丄丅", "世且丗")
    assert text(*listed) != text()
    assert text(*listed, weight=0.0) == text()
    assert text(*listed, weight=1.0) == text(*listed)
    assert len({text(*listed, weight=weight) for weight in (0.0, 0.3, 0.6, 1.0)}) > 2, "the weight is only on or off"
    with pytest.raises(ConfigError, match=r"hotword_weight must lie in \[0, 1\] for decoder paraformer.*got 2\.0"):
        model.transcribe_many([], options=DecodeOptions(hotwords=listed, hotword_weight=2.0))
    loaded = load_model(tmp_path / "seaco")
    vectors = loaded.model.hotword_vectors([[7, 8], [25, 24, 26]])
    (path,) = loaded.model.decode(
        loaded.model.encode(torch.from_numpy(wav)[None], torch.tensor([len(wav)])), hotwords=vectors
    )
    spelled = [loaded.tokenizer.piece_of(token) for token in (7, 8, 25, 24, 26)]
    assert text("".join(spelled[:2]), "".join(spelled[2:])) == loaded.tokenizer.decode(path.tokens)
    assert text("龘") == text()
    plain = Transcriber.load(save_tiny_paraformer(tmp_path / "paraformer"), device="cpu")
    with pytest.raises(ConfigError, match="hotwords is not for decoder paraformer"):
        plain.transcribe(wav, sample_rate=RATE, options=DecodeOptions(hotwords=("一",)))


def test_comparison_marks_the_words_that_differ(joint):
    found = joint.compare(speechlike(3.0), sample_rate=RATE)
    assert [item.decoder for item in found] == list(joint.decoders)
    assert all(found[0].agrees)
    first = found[0].transcript.text.split()
    for item in found:
        words = item.transcript.text.split()
        assert len(item.agrees) == len(words)
        common = [word for word, agrees in zip(words, item.agrees, strict=True) if agrees]
        places = iter(first)
        assert all(word in places for word in common), "common words are in the first text, in order"
        assert item.rtf == pytest.approx(item.wall_s / 3.0)
    assert not all(all(item.agrees) for item in found)
