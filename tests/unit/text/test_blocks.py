"""Headings, items, paragraphs and pauses of plain text and Markdown."""

import pytest

from speechnar.errors import ConfigError
from speechnar.text.blocks import HEADING_PAUSE_S, ITEM_PAUSE_S, PARAGRAPH_PAUSE_S, Block, read_blocks, read_break


def read(text):
    return [(block.text, block.pause_s) for block in read_blocks(text)]


def test_a_page_of_markdown():
    page = "# Pancakes\n\nYou need\n- 2 eggs\n* [x] milk\n\nSteps\n-----\n1. Mix.\n2) Bake [well](http://x.org)."
    page += "\n\n---\n> Enjoy\n> them"
    assert read(page) == [
        ("Pancakes", HEADING_PAUSE_S),
        ("You need", 0.25),
        ("2 eggs", ITEM_PAUSE_S),
        ("milk", PARAGRAPH_PAUSE_S),
        ("Steps", HEADING_PAUSE_S),
        ("1: Mix.", ITEM_PAUSE_S),
        ("2: Bake well.", PARAGRAPH_PAUSE_S),
        ("Enjoy them", PARAGRAPH_PAUSE_S),
    ]


def test_a_table_is_read_row_by_row():
    assert [block.text for block in read_blocks("| a | b |\n|---|---|\n| 1 | 2 |")] == ["a | b", "1 | 2"]


def test_lines_end_where_their_end_is_meant():
    mail = "Dear Jo,\nThank you.\nThis line is wrapped because it has become too long for the\nwindow. Best\nI guess."
    mail += "\nAnna"
    assert read(mail) == [
        *(("Dear Jo,", 0.1), ("Thank you.", 0.25)),
        ("This line is wrapped because it has become too long for the window. Best I guess.", 0.25),
        ("Anna", PARAGRAPH_PAUSE_S),
    ]
    assert read("one line\nand the next") == [("one line and the next", PARAGRAPH_PAUSE_S)]


def test_breaks_are_pauses_wherever_they_stand():
    assert read_blocks('<break time="1s"/>Hi<break time="500ms"/><break strength="weak"/> there.<break/>') == [
        Block("", 1.0, "", is_break=True),
        Block("Hi", 0.7, ",", is_break=True),
        Block("there.", 0.4, ",", is_break=True),
    ]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ('time="soon"', "got 'soon'"),
        ('time="11s"', "up to 10s"),
        ('time="-1s"', "got '-1s'"),
        ('strength="big"', "got 'big'"),
    ],
)
def test_a_break_that_says_no_time_is_refused(attributes, message):
    with pytest.raises(ConfigError, match=message):
        read_break(attributes)


def test_times_of_breaks():
    assert [read_break(f"time='{time}'") for time in ("500ms", "1.5s", "+2s", ".5s", "0s")] == [0.5, 1.5, 2.0, 0.5, 0.0]
    assert read_break("") == 0.4
