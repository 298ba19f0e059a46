"""Files that appear whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from speechnar.errors import DataError
from speechnar.files import LEFT_ALONE_S, PREFIX, check_writable, read_bounded, replacing


def test_a_file_takes_the_place_of_the_old_one_when_it_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_fails_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text(f"{1 / 0}")
    with pytest.raises(FileNotFoundError), replacing(path):
        pass
    assert (path.read_text(), list(tmp_path.iterdir())) == ("old", [path])


@pytest.mark.parametrize("name", ["a" * 251 + ".txt", "ж" * 125 + ".txt", "." + "b" * 254])
def test_names_may_be_as_long_as_the_system_lets_them_be(tmp_path, name):
    with replacing(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert (tmp_path / name).read_text() == "whole"


def test_what_killed_programs_left_goes_at_the_next_start(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {f"{PREFIX}{ended.pid}-1.wav": True, f"{PREFIX}{os.getpid()}-2.wav": False, f"{PREFIX}{'9' * 30}-3": True}
    for name in (*names, f"{PREFIX}{ended.pid}-fresh", "a.tmp"):
        (tmp_path / name).write_text("half")
        if not name.endswith("fresh"):
            os.utime(tmp_path / name, (0, 0))
    with replacing(tmp_path / "b.txt") as temporary:
        temporary.write_text("whole")
    assert {name: not (tmp_path / name).exists() for name in names} == names
    assert (tmp_path / "a.tmp").exists()
    assert (tmp_path / f"{PREFIX}{ended.pid}-fresh").exists(), f"younger than {LEFT_ALONE_S} s"


def test_a_folder_is_looked_through_once(tmp_path, monkeypatch):
    """Many results in one folder would else take time by the square of their number."""
    listed = []
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: listed.append(folder) or [])
    for number in range(3):
        with replacing(tmp_path / f"{number}.txt") as temporary:
            temporary.write_text("whole")
    assert listed == [tmp_path]


def test_a_folder_is_tried(tmp_path):
    check_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        check_writable(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        check_writable(tmp_path / "file")
    with pytest.raises(OSError, match="dev"):
        check_writable(tmp_path / "file" / "dev")


def test_reading_is_bounded(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(DataError, match="must hold at most 4 bytes"):
        read_bounded(path, 4)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a folder or a device"):  # it would never end
        read_bounded(tmp_path / "pipe", 5)
