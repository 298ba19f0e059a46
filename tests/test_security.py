"""The page on security says nothing that no test holds."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "security.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def test_every_test_that_it_names_exists():
    missing = [f"{path}::{name}" for path, name in NAMED if f"def {name}(" not in (TESTS / path).read_text()]
    assert not missing


def test_every_statement_names_one():
    statements = re.split(r"\n(?:- |\n)", PAGE)
    without = [text for text in re.findall(r"^- .*(?:\n  .*)*", PAGE, re.MULTILINE) if "::" not in text]
    assert len(statements) > 20
    assert not without
