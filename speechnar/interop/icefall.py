"""icefall's Zipformers with a CTC head, CR-CTC's among them, to our model folders.

A checkpoint holds tensors only, so that sizes are read from their shapes. Transducer and attention decoder of a model
that has them are left out, with every tensor in the report. Nothing is executed, and the conversion is strict both
ways: a tensor without a counterpart here is an error that names it, and so is one that is missing.

Sources: icefall (Apache-2.0, revision 36e0420), ``egs/librispeech/ASR/zipformer``: ``train.py`` (``get_model``),
``export.py`` (``pretrained.pt``) and ``pretrained_ctc.py`` (features, and which piece is the blank).
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import sentencepiece
from torch import Tensor

from speechnar.audio.fbank import KaldiFbankConfig
from speechnar.config import parse_config
from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop.espnet_names import KeyMapping, listed
from speechnar.interop.family import CARD_FILE, Family, FolderListing, Listing, listed_of
from speechnar.interop.files import (
    ConversionReport,
    card_of,
    read_tensors,
    save_converted,
    with_weights,
)
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.nn.frontend import build_normalizer
from speechnar.nn.zipformer import ZipformerConfig
from speechnar.text.tokenizer import BLANK, SentencePieceTokenizer

BPE_FILE = "bpe.model"
POSITION_HEAD_DIM = 4
"""Of every published model; no tensor tells it from the number of heads."""

_LAYER = {
    "self_attn_weights.in_proj": "attention.proj",
    "self_attn_weights.linear_pos": "attention.pos",
    "nonlin_attention.in_proj": "gate.proj",
    "nonlin_attention.out_proj": "gate.out",
    "bypass_mid.bypass_scale": "bypasses.0.scale",
    "bypass.bypass_scale": "bypasses.1.scale",
    "norm": "norm",
    **{
        f"{theirs}{number}.{part}": f"{ours}.{number - 1}.{name}"
        for theirs, ours, last in (("self_attn", "values", 2), ("conv_module", "convs", 2), ("feed_forward", "ff", 3))
        for number in range(1, last + 1)
        for part, name in (("in_proj", "proj"), ("out_proj", "out"), ("depthwise_conv", "depthwise"))
        if part != "depthwise_conv" or ours == "convs"
    },
}
"""Modules and lone tensors of a block by our names."""
_STACK = {"downsample.bias": "downsampling.weight", "out_combiner.bypass_scale": "bypass.scale"}
_NAMES = {
    **{f"encoder_embed.conv.{place}": f"encoder.subsampling.convs.{i}" for i, place in enumerate((0, 4, 7))},
    "encoder_embed.convnext.depthwise_conv": "encoder.subsampling.depthwise",
    "encoder_embed.convnext.pointwise_conv1": "encoder.subsampling.pointwise_in",
    "encoder_embed.convnext.pointwise_conv2": "encoder.subsampling.pointwise_out",
    "encoder_embed.out": "encoder.subsampling.proj",
    "encoder_embed.out_norm": "encoder.subsampling.norm",
    "encoder.downsample_output.bias": "encoder.halving.weight",
    "ctc_output.1": "ctc.proj",
}
_LEAVES = frozenset({"weight", "bias", "log_scale"})
_IN_LAYER = re.compile(r"encoder\.encoders\.(\d+)\.(?:encoder\.)?layers\.(\d+)\.(.+)")
_IN_STACK = re.compile(r"encoder\.encoders\.(\d+)\.(.+)")
_WEIGHTS = re.compile(r"(?:exp[^/]*/)?(?:pretrained|epoch-\d+(?:-avg-\d+)?)\.pt")
_SKIPPED = ("decoder.", "joiner.", "simple_am_proj.", "simple_lm_proj.", "attention_decoder.")
_UNUSED = "bypass_scale"
"""Of a block: in the file, but read by nothing there."""


def convert_icefall(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a Zipformer of icefall with a CTC head into a model folder of kind ``owsm_ctc``.

    Args:
        source: folder with one ``pretrained.pt`` or ``epoch-*.pt``, at the top or in ``exp*/``, and ``bpe.model``, at
            the top or in ``data/lang*/``; the card is heeded if it is there.
        destination: folder to write; created if absent.

    Raises:
        ModelNotFoundError: ``source`` lacks one of these files, or has several.
        ConfigError: the model is a streaming one, or of other sizes than icefall can have.
        CheckpointError: the weights hold more than tensors, have no CTC head, or are not those of a Zipformer.
        DataError: the SentencePiece model is malformed, or not of the head's vocabulary.
    """
    source, destination = Path(source), Path(destination)
    weights, bpe = _find_files(FolderListing(source))
    theirs = read_tensors(source / weights, ("model",))
    state, keys = map_state(theirs, source=str(source / weights))
    frontend = KaldiFbankConfig(window="povey", snip_edges=False, high_freq=-400.0, scale=1.0)
    config = OwsmCtcConfig(
        frontend=frontend,
        normalize="global",  # by 0 and 1: features are as they are
        encoder=sizes_of(state, source=str(source / weights)),
        interctc_layers=(),
        interctc_asr_only=(),
        prompt=None,
    )
    tokenizer = _read_vocabulary(source / bpe, len(state["ctc.proj.bias"]))
    normalizer = build_normalizer("global", frontend.num_mels)
    state.update({f"normalizer.{name}": tensor for name, tensor in normalizer.state_dict().items()})
    model = with_weights(lambda: OwsmCtc(config, tokenizer), state, source=str(source / weights))
    return save_converted(destination, model, tokenizer, keys, card=card_of(source, "icefall"))


def destination_of(key: str) -> str | None:
    """Return our name of icefall's tensor ``key``, or None."""
    layer, stack = _IN_LAYER.fullmatch(key), _IN_STACK.fullmatch(key)
    if layer is not None:
        ours = _named(layer[3], _LAYER)
        return None if ours is None else f"encoder.stacks.{layer[1]}.layers.{layer[2]}.{ours}"
    if stack is not None:
        ours = _named(stack[2], _STACK)
        return None if ours is None else f"encoder.stacks.{stack[1]}.{ours}"
    return _named(key, _NAMES)


def _named(key: str, names: Mapping[str, str]) -> str | None:
    module, _, leaf = key.rpartition(".")
    if key in names:
        return names[key]
    return f"{names[module]}.{leaf}" if module in names and leaf in _LEAVES else None


def map_state(theirs: Mapping[str, Tensor], *, source: str) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return the tensors under our names, in float32, and what became of each.

    Raises:
        ConfigError: they are of a streaming model.
        CheckpointError: naming those that have no counterpart; or there is no CTC head.
    """
    if any(".causal_conv." in name for name in theirs):
        raise ConfigError(f"{source}: is of a streaming Zipformer (causal convolutions), which is not supported")
    if "ctc_output.1.weight" not in theirs or "ctc_output.1.bias" not in theirs:
        raise CheckpointError(f"{source}: has no CTC head (ctc_output); train with --use-ctc 1")
    state: dict[str, Tensor] = {}
    keys: list[KeyMapping] = []
    leftover: list[str] = []
    for name, tensor in theirs.items():
        ours = destination_of(name)
        layer = _IN_LAYER.fullmatch(name)
        is_skipped = name.startswith(_SKIPPED) or (layer is not None and layer[3] == _UNUSED)
        keys.append(KeyMapping(name, tuple(tensor.shape), ours))
        if ours is not None:
            state[ours] = tensor.float()
        elif not is_skipped:
            leftover.append(name)
    if leftover:
        raise CheckpointError(f"{source}: {len(leftover)} tensors have no counterpart: {listed(leftover)}")
    return state, tuple(keys)


def sizes_of(state: Mapping[str, Tensor], *, source: str) -> ZipformerConfig:
    """Return the sizes of a Zipformer whose tensors, by our names, have these shapes.

    Raises:
        CheckpointError: a tensor that tells a size is missing.
        ConfigError: the sizes do not go together.
    """

    def shape(name: str) -> tuple[int, ...]:
        if name not in state:
            raise CheckpointError(f"{source}: must hold what becomes {name}")
        return tuple(state[name].shape)

    found = [re.match(r"encoder\.stacks\.(\d+)\.layers\.(\d+)\.", name) for name in state]
    layers: dict[int, set[int]] = {}
    for match in filter(None, found):
        layers.setdefault(int(match[1]), set()).add(int(match[2]))
    if sorted(layers) != list(range(len(layers))) or not layers:
        raise CheckpointError(f"{source}: must hold stacks of blocks, numbered from 0 on")
    firsts = [f"encoder.stacks.{index}.layers.0" for index in range(len(layers))]
    heads = [shape(f"{first}.attention.pos.weight")[0] // POSITION_HEAD_DIM for first in firsts]
    projected, num_heads = shape(f"{firsts[0]}.attention.proj.bias")[0], max(1, heads[0])
    return parse_config(
        {
            "kind": "zipformer",
            "model_dims": [shape(f"{first}.norm.bias")[0] for first in firsts],
            "layers_of_stacks": [len(layers[index]) for index in range(len(layers))],
            "downsampling": [
                len(state.get(f"encoder.stacks.{index}.downsampling.weight", (0,))) for index in range(len(layers))
            ],
            "heads_of_stacks": heads,
            "ff_dims": [shape(f"{first}.ff.1.proj.bias")[0] for first in firsts],
            "kernel_sizes": [shape(f"{first}.convs.0.depthwise.weight")[-1] for first in firsts],
            "query_head_dim": (projected // num_heads - POSITION_HEAD_DIM) // 2,
            "position_head_dim": POSITION_HEAD_DIM,
            "value_head_dim": shape(f"{firsts[0]}.values.0.proj.bias")[0] // num_heads,
            "position_dim": shape(f"{firsts[0]}.attention.pos.weight")[-1],
            "subsampling_channels": [shape(f"encoder.subsampling.convs.{i}.bias")[0] for i in range(3)],
        },
        ZipformerConfig,
        source=source,
    )


def _read_vocabulary(path: Path, vocab_size: int) -> SentencePieceTokenizer:
    """Return the tokenizer of a SentencePiece model, whose ids are the head's; its first piece is the blank."""
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes())
        pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    except (OSError, RuntimeError):
        raise DataError(f"{path}: must be a SentencePiece model") from None
    if len(pieces) != vocab_size:
        raise DataError(f"{path}: must hold {vocab_size} pieces, as the head has, got {len(pieces)}")
    renamed = {"<blk>": BLANK, "<sos/eos>": "<eos>"}
    return SentencePieceTokenizer(path, [renamed.get(piece, piece) for piece in pieces], source=str(path))


def _find_files(listing: Listing) -> tuple[str, str]:
    """Return the names of weights and SentencePiece model.

    Raises:
        ModelNotFoundError: there are none, or several of equal right.
    """
    weights = sorted(name for name in listing.names if _WEIGHTS.fullmatch(name))
    averaged = [name for name in weights if name.endswith("pretrained.pt")] or weights
    models = sorted(name for name in listing.names if _is_bpe(name))
    if len(averaged) != 1 or len(models) != 1:
        raise ModelNotFoundError(
            f"{listing.source}: need one pretrained.pt or epoch-*.pt, at the top or in exp*/, and one {BPE_FILE}, at "
            f"the top or in data/lang*/; found {len(averaged)} and {len(models)}"
        )
    return averaged[0], models[0]


def _is_bpe(name: str) -> bool:
    folders = PurePosixPath(name).parts[:-1]
    in_place = not folders or (len(folders) == 2 and folders[0] == "data" and folders[1].startswith("lang"))
    return in_place and PurePosixPath(name).name == BPE_FILE


def is_icefall(listing: Listing) -> bool:
    """Tell whether files are of a model of icefall with subwords."""
    return any(map(_WEIGHTS.fullmatch, listing.names)) and any(map(_is_bpe, listing.names))


def wanted_of_icefall(listing: Listing) -> tuple[str, ...]:
    """Return weights, SentencePiece model and, where it is listed, the card.

    Raises:
        ModelNotFoundError: there are several of equal right.
    """
    return (*_find_files(listing), *listed_of(listing, CARD_FILE))


ICEFALL = Family(
    "icefall",
    "pretrained.pt or epoch-*.pt, and bpe.model",
    is_icefall,
    wanted_of_icefall,
    convert_icefall,
)
