"""Files that scoring shares."""

import json

import pytest

from speechnar.data.kaldi import Utterance
from speechnar.errors import DataError
from speechnar.evaluation.report import check_complete, name_of, read_texts, replace_text, write_scores


def test_systems_have_a_file_for_every_utterance(tmp_path):
    utterances = [Utterance(f"u{i}", tmp_path / f"{i}.wav", "a", "s", duration_s=1.0) for i in range(3)]
    for name, files in (("whole", "012"), ("part", "1")):
        (tmp_path / name).mkdir()
        for number in files:
            (tmp_path / name / f"u{number}.wav").touch()
    check_complete(utterances, {"a": tmp_path / "whole"})
    check_complete(utterances[1:2], {"a": tmp_path / "whole", "b": tmp_path / "part"})
    with pytest.raises(DataError, match=r"part: system 'b' must have a file for each of 3 .* 2 are missing, first u0"):
        check_complete(utterances, {"a": tmp_path / "whole", "b": tmp_path / "part"})


def test_texts_may_be_empty(tmp_path):
    (tmp_path / "text").write_text("u1 so it is\nu2\n\n u3  \nü4 ñ\n", encoding="utf-8")
    assert read_texts(tmp_path / "text") == {"u1": "so it is", "u2": "", "u3": "", "ü4": "ñ"}


def test_models_of_runs_are_named_by_their_run(tmp_path, monkeypatch):
    assert name_of("shipped-name") == "shipped-name"
    assert name_of(tmp_path / "run" / "model") == "run/model"
    assert name_of(tmp_path / "run" / "packed") == "packed"
    monkeypatch.chdir(tmp_path)
    assert name_of("model") == f"{tmp_path.name}/model"


def test_scores_are_an_object_and_a_line_for_each_utterance(tmp_path):
    report, entries = {"wer": 0.5, "judge": "naïve"}, [{"id": "u1", "heard": "ñ"}, {"id": "u2"}]
    write_scores(tmp_path / "new" / "out", "speech", report, iter(entries))
    text = (tmp_path / "new/out/speech.json").read_text(encoding="utf-8")
    assert json.loads(text) == report and "naïve" in text
    lines = (tmp_path / "new/out/utterances.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == entries


def test_a_file_is_replaced_as_a_whole(tmp_path):
    replace_text(tmp_path / "a", "one\n")
    replace_text(tmp_path / "a", "zwölf\n")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "zwölf\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "b").mkdir()
    with pytest.raises(OSError, match="b"):
        replace_text(tmp_path / "b", "text")
    assert (tmp_path / "b").is_dir()
