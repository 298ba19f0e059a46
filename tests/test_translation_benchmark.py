import gzip
import json
import sys

import pytest
import torch

from benchmarks import translation
from speechnar.models.base import save_model
from speechnar.models.mt import translation as model_parts
from speechnar.mt.systems import TranslationOptions, build_system
from speechnar.text.tokenizer import SentencePieceTokenizer
from tests.unit.models.texts import sentences


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("multi30k")
    given = sentences(40, max_words=6)
    texts = {"en": [s.text for s in given], "de": [f"{s.translations['deu']} h" for s in given]}
    for lang, lines in texts.items():
        (folder / f"test_2016_flickr.{lang}.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode()))
    return folder


@pytest.fixture(scope="module")
def models(corpus):
    return translation.random_models(corpus, quick=True)


def run(monkeypatch, corpus, out, *options) -> int:
    threads = ("--threads", str(torch.get_num_threads()))
    argv = ["translation", "--corpus", str(corpus), "--quick", *threads, "--output", str(out), *options]
    monkeypatch.setattr(sys, "argv", argv)
    return translation.main()


def test_systems_are_timed_over_the_length_of_the_source(corpus, tmp_path, monkeypatch):
    assert run(monkeypatch, corpus, tmp_path, "--lengths", "15", "4") == 0
    values = json.loads((tmp_path / "translation_random.json").read_text())
    cases = {(case["label"], case["words"]): case for case in values["a"]["cases"]}
    assert cases.keys() == {(label, words) for label in translation.SYSTEMS for words in (4, 15)}
    assert (values["a"]["words"], values["a"]["label"], values["b"]["label"]) == (4, "one pass", "ReTA greedy")
    for (label, words), case in cases.items():
        assert case["joined"] == (words == 15)
        assert 0 < case["update_s"] <= case["update_max_s"] <= case["median_s"]
        one_pass = cases["one pass", words]
        assert case["times_one_pass"] == pytest.approx(case["median_s"] / one_pass["median_s"], rel=0.01, abs=0.01)
        if label != "one pass":
            assert case["target_tokens"] == cases["ReTA greedy", words]["target_tokens"] > 0
    for words in (4, 15):
        length = cases["ReTA greedy", words]["target_tokens"]
        assert cases["one pass", words]["whole_evaluations"] == 1
        assert cases["one pass", words]["evaluations"] == words + 1
        assert cases["ReTA greedy", words]["whole_evaluations"] == 1 + length
        assert cases["wait-k", words]["evaluations"] == cases["wait-k", words]["whole_evaluations"] == length
        assert cases["Levenshtein", words]["whole_evaluations"] == 4
    assert "random weights, all write" in values["note"] and "of 15 words joined of several sentences" in values["note"]
    assert values["result"].startswith("4 words: one pass ")


@pytest.mark.parametrize("kind", ["reta", "fretna", "wait_k"])
def test_random_models_write_as_much_as_they_are_told(models, kind):
    tokenizer = models[kind].tokenizer
    updates = translation.updates_of(["abc", "d", "ab", "cd", "a", "bcd"], tokenizer)
    before = model_parts.MIN_MAX_LEN
    with translation.as_long_as(0.75, [models[kind]]):
        system = build_system(models[kind], TranslationOptions())
        translating = system()
        lengths = [
            len(translating.update(tokens, is_final=number == len(updates)))
            for number, tokens in enumerate(updates, start=1)
        ]
    expected = [max(int(0.75 * len(tokens)), 1) for tokens in updates]
    assert lengths[-1] == expected[-1] > expected[0]
    if kind != "wait_k":  # which says less before the end
        assert lengths == expected
    assert before == model_parts.MIN_MAX_LEN


def test_trained_models_end_by_themselves(corpus, models, tmp_path, monkeypatch, capsys):
    for kind, loaded in translation.random_models(corpus, quick=True).items():
        save_model(tmp_path / kind, loaded.model, loaded.tokenizer)
    folders = [str(tmp_path / kind) for kind in models]
    assert run(monkeypatch, corpus, tmp_path, "--lengths", "3", "--models", *folders) == 0
    values = json.loads((tmp_path / "translation.json").read_text())
    assert values["note"].startswith("models fretna, fretna_ctc, reta, wait_k; weights: ")
    assert run(monkeypatch, corpus, tmp_path, "--models", *folders[1:]) == 1
    assert run(monkeypatch, corpus, tmp_path, "--models", *folders, folders[0]) == 1
    assert capsys.readouterr().out.count("need one trained model of each kind") == 2


def test_without_sentences_nothing_is_measured(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("SPEECHNAR_CORPORA", raising=False)
    assert run(monkeypatch, "no such corpus", tmp_path) == 1
    assert run(monkeypatch, tmp_path, tmp_path) == 1
    assert run(monkeypatch, corpus, tmp_path, "--lengths", "500") == 1
    out = capsys.readouterr().out
    assert "no corpus at no such corpus" in out and "together 500 words" in out
    assert not list(tmp_path.glob("*.json"))


def test_sources_have_just_their_length():
    texts = ["a b c", "d", "a b c", "e f", "a b"]
    tokenizer = SentencePieceTokenizer.train(["a b c d e f"], 16, (), "char")
    (first, second) = translation.sources_of(texts, 3, 2, tokenizer)
    assert not first.joined and first.updates == second.updates
    assert first.updates[-1] == [*tokenizer.encode("a b c"), tokenizer.id_of("<eos>")]
    (joined,) = translation.sources_of(texts, 6, 3, tokenizer)
    assert joined.joined and joined.updates[-2] == tokenizer.encode("d a b c e f")
