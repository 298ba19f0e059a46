"""What a text is cut into."""

import pytest

from speechnar.text.atoms import atoms_of, lost_letters, strongest


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("At 10:30 on 24.12.2024", ["word", "time", "word", "date"]),
        ("€1.234,56 v2.1 10.0.0.1", ["money", "version", "ip"]),
        ("1.234,56 1.234.567 3.14", ["number", "number", "number"]),
        ("+1 555 123 4567, a@b.org", ["code", "code", "code", "code", "pause", "url"]),
        ("5'10\" --help 6e3 x^2 4x4", ["feet", "flag", "science", "word", "power", "number", "by", "number"]),
        ("what?! (no)", ["word", "pause", "word", "pause"]),
        ("a * b ** 5 * 3", ["word", "word", "number", "symbol", "number"]),
    ],
)
def test_kinds(text, kinds):
    assert [atom.kind for atom in atoms_of(text.split())] == kinds


def test_atoms_know_their_word():
    atoms = atoms_of(["(3km,", "now"])
    assert [(atom.text, atom.word, atom.starts) for atom in atoms] == [
        *((",", 0, True), ("3", 0, False), ("km", 0, False), (",", 0, False), ("now", 1, True)),
    ]


def test_of_several_marks_the_strongest_is_heard():
    assert strongest(",?") == "?" and strongest(",;") == ";" and strongest("") == ""


def test_letters_of_other_scripts_are_lost():
    assert lost_letters("naïve") == lost_letters("π") == lost_letters("🎉5") == ""
    assert lost_letters("hi你好") == "你好" and lost_letters("Привет") == "Привет"
