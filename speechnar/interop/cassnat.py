"""Checkpoints of the CASS-NAT authors' code, CASS-NAT and UniEnc, to our model folders.

Nothing of a checkpoint is executed: YAML is read as data and weights by torch's restricted unpickler. The conversion is
strict: a network option, a tensor or a shape that has no counterpart here is an error that names it. Options of data
and training are not read.

Their LayerNorm divides by the unbiased deviation, ours by the biased one: gains are scaled by sqrt((D - 1) / D), which
leaves the 1e-6 that theirs adds to the deviation as the only difference.

Source: Diamondfan/cassnat_asr, revision a3a7a77 (MIT licence).
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from speechnar.audio.cmvn import read_kaldi_cmvn
from speechnar.audio.fbank import KaldiFbankConfig, build_frontend
from speechnar.config import Config, parse_config
from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.interop.espnet_names import KeyMapping, check_fit, listed
from speechnar.interop.family import CARD_FILE, Family, Listing, in_root, listed_of
from speechnar.interop.files import (
    ConversionReport,
    card_of,
    read_tensors,
    read_yaml,
    save_converted,
)
from speechnar.models.asr.cassnat import CassNat, CassNatConfig
from speechnar.models.asr.unienc import UniEnc, UniEncConfig
from speechnar.nn.encoder import ConformerConfig
from speechnar.text.tokenizer import WORD_START, CharTokenizer, SentencePieceTokenizer, Tokenizer

CONFIG_FILE, VOCAB_FILE, SENTENCEPIECE_FILE, CMVN_FILE = "config.yaml", "vocab.txt", "tokenizer.model", "cmvn.ark"
WEIGHTS_SUFFIX = ".mdl"
SPECIALS = ("<blank>", "<sos>", "<eos>", "<unk>")
"""What stands before the lines of a vocabulary file."""
NORM_EPS = 1e-12

_Size = Annotated[int, Field(gt=0, le=1 << 16)]
_Blocks = Annotated[int, Field(gt=0, le=1024)]
_Weight = Annotated[float, Field(ge=0)]


class CassNatOptions(Config):
    """The network options of a training configuration of the authors; a literal admits only what we implement."""

    model_config = ConfigDict(extra="ignore")

    model_type: Literal["conformer"]
    use_conv_enc: Literal[True]
    pos_type: Literal["relative"]
    share_ff: Literal[False] = False
    left_ctx: Literal[0] = 0
    right_ctx: Literal[0] = 0
    skip_frame: Literal[1] = 1
    use_trigger: Literal[True] = True
    use_best_path: Literal[False] = False
    use_unimask: Literal[False] = False
    use_mlm: Literal[False] = False
    apply_mask: Literal[False] = False
    use_cmvn: bool = True
    N_extra: Literal[1] = 1
    n_features: _Size = 80
    d_model: _Size
    n_head: _Size
    dropout: float = Field(default=0.1, ge=0, lt=1)
    label_smooth: float = Field(default=0.1, ge=0, lt=1)
    N_enc: _Blocks
    d_encff: _Size
    enc_kernel_size: _Size
    enc_max_relative_len: _Size
    d_ff: _Size
    left_trigger: int = Field(ge=0)
    right_trigger: int = Field(ge=0)
    ctc_alpha: _Weight
    interctc_alpha: _Weight = 0.0
    interctc_layer: int = Field(default=0, ge=0)
    att_alpha: Literal[1] = 1
    interce_alpha: _Weight = 0.0
    interce_layer: int = Field(default=0, ge=0)

    def trunk(self) -> dict[str, Any]:
        """Return the fields of `CtcTrunkConfig`."""
        return {
            "frontend": KaldiFbankConfig(num_mels=self.n_features),
            "encoder": ConformerConfig(
                model_dim=self.d_model,
                num_layers=self.N_enc,
                num_heads=self.n_head,
                ff_dim=self.d_encff,
                kernel_size=self.enc_kernel_size,
                positions="clipped",
                max_distance=self.enc_max_relative_len,
                conv_norm="group",
                block_norm=False,
                subsampling_padding=1,
                dropout=self.dropout,
                attention_dropout=self.dropout,
                norm_eps=NORM_EPS,
            ),
            "interctc_layer": max(self.interctc_layer, 1),
            "ctc_weight": self.ctc_alpha,
            "interctc_weight": self.interctc_alpha,
        }

    def expansion(self) -> dict[str, Any]:
        """Any positive number expands a segment by one frame in their code."""
        return {"expand_left": min(self.left_trigger, 1), "expand_right": min(self.right_trigger, 1)}


class DecoderOptions(CassNatOptions):
    """Of a model with a decoder: CASS-NAT."""

    use_conv_dec: Literal[True]
    src_trigger: Literal[False] = False
    N_self_dec: int = Field(ge=0, le=1024)
    N_mix_dec: _Blocks
    d_decff: _Size
    dec_kernel_size: _Size
    dec_max_relative_len: _Size

    def to_config(self) -> CassNatConfig:
        """Return our configuration of the same model.

        Raises:
            ConfigError: the values contradict each other.
        """
        head = {
            "num_self_layers": self.N_self_dec,
            "num_mixed_layers": self.N_mix_dec,
            "num_heads": self.n_head,
            "ff_dim": self.d_decff,
            "embedder_ff_dim": self.d_ff,
            "kernel_size": self.dec_kernel_size,
            "max_distance": self.dec_max_relative_len,
            "inter_ce_layer": max(self.interce_layer, 1),
            "inter_ce_weight": self.interce_alpha,
            "label_smoothing": self.label_smooth,
            "dropout": self.dropout,
            "attention_dropout": self.dropout,
            "norm_eps": NORM_EPS,
            **self.expansion(),
        }
        return parse_config({**self.trunk(), "head": head}, CassNatConfig, source="their configuration")


class UniEncOptions(CassNatOptions):
    """Of a model without a decoder: UniEnc."""

    multi_ctc: bool = False
    multi_ctc_alpha: _Weight = 0.0

    @model_validator(mode="after")
    def _check(self) -> "UniEncOptions":
        if self.interctc_alpha and self.interce_alpha and self.interctc_layer != self.interce_layer:
            raise ValueError(f"interce_layer must be interctc_layer {self.interctc_layer}, got {self.interce_layer}")
        return self

    def to_config(self) -> UniEncConfig:
        """Return our configuration of the same model.

        Raises:
            ConfigError: the values contradict each other.
        """
        values = {
            **self.trunk(),
            "interctc_layer": max(self.interctc_layer if self.interctc_alpha else self.interce_layer, 1),
            "embedder_ff_dim": self.d_ff,
            "inter_ce_weight": self.interce_alpha,
            "second_ctc_weight": self.multi_ctc_alpha if self.multi_ctc else 0.0,
            "label_smoothing": self.label_smooth,
            **self.expansion(),
        }
        return parse_config(values, UniEncConfig, source="their configuration")


def convert_cassnat(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a model of the authors' code into a model folder of ours.

    Args:
        source: folder with ``config.yaml`` (their training configuration), one ``*.mdl`` (one checkpoint or an average
            of some), ``vocab.txt``, ``tokenizer.model`` if the units are SentencePiece's, and ``cmvn.ark`` (the Kaldi
            statistics) unless ``use_cmvn`` is off.
        destination: folder to write; created if absent.

    Raises:
        ModelNotFoundError: ``source`` lacks one of these files.
        ConfigError: the model has options that our implementation has not; all of them are named.
        CheckpointError: the weights hold more than tensors, or are not those of the configuration.
        DataError: vocabulary, SentencePiece model or statistics are malformed.
    """
    source, destination = Path(source), Path(destination)
    weights_files = sorted(source.glob(f"*{WEIGHTS_SUFFIX}"))
    if len(weights_files) != 1 or not (source / CONFIG_FILE).is_file() or not (source / VOCAB_FILE).is_file():
        raise ModelNotFoundError(
            f"{source}: need {CONFIG_FILE}, {VOCAB_FILE} and one .mdl file; found {len(weights_files)} .mdl files"
        )
    config = parse_options(read_yaml(source / CONFIG_FILE), source=str(source / CONFIG_FILE)).to_config()
    tokenizer = read_tokenizer(source)
    theirs = read_tensors(weights_files[0], ["model_state"])
    state, keys = map_state(theirs, unienc=isinstance(config, UniEncConfig), source=str(weights_files[0]))
    mean, std = _statistics(source, config)
    state |= {"trunk.normalizer.mean": mean, "trunk.normalizer.std": std}
    with torch.device("meta"):  # nothing is allocated before everything is known to fit
        check_fit(_build(config, tokenizer), state, source=str(weights_files[0]))
    model = _build(config, tokenizer)
    model.load_state_dict(state)
    return save_converted(destination, model, tokenizer, keys, card=card_of(source, "the CASS-NAT authors' code"))


def _build(config: CassNatConfig | UniEncConfig, tokenizer: Tokenizer) -> CassNat | UniEnc:
    return UniEnc(config, tokenizer) if isinstance(config, UniEncConfig) else CassNat(config, tokenizer)


def parse_options(values: Mapping[str, Any], *, source: str = "config") -> DecoderOptions | UniEncOptions:
    """Read a training configuration; one with ``multi_ctc`` is UniEnc's.

    Raises:
        ConfigError: naming the network options that have no counterpart here.
    """
    if "multi_ctc" in values:
        return parse_config(values, UniEncOptions, source=source)
    return parse_config(values, DecoderOptions, source=source)


def read_tokenizer(source: Path) -> Tokenizer:
    """Return the tokenizer of ``vocab.txt``: one unit a line, behind blank, sos, eos and unk; ``|`` parts words.

    Raises:
        DataError: a unit is listed twice or unknown to the SentencePiece model.
    """
    path = source / VOCAB_FILE
    lines = [line.strip() for line in path.read_text(encoding="utf-8").split("\n")]
    if lines and not lines[-1]:
        lines.pop()
    if (source / SENTENCEPIECE_FILE).is_file():
        return SentencePieceTokenizer(source / SENTENCEPIECE_FILE, [*SPECIALS, *lines], source=str(path))
    return CharTokenizer([*SPECIALS, *(WORD_START if line == "|" else line for line in lines)], source=str(path))


_FEED_FORWARD = {"w_1": "1", "w_2": "4"}
_SELF_ATTENTION = {
    "linears.0": "qkv[0]",
    "linears.1": "qkv[1]",
    "linears.2": "qkv[2]",
    "linears.3": "out",
    "linear_pos": "pos",
    "pos_bias_u": "content_bias",
    "pos_bias_v": "distance_bias",
}
_CROSS_ATTENTION = {
    "linears.0": "query",
    "linears.1": "key_value[0]",
    "linears.2": "key_value[1]",
    "linears.3": "out",
}


def _under(prefix: str, ours: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{theirs}": f"{ours}.{name}" for theirs, name in names.items()}


_CONFORMER_BLOCK = {
    "sublayer.0.norm": "ff_macaron.0",
    **_under("feed_forward1", "ff_macaron", _FEED_FORWARD),
    "sublayer.1.norm": "norm_conv",
    "conv_module.pointwise_conv1": "conv.pointwise_in",
    "conv_module.depthwise_conv": "conv.depthwise",
    "conv_module.norm": "conv.norm",
    "conv_module.pointwise_conv2": "conv.pointwise_out",
    "sublayer.2.norm": "norm_attention",
    **_under("self_attn", "attention", _SELF_ATTENTION),
    **_under("feed_forward2", "ff", _FEED_FORWARD),
}
_TRUNK = {
    "src_embed.conv.0": "trunk.encoder.subsampling.convs.0",
    "src_embed.conv.2": "trunk.encoder.subsampling.convs.1",
    "src_embed.linear_out": "trunk.encoder.subsampling.proj",
    "src_embed.pos_enc.embedding.weight": "trunk.encoder.distances",
    **_under("encoder.layers.*", "trunk.encoder.layers.*", {**_CONFORMER_BLOCK, "sublayer.3.norm": "ff.0"}),
    "encoder.norm": "trunk.encoder.norm",
    "ctc_generator.proj": "trunk.ctc.proj",
    "interctc_generator.norm": "trunk.inter_ctc.norm",
    "interctc_generator.proj": "trunk.inter_ctc.proj",
}
_EMBEDDER = {
    **_under("src_attn", "attention", _CROSS_ATTENTION),
    **_under("feed_forward", "ff", _FEED_FORWARD),
}
CASSNAT_NAMES = {
    **_TRUNK,
    **_under("acembed_extractor.layers.0", "head.embedder", {**_EMBEDDER, "sublayer.norm": "ff.0"}),
    "acembed_extractor.layers.0.pos_enc.embedding.weight": "head.distances",
    **_under("selfattn_decoder.layers.*", "head.self_blocks.*", {**_CONFORMER_BLOCK, "sublayer.3.norm": "ff.0"}),
    **_under(
        "mixattn_decoder.layers.*",
        "head.mixed_blocks.*",
        {
            **_CONFORMER_BLOCK,
            "sublayer.3.norm": "norm_memory",
            **_under("src_attn", "memory_attention", _CROSS_ATTENTION),
            "sublayer.4.norm": "ff.0",
        },
    ),
    "mixattn_decoder.norm": "head.norm",
    "att_generator.proj": "head.out",
    "interce_generator.norm": "head.inter_norm",
    "interce_generator.proj": "head.inter_out",
}
"""Modules and lone tensors of CASS-NAT by our names; ``*`` is a block's number, ``[i]`` part i of a fused tensor."""
UNIENC_NAMES = {
    **_TRUNK,
    **_under(
        "acembed_extractor.layers.0",
        "embedder",
        {**_EMBEDDER, "sublayer.0.norm": "norm_attention", "sublayer.1.norm": "ff.0"},
    ),
    "att_generator.proj": "out",
    "interce_generator.norm": "inter_out.norm",
    "interce_generator.proj": "inter_out.proj",
}
"""The same of UniEnc."""

_LEAVES = {"weight": "weight", "bias": "bias", "a_2": "weight", "b_2": "bias"}
_LEGACY = {"hub_base.": "encoder.", "embed_mapper.": "selfattn_decoder.", "decoder.": "mixattn_decoder."}
_NUMBER = re.compile(r"(?<=\.layers\.)\d+(?=\.)")
_PART = re.compile(r"\[(\d)\]")


def destination_of(key: str, *, unienc: bool = False) -> str | None:
    """Return our name of their tensor ``key``, with ``[i]`` where it is part i of ours, or None."""
    key = key.removeprefix("module.")
    for old, new in _LEGACY.items():
        if key.startswith(old):
            key = new + key.removeprefix(old)
    names = UNIENC_NAMES if unienc else CASSNAT_NAMES
    number = _NUMBER.search(key)
    # The extractor has one layer, which the table writes out.
    pattern = key if key.startswith("acembed_extractor.") else _NUMBER.sub("*", key, count=1)
    module, _, leaf = pattern.rpartition(".")
    if pattern in names:
        ours = names[pattern]
    elif leaf in _LEAVES and module in names:
        ours = f"{names[module]}.{_LEAVES[leaf]}"
    else:
        return None
    return ours.replace("*", number[0]) if number else ours


def map_state(
    state: Mapping[str, Tensor], *, unienc: bool = False, source: str = "checkpoint"
) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return their tensors under our names and in our shapes, and what became of each.

    Raises:
        CheckpointError: naming the tensors that have no counterpart, or parts of a fused tensor that do not match.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    keys: list[KeyMapping] = []
    for key, tensor in state.items():
        ours = destination_of(key, unienc=unienc)
        keys.append(KeyMapping(key, tuple(tensor.shape), ours))
        if ours is not None:
            part = _PART.search(ours)
            parts.setdefault(_PART.sub("", ours), {})[int(part[1]) if part else 0] = _in_our_form(key, tensor)
    leftover = [key.source for key in keys if key.destination is None]
    if leftover:
        raise CheckpointError(f"{source}: {len(leftover)} tensors have no counterpart: {listed(leftover)}")
    return {name: _fused(name, found, source) for name, found in parts.items()}, tuple(keys)


def _in_our_form(key: str, tensor: Tensor) -> Tensor:
    tensor = tensor.float()
    if ".pointwise_conv" in key and tensor.dim() == 3:
        tensor = tensor.squeeze(-1)  # a convolution of width 1 is a linear layer
    if key.endswith(".a_2"):
        tensor = tensor * math.sqrt((tensor.numel() - 1) / tensor.numel())
    return tensor


def _fused(name: str, parts: Mapping[int, Tensor], source: str) -> Tensor:
    num_parts = {"qkv": 3, "key_value": 2}.get(name.split(".")[-2], 1)
    tensors = [parts[i] for i in sorted(parts)]
    if len(tensors) != num_parts or len({tensor.shape for tensor in tensors}) != 1:
        shapes = [tuple(tensor.shape) for tensor in tensors]
        raise CheckpointError(f"{source}: {name} needs {num_parts} tensors of one shape, got {shapes}")
    return tensors[0] if num_parts == 1 else torch.cat(tensors)


def _statistics(source: Path, config: CassNatConfig | UniEncConfig) -> tuple[Tensor, Tensor]:
    size = build_frontend(config.frontend).num_features
    if not read_yaml(source / CONFIG_FILE).get("use_cmvn", True):
        return torch.zeros(size), torch.ones(size)
    if not (source / CMVN_FILE).is_file():
        raise ModelNotFoundError(f"{source}: {CMVN_FILE} with the Kaldi statistics is missing; or set use_cmvn: False")
    mean, std = read_kaldi_cmvn(source / CMVN_FILE)
    return torch.from_numpy(np.asarray(mean, np.float32)), torch.from_numpy(np.asarray(std, np.float32))


def is_cassnat(listing: Listing) -> bool:
    """Tell whether files are of a model of the authors' code."""
    return bool(in_root(listing, WEIGHTS_SUFFIX))


def wanted_of_cassnat(listing: Listing) -> tuple[str, ...]:
    """Return configuration, weights and vocabulary and, where they are, SentencePiece model, statistics and card."""
    weights = in_root(listing, WEIGHTS_SUFFIX)
    return (CONFIG_FILE, VOCAB_FILE, *weights, *listed_of(listing, SENTENCEPIECE_FILE, CMVN_FILE, CARD_FILE))


CASSNAT = Family("cassnat_asr", "config.yaml and one .mdl file", is_cassnat, wanted_of_cassnat, convert_cassnat)
