"""YAML to frozen configurations: chains of bases, overrides, and faults that are all named."""

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, PositiveInt

from speechnar.config import MAX_BASES, Config, load_config, merge, parse_config, read_yaml
from speechnar.errors import ConfigError, SpeechnarError


class Step(Config):
    kind: Literal["step"] = "step"
    every: PositiveInt = 1


class Cosine(Config):
    kind: Literal["cosine"] = "cosine"
    floor: float = 0.0


class Run(Config):
    lr: float = Field(default=1e-3, gt=0)
    schedule: Step | Cosine = Field(default=Step(), discriminator="kind")
    names: tuple[str, ...] = ()


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def chain(folder: Path, length: int) -> Path:
    """Write files 1 to ``length``, each of which differs from the one before; return the last."""
    for i in range(1, length + 1):
        base = f"base: {i - 1}.yaml\n" if i > 1 else ""
        (folder / f"{i}.yaml").write_text(f"{base}last: {i}\nkey{i}: {i}\n", encoding="utf-8")
    return folder / f"{length}.yaml"


# Bases.


def test_a_file_differs_from_its_base_and_that_from_its_own(tmp_path):
    (tmp_path / "deep").mkdir()
    write(tmp_path / "deep", root="lr: 1.0\nschedule: {kind: step, every: 2}\nnames: [a]\n")
    write(tmp_path, middle="base: deep/root.yaml\nlr: 2.0\n", top="base: middle.yaml\nnames: [b, c]\n")
    assert read_yaml(tmp_path / "top.yaml") == {
        "lr": 2.0,
        "schedule": {"kind": "step", "every": 2},
        "names": ["b", "c"],
    }


def test_as_many_bases_as_there_may_be(tmp_path):
    values = read_yaml(chain(tmp_path, MAX_BASES))
    assert values == {"last": MAX_BASES, **{f"key{i}": i for i in range(1, MAX_BASES + 1)}}
    with pytest.raises(ConfigError, match=rf"1\.yaml: `base` files must form a chain of at most {MAX_BASES}"):
        read_yaml(chain(tmp_path, MAX_BASES + 1))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_loop_of_bases_is_told_where_it_closes(tmp_path, length):
    """Not where the longest chain ends: a loop of one file says so of this file, whatever path leads to it."""
    for i in range(length):
        (tmp_path / f"{i}.yaml").write_text(f"base: sub/../{(i + 1) % length}.yaml\n", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    with pytest.raises(ConfigError, match="without a loop") as caught:
        read_yaml(tmp_path / "0.yaml")
    # The file that closes the loop is reached once through each of the others, and then by its own path again.
    assert str(caught.value).partition(": `base`")[0] == f"{tmp_path}/{'sub/../' * length}0.yaml"


@pytest.mark.parametrize(
    ("value", "kind"), [("[a.yaml]", "list"), ("{a: b}", "dict"), ("3", "int"), ("true", "bool"), ("1.5", "float")]
)
def test_a_base_is_a_file_name(tmp_path, value, kind):
    write(tmp_path, a="", top=f"base: {value}\n")
    with pytest.raises(ConfigError, match=rf"top\.yaml: base must be a file name, got {kind}"):
        read_yaml(tmp_path / "top.yaml")


def test_no_base_and_an_empty_file(tmp_path):
    write(tmp_path, none="base:\nlr: 1.0\n", empty="")
    assert read_yaml(tmp_path / "none.yaml") == {"lr": 1.0}
    assert read_yaml(tmp_path / "empty.yaml") == {}
    assert load_config(tmp_path / "empty.yaml", Run) == Run()


def test_a_mapping_of_another_kind_replaces_the_old_one():
    old = {"schedule": {"kind": "step", "every": 2}, "lr": 1.0}
    assert merge(old, {"schedule": {"every": 3}})["schedule"] == {"kind": "step", "every": 3}
    assert merge(old, {"schedule": {"kind": "step"}})["schedule"] == {"kind": "step", "every": 2}
    assert merge(old, {"schedule": {"kind": "cosine"}})["schedule"] == {"kind": "cosine"}
    assert merge(old, {"schedule": None}) == {"schedule": None, "lr": 1.0}
    assert merge({"lr": 1.0}, {"lr": {"a": 1}}) == {"lr": {"a": 1}}
    assert old == {"schedule": {"kind": "step", "every": 2}, "lr": 1.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n", "must hold a mapping with string keys, got list"),
        ("1: a\n", "must hold a mapping with string keys, got dict"),
        ("a: !!python/object/apply:os.getcwd []\n", "must be plain YAML without tags"),
        ("a: [\n", "must be plain YAML without tags"),
    ],
)
def test_what_is_no_mapping_is_refused(tmp_path, text, message):
    write(tmp_path, bad=text)
    with pytest.raises(ConfigError, match=rf"bad\.yaml: {message}"):
        read_yaml(tmp_path / "bad.yaml")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file or directory\)"):
        read_yaml(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("a: é\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: must be plain YAML"):
        read_yaml(tmp_path / "latin.yaml")


# Overrides.


def test_overrides_are_yaml_and_come_last(tmp_path):
    write(tmp_path, run="lr: 1.0\nschedule: {kind: cosine, floor: 0.5}\n")
    changes = ["lr=2", "schedule.floor=0.25", "names=[x, y]", "lr=3e-1"]
    assert load_config(tmp_path / "run.yaml", Run, changes) == Run(
        lr=0.3, schedule=Cosine(floor=0.25), names=("x", "y")
    )
    # A path through what is no mapping makes one.
    assert load_config(write(tmp_path, bare="{}") / "bare.yaml", Run, ["schedule.kind=cosine"]).schedule == Cosine()


@pytest.mark.parametrize("override", ["lr", "=1", "schedule..every=2", ".lr=1", "lr.=1"])
def test_an_override_is_a_path_and_a_value(tmp_path, override):
    write(tmp_path, run="")
    with pytest.raises(ConfigError, match=r"override must look like key\.path=value, got '"):
        load_config(tmp_path / "run.yaml", Run, [override])


def test_the_value_of_an_override_is_yaml(tmp_path):
    write(tmp_path, run="")
    with pytest.raises(ConfigError, match=r"override lr: the value must be plain YAML, got '\['"):
        load_config(tmp_path / "run.yaml", Run, ["lr=["])


# Faults.


def test_every_fault_is_named_at_once_and_so_is_the_source():
    values = {"lr": -1, "schedul": {}, "schedule": {"kind": "step", "evry": 1, "every": 0}}
    with pytest.raises(ConfigError) as caught:
        parse_config(values, Run, source="run.yaml")
    message = str(caught.value)
    assert message.startswith("run.yaml: ")
    assert "lr: Input should be greater than 0 (got -1)" in message
    assert "schedul: unknown key, did you mean schedule?" in message
    assert "schedule.step.evry: unknown key, did you mean every?" in message
    assert "schedule.step.every: Input should be greater than 0 (got 0)" in message
    assert "\n" not in message
    assert isinstance(caught.value, SpeechnarError)
    assert isinstance(caught.value, ValueError)


def test_a_missing_value_and_a_strange_key():
    class Needy(Config):
        path: str

    with pytest.raises(ConfigError, match=r"config: path: required; zzzz: unknown key$"):
        parse_config({"zzzz": 1}, Needy)


def test_a_configuration_does_not_change_and_knows_no_infinity():
    with pytest.raises(ValueError, match="frozen"):
        Run().lr = 2.0
    for value in ("inf", "nan"):
        with pytest.raises(ConfigError, match="lr: Input should be a finite number"):
            parse_config({"lr": float(value)}, Run)
