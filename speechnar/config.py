"""Typed configuration: frozen pydantic models, YAML as a diff, every fault reported at once.

A YAML file holds what differs from the defaults. ``base: other.yaml`` (relative to the file) names a
file it differs from instead. Nothing in YAML names a class or computes a value: alternatives are told
apart by a literal ``kind``. Unknown keys are errors and come with the nearest valid name.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from speechnar.errors import ConfigError
from speechnar.plain_yaml import parse_yaml

MAX_BASES = 8


class Config(BaseModel):
    """Base of every configuration: immutable, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, defer_build=True)


AnyConfig = TypeVar("AnyConfig", bound=Config)


def parse_config(values: Mapping[str, Any], cls: type[AnyConfig], *, source: str = "config") -> AnyConfig:
    """Validate ``values`` as ``cls``.

    Raises:
        ConfigError: naming every wrong key and value at once, as ``source: path.to.key: fault``.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        faults = "; ".join(_describe(fault, cls) for fault in error.errors())
        raise ConfigError(f"{source}: {faults}") from None


def load_config(path: str | Path, cls: type[AnyConfig], overrides: Sequence[str] = ()) -> AnyConfig:
    """Read a YAML diff, apply dotted ``key.path=value`` overrides (values are YAML), and validate it as ``cls``.

    Raises:
        ConfigError: the file is missing, not plain YAML, or holds wrong keys or values (all of them are named).
    """
    values = read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    return parse_config(values, cls, source=str(path))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, merged over the chain of its ``base`` files."""
    return _read_chain(Path(path), seen=())


def _read_chain(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    resolved = path.resolve()
    if resolved in seen or len(seen) >= MAX_BASES:
        raise ConfigError(f"{path}: `base` files must form a chain of at most {MAX_BASES} without a loop")
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # ours, or a UnicodeDecodeError
        raise ConfigError(f"{path}: must be plain YAML without tags ({error})") from None
    if values is None:
        values = {}
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{path}: must hold a mapping with string keys, got {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base must be a file name, got {type(base).__name__}")
    return merge(_read_chain(path.parent / base, (*seen, resolved)), values)


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes`` laid over it, mappings merged key by key.

    A mapping whose ``kind`` changes replaces the old one whole: the old kind's keys would be foreign to the new.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        same_kind = (
            isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("kind") in (None, old.get("kind"))
        )
        merged[key] = merge(old, value) if same_kind else value  # type: ignore[arg-type]  # same_kind implies mappings
    return merged


def _apply_override(values: dict[str, Any], override: str) -> None:
    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"override must look like key.path=value, got {override!r}")
    try:
        value = parse_yaml(text)
    except ConfigError:
        raise ConfigError(f"override {dotted}: the value must be plain YAML, got {text!r}") from None
    *parents, last = dotted.split(".")
    for name in parents:
        child = values.get(name)
        values[name] = dict(child) if isinstance(child, Mapping) else {}
        values = values[name]
    values[last] = value


def _describe(fault: Any, cls: type[BaseModel]) -> str:
    path = ".".join(str(part) for part in fault["loc"]) or "(top)"
    if fault["type"] != "extra_forbidden":
        shown = repr(fault.get("input"))[:60]
        return f"{path}: {fault['msg']} (got {shown})" if fault["type"] != "missing" else f"{path}: required"
    near = difflib.get_close_matches(str(fault["loc"][-1]), _all_keys(cls), n=1)
    return f"{path}: unknown key" + (f", did you mean {near[0]}?" if near else "")


def _all_keys(cls: type[BaseModel]) -> list[str]:
    """Collect the field names of ``cls`` and of the configurations nested in it, for suggestions only."""
    schema = cls.model_json_schema()
    keys = set(schema.get("properties", {}))
    for definition in schema.get("$defs", {}).values():
        keys |= set(definition.get("properties", {}))
    return sorted(keys)
