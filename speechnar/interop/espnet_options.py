"""ESPnet's ``config.yaml`` as typed options, and our configuration of the same model.

One class for each of ESPnet's, with its option names and its defaults; a literal type admits only what we implement, so
that every option without a counterpart is named in one error. Options that matter in training alone (layer drop, a
second dropout rate) are admitted and have no effect here.

Source: the constructors of ESPnet 202511.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field, PositiveFloat, model_validator
from typing_extensions import Self

from speechnar.config import Config, parse_config
from speechnar.errors import ConfigError
from speechnar.interop.espnet_encoders import (
    Blocks,
    BranchformerOptions,
    ConformerOptions,
    EBranchformerCtcOptions,
    EBranchformerOptions,
    EncoderOptions,
    Rate,
    Size,
    TransformerOptions,
)
from speechnar.models.asr.owsm_ctc import OwsmCtcConfig
from speechnar.models.asr.transformer_ar import TransformerArHeadConfig
from speechnar.text.tokenizer import WORD_START


class _FrontendOptions(Config):
    fs: int | str = 16000
    n_fft: Size = 512
    win_length: Size | None = None
    hop_length: Size = 128
    window: Literal["hann"] = "hann"
    center: Literal[True] = True
    normalized: Literal[False] = False
    onesided: Literal[True] = True
    n_mels: Size = 80
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


class _PromptOptions(Config):
    output_size: Size = 256
    attention_heads: Size = 4
    linear_units: Size = 2048
    num_blocks: Blocks = 6
    dropout_rate: Rate = 0.1
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
    interctc_weight: Rate = 0.0
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


class _PreprocessorOptions(Config):
    """How training prepares utterances, of which one choice decides what the model can be given."""

    model_config = ConfigDict(extra="ignore")

    speech_length: PositiveFloat = 30
    """Seconds that every utterance is padded to with silence."""


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
    encoder_conf: EBranchformerCtcOptions = Field(default_factory=EBranchformerCtcOptions)
    promptencoder: Literal["transformer"] = "transformer"
    promptencoder_conf: _PromptOptions = _PromptOptions()
    model: Literal["espnet_ctc"] = "espnet_ctc"
    model_conf: _CtcModelOptions = _CtcModelOptions()
    preprocessor_conf: _PreprocessorOptions = _PreprocessorOptions()

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
            "clip_s": self.preprocessor_conf.speech_length,
        }
        return parse_config(values, OwsmCtcConfig, source="ESPnet options")


class _AsrModelOptions(Config):
    """Of the model's options, those that say what it is; the rest is about losses and scores."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    ctc_weight: float = Field(default=0.5, gt=0, le=1)
    """Without CTC there is nothing here to decode with."""
    interctc_weight: Rate = 0.0
    sym_blank: Literal["<blank>"] = "<blank>"
    sym_sos: str = "<sos/eos>"
    sym_eos: str = "<sos/eos>"


class _DecoderOptions(Config):
    """ESPnet's Transformer decoder."""

    attention_heads: Size = 4
    linear_units: Size = 2048
    num_blocks: Blocks = 6
    dropout_rate: Rate = 0.1
    positional_dropout_rate: float = 0.1
    self_attention_dropout_rate: Rate = 0.0
    src_attention_dropout_rate: float = 0.0
    input_layer: Literal["embed"] = "embed"
    use_output_layer: Literal[True] = True
    normalize_before: Literal[True] = True
    concat_after: Literal[False] = False
    layer_drop_rate: float = 0.0
    qk_norm: Literal[False] = False
    use_flash_attn: bool = True
    gradient_checkpoint_layers: tuple[int, ...] = ()

    def ours(self) -> dict[str, Any]:
        return {
            "num_layers": self.num_blocks,
            "num_heads": self.attention_heads,
            "ff_dim": self.linear_units,
            "dropout": self.dropout_rate,
            "attention_dropout": self.self_attention_dropout_rate,
            "norm_eps": 1e-12,
        }


class AsrOptions(_CommonOptions):
    """A model of ESPnet's task ``asr`` with a CTC branch; heirs say which encoder it has."""

    encoder_conf: Any
    preencoder: None = None
    postencoder: None = None
    decoder: str | None = None
    decoder_conf: dict[str, Any] = Field(default_factory=dict)
    model: Literal["espnet"] = "espnet"
    model_conf: _AsrModelOptions = _AsrModelOptions()

    def to_config(self) -> OwsmCtcConfig:
        """Return our configuration of the front end, the encoder and the CTC branch.

        Raises:
            ConfigError: values do not go together, or are out of our range.
        """
        encoder: EncoderOptions = self.encoder_conf
        # Intermediate heads that are not fed back are losses only.
        layers = encoder.interctc_layer_idx if encoder.interctc_use_conditioning else ()
        values = {
            **self.shared(),
            "encoder": encoder.ours(),
            "interctc_layers": layers,
            "interctc_asr_only": (False,) * len(layers),
            "interctc_weight": self.model_conf.interctc_weight,
            "interctc_norm": bool(layers) and encoder.norms_inter,
            "prompt": None,
        }
        return parse_config(values, OwsmCtcConfig, source="ESPnet options")

    def head_config(self) -> TransformerArHeadConfig | None:
        """Return our configuration of the attention decoder; None where there is none.

        Raises:
            ConfigError: it is of a kind that our implementation has not.
        """
        if self.decoder is None or self.model_conf.ctc_weight == 1:  # ESPnet builds none then
            return None
        if self.decoder != "transformer":
            raise ConfigError(f"decoder must be transformer, got {self.decoder[:60]!r}")
        symbols = {self.model_conf.sym_sos, self.model_conf.sym_eos}
        if symbols != {"<sos/eos>"} or "<sos/eos>" not in self.token_list:
            raise ConfigError("sym_sos and sym_eos must be <sos/eos>, one of token_list")
        ours = parse_config(self.decoder_conf, _DecoderOptions, source="decoder_conf").ours()
        return parse_config(ours, TransformerArHeadConfig, source="ESPnet options")


class ConformerCtcOptions(AsrOptions):
    """A Conformer."""

    encoder: Literal["conformer"]
    encoder_conf: ConformerOptions = Field(default_factory=ConformerOptions)


class EBranchformerAsrOptions(AsrOptions):
    """An E-Branchformer."""

    encoder: Literal["e_branchformer"]
    encoder_conf: EBranchformerOptions = Field(default_factory=EBranchformerOptions)


class BranchformerCtcOptions(AsrOptions):
    """A Branchformer."""

    encoder: Literal["branchformer"]
    encoder_conf: BranchformerOptions = Field(default_factory=BranchformerOptions)


class TransformerCtcOptions(AsrOptions):
    """A Transformer, which is ESPnet's default."""

    encoder: Literal["transformer"] = "transformer"
    encoder_conf: TransformerOptions = Field(default_factory=TransformerOptions)


EspnetOptions = OwsmCtcOptions | AsrOptions

_TASKS: dict[str, type[EspnetOptions]] = {
    "e_branchformer_ctc": OwsmCtcOptions,
    "conformer": ConformerCtcOptions,
    "e_branchformer": EBranchformerAsrOptions,
    "branchformer": BranchformerCtcOptions,
    "transformer": TransformerCtcOptions,
}


def parse_options(values: Mapping[str, Any], source: str = "config.yaml") -> EspnetOptions:
    """Check the content of ESPnet's ``config.yaml``.

    Raises:
        ConfigError: naming every option that has no counterpart here.
    """
    encoder = values.get("encoder")
    options_cls = _TASKS.get(encoder) if isinstance(encoder, str) else None
    if options_cls is None:
        raise ConfigError(f"{source}: encoder must be one of {', '.join(_TASKS)}, got {str(encoder)[:60]!r}")
    return parse_config(values, options_cls, source=source)


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
