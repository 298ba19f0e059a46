"""Repositories that mean harm: one line each, nothing is executed, nothing is written outside the cache."""

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from speechnar.cli.main import main
from tests.unit import published
from tests.unit.loopback_hub import LoopbackHub
from tests.unit.published import ESPNET_WEIGHTS, EXP, saved

NAME = "mallory/model"
CONFIG = f"{EXP}/config.yaml"


class Exploit:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


def espnet_with(**changes):
    def serve(hub: LoopbackHub, outside: Path) -> None:
        hub.add(NAME, {**published.espnet(), **{name: data(outside) for name, data in changes.items()}})

    return serve


def weights(data: Callable[[Path], bytes]):
    return espnet_with(**{ESPNET_WEIGHTS: data})


def changed_options(change: Callable[[dict], None]):
    def config(outside: Path) -> bytes:
        options = yaml.safe_load(published.espnet()[CONFIG])
        change(options)
        return yaml.safe_dump(options, allow_unicode=True).encode()

    return espnet_with(**{CONFIG: config})


def meta(model_file: object):
    document = {"files": {"s2t_model_file": model_file}, "yaml_files": {"s2t_train_config": CONFIG}}
    return espnet_with(**{"meta.yaml": lambda outside: yaml.safe_dump(document).encode()})


def listed(name: str):
    return espnet_with(**{name: lambda outside: b"stolen"})


def lying(file: str, change: Callable[[bytes], bytes]):
    """The hub lists what it does not give."""

    def serve(hub: LoopbackHub, outside: Path) -> None:
        repo = hub.add(NAME, published.espnet())
        repo.listed[file] = repo.files[file]
        repo.files[file] = change(repo.files[file])

    return serve


def safetensors(data: Callable[[bytes], bytes]):
    def serve(hub: LoopbackHub, outside: Path) -> None:
        files = published.wav2vec2(outside.parent)
        hub.add(NAME, {**files, "model.safetensors": data(files["model.safetensors"])})

    return serve


def with_options(**options: object):
    def serve(hub: LoopbackHub, outside: Path) -> None:
        hub.add(NAME, published.wav2vec2(outside.parent, options=options))

    return serve


def redirected(location: str):
    def serve(hub: LoopbackHub, outside: Path) -> None:
        secret = outside / "secret"
        hub.add(NAME, published.espnet(), redirects={ESPNET_WEIGHTS: location.format(secret=secret)})

    return serve


def only(**files: bytes):
    return lambda hub, outside: hub.add(NAME, {name.replace("__", "."): data for name, data in files.items()})


def other_commit(hub: LoopbackHub, outside: Path) -> None:
    hub.add(NAME, published.espnet(), commit="../../../../stolen")


def linked(hub: LoopbackHub, outside: Path) -> None:
    """What git stores of a symbolic link: a file with the path."""
    hub.add(NAME, {**published.espnet(), CONFIG: f"{outside}/secret".encode()})


def huge_config(hub: LoopbackHub, outside: Path) -> None:
    repo = hub.add(NAME, published.espnet())
    repo.listed[CONFIG] = bytes(65 << 20)


def first_tensor(**changes: torch.Tensor):
    return lambda hub, outside: hub.add(NAME, published.espnet(**changes))


NORM = "encoder.after_norm.weight"
HOSTILE = {
    "pickle with code": (
        weights(lambda outside: saved({"x": Exploit(outside / "ran")})),
        r"tensors only.*it would run \w+\.mkdir",
    ),
    "pickle with code beside tensors": (first_tensor(extra=None), "tensors only|not so: extra"),
    "YAML that builds objects": (
        espnet_with(**{CONFIG: lambda outside: f"!!python/object/apply:os.mkdir [{outside}/ran]".encode()}),
        "plain YAML",
    ),
    "weights named above the folder": (meta("../../secret"), "inside the folder"),
    "weights named absolutely": (meta("/etc/passwd"), "inside the folder"),
    "listed above the folder": (listed("../../../../stolen"), "no checkpoint can hold"),
    "listed with a drive": (listed("C:\\stolen"), "no checkpoint can hold"),
    "commit above the folder": (other_commit, "must name the commit"),
    "symbolic link": (linked, "must hold a mapping"),
    "4 GB header": (safetensors(lambda data: struct.pack("<Q", 4 << 30) + data[8:]), "unreadable weights"),
    "torn header": (safetensors(lambda data: data[:8] + b"}" + data[9:]), "unreadable weights"),
    "half a safetensors file": (safetensors(lambda data: data[: len(data) // 2]), "unreadable weights"),
    "half a pickle": (weights(lambda outside: published.espnet()[ESPNET_WEIGHTS][:9000]), "tensors only"),
    "NaN in the weights": (first_tensor(**{NORM: torch.full((16,), torch.nan)}), "finite numbers"),
    "wrong shapes": (first_tensor(**{NORM: torch.ones(7)}), "another shape"),
    "unknown tensor": (first_tensor(mystery=torch.ones(3)), "no counterpart"),
    "unknown option": (changed_options(lambda options: options["encoder_conf"].update(wormhole=1)), "wormhole"),
    "option of a size that nothing has": (with_options(hidden_size=10**12), "no model can be built"),
    "half a file": (lying(ESPNET_WEIGHTS, lambda data: data[: len(data) // 2]), "should be of size|not what the hub"),
    "more than a file": (lying(ESPNET_WEIGHTS, lambda data: data + bytes(1 << 20)), "longer than"),
    "wrong sha of weights": (lying(ESPNET_WEIGHTS, lambda data: data[:-1] + b"?"), "not what the hub lists"),
    "wrong sha of a small file": (lying("meta.yaml", lambda data: data[:-1] + b" "), "not what the hub lists"),
    "a configuration of 65 MB": (huge_config, "at most"),
    "gated": (lambda hub, outside: hub.add(NAME, published.espnet(), gated=True), "is gated: accept its conditions"),
    "no such repository": (lambda hub, outside: None, "neither here nor on the hub"),
    "redirect to a file": (redirected("file://{secret}"), "does not give"),
    "redirect to nowhere": (redirected("http://127.0.0.1:9/secret"), "does not give"),
    "foreign": (only(config__json=json.dumps({"model_type": "bert"}).encode(), model__safetensors=b"x"), "of none"),
    "empty": (only(), "of none"),
    "code only": (only(config__json=b'{"auto_map": {"AutoModel": "code.X"}}', code__py=b"raise SystemExit"), "of none"),
    "missing weights": (only(config__yaml=b"x: 1", model__pt=b"x"), "need am.mvn"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_one_line_and_no_harm(hub, tmp_path, capsys, monkeypatch, kind):
    serve, message = HOSTILE[kind]
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    monkeypatch.chdir(outside)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    serve(hub, outside)
    before = {path for path in tmp_path.rglob("*") if "hf" not in path.relative_to(tmp_path).parts[:1]}
    assert main(["pull", "-q", NAME]) in (1, 2)
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line.startswith("speechnar:")]
    assert line.startswith(f"speechnar: {NAME}"), line
    assert re.search(message, line), line
    assert out == ""
    assert "secret" not in line.replace("/secret", "")
    assert {path for path in tmp_path.rglob("*") if "hf" not in path.relative_to(tmp_path).parts[:1]} == before
    models = tmp_path / "hf" / "assets" / "speechnar" / "models"
    assert not [path for path in models.glob("*/*") if path.name not in ("download", "mallory--model")], "no model"


def test_a_good_repository_is_pulled_by_the_same_test(hub, tmp_path, capsys):
    hub.add(NAME, published.espnet())
    assert main(["pull", "-q", NAME, "nobody/nothing"]) == 1
    out, err = capsys.readouterr()
    assert Path(out.strip()).name == "model"
    assert "nobody/nothing" in err
