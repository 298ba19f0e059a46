"""Random weights under the names of other toolkits: ours, named by the tables that interop reads them with."""

import re

import torch

from speechnar.models.asr.owsm_ctc import OwsmCtc

_NUMBER = re.compile(r"(?:(?<=layers\.)|(?<=adapters\.))\d+")


def in_their_layout(model: OwsmCtc, names: dict[str, str], *, convolutions: tuple[str, ...] = ()) -> dict:
    """Return random tensors for all parameters and statistics of ``model`` under their names.

    ``convolutions`` are parts of our names of linear layers that are convolutions of width 1 there.
    """
    generator = torch.Generator().manual_seed(0)
    theirs = {ours: name for name, ours in names.items()}
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(("frontend.", "normalizer.")):
            continue
        number = _NUMBER.search(name)
        pattern = _NUMBER.sub("*", name, count=1)
        module, _, leaf = pattern.rpartition(".")
        value = torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor.clone()
        if name.endswith("running_var"):
            value = value.abs() + 0.5
        if any(part in name for part in convolutions) and leaf == "weight":
            value = value[..., None]
        if f"{module}[0]" in theirs:
            found = {f"{theirs[f'{module}[{i}]']}.{leaf}": part for i, part in enumerate(value.chunk(3))}
        elif pattern in theirs:
            found = {theirs[pattern]: value}
        else:
            found = {f"{theirs[module]}.{leaf}": value}
        state |= {key.replace("*", number[0]) if number else key: part.clone() for key, part in found.items()}
    return state
