"""What goes to stdout and stderr, and in which form."""

import io
import logging
import sys

import pytest

from speechnar.cli.output import (
    complain,
    complain_of,
    configure_logging,
    log,
    one_line,
    put,
    put_json,
    stages_shown,
    with_progress,
)
from speechnar.errors import AudioError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_letters_that_stdout_cannot_show_are_replaced(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    put("naïve 你好\n")
    sys.stdout.flush()
    assert raw.getvalue() == b"na?ve ??\n"


def test_objects_are_lines_of_json(capsys):
    put_json({"text": "naïve\n", "end": None})
    assert capsys.readouterr() == ('{"text": "naïve\\n", "end": null}\n', "")


def test_what_a_terminal_would_obey_is_not_shown(capsys):
    assert one_line("a\r\n\tb  \x1b[31mred\x00 \udcff") == "a b ?[31mred? ?"
    complain("first\nsecond")
    assert capsys.readouterr() == ("", "speechnar: first second\n")


def test_a_file_is_named_once(capsys):
    complain_of("a.wav", AudioError("a.wav: is empty"), debug=False)
    complain_of("a.wav", AudioError("no audio"), debug=False)
    assert capsys.readouterr().err == "speechnar: a.wav: is empty\nspeechnar: a.wav: no audio\n"


def test_tracebacks_are_for_those_who_ask(capsys):
    configure_logging(quiet=True)
    try:
        raise AudioError("no audio")
    except AudioError as error:
        complain_of("a.wav", error, debug=True)
    err = capsys.readouterr().err
    assert err.startswith("speechnar: a.wav: no audio\n")
    assert "Traceback (most recent call last)" in err and err.endswith("AudioError: no audio\n")


@pytest.mark.parametrize("quiet", [False, True])
def test_messages_go_to_stderr(quiet, capsys):
    configure_logging(quiet=quiet)
    configure_logging(quiet=quiet)  # once more does not say everything twice
    log().info("news")
    logging.getLogger("speechnar.asr").warning("beware")
    assert capsys.readouterr() == ("", "beware\n" if quiet else "news\nbeware\n")


def test_several_files_have_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert list(with_progress(iter("abc"), 3)) == ["a", "b", "c"]
    assert "files" in terminal.getvalue()
    assert capsys.readouterr().out == ""
    shown = terminal.getvalue()
    assert list(with_progress(iter("a"), 1)) == ["a"]
    assert terminal.getvalue() == shown  # one file needs none


def test_elsewhere_outcomes_pass_as_they_come(capsys):
    given = iter("abc")
    outcomes = with_progress(given, 3)
    assert next(outcomes) == "a"
    assert next(given) == "b"  # nothing is taken ahead
    assert list(outcomes) == ["c"]
    assert capsys.readouterr() == ("", "")


def test_stages_have_bars_on_a_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with stages_shown() as show:
        assert show is not None
        show("first", 1, 2)
        show("first", 2, 2)
        show("second", 1, 4)
    shown = terminal.getvalue()
    assert "first" in shown and "2/2" in shown
    assert "second" in shown and "1/4" in shown


def test_elsewhere_stages_are_not_shown(capsys):
    with stages_shown() as show:
        assert show is None
    assert capsys.readouterr() == ("", "")
