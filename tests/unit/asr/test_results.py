"""Where results lie."""

import os

import pytest

from speechnar.asr.results import ResultPlaces


@pytest.fixture
def around(tmp_path, monkeypatch):
    for name in ("a/x.wav", "b/x.wav", "b/x.mp3", "b/x.txt", "talk.wav", "out/own.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("recording", "result"),
    [
        ("talk.wav", "talk.txt"),
        ("./a/../talk.wav", "talk.txt"),
        ("a/x.wav", "a/x.txt"),
        ("b/x.wav", "b/x.wav.txt"),
        ("b/x.mp3", "b/x.mp3.txt"),
        ("out/own.wav", "own.txt"),
        ("a/none.wav", "a/none.txt"),
        ("none/x.wav", "none/x.txt"),
        ("a/sph.foo", "a/sph.foo.txt"),
        ("a/bare", "a/bare.txt"),
        ("-", "stdin.txt"),
    ],
)
def test_results_lie_as_the_recordings_lie_around_the_folder(around, recording, result):
    expected = around / "out" / result
    assert ResultPlaces("out").of(recording).path("txt") == expected
    if recording != "-":  # it is the same from everywhere, and however it is named
        os.chdir("a")
        assert ResultPlaces(around / "out").of(str(around / recording)).path("txt") == expected
        assert ResultPlaces("../out").of(f"../{recording}").path("txt") == expected


def test_a_folder_far_away_has_the_whole_path(around, tmp_path_factory):
    far = tmp_path_factory.mktemp("far")
    assert ResultPlaces(far).of("a/x.wav").path("txt") == far / around.name / "a/x.txt"
    assert ResultPlaces("/").of("a/x.wav").path("txt") == around / "a/x.txt"


def test_what_lies_inside_stays_there_and_apart(around):
    names = [
        "a/.x.wav",
        "a/..x.wav",
        "a/x\n.wav",
        "a/x_.wav",
        "-rf/x.wav",
        "_rf/x.wav",
        "a/é.wav",
        f"a/{'e' * 250}.wav",
    ]
    places = [ResultPlaces("out").of(name).path("txt") for name in names]
    assert len(set(places)) == len(names)
    for place in places:
        assert place.resolve().is_relative_to(around / "out")
        assert place.name.isprintable()
        assert not any(part.startswith(("-", ".")) for part in place.relative_to(around / "out").parts)
        assert all(len(part.encode()) < 255 for part in place.parts)
