"""A recogniser learns from a handful of recordings, and says what it gained."""

import math
from pathlib import Path

import pytest
import torch

from speechnar import Transcriber
from speechnar.cli.main import main
from speechnar.data.kaldi import Utterance
from speechnar.data.own_recordings import OwnRecordings
from speechnar.errors import ConfigError, DataError
from speechnar.evaluation.finetuning import finetune, leave_out_other_texts
from speechnar.models.base import WEIGHTS_FILE, read_weights
from speechnar.text.words import WORDS_FOLDER, WordLists, write_words
from speechnar.train.run import average
from tests.unit.tiny import save_tiny_model, save_tiny_tts, write_speechlike


@pytest.fixture
def model(tmp_path):
    return save_tiny_model(tmp_path / "model")


@pytest.fixture
def talks(tmp_path):
    folder = tmp_path / "talks"
    folder.mkdir()
    for number in range(12):  # each of a length of its own, as the same sound twice would be left out
        write_speechlike(folder / f"{number}.wav", 1.0 + number / 50, seed=number % 3)
        (folder / f"{number}.txt").write_text(("the cat", "the dog", "a cat")[number % 3])
    return folder


@pytest.mark.slow
def test_it_learns_what_it_hears(model, talks, tmp_path):
    write_words(model / WORDS_FOLDER / "eng.xz", {"the": 0.05, "a": 0.02, "cat": 1e-4, "dog": 1e-4})
    report = finetune(model, talks, tmp_path / "out", language="en", updates=60, lr=3e-3)
    assert WordLists(report.model).languages == ("eng",)
    assert report.updates == 60
    assert report.num_dev == 4
    assert report.is_better
    assert report.after.cer.rate < report.before.cer.rate
    adapted = Transcriber.load(report.model, device="cpu")
    assert adapted.languages == Transcriber.load(model, device="cpu").languages
    assert math.isfinite(report.minutes)
    shown = str(report)
    assert "before: " in shown
    assert "12 recordings" in shown


@pytest.mark.slow
def test_low_rank_updates_learn_and_are_merged(model, talks, tmp_path):
    report = finetune(model, talks, tmp_path / "out", language="en", updates=60, lr=1e-2, lora=4)
    assert report.after.cer.rate < report.before.cer.rate
    old, new = (read_weights(folder / WEIGHTS_FILE) for folder in (model, report.model))
    assert old.keys() == new.keys()
    changed = {name for name in old if not torch.equal(old[name].float(), new[name].float())}
    assert 0 < len(changed) < len(old) / 2
    assert all(old[name].dim() == 2 for name in changed)
    again = average(tmp_path / "out", 1)  # of checkpoints, whose names are others
    assert read_weights(again / WEIGHTS_FILE).keys() == old.keys()


TEXTS = {
    "a": ("I saw 3.000 ships", "i saw three thousand ships"),
    "b": ("come sailing in on christmas day", "come sealing in on kristmas day"),
    "c": ("in Bethlehem that morning", "what shall we do with him"),
    "d": ("Hoorah!", "oh right"),
    "e": ("and what was in those ships", "and what wasn't those chips"),
    "f": ("the Virgin Mary was there", ""),
    "g": ("pray whither sailed those ships", "pray wither sailed those ships"),
}


def as_recordings(texts: dict[str, tuple[str, str]]) -> OwnRecordings:
    return OwnRecordings([Utterance(name, Path(name), text, "a", 2.0) for name, (text, _) in texts.items()])


def test_texts_that_nobody_says_are_left_out():
    found = as_recordings(TEXTS)
    leave_out_other_texts(found, {name: heard for name, (_, heard) in TEXTS.items()})
    assert [utterance.utt_id for utterance in found.utterances] == ["a", "b", "d", "e", "g"]
    assert found.left_out == {"another text than is heard": ["c", "f"]}


def test_a_model_that_hears_little_judges_no_texts():
    found = as_recordings(TEXTS)
    leave_out_other_texts(found, {name: "mumble" for name in TEXTS})
    assert len(found.utterances) == len(TEXTS)
    assert not found.left_out
    leave_out_other_texts(nothing := OwnRecordings(), {})
    assert not nothing.left_out


def test_the_command(model, talks, tmp_path, capsys):
    arguments = [str(model), str(talks), "-o", str(tmp_path / "out"), "-l", "en", "--updates", "2", "--threads", "1"]
    assert main(["finetune", *arguments]) == 0
    out, _ = capsys.readouterr()
    assert out == f"{tmp_path / 'out' / 'model'}\n"
    assert (tmp_path / "out" / "model" / "README.md").read_text().startswith("---\n")
    assert main(["finetune", str(model), str(tmp_path / "none"), "-o", str(tmp_path / "other")]) == 1


def test_what_cannot_be_done_is_told(model, talks, tmp_path):
    with pytest.raises(ConfigError, match="recogniser"):
        finetune(save_tiny_tts(tmp_path / "tts"), talks, tmp_path / "out")
    for number in range(2, 12):
        (talks / f"{number}.txt").unlink()
    with pytest.raises(DataError, match="too few"):
        finetune(model, talks, tmp_path / "out")
