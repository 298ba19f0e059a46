"""Whisper's checkpoints to our model folders: of Hugging Face, of OpenAI, and of CTranslate2.

All three hold the same tensors under different names; CTranslate2 has joined the projections of attention and rounded
them to half precision. Nothing is executed, and the conversion is strict both ways: a tensor without a counterpart here
is an error that names it, and so is one that is missing.

Sources: the state dictionaries of ``openai/whisper`` and of transformers' ``WhisperForConditionalGeneration``; the
format of CTranslate2's ``model.bin``, version 6 (``ctranslate2/specs/model_spec.py``).
"""

import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.files import regular
from speechnar.interop.espnet_names import KeyMapping, listed
from speechnar.interop.family import CONFIG_FILE, Family, Listing, in_root, listed_of, transformers_config
from speechnar.interop.files import (
    ConversionReport,
    read_tensors,
    read_yaml,
    save_converted,
    with_weights,
)
from speechnar.models.asr.whisper import Whisper, WhisperModelConfig
from speechnar.models.base import read_weights
from speechnar.nn.whisper import WhisperConfig, whisper_positions
from speechnar.text.byte_pairs import BytePairTokenizer

TOKENIZER_FILE = "tokenizer.json"
HF_FILE, CT2_FILE = "model.safetensors", "model.bin"
HEAD_DIM = 64
"""Of every published size (table 1)."""
POSITION_TOLERANCE = 1e-3
"""Of half-precision sinusoids, whose largest are 1."""

_HF = {
    "layers.*.self_attn_layer_norm": "norm_self",
    "layers.*.self_attn.q_proj": "self[0]",
    "layers.*.self_attn.k_proj": "self[1]",
    "layers.*.self_attn.v_proj": "self[2]",
    "layers.*.self_attn.out_proj": "self_out",
    "layers.*.encoder_attn_layer_norm": "norm_cross",
    "layers.*.encoder_attn.q_proj": "cross_query",
    "layers.*.encoder_attn.k_proj": "cross_key",
    "layers.*.encoder_attn.v_proj": "cross_value",
    "layers.*.encoder_attn.out_proj": "cross_out",
    "layers.*.final_layer_norm": "ff.0",
    "layers.*.fc1": "ff.1",
    "layers.*.fc2": "ff.4",
    "layer_norm": "norm",
    "embed_positions.weight": "positions",
    "embed_tokens.weight": "token_embed.weight",
    "conv1": "conv1",
    "conv2": "conv2",
}
_OPENAI = {
    "blocks.*.attn_ln": "norm_self",
    "blocks.*.attn.query": "self[0]",
    "blocks.*.attn.key": "self[1]",
    "blocks.*.attn.value": "self[2]",
    "blocks.*.attn.out": "self_out",
    "blocks.*.cross_attn_ln": "norm_cross",
    "blocks.*.cross_attn.query": "cross_query",
    "blocks.*.cross_attn.key": "cross_key",
    "blocks.*.cross_attn.value": "cross_value",
    "blocks.*.cross_attn.out": "cross_out",
    "blocks.*.mlp_ln": "ff.0",
    "blocks.*.mlp.0": "ff.1",
    "blocks.*.mlp.2": "ff.4",
    "ln_post": "norm",
    "ln": "norm",
    "positional_embedding": "positions",
    "token_embedding.weight": "token_embed.weight",
    "conv1": "conv1",
    "conv2": "conv2",
}
_CT2 = {
    "layer_*.self_attention.layer_norm": "norm_self",
    "layer_*.self_attention.linear_0": "self",
    "layer_*.self_attention.linear_1": "self_out",
    "layer_*.attention.layer_norm": "norm_cross",
    "layer_*.attention.linear_0": "cross_query",
    "layer_*.attention.linear_1": "cross_key_value",
    "layer_*.attention.linear_2": "cross_out",
    "layer_*.ffn.layer_norm": "ff.0",
    "layer_*.ffn.linear_0": "ff.1",
    "layer_*.ffn.linear_1": "ff.4",
    "layer_norm": "norm",
    "position_encodings.encodings": "positions",
    "embeddings.weight": "token_embed.weight",
    "conv1": "conv1",
    "conv2": "conv2",
}
# Roles of a layer's modules, by our names in the encoder and in the decoder.
_ENCODER_ROLES = {"norm_self": "norm_attention", "self": "attention.qkv", "self_out": "attention.out"}
_DECODER_ROLES = {
    "norm_self": "norm_self",
    "self": "self_attention.qkv",
    "self_out": "self_attention.out",
    "norm_cross": "norm_attention",
    "cross_query": "query",
    "cross_out": "out",
}
_LEAVES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}
_PART = re.compile(r"\[(\d+)\]")
_LAYER = re.compile(r"(?<=layers\.)\d+|(?<=blocks\.)\d+|(?<=layer_)\d+")
_CT2_OPTIONS = re.compile(
    r"(encoder|decoder)/(num_heads|pre_norm|scale_embeddings|activation|alibi\w*|layernorm_embedding"
    r"|start_from_zero_embedding|alignment_\w+|multi_query_attention)"
)
_CT2_TYPES = {0: torch.float32, 1: torch.int8, 2: torch.int16, 3: torch.int32, 4: torch.float16}


def convert_whisper(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a Whisper checkpoint into a model folder of kind ``whisper``.

    Args:
        source: folder with ``tokenizer.json`` and ``model.safetensors`` (Hugging Face), ``model.bin`` (CTranslate2) or
            one ``*.pt`` file (OpenAI).
        destination: folder to write; created if absent.

    Raises:
        ModelNotFoundError: ``source`` lacks a file.
        CheckpointError: the weights hold more than tensors, or are not those of a Whisper.
        DataError: the tokenizer is not Whisper's.
    """
    source, destination = Path(source), Path(destination)
    tokenizer_path = source / TOKENIZER_FILE
    if not tokenizer_path.is_file():
        raise ModelNotFoundError(f"{source}: {TOKENIZER_FILE} is missing; Whisper's vocabulary is read from it")
    tokenizer = BytePairTokenizer.from_json(tokenizer_path)
    path = _find_weights(source)
    theirs = _read(path)
    state, keys = map_state(theirs, source=str(path))
    config = _config_of(state, _num_heads(theirs, source))
    model = with_weights(lambda: Whisper(config), state, source=str(path))
    card = f"# {source.resolve().name}\n\nConverted from a Whisper checkpoint (weights: MIT, OpenAI).\n"
    return save_converted(destination, model, tokenizer, keys, card=card, dtype=torch.float16)


def _find_weights(source: Path) -> Path:
    found = [path for path in (source / HF_FILE, source / CT2_FILE, *sorted(source.glob("*.pt"))) if path.is_file()]
    if len(found) != 1:
        raise ModelNotFoundError(
            f"{source}: need one of {HF_FILE} (Hugging Face), {CT2_FILE} (CTranslate2) or a .pt file (OpenAI); "
            f"found {', '.join(path.name for path in found) or 'none'}"
        )
    return found[0]


def _read(path: Path) -> Mapping[str, Tensor]:
    if path.name == HF_FILE:
        return read_weights(path)
    return read_ct2(path) if path.name == CT2_FILE else read_tensors(path, wrappers=("model_state_dict",))


def read_ct2(path: str | Path) -> dict[str, Tensor]:
    """Read the variables of a CTranslate2 ``model.bin`` (little endian).

    Raises:
        CheckpointError: it is not such a file, or is cut short.
    """
    try:
        with regular(path).open("rb") as file:
            return dict(_ct2_variables(file))
    except (OSError, struct.error, UnicodeDecodeError, KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: must be a CTranslate2 model.bin, whole ({type(error).__name__})") from None


def _ct2_variables(file: BinaryIO) -> Iterator[tuple[str, Tensor]]:
    def take(layout: str) -> tuple[int, ...]:
        return struct.unpack(f"<{layout}", file.read(struct.calcsize(f"<{layout}")))

    def text() -> str:
        (length,) = take("H")
        return file.read(length).rstrip(b"\0").decode("utf-8")

    take("I")  # version of the format
    spec = text()
    if spec != "WhisperSpec":
        raise ValueError(f"a {spec}")
    _, count = take("II")
    for _ in range(count):
        name, (rank,) = text(), take("B")
        shape = take(f"{rank}I")
        type_id, num_bytes = take("BI")
        data = file.read(num_bytes)
        if len(data) != num_bytes:
            raise ValueError("cut short")
        yield name, torch.frombuffer(bytearray(data), dtype=_CT2_TYPES[type_id]).reshape(shape)


def map_state(
    theirs: Mapping[str, Tensor], *, source: str = "checkpoint"
) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return the tensors of a Whisper under our names, in float32, and what became of each.

    Raises:
        CheckpointError: naming the tensors that have no counterpart; or the encoder's positions are not sinusoids.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    keys: list[KeyMapping] = []
    leftover: list[str] = []
    for key, tensor in theirs.items():
        ours = destination_of(key)
        is_option = _CT2_OPTIONS.fullmatch(key) is not None
        is_tied = key in ("proj_out.weight", "decoder/projection/weight")
        is_position = ours == "encoder.positions"
        if is_position:
            _check_positions(tensor.float(), source)
        keys.append(KeyMapping(key, tuple(tensor.shape), None if is_position else ours))
        if ours is not None and not is_position:
            for name, part, value in _split(ours, tensor.float()):
                parts.setdefault(name, {})[part] = value
        elif not (is_option or is_tied or is_position):
            leftover.append(key)
    if leftover:
        raise CheckpointError(f"{source}: {len(leftover)} tensors have no counterpart: {listed(leftover)}")
    _add_key_biases(parts)
    return {name: torch.cat([found[i] for i in sorted(found)]) for name, found in parts.items()}, tuple(keys)


def destination_of(key: str) -> str | None:
    """Return our name of Whisper's tensor ``key``, with ``[i]`` where it is part i of ours, or None."""
    half, _, rest = key.removeprefix("model.").replace("/", ".").partition(".")
    if half not in ("encoder", "decoder"):
        return None
    number = _LAYER.search(rest)
    pattern = _LAYER.sub("*", rest)
    module, _, leaf = pattern.rpartition(".")
    for table in (_HF, _OPENAI, _CT2):
        if pattern in table:
            name = table[pattern]
            is_decoders = half == "decoder" and name in ("positions", "token_embed.weight")
            return name if is_decoders else f"{half}.{name}"
        if module in table and leaf in _LEAVES:
            return _in_half(half, table[module], number[0] if number else None, _LEAVES[leaf])
    return None


def _in_half(half: str, role: str, number: str | None, leaf: str) -> str | None:
    if number is None:
        return f"{half}.{role}.{leaf}"
    if half == "decoder" and role.startswith("cross_") and role not in _DECODER_ROLES:
        first = 2 * int(number)  # the keys and values of all layers are one projection
        place = {"cross_key": f"{first}", "cross_value": f"{first + 1}", "cross_key_value": f"{first}-{first + 1}"}
        return f"decoder.key_value.{leaf}[{place[role]}]"
    base, bracket, part = role.partition("[")
    roles = _ENCODER_ROLES if half == "encoder" else _DECODER_ROLES
    name = roles.get(base, base if base.startswith("ff.") else None)
    return None if name is None else f"{half}.layers.{number}.{name}.{leaf}{bracket}{part}"


def _split(name: str, tensor: Tensor) -> list[tuple[str, int, Tensor]]:
    """Return name, part and value of what a tensor becomes: CTranslate2 has joined keys and values."""
    base, _, places = name.removesuffix("]").partition("[")
    numbers = [int(place) for place in places.split("-")] if places else [0]
    return list(zip([base] * len(numbers), numbers, tensor.chunk(len(numbers)), strict=True))


def _add_key_biases(parts: dict[str, dict[int, Tensor]]) -> None:
    """Fill in the biases that Whisper's keys do not have."""
    for name, found in parts.items():
        if name.endswith("qkv.bias") and found.keys() == {0, 2}:
            found[1] = torch.zeros_like(found[0])
        elif name == "decoder.key_value.bias" and all(part % 2 for part in found):
            found |= {part - 1: torch.zeros_like(value) for part, value in list(found.items())}


def _check_positions(table: Tensor, source: str) -> None:
    """Raise CheckpointError where the encoder's positions are not those that we compute."""
    computed = whisper_positions(table.size(0), table.size(1), table.device)
    error = float((table - computed).abs().max())
    if not error <= POSITION_TOLERANCE:
        raise CheckpointError(
            f"{source}: the encoder's positions must be Whisper's sinusoids; they differ by {error:.3g}"
        )


def _num_heads(theirs: Mapping[str, Tensor], source: Path) -> tuple[int, int] | None:
    """Return the heads of encoder and decoder where the files tell them."""
    if "encoder/num_heads" in theirs:
        return int(theirs["encoder/num_heads"]), int(theirs["decoder/num_heads"])
    if (source / CONFIG_FILE).is_file():
        config = read_yaml(source / CONFIG_FILE)
        heads = config.get("encoder_attention_heads"), config.get("decoder_attention_heads")
        if isinstance(heads[0], int) and isinstance(heads[1], int):
            return heads[0], heads[1]
    return None


def _config_of(state: Mapping[str, Tensor], heads: tuple[int, int] | None) -> WhisperModelConfig:
    """Read the sizes off the tensors."""
    needed = ("encoder.conv1.weight", "token_embed.weight", "positions")
    missing = [name for name in needed if name not in state]
    if missing:
        raise CheckpointError(f"a Whisper has {' and '.join(missing)}, this checkpoint has not")
    dim, num_mels, _ = state["encoder.conv1.weight"].shape

    def layers(half: str) -> int:
        return len({name.split(".")[2] for name in state if name.startswith(f"{half}.layers.")})

    encoder_heads, decoder_heads = heads or (dim // HEAD_DIM, dim // HEAD_DIM)
    return WhisperModelConfig(
        encoder=WhisperConfig(num_mels=num_mels, model_dim=dim, num_layers=layers("encoder"), num_heads=encoder_heads),
        decoder_layers=layers("decoder"),
        decoder_heads=decoder_heads,
        max_tokens=len(state["positions"]),
        num_tokens=len(state["token_embed.weight"]),
    )


def is_whisper(listing: Listing) -> bool:
    """Tell whether files are of a Whisper: with its vocabulary, and no configuration that says something else."""
    return TOKENIZER_FILE in listing.names and transformers_config(listing).get("model_type", "whisper") == "whisper"


def wanted_of_whisper(listing: Listing) -> tuple[str, ...]:
    """Return vocabulary, weights in the first of the three formats that is there, and the configuration, if any."""
    weights = [*listed_of(listing, HF_FILE, CT2_FILE), *in_root(listing, ".pt")]
    return (TOKENIZER_FILE, *(weights[:1] or [HF_FILE]), *listed_of(listing, CONFIG_FILE))


WHISPER = Family("Whisper", f"{TOKENIZER_FILE} and weights", is_whisper, wanted_of_whisper, convert_whisper)
