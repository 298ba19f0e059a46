"""Recordings of any length: what is read ahead, decoded together and put together again."""

import threading
from itertools import islice

import numpy as np
import pytest

from speechnar.asr.clips import ClipDecoder, DecodeOptions
from speechnar.asr.recordings import READ_AHEAD, RecordingTranscriber, in_order, utterances
from speechnar.asr.transcriber import Transcriber
from speechnar.audio.source import open_audio
from speechnar.decode.vad import detect_speech
from speechnar.errors import AudioError, ConfigError
from speechnar.models.base import LoadedModel, load_model
from tests.unit.tiny import LANGUAGES, RATE, save_tiny_model, speechlike, vowels, write_speechlike


@pytest.fixture(scope="module")
def loaded(tmp_path_factory) -> LoadedModel:
    return load_model(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


def test_the_language_is_that_of_all_clips_of_speech(loaded):
    """Two stretches of vowels with a silence between them are clips of their own; the mass of both decides."""
    silence = np.zeros(3 * RATE, dtype=np.float32)
    wav = np.concatenate([silence, vowels(5.0, seed=1), silence, vowels(6.0, seed=2), silence])
    options = DecodeOptions(window_s=8.0)
    transcript = Transcriber(loaded).transcribe(wav, sample_rate=RATE, options=options)
    speech = detect_speech(iter([wav]), utterances(8.0))
    assert len(speech) >= 2
    clips = [wav[round(segment.start_s * RATE) : round(segment.end_s * RATE)] for segment in speech]
    decoded = ClipDecoder(loaded, options=options).decode(clips)
    mass = sum(one.language_mass for one in decoded)
    shares = [one.language_mass.max() / one.language_mass.sum() for one in decoded]
    assert transcript.language == LANGUAGES[int(mass.argmax())]
    assert transcript.language_probability == pytest.approx(mass.max() / mass.sum(), rel=1e-4)
    assert max(abs(share - transcript.language_probability) for share in shares) > 1e-4  # no clip says it alone
    assert transcript.text.split() == " ".join(loaded.tokenizer.decode(one.path.tokens) for one in decoded).split()
    assert transcript.duration == pytest.approx(len(wav) / RATE)


def test_a_recording_says_what_a_stream_of_it_says(loaded):
    """Each utterance is a clip of its own, however short the pauses are."""
    parts = [vowels(1.0 + 0.7 * seed, seed=seed) for seed in range(4)]
    pauses = [np.zeros(round(seconds * RATE), dtype=np.float32) for seconds in (0.8, 1.5, 0.7, 0.9)]
    wav = np.concatenate([part for pair in zip(pauses, parts, strict=True) for part in pair])
    model, options = Transcriber(loaded), DecodeOptions(vad=True)
    stream = model.stream()
    stream.push(wav)
    said = [(segment.start, segment.text) for segment in stream.finish().segments]
    assert len(said) >= 4
    whole = model.transcribe(wav, sample_rate=RATE, options=options)
    assert [(segment.start, segment.text) for segment in whole.segments] == said


@pytest.mark.parametrize("batch_seconds", [0.5, 120.0])
def test_recordings_come_back_in_their_order_whatever_is_read_ahead(loaded, batch_seconds):
    wavs = [speechlike(0.5 + i % 3, seed=i) for i in range(7)]
    model = Transcriber(loaded)
    alone = [model.transcribe(wav, sample_rate=RATE).text for wav in wavs]
    assert len(set(alone)) > 3 and alone != alone[::-1]
    options = DecodeOptions(batch_seconds=batch_seconds)
    assert [item.text for item in model.transcribe(wavs, sample_rate=RATE, options=options)] == alone


def test_a_recording_that_fails_stands_where_it_was(loaded, tmp_path):
    wav = write_speechlike(tmp_path / "good.wav", 1.0)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    found = list(Transcriber(loaded).transcribe_many([wav, tmp_path / "bad.wav", wav]))
    assert isinstance(found[1], AudioError)
    assert found[0].text == found[2].text != ""


@pytest.mark.parametrize("ordered", [True, False])
def test_results_come_once_they_are_known(loaded, monkeypatch, ordered):
    """Clips of like length share a batch, and leave with it; in order, once those before them have left."""
    decoder = ClipDecoder(loaded, options=DecodeOptions(batch_seconds=4.0))
    batches: list[int] = []
    encode = decoder.encode

    def count(clips):
        batches.append(len(clips))
        return encode(clips)

    monkeypatch.setattr(decoder, "encode", count)
    seconds = [1.0, 1.0, 3.9, 1.0, 1.0, 3.9, 3.9]
    recordings = [open_audio(speechlike(s, seed=i), RATE) for i, s in enumerate(seconds)]
    found = RecordingTranscriber(decoder).transcribe(recordings)
    transcripts = in_order(found) if ordered else (item for _, item in found)
    came = [(round(item.duration, 1), sum(batches)) for item in transcripts]
    if ordered:
        assert came == [(1.0, 4), (1.0, 4), (3.9, 5), (1.0, 5), (1.0, 5), (3.9, 6), (3.9, 7)]
    else:
        assert came == [(1.0, 4), (1.0, 4), (1.0, 4), (1.0, 4), (3.9, 5), (3.9, 6), (3.9, 7)]


def test_what_needs_no_batch_waits_for_none(loaded):
    """An error, silence, and a recording that is longer than a window."""
    wavs = [speechlike(1.0), np.full(RATE, np.nan, dtype=np.float32), 0 * speechlike(1.0), vowels(6.0, seed=1)]
    decoder = ClipDecoder(loaded, options=DecodeOptions(window_s=4.0))
    found = RecordingTranscriber(decoder).transcribe(open_audio(wav, RATE) for wav in wavs)
    assert [place for place, _ in found] == [1, 2, 3, 0]


def test_what_was_read_before_an_error_of_the_list_has_its_results(loaded):
    found = Transcriber(loaded).transcribe_many([speechlike(1.0), 5, speechlike(1.0)], sample_rate=RATE)
    assert next(found).text
    with pytest.raises(ConfigError, match="int"):
        next(found)


def test_recordings_are_read_by_another_thread_and_taken_by_this_one(loaded):
    threads = {"take": set(), "read": set()}

    class Watched:
        name = None

        def blocks(self, sample_rate):
            threads["read"].add(threading.get_ident())
            yield speechlike(1.0)

    def recordings():
        for _ in range(3):
            threads["take"].add(threading.get_ident())
            yield Watched()
        raise AudioError("the list is torn")

    found = RecordingTranscriber(ClipDecoder(loaded))._read_ahead(recordings())
    assert [len(head.result()[0]) for _, head in islice(found, 3)] == [RATE] * 3
    with pytest.raises(AudioError, match="torn"):
        next(found)
    assert threads["take"] == {threading.get_ident()}
    assert len(threads["read"]) == 1 and not threads["read"] & threads["take"]


def test_no_more_recordings_are_taken_than_are_read_ahead(loaded):
    taken = []
    recordings = (taken.append(i) or open_audio(speechlike(0.1), RATE) for i in range(1000))
    found = RecordingTranscriber(ClipDecoder(loaded))._read_ahead(recordings)
    next(found)
    assert len(taken) == READ_AHEAD + 1
    found.close()


def test_probabilities_of_languages_are_shares_of_the_first_window(loaded):
    wav = vowels(9.0, seed=4)
    options = DecodeOptions(window_s=4.0)
    (decoded,) = ClipDecoder(loaded, options=options).decode([wav[: 4 * RATE]])
    mass = decoded.language_mass / decoded.language_mass.sum()
    found = Transcriber(loaded).detect_language(wav[: 4 * RATE], sample_rate=RATE).probabilities
    assert found == pytest.approx(dict(zip(LANGUAGES, mass.tolist(), strict=True)), rel=1e-4)
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_the_language_of_a_long_recording_is_that_of_its_first_speech(loaded):
    """What comes before it, of whatever length, and what comes after a window of it are not asked."""
    silence, (first, second, third) = np.zeros(RATE, dtype=np.float32), (vowels(3.0, seed=seed) for seed in range(3))
    wav = np.concatenate([*[silence] * 9, first, silence, second, silence, third, silence])
    options = DecodeOptions(window_s=5.0)
    transcriber = RecordingTranscriber(ClipDecoder(loaded, options=options))
    speech = detect_speech([wav], utterances(5.0))
    assert [segment.is_sure for segment in speech] == [True] * 3
    assert speech[0].start_s > 8
    clips = [wav[round(segment.start_s * RATE) : round(segment.end_s * RATE)] for segment in speech[:2]]
    mass = sum(decoded.language_mass for decoded in ClipDecoder(loaded, options=options).decode(clips))
    found = transcriber.language_probabilities(open_audio(wav, RATE))
    assert found == pytest.approx(dict(zip(LANGUAGES, (mass / mass.sum()).tolist(), strict=True)), rel=1e-4)
    assert set(transcriber.language_probabilities(open_audio(speechlike(40.0), RATE)).values()) == {0.0}


def test_without_vad_noise_of_any_length_has_no_language(loaded):
    options = DecodeOptions(window_s=5.0, vad=False)
    transcript = Transcriber(loaded).transcribe(speechlike(12.0), sample_rate=RATE, options=options)
    assert transcript.text
    assert (transcript.language, transcript.language_probability) == ("und", 0.0)


def test_a_text_stands_where_the_model_says_it(loaded):
    """Aligning what the model wrote itself gives the words at the frames of its own best path."""
    model, wav = Transcriber(loaded), speechlike(3.0, seed=2)
    written = model.transcribe(wav, sample_rate=RATE, word_timestamps=True)
    aligned = model.align(wav, written.text, sample_rate=RATE)
    assert aligned.task == "align"
    assert aligned.text.split() == written.text.split()
