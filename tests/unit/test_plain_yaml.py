"""Plain YAML from anybody: what it says, or one error, in bounded memory."""

import tracemalloc

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from speechnar.errors import ConfigError
from speechnar.plain_yaml import MAX_SIZE, parse_yaml

# YAML folds the rarer ends of lines.
TEXTS = st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


def bomb(levels: int) -> str:
    """Return lists of ten times the one before."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@given(VALUES)
def test_what_was_dumped_comes_back(value):
    assert parse_yaml(yaml.safe_dump(value, allow_unicode=True)) == value


def test_a_date_and_an_alias_are_plain():
    assert str(parse_yaml("2026-11-30")) == "2026-11-30"
    assert parse_yaml("a: &a [1, 2]\nb: *a\nc: *a") == {"a": [1, 2], "b": [1, 2], "c": [1, 2]}
    assert parse_yaml("") is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("2026-13-45", "month must be in 1..12"),
        ("!!bool x", "'x'"),
        ("!!int ", "index out of range"),
        ("!!float x", "could not convert"),
        ("!!timestamp x", "groupdict"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("a: [", "expected"),
        ("a: 1\n--- \nb: 2", "expected a single document"),
        ("? {a: 1}\n: 2", "unhashable"),
        ("a: \ud800", "surrogates"),
        ("a: *b", "names nothing"),
        ("&a [*a]", "what it stands in"),
        ("[" * 101 + "]" * 101, "nested more than 100 deep"),
        ("[" * 100_000, "nest"),
        (bomb(9), "aliases are written out"),
        pytest.param("a: 1" + ":1" * 500_000, "numbers", id="base 60"),
        pytest.param("a: !!int '1" + ":1" * 500_000 + "'", "numbers", id="quoted base 60"),
        pytest.param("0x" + "f" * 100_000, "numbers", id="too long to be printed"),
        pytest.param("\n".join(f"{n * (2**61 - 1)}: 1" for n in range(1, 30_000)), "numbers", id="keys of one hash"),
        pytest.param("[" + "1," * 1_000_000 + "1]", "written out", id="a long list"),
        ("a: &a " + "x" * 4000 + "\nb: [" + ", ".join(["*a"] * 5000) + "]", "aliases are written out"),
    ],
)
def test_all_else_is_one_error(text, reason):
    with pytest.raises(ConfigError, match=reason):
        parse_yaml(text)


def test_a_bomb_takes_no_memory():
    tracemalloc.start()
    with pytest.raises(ConfigError):
        parse_yaml(bomb(60))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_SIZE


@given(st.text(alphabet="!&*[]{}:,-?|>'\"%@ \nabint1.0<"))
@example("!!int 1__2:")
@example("0o9")
def test_any_text_is_parsed_or_refused(text):
    try:
        parse_yaml(text)
    except ConfigError as error:
        assert "\n" not in str(error)
