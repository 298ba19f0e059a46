"""owsm/s2t: several corpora, each by its own recipe, as one."""

import json

import pytest

from speechnar.data.kaldi import read_kaldi_dir
from speechnar.text.tokenizer import load_tokenizer
from tests.recipes.test_recipes import aishell1, run, run_well, tiny_config, write_librispeech, write_mustc

__all__ = ["aishell1"]


@pytest.fixture
def corpora(tmp_path, aishell1) -> list[str]:
    librispeech, mustc = write_librispeech(tmp_path / "librispeech"), write_mustc(tmp_path / "mustc")
    return ["--corpus_librispeech", str(librispeech), "--corpus_aishell1", str(aishell1), "--corpus_mustc",
            f"deu={mustc}", "--parts", "train-clean-100", "--check", "incomplete", "--vocab_size", "70",
            "--data", str(tmp_path / "data"), "--downloads", str(tmp_path / "downloads")]  # fmt: skip


def test_corpora_come_together(corpora, tmp_path):
    run_well("owsm/s2t", *corpora, "--stop_stage", "3")
    data = tmp_path / "data"
    folders = {"librispeech": ("eng", 3), "aishell1": ("cmn", 2), "mustc/deu": ("eng", 3)}
    for name, (lang, number) in folders.items():
        utterances = read_kaldi_dir(data / name / "train")
        assert {utterance.lang for utterance in utterances} == {lang}
        assert len(utterances) == number
    pieces = load_tokenizer(data / "tokenizer").pieces
    assert {"<eng>", "<cmn>", "<deu>", "<st_deu>", "<asr>"} <= set(pieces)
    described = json.loads((data / "statistics.json").read_text())
    assert len(described) == 6


def test_a_corpus_is_needed(tmp_path):
    finished = run("owsm/s2t", "--data", str(tmp_path))
    assert finished.returncode == 2
    assert "needs at least one corpus" in finished.stderr


@pytest.mark.slow  # trains, and decodes five sets
def test_all_stages(corpora, tmp_path):
    prompt = {"model_dim": 16, "num_layers": 1, "num_heads": 1, "ff_dim": 32}
    config = tiny_config(tmp_path / "tiny.yaml", prompt=prompt)
    run_well("owsm/s2t", *corpora, "--config", str(config), "--exp", str(tmp_path / "exp"))
    for name in ("librispeech-test-clean.asr", "aishell1-test.asr", "mustc-deu-tst-COMMON.st_deu"):
        assert json.loads((tmp_path / f"exp/{name}.json").read_text())
    assert (tmp_path / "exp/export/model.safetensors").stat().st_size
