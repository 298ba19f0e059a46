"""Plain YAML from anybody: what it says as mappings, lists and scalars, in bounded memory, or one error.

Nothing is built but these. An alias stands for what it names without taking room, until somebody prints it or walks
through it: what a text says with all aliases written out is bounded, so that nine nested ones are not a billion items.
"""

import re
from typing import Any

import yaml

from speechnar.errors import ConfigError

MAX_SIZE = 1 << 22
"""Characters of scalars, and `ITEM_SIZE` for each item, with every alias written out."""
ITEM_SIZE = 8
MAX_DEPTH = 100
MAX_LONG_NUMBERS = 100
"""Integers from `LONG_DIGITS` digits on, of which one can make as many as one likes that Python's dict confuses."""
LONG_DIGITS = 19
MAX_DIGITS = 1000
"""Of a number; one of base 60, ``1:30:00``, takes time by the square of them."""
_NUMBER = re.compile(r"[-+]?[0-9][-+0-9a-fA-FxXo_:.]*")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times faster, where PyYAML was built with libyaml


def parse_yaml(text: str) -> Any:
    """Return what ``text`` says; nothing is None.

    Raises:
        ConfigError: it is no YAML, has tags beyond YAML's own, values that their tags do not fit (``2026-13-45``,
            ``!!int x``), is nested too deeply, or says too much; the message gives the reason alone.
    """
    try:
        _check_size(text)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    # PyYAML's constructors let through whatever Python says of a scalar that is not what it should be.
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError) as error:
        raise ConfigError(" ".join(str(error).split())[:200] or type(error).__name__) from None
    except RecursionError:
        raise ConfigError("nested too deeply") from None


def _check_size(text: str) -> None:
    """Raise ValueError if the text says too much, from its events alone: nothing is held for them."""
    sizes: dict[str, int] = {}
    begun: list[tuple[str | None, int]] = [(None, 0)]  # every collection around, its anchor and its size so far
    num_long = 0
    for event in yaml.parse(text, Loader=_Loader):
        size, anchor = 0, getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append((anchor, ITEM_SIZE))
            sizes.pop(anchor or "", None)
            if len(begun) > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = begun.pop()
        elif isinstance(event, yaml.ScalarEvent):
            size = ITEM_SIZE + len(event.value)
            if len(event.value) >= LONG_DIGITS and _NUMBER.fullmatch(event.value):
                num_long += 1
                if len(event.value) > MAX_DIGITS or num_long > MAX_LONG_NUMBERS:
                    raise ValueError(
                        f"more than {MAX_LONG_NUMBERS} numbers of {LONG_DIGITS} digits, or one of {MAX_DIGITS}"
                    )
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(f"alias {str(anchor)[:60]!r} names nothing, or what it stands in")
            size = sizes[anchor]
        if anchor:
            sizes[anchor] = size
        begun[-1] = (begun[-1][0], begun[-1][1] + size)
        if begun[-1][1] > MAX_SIZE:
            raise ValueError(f"says more than {MAX_SIZE:,} characters once its aliases are written out")
