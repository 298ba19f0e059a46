"""Foreign files are data: nothing in them runs, and none outside their folder is read."""

import pickle
from pathlib import Path

import pytest
import torch

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.hub import read_card
from speechnar.interop.espnet_names import KeyMapping
from speechnar.interop.files import ConversionReport, card_of, existing, is_below, read_tensors, read_yaml
from tests.unit.test_plain_yaml import bomb


@pytest.mark.parametrize("name", ["a", "a/b.pth", "./a", "a b", "..a/b"])
def test_names_below(name):
    assert is_below(name)


@pytest.mark.parametrize("name", ["", "..", "../a", "a/../../b", "/a", "C:a", "C:\\a", "a\\..\\..\\b", "\\\\host\\a"])
def test_names_elsewhere(name):
    assert not is_below(name)


def test_a_file_exists_below_its_folder(tmp_path):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret").touch()
    (folder / "sub" / "a").touch()
    (folder / "link").symlink_to(tmp_path / "secret")
    assert existing(folder, "sub/a") == folder / "sub" / "a"
    assert existing(folder, "link") == folder / "link"  # as in the cache of a hub
    for name in ("../secret", str(tmp_path / "secret"), 3, None):
        with pytest.raises(CheckpointError, match="files must lie inside the folder"):
            existing(folder, name)
    for name in ("none", "sub"):
        with pytest.raises(ModelNotFoundError, match=f"{name} is missing"):
            existing(folder, name)


def test_yaml_and_json_are_mappings(tmp_path):
    (tmp_path / "a").write_text("x: [1, é]\n", encoding="utf-8")
    assert read_yaml(tmp_path / "a") == {"x": [1, "é"]}
    (tmp_path / "a").write_text('{"x": {"y": null}}', encoding="utf-8")
    assert read_yaml(tmp_path / "a") == {"x": {"y": None}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1", "must hold a mapping, got list"),
        (b"", "must hold a mapping, got NoneType"),
        (b"x: [", "must be plain YAML"),
        (b"\xff\xfe\x00", "must be plain YAML"),
        (b"x: !!python/object/apply:os.mkdir [ran]", "must be plain YAML"),
        (bomb(60).encode(), "must be plain YAML"),
    ],
)
def test_other_yaml_is_refused(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        read_yaml(tmp_path / "a")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_tensors_may_lie_under_a_key(tmp_path, wrapper):
    tensors = {"a.weight": torch.arange(3.0), "b": torch.tensor(2)}
    torch.save(tensors if wrapper is None else {wrapper: tensors, "epoch": 3}, tmp_path / "a.pth")
    found = read_tensors(tmp_path / "a.pth", ("state_dict", "model"))
    assert {name: value.tolist() for name, value in found.items()} == {"a.weight": [0, 1, 2], "b": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(1), "epoch": 3}, "not so: epoch"),
        ({1: torch.zeros(1)}, "not so: 1"),
        ({}, "must hold a mapping of names to tensors"),
        ([torch.zeros(1)], "must hold a mapping of names to tensors"),
    ],
)
def test_what_is_no_table_of_tensors_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=message):
        read_tensors(tmp_path / "a.pth", ())


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_runs(tmp_path):
    torch.save({"a": Trap(tmp_path / "ran")}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="must be a checkpoint of tensors only"):
        read_tensors(tmp_path / "a.pth", ())
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Trap(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()  # the trap would have worked


def test_a_report_is_a_table():
    keys = (KeyMapping("w", (2, 30), "ours.weight"), KeyMapping("longer", (), None))
    text = str(ConversionReport(Path("out"), 12345, keys))
    assert text.splitlines() == [
        "w       2 x 30  ours.weight",
        "longer  ()      skipped",
        "2 tensors, 12,345 parameters -> out",
    ]


@pytest.mark.parametrize(
    ("theirs", "language", "languages"),
    [
        ("language:\n- en\n- xx-nonsense\n- de", None, ["deu", "eng"]),
        ("language: fr", "abk", ["abk"]),
        ("language: fr", "azj-script_latin", None),
        ("license: mit", None, None),
    ],
)
def test_cards_tell_the_languages_that_are_known(tmp_path, theirs, language, languages):
    (tmp_path / "README.md").write_text(f"---\n{theirs}\n---\n# theirs\n")
    card = card_of(tmp_path, "a toolkit", languages=[language] if language else ())
    (tmp_path / "README.md").write_text(card)
    assert read_card(tmp_path) == {**({"language": languages} if languages else {}), "tasks": ["asr"]}
    assert "Converted from a checkpoint of a toolkit; the licence of the original applies." in card
    assert not card_of(tmp_path / "nowhere", "a toolkit", tasks=()).startswith("---")
