"""audiocraft's MAGNeT and EnCodec checkpoints to our model folders.

Nothing of a checkpoint is executed: the file is read by torch's restricted unpickler, its configuration as YAML. The
conversion is strict both ways: an option, a tensor or a shape that has no counterpart here is an error that names it.

Source: the checkpoints of audiocraft 1.4 (code MIT licence; Meta's weights CC-BY-NC 4.0): ``state_dict.bin`` and
``compression_state_dict.bin``, each a mapping with ``best_state`` and ``xp.cfg``.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speechnar.config import parse_config
from speechnar.errors import CheckpointError, ConfigError
from speechnar.interop.espnet_names import KeyMapping, check_fit, listed
from speechnar.interop.family import Family, Listing, listed_of
from speechnar.interop.files import (
    ConversionReport,
    existing,
    save_converted,
    why_refused,
)
from speechnar.models.sound.encodec import Encodec, EncodecConfig
from speechnar.models.sound.magnet import Magnet, MagnetConfig
from speechnar.pickled import load_pickled
from speechnar.plain_yaml import parse_yaml
from speechnar.text.tokenizer import BLANK, UNK, LexiconTokenizer

MODEL_FILE, CODEC_FILE = "state_dict.bin", "compression_state_dict.bin"
T5_DIMS = {"t5-small": 512, "t5-base": 768, "t5-large": 1024, "t5-3b": 1024, "t5-11b": 1024}

_LAYER = {
    "self_attn.in_proj_weight": "qkv.weight",
    "self_attn.out_proj.weight": "out.weight",
    "cross_attention.out_proj.weight": "memory.out.weight",
    "linear1.weight": "expand.weight",
    "linear2.weight": "contract.weight",
    "norm1.weight": "norm_attention.weight",
    "norm1.bias": "norm_attention.bias",
    "norm_cross.weight": "norm_memory.weight",
    "norm_cross.bias": "norm_memory.bias",
    "norm2.weight": "norm_ff.weight",
    "norm2.bias": "norm_ff.bias",
}
_MODEL_NAMES = (
    (re.compile(r"emb\.(\d+)\.weight"), r"embed.codes.\1.weight"),
    (re.compile(r"linears\.(\d+)\.weight"), r"heads.\1.weight"),
    (re.compile(r"out_norm\.(weight|bias)"), r"norm.\1"),
    (re.compile(r"condition_provider\.conditioners\.description\.output_proj\.(weight|bias)"), r"condition.project.\1"),
)
_MODEL_LAYER = re.compile(r"transformer\.layers\.(\d+)\.(.+)")
_CODEC_CONV = re.compile(r"(encoder|decoder)\.model\.(\d+)\.((?:block\.\d+\.)?)(?:conv\.conv|convtr\.convtr)\.(\w+)")
_CODEC_LSTM = re.compile(r"(encoder|decoder)\.model\.(\d+)\.lstm\.(\w+)")
_CODEC_BOOK = re.compile(r"quantizer\.vq\.layers\.(\d+)\._codebook\.(inited|cluster_size|embed|embed_avg)")
_NORMED = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}

# What every published model has, and all that our implementation has.
_LM_OPTIONS: Mapping[str, Any] = {
    "activation": "gelu",
    "norm_first": True,
    "bias_ff": False,
    "bias_attn": False,
    "bias_proj": False,
    "past_context": None,
    "causal": False,
    "layer_scale": None,
    "positional_embedding": "sin",
    "xpos": False,
    "norm": "layer_norm",
    "qk_layer_norm": False,
    "qk_layer_norm_cross": False,
    "kv_repeat": 1,
}
_SEANET_OPTIONS: Mapping[str, Any] = {
    "channels": 1,
    "causal": False,
    "activation": "ELU",
    "norm": "weight_norm",
    "kernel_size": 7,
    "residual_kernel_size": 3,
    "last_kernel_size": 7,
    "dilation_base": 2,
    "pad_mode": "constant",
    "true_skip": True,
    "compress": 2,
    "disable_norm_outer_blocks": 0,
}


def convert_audiocraft(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a folder of audiocraft with a MAGNeT and its EnCodec, or with an EnCodec alone, into a model folder of ours.

    Args:
        source: folder with ``compression_state_dict.bin`` and, of MAGNeT, ``state_dict.bin``.
        destination: folder to write; created if absent.

    Raises:
        ModelNotFoundError: ``source`` lacks the codec's file.
        ConfigError: the model has options that our implementation has not; all of one section are named.
        CheckpointError: the files hold more than tensors and settings, or weights that are not of the configuration.
    """
    source, destination = Path(source), Path(destination)
    codec_path = existing(source, CODEC_FILE)
    codec_options, codec_weights = read_checkpoint(codec_path)
    codec_config = codec_config_of(codec_options, str(codec_path))
    codec_state, codec_keys = map_codec(codec_weights, str(codec_path))
    tokenizer = LexiconTokenizer((BLANK, UNK), {})  # text goes to the text encoder's own
    card = (
        f"# {source.resolve().name}\n\nConverted from an audiocraft checkpoint; the licence of the original applies.\n"
    )
    model: Encodec | Magnet
    if not (source / MODEL_FILE).is_file():
        with torch.device("meta"):
            model = Encodec(codec_config)
        state, keys, path = codec_state, codec_keys, codec_path
    else:
        path = source / MODEL_FILE
        options, weights = read_checkpoint(path)
        config = magnet_config_of(options, codec_config, str(path))
        with torch.device("meta"):  # nothing is allocated before everything is known to fit
            model = Magnet(config, tokenizer)
        state, keys = map_magnet(weights, str(path))
        state |= {f"codec.{name}": tensor for name, tensor in codec_state.items()}
        keys += tuple(
            KeyMapping(key.source, key.shape, key.destination and f"codec.{key.destination}") for key in codec_keys
        )
    check_fit(model, state, source=str(path))
    model.load_state_dict(state, assign=True)
    return save_converted(destination, model, tokenizer, keys, card=card)


def read_checkpoint(path: Path) -> tuple[Mapping[str, Any], Mapping[str, Tensor]]:
    """Return the configuration and the weights, in float32, of one of audiocraft's files.

    Raises:
        CheckpointError: it holds more than tensors and plain settings, or refers to a model elsewhere.
    """
    try:
        content = load_pickled(path)
    except Exception as error:  # a damaged pickle raises whatever its bytes happen to say
        reason = why_refused(error)
        raise CheckpointError(f"{path}: must be a checkpoint of tensors and settings only ({reason})") from None
    if isinstance(content, dict) and "pretrained" in content:
        raise CheckpointError(
            f"{path}: refers to the model {str(content['pretrained'])[:100]!r}; put that model's file in its place"
        )
    if not isinstance(content, dict) or not {"best_state", "xp.cfg"} <= content.keys():
        raise CheckpointError(f"{path}: must hold best_state and xp.cfg, as audiocraft exports models")
    try:
        options = parse_yaml(content["xp.cfg"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: xp.cfg must be plain YAML ({error})") from None
    weights = content["best_state"]
    weights = weights.get("model", weights) if isinstance(weights, dict) else weights
    if not isinstance(options, dict) or not isinstance(weights, dict):
        raise CheckpointError(f"{path}: best_state and xp.cfg must be mappings")
    strangers = [str(key)[:60] for key, value in weights.items() if not torch.is_tensor(value)]
    if strangers:
        raise CheckpointError(f"{path}: best_state must hold tensors; not so: {listed(strangers)}")
    return options, {key: value.float() if value.is_floating_point() else value for key, value in weights.items()}


def codec_config_of(options: Mapping[str, Any], source: str) -> EncodecConfig:
    """Return the configuration of the codec of an ``xp.cfg``.

    Raises:
        ConfigError: it has options that ours has not.
    """
    seanet, rvq = _section(options, "seanet", source), _section(options, "rvq", source)
    _check_options(seanet, _SEANET_OPTIONS, f"{source}: seanet")
    encodec = _section(options, "encodec", source)
    _check_options(encodec, {"channels": 1, "causal": False, "renormalize": False}, f"{source}: encodec")
    decoder = seanet.get("decoder") or {}
    _check_options(decoder, {"final_activation": None}, f"{source}: seanet.decoder")
    values = {
        "sample_rate": encodec.get("sample_rate", options.get("sample_rate")),
        "ratios": seanet.get("ratios"),
        "num_filters": seanet.get("n_filters"),
        "num_residual_layers": seanet.get("n_residual_layers"),
        "lstm_layers": seanet.get("lstm"),
        "latent_dim": seanet.get("dimension"),
        "num_codebooks": rvq.get("n_q"),
        "codebook_size": rvq.get("bins"),
    }
    if isinstance(values["sample_rate"], str):  # ${sample_rate}
        values["sample_rate"] = options.get("sample_rate")
    learned = EncodecConfig.published().model_dump(include={"wav_weight", "mel_weight", "commitment_weight"})
    return parse_config({**values, **learned, "warmup_steps": 0}, EncodecConfig, source=source)


def magnet_config_of(options: Mapping[str, Any], codec: EncodecConfig, source: str) -> MagnetConfig:
    """Return the configuration of the MAGNeT of an ``xp.cfg``.

    Raises:
        ConfigError: it is another kind of model, or has options that ours has not.
    """
    if options.get("lm_model") != "transformer_lm_magnet":
        raise ConfigError(
            f"{source}: lm_model must be transformer_lm_magnet, got {str(options.get('lm_model'))[:60]!r}"
        )
    sizes = _section(options, "transformer_lm", source)
    _check_options(sizes, _LM_OPTIONS, f"{source}: transformer_lm")
    if (sizes.get("n_q"), sizes.get("card")) != (codec.num_codebooks, codec.codebook_size):
        raise ConfigError(
            f"{source}: transformer_lm needs a codec of {sizes.get('n_q')} x {sizes.get('card')} codes, got one of "
            f"{codec.num_codebooks} x {codec.codebook_size}"
        )
    text = (_section(options, "conditioners", source).get("description") or {}).get("t5") or {}
    encoder = str(text.get("name"))
    if encoder.removeprefix("google-t5/") not in T5_DIMS:
        known = ", ".join(T5_DIMS)
        raise ConfigError(f"{source}: conditioners.description.t5.name must be one of {known}, got {encoder[:60]!r}")
    seconds = _section(options, "dataset", source).get("segment_duration")
    generate = (options.get("generate") or {}).get("lm") or {}
    sampling = {
        "steps": generate.get("decoding_steps"),
        "temperature": generate.get("temp"),
        "top_p": generate.get("top_p"),
        "guidance": [generate.get("max_cfg_coef"), generate.get("min_cfg_coef")],
    }
    dim = sizes.get("dim")
    values = {
        "codec": codec.model_dump(),
        "network": {
            "model_dim": dim,
            "num_layers": sizes.get("num_layers"),
            "num_heads": sizes.get("num_heads"),
            "ff_dim": sizes.get("hidden_scale", 4) * dim if isinstance(dim, int) else None,
            "dropout": sizes.get("dropout", 0.0),
            "positions": "absolute",
        },
        "condition": {
            "kind": "text",
            "encoder": encoder,
            "text_dim": T5_DIMS[encoder.removeprefix("google-t5/")],
        },
        "window_frames": round(seconds * codec.frame_rate) if isinstance(seconds, int | float) else None,
        "span_len": (options.get("masking") or {}).get("span_len"),
        "reach": sizes.get("subcodes_context"),
        "shares": [1 / codec.num_codebooks] * codec.num_codebooks,
        "prompted_prob": 0.0,
        "left_out_prob": (options.get("classifier_free_guidance") or {}).get("training_dropout", 0.0),
    }
    if all(value is not None and value != [None, None] for value in sampling.values()) and sampling["top_p"]:
        values["sampling"] = sampling
    else:
        values["sampling"] = MagnetConfig.published().sampling.model_dump()
    return parse_config(values, MagnetConfig, source=source)


def map_codec(weights: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return EnCodec's tensors by our names, and what became of each.

    Raises:
        CheckpointError: a tensor has no counterpart.
    """
    state, keys, unknown = {"quantizer.steps": torch.zeros(())}, [], []
    for key, tensor in weights.items():
        name = None
        if match := _CODEC_CONV.fullmatch(key):
            side, layer, block, leaf = match.groups()
            name = f"{side}.layers.{layer}.{block}conv.{_NORMED.get(leaf, leaf)}"
        elif match := _CODEC_LSTM.fullmatch(key):
            name = f"{match[1]}.layers.{match[2]}.lstm.{match[3]}"
        elif match := _CODEC_BOOK.fullmatch(key):
            name = f"quantizer.layers.{match[1]}.{match[2]}"
        if name is None:
            unknown.append(key)
        else:
            state[name] = tensor
            keys.append(KeyMapping(key, tuple(tensor.shape), name))
    _check_known(unknown, source)
    return state, tuple(keys)


def map_magnet(weights: Mapping[str, Tensor], source: str) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return MAGNeT's tensors by our names, and what became of each.

    Raises:
        CheckpointError: a tensor has no counterpart.
    """
    state: dict[str, Tensor] = {}
    keys, unknown = [], []
    for key, tensor in weights.items():
        name: str | None = None
        if match := _MODEL_LAYER.fullmatch(key):
            prefix = f"transformer.layers.{match[1]}"
            if match[2] == "cross_attention.in_proj_weight" and tensor.size(0) % 3 == 0:
                query, key_value = tensor[: tensor.size(0) // 3], tensor[tensor.size(0) // 3 :]
                state |= {f"{prefix}.memory.query.weight": query, f"{prefix}.memory.key_value.weight": key_value}
                keys.append(KeyMapping(key, tuple(tensor.shape), f"{prefix}.memory.query.weight, key_value.weight"))
                continue
            name = f"{prefix}.{_LAYER[match[2]]}" if match[2] in _LAYER else None
        else:
            found = (pattern.sub(ours, key) for pattern, ours in _MODEL_NAMES if pattern.fullmatch(key))
            name = next(found, None)
        if name is None:
            unknown.append(key)
        else:
            state[name] = tensor
            keys.append(KeyMapping(key, tuple(tensor.shape), name))
    _check_known(unknown, source)
    return state, tuple(keys)


def _section(options: Mapping[str, Any], name: str, source: str) -> Mapping[str, Any]:
    section = options.get(name)
    if not isinstance(section, dict):
        raise ConfigError(f"{source}: xp.cfg must have a section {name}")
    return section


def _check_options(section: Mapping[str, Any], wanted: Mapping[str, Any], source: str) -> None:
    faults = [
        f"{name} must be {value!r}, got {section[name]!r}"[:120]
        for name, value in wanted.items()
        if name in section and section[name] != value and not str(section[name]).startswith("${")
    ]
    if faults:
        raise ConfigError(f"{source}: {'; '.join(faults)}")


def _check_known(unknown: Sequence[str], source: str) -> None:
    if unknown:
        raise CheckpointError(f"{source}: no counterpart for {len(unknown)} tensors: {listed(list(unknown))}")


def is_audiocraft(listing: Listing) -> bool:
    """Tell whether files are of a model of audiocraft."""
    return bool(listed_of(listing, MODEL_FILE, CODEC_FILE))


def wanted_of_audiocraft(listing: Listing) -> tuple[str, ...]:
    """Return the codec and, where there is one, the language model."""
    return (CODEC_FILE, *listed_of(listing, MODEL_FILE))


AUDIOCRAFT = Family("audiocraft", CODEC_FILE, is_audiocraft, wanted_of_audiocraft, convert_audiocraft)
