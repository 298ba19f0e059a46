"""What verbs read from stdin: it may be a terminal, hold what is no text, or be closed."""

import io
import sys

import pytest

from speechnar.cli.main import main
from speechnar.cli.stdin import is_terminal, stdin_bytes, stdin_lines, stdin_text
from speechnar.errors import ConfigError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_come_as_they_are_but_for_what_is_no_text(monkeypatch):
    content = "a\nñ".encode() + b" \xff b\n"
    for read in (stdin_text, lambda: "".join(stdin_lines())):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        assert read() == "a\nñ \ufffd b\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert stdin_bytes().read() == content
    assert not is_terminal()
    monkeypatch.setattr(sys, "stdin", Terminal("a"))
    assert is_terminal()


@pytest.mark.parametrize("read", [stdin_bytes, stdin_text, stdin_lines])
def test_a_closed_stdin_is_named(monkeypatch, read):
    monkeypatch.setattr(sys, "stdin", None)
    assert not is_terminal()
    with pytest.raises(ConfigError, match="stdin is closed; pipe something into it"):
        read()


@pytest.mark.parametrize(
    "argv", [["caption", "-"], ["translate"], ["translate", "--live"], ["synthesize", "-", "-o", "a.wav"]]
)
def test_verbs_say_so_at_once(monkeypatch, capsys, argv):
    monkeypatch.setattr(sys, "stdin", None)
    assert main([*argv, "-m", "no such model"]) == 2
    assert capsys.readouterr().err == "speechnar: stdin is closed; pipe something into it, or name a file\n"
