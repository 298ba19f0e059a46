"""FunASR's options of Paraformer models, and what they mean here.

Fields carry FunASR's names and defaults. A field that the reference would accept with more values than ours is a
``Literal`` of those that we have, so that every option without a counterpart is named in one error. Options that matter
in training alone (a second dropout rate, how losses are averaged) are admitted and have no effect here.

Source: the constructors of FunASR 1.4.16 (MIT licence).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from speechnar.config import Config, parse_config
from speechnar.errors import ConfigError
from speechnar.models.asr.paraformer import ParaformerConfig

_Size = Annotated[int, Field(gt=0, le=1 << 16)]
_Blocks = Annotated[int, Field(gt=0, le=1024)]
_Stack = Annotated[int, Field(gt=0, le=512)]
_Rate = Annotated[float, Field(ge=0, lt=1)]
_Weight = Annotated[float, Field(ge=0)]

NORM_EPS = 1e-12
"""Of all layer norms of FunASR."""


class FrontendOptions(Config):
    """Those of ``WavFrontend`` and ``WavFrontendOnline``."""

    fs: int = Field(default=16000, gt=0, le=192_000)
    window: Literal["hamming", "povey"] = "hamming"
    n_mels: _Stack = 80
    frame_length: float = Field(default=25, gt=0, le=200)
    frame_shift: float = Field(default=10, gt=0, le=200)
    filter_length_min: int = -1
    filter_length_max: int = -1
    lfr_m: _Stack = 1
    lfr_n: _Stack = 1
    dither: _Weight = 1.0
    snip_edges: Literal[True] = True
    upsacle_samples: bool = True
    cmvn_file: str | None = None
    """Named again in ``configuration.json``, or ``am.mvn``."""

    def ours(self) -> dict[str, Any]:
        """Return the fields of `KaldiFbankConfig`."""
        return {
            "kind": "kaldi_fbank",
            "sample_rate": self.fs,
            "num_mels": self.n_mels,
            "frame_length_ms": self.frame_length,
            "frame_shift_ms": self.frame_shift,
            "window": self.window,
            "dither": self.dither,
            "lfr_window": self.lfr_m,
            "lfr_shift": self.lfr_n,
            "scale": 32768.0 if self.upsacle_samples else 1.0,
        }


class SanmEncoderOptions(Config):
    """Those of ``SANMEncoder``."""

    output_size: _Size = 256
    attention_heads: _Size = 4
    linear_units: _Size = 2048
    num_blocks: _Blocks = 6
    dropout_rate: _Rate = 0.1
    positional_dropout_rate: float = 0.1
    attention_dropout_rate: _Rate = 0.0
    input_layer: Literal["pe"] = "conv2d"  # type: ignore[assignment]  # FunASR's default is what we do not have
    pos_enc_class: str = "SinusoidalPositionEncoder"
    """Of no effect: the input layer decides."""
    normalize_before: Literal[True] = True
    concat_after: Literal[False] = False
    positionwise_layer_type: Literal["linear"] = "linear"
    positionwise_conv_kernel_size: int = 1
    padding_idx: int = -1
    interctc_layer_idx: tuple[()] = ()
    interctc_use_conditioning: Literal[False] = False
    kernel_size: _Size = 11
    sanm_shfit: Literal[0] = 0
    selfattention_layer_type: Literal["sanm"] = "sanm"
    lora_list: None = None
    tf2torch_tensor_name_prefix_torch: str = ""
    tf2torch_tensor_name_prefix_tf: str = ""

    def ours(self) -> dict[str, Any]:
        """Return the fields of `SanmEncoderConfig`."""
        return {
            "kind": "sanm",
            "model_dim": self.output_size,
            "num_layers": self.num_blocks,
            "num_heads": self.attention_heads,
            "ff_dim": self.linear_units,
            "kernel_size": self.kernel_size,
            "dropout": self.dropout_rate,
            "attention_dropout": self.attention_dropout_rate,
            "norm_eps": NORM_EPS,
        }


_Counts = Annotated[tuple[Annotated[int, Field(ge=0, le=1 << 12)], ...], Field(min_length=1)]


class _StreamingEncoderOptions(SanmEncoderOptions):
    input_layer: Literal["pe_online"] = "conv2d"  # type: ignore[assignment]
    chunk_size: _Counts = (16,)
    stride: _Counts = (10,)
    pad_left: _Counts = (0,)
    encoder_att_look_back_factor: _Counts = (1,)
    decoder_att_look_back_factor: _Counts = (1,)

    @field_validator(
        "chunk_size",
        "stride",
        "pad_left",
        "encoder_att_look_back_factor",
        "decoder_att_look_back_factor",
        mode="before",
    )
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, int) else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if any(self.pad_left):
            raise ValueError(f"pad_left must be 0, got {list(self.pad_left)}")
        if self.chunk_size[-1] < self.stride[-1]:
            raise ValueError(f"chunk_size must be at least stride {self.stride[-1]}, got {self.chunk_size[-1]}")
        return self

    def ours(self) -> dict[str, Any]:
        """The last of the sizes that training drew from is the one that FunASR's examples decode with."""
        windows = {
            "current_frames": self.stride[-1],
            "ahead_frames": self.chunk_size[-1] - self.stride[-1],
            "encoder_look_back": self.encoder_att_look_back_factor[-1],
            "decoder_look_back": self.decoder_att_look_back_factor[-1],
        }
        return {**super().ours(), "windows": windows}


class _ConformerOptions(Config):
    output_size: _Size = 256
    attention_heads: _Size = 4
    linear_units: _Size = 2048
    num_blocks: _Blocks = 6
    dropout_rate: _Rate = 0.1
    positional_dropout_rate: float = 0.1
    attention_dropout_rate: _Rate = 0.0
    input_layer: Literal["conv2d", "conv2d6", "conv2d8"] = "conv2d"
    normalize_before: Literal[True] = True
    concat_after: Literal[False] = False
    positionwise_layer_type: Literal["linear"] = "linear"
    positionwise_conv_kernel_size: int = 3
    macaron_style: Literal[True] = False  # type: ignore[assignment]
    rel_pos_type: Literal["latest", "legacy"] = "legacy"
    pos_enc_layer_type: Literal["rel_pos"] = "rel_pos"
    selfattention_layer_type: Literal["rel_selfattn"] = "rel_selfattn"
    activation_type: Literal["swish"] = "swish"
    use_cnn_module: Literal[True] = True
    zero_triu: Literal[False] = False
    cnn_module_kernel: _Size = 31
    padding_idx: int = -1
    interctc_layer_idx: tuple[()] = ()
    interctc_use_conditioning: Literal[False] = False
    stochastic_depth_rate: float | tuple[float, ...] = 0.0

    def ours(self) -> dict[str, Any]:
        return {
            "kind": "conformer",
            "model_dim": self.output_size,
            "num_layers": self.num_blocks,
            "num_heads": self.attention_heads,
            "ff_dim": self.linear_units,
            "positions": "relative" if self.rel_pos_type == "latest" else "legacy",
            "subsampling": {"conv2d": 4, "conv2d6": 6, "conv2d8": 8}[self.input_layer],
            "dropout": self.dropout_rate,
            "attention_dropout": self.attention_dropout_rate,
            "kernel_size": self.cnn_module_kernel,
            "conv_norm": "batch",
            "norm_eps": NORM_EPS,
        }


class _TransformerDecoderOptions(Config):
    attention_heads: _Size = 4
    linear_units: _Size = 2048
    num_blocks: _Blocks = 6
    dropout_rate: _Rate = 0.1
    positional_dropout_rate: float = 0.1
    self_attention_dropout_rate: float = 0.0
    src_attention_dropout_rate: _Rate = 0.0
    input_layer: Literal["embed"] = "embed"
    use_output_layer: Literal[True] = True
    pos_enc_class: str = "PositionalEncoding"
    normalize_before: Literal[True] = True
    concat_after: Literal[False] = False

    def ours(self) -> dict[str, Any]:
        return {
            "num_layers": self.num_blocks,
            "num_heads": self.attention_heads,
            "ff_dim": self.linear_units,
            "dropout": self.dropout_rate,
            "attention_dropout": self.src_attention_dropout_rate,
            "norm_eps": NORM_EPS,
        }

    def head(self) -> dict[str, Any]:
        """Return the fields of `ParaformerHeadConfig`."""
        return {**self.ours(), "decoder": "transformer"}


class _SanmDecoderOptions(_TransformerDecoderOptions):
    att_layer_num: _Blocks = 6
    kernel_size: _Size = 21
    sanm_shfit: int | None = Field(default=0, ge=0)
    wo_input_layer: Literal[False] = False
    lora_list: None = None
    chunk_multiply_factor: tuple[int, ...] = (1,)
    """Of no effect in inference."""
    tf2torch_tensor_name_prefix_torch: str = ""
    tf2torch_tensor_name_prefix_tf: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.num_blocks > self.att_layer_num:
            raise ValueError(
                f"num_blocks above att_layer_num {self.att_layer_num} (layers without attention) are not supported, "
                f"got {self.num_blocks}"
            )
        return self

    def ours(self) -> dict[str, Any]:
        return {**super().ours(), "num_layers": self.att_layer_num, "kernel_size": self.kernel_size}

    def head(self) -> dict[str, Any]:
        shift = (self.kernel_size - 1) // 2 if self.sanm_shfit is None else self.sanm_shfit
        return {**self.ours(), "decoder": "sanm", "fsmn_shift": shift}


class _BiasDecoderOptions(_SanmDecoderOptions):
    use_output_layer: Literal[False] = True  # type: ignore[assignment]
    wo_input_layer: Literal[True] = False  # type: ignore[assignment]
    sanm_shfit: Literal[0] = 0


class _PredictorOptions(Config):
    idim: _Size
    l_order: Literal[1]
    r_order: Literal[1]
    threshold: Literal[1] = 1
    dropout: _Rate = 0.1
    smooth_factor: float = Field(default=1.0, gt=0)
    noise_threshold: _Weight = 0.0
    tail_threshold: float = 0.45
    tail_mask: bool = True
    """Where the tail stands in a padded batch; an utterance alone is the same."""
    tf2torch_tensor_name_prefix_torch: str = ""
    tf2torch_tensor_name_prefix_tf: str = ""

    @field_validator("tail_threshold")
    @classmethod
    def _check_tail(cls, value: float) -> float:
        if value != 0.45:
            raise ValueError("only 0.45 is supported")
        return value

    def head(self, conv: str) -> dict[str, Any]:
        """Return the fields of `ParaformerHeadConfig`."""
        embedder = {
            "kind": "cif",
            "conv": conv,
            "smooth_factor": self.smooth_factor,
            "noise_threshold": self.noise_threshold,
            "threshold": "fixed",
        }
        return {"embedder": embedder}


class _FullPredictorOptions(_PredictorOptions):
    tail_threshold: float = Field(default=0.0, validate_default=True)


class _TimedPredictorOptions(_FullPredictorOptions):
    smooth_factor2: float = Field(default=1.0, gt=0)
    noise_threshold2: _Weight = 0.0
    upsample_times: _Size = 5
    upsample_type: Literal["cnn_blstm"] = "cnn"  # type: ignore[assignment]
    use_cif1_cnn: Literal[False] = True  # type: ignore[assignment]

    def head(self, conv: str) -> dict[str, Any]:
        timestamps = {
            "steps_per_frame": self.upsample_times,
            "smooth_factor": self.smooth_factor2,
            "noise_threshold": self.noise_threshold2,
        }
        return {**super().head(conv), "timestamps": timestamps}


class _ModelOptions(Config):
    ctc_weight: float = Field(default=0.5, ge=0, lt=1)
    lsm_weight: _Rate = 0.0
    predictor_weight: _Weight = 0.0
    predictor_bias: Literal[0, 1] = 0
    sampling_ratio: float = Field(default=0.2, ge=0, le=1)
    ignore_id: int = -1
    blank_id: Literal[0] = 0
    sos: Literal[1] = 1
    eos: Literal[2] = 2
    length_normalized_loss: bool = False
    share_embedding: Literal[False] = False
    use_1st_decoder_loss: bool = False
    input_size: int | None = None
    vocab_size: int | None = None

    def head(self) -> dict[str, Any]:
        """Return the fields of `ParaformerHeadConfig`."""
        return {
            "glancing_ratio": self.sampling_ratio,
            "label_smoothing": self.lsm_weight,
            "quantity_weight": self.predictor_weight,
            "count_end": self.predictor_bias == 1,
        }


class _SeacoModelOptions(_ModelOptions):
    inner_dim: _Size = 256
    bias_encoder_type: Literal["lstm"] = "lstm"
    bias_encoder_dropout_rate: float = 0.0
    bias_encoder_bid: Literal[False] = False
    seaco_lsm_weight: _Rate = 0.0
    seaco_length_normal: bool = True
    seaco_length_normalized_loss: bool = True
    train_decoder: bool = True
    seaco_weight: float = 0.01
    NO_BIAS: int = Field(default=8377, ge=0)


_ENCODERS: dict[str, type[SanmEncoderOptions | _ConformerOptions]] = {
    "SANMEncoder": SanmEncoderOptions,
    "SANMEncoderChunkOpt": _StreamingEncoderOptions,
    "ConformerEncoder": _ConformerOptions,
}
_DECODERS: dict[str, type[_TransformerDecoderOptions]] = {
    "ParaformerSANMDecoder": _SanmDecoderOptions,
    "ParaformerSANDecoder": _TransformerDecoderOptions,
}
_PREDICTORS: dict[str, tuple[type[_PredictorOptions], str]] = {
    "CifPredictor": (_PredictorOptions, "depthwise"),
    "CifPredictorV2": (_FullPredictorOptions, "full"),
    "CifPredictorV3": (_TimedPredictorOptions, "full"),
}
_MODELS: dict[str, tuple[type[_ModelOptions], frozenset[str]]] = {
    "Paraformer": (_ModelOptions, frozenset({"CifPredictor", "CifPredictorV2"})),
    "BiCifParaformer": (_ModelOptions, frozenset({"CifPredictorV3"})),
    "SeacoParaformer": (_SeacoModelOptions, frozenset({"CifPredictorV2", "CifPredictorV3"})),
    "ParaformerStreaming": (_ModelOptions, frozenset({"CifPredictorV2"})),
}


class FunasrOptions(Config):
    """What defines a model among everything in FunASR's ``config.yaml``; the rest is about its training."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: Literal["Paraformer", "BiCifParaformer", "SeacoParaformer", "ParaformerStreaming"]
    model_conf: dict[str, Any] = Field(default_factory=dict)
    encoder: Literal["SANMEncoder", "SANMEncoderChunkOpt", "ConformerEncoder"]
    encoder_conf: dict[str, Any] = Field(default_factory=dict)
    decoder: Literal["ParaformerSANMDecoder", "ParaformerSANDecoder"]
    decoder_conf: dict[str, Any] = Field(default_factory=dict)
    predictor: Literal["CifPredictor", "CifPredictorV2", "CifPredictorV3"]
    predictor_conf: dict[str, Any] = Field(default_factory=dict)
    seaco_decoder: Literal["ParaformerSANMDecoder"] | None = None
    seaco_decoder_conf: dict[str, Any] = Field(default_factory=dict)
    frontend: Literal["WavFrontend", "WavFrontendOnline"] = "WavFrontend"
    frontend_conf: FrontendOptions = FrontendOptions()
    ctc_conf: dict[str, Any] | None = None
    normalize: None = None
    specaug: str | None = None
    """Ours has masks of its own."""
    tokenizer: Literal["CharTokenizer"] = "CharTokenizer"
    tokenizer_conf: dict[str, Any] = Field(default_factory=dict)

    @field_validator("model_conf", "encoder_conf", "decoder_conf", "predictor_conf", "tokenizer_conf", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    def to_config(self, source: str = "config.yaml") -> ParaformerConfig:
        """Return our configuration of the same model.

        Raises:
            ConfigError: naming every option of the first section with options that have no counterpart here, or values
                that do not go together.
        """
        model_options, predictors = _MODELS[self.model]
        if self.predictor not in predictors:
            raise ConfigError(
                f"{source}: {self.model} needs predictor {' or '.join(sorted(predictors))}, got {self.predictor}"
            )
        if (self.model == "ParaformerStreaming") != (self.encoder == "SANMEncoderChunkOpt"):
            raise ConfigError(f"{source}: encoder {self.encoder} of {self.model} is not supported")
        predictor_options, conv = _PREDICTORS[self.predictor]
        model = parse_config(self.model_conf, model_options, source=f"{source}: model_conf")
        encoder = parse_config(self.encoder_conf, _ENCODERS[self.encoder], source=f"{source}: encoder_conf")
        decoder = parse_config(self.decoder_conf, _DECODERS[self.decoder], source=f"{source}: decoder_conf")
        predictor = parse_config(self.predictor_conf, predictor_options, source=f"{source}: predictor_conf")
        if predictor.idim != encoder.output_size:
            raise ConfigError(
                f"{source}: predictor_conf.idim must be the encoder's output_size {encoder.output_size}, "
                f"got {predictor.idim}"
            )
        values: dict[str, Any] = {
            "frontend": self.frontend_conf.ours(),
            "normalize": "global",
            "encoder": encoder.ours(),
            "head": {**decoder.head(), **predictor.head(conv), **model.head()},
            "ctc_weight": model.ctc_weight,
        }
        if self.specaug is None:
            values["spec_augment"] = None
        if isinstance(model, _SeacoModelOptions):
            values["hotwords"] = self._hotwords(model, encoder.output_size, source)
        return parse_config(values, ParaformerConfig, source=f"{source}: FunASR options")

    def _hotwords(self, model: _SeacoModelOptions, width: int, source: str) -> dict[str, Any]:
        """Return the fields of `SeacoConfig`."""
        if model.inner_dim != width or self.seaco_decoder is None:
            raise ConfigError(
                f"{source}: SeacoParaformer needs seaco_decoder, and inner_dim {width} of the encoder; "
                f"got {self.seaco_decoder} and {model.inner_dim}"
            )
        bias = parse_config(self.seaco_decoder_conf, _BiasDecoderOptions, source=f"{source}: seaco_decoder_conf")
        return {**bias.ours(), "label_smoothing": model.seaco_lsm_weight, "no_bias_id": model.NO_BIAS}


def parse_options(values: Mapping[str, Any], source: str = "config.yaml") -> FunasrOptions:
    """Check the content of FunASR's ``config.yaml``; the sections of its parts are checked by ``to_config``.

    Raises:
        ConfigError: naming the parts that have no counterpart here.
    """
    return parse_config(values, FunasrOptions, source=source)
