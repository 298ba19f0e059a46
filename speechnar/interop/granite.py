"""Granite Speech 5.0 TurboCTC's checkpoints of Hugging Face to our model folders: a Conformer in blocks, and CTC.

What it is made of is ours already: a Conformer whose attention stays within blocks of positions and knows their
distances by Shaw's embeddings, whose first blocks halve time (`speechnar.nn.encoder`), and the recogniser ``owsm_ctc``
without languages and prompt, with the head fed back in the middle. Where a checkpoint has no biases, they are 0 here;
its vocabulary has no unknown piece, which ours has and the head never writes.

Sources: Saon et al., "Granite-speech: open-source speech-aware LLMs with strong English ASR capabilities", 2025,
section 2.1 (the encoder); the state dictionary of transformers' ``GraniteSpeech5ForCTC`` (from 5.16 on), its
``config.json``, ``processor_config.json`` and ``tokenizer.json``.
"""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor

from speechnar.audio.fbank import LogMelConfig
from speechnar.errors import CheckpointError, DataError, ModelNotFoundError
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
    read_options,
    read_state,
    unscale_input,
)
from speechnar.models.asr.owsm_ctc import OwsmCtcConfig
from speechnar.nn.encoder import ConformerConfig
from speechnar.text.byte_pairs import BytePairTokenizer

TOKENIZER_FILE = "tokenizer.json"
MODEL_TYPE = "granite_speech5_ctc"
NORM_EPS = 1e-5
NEVER = -1e4
"""Logit of the piece that their vocabulary lacks."""

_LAYER = "encoder.layers.*"
GRANITE_NAMES = {
    "encoder.input_linear": "encoder.subsampling.proj",
    f"{_LAYER}.norm_feed_forward1": f"{_LAYER}.ff_macaron.0",
    f"{_LAYER}.feed_forward1.linear1": f"{_LAYER}.ff_macaron.1",
    f"{_LAYER}.feed_forward1.linear2": f"{_LAYER}.ff_macaron.4",
    f"{_LAYER}.norm_self_att": f"{_LAYER}.norm_attention",
    f"{_LAYER}.self_attn.q_proj": f"{_LAYER}.attention.qkv[0]",
    f"{_LAYER}.self_attn.k_proj": f"{_LAYER}.attention.qkv[1]",
    f"{_LAYER}.self_attn.v_proj": f"{_LAYER}.attention.qkv[2]",
    f"{_LAYER}.self_attn.o_proj": f"{_LAYER}.attention.out",
    f"{_LAYER}.self_attn.rel_pos_emb": f"{_LAYER}.attention.distances",
    f"{_LAYER}.norm_conv": f"{_LAYER}.norm_conv",
    f"{_LAYER}.conv.pointwise_lin1": f"{_LAYER}.conv.pointwise_in",
    f"{_LAYER}.conv.depthwise_conv": f"{_LAYER}.conv.depthwise",
    f"{_LAYER}.conv.norm": f"{_LAYER}.conv.norm",
    f"{_LAYER}.conv.pointwise_lin2": f"{_LAYER}.conv.pointwise_out",
    f"{_LAYER}.norm_feed_forward2": f"{_LAYER}.ff.0",
    f"{_LAYER}.feed_forward2.linear1": f"{_LAYER}.ff.1",
    f"{_LAYER}.feed_forward2.linear2": f"{_LAYER}.ff.4",
    f"{_LAYER}.norm_out": f"{_LAYER}.norm_out",
    "encoder.out": "ctc.proj",
    "encoder.out_mid": "conditioning",
}
"""Their modules by our names, see `map_names`."""
_TIED = "ctc_head."
_FEED_FORWARD = (".ff_macaron.1.", ".ff_macaron.4.", ".ff.1.", ".ff.4.")


class _EncoderOptions(TransformersOptions):
    """What ``encoder_config`` says of the network; defaults are transformers'."""

    hidden_size: PositiveInt = 1024
    intermediate_size: PositiveInt = 4096
    num_hidden_layers: PositiveInt = 16
    num_attention_heads: PositiveInt = 8
    num_key_value_heads: PositiveInt | None = None
    head_dim: PositiveInt | None = None
    num_mel_bins: PositiveInt = 80
    hidden_act: Literal["silu"] = "silu"
    max_position_embeddings: PositiveInt = 512
    context_size: PositiveInt = 128
    conv_kernel_size: PositiveInt = 7
    conv_expansion_factor: PositiveInt = 2
    subsample_layers: tuple[NonNegativeInt, ...] | None = None
    attention_bias: bool = True
    """Of the feed-forward modules, whatever its name says."""

    @model_validator(mode="after")
    def _check(self) -> "_EncoderOptions":
        heads, width = self.num_attention_heads, self.hidden_size
        if self.num_key_value_heads not in (None, heads) or self.head_dim not in (None, width // heads):
            raise ValueError(
                f"num_key_value_heads must be {heads} and head_dim {width // heads}, got {self.num_key_value_heads} "
                f"and {self.head_dim}"
            )
        if self.num_hidden_layers < 2:
            raise ValueError(f"num_hidden_layers must be at least 2, got {self.num_hidden_layers}")
        return self


class GraniteOptions(TransformersOptions):
    """What ``config.json`` says of the network; what it says of training is left out."""

    model_type: Literal["granite_speech5_ctc"]
    vocab_size: PositiveInt = 16384
    pad_token_id: NonNegativeInt = 0
    """The CTC blank."""
    encoder_config: _EncoderOptions = _EncoderOptions()

    def to_config(self) -> OwsmCtcConfig:
        """Return our configuration of the same recogniser."""
        theirs = self.encoder_config
        halving = (0, 1) if theirs.subsample_layers is None else theirs.subsample_layers
        return OwsmCtcConfig(
            frontend=LogMelConfig.for_granite(theirs.num_mel_bins),
            normalize="peak",
            encoder=ConformerConfig(
                model_dim=theirs.hidden_size,
                num_layers=theirs.num_hidden_layers,
                num_heads=theirs.num_attention_heads,
                ff_dim=theirs.intermediate_size,
                positions="shaw",
                max_distance=theirs.max_position_embeddings,
                attention_block=theirs.context_size,
                kernel_size=theirs.conv_kernel_size,
                conv_expansion=theirs.conv_expansion_factor,
                conv_norm="batch",
                halving_blocks=tuple(index + 1 for index in halving),
                subsampling=2,
                joining_deltas=True,
                norm_eps=NORM_EPS,
                output_norm=False,
            ),
            interctc_layers=(theirs.num_hidden_layers // 2,),
            interctc_asr_only=(False,),
            prompt=None,
        )


def convert_granite(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a Granite Speech 5.0 TurboCTC of transformers into a model folder of kind ``owsm_ctc``.

    Args:
        source: folder with ``config.json``, ``model.safetensors`` or ``pytorch_model.bin``, and ``tokenizer.json`` of
            a byte-level BPE; ``processor_config.json`` and the card are heeded if they are there.
        destination: folder to write; created if absent.

    Raises:
        ModelNotFoundError: ``source`` lacks a file.
        ConfigError: the network or its features have options that ours have not; all of the network's are named.
        CheckpointError: the weights hold more than tensors, or are not those of the configuration.
        DataError: the vocabulary is malformed, or not of whole bytes (that of the non-commercial twin is not).
    """
    source, destination = Path(source), Path(destination)
    options = read_options(source, GraniteOptions)
    _check_features(preprocessor_of(source), options.encoder_config.num_mel_bins, str(source / PROCESSOR_FILE))
    tokenizer = _read_vocabulary(source, options)
    weights = find_weights(source)
    theirs, tied = _without_tied(dict(read_state(weights)), str(weights))
    state, keys = map_names(theirs, GRANITE_NAMES, source=str(weights))
    for name in [name for name in state if name.endswith("attention.distances.weight")]:
        state[name] = state[name].flip(0)  # theirs count from the query to the key
    unscale_input(state)
    if tokenizer.vocab_size > options.vocab_size:
        _add_piece(state)
    feed_forward = () if options.encoder_config.attention_bias else _FEED_FORWARD
    without_bias = (".attention.qkv.", ".conv.depthwise.", *feed_forward)
    model = build_recogniser(options.to_config(), tokenizer, state, without_bias=without_bias, source=str(weights))
    card = card_of(source, "Granite Speech (transformers)")
    return save_converted(destination, model, tokenizer, (*keys, *tied), card=card)


def _check_features(values: dict[str, Any], num_mels: int, source: str) -> None:
    """Raise ConfigError where features are others than the published ones of ``num_mels`` bands."""
    ours = LogMelConfig.for_granite(num_mels)
    expected = {
        "num_mel_bins": num_mels,
        "hop_length": ours.hop_length,
        "n_fft": ours.n_fft,
        "win_length": ours.win_length,
        "delta_win_length": 3,
        "logmel_floor_db": 8.0,
    }
    check_settings(values, expected, source)


def _read_vocabulary(source: Path, options: GraniteOptions) -> BytePairTokenizer:
    path = source / TOKENIZER_FILE
    if not path.is_file():
        raise ModelNotFoundError(f"{source}: {TOKENIZER_FILE} is missing")
    tokenizer = BytePairTokenizer.from_json(path, blank_id=options.pad_token_id)
    if not options.vocab_size <= tokenizer.vocab_size <= options.vocab_size + 1:  # one more where there is no <unk>
        raise DataError(f"{path}: must hold {options.vocab_size} pieces, as {CONFIG_FILE} says")
    return tokenizer


def _without_tied(theirs: dict[str, Tensor], source: str) -> tuple[dict[str, Tensor], tuple[KeyMapping, ...]]:
    """Return the tensors without those of the head, which are those that feed back, and where they went."""
    keys = []
    for name in [name for name in theirs if name.startswith(_TIED)]:
        tensor, leaf = theirs.pop(name), name.removeprefix(_TIED)
        twin = theirs.get(f"encoder.out.{leaf}")
        if twin is None or not torch.equal(tensor, twin):
            raise CheckpointError(f"{source}: {name} must be encoder.out.{leaf}, which the model has as its head")
        keys.append(KeyMapping(name, tuple(tensor.shape), f"ctc.proj.{leaf}"))
    return theirs, tuple(keys)


def _add_piece(state: dict[str, Tensor]) -> None:
    """Add a last piece that is never written to the head and to what is fed back."""
    for name, dim, value in (("ctc.proj.weight", 0, 0.0), ("ctc.proj.bias", 0, NEVER), ("conditioning.weight", 1, 0.0)):
        if name in state:
            more = torch.full_like(state[name].narrow(dim, 0, 1), value)
            state[name] = torch.cat([state[name], more], dim)


def is_granite(listing: Listing) -> bool:
    """Tell whether files say that they are a Granite Speech 5.0 TurboCTC of transformers."""
    return transformers_config(listing).get("model_type") == MODEL_TYPE


def wanted_of_granite(listing: Listing) -> tuple[str, ...]:
    """Return configuration, weights, vocabulary and, where they are listed, the settings of features and the card."""
    optional = listed_of(listing, PROCESSOR_FILE, PREPROCESSOR_FILE, CARD_FILE)
    return (CONFIG_FILE, transformers_weights(listing), TOKENIZER_FILE, *optional)


GRANITE = Family(
    "Granite Speech", "config.json that says so, and weights", is_granite, wanted_of_granite, convert_granite
)
