"""Names to folders; nothing here may reach a network."""

import itertools
import json
import os
import re
import socket
from pathlib import Path

import pytest
from huggingface_hub import constants

import speechnar
from speechnar import hub, store
from speechnar.errors import ModelNotFoundError
from speechnar.hub import find_model, list_models, read_card, resolve_model
from speechnar.store import Address


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


@pytest.fixture
def caches(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path


def cached_snapshot(caches: Path, name: str, names=("config.json", "model.safetensors")) -> Path:
    """Write what the hub's client has after it has fetched a repository."""
    repo = caches / "hub" / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("a" * 40)
    return make_folder(repo / "snapshots" / ("a" * 40), names=names)


def test_models_in_both_caches_are_found_without_a_request(caches):
    theirs = cached_snapshot(caches, "owner/theirs")
    address = Address.parse("owner/ours")
    ours = make_folder(address.model_folder("b" * 40))
    store.record(address, "b" * 40)
    assert resolve_model("owner/theirs") == resolve_model(f"owner/theirs@{'a' * 40}") == theirs
    assert resolve_model("owner/ours") == resolve_model(f"owner/ours@{'b' * 40}") == ours
    assert [(info.name, info.folder) for info in list_models()] == [("owner/ours", ours), ("owner/theirs", theirs)]
    assert find_model("owner/theirs@v2") is None and find_model("owner/other") is None


@pytest.mark.parametrize("names", [("config.json",), ("model.safetensors",)])
def test_an_interrupted_download_is_no_model(caches, names):
    cached_snapshot(caches, "owner/model", names)
    assert find_model("owner/model") is None
    with pytest.raises(ModelNotFoundError, match="fetch it by `speechnar pull owner/model`"):
        resolve_model("owner/model")
    assert list_models() == []


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


def test_a_card_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "README.md")
    assert read_card(tmp_path) == {}


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


@pytest.mark.parametrize("name", ["m" * 5000, "m/" * 3000, "o/" + "m" * 300, "nul\0"])
def test_a_name_that_no_file_can_have_is_no_model(name):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model(name)
    assert len(str(caught.value)) < 1000
