"""What recipes fetch: its sum is known, or why it is not is said in one table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from speechnar.data.download import SUMS, UNVERIFIED

ROOT = Path(__file__).parents[2]
RUNS = sorted((ROOT / "recipes").glob("*/*/run.sh"))
SCRIPTS = sorted(path for path in (ROOT / "recipes").rglob("*") if path.suffix in (".sh", ".py"))
ALL_PARTS = {"librispeech": ["--parts", "train-clean-100 train-clean-360 train-other-500"]}
RECORDER = """#!/bin/sh
[ "$2 $3 $4" = "speechnar data download" ] && echo "$5" >>"$RECORDED"
exit 0
"""


@pytest.fixture(scope="module")
def fetched(tmp_path_factory) -> set[str]:
    """Addresses that the first stages of all recipes fetch, by an interpreter that notes them."""
    folder = tmp_path_factory.mktemp("stages")
    recorder, recorded = folder / "python", folder / "addresses"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    environment = {**os.environ, "PYTHON": str(recorder), "RECORDED": str(recorded)}
    for run in RUNS:
        options = [*ALL_PARTS.get(run.parts[-3], ()), "--stage", "0", "--stop_stage", "0"]
        if "downloads=" in run.read_text():
            options += ["--downloads", str(folder / "downloads")]
        subprocess.run([run, *options], env=environment, cwd=run.parent, capture_output=True, check=False)
    return set(recorded.read_text().split())


@pytest.mark.parametrize(
    ("local", "names"),
    [
        ("asterisk/s2t", "[f'asterisk-core-sounds-{code}-g722-{VERSION}.tar.gz' for code, *_ in VOICES.values()]"),
        ("opsound/music", "[ARCHIVE]"),
    ],
)
def test_the_sums_of_archives_in_place_of_packages_are_known(local, names):
    (script,) = (ROOT / "recipes" / local / "local").glob("fetch_*.py")
    code = f"from {script.stem} import *; print(*(f'{{SITE}}/{{name}}' for name in {names}))"
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{script.parent}"}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert found.stdout
    assert set(found.stdout.split()) - SUMS.keys() == set()


def test_nothing_is_fetched_whose_sum_is_neither_known_nor_known_to_be_missing(fetched):
    assert fetched - SUMS.keys() - UNVERIFIED.keys() == set()
    assert UNVERIFIED.keys() <= fetched
    assert not SUMS.keys() & UNVERIFIED.keys()


def test_whatever_is_fetched_comes_by_https_and_goes_through_the_check():
    for url in (*SUMS, *UNVERIFIED):
        assert url.startswith("https://")
    assert all(re.fullmatch("[0-9a-f]{64}|[0-9a-f]{32}", known) for known in SUMS.values())
    for path in SCRIPTS:
        assert not re.search(r"\b(curl|wget|urlopen|urlretrieve|requests\.get|git clone)\b", path.read_text()), path
        assert not re.search(r"http://(?!localhost|127\.)", path.read_text()), path
