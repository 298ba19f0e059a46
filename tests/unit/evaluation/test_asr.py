"""Data directories to hypothesis files; expected texts are those of the transcriber."""

import json

import pytest
import soundfile

from speechnar.asr.transcriber import Transcriber
from speechnar.errors import ConfigError, DataError
from speechnar.evaluation.asr import decode_dir
from speechnar.evaluation.scores import read_hypotheses
from tests.unit.data.corpus import make_data_dir
from tests.unit.tiny import save_tiny_model


@pytest.fixture(scope="module")
def transcriber(tmp_path_factory) -> Transcriber:
    return Transcriber.load(save_tiny_model(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")


def test_a_directory_is_decoded_as_its_files_are(transcriber, tmp_path):
    utterances = make_data_dir(tmp_path / "data", 5)
    utterances[2].wav_path.write_bytes(b"RIFF")
    summary = decode_dir(transcriber, tmp_path / "data", tmp_path / "out" / "hyp", language="given")
    assert (summary.utterances, summary.failed) == (5, 1)
    assert summary.audio_s == pytest.approx(sum(utterance.duration_s for utterance in utterances))
    assert summary.rtf == pytest.approx(summary.wall_s / summary.audio_s)
    hyps = read_hypotheses(tmp_path / "out" / "hyp")
    entries = [json.loads(line) for line in (tmp_path / "out" / "hyp.jsonl").read_text(encoding="utf-8").splitlines()]
    assert list(hyps) == [entry["utt_id"] for entry in entries] == [utterance.utt_id for utterance in utterances]
    for number, (utterance, entry) in enumerate(zip(utterances, entries, strict=True)):
        if number == 2:
            assert hyps[utterance.utt_id] == entry["text"] == ""
            assert "error" in entry
            continue
        wav, rate = soundfile.read(utterance.wav_path, dtype="float32")
        alone = transcriber.transcribe(wav, sample_rate=rate, language=utterance.lang)
        assert hyps[utterance.utt_id] == entry["text"] == " ".join(alone.text.split())
        assert entry["language"] == utterance.lang
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["hyp", "hyp.jsonl"]


def test_translations_are_those_of_the_transcriber(transcriber, tmp_path):
    first, second = make_data_dir(tmp_path / "data", 2)
    decode_dir(transcriber, tmp_path / "data", tmp_path / "hyp", task="st_deu")
    hyps = read_hypotheses(tmp_path / "hyp")
    for utterance in (first, second):
        wav, rate = soundfile.read(utterance.wav_path, dtype="float32")
        alone = transcriber.translate(wav, to="deu", sample_rate=rate)
        assert hyps[utterance.utt_id] == " ".join(alone.text.split())


def test_what_cannot_be_done_is_told_first(transcriber, tmp_path):
    make_data_dir(tmp_path / "data", 2)
    with pytest.raises(ConfigError, match=r"task must be asr or st_xxx .*, got 'mt'"):
        decode_dir(transcriber, tmp_path / "data", tmp_path / "hyp", task="mt")
    (tmp_path / "data" / "utt2lang").unlink()
    for path in (tmp_path / "data").glob("text.*"):
        path.unlink()
    with pytest.raises(DataError, match="is not in utt2lang; use auto or a code"):
        decode_dir(transcriber, tmp_path / "data", tmp_path / "hyp", language="given")
    assert not (tmp_path / "hyp").exists()
