from pathlib import Path

import pytest

from speechnar.data.parallel_text import Sentence, is_text_dir, read_sentences, write_sentences
from speechnar.errors import DataError

SENTENCES = [
    Sentence("b", "good day", "eng", {"deu": "guten Tag", "fra": "bonjour"}),
    Sentence("a", "gute Nacht", "deu", {"eng": "good night"}),
]


def test_a_directory_comes_back_sorted(tmp_path):
    write_sentences(tmp_path / "new" / "texts", SENTENCES)
    assert read_sentences(tmp_path / "new" / "texts") == SENTENCES[::-1]


def test_files_are_kaldis(tmp_path):
    write_sentences(tmp_path, SENTENCES)
    found = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert found == {
        "text": "a gute Nacht\nb good day\n",
        "utt2lang": "a deu\nb eng\n",
        "text.deu": "b guten Tag\n",
        "text.eng": "a good night\n",
        "text.fra": "b bonjour\n",
    }


def test_what_was_there_before_goes(tmp_path):
    write_sentences(tmp_path, SENTENCES)
    (tmp_path / "text.spa").write_text("c hola\n", encoding="utf-8")
    write_sentences(tmp_path, SENTENCES[1:])
    assert {path.name for path in tmp_path.iterdir()} == {"text", "utt2lang", "text.eng"}
    assert read_sentences(tmp_path) == SENTENCES[1:]


def test_a_sentence_in_each_of_its_languages():
    sentence = SENTENCES[0]
    assert [sentence.in_language(lang) for lang in ("eng", "fra", "spa")] == ["good day", "bonjour", None]


def test_texts_without_recordings(tmp_path):
    assert not is_text_dir(tmp_path)
    write_sentences(tmp_path, SENTENCES)
    assert is_text_dir(tmp_path)
    (tmp_path / "wav.scp").touch()
    assert not is_text_dir(tmp_path)


@pytest.mark.parametrize(
    "sentence",
    [
        Sentence("a b", "x", "eng"),
        Sentence("", "x", "eng"),
        Sentence("a", " ", "eng"),
        Sentence("a", "x\ny", "eng"),
        Sentence("a", "x\r", "eng"),
        Sentence("a", "x", "eng", {"deu": ""}),
        Sentence("a", "x", ""),
    ],
)
def test_what_a_line_cannot_hold_is_refused_before_anything_is_written(tmp_path, sentence):
    with pytest.raises(DataError, match="id must be one word and texts one line each and not blank, got sentence"):
        write_sentences(tmp_path / "new", [SENTENCES[0], sentence])
    assert not (tmp_path / "new").exists()


def test_ids_differ_and_there_is_one(tmp_path):
    for sentences in ([], [SENTENCES[0], SENTENCES[0]]):
        with pytest.raises(DataError, match=f"ids that differ; got {len(sentences)} sentences"):
            write_sentences(tmp_path, sentences)


def test_faults_of_a_folder_are_told(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_sentences(tmp_path / "none")
    write_sentences(tmp_path, SENTENCES)
    Path(tmp_path / "utt2lang").write_text("a deu\n", encoding="utf-8")
    with pytest.raises(DataError, match="utt2lang"):
        read_sentences(tmp_path)
