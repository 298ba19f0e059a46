"""Orders whose whole texts agree with the corpus' labels, and no others, become data to measure with."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from benchmarks import spoken_orders
from speechnar.data.kaldi import read_kaldi_dir, write_kaldi_dir

LABELS = {
    "good.wav": {"intent": "orderDrink", "slots": {"size": "twelve ounce", "roast": "dark roast", "drink": " latte"}},
    "wrong.wav": {"intent": "orderDrink", "slots": {"drink": "americano"}},
    "within.wav": {"intent": "orderDrink", "slots": {"milk": "milk"}},
    "absent.wav": {"intent": "orderDrink", "slots": {"drink": "mocha"}},
}
HEARD = {"good": "A 12-ounce, dark-roast latte!", "wrong": "A large Americana.", "within": "A milkshake."}


def test_only_agreeing_texts_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = tmp_path / "clone" / spoken_orders.CLIPS
    clips.mkdir(parents=True)
    for name in HEARD:
        soundfile.write(clips / f"{name}.wav", np.zeros(8000), 16000)
    labels = tmp_path / "clone" / spoken_orders.LABELS
    labels.parent.mkdir(parents=True)
    labels.write_text(json.dumps(LABELS))

    def run(*arguments: Path | str) -> None:
        monkeypatch.setattr(sys, "argv", ["spoken_orders", *map(str, arguments)])
        assert spoken_orders.main() == 0

    run(tmp_path / "clone", tmp_path / "all")
    listed = read_kaldi_dir(tmp_path / "all")
    assert [one.utt_id for one in listed] == ["good", "within", "wrong"]
    assert listed[0].duration_s == pytest.approx(0.5)
    write_kaldi_dir(tmp_path / "labelled", [replace(one, text=HEARD[one.utt_id]) for one in listed])
    run(tmp_path / "clone", tmp_path / "kept", "--labelled", tmp_path / "labelled")
    (kept,) = read_kaldi_dir(tmp_path / "kept")
    assert (kept.utt_id, kept.text) == ("good", "a twelve ounce dark roast latte")
