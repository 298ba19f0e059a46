import json
import sys

import soundfile
import torch

from benchmarks import hotwords
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from tests.unit.tiny import RATE, save_tiny_model, speechlike


def write_set(folder, texts):
    utterances = []
    for number, text in enumerate(texts):
        path = folder / f"{number}.wav"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, speechlike(1.0, seed=number), RATE)
        utterances.append(Utterance(f"spk-{number}", path, text, "spk", 1.0, lang="eng"))
    write_kaldi_dir(folder, utterances)
    return utterances


def test_words_that_training_lacks_are_listed(tmp_path):
    tests = write_set(tmp_path / "test", ["call martha now", "call john", "the zoo"])
    trained = write_set(tmp_path / "train", ["call john today"])
    assert hotwords.rare_words(tests, trained, 4) == {"eng": ["martha"]}
    assert hotwords.rare_words(tests, trained, 3) == {"eng": ["martha", "now", "the", "zoo"]}


def test_a_list_can_only_add_its_own_words(tmp_path, monkeypatch):
    write_set(tmp_path / "test", ["said good day", "the dog"])
    write_set(tmp_path / "train", ["the dog"])
    model = save_tiny_model(tmp_path / "tiny")
    options = ["--model", str(model), "--data", str(tmp_path / "test"), "--output", str(tmp_path)]
    options += ["--threads", str(torch.get_num_threads())]  # they are the process's: later tests need them as they were
    monkeypatch.setattr(sys, "argv", ["hotwords", *options, "--weights", "0", "20"])
    assert hotwords.main() == 0
    values = json.loads((tmp_path / "hotwords_ctc.json").read_text())
    nothing, much = values["a"]["cases"]
    assert nothing["unchanged"] == 1 and nothing["right"] == values["b"]["right"] == 0
    assert much["said"] == 2 and much["right"] > 0 and much["recall"] == 50.0 * much["right"]
