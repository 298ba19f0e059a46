"""The encoders of ESPnet's ``config.yaml`` as typed options, and our configuration of the same encoder.

Options that matter in training alone (layer drop, a second dropout rate) are admitted and have no effect here.

Source: the constructors of ESPnet 202511.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator
from typing_extensions import Self, override

from speechnar.config import Config
from speechnar.errors import ConfigError
from speechnar.nn.attention import PositionKind

Size = Annotated[int, Field(gt=0, le=1 << 16)]
Blocks = Annotated[int, Field(gt=0, le=1024)]
Rate = Annotated[float, Field(ge=0, lt=1)]

InputLayer = Literal["conv2d", "conv2d6", "conv2d8"]
_SUBSAMPLING = {"conv2d": 4, "conv2d6": 6, "conv2d8": 8}


class EncoderOptions(Config):
    """What all of ESPnet's encoders have in common."""

    norms_inter: ClassVar[bool] = False
    """Whether the encoder's last norm stands before the intermediate heads as well."""

    output_size: Size = 256
    attention_heads: Size = 4
    dropout_rate: Rate = 0.1
    positional_dropout_rate: float = 0.1
    attention_dropout_rate: Rate = 0.0
    input_layer: InputLayer = "conv2d"
    padding_idx: int = -1
    qk_norm: Literal[False] = False
    use_flash_attn: bool = True
    interctc_layer_idx: tuple[int, ...] = ()
    interctc_use_conditioning: bool = False

    @field_validator("interctc_layer_idx", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return () if value is None else value

    def ours(self) -> dict[str, Any]:
        """Return the fields of our configuration that do not depend on the kind of encoder."""
        return {
            "model_dim": self.output_size,
            "num_heads": self.attention_heads,
            "subsampling": _SUBSAMPLING[self.input_layer],
            "dropout": self.dropout_rate,
            "attention_dropout": self.attention_dropout_rate,
        }


class _RelativeOptions(EncoderOptions):
    """What encoders with a choice of positions have."""

    rel_pos_type: Literal["latest", "legacy"] = "latest"
    pos_enc_layer_type: Literal["abs_pos", "rel_pos", "legacy_rel_pos"] = "rel_pos"
    zero_triu: Literal[False] = False
    max_pos_emb_len: int = 5000
    layer_drop_rate: float = 0.0

    def positions(self, attention: str) -> PositionKind:
        positions: str = self.pos_enc_layer_type
        if self.rel_pos_type == "legacy":
            positions, attention = (
                name if name.startswith("legacy_") else name.replace("rel_", "legacy_rel_", 1)
                for name in (positions, attention)
            )
        match positions, attention:
            case "abs_pos", "selfattn":
                return "absolute"
            case "rel_pos", "rel_selfattn":
                return "relative"
            case "legacy_rel_pos", "legacy_rel_selfattn":
                return "legacy"
        raise ConfigError(
            f"encoder_conf: {self.pos_enc_layer_type} with {attention} and rel_pos_type {self.rel_pos_type} is not "
            "supported; need abs_pos with selfattn, or rel_pos with rel_selfattn"
        )


class _GatingOptions(_RelativeOptions):
    """What Branchformer and E-Branchformer have in common."""

    attention_layer_type: Literal["selfattn", "rel_selfattn", "legacy_rel_selfattn"] = "rel_selfattn"
    cgmlp_linear_units: Size = 2048
    cgmlp_conv_kernel: Size = 31
    use_linear_after_conv: Literal[False] = False
    gate_activation: Literal["identity"] = "identity"
    num_blocks: Blocks = 12

    @override
    def ours(self) -> dict[str, Any]:
        return {
            **super().ours(),
            "num_layers": self.num_blocks,
            "positions": self.positions(self.attention_layer_type),
            "gate_dim": self.cgmlp_linear_units,
            "kernel_size": self.cgmlp_conv_kernel,
        }


class EBranchformerOptions(_GatingOptions):
    """E-Branchformer of the task ``asr``."""

    linear_units: Size = 2048
    use_ffn: Literal[True] = False  # type: ignore[assignment]  # ESPnet's default is what we do not have
    macaron_ffn: Literal[True] = False  # type: ignore[assignment]
    ffn_activation_type: Literal["swish"] = "swish"
    positionwise_layer_type: Literal["linear"] = "linear"
    merge_conv_kernel: Size = 3
    gradient_checkpoint_layers: tuple[int, ...] = ()

    @override
    def ours(self) -> dict[str, Any]:
        return {
            **super().ours(),
            "kind": "e_branchformer",
            "ff_dim": self.linear_units,
            "merge_kernel_size": self.merge_conv_kernel,
        }


class EBranchformerCtcOptions(EBranchformerOptions):
    """E-Branchformer of OWSM-CTC, which reads a prompt."""

    input_layer: Literal["conv2d8"] = "conv2d8"
    use_flash_attn: bool = False
    use_cross_attention: bool | tuple[bool, ...] = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.interctc_layer_idx and not self.interctc_use_conditioning:
            raise ValueError("interctc_layer_idx without interctc_use_conditioning is not supported")
        return self

    @override
    def ours(self) -> dict[str, Any]:
        return {**super().ours(), "cross_attention_every": self._cross_attention_every()}

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


class BranchformerOptions(_GatingOptions):
    """Branchformer, whose branches are concatenated, as in ESPnet's recipes."""

    use_attn: Literal[True] = True
    use_cgmlp: Literal[True] = True
    merge_method: Literal["concat"] = "concat"
    cgmlp_weight: float | tuple[float, ...] = 0.5
    """Of another way of merging."""
    attn_branch_drop_rate: float | tuple[float, ...] = 0.0
    stochastic_depth_rate: float | tuple[float, ...] = 0.0

    @override
    def ours(self) -> dict[str, Any]:
        return {**super().ours(), "kind": "branchformer"}


class ConformerOptions(_RelativeOptions):
    """Conformer."""

    norms_inter: ClassVar[bool] = True
    num_blocks: Blocks = 6
    linear_units: Size = 2048
    normalize_before: Literal[True] = True
    concat_after: Literal[False] = False
    positionwise_layer_type: Literal["linear"] = "linear"
    positionwise_conv_kernel_size: int = 3
    macaron_style: Literal[True] = False  # type: ignore[assignment]  # ESPnet's default is what we do not have
    rel_pos_type: Literal["latest", "legacy"] = "legacy"
    selfattention_layer_type: Literal["selfattn", "rel_selfattn", "legacy_rel_selfattn"] = "rel_selfattn"
    activation_type: Literal["swish"] = "swish"
    use_cnn_module: Literal[True] = True
    cnn_module_kernel: Size = 31
    ctc_trim: Literal[False] = False
    stochastic_depth_rate: float | tuple[float, ...] = 0.0

    @override
    def ours(self) -> dict[str, Any]:
        return {
            **super().ours(),
            "kind": "conformer",
            "num_layers": self.num_blocks,
            "ff_dim": self.linear_units,
            "positions": self.positions(self.selfattention_layer_type),
            "kernel_size": self.cnn_module_kernel,
            "conv_norm": "batch",
        }


class TransformerOptions(EncoderOptions):
    """Transformer, with its norms before the modules."""

    norms_inter: ClassVar[bool] = True
    num_blocks: Blocks = 6
    linear_units: Size = 2048
    pos_enc_layer_type: Literal["abs_pos"] = "abs_pos"
    normalize_before: Literal[True] = True
    concat_after: Literal[False] = False
    positionwise_layer_type: Literal["linear"] = "linear"
    positionwise_conv_kernel_size: int = 1
    layer_drop_rate: float = 0.0

    @override
    def ours(self) -> dict[str, Any]:
        return {
            **super().ours(),
            "kind": "transformer",
            "num_layers": self.num_blocks,
            "ff_dim": self.linear_units,
            "positions": "absolute",
        }
