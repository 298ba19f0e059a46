"""ESPnet's ``config.yaml`` as typed options, and our configuration of the same model.

One class for each of ESPnet's, with its option names and its defaults; a literal type admits only what we implement, so
that every option without a counterpart is named in one error. Options that matter in training alone (layer drop, a
second dropout rate) are admitted and have no effect here.

Source: the constructors of ESPnet 202511.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from typing_extensions import Self

from speechnar.config import Config, parse_config
from speechnar.errors import ConfigError
from speechnar.models.asr.owsm_ctc import OwsmCtcConfig
from speechnar.nn.attention import PositionKind
from speechnar.text.tokenizer import WORD_START

_Size = Annotated[int, Field(gt=0, le=1 << 16)]
_Blocks = Annotated[int, Field(gt=0, le=1024)]
_Rate = Annotated[float, Field(ge=0, lt=1)]


class _FrontendOptions(Config):
    fs: int | str = 16000
    n_fft: _Size = 512
    win_length: _Size | None = None
    hop_length: _Size = 128
    window: Literal["hann"] = "hann"
    center: Literal[True] = True
    normalized: Literal[False] = False
    onesided: Literal[True] = True
    n_mels: _Size = 80
    fmin: float | None = None
    fmax: float | None = None
    htk: Literal[False] = False
    frontend_conf: dict[str, Any] | None = None
    """Speech enhancement before the features."""
    apply_stft: Literal[True] = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        enhancement = self.frontend_conf or {}
        if enhancement.get("use_wpe") or enhancement.get("use_beamformer"):
            raise ValueError("speech enhancement (use_wpe, use_beamformer) is not supported")
        if not re.fullmatch(r"\d{1,6}|\d{1,3}[kK]", str(self.fs)):
            raise ValueError(f"fs must be a sample rate such as 16000 or 16k, got {str(self.fs)[:20]!r}")
        return self

    def ours(self) -> dict[str, Any]:
        rate = str(self.fs).lower()
        return {
            "kind": "log_mel",
            "sample_rate": int(rate[:-1]) * 1000 if rate.endswith("k") else int(rate),
            "n_fft": self.n_fft,
            "win_length": self.win_length or self.n_fft,
            "hop_length": self.hop_length,
            "num_mels": self.n_mels,
            "f_min": self.fmin or 0.0,
            "f_max": self.fmax,
        }


class _NormalizeOptions(Config):
    norm_means: Literal[True] = True
    norm_vars: Literal[True]
    stats_file: str | None = None
    """Its content is in the checkpoint."""
    eps: float = 1e-20


class _EncoderOptions(Config):
    """What ESPnet's Conformer and its E-Branchformer for OWSM-CTC have in common."""

    output_size: _Size = 256
    attention_heads: _Size = 4
    linear_units: _Size = 2048
    dropout_rate: _Rate = 0.1
    positional_dropout_rate: float = 0.1
    attention_dropout_rate: _Rate = 0.0
    rel_pos_type: Literal["latest", "legacy"] = "latest"
    pos_enc_layer_type: Literal["abs_pos", "rel_pos"] = "rel_pos"
    positionwise_layer_type: Literal["linear"] = "linear"
    zero_triu: Literal[False] = False
    padding_idx: int = -1
    max_pos_emb_len: int = 5000
    layer_drop_rate: float = 0.0
    use_flash_attn: bool = False

    def positions(self, attention: str) -> PositionKind:
        match self.pos_enc_layer_type, attention, self.rel_pos_type:
            case "abs_pos", "selfattn", _:
                return "absolute"
            case "rel_pos", "rel_selfattn", "latest":
                return "relative"
        raise ConfigError(
            f"encoder_conf: {self.pos_enc_layer_type} with {attention} and rel_pos_type {self.rel_pos_type} is not "
            "supported; need abs_pos with selfattn, or rel_pos with rel_selfattn and rel_pos_type latest"
        )


class _EBranchformerOptions(_EncoderOptions):
    attention_layer_type: Literal["selfattn", "rel_selfattn"] = "rel_selfattn"
    cgmlp_linear_units: _Size = 2048
    cgmlp_conv_kernel: _Size = 31
    use_linear_after_conv: Literal[False] = False
    gate_activation: Literal["identity"] = "identity"
    num_blocks: _Blocks = 12
    input_layer: Literal["conv2d8"] = "conv2d8"
    use_ffn: Literal[True] = False  # type: ignore[assignment]  # ESPnet's default is what we do not have
    macaron_ffn: Literal[True] = False  # type: ignore[assignment]
    ffn_activation_type: Literal["swish"] = "swish"
    merge_conv_kernel: _Size = 3
    interctc_layer_idx: tuple[int, ...] = ()
    interctc_use_conditioning: bool = False
    use_cross_attention: bool | tuple[bool, ...] = True

    @field_validator("interctc_layer_idx", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return () if value is None else value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.interctc_layer_idx and not self.interctc_use_conditioning:
            raise ValueError("interctc_layer_idx without interctc_use_conditioning is not supported")
        return self

    def ours(self) -> dict[str, Any]:
        return {
            "kind": "e_branchformer",
            "model_dim": self.output_size,
            "num_layers": self.num_blocks,
            "num_heads": self.attention_heads,
            "ff_dim": self.linear_units,
            "positions": self.positions(self.attention_layer_type),
            "subsampling": 8,
            "cross_attention_every": self._cross_attention_every(),
            "dropout": self.dropout_rate,
            "attention_dropout": self.attention_dropout_rate,
            "gate_dim": self.cgmlp_linear_units,
            "kernel_size": self.cgmlp_conv_kernel,
            "merge_kernel_size": self.merge_conv_kernel,
        }

    def _cross_attention_every(self) -> int | None:
        if isinstance(self.use_cross_attention, bool):
            return 1 if self.use_cross_attention else None
        if not any(self.use_cross_attention):
            return None
        every = self.use_cross_attention.index(True) + 1
        if self.use_cross_attention != tuple((i + 1) % every == 0 for i in range(self.num_blocks)):
            raise ConfigError(
                f"encoder_conf.use_cross_attention must hold one value for each of {self.num_blocks} blocks, true at "
                f"every n-th, got {list(self.use_cross_attention)}"
            )
        return every


_SUBSAMPLING = {"conv2d": 4, "conv2d6": 6, "conv2d8": 8}


class _ConformerOptions(_EncoderOptions):
    num_blocks: _Blocks = 6
    input_layer: Literal["conv2d", "conv2d6", "conv2d8"] = "conv2d"
    normalize_before: Literal[True] = True
    concat_after: Literal[False] = False
    positionwise_conv_kernel_size: int = 3
    macaron_style: Literal[True] = False  # type: ignore[assignment]
    rel_pos_type: Literal["latest", "legacy"] = "legacy"
    selfattention_layer_type: Literal["selfattn", "rel_selfattn"] = "rel_selfattn"
    activation_type: Literal["swish"] = "swish"
    use_cnn_module: Literal[True] = True
    cnn_module_kernel: _Size = 31
    interctc_layer_idx: tuple[()] = ()
    interctc_use_conditioning: Literal[False] = False
    ctc_trim: Literal[False] = False
    stochastic_depth_rate: float | tuple[float, ...] = 0.0
    qk_norm: Literal[False] = False
    use_flash_attn: bool = True

    def ours(self) -> dict[str, Any]:
        return {
            "kind": "conformer",
            "model_dim": self.output_size,
            "num_layers": self.num_blocks,
            "num_heads": self.attention_heads,
            "ff_dim": self.linear_units,
            "positions": self.positions(self.selfattention_layer_type),
            "subsampling": _SUBSAMPLING[self.input_layer],
            "dropout": self.dropout_rate,
            "attention_dropout": self.attention_dropout_rate,
            "kernel_size": self.cnn_module_kernel,
            "conv_norm": "batch",
        }


class _PromptOptions(Config):
    output_size: _Size = 256
    attention_heads: _Size = 4
    linear_units: _Size = 2048
    num_blocks: _Blocks = 6
    dropout_rate: _Rate = 0.1
    positional_dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.0
    pos_enc_layer_type: str = "abs_pos"
    """Of no effect: embedded tokens come with their positions."""
    normalize_before: Literal[True] = True
    concat_after: Literal[False] = False
    positionwise_layer_type: Literal["linear"] = "linear"
    positionwise_conv_kernel_size: int = 1
    padding_idx: int = -1
    interctc_layer_idx: tuple[()] = ()
    interctc_use_conditioning: Literal[False] = False
    layer_drop_rate: float = 0.0
    qk_norm: Literal[False] = False
    use_flash_attn: bool = True

    def ours(self) -> dict[str, Any]:
        return {
            "model_dim": self.output_size,
            "num_layers": self.num_blocks,
            "num_heads": self.attention_heads,
            "ff_dim": self.linear_units,
            "dropout": self.dropout_rate,
        }


class _CtcModelOptions(Config):
    interctc_weight: _Rate = 0.0
    ctc_asr_only: tuple[bool, ...] = (False,)
    sym_blank: Literal["<blank>"] = "<blank>"
    sym_na: Literal["<na>"] = "<na>"
    sym_sos: str = "<sos>"
    sym_eos: str = "<eos>"
    sym_sop: str = "<sop>"
    sym_space: str = "<space>"
    ignore_id: int = -1
    report_cer: bool = True
    report_wer: bool = True
    extract_feats_in_collect_stats: bool = True


class _CommonOptions(Config):
    """What defines a model among everything in ESPnet's ``config.yaml``; the rest is about its training."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    token_list: tuple[str, ...]
    unit: Literal["bpe", "char"] = Field(default="bpe", alias="token_type")
    bpemodel: str | None = None
    input_size: None = None
    """Set in models that read features instead of waveforms."""
    frontend: Literal["default"] = "default"
    frontend_conf: _FrontendOptions = _FrontendOptions()
    normalize: Literal["global_mvn", "utterance_mvn"] = "utterance_mvn"
    normalize_conf: _NormalizeOptions
    specaug: Literal["specaug"] | None = None
    specaug_conf: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _fill_normalize(cls, values: Any) -> Any:
        """ESPnet's two normalisers differ in the default of ``norm_vars``."""
        if not isinstance(values, dict):
            return values
        given = values.get("normalize_conf") or {}
        default = {"norm_vars": values.get("normalize") == "global_mvn"}
        return {**values, "normalize_conf": {**default, **given} if isinstance(given, dict) else given}

    def pieces(self) -> tuple[str, ...]:
        """Return the token list in our spelling."""
        renamed = {"<sos/eos>": "<eos>"} | ({"<space>": WORD_START} if self.unit == "char" else {})
        return tuple(renamed.get(piece, piece) for piece in self.token_list)

    def shared(self) -> dict[str, Any]:
        """Return the fields of our configuration that do not depend on the kind of encoder."""
        return {
            "frontend": self.frontend_conf.ours(),
            "normalize": "global" if self.normalize == "global_mvn" else "utterance",
            "spec_augment": _spec_augment(self.specaug_conf) if self.specaug else None,
        }


class OwsmCtcOptions(_CommonOptions):
    """A model of ESPnet's task ``s2t_ctc``."""

    encoder: Literal["e_branchformer_ctc"]
    encoder_conf: _EBranchformerOptions = Field(default_factory=_EBranchformerOptions)
    promptencoder: Literal["transformer"] = "transformer"
    promptencoder_conf: _PromptOptions = _PromptOptions()
    model: Literal["espnet_ctc"] = "espnet_ctc"
    model_conf: _CtcModelOptions = _CtcModelOptions()

    def to_config(self) -> OwsmCtcConfig:
        """Return our configuration of the same model.

        Raises:
            ConfigError: values do not go together, or are out of our range.
        """
        layers = self.encoder_conf.interctc_layer_idx
        asr_only = self.model_conf.ctc_asr_only
        if self.model_conf.interctc_weight == 0 and len(asr_only) != len(layers) + 1:
            asr_only = (False,) * (len(layers) + 1)  # the heads were not trained apart
        if len(asr_only) != len(layers) + 1 or asr_only[-1]:
            raise ConfigError(
                f"model_conf.ctc_asr_only must hold {len(layers) + 1} values, the last one false, got {list(asr_only)}"
            )
        values = {
            **self.shared(),
            "encoder": self.encoder_conf.ours(),
            "interctc_layers": layers,
            "interctc_asr_only": asr_only[:-1],
            "interctc_weight": self.model_conf.interctc_weight,
            "prompt": self.promptencoder_conf.ours(),
        }
        return parse_config(values, OwsmCtcConfig, source="ESPnet options")


class ConformerCtcOptions(_CommonOptions):
    """A Conformer of ESPnet's task ``asr``, of which the CTC branch is used."""

    encoder: Literal["conformer"]
    encoder_conf: _ConformerOptions = Field(default_factory=_ConformerOptions)
    preencoder: None = None
    postencoder: None = None
    model: Literal["espnet"] = "espnet"

    def to_config(self) -> OwsmCtcConfig:
        """Return our configuration of the same model.

        Raises:
            ConfigError: values do not go together, or are out of our range.
        """
        values = {
            **self.shared(),
            "encoder": self.encoder_conf.ours(),
            "interctc_layers": (),
            "interctc_asr_only": (),
            "prompt": None,
        }
        return parse_config(values, OwsmCtcConfig, source="ESPnet options")


EspnetOptions = OwsmCtcOptions | ConformerCtcOptions


def parse_options(values: Mapping[str, Any], source: str = "config.yaml") -> EspnetOptions:
    """Check the content of ESPnet's ``config.yaml``.

    Raises:
        ConfigError: naming every option that has no counterpart here.
    """
    match values.get("encoder"):
        case "e_branchformer_ctc":
            return parse_config(values, OwsmCtcOptions, source=source)
        case "conformer":
            return parse_config(values, ConformerCtcOptions, source=source)
        case other:
            raise ConfigError(f"{source}: encoder must be e_branchformer_ctc or conformer, got {str(other)[:60]!r}")


def _spec_augment(conf: Mapping[str, Any]) -> dict[str, Any]:
    """Return the masks; time warping is not ours, and time masks of a fixed width become our default share."""
    values: dict[str, Any] = {
        "freq_masks": conf.get("num_freq_mask", 2) if conf.get("apply_freq_mask", True) else 0,
        "freq_width": _upper(conf.get("freq_mask_width_range", 20)),
        "time_masks": conf.get("num_time_mask", 2) if conf.get("apply_time_mask", True) else 0,
    }
    if conf.get("time_mask_width_ratio_range") is not None:
        values["time_ratio"] = _upper(conf["time_mask_width_ratio_range"])
    return values


def _upper(bounds: Any) -> Any:
    return bounds[-1] if isinstance(bounds, list | tuple) and bounds else bounds
