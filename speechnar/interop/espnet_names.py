"""ESPnet's tensors by our names: a table, the fusing of projections, and a check that nothing is left over.

Source: the state dictionaries of ESPnet 202511's ``ESPnetS2TCTCModel`` and ``ESPnetASRModel``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from speechnar.errors import CheckpointError

SHOWN_FAULTS = 20
"""Names listed in one error message; more are counted."""


_PLAIN = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}

_ATTENTION = {
    "linear_q": "qkv[0]",
    "linear_k": "qkv[1]",
    "linear_v": "qkv[2]",
    "linear_out": "out",
    "linear_pos": "pos",
    "pos_bias_u": "content_bias",
    "pos_bias_v": "distance_bias",
}
_CROSS_ATTENTION = {
    "linear_q": "query",
    "linear_k": "key_value[0]",
    "linear_v": "key_value[1]",
    "linear_out": "out",
}


def _under(prefix: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{theirs}": f"{ours}.{name}" for theirs, name in names.items()}


_PROMPT_BLOCK = {
    "norm1": "norm_attention",
    **_under("self_attn", "attention", _ATTENTION),
    "norm2": "ff.0",
    "feed_forward.w_1": "ff.1",
    "feed_forward.w_2": "ff.4",
}
_BLOCK = {
    **_PROMPT_BLOCK,  # Transformer
    # Conformer and E-Branchformer
    "norm_ff_macaron": "ff_macaron.0",
    "feed_forward_macaron.w_1": "ff_macaron.1",
    "feed_forward_macaron.w_2": "ff_macaron.4",
    "norm_ff": "ff.0",
    "norm_mha": "norm_attention",
    "norm_final": "norm_out",
    # Conformer
    "norm_conv": "norm_conv",
    "conv_module.pointwise_conv1": "conv.pointwise_in",
    "conv_module.depthwise_conv": "conv.depthwise",
    "conv_module.norm": "conv.norm",
    "conv_module.pointwise_conv2": "conv.pointwise_out",
    # Branchformer and E-Branchformer
    **_under("attn", "attention", _ATTENTION),
    "norm_mlp": "norm_gating",
    "cgmlp.channel_proj1.0": "gating.proj_in",
    "cgmlp.csgu.norm": "gating.norm",
    "cgmlp.csgu.conv": "gating.depthwise",
    "cgmlp.channel_proj2": "gating.proj_out",
    "depthwise_conv_fusion": "merge_conv",
    "merge_proj": "merge",
    "norm_cross_attn": "prompt_attention.norm",
    **_under("cross_attn", "prompt_attention.attention", _CROSS_ATTENTION),
}
_PROMPT_BLOCK = {
    "norm1": "norm_attention",
    **_under("self_attn", "attention", _ATTENTION),
    "norm2": "ff.0",
    "feed_forward.w_1": "ff.1",
    "feed_forward.w_2": "ff.4",
}
_DECODER_LAYER = {
    "norm1": "norm_attention",
    **_under("self_attn", "attention", _ATTENTION),
    "norm2": "norm_cross",
    **_under("src_attn", "cross_attention", _CROSS_ATTENTION),
    "norm3": "ff.0",
    "feed_forward.w_1": "ff.1",
    "feed_forward.w_2": "ff.4",
}
_HEAD = "decoders.transformer_ar.decoder"
MODULE_NAMES = {
    "frontend.logmel.melmat": "frontend.mel_matrix",
    "normalize.mean": "normalizer.mean",
    "normalize.std": "normalizer.std",
    "encoder.embed.conv.0": "encoder.subsampling.convs.0",
    "encoder.embed.conv.2": "encoder.subsampling.convs.1",
    "encoder.embed.conv.4": "encoder.subsampling.convs.2",
    "encoder.embed.out": "encoder.subsampling.proj",
    "encoder.embed.out.0": "encoder.subsampling.proj",
    **_under("encoder.encoders.*", "encoder.layers.*", _BLOCK),
    "encoder.after_norm": "encoder.norm",
    "encoder.conditioning_layer": "conditioning",
    "embed": "prompt_encoder.embed",
    **_under("prompt_encoder.encoders.*", "prompt_encoder.encoder.layers.*", _PROMPT_BLOCK),
    "prompt_encoder.after_norm": "prompt_encoder.encoder.norm",
    "embed_proj": "prompt_encoder.prefix_proj",
    "prompt_proj": "prompt_encoder.memory_proj",
    "ctc.ctc_lo": "ctc.proj",
    "decoder.embed.0": f"{_HEAD}.embed",
    **_under("decoder.decoders.*", f"{_HEAD}.layers.*", _DECODER_LAYER),
    "decoder.after_norm": f"{_HEAD}.norm",
    "decoder.output_layer": f"{_HEAD}.output",
}
"""ESPnet's modules and lone tensors by our names; ``*`` is a block's number, ``[i]`` part i of a fused tensor."""

_BLOCK_NUMBER = re.compile(r"(?<=\.(?:en|de)coders\.)\d+(?=\.)")
_PART = re.compile(r"\[(\d)\]")
_DECODERS = ("decoder.", "joint_network.")


@dataclass(frozen=True)
class KeyMapping:
    """Where one tensor went."""

    source: str
    shape: tuple[int, ...]
    destination: str | None
    """Our name, with ``[i]`` where it became part i of a fused tensor; None: skipped."""


def destination_of(key: str) -> str | None:
    """Return our name of ESPnet's tensor ``key``, with ``[i]`` where it is part i of ours, or None."""
    number = _BLOCK_NUMBER.search(key)
    pattern = _BLOCK_NUMBER.sub("*", key, count=1)
    module, _, leaf = pattern.rpartition(".")
    if pattern in MODULE_NAMES:
        ours = MODULE_NAMES[pattern]
    elif leaf in _PLAIN and module in MODULE_NAMES:
        ours = f"{MODULE_NAMES[module]}.{leaf}"
    else:
        return None
    return ours.replace("*", number[0]) if number else ours


def map_state(
    state: Mapping[str, Tensor], *, source: str = "checkpoint", skip_decoder: bool = False, trunk: str = ""
) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return the tensors of an ESPnet model under our names and in our shapes, and what became of each.

    Args:
        state: ESPnet's names and tensors.
        source: what messages call it.
        skip_decoder: leave out the decoder and the joint network.
        trunk: what our names of all but the decoder begin with, ``trunk.`` in a model of several decoders.

    Raises:
        CheckpointError: naming the tensors that have no counterpart, or parts of a fused tensor that do not match.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    keys: list[KeyMapping] = []
    leftover: list[str] = []
    for key, tensor in state.items():
        is_decoder = key.startswith(_DECODERS)
        skipped = is_decoder and skip_decoder
        ours = None if skipped else destination_of(key)
        if ours is not None and not is_decoder:
            ours = f"{trunk}{ours}"
        keys.append(KeyMapping(key, tuple(tensor.shape), ours))
        if ours is not None:
            part = _PART.search(ours)
            parts.setdefault(_PART.sub("", ours), {})[int(part[1]) if part else 0] = _in_our_form(key, tensor)
        elif not skipped:
            leftover.append(key)
    if leftover:
        hybrid = all(key.startswith(_DECODERS) for key in leftover)
        hint = "; --skip-decoder keeps the CTC branch alone" if hybrid else ""
        raise CheckpointError(f"{source}: {len(leftover)} tensors have no counterpart: {listed(leftover)}{hint}")
    return {name: _fused(name, found, source) for name, found in parts.items()}, tuple(keys)


def _in_our_form(key: str, tensor: Tensor) -> Tensor:
    if ".pointwise_conv" in key and tensor.dim() == 3:
        tensor = tensor.squeeze(-1)  # a convolution of width 1 is a linear layer
    return tensor.float() if tensor.is_floating_point() else tensor


def _fused(name: str, parts: Mapping[int, Tensor], source: str) -> Tensor:
    tensors = [parts[i] for i in sorted(parts)]
    num_parts = {"qkv": 3, "key_value": 2}.get(name.split(".")[-2], 1)
    if len(tensors) != num_parts or len({tensor.shape for tensor in tensors}) != 1:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise CheckpointError(f"{source}: {name} needs {num_parts} tensors of one shape, got {shapes}")
    return tensors[0] if num_parts == 1 else torch.cat(tensors)


def check_fit(model: nn.Module, state: Mapping[str, Tensor], *, source: str = "checkpoint") -> None:
    """Compare names and shapes of ``state`` with those of ``model``, on any device.

    Raises:
        CheckpointError: naming what is missing, what is too much and what has another shape.
    """
    expected = model.state_dict()
    wrong = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    faults = {
        "missing": expected.keys() - state.keys(),
        "unknown": state.keys() - expected.keys(),
        "of another shape": wrong,
    }
    found = [f"{len(names)} {fault}: {listed(sorted(names))}" for fault, names in faults.items() if names]
    if found:
        raise CheckpointError(f"{source}: weights do not fit the configuration; {'; '.join(found)}")


def listed(names: list[str]) -> str:
    """Join the first names for an error message and count the rest."""
    more = len(names) - SHOWN_FAULTS
    return ", ".join(names[:SHOWN_FAULTS]) + (f" and {more} more" if more > 0 else "")
