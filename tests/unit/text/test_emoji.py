"""Emoji by name."""

import pytest

from speechnar.text.emoji import name_emoji


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Great job 🎉!", "Great job, party popper!"),
        ("Great job 🎉🎉", "Great job, party popper"),
        ("👍 Done", "thumbs up, Done"),
        ("I ❤️ you", "I, red heart, you"),
        ("Go! 👋🏽 👩\u200d💻", "Go! waving hand, woman personal computer"),
        ("from 🇩🇪.", "from, flag of D-E."),
        ("☑ ✅", "ballot box with check, check mark"),
        ("5 → 6 © x²", "5 → 6 © x²"),
    ],
)
def test_names_stand_between_commas(text, named):
    assert name_emoji(text) == named
