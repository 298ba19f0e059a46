"""Awkward inputs: folders, patterns, stdin, runs that were ended, films without sound, headers without sizes."""

import io
import json
import sys
from pathlib import Path

import pytest

from speechnar.asr.clips import ClipDecoder
from speechnar.asr.transcriber import Transcriber
from speechnar.cli.main import main
from tests.unit.tiny import write_speechlike

pytestmark = pytest.mark.usefixtures("loaded_once")


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    """Return a folder with recordings of one name, in which we are."""
    for seed, name in enumerate(("a/x.wav", "b/x.wav", "b/deep/y.wav")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_speechlike(tmp_path / name, 1.0 + seed / 2, seed=seed)
    (tmp_path / "b/notes.txt").write_text("no sound")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.*"))}


def test_folders_and_patterns_are_the_recordings_in_them(tree, recognizer, capsys):
    for given in (["."], ["a", "b"], ["**/*.wav"], ["a/x.wav", "b"], ["*/"], [str(tree)]):
        assert main(["transcribe", *given, "-m", recognizer, "-q", "-f", "json"]) == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        names = sorted(str(Path(one["file"]).absolute().relative_to(tree)) for one in found)
        assert names == ["a/x.wav", "b/deep/y.wav", "b/x.wav"]
        for one in found:
            assert one["text"] == Transcriber.load(recognizer).transcribe(one["file"]).text
    assert main(["transcribe", "a", "-m", recognizer, "-q"]) == 0
    assert capsys.readouterr().out.startswith("a/x.wav: ")
    assert main(["detect-language", "b", "-m", recognizer]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == ["b/x.wav", "b/deep/y.wav"]
    assert main(["translate", "b", "-m", recognizer, "--to", "de", "-q", "-o", "out"]) == 0
    assert list(results(tree / "out")) == ["b/deep/y.txt", "b/x.txt"]


def test_what_holds_nothing_is_named_and_the_rest_done(tree, recognizer, capsys):
    (tree / "empty").mkdir()
    assert main(["transcribe", "empty", "*.ogg", "a", "-m", recognizer, "-q"]) == 1
    out, err = capsys.readouterr()
    assert out.startswith("a/x.wav: ")
    assert [line.split(" ")[1] for line in err.splitlines()] == ["empty:", "*.ogg:"]
    for verb in ("transcribe", "detect-language"):
        assert main([verb, "empty", "-m", "no model is needed"]) == 1


def test_names_of_results_depend_on_the_path_alone(tree, recognizer):
    argv = ["-m", recognizer, "-q", "-o", str(tree / "out")]
    assert main(["transcribe", "a/x.wav", "b/x.wav", *argv]) == 0
    first = results(tree / "out")
    assert list(first) == ["a/x.txt", "b/x.txt"]
    for given, written in (
        (["b/x.wav"], ["b/x.txt"]),
        ([str(tree / "b/x.wav"), "a/x.wav"], ["a/x.txt", "b/x.txt"]),
        (["b/../a"], ["a/x.txt"]),
        (["?/x.wav"], ["a/x.txt", "b/x.txt"]),
    ):
        for name in first:
            (tree / "out" / name).write_text("old")
        assert main(["transcribe", *given, *argv]) == 0
        assert results(tree / "out") == {name: text if name in written else "old" for name, text in first.items()}


def test_two_recordings_for_one_place_are_refused(tree, recognizer, capsys):
    for name in ("x.foo", "x.foo.wav"):
        write_speechlike(tree / "x.wav", 1.0).rename(tree / name)
    assert main(["transcribe", "x.foo", "x.foo.wav", "-m", recognizer, "-o", "out"]) == 2
    assert "x.foo and x.foo.wav would both be written to" in capsys.readouterr().err


def test_a_run_that_was_ended_goes_on_where_it_was(tree, recognizer, monkeypatch, capsys):
    for number in range(40):
        (tree / f"a/{number}.wav").symlink_to(tree / "a/x.wav")
    argv = ["transcribe", ".", "-m", recognizer, "-l", "eng", "--batch-seconds", "4", "-o", "out", "--skip-existing"]
    encode = ClipDecoder.encode
    num_encoded = 0

    def interrupt(decoder, clips):
        nonlocal num_encoded
        num_encoded += len(clips)
        if num_encoded > 30:
            raise KeyboardInterrupt
        return encode(decoder, clips)

    with monkeypatch.context() as patched:
        patched.setattr(ClipDecoder, "encode", interrupt)
        assert main(argv) == 130
    done = results(tree / "out")
    assert 0 < len(done) < 43
    num_encoded = -1000
    with monkeypatch.context() as patched:
        patched.setattr(ClipDecoder, "encode", interrupt)
        assert main(argv) == 0
    assert num_encoded + 1000 == 43 - len(done)
    assert results(tree / "out").items() >= done.items()
    assert main([*argv[:-2], "whole"]) == 0
    assert results(tree / "out") == results(tree / "whole")
    capsys.readouterr()
    assert main([*argv[:2], "-m", "no model is needed", *argv[4:]]) == 0
    assert "43 of 43 have their results already" in capsys.readouterr().err
    assert main(["transcribe", "a", "-m", recognizer, "--skip-existing"]) == 2


def test_a_format_that_is_missing_is_written(tree, recognizer):
    argv = ["transcribe", "a", "-m", recognizer, "-q", "-o", "out"]
    assert main([*argv, "-f", "json"]) == 0
    assert main([*argv, "-f", "all", "--skip-existing"]) == 0
    assert len(results(tree / "out")) == 5


@pytest.mark.parametrize("size", [None, 0, 0xFFFFFFFF])
def test_stdin_is_a_recording(tree, recognizer, monkeypatch, capsys, size):
    content = bytearray((tree / "a/x.wav").read_bytes())
    place = content.index(b"data") + 4
    if size is not None:  # as ffmpeg and arecord write to a pipe
        content[place : place + 4] = size.to_bytes(4, "little")

    def pipe(content):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    expected = Transcriber.load(recognizer).transcribe("a/x.wav")
    pipe(content)
    assert main(["transcribe", "-", "-m", recognizer]) == 0
    assert capsys.readouterr().out == expected.to_txt()
    pipe(content)
    assert main(["transcribe", "b/x.wav", "-", "-m", recognizer, "-f", "json", "-q"]) == 0
    assert [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()] == ["b/x.wav", "stdin"]
    pipe(content)
    assert main(["transcribe", "-", "-m", recognizer, "-q", "-o", "out"]) == 0
    assert results(tree / "out") == {"stdin.txt": expected.to_txt()}
    pipe(content)
    assert main(["detect-language", "-", "-m", recognizer]) == 0
    assert capsys.readouterr().out.split()[0] == "und"


def test_stdin_that_is_none_or_wanted_twice(recognizer, wav, monkeypatch, capsys):
    for content in (b"", b"no audio"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        assert main(["transcribe", "-", wav, "-m", recognizer, "-q"]) == 1
        out, err = capsys.readouterr()
        assert out.startswith(wav)
        assert err.startswith("speechnar: stdin: ")
        assert err.count("\n") == 1
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["transcribe", "-", "-m", recognizer]) == 2
    assert main(["transcribe", "-", "-", "-m", recognizer]) == 2
    assert "only once" in capsys.readouterr().err


def test_a_film_without_sound_does_not_end_the_others(tree, recognizer, capsys):
    av = pytest.importorskip("av", reason="speechnar[media] is not installed")
    with av.open(str(tree / "a/film.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for _ in range(10):
            film.mux(stream.encode(av.VideoFrame(16, 16, "yuv420p")))
        film.mux(stream.encode())
    assert main(["transcribe", "a", "b", "-m", recognizer, "-q", "-o", "out"]) == 1
    assert capsys.readouterr().err == "speechnar: a/film.mp4: has no audio stream\n"
    assert list(results(tree / "out")) == ["a/x.txt", "b/deep/y.txt", "b/x.txt"]
