"""wav2vec 2.0's and HuBERT's checkpoints of Hugging Face to our model folders.

A pretrained one becomes a folder of kind ``wav2vec2``, from which others begin. One that was fine-tuned with CTC is
made the recogniser that it is: ``owsm_ctc`` without blocks, languages and prompt. Nothing is executed, and the
conversion is strict both ways: a tensor without a counterpart here is an error that names it, and so is one that is
missing. What only served pretraining (quantiser and projections of the contrastive loss) is skipped, and reported so.

Differs from transformers: utterances in a batch give what they give alone (`speechnar.nn.wav2vec2`), and nothing is
added to the variance by which samples are normalised; there, 1e-7 is, which matters below -60 dBFS only.

Source: the state dictionaries of transformers' ``Wav2Vec2Model``, ``Wav2Vec2ForPreTraining``, ``Wav2Vec2ForCTC``,
``HubertModel`` and ``HubertForCTC``, and their ``config.json``, ``preprocessor_config.json`` and ``vocab.json``.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, model_validator
from torch import Tensor

from speechnar.audio.fbank import WaveformConfig
from speechnar.config import Config, parse_config
from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop.espnet_names import KeyMapping, check_fit, listed
from speechnar.interop.family import (
    CONFIG_FILE,
    PICKLE_FILE,
    SAFETENSORS_FILE,
    Family,
    Listing,
    listed_of,
    transformers_config,
    transformers_weights,
)
from speechnar.interop.files import ConversionReport, read_tensors, read_yaml
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.asr.wav2vec2 import Wav2Vec2, Wav2Vec2ModelConfig
from speechnar.models.base import read_weights, save_model
from speechnar.nn.wav2vec2 import KERNELS, NORM_EPS, STRIDES, Wav2Vec2Config, Wav2Vec2TrunkConfig
from speechnar.text.tokenizer import BLANK, UNK, WORD_START, CharTokenizer

PREPROCESSOR_FILE = "preprocessor_config.json"
VOCAB_FILE, ADDED_FILE, TOKENIZER_FILE = "vocab.json", "added_tokens.json", "tokenizer_config.json"
MODEL_TYPES = ("wav2vec2", "hubert")
SAMPLE_RATE = 16000

_POSITIONS = "encoder.pos_conv_embed.conv"
_NAMES = {
    "feature_extractor.conv_layers.*.conv": "convolutions.convs.*",
    "feature_extractor.conv_layers.*.layer_norm": "convolutions.norms.*",
    "feature_projection.layer_norm": "projection.norm",
    "feature_projection.projection": "projection.proj",
    "masked_spec_embed": "projection.mask_embed",
    f"{_POSITIONS}.bias": "positions.bias",
    # The two spellings of a normalised weight: of torch.nn.utils, and of torch.nn.utils.parametrizations.
    f"{_POSITIONS}.weight_g": "positions.magnitude",
    f"{_POSITIONS}.weight_v": "positions.direction",
    f"{_POSITIONS}.parametrizations.weight.original0": "positions.magnitude",
    f"{_POSITIONS}.parametrizations.weight.original1": "positions.direction",
    "encoder.layers.*.attention.q_proj": "layers.*.attention.qkv[0]",
    "encoder.layers.*.attention.k_proj": "layers.*.attention.qkv[1]",
    "encoder.layers.*.attention.v_proj": "layers.*.attention.qkv[2]",
    "encoder.layers.*.attention.out_proj": "layers.*.attention.out",
    "encoder.layers.*.layer_norm": "layers.*.norm_attention",
    "encoder.layers.*.feed_forward.intermediate_dense": "layers.*.ff.1",
    "encoder.layers.*.feed_forward.output_dense": "layers.*.ff.4",
    "encoder.layers.*.final_layer_norm": "layers.*.ff.0",
}
_OUTER_NORM = "encoder.layer_norm"
_HEAD = "lm_head"
_PRETRAINING = ("quantizer.", "project_q.", "project_hid.")
_NUMBER = re.compile(r"(?<=layers\.)\d+")
_PART = re.compile(r"\[(\d)\]")


class _Options(Config):
    """What ``config.json`` says of the network; what it says of training is left out. Defaults are transformers'."""

    model_config = ConfigDict(extra="ignore")

    model_type: Literal["wav2vec2", "hubert"]
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Literal["gelu"] = "gelu"
    layer_norm_eps: float = NORM_EPS
    do_stable_layer_norm: bool = False
    feat_extract_norm: Literal["group", "layer"] = "group"
    feat_extract_activation: Literal["gelu"] = "gelu"
    feat_proj_layer_norm: Literal[True] = True
    conv_dim: tuple[int, ...] = (512,) * len(KERNELS)
    conv_kernel: tuple[int, ...] = KERNELS
    conv_stride: tuple[int, ...] = STRIDES
    conv_bias: bool = False
    num_conv_pos_embeddings: int = 128
    num_conv_pos_embedding_groups: int = 16
    conv_pos_batch_norm: Literal[False] = False
    add_adapter: Literal[False] = False
    adapter_attn_dim: None = None
    pad_token_id: int | None = 0

    @model_validator(mode="after")
    def _check(self) -> "_Options":
        is_known = (self.conv_kernel, self.conv_stride) == (KERNELS, STRIDES)
        if not is_known or len(self.conv_dim) != len(KERNELS) or len(set(self.conv_dim)) != 1:
            raise ValueError(
                f"the convolutions must have kernels {KERNELS}, strides {STRIDES} and one width, "
                f"got {self.conv_kernel}, {self.conv_stride} and {self.conv_dim}"
            )
        if self.layer_norm_eps != NORM_EPS:
            raise ValueError(f"layer_norm_eps must be {NORM_EPS}, got {self.layer_norm_eps}")
        return self

    def network(self) -> Wav2Vec2Config:
        """Return our configuration of the same network."""
        values = {
            "conv_dim": self.conv_dim[0],
            "conv_norm": self.feat_extract_norm,
            "conv_bias": self.conv_bias,
            "model_dim": self.hidden_size,
            "num_layers": self.num_hidden_layers,
            "num_heads": self.num_attention_heads,
            "ff_dim": self.intermediate_size,
            "norm_first": self.do_stable_layer_norm,
            "position_kernel": self.num_conv_pos_embeddings,
            "position_groups": self.num_conv_pos_embedding_groups,
        }
        return parse_config(values, Wav2Vec2Config, source="their configuration")


def convert_wav2vec2(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a wav2vec 2.0 or a HuBERT into a model folder: of kind ``owsm_ctc`` with a CTC head, else ``wav2vec2``.

    Args:
        source: folder with ``config.json``, ``model.safetensors`` or ``pytorch_model.bin`` and, of a recogniser,
            ``vocab.json``; ``preprocessor_config.json`` and ``tokenizer_config.json`` are heeded if they are there.
        destination: folder to write; created if absent.

    Raises:
        ModelNotFoundError: ``source`` lacks a file.
        ConfigError: the network has options that ours has not; all of them are named.
        CheckpointError: the weights hold more than tensors, or are not those of the configuration.
        DataError: the vocabulary is malformed, or not of characters.
    """
    source, destination = Path(source), Path(destination)
    options = parse_config(read_yaml(source / CONFIG_FILE), _Options, source=str(source / CONFIG_FILE))
    _check_preprocessor(source, options)
    network = options.network()
    path = _find_weights(source)
    theirs = read_weights(path) if path.name == SAFETENSORS_FILE else read_tensors(path, ())
    state, keys = map_state(theirs, norm_first=network.norm_first, source=str(path))
    # A model that was fine-tuned without masks has no embedding of what is masked.
    state.setdefault("encoder.projection.mask_embed", torch.zeros(network.model_dim))
    model: Wav2Vec2 | OwsmCtc
    tokenizer = CharTokenizer((BLANK, UNK))
    if "ctc.proj.weight" in state:
        tokenizer = _read_vocabulary(source, options.pad_token_id)
        state = {_in_recogniser(name): tensor for name, tensor in state.items()}
    with torch.device("meta"):  # nothing is allocated before everything is known to fit
        if "ctc.proj.weight" in state:
            model = OwsmCtc(_recogniser(network), tokenizer)
        else:
            model = Wav2Vec2(Wav2Vec2ModelConfig(encoder=network))
    check_fit(model, state, source=str(path))
    model.load_state_dict(state, assign=True)
    card = (
        f"# {source.resolve().name}\n\n"
        f"Converted from a checkpoint of transformers ({options.model_type}); the licence of the original applies.\n"
    )
    tasks = "---\ntasks: [asr]\n---\n" if isinstance(model, OwsmCtc) else ""
    save_model(destination, model, tokenizer, card=tasks + card)
    return ConversionReport(destination, sum(parameter.numel() for parameter in model.parameters()), keys)


def _recogniser(network: Wav2Vec2Config) -> OwsmCtcConfig:
    """Return a CTC recogniser that reads the states of ``network`` directly."""
    return OwsmCtcConfig(
        frontend=WaveformConfig(sample_rate=SAMPLE_RATE),
        normalize="utterance",
        encoder=Wav2Vec2TrunkConfig(wav2vec2=network),
        interctc_layers=(),
        interctc_asr_only=(),
        prompt=None,
    )


def _in_recogniser(name: str) -> str:
    half = "encoder."
    return f"{half}wav2vec2.{name.removeprefix(half)}" if name.startswith(half) else name


def _check_preprocessor(source: Path, options: _Options) -> None:
    """Raise ConfigError where samples are prepared otherwise than we do."""
    if not (source / PREPROCESSOR_FILE).is_file():
        return
    values = read_yaml(source / PREPROCESSOR_FILE)
    rate = values.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise ConfigError(f"{source / PREPROCESSOR_FILE}: sampling_rate must be {SAMPLE_RATE}, got {rate!r}")
    # A group norm takes level and offset of the samples out again, whether they were taken out before or not.
    if options.feat_extract_norm == "layer" and values.get("do_normalize", True) is not True:
        raise ConfigError(f"{source / PREPROCESSOR_FILE}: do_normalize must be true with feat_extract_norm layer")


def _find_weights(source: Path) -> Path:
    for name in (SAFETENSORS_FILE, PICKLE_FILE):
        if (source / name).is_file():
            return source / name
    raise ModelNotFoundError(f"{source}: need {SAFETENSORS_FILE} or {PICKLE_FILE}, in one piece")


def map_state(
    theirs: Mapping[str, Tensor], *, norm_first: bool, source: str
) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return the tensors under our names, ``encoder.*`` and ``ctc.*``, in float32, and what became of each.

    Raises:
        CheckpointError: naming the tensors that have no counterpart, or parts of a fused tensor that are missing.
    """
    parts: dict[str, dict[int, Tensor]] = {}
    keys: list[KeyMapping] = []
    leftover: list[str] = []
    for key, tensor in theirs.items():
        ours = destination_of(key, norm_first=norm_first)
        keys.append(KeyMapping(key, tuple(tensor.shape), ours))
        if ours is not None:
            part = _PART.search(ours)
            parts.setdefault(_PART.sub("", ours), {})[int(part[1]) if part else 0] = tensor.float()
        elif not key.startswith(_PRETRAINING):
            leftover.append(key)
    if leftover:
        raise CheckpointError(f"{source}: {len(leftover)} tensors have no counterpart: {listed(leftover)}")
    torn = [name for name, found in parts.items() if len(found) != (3 if ".qkv." in name else 1)]
    if torn:
        raise CheckpointError(f"{source}: queries, keys or values are missing of {listed(torn)}")
    return {name: torch.cat([found[i] for i in sorted(found)]) for name, found in parts.items()}, tuple(keys)


def destination_of(key: str, *, norm_first: bool) -> str | None:
    """Return our name of their tensor ``key``, with ``[i]`` where it is part i of ours, or None."""
    if key.startswith(f"{_HEAD}."):
        return f"ctc.proj.{key.removeprefix(f'{_HEAD}.')}"
    inner = key.removeprefix("wav2vec2.").removeprefix("hubert.")
    number = _NUMBER.search(inner)
    pattern = _NUMBER.sub("*", inner, count=1)
    module, _, leaf = pattern.rpartition(".")
    if pattern in _NAMES:
        ours = _NAMES[pattern]
    elif module == _OUTER_NORM and leaf in ("weight", "bias"):
        ours = f"{'norm' if norm_first else 'norm_in'}.{leaf}"
    elif module in _NAMES and leaf in ("weight", "bias"):
        name, bracket, part = _NAMES[module].partition("[")
        ours = f"{name}.{leaf}{bracket}{part}"
    else:
        return None
    return f"encoder.{ours.replace('*', number[0]) if number else ours}"


def _read_vocabulary(source: Path, blank_id: int | None) -> CharTokenizer:
    """Return the tokenizer of ``vocab.json``: a piece a character, spaces as a delimiter, blank where padding is.

    Raises:
        ModelNotFoundError: there is no such file.
        DataError: it is malformed, of several languages, without an unknown piece, or holds more than characters.
    """
    path = source / VOCAB_FILE
    if not path.is_file():
        raise ModelNotFoundError(f"{source}: {VOCAB_FILE} is missing; the checkpoint has a CTC head")
    vocab: dict[str, Any] = read_yaml(path)
    if (source / ADDED_FILE).is_file():
        vocab |= read_yaml(source / ADDED_FILE)
    names = read_yaml(source / TOKENIZER_FILE) if (source / TOKENIZER_FILE).is_file() else {}
    places = {number: str(piece) for piece, number in vocab.items() if isinstance(number, int)}
    if len(places) != len(vocab) or sorted(places) != list(range(len(vocab))):
        raise DataError(f"{path}: must map every piece to a number of its own, from 0 on")
    if blank_id not in places:
        raise DataError(f"{path}: must hold pad_token_id {blank_id}, the CTC blank, among its {len(places)} pieces")
    unknown = _content(names.get("unk_token"), "<unk>" if "<unk>" in vocab else "[UNK]")
    delimiter = _content(names.get("word_delimiter_token"), "|")
    renamed = {unknown: UNK, delimiter: WORD_START, places[blank_id]: BLANK}
    return CharTokenizer([renamed.get(places[i], places[i]) for i in range(len(places))], source=str(path))


def _content(token: Any, default: str) -> str:
    """Return the text of a token, which may be written with its properties."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else default


def is_wav2vec2(listing: Listing) -> bool:
    """Tell whether files say that they are a wav2vec 2.0 or a HuBERT of transformers."""
    return transformers_config(listing).get("model_type") in MODEL_TYPES


def wanted_of_wav2vec2(listing: Listing) -> tuple[str, ...]:
    """Return configuration and weights and, where they are, what the samples and the characters are made by."""
    optional = listed_of(listing, PREPROCESSOR_FILE, VOCAB_FILE, ADDED_FILE, TOKENIZER_FILE)
    return (CONFIG_FILE, transformers_weights(listing), *optional)


WAV2VEC2 = Family(
    "wav2vec 2.0 or HuBERT of Hugging Face",
    f"{CONFIG_FILE} that says so, and weights",
    is_wav2vec2,
    wanted_of_wav2vec2,
    convert_wav2vec2,
)
