"""The verbs models, pull and remove; what pulling does is tested in interop/test_pull.py."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from speechnar import hub as hub_module
from speechnar.cli.main import main
from speechnar.published import PublishedModel
from tests.unit import published

NAME = "espnet/owsm_ctc_v4_1B"
ROOT = Path(__file__).parents[3]


@pytest.fixture
def known(monkeypatch, recognizer):
    models = [
        PublishedModel(
            NAME,
            family="ESPnet",
            kind="owsm_ctc",
            tasks=("asr", "st"),
            size="1.01 B",
            languages=("many",),
            license="",
            error="7.4 % WER",
            error_source="a table",
            recommended_for="English",
            checked_with="random weights",
        ),
        PublishedModel("a/b", "FunASR", "paraformer", ("asr",), "220 M", ("cmn",), "mit", "", "", "", "random weights"),
    ]
    monkeypatch.setattr("speechnar.published.published_models", lambda: models)
    monkeypatch.setattr(hub_module, "SHIPPED_FOLDER", Path(recognizer).parent)


def test_models_says_what_is_here_and_what_is_known(hub, known, capsys):
    hub.add(NAME, published.espnet())
    assert main(["models"]) == 0
    header, tiny, owsm, other, source = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "kind", "task", "size", "languages", "licence", "error", "from", "present"]
    assert tiny.startswith("tiny  ") and "apache-2.0" in tiny and tiny.endswith("shipped  yes")
    assert owsm.startswith(NAME) and "1.01 B parameters" in owsm and "7.4 % WER [1]" in owsm
    assert owsm.endswith("hub      no") and other.endswith("no")
    assert source == "[1] a table"
    assert main(["pull", "-q", NAME]) == 0
    assert Path(capsys.readouterr().out.strip()).name == "owsm_ctc_v4_1B"
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert rows["tiny"]["languages"] == "eng, deu, fra"
    assert [rows[name]["kind"] for name in ("tiny", NAME, "a/b")] == ["owsm_ctc", "owsm_ctc", "paraformer"]
    assert (rows[NAME]["present"], rows[NAME]["from"], rows[NAME]["licence"]) == ("yes", "hub cache", "cc-by-4.0")
    assert (rows[NAME]["error"], rows[NAME]["error_source"], rows[NAME]["checked_with"]) == (
        "7.4 % WER",
        "a table",
        "random weights",
    )
    assert rows["a/b"]["present"] == "no"


def test_a_model_is_used_by_name_and_removed(hub, wav, capsys, monkeypatch):
    hub.add(NAME, published.espnet())
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "")
    assert main(["transcribe", "-m", NAME, wav]) == 0
    first = capsys.readouterr()
    assert first.out.strip() and "4 files" not in first.out
    hub.requests.clear()
    assert main(["transcribe", "-q", "--offline", "-m", NAME, wav]) == 0
    assert capsys.readouterr().out == first.out
    assert hub.requests == []
    assert main(["remove", NAME]) == 0
    assert "MB freed" in capsys.readouterr().err
    assert main(["transcribe", "-q", "--offline", "-m", NAME, wav]) == 2
    assert "the hub must not be asked" in capsys.readouterr().err
    assert hub.requests == [] and os.environ["HF_HUB_OFFLINE"] == "1"
    assert main(["remove", NAME, "nonsense"]) == 1
    assert capsys.readouterr().err.count("\n") == 2


def test_a_revision_is_fetched_and_removed_by_itself(hub, capsys):
    served = hub.add(NAME, published.espnet())
    commit = served.commit
    assert main(["pull", "-q", f"{NAME}@{commit}"]) == 0
    served.commit = "f" * 40
    assert main(["pull", "-q", NAME]) == 0
    pinned, newest = map(Path, capsys.readouterr().out.splitlines())
    assert [path.parent.name.split("-")[0] for path in (newest, pinned)] == ["f" * 40, commit]
    assert main(["remove", "-q", f"{NAME}@{commit}"]) == 0
    assert newest.is_dir() and not pinned.exists()


@pytest.mark.slow  # three processes import torch
def test_the_variables_of_the_hub_hold_in_a_process(hub, wav, tmp_path):
    hub.add(NAME, published.espnet())
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment |= {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)}

    def run(*argv, **more):
        command = [sys.executable, "-m", "speechnar", *argv]
        return subprocess.run(command, env=environment | more, capture_output=True, text=True, check=False)

    first = run("transcribe", "-q", "-m", f"{NAME}@v1.0", wav)
    assert (first.returncode, first.stderr) == (0, "") and first.stdout.strip()
    assert list((tmp_path / "home").rglob("model.safetensors"))
    hub.requests.clear()
    offline = {"HF_HUB_OFFLINE": "1"}
    assert run("transcribe", "-q", "-m", f"{NAME}@v1.0", wav, **offline).stdout == first.stdout
    other = run("transcribe", "-q", "-m", "a/b", wav, **offline)
    assert other.returncode == 2 and "the hub must not be asked" in other.stderr and other.stderr.count("\n") == 1
    assert hub.requests == []


def test_help_says_which_model_to_use(capsys):
    assert main(["transcribe", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "English: nvidia/parakeet-ctc-1.1b (1.1 B parameters); Chinese: funasr/paraformer-zh (220 M)" in shown
