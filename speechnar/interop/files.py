"""Foreign checkpoints as data: nothing in them is executed, and no file outside their folder is read."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor, nn

from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.files import regular
from speechnar.hub import card_languages, read_card
from speechnar.interop.espnet_names import KeyMapping, check_fit, listed
from speechnar.models.base import save_model
from speechnar.pickled import load_pickled
from speechnar.plain_yaml import parse_yaml
from speechnar.text.languages import to_iso3
from speechnar.text.tokenizer import Tokenizer

AnyModule = TypeVar("AnyModule", bound=nn.Module)
_CODE = re.compile(r"GLOBAL ([\w.]+)")


@dataclass(frozen=True)
class ConversionReport:
    """What was converted; its text is a table of every tensor."""

    destination: Path
    num_parameters: int
    keys: tuple[KeyMapping, ...]

    def __str__(self) -> str:
        rows = [
            (key.source, " x ".join(map(str, key.shape)) or "()", key.destination or "skipped") for key in self.keys
        ]
        widths = [max(len(row[column]) for row in rows) for column in range(2)]
        lines = [f"{source:<{widths[0]}}  {shape:<{widths[1]}}  {name}" for source, shape, name in rows]
        return "\n".join([*lines, f"{len(rows)} tensors, {self.num_parameters:,} parameters -> {self.destination}"])


def with_weights(make: Callable[[], AnyModule], state: Mapping[str, Tensor], *, source: str) -> AnyModule:
    """Return the model that ``make`` builds, with the weights ``state``; ``source`` is theirs, for messages.

    Raises:
        CheckpointError: naming what does not fit; nothing was allocated.
    """
    with torch.device("meta"):
        model = make()
    check_fit(model, state, source=source)
    model.load_state_dict(state, assign=True)
    return model


def save_converted(
    destination: Path,
    model: nn.Module,
    tokenizer: Tokenizer,
    keys: tuple[KeyMapping, ...],
    *,
    card: str,
    dtype: torch.dtype | None = None,
) -> ConversionReport:
    """Write a model folder as `speechnar.models.base.save_model` does, and return what became of the tensors."""
    save_model(destination, model, tokenizer, card=card, dtype=dtype)
    return ConversionReport(destination, sum(parameter.numel() for parameter in model.parameters()), keys)


def card_of(source: Path, toolkit: str, *, languages: Sequence[str] = (), tasks: Sequence[str] = ("asr",)) -> str:
    """Return the model card of what was converted.

    Args:
        source: the checkpoint's folder.
        toolkit: what it is a checkpoint of.
        languages: of the speech; if none, those that the card beside it tells. One without a code of ours is left out.
        tasks: what the model does.
    """
    codes = languages or card_languages(read_card(source))
    header = {"language": sorted(filter(None, {_known(code) for code in codes})), "tasks": list(tasks)}
    front = yaml.safe_dump({k: v for k, v in header.items() if v}, default_flow_style=None, sort_keys=False, width=1000)
    matter = f"---\n{front}---\n" if any(header.values()) else ""
    name = source.resolve().name
    return f"{matter}# {name}\n\nConverted from a checkpoint of {toolkit}; the licence of the original applies.\n"


def _known(code: str) -> str | None:
    try:
        return to_iso3(code)
    except ConfigError:
        return None


def existing(source: Path, name: object) -> Path:
    """Return ``source / name``, which must exist and be written as a path below ``source``.

    Links are followed: a hub's snapshot consists of links into the hub's cache.

    Raises:
        CheckpointError: ``name`` points outside the folder.
        ModelNotFoundError: there is no such file.
    """
    if not isinstance(name, str) or not is_below(name):
        raise CheckpointError(f"{source}: files must lie inside the folder, got {str(name)[:200]!r}")
    if not (source / name).is_file():
        raise ModelNotFoundError(f"{source}: {name[:200]} is missing")
    return source / name


def is_below(name: str) -> bool:
    """Tell whether a relative path stays below where it starts."""
    path = PureWindowsPath(name)  # knows both kinds of separators, and drives
    return bool(path.parts) and not path.anchor and ".." not in path.parts


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping from YAML, or from JSON, which is YAML.

    Raises:
        CheckpointError: the file holds anything else.
    """
    try:
        values = parse_yaml(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: must be plain YAML ({error})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must hold a mapping, got {type(values).__name__}")
    return values


def why_refused(error: Exception) -> str:
    """Return the reason for which torch does not load a checkpoint, without its advice of how to run what is in it."""
    code = _CODE.search(str(error))
    return f"it would run {code[1]}" if code else " ".join(str(error).split())[:200]


def read_tensors(path: Path, wrappers: Sequence[str]) -> Mapping[str, Tensor]:
    """Read a mapping of names to tensors, which may lie under one of the keys ``wrappers``, with torch.

    Raises:
        CheckpointError: the file holds more than tensors; it is refused before anything in it could run.
    """
    try:
        state = load_pickled(path)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        raise CheckpointError(f"{path}: must be a checkpoint of tensors only ({why_refused(error)})") from None
    if isinstance(state, dict):
        state = next((state[key] for key in wrappers if isinstance(state.get(key), dict)), state)
    if not isinstance(state, dict) or not state:
        raise CheckpointError(f"{path}: must hold a mapping of names to tensors")
    strangers = [str(key)[:60] for key, value in state.items() if not (isinstance(key, str) and torch.is_tensor(value))]
    if strangers:
        raise CheckpointError(f"{path}: must hold a mapping of names to tensors; not so: {listed(strangers)}")
    return state
