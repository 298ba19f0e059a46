"""Names to folders; nothing here may reach a network."""

import itertools
import json
import re
import socket
from pathlib import Path

import huggingface_hub
import pytest

import speechnar
from speechnar import hub
from speechnar.errors import ModelNotFoundError
from speechnar.hub import list_models, read_card, resolve_model


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(hub, "SHIPPED_FOLDER", tmp_path / "shipped")


def make_folder(folder: Path, card: str = "", names=("config.json", "model.safetensors")) -> Path:
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text(json.dumps({"schema_version": 1, "kind": "owsm_ctc", "config": {}}))
    (folder / "README.md").write_text(card)
    return folder


def test_shipped_name_comes_before_a_folder_of_that_name(tmp_path, monkeypatch):
    shipped = make_folder(tmp_path / "shipped" / "small")
    make_folder(tmp_path / "cwd" / "small")
    monkeypatch.chdir(tmp_path / "cwd")
    assert resolve_model("small") == shipped
    assert resolve_model("./small").resolve() == tmp_path / "cwd" / "small"


def test_local_folder(tmp_path):
    folder = make_folder(tmp_path / "exp" / "model")
    assert resolve_model(folder) == folder
    assert resolve_model(str(folder)) == folder


def test_folder_of_another_toolkit_points_to_convert(tmp_path):
    folder = make_folder(tmp_path / "espnet", names=("valid.pth", "config.yaml"))
    with pytest.raises(ModelNotFoundError, match="speechnar convert"):
        resolve_model(folder)


@pytest.mark.parametrize("name", ["smal", "../secret", "/nowhere/model", "a/b/c", "", "~/no such", "x\ny/z"])
def test_unknown_names_fail_without_a_network(tmp_path, name):
    make_folder(tmp_path / "shipped" / "small")
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(name)
    if name == "smal":
        assert "did you mean small" in str(caught.value)


def test_cached_hub_model_needs_no_request(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "snapshot")
    calls = []

    def snapshot_download(repo, **options):
        calls.append((repo, options))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_model("owner/model@v1.0") == folder
    ((repo, options),) = calls
    assert repo == "owner/model"
    assert options["revision"] == "v1.0"
    assert options["local_files_only"] is True


def test_incomplete_cache_is_completed_with_safe_files_only(tmp_path, monkeypatch):
    partial = make_folder(tmp_path / "partial", names=("config.json",))
    whole = make_folder(tmp_path / "whole")
    calls = []

    def snapshot_download(repo, *, local_files_only=False, allow_patterns, **options):
        calls.append(allow_patterns)
        return str(partial if local_files_only else whole)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_model("owner/model") == whole
    assert len(calls) == 2
    for pattern in calls[1]:
        assert re.search(r"(\.json|\.safetensors|\.txt|\.model|\.md)$", pattern), pattern


def test_unreachable_hub_is_one_error(monkeypatch):
    def snapshot_download(repo, *, local_files_only=False, **options):
        if local_files_only:
            raise FileNotFoundError("not cached")
        raise RuntimeError("connection\nrefused")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ModelNotFoundError, match=r"owner/model.*connection refused"):
        resolve_model("owner/model")


def test_real_client_without_a_network(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError):
        resolve_model("owner/no-such-model")


def test_list_models_reads_cards(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "_cached_folders", list)
    card = "---\nlanguage: [eng, spa]\nlicense: cc-by-4.0\ntasks: asr\n---\n# Small\n"
    folder = make_folder(tmp_path / "shipped" / "small", card)
    make_folder(tmp_path / "shipped" / "bare")
    bare, small = list_models()
    assert (bare.name, bare.languages, bare.license) == ("bare", (), "")
    assert (small.name, small.kind, small.tasks, small.source) == ("small", "owsm_ctc", ("asr",), "shipped")
    assert small.languages == ("eng", "spa")
    assert small.license == "cc-by-4.0"
    assert small.num_bytes == sum(path.stat().st_size for path in folder.iterdir())


BOMB = "---\nx: &a [x, x, x, x, x, x, x, x, x]\n"
BOMB += "".join(f"x{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi"))
BOMB += "language: *i\n---\n"


@pytest.mark.parametrize(
    "card", ["", "# no front matter", "---\n: [\n---\n", "---\n- a list\n---\n", "---\nunclosed: 1", BOMB]
)
def test_malformed_cards_are_empty(tmp_path, card):
    assert read_card(make_folder(tmp_path / "model", card)) == {}


def test_cards_hold_scalars_and_short_lists(tmp_path):
    card = (
        "---\nlicense: mit\nlanguage: [en, de]\nmodel-index: {a: [1]}\nlists: [[1]]\nlong: ["
        + "1, " * 1001
        + "]\n---\n"
    )
    assert read_card(make_folder(tmp_path / "model", card)) == {"license": "mit", "language": ["en", "de"]}


def test_card_never_builds_objects(tmp_path):
    folder = make_folder(tmp_path / "model", "---\nlicense: !!python/object/apply:os.system ['true']\n---\n")
    assert read_card(folder) == {}


def test_version_is_that_of_the_package():
    text = (Path(hub.__file__).parents[1] / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.*)"$', text, flags=re.MULTILINE)[1] == speechnar.__version__


def test_every_public_name_resolves():
    for name in speechnar.__all__:
        assert getattr(speechnar, name).__name__ == name
    with pytest.raises(AttributeError):
        speechnar.no_such_name  # noqa: B018
