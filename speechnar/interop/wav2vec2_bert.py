"""w2v-BERT 2.0's checkpoints of Hugging Face that were fine-tuned with CTC, to our model folders.

What it is made of is ours already: a Conformer that attends by Shaw's distances or Transformer-XL's, with causal
convolutions, behind pairs of Kaldi's mel frames, mostly with a layer on it that halves the positions
(`speechnar.nn.encoder`); and the recogniser ``owsm_ctc`` without languages, prompt and intermediate heads. The
convolutions of its blocks have no biases; here they are 0.

Sources: Barrault et al., "Seamless: Multilingual Expressive and Streaming Speech Translation", 2023, section 3.2.1; the
state dictionary of transformers' ``Wav2Vec2BertForCTC``, its ``config.json``, ``preprocessor_config.json`` and
``vocab.json``.
"""

from pathlib import Path
from typing import Final, Literal

from pydantic import PositiveInt, model_validator

from speechnar.audio.fbank import KaldiFbankConfig
from speechnar.interop.family import CONFIG_FILE, Family, Listing, transformers_config, transformers_weights
from speechnar.interop.files import (
    ConversionReport,
    card_of,
    save_converted,
)
from speechnar.interop.transformers import (
    PREPROCESSOR_FILE,
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
from speechnar.interop.wav2vec2 import read_characters, wanted_of_characters
from speechnar.models.asr.owsm_ctc import OwsmCtcConfig
from speechnar.nn.encoder import ConformerConfig

MODEL_TYPE = "wav2vec2-bert"
NUM_MELS: Final = 80
STRIDE: Final = 2
"""Of `SeamlessM4TFeatureExtractor`: bands, and frames in a pair."""
_FEATURES = {"feature_size": NUM_MELS, "num_mel_bins": NUM_MELS, "stride": STRIDE}

_BLOCK, _OURS, _ADAPTER = "encoder.layers.*", "encoder.layers.*", "adapter.layers.*"
WAV2VEC2_BERT_NAMES = {
    "feature_projection.layer_norm": "encoder.subsampling.norm",
    "feature_projection.projection": "encoder.subsampling.proj",
    f"{_BLOCK}.ffn1_layer_norm": f"{_OURS}.ff_macaron.0",
    f"{_BLOCK}.ffn1.intermediate_dense": f"{_OURS}.ff_macaron.1",
    f"{_BLOCK}.ffn1.output_dense": f"{_OURS}.ff_macaron.4",
    f"{_BLOCK}.self_attn_layer_norm": f"{_OURS}.norm_attention",
    f"{_BLOCK}.self_attn.linear_q": f"{_OURS}.attention.qkv[0]",
    f"{_BLOCK}.self_attn.linear_k": f"{_OURS}.attention.qkv[1]",
    f"{_BLOCK}.self_attn.linear_v": f"{_OURS}.attention.qkv[2]",
    f"{_BLOCK}.self_attn.linear_out": f"{_OURS}.attention.out",
    f"{_BLOCK}.self_attn.distance_embedding": f"{_OURS}.attention.distances",
    f"{_BLOCK}.self_attn.linear_pos": f"{_OURS}.attention.pos",
    f"{_BLOCK}.self_attn.pos_bias_u": f"{_OURS}.attention.content_bias",
    f"{_BLOCK}.self_attn.pos_bias_v": f"{_OURS}.attention.distance_bias",
    f"{_BLOCK}.conv_module.layer_norm": f"{_OURS}.norm_conv",
    f"{_BLOCK}.conv_module.pointwise_conv1": f"{_OURS}.conv.pointwise_in",
    f"{_BLOCK}.conv_module.depthwise_conv": f"{_OURS}.conv.depthwise",
    f"{_BLOCK}.conv_module.depthwise_layer_norm": f"{_OURS}.conv.norm",
    f"{_BLOCK}.conv_module.pointwise_conv2": f"{_OURS}.conv.pointwise_out",
    f"{_BLOCK}.ffn2_layer_norm": f"{_OURS}.ff.0",
    f"{_BLOCK}.ffn2.intermediate_dense": f"{_OURS}.ff.1",
    f"{_BLOCK}.ffn2.output_dense": f"{_OURS}.ff.4",
    f"{_BLOCK}.final_layer_norm": f"{_OURS}.norm_out",
    f"{_ADAPTER}.residual_layer_norm": "encoder.adapters.*.residual.norm",
    f"{_ADAPTER}.residual_conv": "encoder.adapters.*.residual.conv",
    f"{_ADAPTER}.self_attn_layer_norm": "encoder.adapters.*.joined.norm",
    f"{_ADAPTER}.self_attn_conv": "encoder.adapters.*.joined.conv",
    f"{_ADAPTER}.self_attn.linear_q": "encoder.adapters.*.attention.qkv[0]",
    f"{_ADAPTER}.self_attn.linear_k": "encoder.adapters.*.attention.qkv[1]",
    f"{_ADAPTER}.self_attn.linear_v": "encoder.adapters.*.attention.qkv[2]",
    f"{_ADAPTER}.self_attn.linear_out": "encoder.adapters.*.attention.out",
    f"{_ADAPTER}.ffn_layer_norm": "encoder.adapters.*.ff.0",
    f"{_ADAPTER}.ffn.intermediate_dense": "encoder.adapters.*.ff.1",
    f"{_ADAPTER}.ffn.output_dense": "encoder.adapters.*.ff.4",
    "lm_head": "ctc.proj",
}
"""Their modules by our names, see `map_names`."""
WITHOUT_BIAS = (".conv.pointwise_in.", ".conv.depthwise.", ".conv.pointwise_out.")
PREFIXES, SKIPPED = ("wav2vec2_bert.",), ("masked_spec_embed",)
"""What stood for masked frames served training."""


class Wav2Vec2BertOptions(TransformersOptions):
    """What ``config.json`` says of the network; what it says of training is left out. Defaults are transformers'."""

    model_type: Literal["wav2vec2-bert"]
    hidden_size: PositiveInt = 1024
    num_hidden_layers: PositiveInt = 24
    num_attention_heads: PositiveInt = 16
    intermediate_size: PositiveInt = 4096
    feature_projection_input_dim: Literal[160] = 160
    hidden_act: Literal["swish", "silu"] = "swish"
    layer_norm_eps: float = 1e-5
    position_embeddings_type: Literal["relative_key", "relative"] = "relative_key"
    left_max_position_embeddings: PositiveInt = 64
    right_max_position_embeddings: PositiveInt = 8
    conv_depthwise_kernel_size: PositiveInt = 31
    add_adapter: bool = False
    adapter_kernel_size: Literal[3] = 3
    adapter_stride: Literal[2] = 2
    num_adapter_layers: PositiveInt = 1
    adapter_act: Literal["relu"] = "relu"
    use_intermediate_ffn_before_adapter: Literal[False] = False
    output_hidden_size: PositiveInt | None = None
    pad_token_id: int | None = 0
    """The CTC blank."""

    @model_validator(mode="after")
    def _check(self) -> "Wav2Vec2BertOptions":
        if self.add_adapter and self.output_hidden_size not in (None, self.hidden_size):
            raise ValueError(f"output_hidden_size must be hidden_size={self.hidden_size}")
        return self

    def to_config(self) -> OwsmCtcConfig:
        """Return our configuration of the same recogniser."""
        return OwsmCtcConfig(
            frontend=KaldiFbankConfig(num_mels=NUM_MELS, window="povey", double_precision=True),
            normalize="seamless",
            encoder=ConformerConfig(
                model_dim=self.hidden_size,
                num_layers=self.num_hidden_layers,
                num_heads=self.num_attention_heads,
                ff_dim=self.intermediate_size,
                positions="shaw" if self.position_embeddings_type == "relative_key" else "relative",
                max_distance=self.left_max_position_embeddings,
                max_distance_ahead=self.right_max_position_embeddings,
                kernel_size=self.conv_depthwise_kernel_size,
                conv_norm="layer",
                causal_conv=True,
                subsampling=STRIDE,
                joining_norm=True,
                joining_partial=False,
                norm_eps=self.layer_norm_eps,
                output_norm=False,
                num_adapters=self.num_adapter_layers if self.add_adapter else 0,
            ),
            interctc_layers=(),
            interctc_asr_only=(),
            prompt=None,
        )


def convert_wav2vec2_bert(source: str | Path, destination: str | Path) -> ConversionReport:
    """Turn a w2v-BERT 2.0 of transformers with a CTC head into a model folder of kind ``owsm_ctc``.

    Args:
        source: folder with ``config.json``, ``model.safetensors`` or ``pytorch_model.bin``, and ``vocab.json``;
            ``preprocessor_config.json``, ``tokenizer_config.json`` and the card are heeded if they are there.
        destination: folder to write; created if absent.

    Raises:
        ModelNotFoundError: ``source`` lacks a file.
        ConfigError: the network or its features have options that ours have not; all of the network's are named.
        CheckpointError: the weights hold more than tensors, or are not those of the configuration.
        DataError: the vocabulary is malformed, or not of characters.
    """
    source, destination = Path(source), Path(destination)
    options = read_options(source, Wav2Vec2BertOptions)
    check_settings(preprocessor_of(source), _FEATURES, str(source / PREPROCESSOR_FILE))
    weights = find_weights(source)
    state, keys = map_names(
        read_state(weights), WAV2VEC2_BERT_NAMES, source=str(weights), prefixes=PREFIXES, skipped=SKIPPED
    )
    unscale_input(state)
    tokenizer = read_characters(source, options.pad_token_id, head=state.get("ctc.proj.weight"))
    model = build_recogniser(options.to_config(), tokenizer, state, without_bias=WITHOUT_BIAS, source=str(weights))
    return save_converted(destination, model, tokenizer, keys, card=card_of(source, "w2v-BERT 2.0 (transformers)"))


def is_wav2vec2_bert(listing: Listing) -> bool:
    """Tell whether files say that they are a w2v-BERT 2.0 of transformers."""
    return transformers_config(listing).get("model_type") == MODEL_TYPE


def wanted_of_wav2vec2_bert(listing: Listing) -> tuple[str, ...]:
    """Return configuration and weights and, where they are, what features and characters are made by, and the card."""
    return (CONFIG_FILE, transformers_weights(listing), *wanted_of_characters(listing))


WAV2VEC2_BERT = Family(
    "w2v-BERT 2.0 of Hugging Face",
    f"{CONFIG_FILE} that says so, weights and vocab.json",
    is_wav2vec2_bert,
    wanted_of_wav2vec2_bert,
    convert_wav2vec2_bert,
)
