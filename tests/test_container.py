"""The Dockerfile says what the package is: its files, extras, port and command; and whose rights the server has."""

import json
import re
from pathlib import Path

import pytest

from speechnar.cli.main import build_parser, parse_arguments

ROOT = Path(__file__).parents[1]
LINES = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8")).splitlines()


def after(instruction: str) -> list[str]:
    return [line.removeprefix(f"{instruction} ") for line in LINES if line.startswith(f"{instruction} ")]


def test_what_is_copied_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sources = [name for line in after("COPY") if not line.startswith("--from") for name in line.split()[:-1]]
    assert "speechnar" in sources
    for name in sources:
        assert (ROOT / name).exists()
        assert f"!{name.split('/')[0]}" in ignored
    assert "*" in ignored


def test_the_extras_exist():
    tomllib = pytest.importorskip("tomllib")  # of Python 3.11
    known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", "\n".join(LINES))
    assert "serve" in extras.split(",")
    assert set(extras.split(",")) <= known.keys()


def test_the_command_is_one_and_its_port_is_shown():
    argv = json.loads(after("CMD")[-1])
    assert json.loads(after("ENTRYPOINT")[0]) == ["speechnar"]
    args = parse_arguments(build_parser(argv), argv)
    assert args.host == "0.0.0.0"
    assert after("EXPOSE") == [str(args.port)]
    assert f":{args.port}/health" in "\n".join(LINES)


def test_the_server_has_no_rights_of_root():
    assert after("USER") == ["10001"]
    last = max(at for at, line in enumerate(LINES) if line.startswith("USER"))
    assert not [line for line in LINES[last:] if line.startswith(("RUN", "COPY", "ADD"))]
