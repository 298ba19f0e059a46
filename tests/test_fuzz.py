"""A short, fixed run of the fuzzer: nothing is found, and what would be a finding is seen."""

import os
import signal
import time
from pathlib import Path

import pytest

from speechnar.errors import DataError
from tests import fuzz

NUM_CASES = 25


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_nothing_is_found(target):
    found = {seed: what for seed in range(NUM_CASES) if (what := fuzz.run_case(target, seed)) is not None}
    assert not found


def test_originals_are_right_and_cases_are_not_always():
    for target, (originals, parse) in fuzz.TARGETS.items():
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(fuzz, "mutate", lambda content, rng: content)
            patched.setitem(fuzz.TARGETS, target, (originals, lambda folder, parse=parse: [parse(folder)]))
            assert fuzz.run_case(target, 0) is None
    assert len({fuzz.mutate(fuzz.ARPA, fuzz.random.Random(seed)) for seed in range(9)}) == 9


@pytest.mark.parametrize(
    ("does", "says"),
    [
        (lambda folder: 1 / 0, "ZeroDivisionError"),
        (lambda folder: os.system("true"), "os.system"),
        (lambda folder: (folder / "new").write_text(""), "wrote"),
        (lambda folder: Path("/etc/passwd").read_text(), "read /etc/passwd"),
        (lambda folder: pytest.importorskip("socket").create_connection(("127.0.0.1", 9), 0.1), "socket.connect"),
    ],
)
def test_findings_are_seen(monkeypatch, does, says):
    monkeypatch.setitem(fuzz.TARGETS, "card", (fuzz.TARGETS["card"][0], does))
    assert says in fuzz.run_case("card", 0)


def test_errors_of_ours_are_none(monkeypatch):
    def refuse(folder):
        raise DataError("wrong")

    monkeypatch.setitem(fuzz.TARGETS, "card", (fuzz.TARGETS["card"][0], refuse))
    assert fuzz.run_case("card", 0) is None


def test_processes_that_end_or_hang_are_findings(monkeypatch):
    for does, max_s, says in (
        (lambda folder: os.kill(os.getpid(), signal.SIGKILL), 20.0, "ended with status -9"),
        (lambda folder: time.sleep(60), 0.2, "hung for 0.4 s"),
    ):
        monkeypatch.setattr(fuzz, "MAX_S", max_s)
        monkeypatch.setitem(fuzz.TARGETS, "card", (fuzz.TARGETS["card"][0], does))
        seed, what = next(fuzz.fuzz("card", 7, 5))
        assert seed == 7
        assert says in what
