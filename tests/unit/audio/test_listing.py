"""What users name, and the recordings that are meant."""

import os
from pathlib import Path

import pytest

from speechnar.audio.listing import STDIN, is_recording, list_recordings


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    for name in ("a/x.wav", "a/b/y.MP3", "a/b/notes.txt", "a/.hidden/z.wav", "a/.z.wav", "c/x.wav", "c/film.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["a"], ["a/x.wav", "a/b/y.MP3"]),
        (["a/"], ["a/x.wav", "a/b/y.MP3"]),
        (["."], ["./a/x.wav", "./a/b/y.MP3", "./c/film.mp4", "./c/x.wav"]),
        ([Path("c"), "a/x.wav"], ["c/film.mp4", "c/x.wav", "a/x.wav"]),
        (["*/x.wav"], ["a/x.wav", "c/x.wav"]),
        (["**/*.wav"], ["a/x.wav", "c/x.wav"]),
        (["a/**"], ["a/x.wav", "a/b/y.MP3"]),
        (["a/*"], ["a/b/y.MP3", "a/x.wav"]),
        (["a/b/*.t?t"], ["a/b/notes.txt"]),
        (["[ac]/x.wav"], ["a/x.wav", "c/x.wav"]),
        ([STDIN, "no/such.wav", "a/b/notes.txt"], [STDIN, "no/such.wav", "a/b/notes.txt"]),
        (["a/x.wav", "a/x.wav"], ["a/x.wav"] * 2),
        (["a/x.wav", "a", "./a", "a/**"], ["a/x.wav", "a/b/y.MP3"]),
        (["a\0b"], ["a\0b"]),
    ],
)
def test_what_is_found(tree, given, found):
    listing = list_recordings(given)
    assert list(listing.recordings) == found
    assert not listing.faults


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("empty", "empty: is a folder without recordings"),
        ("*.flac", "*.flac: does not exist, and as a pattern"),
        ("*\0", "as a pattern it finds no recordings"),
    ],
)
def test_what_holds_none_is_named_and_the_rest_found(tree, given, says):
    listing = list_recordings([given, "c/x.wav"])
    assert listing.recordings == ("c/x.wav",)
    (fault,) = listing.faults
    assert says in str(fault)


def test_a_name_that_looks_like_a_pattern_is_a_name_if_it_is_there(tree):
    (tree / "take[1].wav").touch()
    assert list_recordings(["take[1].wav"]).recordings == ("take[1].wav",)


def test_links_are_followed_and_never_in_circles(tree):
    (tree / "c/up").symlink_to(tree / "c")
    (tree / "c/other").symlink_to(tree / "a")
    (tree / "c/lost.wav").symlink_to(tree / "gone.wav")
    assert list_recordings(["c"]).recordings == (
        "c/film.mp4", "c/lost.wav", "c/x.wav", "c/other/x.wav", "c/other/b/y.MP3",
    )  # fmt: skip


def test_what_cannot_be_looked_into_is_named(tree, monkeypatch):
    scan = os.scandir

    def refuse(path):
        if os.fspath(path).endswith("b"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_recordings(["a"])
    assert listing.recordings == ("a/x.wav",)
    assert [str(fault) for fault in listing.faults] == ["a/b: cannot be listed (Permission denied)"]


def test_recordings_are_told_by_their_suffix():
    assert is_recording("A.WAV")
    assert is_recording("dir.x/film.mkv")
    assert not any(map(is_recording, ("wav", ".wav", "a.wav.txt", "a.json")))
