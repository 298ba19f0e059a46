"""What checkpoints of transformers have in common: their weights, names by a table, a recogniser with CTC.

Nothing is executed, and a conversion is strict both ways: a tensor without a counterpart here is an error that names
it, and so is one that is missing.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from torch import Tensor

from speechnar.audio.fbank import build_frontend
from speechnar.config import AnyConfig, Config, parse_config
from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.files import regular
from speechnar.interop.espnet_names import KeyMapping, check_fit, listed
from speechnar.interop.family import CONFIG_FILE, PICKLE_FILE, SAFETENSORS_FILE
from speechnar.interop.files import read_tensors
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.base import read_weights
from speechnar.nn.frontend import build_normalizer
from speechnar.text.tokenizer import Tokenizer

PREPROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"
SAMPLE_RATE = 16000

_NUMBER = re.compile(r"(?<=layers\.)\d+")
_PART = re.compile(r"\[(\d)\]")
_LEAVES = frozenset({"weight", "bias", "running_mean", "running_var", "num_batches_tracked"})


def find_weights(source: Path, names: Sequence[str] = (SAFETENSORS_FILE, PICKLE_FILE)) -> Path:
    """Return the first of ``names`` that is there.

    Raises:
        ModelNotFoundError: none is.
    """
    for name in names:
        if (source / name).is_file():
            return source / name
    raise ModelNotFoundError(f"{source}: need {' or '.join(names)}, in one piece")


def read_state(path: Path) -> Mapping[str, Tensor]:
    """Read a file of weights, safetensors or a pickle of nothing but tensors.

    Raises:
        CheckpointError: it is neither.
    """
    return read_weights(path) if path.suffix == ".safetensors" else read_tensors(path, ())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file holds anything else.
    """
    try:
        values = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: must be JSON ({' '.join(str(error).split())[:200]})") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: must hold an object, got {type(values).__name__}")
    return values


class TransformersOptions(Config):
    """What ``config.json`` says of a network; what it says of training is left out. Defaults are transformers'."""

    model_config = ConfigDict(extra="ignore")


def read_options(source: Path, cls: type[AnyConfig]) -> AnyConfig:
    """Read ``config.json`` as ``cls``.

    Raises:
        CheckpointError: it is no JSON object.
        ConfigError: the network has options that ours has not; all of them are named.
    """
    return parse_config(read_json(source / CONFIG_FILE), cls, source=str(source / CONFIG_FILE))


def check_settings(values: Mapping[str, Any], expected: Mapping[str, object], source: str) -> None:
    """Raise ConfigError where a setting of ``source`` is another one than is expected; one that is absent is none."""
    wrong = [f"{name} must be {x}, got {values[name]!r}" for name, x in expected.items() if values.get(name, x) != x]
    if wrong:
        raise ConfigError(f"{source}: {'; '.join(wrong)}")


def preprocessor_of(source: Path) -> dict[str, Any]:
    """Return the settings of the feature extractor; nothing where no file tells them.

    Raises:
        CheckpointError: a file that should is no JSON object.
        ConfigError: it hears another sample rate.
    """
    values: Any = {}
    if (source / PREPROCESSOR_FILE).is_file():
        values = read_json(source / PREPROCESSOR_FILE)
    elif (source / PROCESSOR_FILE).is_file():  # where transformers 5 keeps them
        values = read_json(source / PROCESSOR_FILE).get("feature_extractor")
    values = values if isinstance(values, dict) else {}
    rate = values.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise ConfigError(f"{source / PREPROCESSOR_FILE}: sampling_rate must be {SAMPLE_RATE}, got {rate!r}")
    return values


def map_names(
    theirs: Mapping[str, Tensor],
    names: Mapping[str, str],
    *,
    source: str,
    prefixes: Sequence[str] = (),
    skipped: Sequence[str] = (),
) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return the tensors under our names, in float32, and what became of each.

    Args:
        theirs: tensors by their names.
        names: their modules and lone tensors by our names; ``*`` is the number behind ``layers.``, ``[i]`` part i of
            a fused tensor.
        source: of the tensors, for messages.
        prefixes: of their names, which count as if they were not there.
        skipped: beginnings of names, without their prefix, that have no counterpart here.

    Raises:
        CheckpointError: naming the tensors that have no counterpart, or parts of a fused tensor that are missing.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    keys: list[KeyMapping] = []
    leftover: list[str] = []
    for key, tensor in theirs.items():
        inner = next((key.removeprefix(prefix) for prefix in prefixes if key.startswith(prefix)), key)
        ours = destination_of(inner, names)
        keys.append(KeyMapping(key, tuple(tensor.shape), ours))
        if ours is not None:
            part = _PART.search(ours)
            parts.setdefault(_PART.sub("", ours), {})[int(part[1]) if part else 0] = _in_our_form(ours, tensor)
        elif not inner.startswith(tuple(skipped)):
            leftover.append(key)
    if leftover:
        raise CheckpointError(f"{source}: {len(leftover)} tensors have no counterpart: {listed(leftover)}")
    torn = [name for name, found in parts.items() if len(found) != (3 if ".qkv." in name else 1)]
    if torn:
        raise CheckpointError(f"{source}: queries, keys or values are missing of {listed(torn)}")
    state = {
        name: torch.cat([found[i] for i in sorted(found)]) if len(found) > 1 else found[0]
        for name, found in parts.items()
    }
    return state, tuple(keys)


def destination_of(key: str, names: Mapping[str, str]) -> str | None:
    """Return our name of their tensor ``key`` by a table as of `map_names`, or None."""
    number = _NUMBER.search(key)
    for pattern in (key, _NUMBER.sub("*", key, count=1)):
        module, _, leaf = pattern.rpartition(".")
        if pattern in names:
            ours = names[pattern]
        elif module in names and leaf in _LEAVES:
            name, bracket, part = names[module].partition("[")
            ours = f"{name}.{leaf}{bracket}{part}"
        else:
            continue
        return ours.replace("*", number[0]) if number else ours
    return None


def _in_our_form(name: str, tensor: Tensor) -> Tensor:
    # A convolution of width 1 is a linear layer.
    if tensor.dim() == 3 and tensor.size(2) == 1 and ".depthwise." not in name:
        tensor = tensor.squeeze(2)
    return tensor.float() if tensor.is_floating_point() else tensor


def build_recogniser(
    config: OwsmCtcConfig, tokenizer: Tokenizer, state: dict[str, Tensor], *, without_bias: Sequence[str], source: str
) -> OwsmCtc:
    """Return a recogniser with the weights ``state``, to which constants of features and absent biases are added.

    Args:
        config: what the weights belong to.
        tokenizer: of its vocabulary.
        state: tensors by our names.
        without_bias: parts of the names of our modules that have no bias in the checkpoint: here it is 0.
        source: of the tensors, for messages.

    Raises:
        CheckpointError: naming what does not fit.
    """
    with torch.device("meta"):  # nothing is allocated before everything is known to fit
        model = OwsmCtc(config, tokenizer)
    for name, expected in model.state_dict().items():
        if name not in state and name.endswith(".bias") and any(part in name for part in without_bias):
            state[name] = torch.zeros(expected.shape)
    frontend = build_frontend(config.frontend)
    normalizer = build_normalizer(config.normalize, frontend.num_features)
    for prefix, module in (("frontend", frontend), ("normalizer", normalizer)):
        state.update({f"{prefix}.{name}": tensor for name, tensor in module.state_dict().items()})
    check_fit(model, state, source=source)
    model.load_state_dict(state, assign=True)
    return model


def unscale_input(state: dict[str, Tensor]) -> None:
    """Take the scale by which our encoder multiplies what it subsampled out of the projection before it."""
    for name in ("encoder.subsampling.proj.weight", "encoder.subsampling.proj.bias"):
        if name in state:
            width = len(state["encoder.subsampling.proj.weight"])
            state[name] = state[name] / math.sqrt(width)
