"""Recordings with texts as people have them, and what is left out of them."""

import csv

import numpy as np
import pytest
import soundfile

from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.data.own_recordings import read_own_recordings, split
from speechnar.errors import DataError
from speechnar.text.tokenizer import SentencePieceTokenizer, task_specials
from tests.unit.tiny import TEXTS, write_speechlike

SHIFT_S = 0.04


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer.train(TEXTS, 60, task_specials(("eng",), ()))


def read(data, tokenizer, **options):
    return read_own_recordings(data, tokenizer, frame_shift_s=SHIFT_S, **options)


def make_folder(folder, texts):
    folder.mkdir(exist_ok=True)
    for number, (stem, text) in enumerate(texts.items()):
        write_speechlike(folder / f"{stem}.wav", 1.0, seed=number)
        (folder / f"{stem}.txt").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_with_texts_beside_recordings(tokenizer, tmp_path):
    folder = make_folder(tmp_path / "talks", {"a b": "the  cat\n", "c*": "the dog"})
    (folder / "alone.txt").write_text("nobody says this")
    write_speechlike(folder / "silent witness.wav", 1.0, seed=9)
    found = read(folder, tokenizer, language="en")
    assert sorted(utterance.text for utterance in found.utterances) == ["the cat", "the dog"]
    assert {utterance.lang for utterance in found.utterances} == {"eng"}
    assert all(" " not in utterance.utt_id for utterance in found.utterances)
    assert found.seconds == pytest.approx(2.0)
    write_kaldi_dir(tmp_path / "kaldi", found.utterances)
    again = read(tmp_path / "kaldi", tokenizer)
    assert [u.text for u in again.utterances] == [u.text for u in found.utterances]


def test_a_table(tokenizer, tmp_path):
    make_folder(tmp_path / "x", {"a": "", "b": ""})
    rows = [
        ["text", "file", "speaker", "language"],
        ["the cat the dog", "x/a.wav", "Anna B.", "en"],
        ["the dog", "x/b.wav", "", ""],
        ["gone", "x/c.wav", "", ""],
        ["no file", "", "", ""],
    ]
    path = tmp_path / "table.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    found = read(path, tokenizer)
    by_text = {utterance.text: utterance for utterance in found.utterances}
    assert by_text.keys() == {"the cat the dog", "the dog"}
    anna = by_text["the cat the dog"]
    assert (anna.spk_id, anna.lang) == ("Anna_B_", "eng")
    assert anna.utt_id.startswith("Anna_B_-x_a.wav")
    assert by_text["the dog"].spk_id == by_text["the dog"].utt_id
    assert len(found.left_out["cannot be read"]) == 1
    assert found.left_out["a line without file or text"] == ["line 5"]


def test_what_cannot_be_learnt_from_is_left_out_by_its_reason(tokenizer, tmp_path):
    folder = make_folder(
        tmp_path / "talks", {"good": "the cat", "empty": "  \n", "greek": "the ψ", "long": "the cat sat on it " * 30}
    )
    soundfile.write(folder / "silent.wav", np.zeros(16000), 16000)
    (folder / "silent.txt").write_text("the cat")
    (folder / "torn.wav").write_bytes(b"RIFF")
    (folder / "torn.txt").write_text("the cat")
    for name, text in (("twin", "the cat"), ("zwilling", "the dog")):
        (folder / f"{name}.wav").write_bytes((folder / "good.wav").read_bytes())
        (folder / f"{name}.txt").write_text(text)
    found = read(folder, tokenizer)
    assert [utterance.utt_id for utterance in found.utterances] == ["good.wav"]
    assert {reason: len(names) for reason, names in found.left_out.items()} == {
        "cannot be read": 1,
        "letters that the model does not know (ψ)": 1,
        "silent": 1,
        "the same sound as another with another text": 1,
        "too short for the text": 1,
        "twice": 1,
        "without a text": 1,
    }
    shown = str(found)
    assert "1 recordings" in shown
    assert "left out, silent: 1 (silent.wav)" in shown


@pytest.mark.parametrize("name", ["nothing", "table.csv", "empty"])
def test_what_it_is_not_is_told(tokenizer, tmp_path, name):
    (tmp_path / "table.csv").write_text("name,words\na.wav,hello\n")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="text"):
        read(tmp_path / name, tokenizer)


def utterances(num_speakers, each):
    return [
        Utterance(f"s{speaker}-{number}", None, "x", f"s{speaker}", 1.0)
        for speaker in range(num_speakers)
        for number in range(each)
    ]


def test_those_that_are_kept_back_are_of_other_speakers():
    train, dev = split(utterances(8, 5))
    assert len(train) + len(dev) == 40
    assert len(dev) >= 4
    assert not {u.spk_id for u in train} & {u.spk_id for u in dev}
    assert split(utterances(8, 5)) == (train, dev)


def test_of_one_speaker_a_tenth_is_kept_back():
    train, dev = split(utterances(1, 60))
    assert (len(train), len(dev)) == (54, 6)
    with pytest.raises(DataError, match="too few"):
        split(utterances(1, 7))
