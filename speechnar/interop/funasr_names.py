"""FunASR's tensors by our names: a table, the fusing of projections, and a check that nothing is left over.

Source: the state dictionaries of FunASR 1.4.16's ``Paraformer``, ``BiCifParaformer``, ``SeacoParaformer``,
``ParaformerStreaming`` and ``SenseVoiceSmall``.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from speechnar.errors import CheckpointError
from speechnar.interop import espnet_names
from speechnar.interop.espnet_names import KeyMapping, listed

_ENCODER_BLOCK = {
    "norm1": "norm_attention",
    "self_attn.linear_q_k_v": "qkv",
    "self_attn.fsmn_block": "fsmn",
    "self_attn.linear_out": "out",
    "norm2": "ff.0",
    "feed_forward.w_1": "ff.1",
    "feed_forward.w_2": "ff.4",
}
_DECODER_FEED_FORWARD = {"w_1": "proj_in", "norm": "norm", "w_2": "proj_out"}
_SANM_LAYER = {
    "norm1": "layers.*.norm_ff",
    **{f"feed_forward.{theirs}": f"layers.*.ff.{ours}" for theirs, ours in _DECODER_FEED_FORWARD.items()},
    "norm2": "layers.*.norm_fsmn",
    "self_attn.fsmn_block": "layers.*.fsmn",
    "norm3": "layers.*.norm_attention",
    "src_attn.linear_q": "layers.*.query",
    "src_attn.linear_k_v": "key_value[*]",
    "src_attn.linear_out": "layers.*.out",
}
_TRANSFORMER_LAYER = {
    "norm1": "layers.*.norm_self",
    "self_attn.linear_q": "layers.*.self_attention.qkv[0]",
    "self_attn.linear_k": "layers.*.self_attention.qkv[1]",
    "self_attn.linear_v": "layers.*.self_attention.qkv[2]",
    "self_attn.linear_out": "layers.*.self_attention.out",
    "norm2": "layers.*.norm_attention",
    "src_attn.linear_q": "layers.*.query",
    "src_attn.linear_k": "key_value[*.0]",
    "src_attn.linear_v": "key_value[*.1]",
    "src_attn.linear_out": "layers.*.out",
    "norm3": "layers.*.ff.0",
    "feed_forward.w_1": "layers.*.ff.1",
    "feed_forward.w_2": "layers.*.ff.4",
}
_LAST_LAYER = {"norm1": "norm_last", **{f"feed_forward.{t}": f"ff_last.{o}" for t, o in _DECODER_FEED_FORWARD.items()}}


def _under(prefix: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{theirs}": f"{ours}.{name}" for theirs, name in names.items()}


def _sanm_decoder(theirs: str, ours: str) -> dict[str, str]:
    return {
        **_under(f"{theirs}.decoders.*", ours, _SANM_LAYER),
        **_under(f"{theirs}.decoders3.0", ours, _LAST_LAYER),
        f"{theirs}.after_norm": f"{ours}.norm",
    }


_COMMON = {
    "decoder.embed.0": "head.token_embed",
    "decoder.output_layer": "head.output",
    "predictor.cif_conv1d": "head.embedder.conv",
    "predictor.cif_output": "head.embedder.proj",
    "predictor.upsample_cnn": "head.timestamps.upsample",
    "predictor.blstm": "head.timestamps.blstm",
    "predictor.cif_output2": "head.timestamps.proj",
    "ctc.ctc_lo": "ctc.proj",
    "bias_encoder": "bias.encoder",
    **_sanm_decoder("seaco_decoder", "bias.decoder"),
    "hotword_output_layer": "bias.output",
}
_SANM_ENCODER = {
    **_under("encoder.encoders0.0", "encoder.layers.0", _ENCODER_BLOCK),
    **_under("encoder.encoders.*", "encoder.layers.+", _ENCODER_BLOCK),
    "encoder.after_norm": "encoder.norm",
}
SENSEVOICE_NAMES = {
    **_SANM_ENCODER,
    **_under("encoder.tp_encoders.*", "encoder.upper_layers.*", _ENCODER_BLOCK),
    "encoder.tp_norm": "encoder.upper_norm",
    "embed": "queries",
    "ctc.ctc_lo": "ctc.proj",
}
"""The modules of ``SenseVoiceSmall`` by our names, as `module_names` returns those of Paraformer."""
_CONFORMER = {theirs: ours for theirs, ours in espnet_names.MODULE_NAMES.items() if theirs.startswith("encoder.")}
_SANM_DECODER = _sanm_decoder("decoder", "head.decoder")
_TRANSFORMER_DECODER = {
    **_under("decoder.decoders.*", "head.decoder", _TRANSFORMER_LAYER),
    "decoder.after_norm": "head.decoder.norm",
}

_PLAIN = re.compile(r"weight|bias|running_mean|running_var|num_batches_tracked|(weight|bias)_[ih]h_l\d+(_reverse)?")
_BLOCK_NUMBER = re.compile(r"(?<=coders\.)\d+(?=\.)")
_PART = re.compile(r"\[(\d+)(?:\.(\d))?\]")


def module_names(*, conformer: bool = False, transformer: bool = False) -> dict[str, str]:
    """Return FunASR's modules by our names, with an encoder and a decoder of these kinds.

    ``*`` is a layer's number, ``+`` the number after it, and ``[i]`` part i of a fused tensor.
    """
    return {
        **_COMMON,
        **(_CONFORMER if conformer else _SANM_ENCODER),
        **(_TRANSFORMER_DECODER if transformer else _SANM_DECODER),
    }


def destination_of(key: str, names: Mapping[str, str]) -> str | None:
    """Return our name of FunASR's tensor ``key``, with ``[i]`` where it is part i of ours, or None."""
    number = _BLOCK_NUMBER.search(key)
    pattern = _BLOCK_NUMBER.sub("*", key, count=1)
    module, _, leaf = pattern.rpartition(".")
    if pattern in names:
        ours = names[pattern]
    elif _PLAIN.fullmatch(leaf) and module in names:
        ours = f"{names[module]}.{leaf}"
    else:
        return None
    return ours.replace("*", number[0]).replace("+", str(int(number[0]) + 1)) if number else ours


def map_state(
    state: Mapping[str, Tensor], names: Mapping[str, str], *, source: str = "checkpoint"
) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return the tensors of a FunASR model under our names and in our shapes, and what became of each.

    Raises:
        CheckpointError: naming the tensors that have no counterpart, or parts of a fused tensor that do not match.
    """
    parts: dict[str, dict[tuple[int, int], Tensor]] = {}
    keys: list[KeyMapping] = []
    for given, tensor in state.items():
        key = given.removeprefix("module.")
        ours = destination_of(key, names)
        keys.append(KeyMapping(key, tuple(tensor.shape), ours))
        if ours is not None:
            part = _PART.search(ours)
            index = (int(part[1]), int(part[2] or 0)) if part else (0, 0)
            parts.setdefault(_PART.sub("", ours), {})[index] = _in_our_form(key, tensor)
    leftover = [key.source for key in keys if key.destination is None]
    if leftover:
        raise CheckpointError(f"{source}: {len(leftover)} tensors have no counterpart: {listed(leftover)}")
    return {name: _fused(name, found, source) for name, found in parts.items()}, tuple(keys)


def _in_our_form(key: str, tensor: Tensor) -> Tensor:
    if ".pointwise_conv" in key and tensor.dim() == 3:
        tensor = tensor.squeeze(-1)  # a convolution of width 1 is a linear layer
    return tensor.float() if tensor.is_floating_point() else tensor


def _fused(name: str, parts: Mapping[tuple[int, int], Tensor], source: str) -> Tensor:
    tensors = [parts[index] for index in sorted(parts)]
    num_outer, num_inner = (max(index[axis] for index in parts) + 1 for axis in range(2))
    if len(tensors) != num_outer * num_inner or len({tensor.shape for tensor in tensors}) != 1:
        shapes = [str(tuple(tensor.shape)) for tensor in tensors]
        raise CheckpointError(
            f"{source}: {name} needs {num_outer * num_inner} tensors of one shape, got {listed(shapes)}"
        )
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
