"""Parakeet-CTC's checkpoints of Hugging Face to our model folders: a FastConformer, CTC and subwords.

What it is made of is ours already: a Conformer with Transformer-XL's positions and batch norm behind separable
subsampling (`speechnar.nn.encoder`), which reads NeMo's features (`LogMelConfig.for_nemo`), and the recogniser
``owsm_ctc`` without languages, prompt and intermediate heads. Where a checkpoint has no biases, they are 0 here.

Sources: Rekesh et al., "Fast Conformer with Linearly Scalable Attention for Efficient Speech Recognition", ASRU 2023;
the state dictionary of transformers' ``ParakeetForCTC``, its ``config.json``, ``preprocessor_config.json``,
``tokenizer.json`` and ``vocab.json``.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import PositiveInt, model_validator

from speechnar.audio.fbank import LogMelConfig
from speechnar.errors import DataError, ModelNotFoundError
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
)
from speechnar.interop.transformers import (
    PREPROCESSOR_FILE,
    PROCESSOR_FILE,
    TransformersOptions,
    build_recogniser,
    check_settings,
    find_weights,
    map_names,
    preprocessor_of,
    read_json,
    read_options,
    read_state,
    unscale_input,
)
from speechnar.models.asr.owsm_ctc import OwsmCtcConfig
from speechnar.nn.encoder import ConformerConfig
from speechnar.text.sentencepiece_model import build_sentencepiece, read_tokenizer_json
from speechnar.text.tokenizer import BLANK, CONTROL_PIECES, UNK, SentencePieceTokenizer

TOKENIZER_FILE, VOCAB_FILE = "tokenizer.json", "vocab.json"
MODEL_TYPE = "parakeet_ctc"
NORM_EPS = 1e-5

_ATTENTION = "encoder.layers.*.self_attn"
PARAKEET_NAMES = {
    "encoder.subsampling.layers.0": "encoder.subsampling.convs.0",
    "encoder.subsampling.layers.2": "encoder.subsampling.convs.1.0",
    "encoder.subsampling.layers.3": "encoder.subsampling.convs.1.1",
    "encoder.subsampling.layers.5": "encoder.subsampling.convs.2.0",
    "encoder.subsampling.layers.6": "encoder.subsampling.convs.2.1",
    "encoder.subsampling.linear": "encoder.subsampling.proj",
    "encoder.layers.*.norm_feed_forward1": "encoder.layers.*.ff_macaron.0",
    "encoder.layers.*.feed_forward1.linear1": "encoder.layers.*.ff_macaron.1",
    "encoder.layers.*.feed_forward1.linear2": "encoder.layers.*.ff_macaron.4",
    "encoder.layers.*.norm_self_att": "encoder.layers.*.norm_attention",
    f"{_ATTENTION}.q_proj": "encoder.layers.*.attention.qkv[0]",
    f"{_ATTENTION}.k_proj": "encoder.layers.*.attention.qkv[1]",
    f"{_ATTENTION}.v_proj": "encoder.layers.*.attention.qkv[2]",
    f"{_ATTENTION}.o_proj": "encoder.layers.*.attention.out",
    f"{_ATTENTION}.relative_k_proj": "encoder.layers.*.attention.pos",
    f"{_ATTENTION}.bias_u": "encoder.layers.*.attention.content_bias",
    f"{_ATTENTION}.bias_v": "encoder.layers.*.attention.distance_bias",
    "encoder.layers.*.norm_conv": "encoder.layers.*.norm_conv",
    "encoder.layers.*.conv.pointwise_conv1": "encoder.layers.*.conv.pointwise_in",
    "encoder.layers.*.conv.depthwise_conv": "encoder.layers.*.conv.depthwise",
    "encoder.layers.*.conv.norm": "encoder.layers.*.conv.norm",
    "encoder.layers.*.conv.pointwise_conv2": "encoder.layers.*.conv.pointwise_out",
    "encoder.layers.*.norm_feed_forward2": "encoder.layers.*.ff.0",
    "encoder.layers.*.feed_forward2.linear1": "encoder.layers.*.ff.1",
    "encoder.layers.*.feed_forward2.linear2": "encoder.layers.*.ff.4",
    "encoder.layers.*.norm_out": "encoder.layers.*.norm_out",
    "ctc_head": "ctc.proj",
}
"""Their modules and lone tensors by our names, see `map_names`."""
_LINEAR = (".attention.qkv.", ".attention.out.", ".ff_macaron.1.", ".ff_macaron.4.", ".ff.1.", ".ff.4.")
_CONVOLUTIONS = (".conv.pointwise_in.", ".conv.depthwise.", ".conv.pointwise_out.")


class _EncoderOptions(TransformersOptions):
    """What ``encoder_config`` says of the network; defaults are transformers'."""

    hidden_size: PositiveInt = 1024
    num_hidden_layers: PositiveInt = 24
    num_attention_heads: PositiveInt = 8
    intermediate_size: PositiveInt = 4096
    hidden_act: Literal["silu"] = "silu"
    attention_bias: bool = True
    convolution_bias: bool = True
    conv_kernel_size: PositiveInt = 9
    subsampling_factor: Literal[4, 8] = 8
    subsampling_conv_channels: PositiveInt = 256
    num_mel_bins: PositiveInt = 80
    subsampling_conv_kernel_size: Literal[3] = 3
    subsampling_conv_stride: Literal[2] = 2
    scale_input: bool = True


class ParakeetOptions(TransformersOptions):
    """What ``config.json`` says of the network; what it says of training is left out."""

    model_type: Literal["parakeet_ctc"]
    vocab_size: PositiveInt = 1025
    pad_token_id: int = 1024
    """The CTC blank."""
    encoder_config: _EncoderOptions = _EncoderOptions()

    @model_validator(mode="after")
    def _check(self) -> "ParakeetOptions":
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id must lie in [0, {self.vocab_size}), got {self.pad_token_id}")
        return self

    @property
    def without_bias(self) -> tuple[str, ...]:
        """Parts of the names of our modules that have no bias there."""
        theirs = self.encoder_config
        return (*(() if theirs.attention_bias else _LINEAR), *(() if theirs.convolution_bias else _CONVOLUTIONS))

    def to_config(self) -> OwsmCtcConfig:
        """Return our configuration of the same recogniser."""
        theirs = self.encoder_config
        return OwsmCtcConfig(
            frontend=LogMelConfig.for_nemo(theirs.num_mel_bins),
            normalize="nemo",
            encoder=ConformerConfig(
                model_dim=theirs.hidden_size,
                num_layers=theirs.num_hidden_layers,
                num_heads=theirs.num_attention_heads,
                ff_dim=theirs.intermediate_size,
                positions="relative",
                kernel_size=theirs.conv_kernel_size,
                conv_norm="batch",
                subsampling=theirs.subsampling_factor,
                subsampling_channels=theirs.subsampling_conv_channels,
                subsampling_padding=1,
                subsampling_separable=True,
                norm_eps=NORM_EPS,
                output_norm=False,
            ),
            interctc_layers=(),
            interctc_asr_only=(),
            prompt=None,
        )


def convert_parakeet(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a Parakeet-CTC of transformers into a model folder of kind ``owsm_ctc``.

    Args:
        source: folder with ``config.json``, ``model.safetensors`` or ``pytorch_model.bin``, and ``tokenizer.json`` or
            ``vocab.json``; ``preprocessor_config.json`` and the card are heeded if they are there.
        destination: folder to write; created if absent.

    Raises:
        ModelNotFoundError: ``source`` lacks a file.
        ConfigError: the network or its features have options that ours have not; all of the network's are named.
        CheckpointError: the weights hold more than tensors, or are not those of the configuration.
        DataError: the vocabulary is malformed.
    """
    source, destination = Path(source), Path(destination)
    options = read_options(source, ParakeetOptions)
    _check_features(preprocessor_of(source), options.encoder_config.num_mel_bins, str(source / PREPROCESSOR_FILE))
    tokenizer = read_vocabulary(source, options)
    weights = find_weights(source)
    state, keys = map_names(read_state(weights), PARAKEET_NAMES, source=str(weights))
    if not options.encoder_config.scale_input:
        unscale_input(state)
    model = build_recogniser(
        options.to_config(), tokenizer, state, without_bias=options.without_bias, source=str(weights)
    )
    return save_converted(destination, model, tokenizer, keys, card=card_of(source, "Parakeet (transformers)"))


def _check_features(values: dict[str, Any], num_mels: int, source: str) -> None:
    """Raise ConfigError where features are others than NeMo's usual ones of ``num_mels`` bands."""
    ours = LogMelConfig.for_nemo(num_mels)
    expected = {
        "feature_size": num_mels,
        "hop_length": ours.hop_length,
        "n_fft": ours.n_fft,
        "win_length": ours.win_length,
        "preemphasis": ours.preemph,
    }
    check_settings(values, expected, source)


def read_vocabulary(source: Path, options: ParakeetOptions) -> SentencePieceTokenizer:
    """Return the tokenizer of ``tokenizer.json`` or ``vocab.json``, whose padding is the blank.

    Raises:
        ModelNotFoundError: there is neither.
        DataError: it is malformed, or not of ``vocab_size`` pieces.
    """
    if (source / TOKENIZER_FILE).is_file():
        path = source / TOKENIZER_FILE
        ids, model = read_tokenizer_json(path)
    elif (source / VOCAB_FILE).is_file():
        path = source / VOCAB_FILE
        ids = {piece: number for piece, number in read_json(path).items() if isinstance(number, int)}
        model = _learnt_in_order([piece for piece, number in sorted(ids.items(), key=lambda entry: entry[1])], path)
    else:
        raise ModelNotFoundError(f"{source}: need {TOKENIZER_FILE} or {VOCAB_FILE}")
    places = {number: piece for piece, number in ids.items()}
    if len(places) != len(ids) or any(number not in places for number in range(options.vocab_size)):
        raise DataError(f"{path}: must hold a piece for every id from 0 to {options.vocab_size - 1}")
    pieces = [BLANK if i == options.pad_token_id else places[i] for i in range(options.vocab_size)]
    return SentencePieceTokenizer(model, pieces, source=str(path))


def _learnt_in_order(pieces: list[str], path: Path) -> bytes:
    """Return the SentencePiece model of pieces that were learnt in this order, specials left out."""
    kept = [piece for piece in pieces if piece == UNK or piece not in CONTROL_PIECES]
    if UNK not in kept:
        raise DataError(f"{path}: must hold {UNK}")
    return build_sentencepiece(kept, [-float(rank) for rank in range(len(kept))])


def is_parakeet(listing: Listing) -> bool:
    """Tell whether files say that they are a Parakeet-CTC of transformers."""
    return transformers_config(listing).get("model_type") == MODEL_TYPE


def wanted_of_parakeet(listing: Listing) -> tuple[str, ...]:
    """Return configuration, weights and vocabulary and, where they are, the settings of features and the card."""
    vocabulary = VOCAB_FILE if VOCAB_FILE in listing.names and TOKENIZER_FILE not in listing.names else TOKENIZER_FILE
    optional = listed_of(listing, PREPROCESSOR_FILE, PROCESSOR_FILE, CARD_FILE)
    return (CONFIG_FILE, transformers_weights(listing), vocabulary, *optional)


PARAKEET = Family(
    "Parakeet-CTC of Hugging Face",
    f"{CONFIG_FILE} that says so, weights and {TOKENIZER_FILE}",
    is_parakeet,
    wanted_of_parakeet,
    convert_parakeet,
)
