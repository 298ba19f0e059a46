"""Which models have what decoding asks for beyond CTC, and how a tagging one is driven."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from speechnar.asr.clips import ClipDecoder
from speechnar.asr.options import DecodeOptions
from speechnar.asr.speech_models import HotwordModel, SpeechModel, TaggingModel
from speechnar.asr.transcriber import Transcriber
from speechnar.errors import ConfigError
from speechnar.interop import convert
from speechnar.models.asr.sensevoice import EMOTIONS, EVENTS
from speechnar.models.base import LoadedModel, load_model
from tests.reference.funasr_folders import read_golden, write_folder
from tests.unit.tiny import RATE, save_tiny_model, save_tiny_paraformer, save_tiny_sensevoice, speechlike, vowels

FIVE = ("zho", "eng", "yue", "jpn", "kor")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> LoadedModel:
    return load_model(save_tiny_sensevoice(tmp_path_factory.mktemp("models") / "sensevoice"))


@pytest.fixture(scope="module")
def model(loaded) -> Transcriber:
    return Transcriber(loaded)


def test_models_are_told_by_what_they_have(loaded, tmp_path):
    others = [load_model(save(tmp_path / save.__name__)).model for save in (save_tiny_model, save_tiny_paraformer)]
    assert all(isinstance(each, SpeechModel) for each in (loaded.model, *others))
    assert [isinstance(each, TaggingModel) for each in (loaded.model, *others)] == [True, False, False]
    assert [isinstance(each, HotwordModel) for each in (loaded.model, *others)] == [False, False, True]


def test_languages_are_the_models(model):
    assert model.languages == FIVE
    assert model.decoders == ("ctc",)
    assert model.translates_to == ()


@pytest.mark.parametrize(
    ("language", "plain", "expected"),
    [("auto", False, [0, 14]), ("auto", True, [0, 15]), ("ko", False, [12, 14]), ("Japanese", True, [11, 15])],
)
def test_the_model_is_told_language_and_style(loaded, language, plain, expected):
    decoder = ClipDecoder(loaded, language=language, options=DecodeOptions(plain=plain))
    (decoded,) = decoder.decode([speechlike(1.0)])
    wav = torch.from_numpy(speechlike(1.0))[None]
    with torch.inference_mode():
        out = loaded.model.encode(wav, torch.tensor([RATE]), prefix=torch.tensor([expected]))
    assert decoded.path.tokens == decoder.text_path(decoder.search(out.log_probs, out.lens, ["eng"])[0]).tokens
    np.testing.assert_allclose(decoded.language_mass, loaded.model.language_probs(out)[0], rtol=1e-4)


def test_a_transcript_says_language_and_tags(model):
    wavs = [speechlike(seconds, seed=i) for i, seconds in enumerate((1.0, 2.5, 0.7))]
    transcripts = model.transcribe(wavs, sample_rate=RATE, language="yue", word_timestamps=True)
    for wav, transcript in zip(wavs, transcripts, strict=True):
        assert (transcript.language, transcript.language_probability) == ("yue", None)
        (tags,) = transcript.tags
        assert (tags.start, tags.end) == (0.0, len(wav) / RATE)
        assert tags.emotion in {None, *(name.lower() for name in EMOTIONS)}
        assert tags.event in {None, *(name.lower() for name in EVENTS)}
        alone = model.transcribe(wav, sample_rate=RATE, language="yue", word_timestamps=True)
        assert (alone.text, alone.tags) == (transcript.text, transcript.tags)
        assert json.loads(transcript.to_json())["tags"][0]["event"] == tags.event
        words = [word for segment in transcript.segments for word in segment.words]
        times = [time for word in words for time in (word.start, word.end)]
        assert words and times == sorted(times) and times[-1] <= transcript.duration
        assert all(0 <= word.probability <= 1 for word in words)


def test_the_language_is_found_out(model, loaded):
    wav = vowels(4.0, seed=1)
    found = model.detect_language(wav, sample_rate=RATE)
    assert set(found.probabilities) == set(FIVE)
    assert sum(found.probabilities.values()) == pytest.approx(1)
    transcript = model.transcribe(wav, sample_rate=RATE)
    (decoded,) = ClipDecoder(loaded).decode([wav])
    assert transcript.language == found.language == FIVE[int(decoded.language_mass.argmax())]
    assert transcript.language_probability == pytest.approx(found.probability, rel=1e-4)


def test_clips_of_a_recording_have_tags_of_their_own(model):
    silence = np.zeros(2 * RATE, dtype=np.float32)
    wav = np.concatenate([silence, vowels(3.0, seed=1), silence, vowels(4.0, seed=2), silence])
    whole = model.transcribe(wav, sample_rate=RATE, language="en", options=DecodeOptions(vad=True))
    assert len(whole.tags) >= 2
    assert whole.tags[0].start >= 1.5 and whole.tags[-1].end <= len(wav) / RATE
    stream = model.stream(sample_rate=RATE, language="en")
    for piece in np.array_split(wav, 7):
        stream.push(piece)
    assert stream.finish().tags == whole.tags


def test_windows_of_a_long_recording_have_tags_of_their_own(model):
    wav = speechlike(20.0, seed=3)
    options = DecodeOptions(vad=False, window_s=6.0, batch_seconds=13.0)
    transcript = model.transcribe(wav, sample_rate=RATE, language="en", options=options)
    tags = transcript.to_dict()["tags"]
    assert [(tag["start"], tag["end"]) for tag in tags] == [(0, 4), (4, 8), (8, 12), (12, 16), (16, 20)]


def test_text_is_aligned_to_the_frames_alone(model, loaded):
    aligned = model.align(speechlike(3.0), "the cat sat", sample_rate=RATE, language="en")
    assert [word.word for segment in aligned.segments for word in segment.words] == ["the", "cat", "sat"]
    assert ClipDecoder(loaded, language="en").target_head("eng") == []


def test_what_the_model_has_not_is_refused(loaded):
    for given, message in (
        ({"language": "de"}, "language must be one of zho, eng, yue, jpn, kor"),
        ({"task": "st_eng"}, "it translates to: none"),
        ({"options": DecodeOptions(prompt="before")}, "takes no prompt"),
    ):
        with pytest.raises(ConfigError, match=message):
            ClipDecoder(loaded, **given)


def test_other_models_tell_no_tags(tmp_path):
    other = Transcriber(load_model(save_tiny_model(tmp_path / "tiny")))
    transcript = other.transcribe(speechlike(1.0), sample_rate=RATE)
    assert transcript.tags is None
    assert transcript == replace(transcript)
    assert "tags" not in transcript.to_dict()


def test_a_converted_folder_is_a_recogniser(tmp_path):
    convert(write_folder(read_golden("sensevoice"), tmp_path / "funasr"), tmp_path / "ours")
    transcript = Transcriber.load(tmp_path / "ours", device="cpu").transcribe(
        speechlike(2.2), sample_rate=RATE, language="ja", word_timestamps=True
    )
    assert transcript.language == "jpn"
    assert len(transcript.tags) == 1
    assert transcript.segments and all(segment.words for segment in transcript.segments)
