"""Prepare a loaded model for inference: weights packed for the processor, in the precision that it is fastest in.

Layers know nothing of it. `prepare` goes through a finished model and puts others in the place of its linear layers and
convolutions, which compute the same from packed weights; the old weights are freed. All of them take float32 and return
float32, so that residual streams, norms, softmax and attention stay what they were:

- ``fp32``: weights laid out once as oneDNN wants them and activations computed along, where the processor has AVX-512
  (MKL, torch's own choice, runs code for AVX2 on processors that are not Intel's) or is an ARM.
- ``bf16``: products of bfloat16 numbers, summed in float32, where there are instructions for it; elsewhere that would
  take three times as long as float32. On a GPU without them it is float16.
- ``int8``: weights have a scale for each output, inputs one for each row, found as they come. A row is a frame or a
  token: an utterance is computed the same in any batch, whatever stands in its padding. One scale for the whole
  input, as ``torch.ao.quantization.quantize_dynamic`` has it, would break that. Convolutions of images are in bf16,
  where that is to be had.

Whatever the precision, batch norms become part of the convolution before them, and activations are computed along with
what they stand behind.

Shapes: N rows, D inputs, E outputs, B utterances, C channels, T frames, K kernel.
Sources: Dettmers et al., "LLM.int8()", 2022, section 3.1 (scales of rows and outputs); oneDNN, "Nuances of int8
computations" (without VNNI, sums of two products are cut off at 16 bits, so that inputs may have 7 bits only).
"""

from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.hub import Precision
from speechnar.memory import keep_memory
from speechnar.models.base import AsrModel, LoadedModel, MtModel, Trainable, load_model
from speechnar.nn.cif import CifPredictor, TimestampPredictor
from speechnar.nn.conv import ConformerConv
from speechnar.nn.dropout import Dropout

UNTOUCHED: tuple[type[nn.Module], ...] = (CifPredictor, TimestampPredictor)
"""Layers that count in float32 under any autocast, too; models of this kind say so (`Trainable.is_exact`)."""
FULL_LEVELS = 127
"""Steps of 8 bits on either side of 0."""
MIN_WIDTH = 32
"""Narrower layers stay in float32: they take no time, and what has few outputs decides something."""
KEPT_BYTES = 1 << 28
"""Of freed memory, which the next recording needs again."""
ROWS_AT_ONCE = 64
"""Of a weight that is made integers."""
_TINY = 1e-30
"""Less than the scale of any row but one of zeros."""


@dataclass(frozen=True)
class Activation:
    """What may be computed along with a product."""

    name: str
    algorithm: str
    """Both as oneDNN calls them."""
    apply: Callable[[Tensor], Tensor]
    """The same by torch; may change its argument."""


NONE = Activation("none", "", lambda x: x)


def activation_of(module: nn.Module) -> Activation | None:
    """Return what ``module`` is, if it is an activation that can be computed along with a product."""
    match module:
        case nn.ReLU():
            return Activation("relu", "", torch.relu_)
        case nn.SiLU():
            return Activation("swish", "", lambda x: F.silu(x, inplace=True))
        case nn.GELU():
            way = module.approximate
            return Activation("gelu", way, lambda x: F.gelu(x, approximate=way))
    return None


class Prepared(nn.Module):
    """A layer whose weights are packed: it only computes, on the device where it was made."""

    def _refuse(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        raise ConfigError(
            "a model prepared for inference can be neither saved, copied, moved nor trained; load it once more by "
            "speechnar.models.base.load_model, which leaves it as it was saved"
        )

    __reduce_ex__ = _save_to_state_dict = _load_from_state_dict = _apply = _refuse

    def train(self, mode: bool = True) -> "Prepared":
        """Stay in evaluation mode.

        Raises:
            ConfigError: training mode is asked for.
        """
        if mode:
            self._refuse()
        return self


class PackedLinear(Prepared):
    """A linear layer and the activation behind it; subclasses know how to multiply."""

    def __init__(self, linear: nn.Linear, activation: Activation = NONE) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.activation = activation
        self.weight: Tensor | None = None
        self.bias: Tensor | None = None
        """Where another layer has the same weights anyhow, in float32, for who reads them."""

    def extra_repr(self) -> str:
        """Show the sizes in the module's print."""
        return f"in_features={self.in_features}, out_features={self.out_features}, activation={self.activation.name}"


class FloatLinear(PackedLinear):
    """By oneDNN, in float32 or bfloat16; ``keeps_dtype``: the result is not brought back to float32."""

    def __init__(
        self,
        linear: nn.Linear,
        activation: Activation = NONE,
        *,
        dtype: torch.dtype = torch.float32,
        keeps_dtype: bool = False,
    ) -> None:
        super().__init__(linear, activation)
        self._multiply = torch.ops.mkldnn._linear_pointwise.default
        self._dtype, self._result = dtype, dtype if keeps_dtype else torch.float32
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().to(dtype))
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype, copy=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., D) to (..., E)."""
        act = self.activation
        y: Tensor = self._multiply(x.to(self._dtype), self._weight, self._bias, act.name, [], act.algorithm)
        return y.to(self._result)


class HalfLinear(PackedLinear):
    """By torch, in half precision, as on a GPU; ``keeps_dtype``: the result is not brought back to float32."""

    def __init__(
        self, linear: nn.Linear, activation: Activation = NONE, *, dtype: torch.dtype, keeps_dtype: bool = False
    ) -> None:
        super().__init__(linear, activation)
        self._result = dtype if keeps_dtype else torch.float32
        self._weight = linear.weight.detach().to(dtype)
        self._bias = None if linear.bias is None else linear.bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., D) to (..., E)."""
        y = F.linear(x.to(self._weight.dtype), self._weight, self._bias)
        return self.activation.apply(y).to(self._result)


class Int8Linear(PackedLinear):
    """By oneDNN, of 8-bit integers (inputs: of ``levels`` steps on either side of 0), summed in 32 bits.

    Weights are packed when they are first needed, since oneDNN takes longer for it than one sentence takes to be
    recognised, and a model may have decoders that nobody asks for.
    """

    def __init__(self, linear: nn.Linear, activation: Activation = NONE, *, levels: int) -> None:
        super().__init__(linear, activation)
        self._multiply = torch.ops.onednn.qlinear_pointwise.default
        self._levels, self._zero = levels, levels + 1
        self._given: Tensor | None = linear.weight.detach()
        self._packing = Lock()
        self._zeros = torch.zeros(self.out_features, dtype=torch.int64)
        self._bias = None if linear.bias is None else linear.bias.detach().to(torch.float32, copy=True)

    def own(self) -> None:
        """Copy the weights, as they are stored, unless they are packed."""
        if self._given is not None:
            self._given = self._given.clone()

    def pack(self) -> None:
        """Pack the weights, unless that is done; other threads wait."""
        with self._packing:
            if self._given is not None:
                steps = self._given.abs().amax(1).float().clamp(min=_TINY) / FULL_LEVELS
                self._weight = torch.ops.onednn.qlinear_prepack(_quantized(self._given, steps), None)
                self._scales = steps / self._levels
                self._given = None

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., D) to (..., E)."""
        if self._given is not None:
            self.pack()
        rows = x.reshape(-1, self.in_features).float()
        if not len(rows):
            return x.new_zeros(*x.shape[:-1], self.out_features)
        peaks = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_()).clamp_(min=_TINY)
        # To unsigned numbers by way of signed ones, for which torch has fast code; 8 bits are added up without carry.
        steps = (rows * (self._levels / peaks)).round_().to(torch.int8).view(torch.uint8).add_(self._zero)
        y: Tensor = self._multiply(
            *(steps, 1.0, self._zero, self._weight, self._scales, self._zeros, None),
            *(1.0, 0, torch.float32, "none", [], ""),
        )
        y = y.mul_(peaks) if self._bias is None else torch.addcmul(self._bias, y, peaks, out=y)
        return self.activation.apply(y).view(*x.shape[:-1], self.out_features)


def _quantized(weight: Tensor, steps: Tensor) -> Tensor:
    """Return ``weight`` (E, D) as 8-bit multiples of ``steps`` (E,), a few rows at a time, which stay in the cache."""
    integers = torch.empty(weight.shape, dtype=torch.int8)
    for some, rows, step in zip(*(torch.split(x, ROWS_AT_ONCE) for x in (integers, weight, steps)), strict=True):
        some.copy_((rows / step[:, None]).round_())
    return integers


class PackedConv2d(Prepared):
    """A two-dimensional convolution over images whose channels lie side by side, and the activation behind it.

    ``keeps_dtype``: the result is not brought back to float32.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        activation: Activation = NONE,
        *,
        dtype: torch.dtype = torch.float32,
        keeps_dtype: bool = False,
    ) -> None:
        super().__init__()
        self.activation = activation
        self._result = dtype if keeps_dtype else torch.float32
        self._weight = conv.weight.detach().to(dtype, memory_format=torch.channels_last)
        self._bias = None if conv.bias is None else conv.bias.detach().to(dtype)
        self._shape = (conv.stride, conv.padding, conv.dilation, conv.groups)
        self._is_fused = find_processor().convolves and conv.weight.device.type == "cpu"

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, C, H, W) to what convolution and activation make of it."""
        image, (stride, padding, dilation, groups), act = x.to(self._weight.dtype), self._shape, self.activation
        if not self._is_fused or isinstance(padding, str):
            y = act.apply(F.conv2d(image, self._weight, self._bias, stride, padding, dilation, groups))
        else:
            y = torch.ops.mkldnn._convolution_pointwise.default(
                *(image, self._weight, self._bias, padding, stride, dilation, groups),
                *(act.name, [], act.algorithm),
            )
        return y.to(self._result)


def fold_norm(conv: nn.Conv1d, norm: nn.BatchNorm1d) -> None:
    """Let ``conv`` compute what ``norm`` makes of it: in evaluation that is a factor and a term for each channel."""
    assert norm.running_mean is not None and norm.running_var is not None, "it was trained"
    factor = (norm.running_var + norm.eps).rsqrt() * norm.weight
    bias = 0.0 if conv.bias is None else conv.bias
    conv.weight = nn.Parameter(conv.weight * factor[:, None, None], requires_grad=False)
    conv.bias = nn.Parameter((bias - norm.running_mean) * factor + norm.bias, requires_grad=False)


def convolve_frames(conv: nn.Conv1d) -> None:
    """Let a depthwise convolution read frames (B, C, T) whose channels lie side by side, as layers make them.

    They are an image of height 1 in the same memory; ``conv1d`` would transpose it, and the result back.
    """
    stride, dilation, groups = (1, *conv.stride), (1, *conv.dilation), conv.groups
    padding = conv.padding if isinstance(conv.padding, str) else (0, *conv.padding)

    def convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        image, kernel = x.unsqueeze(-2), weight.unsqueeze(-2)
        y = F.conv2d(image, kernel, bias, stride, padding, dilation, groups)
        return y.squeeze(-2)

    conv.__dict__["_conv_forward"] = convolve  # where torch's own convolutions let subclasses say how


@dataclass(frozen=True)
class Processor:
    """What of a processor, and of this torch, matters here."""

    packs: bool
    """Whether packed float32 weights are faster than torch's own choice."""
    has_bf16: bool
    int8_levels: int
    """Steps of an input on either side of 0; 0: no fast products of 8-bit integers."""
    convolves: bool = True
    """Whether convolutions are fastest where channels lie side by side."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What is worth while, from the slowest to the fastest."""
        faster: list[Precision] = ["fp32"]
        return (*faster, *(("bf16",) if self.has_bf16 else ()), *(("int8",) if self.int8_levels else ()))


@lru_cache
def find_processor() -> Processor:
    """Return what the processor at hand has, as far as this torch uses it (``ATEN_CPU_CAPABILITY`` may say how far)."""
    has = torch.cpu.get_capabilities()
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]  # torch says no more
        return Processor(packs=False, has_bf16=False, int8_levels=0, convolves=False)
    if has["architecture"] != "x86_64":
        packs = bool(torch.ops.mkldnn._is_mkldnn_acl_supported())
        return Processor(packs=packs, has_bf16=packs and bool(has.get("bf16")), int8_levels=0)
    is_wide = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    has_bf16 = is_wide and (has["avx512_bf16"] or has["amx_bf16"])
    has_vnni = has["avx_vnni"] or (is_wide and has["avx512_vnni"])
    levels = FULL_LEVELS if has_vnni else 63 if has["avx2"] else 0
    return Processor(packs=is_wide, has_bf16=has_bf16, int8_levels=levels)


def precisions_of(device: torch.device) -> tuple[Precision, ...]:
    """Return what is worth while on ``device``, from the slowest to the fastest."""
    match device.type:
        case "cuda":
            return ("fp32", "bf16")
        case "cpu":
            return find_processor().precisions
        case _:
            return ("fp32",)


def check_precision(precision: Precision, device: torch.device) -> Precision:
    """Return ``precision``.

    Raises:
        ConfigError: there is no such precision, or not on this device.
    """
    known, found = get_args(Precision), precisions_of(device)
    if precision not in known:
        raise ConfigError(f"precision must be one of {', '.join(known)}; got {precision!r}")
    if precision not in (*found, "auto"):
        raise ConfigError(
            f"precision {precision} is not to be had, or no faster, on this {device.type}, which computes in "
            f"{', '.join(found)}; choose one of these, or auto"
        )
    return precision


def prepare(model: nn.Module, precision: Precision = "auto") -> nn.Module:
    """Make ``model`` fast and unable to learn; return it.

    On a CPU the process keeps what memory it frees from now on, up to `KEPT_BYTES`.

    Args:
        model: in evaluation mode; changed in place, on the device where it is.
        precision: of linear layers and two-dimensional convolutions; see the module's description.

    Raises:
        ConfigError: there is no such precision, or not on this device.
    """
    device = next(model.parameters()).device
    if check_precision(precision, device) == "auto":
        precision = fastest_for(model, device)
    if device.type == "cpu":
        keep_memory(KEPT_BYTES)
    model.requires_grad_(False)
    if _stays(model):
        return model
    places = Counter(parameter for _, parameter in model.named_parameters(remove_duplicate=False))
    tied = {parameter for parameter, count in places.items() if count > 1}
    _replace_in(model, _Maker(precision, device), tied)
    return model


def _borrows(module: nn.Module) -> bool:
    """Return whether a module is likely to be replaced by one with weights of its own."""
    return type(module) is nn.Linear


def _own(model: nn.Module) -> None:
    """Copy what is still in the file of weights, which somebody may overwrite: what is not yet packed, or stays."""
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.own()
        elif _borrows(module):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.to(torch.float32, copy=True)


def load_prepared(
    folder: str | Path, *, device: str | torch.device = "cpu", precision: Precision = "auto"
) -> LoadedModel:
    """Read a model folder as `load_model` does, and `prepare` the model.

    With ``auto``, one that translates texts stays as it is: a sentence has few rows, which packed weights slow down.

    Raises:
        ConfigError: as of `prepare`.
        ModelNotFoundError, CheckpointError, DataError: as of `load_model`.
    """
    device = torch.device(device)
    check_precision(precision, device)  # before anything is read
    loaded = load_model(folder, device=device, borrows=_borrows if device.type == "cpu" else None)
    is_kept = precision == "auto" and isinstance(loaded.model, MtModel)
    if not is_kept:
        found = fastest_for(loaded.model, device) if precision == "auto" else precision
        loaded = replace(loaded, model=prepare(loaded.model, found), precision=found)
    _own(loaded.model)
    return loaded


def fastest_for(model: nn.Module, device: torch.device) -> Precision:
    """Return what ``auto`` is.

    8-bit integers are for recognisers, which compute a whole recording at once: inputs of few rows, as of one sentence
    or of a token after the other, are scaled for longer than they are multiplied, and generators go on from what they
    have made, so that small errors grow. Of 7 bits only, they are for who asks for them.
    """
    has_8_bits = isinstance(model, AsrModel) and find_processor().int8_levels == FULL_LEVELS
    return [name for name in precisions_of(device) if name != "int8" or has_8_bits][-1]


def load_like(loaded: LoadedModel, folder: str | Path) -> LoadedModel:
    """Read another model, onto the device of one that is loaded, and prepare it if that one is.

    Raises:
        ModelNotFoundError, CheckpointError, DataError: as of `load_model`.
    """
    device = next(loaded.model.parameters()).device
    if loaded.precision is None:
        return load_model(folder, device=device)
    return load_prepared(folder, device=device, precision=loaded.precision)


def is_narrow(layer: nn.Module) -> bool:
    """Return whether a layer is a linear one that stays in float32 whatever the precision."""
    return isinstance(layer, nn.Linear) and min(layer.in_features, layer.out_features) < MIN_WIDTH


class _Maker:
    """Makes packed layers of one precision for one device."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        self.precision = precision
        self.on_cpu = device.type == "cpu"
        self.processor = find_processor()
        self.convolves = self.on_cpu and self.processor.convolves
        self.half = torch.bfloat16
        if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
            self.half = torch.float16

    def linear(self, layer: nn.Linear, activation: Activation, *, keeps_half: bool) -> PackedLinear | None:
        """Return what takes the place of ``layer`` and ``activation``; None: they stay.

        With ``keeps_half`` the result goes to a linear layer of the same precision.
        """
        if self.precision == "bf16" and not is_narrow(layer):
            if not self.on_cpu:
                return HalfLinear(layer, activation, dtype=self.half, keeps_dtype=keeps_half)
            return FloatLinear(layer, activation, dtype=self.half, keeps_dtype=keeps_half)
        if self.precision == "int8" and not is_narrow(layer):
            return Int8Linear(layer, activation, levels=self.processor.int8_levels)
        return FloatLinear(layer, activation) if self.on_cpu and self.processor.packs else None

    def conv2d(self, layer: nn.Conv2d, activation: Activation, *, keeps_half: bool = False) -> PackedConv2d | None:
        """Return what takes the place of ``layer`` and ``activation``; None: they stay.

        Convolutions are not computed in 8 bits, but in 16 where the processor can. With ``keeps_half`` the result goes
        to another one.
        """
        if layer.padding_mode != "zeros":
            return None
        if self.precision == "bf16" or (self.precision == "int8" and self.processor.has_bf16):
            return PackedConv2d(layer, activation, dtype=self.half, keeps_dtype=keeps_half)
        return PackedConv2d(layer, activation) if self.convolves else None


def _replace_in(module: nn.Module, maker: _Maker, tied: Set[nn.Parameter]) -> None:
    """Replace the layers within ``module``, however deep."""
    if isinstance(module, ConformerConv) and isinstance(module.norm, nn.BatchNorm1d):
        fold_norm(module.depthwise, module.norm)
        module.norm = nn.Identity()
    _replace_activated(module, maker, tied)
    children = [(name, child) for name, child in module._modules.items() if child is not None]
    for place, (name, child) in enumerate(children):
        after = children[place + 1 :] if isinstance(module, nn.Sequential) else []
        if _stays(child) or isinstance(module._modules[name], nn.Identity):
            continue
        activation = activation_of(after[0][1]) if after and type(child) is nn.Linear else None
        rest = [layer for _, layer in after[activation is not None :] if not isinstance(layer, Dropout)]
        is_chained = bool(rest) and type(rest[0]) is type(child) and not is_narrow(rest[0])
        if _replace(module, name, maker, tied, activation or NONE, keeps_half=is_chained) and activation is not None:
            module._modules[after[0][0]] = nn.Identity()
        if isinstance(child, nn.Conv1d) and _is_depthwise(child) and maker.convolves:
            convolve_frames(child)
        _replace_in(child, maker, tied)


def _replace(
    module: nn.Module, name: str, maker: _Maker, tied: Set[nn.Parameter], activation: Activation, *, keeps_half: bool
) -> bool:
    """Replace the layer ``name`` of ``module`` and the activation behind it; return False where they stay."""
    layer = module._modules[name]
    new: PackedLinear | PackedConv2d | None = None
    if type(layer) is nn.Linear:
        new = maker.linear(layer, activation, keeps_half=keeps_half)
        if new is not None and layer.weight in tied:
            new.weight, new.bias = layer.weight.detach(), None if layer.bias is None else layer.bias.detach()
    elif type(layer) is nn.Conv2d:
        new = maker.conv2d(layer, activation, keeps_half=keeps_half)
    if new is not None:
        module._modules[name] = new
    return new is not None


def _replace_activated(module: nn.Module, maker: _Maker, tied: Set[nn.Parameter]) -> None:
    """Replace the layers that ``module`` has an activation behind, of a list each, of a sequence the last."""
    names: tuple[str, ...] = getattr(module, "activated", ())
    activation = activation_of(module.activation) if names and isinstance(module.activation, nn.Module) else None
    if activation is None:
        return
    places: list[tuple[nn.Module, str]] = []
    for name in names:
        child = module.get_submodule(name)
        places += [(child, key) for key in child._modules] if isinstance(child, nn.ModuleList) else [(module, name)]
    places = [_last_of(*place) for place in places]
    if all(
        _replace(*place, maker, tied, activation, keeps_half=number < len(places))
        for number, place in enumerate(places, start=1)
    ):
        module.activation = nn.Identity()


def _last_of(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return where the layer ``name`` of ``module`` is or, if that is a sequence, its last one."""
    child = module._modules[name]
    return (child, next(reversed(child._modules))) if isinstance(child, nn.Sequential) else (module, name)


def _stays(module: nn.Module) -> bool:
    return isinstance(module, UNTOUCHED) or (isinstance(module, Trainable) and module.is_exact)


def _is_depthwise(conv: nn.Conv1d) -> bool:
    return 1 < conv.groups == conv.in_channels == conv.out_channels and conv.padding_mode == "zeros"
