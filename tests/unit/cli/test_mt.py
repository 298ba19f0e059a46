"""The command ``translate`` with text: whole, line by line and while it grows."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from speechnar.cli import main as cli
from speechnar.cli.main import main
from speechnar.models.base import save_model
from speechnar.mt.translator import Translator
from tests.unit.mt.test_translator import CARD, TOKENIZER, make

ROOT = Path(cli.__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(folder, make("fretna_ctc"), TOKENIZER, card=CARD)
    return str(folder)


@pytest.fixture(scope="module")
def translator(model) -> Translator:
    return Translator.load(model, device="cpu")


def translate(model, *argv, stdin=None, monkeypatch=None) -> int:
    if stdin is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    return main(["translate", "-m", model, "-d", "cpu", *argv])


def test_a_text(model, translator, capsys):
    expected = translator.translate("ab cd. Cd a")
    assert translate(model, "--text", "ab cd. Cd a", "--from", "en", "--to", "de") == 0
    out, err = capsys.readouterr()
    assert out == f"{expected.text}\n"
    assert "1 lines in" in err
    assert translate(model, "--text", "ab cd. Cd a", "--json", "-q") == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (json.loads(json.dumps(expected.to_dict())), "")


def test_every_line_of_stdin_has_its_line(model, translator, capsys, monkeypatch):
    lines = ["ab cd", "", "a", " \x00 ", "d b"] * 50 + ["bc"]
    assert translate(model, "--to", "de", stdin="\n".join(lines), monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out.split("\n") == [*(t.text for t in translator.translate(lines)), ""]
    assert translate(model, stdin="", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == ""


def test_what_is_typed_is_answered_line_by_line(model, translator, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

        def __next__(self) -> str:
            seen.append(capsys.readouterr().out)
            return super().__next__()

    seen: list[str] = []
    monkeypatch.setattr(sys, "stdin", Terminal("ab\ncd\n"))
    assert translate(model, "--from", "en") == 0
    assert seen == ["", *(f"{translator.translate(text).text}\n" for text in ("ab", "cd"))]
    assert translate(model) == 2
    assert "say what to translate" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "  \t ", "\x00\x1b\x07"])
def test_nothing_to_translate(model, text, capsys):
    assert translate(model, "--text", text, "-q") == 0
    assert capsys.readouterr() == ("\n", "")
    assert translate(model, "--text", text, "--live", "-q") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow
def test_a_line_of_ten_thousand_words(model, translator, capsys, monkeypatch):
    line = "abc d " * 5000
    expected = translator.translate(line).text
    assert translate(model, stdin=f"{line}\nab", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == f"{expected}\n{translator.translate('ab').text}\n"
    assert translate(model, "--live", "--json", "-q", stdin=line, monkeypatch=monkeypatch) == 0
    rows = [json.loads(row) for row in capsys.readouterr().out.splitlines()]
    finals = [row for row in rows if row["is_final"]]
    assert sum(row["num_read"] for row in finals) == 10_000
    assert " ".join(row["text"] for row in finals) == expected


def test_another_script_and_control_characters(model, translator, capsys, monkeypatch):
    assert translate(model, stdin="Привет\x00 мир\nab\x1b cd", monkeypatch=monkeypatch) == 0
    out, err = capsys.readouterr()
    assert out == f"Привет мир\n{translator.translate('ab cd').text}\n"
    assert "1 of 2 sentences have no letter that model" in err
    assert translate(model, "--live", "-q", stdin="Привет\x00\nмир", monkeypatch=monkeypatch) == 0
    assert capsys.readouterr().out == "\tПривет\nПривет\tмир\nПривет мир\t\n"


def test_bytes_that_are_no_text(model, translator, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab \xff\xfe cd\nab"), encoding="utf-8"))
    assert translate(model) == 0
    assert capsys.readouterr().out == "".join(
        f"{translator.translate(text).text}\n" for text in ("ab \ufffd\ufffd cd", "ab")
    )


def test_a_growing_text(model, translator, capsys, monkeypatch):
    expected = list(translator.live(["ab", "cd a", "", "d"]))
    assert translate(model, "--live", "--to", "de", stdin="ab\ncd a\n\nd", monkeypatch=monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{update.stable}\t{update.unstable}" for update in expected]
    assert translate(model, "--live", "--json", "-q", stdin="ab\ncd a\n\nd\n", monkeypatch=monkeypatch) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, update in zip(rows, expected, strict=True):
        assert (row["stable"], row["unstable"], row["text"]) == (update.stable, update.unstable, update.text)
        assert (row["erased"], row["num_read"], row["is_final"]) == (update.erased, update.num_read, update.is_final)
        assert row["seconds"] > 0
    assert any(row["erased"] for row in rows)
    assert [row["is_final"] for row in rows] == [False, False, True, False, True]
    assert translate(model, "--live", "--json", "--text", "ab cd a") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["num_read"] for row in rows] == [1, 2, 3, 3]
    assert rows[-1]["text"] == translator.translate("ab cd a").text


@pytest.mark.slow
def test_updates_are_written_at_once(model):
    argv = [sys.executable, "-m", "speechnar", "translate", "-m", model, "-d", "cpu", "-q", "--live"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        for line in ("ab\n", "cd\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert "\t" in process.stdout.readline()
        process.stdin.close()
        assert process.stdout.read().count("\n") == 1
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--text", "ab", "--to", "fr"], "translates from eng into deu, got target 'fr'"),
        (["--text", "ab", "--from", "Klingonese"], "language must be"),
        (["--text", "ab", "-f", "srt", "--lm", "x"], "--lm, --format cannot be used with text"),
        (["--text", "ab", "-l", "eng"], "--language cannot be used with text"),
        (["a.wav", "--text", "ab", "--to", "de"], "--text cannot be used with a FILE"),
        (
            ["a.wav", "--from", "en", "--live", "--json", "--to", "de"],
            "--from, --live, --json cannot be used with a FILE",
        ),
        (["a.wav"], "--to LANG"),
    ],
)
def test_mistakes(model, argv, says, capsys):
    assert translate(model, *argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_a_model_that_is_not_there(capsys):
    assert main(["translate", "--text", "ab", "-m", "multi30k-eng-tlh"]) == 2
    assert "'multi30k-eng-tlh' is no folder" in capsys.readouterr().err


def test_a_drawing_says_at_once_what_to_install(capsys, monkeypatch):
    argv = ["mt", "score", "no data", "no log", "--target", "deu"]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([*argv, "--plot", "a.png"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "pip install 'speechnar[eval]'" in err and err.count("\n") == 1
    assert main(argv) == 1  # without one, matplotlib is not missed
    assert "no data" in capsys.readouterr().err
