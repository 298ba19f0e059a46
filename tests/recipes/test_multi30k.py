"""Multi30k's run.sh on a small corpus of the same shape, through all stages."""

import gzip
import json
from pathlib import Path

import pytest

from speechnar.data.parallel_text import read_sentences
from speechnar.models.base import load_model
from tests.recipes.test_recipes import run, run_well
from tests.unit.models.texts import sentences

RECIPE = "multi30k/mt"
TINY = (
    "model.model_dim=16 model.encoder_layers=1 model.decoder_layers=1 model.num_heads=2 model.ff_dim=16 "
    "data.batch_tokens=200 train.max_steps=2 train.validate_every=2 train.precision=fp32 train.device=cpu"
)


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "multi30k"
    folder.mkdir()
    sets = {"train": 30, "val": 4, "test_2016_flickr": 3, "test_2017_flickr": 3}
    for seed, (name, num) in enumerate(sets.items()):
        given = sentences(num, seed=seed)
        for code, texts in {
            "en": [s.text for s in given],
            "de": [s.translations["deu"] for s in given],
            "fr": [s.text.upper() for s in given],
        }.items():
            (folder / f"{name}.{code}.gz").write_bytes(gzip.compress(("\n".join(texts) + "\n").encode()))
    return folder


def test_data_are_aligned_by_line(corpus, tmp_path):
    options = ("--corpus", str(corpus), "--data", str(tmp_path / "data"), "--stop_stage", "3", "--vocab_size", "40")
    run_well(RECIPE, *options, "--target", "fra")
    train = read_sentences(tmp_path / "data/train")
    assert [s.text for s in train] == [s.text for s in sentences(30, seed=0)]
    assert all(s.translations == {"fra": s.text.upper()} and s.lang == "eng" for s in train)
    assert json.loads((tmp_path / "data/statistics.json").read_text())
    broken = corpus / "val.de.gz"
    broken.write_bytes(gzip.compress(b"only one line\n"))
    finished = run(RECIPE, *options, "--stage", "1", "--stop_stage", "1")
    assert finished.returncode and "val must have as many lines in all languages" in finished.stderr


@pytest.mark.slow
def test_all_stages(corpus, tmp_path):
    (tmp_path / "systems.txt").write_text(
        "# name model options\ngreedy teacher\nverified teacher --draft EXP/fretna_ctc/model\nctc fretna_ctc --bias 1\n"
        "edits fretna --masked 1\nwait2 wait_k --delay 2\n"
    )
    exp = tmp_path / "exp"
    run_well(
        RECIPE,
        *("--corpus", str(corpus), "--data", str(tmp_path / "data"), "--exp", str(exp), "--vocab_size", "40"),
        *("--overrides", TINY, "--systems", str(tmp_path / "systems.txt"), "--limit", "2"),
    )
    scores = [json.loads(line) for line in (exp / "test.scores.jsonl").read_text().splitlines()]
    by_name = {score["system"]: score for score in scores}
    assert by_name.keys() == {"greedy", "verified", "ctc", "edits", "wait2"}
    assert by_name["verified"]["bleu"] == by_name["greedy"]["bleu"]
    assert all(score["sentences"] == 2 for score in scores)
    assert by_name["wait2"]["erasure"] in (0.0, None)
    assert (exp / "test.scores.png").read_bytes().startswith(b"\x89PNG")
    assert load_model(exp / "export/fretna").tokenizer.vocab_size <= 40
