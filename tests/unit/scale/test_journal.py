"""What is journalled stays, whatever else happens."""

import json
import os

import pytest

from speechnar.errors import ConfigError, DataError
from speechnar.scale.journal import FAILURES, JOURNAL, RUN, SAME_SOUND, Journal
from speechnar.scale.units import Outcome, UnitReport

DONE = UnitReport(
    "u1", (Outcome("a", 1.5, "d1"), Outcome("b", 2.0, "d1"), Outcome("c", 1.0, "d2", reason="silent")), "p"
)
FAILED = UnitReport("u2", (Outcome("d", kind="unreadable", reason="ü \udcff"),))


def filled(folder):
    with Journal(folder, {"model": "m"}) as journal:
        journal.add(DONE)
        journal.add(FAILED)
    return folder


def test_it_is_read_back(tmp_path):
    with Journal(filled(tmp_path), {"model": "m"}) as journal:
        assert journal.outcomes == {outcome.utt_id: outcome for outcome in (*DONE.outcomes, *FAILED.outcomes)}
        assert journal.parts == {"p"}
        report = journal.finish(5, wall_s=1.0, done_before=1)
    assert (report.listed, report.done, report.done_now, report.failed) == (5, 3, 2, {"unreadable": 1})
    assert report.odd == {"silent": 1, SAME_SOUND: 1}
    assert report.audio_s == 4.5
    assert "3 of 5 done (2 now)" in str(report)
    (line,) = (tmp_path / FAILURES).read_bytes().splitlines()
    assert json.loads(line.decode("utf-8", "surrogatepass"))["utt_id"] == "d"


def test_every_torn_end_is_cut_off(tmp_path):
    whole = (filled(tmp_path) / JOURNAL).read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(first, len(whole)):
        (tmp_path / JOURNAL).write_bytes(whole[:end])
        with Journal(tmp_path, {"model": "m"}) as journal:
            assert set(journal.outcomes) == {"a", "b", "c"}
        assert (tmp_path / JOURNAL).read_bytes() == whole[:first]


def test_failures_may_be_tried_again(tmp_path):
    with Journal(filled(tmp_path), {"model": "m"}) as journal:
        assert journal.forget({"given up"}) == 0
        assert journal.forget() == 1
        journal.add(UnitReport("u3", (Outcome("d", 1.0),)))
    with Journal(tmp_path, {"model": "m"}) as journal:
        assert journal.outcomes["d"].kind is None


def test_another_request_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="model was 'm', is 'n'"), Journal(filled(tmp_path), {"model": "n"}):
        pass
    with Journal(tmp_path, {"model": "m"}):  # the lock is gone with what was refused
        pass


def test_one_program_at_a_time(tmp_path):
    with Journal(tmp_path, {}), pytest.raises(ConfigError, match="another process"), Journal(tmp_path, {}):
        pass


@pytest.mark.parametrize(
    "line",
    [
        "{}",
        pytest.param("[" * 100_000, id="deep"),
        '{"unit": "u", "part": ["p"], "outcomes": []}',
        '{"unit": "u", "part": null, "outcomes": [[["a"]]]}',
        '{"unit": "u", "part": null, "outcomes": [["a", "long"]]}',
        '{"unit": "u", "part": null, "outcomes": [["a", 1.0, null, ["kind"]]]}',
        '{"unit": "u", "part": null, "outcomes": [["a", 1.0, null, null, {}]]}',
        '{"unit": "u", "part": null, "outcomes": [[5, 1.0]]}',
    ],
)
def test_lines_of_others_are_told(tmp_path, line):
    (filled(tmp_path) / JOURNAL).write_text(f"{line}\n")
    with pytest.raises(DataError, match=":1: is no line"), Journal(tmp_path, {"model": "m"}):
        pass


def test_a_request_of_others_is_told(tmp_path):
    for content in ("[]", "[" * 100_000):
        (tmp_path / RUN).write_text(content)
        with pytest.raises(DataError, match=r"run\.json: cannot be read"), Journal(tmp_path, {"model": "m"}):
            pass


def test_a_full_disk_leaves_no_half_line(tmp_path, monkeypatch):
    real = os.write
    with Journal(filled(tmp_path), {"model": "m"}) as journal:
        before = (tmp_path / JOURNAL).read_bytes()

        def full(file, content):
            real(file, content[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            journal.add(UnitReport("u3", (Outcome("e", 1.0),)))
        assert "e" not in journal.outcomes
    assert (tmp_path / JOURNAL).read_bytes() == before
