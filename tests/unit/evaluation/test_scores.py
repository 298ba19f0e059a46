"""Scores of hypothesis files, counted by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.evaluation.scores import ALL, jsonl_of, read_hypotheses, score_dir
from tests.unit.data.corpus import make_utterances

TEXTS = {"a": ("eng", "one two three four"), "b": ("eng", "five six"), "c": ("fra", "un deux")}
HYPS = {"a": "One, two four", "b": "five six", "c": "un deux trois quatre"}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scores")
    audio = make_utterances(root / "audio", 3)
    utterances = [
        Utterance(
            utt_id=utt_id,
            wav_path=made.wav_path,
            text=text,
            spk_id=utt_id,
            duration_s=made.duration_s,
            lang=lang,
            translations={"deu": "eins zwei drei vier fünf"} if utt_id == "a" else {},
        )
        for (utt_id, (lang, text)), made in zip(TEXTS.items(), audio, strict=True)
    ]
    write_kaldi_dir(root / "data", utterances)
    return root / "data"


def write_hyps(folder: Path, hyps: dict[str, str] = HYPS) -> Path:
    path = folder / "hyp"
    path.write_text("".join(f"{utt_id} {text}".rstrip() + "\n" for utt_id, text in hyps.items()), encoding="utf-8")
    return path


def test_error_rates_by_language_and_of_all(data_dir, tmp_path):
    report = score_dir(data_dir, write_hyps(tmp_path))
    assert list(report.by_language) == ["eng", "fra", ALL]
    assert [scores.utterances for scores in report.by_language.values()] == [2, 1, 3]
    rates = {lang: scores.wer.rate for lang, scores in report.by_language.items()}
    assert rates == pytest.approx({"eng": 1 / 6, "fra": 2 / 2, ALL: 3 / 8})  # a deletion; two insertions
    assert report.macro["wer"] == pytest.approx((1 / 6 + 1) / 2)
    assert (report.normalizer, report.target, report.lid_accuracy) == ("basic", None, None)
    assert "macro: WER 58.33" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["languages"]["fra"]["wer"]["rate"] == 1.0


def test_without_normalisation_case_and_commas_count(data_dir, tmp_path):
    report = score_dir(data_dir, write_hyps(tmp_path), normalizer="none")
    assert report.by_language["eng"].wer.rate == pytest.approx(2 / 6)


def test_punctuation_and_capitals_are_scored_where_references_have_them(data_dir, tmp_path):
    assert score_dir(data_dir, write_hyps(tmp_path)).by_language["eng"].written is None
    texts = {"a": ("eng", "One, two."), "b": ("eng", "Five six?"), "c": ("fra", "un deux")}
    utterances = [
        replace(utterance, text=texts[utterance.utt_id][1], translations={}) for utterance in read_kaldi_dir(data_dir)
    ]
    write_kaldi_dir(tmp_path / "data", utterances)
    hyps = {"a": "One two.", "b": "five six?", "c": "Un, deux."}
    report = score_dir(tmp_path / "data", write_hyps(tmp_path, hyps))
    assert report.by_language["eng"].wer.rate == 0
    written = report.by_language["eng"].written
    assert (written.punctuation.right, written.punctuation.num_ref, written.punctuation.num_hyp) == (2, 3, 2)
    assert written.case_accuracy == pytest.approx(3 / 4)
    assert report.by_language["fra"].written is None
    assert report.by_language[ALL].written == written
    assert "eng: punctuation F1 80.00" in str(report)
    values = report.to_dict()["languages"]
    assert values["eng"]["written"]["punctuation"]["f1"] == pytest.approx(0.8)
    assert "written" not in values["fra"]


def test_translations_are_scored_where_there_is_a_reference(data_dir, tmp_path):
    report = score_dir(data_dir, write_hyps(tmp_path, {**HYPS, "a": "eins zwei drei vier fünf"}), target="de")
    assert report.target == "deu"
    assert list(report.by_language) == ["eng"]
    scores = report.by_language["eng"]
    assert (scores.utterances, scores.wer, report.macro) == (1, None, None)
    assert scores.bleu.value == pytest.approx(1)
    assert scores.chrf.value == pytest.approx(1)
    with pytest.raises(DataError, match=r"no utterance has a reference in text\.spa"):
        score_dir(data_dir, tmp_path / "hyp", target="es")


def test_languages_that_were_detected_are_counted(data_dir, tmp_path):
    hyp = write_hyps(tmp_path)
    rows = [("a", "eng", 0.9), ("b", "fra", 0.6), ("c", "deu", None)]  # of c, the language was given
    entries = [{"utt_id": name, "language": lang, "language_probability": prob} for name, lang, prob in rows]
    jsonl_of(hyp).write_text("".join(f"{json.dumps(entry)}\n" for entry in entries), encoding="utf-8")
    report = score_dir(data_dir, hyp)
    assert (report.lid_accuracy, report.lid_utterances) == (0.5, 2)
    assert "language identification: 50.00 % of 2 utterances" in str(report)
    jsonl_of(hyp).write_text('{"utt_id": "a"}\n[]\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"hyp\.jsonl:2: must be a transcript"):
        score_dir(data_dir, hyp)


@pytest.mark.parametrize(
    ("hyps", "message"),
    [
        ({"a": "", "b": ""}, r"1 utterances are not in .*, first 'c'"),
        ({**HYPS, "d": "x", "e": ""}, r"2 utterances are in .* but not in .*, first 'd'"),
    ],
)
def test_hypotheses_are_of_the_same_utterances(data_dir, tmp_path, hyps, message):
    with pytest.raises(DataError, match=message):
        score_dir(data_dir, write_hyps(tmp_path, hyps))


def test_hypotheses_may_be_empty_but_not_repeated(tmp_path):
    path = tmp_path / "hyp"
    path.write_text("a\nb\tx  y \nc z\u2028w", encoding="utf-8")
    assert read_hypotheses(path) == {"a": "", "b": "x  y", "c": "z\u2028w"}
    for content in ("a x\na y\n", "a x\n\nb y\n"):
        path.write_text(content, encoding="utf-8")
        with pytest.raises(DataError, match="hyp:2: must begin with an utterance id of its own"):
            read_hypotheses(path)
    path.write_bytes(b"a \xff\n")
    with pytest.raises(DataError, match="must be UTF-8 text"):
        read_hypotheses(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_hypotheses(tmp_path / "none")
