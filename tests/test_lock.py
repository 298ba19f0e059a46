"""The file of exact versions is one of what pyproject.toml asks for: names and versions, nothing else."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = [Requirement(line) for line in (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_the_lock_has_one_version_of_everything_that_is_asked_for(python):
    environment = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
    pins = {}
    for pin in PINS:
        if pin.marker is None or pin.marker.evaluate(environment):
            assert canonicalize_name(pin.name) not in pins
            pins[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    extras = PROJECT["optional-dependencies"].values()
    for wanted in map(Requirement, [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]):
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), f"make lock: {wanted}"


def test_the_lock_names_no_addresses():
    assert all(re.fullmatch(r"==[\w.]+", str(pin.specifier)) and pin.url is None for pin in PINS)
