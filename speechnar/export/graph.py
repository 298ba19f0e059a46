"""A module as one ONNX file: dynamic axes, metadata, and weights in 8 bits where asked for.

Whatever depends on data, as the number of tokens that fire, is a tensor operation of the graph. Needs
``speechnar[onnx]``.
"""

import ast
import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechnar.extras import needs

OPSET = 18
Precision = Literal["fp32", "int8"]
FULL_PRECISION_PARTS = ("frontend", "normalizer")
"""What stays float32 in int8: a product with a filter bank is one of energies, which 8 bits cannot tell apart."""


@dataclass(frozen=True)
class Input:
    """One input of a graph, or several of one argument."""

    example: Tensor | tuple[Tensor, ...]
    """Of which no two axes that are not alike have one size: the exporter would take them for one."""
    dynamic: tuple[int, ...] = ()
    """The axes that may have any size."""
    least: Mapping[int, int] = field(default_factory=dict)
    """Of some of these axes the least size, which keeps what depends on it simple."""

    @property
    def sizes(self) -> Any:
        """Return what `torch.export` is told of the dynamic axes; several inputs have none."""
        if isinstance(self.example, tuple):
            return (None,) * len(self.example)
        any_size = torch.export.Dim.DYNAMIC
        return {axis: any_size(min=self.least[axis]) if axis in self.least else any_size for axis in self.dynamic}

    def names(self, name: str) -> list[str]:
        """Return what the graph calls the argument ``name``: several inputs are numbered."""
        return [f"{name}_{i}" for i in range(len(self.example))] if isinstance(self.example, tuple) else [name]


def write_graph(
    module: nn.Module,
    inputs: Mapping[str, Input],
    outputs: Sequence[str],
    path: Path,
    *,
    metadata: Mapping[str, object],
    precision: Precision = "fp32",
) -> None:
    """Write ``module``, which takes ``inputs`` by name and returns ``outputs`` in their order, to ``path``.

    Args:
        module: on the CPU; it is run once.
        inputs: in the order of its arguments.
        outputs: their names.
        path: appears whole or not at all.
        metadata: strings as they are, anything else as JSON; the opset is added.
        precision: ``int8``: weights of matrices in 8 bits, a channel's scale each, and their inputs as they come.

    Raises:
        MissingExtraError: onnx or onnxscript is absent.
    """
    with needs("onnx"):
        import onnxscript  # noqa: F401, PLC0415  # what torch writes graphs by

    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            module.eval(),
            kwargs={name: given.example for name, given in inputs.items()},
            dynamo=True,
            dynamic_shapes={name: given.sizes for name, given in inputs.items()},
            input_names=[each for name, given in inputs.items() for each in given.names(name)],
            output_names=[*outputs],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # it is where ``dynamo`` is set
    for name, value in {**metadata, "opset": OPSET}.items():
        program.model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value)
    with TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        written = Path(folder) / "whole.onnx"
        program.save(written)
        if precision == "int8":
            written = _in_8_bits(written)
        written.replace(path)


def _in_8_bits(path: Path) -> Path:
    import onnx  # noqa: PLC0415  # an extra, which is there
    from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    small = path.with_name("int8.onnx")
    quantize_dynamic(
        path,
        small,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_exclude=[node.name for node in onnx.load(path).graph.node if _is_of_features(node)],
    )
    return small


def _is_of_features(node: Any) -> bool:
    """Tell whether ``node`` stays float32: a module that does computes it, or none, as a front end that is inlined.

    The exporter writes down the modules that compute a node, from the outermost inwards, and last the node's own name.
    """
    for prop in node.metadata_props:
        if prop.key == "pkg.torch.onnx.name_scopes":
            modules = [part for name in ast.literal_eval(prop.value)[:-1] for part in name.split(".") if part]
            return not modules or any(part in FULL_PRECISION_PARTS for part in modules)
    return False
