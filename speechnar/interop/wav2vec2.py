"""wav2vec 2.0's and HuBERT's checkpoints of Hugging Face to our model folders.

A pretrained one becomes a folder of kind ``wav2vec2``, from which others begin. One that was fine-tuned with CTC is
made the recogniser that it is: ``owsm_ctc`` without blocks, languages and prompt. What only served pretraining
(quantiser and projections of the contrastive loss) is skipped, and reported so. One of MMS, with an adapter and a
vocabulary of each language, is made the recogniser of one of them.

Differs from transformers: utterances in a batch give what they give alone (`speechnar.nn.wav2vec2`).

Source: the state dictionaries of transformers' ``Wav2Vec2Model``, ``Wav2Vec2ForPreTraining``, ``Wav2Vec2ForCTC``,
``HubertModel`` and ``HubertForCTC``, and their ``config.json``, ``preprocessor_config.json`` and ``vocab.json``.
"""

import difflib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt, model_validator
from torch import Tensor

from speechnar.audio.fbank import WaveformConfig
from speechnar.config import parse_config
from speechnar.errors import ConfigError, DataError, ModelNotFoundError
from speechnar.interop.espnet_names import KeyMapping
from speechnar.interop.family import (
    CARD_FILE,
    CONFIG_FILE,
    Family,
    Listing,
    listed_of,
    transformers_config,
    transformers_weights,
)
from speechnar.interop.files import (
    ConversionReport,
    card_of,
    save_converted,
    with_weights,
)
from speechnar.interop.transformers import (
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    TransformersOptions,
    build_recogniser,
    find_weights,
    map_names,
    preprocessor_of,
    read_json,
    read_options,
    read_state,
)
from speechnar.models.asr.owsm_ctc import OwsmCtcConfig
from speechnar.models.asr.wav2vec2 import Wav2Vec2, Wav2Vec2ModelConfig
from speechnar.nn.wav2vec2 import KERNELS, NORM_EPS, STRIDES, Wav2Vec2Config, Wav2Vec2TrunkConfig
from speechnar.text.tokenizer import BLANK, UNK, WORD_START, CharTokenizer

VOCAB_FILE, ADDED_FILE, TOKENIZER_FILE = "vocab.json", "added_tokens.json", "tokenizer_config.json"
MODEL_TYPES = ("wav2vec2", "hubert")
DEFAULT_LANGUAGE = "eng"
"""Of MMS, as in transformers."""
_LANGUAGE = re.compile(r"[\w-]+")

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
    "encoder.layers.*.adapter_layer.norm": "layers.*.adapter.0",
    "encoder.layers.*.adapter_layer.linear_1": "layers.*.adapter.1",
    "encoder.layers.*.adapter_layer.linear_2": "layers.*.adapter.4",
}
_PREFIXES = ("wav2vec2.", "hubert.")
_PRETRAINING = ("quantizer.", "project_q.", "project_hid.")


class _Options(TransformersOptions):
    """What ``config.json`` says of the network; what it says of training is left out. Defaults are transformers'."""

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
    adapter_attn_dim: PositiveInt | None = None
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
            "adapter_dim": self.adapter_attn_dim,
            "position_kernel": self.num_conv_pos_embeddings,
            "position_groups": self.num_conv_pos_embedding_groups,
        }
        return parse_config(values, Wav2Vec2Config, source="their configuration")


def convert_wav2vec2(source: str | Path, destination: str | Path, *, language: str | None = None) -> ConversionReport:
    """Turn a wav2vec 2.0 or a HuBERT into a model folder: of kind ``owsm_ctc`` with a CTC head, else ``wav2vec2``.

    Args:
        source: folder with ``config.json``, ``model.safetensors`` or ``pytorch_model.bin`` and, of a recogniser,
            ``vocab.json``; ``preprocessor_config.json``, ``tokenizer_config.json`` and the card are heeded if they are
            there, and of MMS ``adapter.xxx.safetensors``.
        destination: folder to write; created if absent.
        language: of MMS, as its files are named; None: the one that ``tokenizer_config.json`` names, else English.

    Raises:
        ModelNotFoundError: ``source`` lacks a file, that of the language included.
        ConfigError: the network has options that ours has not; all of them are named. Or ``language`` is given and
            there are none.
        CheckpointError: the weights hold more than tensors, or are not those of the configuration.
        DataError: the vocabulary is malformed, or not of characters.
    """
    source, destination = Path(source), Path(destination)
    options = read_options(source, _Options)
    if options.adapter_attn_dim is None and language is not None:
        raise ConfigError(f"{source}: language is for models with adapters (MMS); leave it out")
    if language is not None and not _LANGUAGE.fullmatch(language):
        raise ConfigError(f"language must be one that the files of {source} name, as fra, got {language[:40]!r}")
    if options.adapter_attn_dim is not None:
        language = language or _default_language(source / TOKENIZER_FILE)
    normalize = preprocessor_of(source).get("do_normalize", True)
    network = options.network()
    path = find_weights(source)
    theirs = {**read_state(path), **_read_adapter(source, language, options)}
    state, keys = map_state(theirs, norm_first=network.norm_first, source=str(path))
    # A model that was fine-tuned without masks has no embedding of what is masked.
    state.setdefault("encoder.projection.mask_embed", torch.zeros(network.model_dim))
    toolkit = f"transformers ({options.model_type})"
    if "ctc.proj.weight" not in state:
        trunk = with_weights(lambda: Wav2Vec2(Wav2Vec2ModelConfig(encoder=network)), state, source=str(path))
        card = card_of(source, toolkit, tasks=())
        return save_converted(destination, trunk, CharTokenizer((BLANK, UNK)), keys, card=card)
    head = state["ctc.proj.weight"]
    tokenizer = read_characters(source, options.pad_token_id, head=head, language=language)
    state = {_in_recogniser(name): tensor for name, tensor in state.items()}
    config = _recogniser(network, normalize=normalize is True)
    model = build_recogniser(config, tokenizer, state, without_bias=(), source=str(path))
    return save_converted(
        destination, model, tokenizer, keys, card=card_of(source, toolkit, languages=[language] if language else ())
    )


def _default_language(tokenizer_file: Path) -> str:
    """Return the language of MMS that ``tokenizer_config.json`` names, else English."""
    language = read_json(tokenizer_file).get("target_lang") if tokenizer_file.is_file() else None
    return language if isinstance(language, str) and _LANGUAGE.fullmatch(language) else DEFAULT_LANGUAGE


def _adapter_files(language: str) -> tuple[str, str]:
    """Return how the file of a language of MMS may be called."""
    return f"adapter.{language}.safetensors", f"adapter.{language}.bin"


def _read_adapter(source: Path, language: str | None, options: _Options) -> Mapping[str, Tensor]:
    """Return adapters and head of a language, without which the weights are those of the default language."""
    if language is None or options.adapter_attn_dim is None:
        return {}
    names = _adapter_files(language)
    is_default = language == _default_language(source / TOKENIZER_FILE)
    if is_default and not any((source / name).is_file() for name in names):
        return {}
    adapter = read_state(find_weights(source, names))
    prefix = f"{options.model_type}."
    return {key if key.startswith(("lm_head.", prefix)) else f"{prefix}{key}": t for key, t in adapter.items()}


def _recogniser(network: Wav2Vec2Config, *, normalize: bool) -> OwsmCtcConfig:
    """Return a CTC recogniser that reads the states of ``network`` directly."""
    return OwsmCtcConfig(
        frontend=WaveformConfig(),
        normalize="wav2vec2" if normalize else "global",  # of mean 0 and deviation 1: samples stay as they are
        encoder=Wav2Vec2TrunkConfig(wav2vec2=network),
        interctc_layers=(),
        interctc_asr_only=(),
        prompt=None,
    )


def _in_recogniser(name: str) -> str:
    half = "encoder."
    return f"{half}wav2vec2.{name.removeprefix(half)}" if name.startswith(half) else name


def map_state(
    theirs: Mapping[str, Tensor], *, norm_first: bool, source: str
) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return the tensors under our names, ``encoder.*`` and ``ctc.*``, in float32, and what became of each.

    Raises:
        CheckpointError: naming the tensors that have no counterpart, or parts of a fused tensor that are missing.
    """
    names = {**_NAMES, "encoder.layer_norm": "norm" if norm_first else "norm_in"}
    names = {pattern: f"encoder.{ours}" for pattern, ours in names.items()} | {"lm_head": "ctc.proj"}
    return map_names(theirs, names, source=source, prefixes=_PREFIXES, skipped=_PRETRAINING)


def read_characters(
    source: Path, blank_id: int | None, *, head: Tensor | None, language: str | None = None
) -> CharTokenizer:
    """Return the tokenizer of ``vocab.json``: a piece a character, spaces as a delimiter, blank where padding is.

    Args:
        source: folder with ``vocab.json`` and, perhaps, ``added_tokens.json`` and ``tokenizer_config.json``.
        blank_id: the id of padding.
        head: (V, D) its weight has a row for each piece; of those that were added to the vocabulary others are left
            out.
        language: where there is a vocabulary of each, the one that is read.

    Raises:
        ModelNotFoundError: there is no such file.
        DataError: it is malformed, lacks ``language`` or an unknown piece, or holds more than characters.
    """
    path = source / VOCAB_FILE
    if not path.is_file():
        raise ModelNotFoundError(f"{source}: {VOCAB_FILE} is missing; the checkpoint has a CTC head")
    vocab: Any = read_json(path)
    names = read_json(source / TOKENIZER_FILE) if (source / TOKENIZER_FILE).is_file() else {}
    if language is not None:
        vocab = _of_language(vocab, language, path)
    else:
        num_rows = math.inf if head is None else len(head)
        added = _added_pieces(source / ADDED_FILE, names)
        vocab = {piece: number for piece, number in added.items() if number < num_rows} | vocab
    places = {number: str(piece) for piece, number in vocab.items() if isinstance(number, int)}
    if len(places) != len(vocab) or sorted(places) != list(range(len(vocab))):
        raise DataError(f"{path}: must map every piece to a number of its own, from 0 on")
    if blank_id not in places:
        raise DataError(f"{path}: must hold pad_token_id {blank_id}, the CTC blank, among its {len(places)} pieces")
    unknown = _content(names.get("unk_token"), "<unk>" if "<unk>" in vocab else "[UNK]")
    delimiter = _content(names.get("word_delimiter_token"), "|")
    renamed = {unknown: UNK, delimiter: WORD_START, places[blank_id]: BLANK}
    pieces = [renamed.get(places[i], places[i]) for i in range(len(places))]
    if names.get("do_lower_case") is True:  # such a model writes lower case and has learnt upper case
        pieces = [piece.lower() if len(piece) == 1 else piece for piece in pieces]
    return CharTokenizer(pieces, source=str(path))


def _added_pieces(path: Path, names: Mapping[str, Any]) -> dict[str, int]:
    """Return what was added to a vocabulary, as ``added_tokens.json`` or newer ``tokenizer_config.json`` say."""
    decoder = names.get("added_tokens_decoder")
    decoder = decoder if isinstance(decoder, dict) else {}
    added = {_content(token, ""): int(number) for number, token in decoder.items() if str(number).isdecimal()}
    older = read_json(path) if path.is_file() else {}
    return added | {piece: number for piece, number in older.items() if isinstance(number, int)}


def _of_language(vocab: Mapping[str, Any], language: str, path: Path) -> dict[str, Any]:
    if not any(isinstance(values, dict) for values in vocab.values()):
        return dict(vocab)
    if not isinstance(vocab.get(language), dict):
        near = ", ".join(difflib.get_close_matches(language, vocab, n=3)) or ", ".join(sorted(vocab)[:8])
        raise DataError(f"{path}: has no language {language[:40]!r}; among its {len(vocab)} are {near}")
    return vocab[language]


def _content(token: Any, default: str) -> str:
    """Return the text of a token, which may be written with its properties."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else default


def is_wav2vec2(listing: Listing) -> bool:
    """Tell whether files say that they are a wav2vec 2.0 or a HuBERT of transformers."""
    return transformers_config(listing).get("model_type") in MODEL_TYPES


def wanted_of_wav2vec2(listing: Listing) -> tuple[str, ...]:
    """Return configuration, weights and, where they are, what samples and characters are made by, the default language
    of MMS, and the card."""
    optional = list(wanted_of_characters(listing))
    if transformers_config(listing).get("adapter_attn_dim") is not None:
        named = listing.path(TOKENIZER_FILE) if TOKENIZER_FILE in listing.names else Path(TOKENIZER_FILE)
        optional += listed_of(listing, *_adapter_files(_default_language(named)))[:1]
    return (CONFIG_FILE, transformers_weights(listing), *optional)


def wanted_of_characters(listing: Listing) -> tuple[str, ...]:
    """Return what there is of the files that recognisers of characters have besides configuration and weights."""
    return listed_of(listing, PREPROCESSOR_FILE, PROCESSOR_FILE, VOCAB_FILE, ADDED_FILE, TOKENIZER_FILE, CARD_FILE)


WAV2VEC2 = Family(
    "wav2vec 2.0 or HuBERT of Hugging Face",
    f"{CONFIG_FILE} that says so, and weights",
    is_wav2vec2,
    wanted_of_wav2vec2,
    convert_wav2vec2,
)
