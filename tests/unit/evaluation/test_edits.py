"""Edits by list, and what is said of them."""

import json

import numpy as np
import pytest
import soundfile

from speechnar.audio.io import Audio
from speechnar.cli.main import main
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.evaluation.edits import LIST, is_untouched, score_edits
from speechnar.tts.editor import Change, EditedSpeech
from tests.unit.tiny import RATE, vowels
from tests.unit.tts.test_synthesizer import folder, recognizer  # noqa: F401  # fixtures


def row(edit, old, new, text):
    change = {"old_text": old, "new_text": new, "click": 0.5}
    place, kind = edit.split("-")[1:]
    return {
        **{"edit": edit, "place": place, "kind": kind, "text": text, "changes": [change], "untouched": True},
        **{"steps": 4, "candidates": 8},
    }


ROWS = [
    row("u-start-insert", "", "Oh,", "Oh, the cat sat on the mat."),
    row("u-middle-replace", "sat", "lay 2 hours", "The cat lay 2 hours on the mat."),
    row("u-end-delete", "on the mat.", "", "the cat sat"),
    row("u-middle-insert", "", "the", "the cat sat on the the mat"),
]
RIGHT = {
    "u-start-insert": "Oh the cat sat on the mat",
    "u-middle-replace": "the cat lay two hours on a mat",
    "u-end-delete": "The cat's at!",
    "u-middle-insert": "the cat sat on the the mat",
}
WRONG = {
    "u-start-insert": "The cat sat on the mat",
    "u-middle-replace": "the cat lay on two hours",
    "u-end-delete": "The cat sat on the mat",
    "u-middle-insert": "the cat sat on the mat",
}


@pytest.mark.parametrize(("heard", "expected"), [(RIGHT, 1), (WRONG, 0)])
def test_new_words_are_to_be_heard_and_old_ones_are_not(heard, expected):
    report = score_edits(ROWS, heard, judge="ear")
    assert {(part.kind, part.place): part.heard for part in report.counts} == {
        ("insert", "start"): expected,
        ("replace", "middle"): expected,
        ("delete", "end"): expected,
        ("insert", "middle"): expected,
    }
    assert all(part.edits == 1 for part in report.counts)
    assert (report.edits, report.untouched, report.largest_click) == (4, 4, 0.5)
    assert report.wer.errors > 0
    assert f"delete at the end: {expected} of 1" in str(report)
    assert report.to_dict()["wer"]["rate"] == report.wer.rate
    with pytest.raises(DataError, match="1 are missing"):
        score_edits(ROWS, {edit: text for edit, text in heard.items() if edit != "u-end-delete"}, judge="ear")
    with pytest.raises(DataError, match="0 edits"):
        score_edits([], heard, judge="ear")


def test_samples_outside_are_compared():
    samples = vowels(1.0)
    change = Change("a", "b", 0.25, 0.5, 0.25, 0.75, 0.0)
    new = np.concatenate([samples[: RATE // 4], np.zeros(RATE // 2, np.float32), samples[RATE // 2 :]])
    assert is_untouched(samples, EditedSpeech(new, RATE, (change,)))
    for at in (0, RATE // 4 - 1, 3 * RATE // 4, len(new) - 1):
        touched = new.copy()
        touched[at] += 1e-4
        assert not is_untouched(samples, EditedSpeech(touched, RATE, (change,)))
    assert not is_untouched(samples[:-1], EditedSpeech(new, RATE, (change,)))


def test_from_the_command_line(folder, tmp_path, capsys):  # noqa: F811
    path = tmp_path / "a.wav"
    Audio(vowels(3.0), RATE).save(path)
    write_kaldi_dir(tmp_path / "data", [Utterance("a-1", path, "the cat sat on the mat", "s", 3.0)])
    edits, out = tmp_path / "edits.txt", tmp_path / "out"
    edits.write_text("a-1-start-insert so the cat sat on the mat\na-1-end-delete the cat sat\n")
    make = [
        "tts",
        "decode-edits",
        str(folder),
        str(tmp_path / "data"),
        str(edits),
        str(out),
        "--steps",
        "1",
        "--candidates",
        "1",
    ]
    assert main(make) == 0
    rows = [json.loads(line) for line in (out / LIST).read_text().splitlines()]
    assert [(r["place"], r["kind"], r["untouched"]) for r in rows] == [
        ("start", "insert", True),
        ("end", "delete", True),
    ]
    assert rows[0]["changes"][0]["new_text"] == "so"
    assert soundfile.info(out / "a-1-start-insert.wav").duration > 3.0
    heard = tmp_path / "heard"
    heard.write_text("a-1-start-insert so the cat\na-1-end-delete\n")
    assert (
        main(
            ["tts", "score-edits", str(out), str(heard), "--judge", "ear", "--json", str(tmp_path / "r" / "edits.json")]
        )
        == 0
    )
    assert "insert at the start: 1 of 1" in capsys.readouterr().out
    assert json.loads((tmp_path / "r" / "edits.json").read_text())["counts"][1]["heard"] == 1
    for line, message in (("b-start-insert x", "must be named"), ("a-1-end-none the cat sat on the mat", "nothing")):
        edits.write_text(f"{line}\n")
        assert main(make) == 1
        assert message in capsys.readouterr().err
    assert main(["tts", "score-edits", str(tmp_path / "no"), str(heard), "--judge", "ear"]) == 1
