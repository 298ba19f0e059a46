"""Documents of SSML."""

import pytest

from speechnar.errors import ConfigError
from speechnar.text.blocks import Block
from speechnar.text.ssml import is_ssml, read_ssml


def test_paragraphs_sentences_breaks_and_substitutes():
    text = """<?xml version="1.0"?><speak xmlns="http://www.w3.org/2001/10/synthesis" version="1.1">
      <p><s>One &amp; two</s><s>Three</s></p>
      Hello <break time="500ms"/> <sub alias="World Wide Web">WWW</sub>.</speak>"""
    assert is_ssml(text)
    assert read_ssml(text) == [
        Block("One & two", 0.25),
        Block("Three", 0.5),
        Block("Hello", 0.5, ",", is_break=True),
        Block("World Wide Web.", 0.5),
    ]


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("characters", "Ab1", "A B one"),
        ("telephone", "+49 30", "plus four nine three zero"),
        ("digits", "123", "one two three"),
        ("ordinal", "3", "third"),
        ("date", "24.12.2024", "24.12.2024"),
    ],
)
def test_say_as(kind, text, said):
    (block,) = read_ssml(f'<speak><say-as interpret-as="{kind}">{text}</say-as></speak>')
    assert block.text == said


def test_what_has_no_effect_is_named(caplog):
    (block,) = read_ssml(
        "<speak>go <prosody rate='slow'>slowly <emphasis>now</emphasis></prosody><desc>x</desc></speak>"
    )
    assert block.text == "go slowly now"
    assert "<emphasis>, <prosody> has no effect" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<speak>a & b</speak>", "&amp; for &"),
        ("<speak>", "well-formed"),
        ("<speak>\ud800</speak>", "well-formed"),
        pytest.param("<speak>" + "<p>" * 5000 + "</p>" * 5000 + "</speak>", "at most 100 deep", id="deep"),
        ('<!DOCTYPE x [<!ENTITY y "z">]><speak>&y;</speak>', "document type"),
        ('<speak><break time="x"/></speak>', "got 'x'"),
    ],
)
def test_what_is_not_valid_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        read_ssml(text)


def test_plain_text_is_no_ssml():
    assert not is_ssml("a < b <break/>") and not is_ssml("<speaker>")
