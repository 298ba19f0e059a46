"""Where fetched models are kept."""

import pytest
from huggingface_hub import constants

from speechnar import store
from speechnar.errors import ModelNotFoundError
from speechnar.store import Address, StoredModel

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    return tmp_path / "assets" / "speechnar" / "models"


def keep(text: str, commit: str) -> Address:
    address = Address.parse(text)
    folder = address.model_folder(commit)
    folder.mkdir(parents=True)
    for name in store.REQUIRED_FILES:
        (folder / name).write_text("12345")
    store.record(address, commit)
    return address


@pytest.mark.parametrize(
    ("text", "repo", "revision"),
    [("a/b", "a/b", None), ("a/b.c-d_e@v1.0", "a/b.c-d_e", "v1.0"), ("a/b@refs/pr/1", "a/b", "refs/pr/1")],
)
def test_addresses(text, repo, revision):
    address = Address.parse(text)
    assert (address.repo, address.revision, str(address)) == (repo, revision, text)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a/b/c",
        "../b",
        "a/..",
        "a/b@../c",
        "a--b/c",
        "a/b--c",
        ".a/b",
        "-a/b",
        "a/b@",
        "a/b@-x",
        "a\n/b",
        "~/b",
        "",
    ],
)
def test_what_is_no_address(text):
    assert Address.parse(text) is None


def test_a_model_is_found_by_every_revision_that_meant_it(root):
    main = keep("owner/name", COMMIT)
    folder = root / "owner--name" / f"{COMMIT}-v1" / "name"
    assert (
        store.find(main)
        == store.find(Address("owner/name", "main"))
        == store.find(Address("owner/name", COMMIT))
        == folder
    )
    branch = Address("owner/name", "refs/pr/1")
    assert store.find(branch) is None
    store.record(branch, COMMIT)
    assert store.find(branch) == folder
    assert store.find(Address("owner/name", OTHER)) is None
    assert store.stored_models() == [StoredModel("owner/name", COMMIT, folder)]


def test_what_is_incomplete_or_of_another_format_is_not_found(root, monkeypatch):
    address = keep("owner/name", COMMIT)
    with monkeypatch.context() as patch:
        patch.setattr(store, "SCHEMA_VERSION", 2)
        assert store.find(address) is None and store.stored_models() == []
    (address.model_folder(COMMIT) / "model.safetensors").unlink()
    assert store.find(address) is None and store.stored_models() == []
    (address.folder / "revisions" / "main").write_bytes(b"../../x")
    assert store.find(address) is None
    (address.folder / "revisions" / "main").write_bytes(b"\xff")
    assert store.find(address) is None


def test_revisions_are_removed_one_by_one_or_together(root):
    address = keep("owner/name", COMMIT)
    keep("owner/name", OTHER)
    (address.folder / "download").mkdir()
    (address.folder / "download" / "x.part").write_text("123")
    with pytest.raises(ModelNotFoundError, match="'owner/name@v9' is not in the cache"):
        store.remove(Address("owner/name", "v9"))
    assert store.remove(Address("owner/name", COMMIT)) == 10
    assert [model.commit for model in store.stored_models()] == [OTHER]
    assert store.remove(address) == 10 + 3 + 40
    assert store.stored_models() == [] and not address.folder.exists()
    with pytest.raises(ModelNotFoundError, match="is not in the cache"):
        store.remove(address)


@pytest.mark.parametrize(("value", "offline"), [("", False), ("0", False), ("1", True), ("true", True), ("YES", True)])
def test_offline_is_what_the_hub_calls_so(monkeypatch, value, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert store.is_offline() is offline
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert store.is_offline()
