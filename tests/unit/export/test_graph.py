"""One file, with dynamic axes and metadata; 8 bits leave the features alone."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from speechnar.export.graph import OPSET, Input, write_graph

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow  # writing a graph takes its time


class Heard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frontend = nn.Linear(24, 16, bias=False)
        self.encoder = nn.Linear(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(self.frontend(x))


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return Heard().eval()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_module_is_written(module, tmp_path, precision):
    path = tmp_path / "model.onnx"
    given = {"x": Input(torch.randn(3, 5, 24), (0, 1))}
    metadata = {"words": "as they are", "numbers": [1, 2]}
    write_graph(module, given, ("y",), path, metadata=metadata, precision=precision)
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]
    model = onnx.load(path)
    written = {prop.key: prop.value for prop in model.metadata_props}
    assert written["words"] == "as they are"
    assert json.loads(written["numbers"]) == [1, 2]
    assert json.loads(written["opset"]) == OPSET == {each.domain: each.version for each in model.opset_import}[""]
    kept = [
        each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) == 2
    ]
    small = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.INT8]
    small = [sorted(each.dims) for each in small if len(each.dims) == 2]
    assert small == ([] if precision == "fp32" else [[16, 32]])
    assert [16, 24] in [sorted(each.dims) for each in kept]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 1, 24), (4, 33, 24)):
        x = torch.randn(shape)
        (found,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(found, module(x).detach(), atol=1e-5 if precision == "fp32" else 0.1)
