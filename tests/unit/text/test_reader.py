"""What a reader says for a piece depends on what is beside it."""

import pytest

from speechnar.text.reader import Reader


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("$5 million", [["five"], ["million", "dollars"]]),
        ("$5–10 now", [["five", "to", "ten", "dollars"], ["now"]]),
        ("29,99 €", [["twenty-nine"], ["euros", "and", "ninety-nine", "cents"]]),
        ("EUR 5", [[], ["five", "euros"]]),
        ("€ 5", [[], ["five", "euros"]]),
        ("$5/month", [["five", "dollars", "per", "month"]]),
        ("Mon–Fri 9:00", [["Monday", "to", "Friday"], ["nine", "o'clock"]]),
        ("10 – 12", [["ten"], ["to"], ["twelve"]]),
        ("3 May", [["the", "third", "of"], ["May"]]),
        ("*a* ~ b", [["a"], [], ["b"]]),
    ],
)
def test_each_word_has_its_part(text, parts):
    assert Reader(text).read() == parts
