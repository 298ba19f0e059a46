"""The shipped maker of music, as users get it: small, repeatable, of the kind that is asked for, without seams."""

from pathlib import Path

import numpy as np
import pytest

from speechnar import Generator
from speechnar.cli.main import main
from speechnar.hub import DEFAULT_MUSIC_MODEL, list_models, resolve_model
from speechnar.metrics.seam import find_seams

ROOT = Path(__file__).parents[1]
MAX_BYTES = 9_000_000
PROMPTS = ("cold day", "robot dity", "the simplicity", "morning coffee", "system")
OUTLIER = 0.05
MAX_OUTLIERS = 2
"""Of the ten joins of a minute, that jump more than all but `OUTLIER` of the places within windows."""


@pytest.fixture(scope="module")
def model() -> Generator:
    return Generator.load(device="cpu")


def test_the_folder_is_small_safe_and_documented():
    folder = resolve_model(DEFAULT_MUSIC_MODEL)
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.json", "model.safetensors", "tokens.txt", "lexicon.txt", "README.md"}
    assert (folder / "model.safetensors").stat().st_size < MAX_BYTES
    (info,) = [info for info in list_models() if info.name == DEFAULT_MUSIC_MODEL]
    assert (info.source, info.kind, info.tasks) == ("shipped", "magnet", ("generation",))
    assert info.license == "cc-by-sa-3.0"


def test_the_card_is_that_of_the_recipe():
    card = (ROOT / "recipes/opsound/music/README.md").read_text()
    assert (resolve_model(DEFAULT_MUSIC_MODEL) / "README.md").read_text() == card, (
        "pack the model again, or copy the card"
    )


@pytest.mark.slow
def test_a_seed_gives_the_same_bytes(tmp_path):
    files = [tmp_path / f"{number}.wav" for number in range(3)]
    for path, seed in zip(files, (7, 7, 8), strict=True):
        assert (
            main(["generate", "cold day", "--seconds", "10", "--seed", str(seed), "-d", "cpu", "-q", "-o", str(path)])
            == 0
        )
    first, again, other = (path.read_bytes() for path in files)
    assert len(first) > 2 * 10 * 16000
    assert first == again
    assert first != other


@pytest.mark.slow
def test_pieces_differ_as_they_are_told(model):
    """Codes of one piece are more like those of the same piece with another seed than like another piece's."""
    shares = {
        (prompt, seed): np.bincount(model.generate(prompt, seconds=10, seed=seed).codes[0], minlength=128) / 500
        for prompt in PROMPTS
        for seed in (0, 1)
    }
    for prompt in PROMPTS:
        overlap = {other: np.minimum(shares[prompt, 0], shares[other, 1]).sum() for other in PROMPTS}
        assert max(overlap, key=lambda other: overlap[other]) == prompt, overlap


@pytest.mark.slow
def test_a_minute_has_no_audible_seams(model):
    """The windows of a minute go on smoothly; where two pieces are cut together instead, that is heard."""
    minute = model.generate("cold day", seconds=60, seed=3)
    assert len(minute.joins) == 10
    seams = find_seams(minute.samples, minute.sample_rate, minute.joins)
    assert sum(share <= OUTLIER for share in seams.shares) <= MAX_OUTLIERS, seams
    parts = [model.generate(prompt, seconds=5, seed=3).samples for prompt in ("cold day", "system")]
    cut = np.concatenate(parts * 4)
    hard = find_seams(cut, minute.sample_rate, [5.0 * number for number in range(1, 8)])
    assert np.mean(hard.shares) < np.mean(seams.shares)
