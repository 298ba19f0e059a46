"""Graphs of strangers: nothing outside their folder is read, and what they give is checked."""

import json
from pathlib import Path

import numpy as np
import pytest

from speechnar import Transcriber
from speechnar.asr.onnx import load_onnx
from speechnar.errors import CheckpointError
from speechnar.text.tokenizer import load_tokenizer
from tests.unit.tiny import RATE, save_tiny_model, speechlike

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
helper = onnx.helper
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
CONFIG = {"source": "x", "sample_rate": RATE, "frame_shift_s": 0.04, "num_prefix": 0, "blank_id": 0}


def save(folder: Path, nodes, outputs, weights=(), **changes) -> Path:
    """Write a folder whose graph maps ``wav`` (B, S) and ``wav_lens`` (B,) to ``outputs``, by name their type."""
    save_tiny_model(folder)
    inputs = [helper.make_tensor_value_info("wav", FLOAT, ["B", "S"])]
    inputs += [helper.make_tensor_value_info("wav_lens", INT64, ["B"])]
    infos = [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()]
    graph = helper.make_graph(nodes, "graph", inputs, infos, list(weights))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    (folder / "config.json").write_text(json.dumps({"config": {**CONFIG, "default_prefix": [], **changes}}))
    return folder


def identity(source: str, name: str):
    return helper.make_node("Identity", [source], [name])


def test_weights_in_other_files_are_not_read(tmp_path):
    """Wherever they are: the runtime would read them."""
    (tmp_path / "secret").write_bytes(bytes(32))
    weight = onnx.TensorProto(name="w", data_type=FLOAT, dims=[8], data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", "../secret"), ("offset", "0"), ("length", "32")):
        weight.external_data.add(key=key, value=value)
    folder = save(tmp_path / "model", [identity("w", "log_probs")], {"log_probs": FLOAT}, [weight])
    with pytest.raises(CheckpointError, match="has weights in other files"):
        load_onnx(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"sample_rate": 10**9},
        {"frame_shift_s": 1e-300},
        {"clip_s": 1e9},
        {"source": "x" * (1 << 20)},
    ],
)
def test_sizes_are_bounded(tmp_path, changes):
    nodes = [identity("wav", "log_probs"), identity("wav_lens", "lens")]
    folder = save(tmp_path / "model", nodes, {"log_probs": FLOAT, "lens": INT64}, **changes)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_onnx(folder)


def constant(name: str, value: np.ndarray):
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(value))


def probs(size: int, value: float = 0.0):
    return constant("a", np.full((1, 3, size), value, dtype=np.float32))


def lens(*values: int):
    return constant("b", np.array(values))


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        (lambda size: [identity("wav", "a"), identity("wav_lens", "b")], "ab"),  # of two dimensions
        (lambda size: [probs(size)], "a"),  # without lengths
        (lambda size: [probs(size - 1), lens(3)], "ab"),
        (lambda size: [probs(size), lens(4)], "ab"),
        (lambda size: [probs(size), lens(3, 3)], "ab"),
        (lambda size: [probs(size, np.nan), lens(3)], "ab"),
        (
            lambda size: [constant("c", np.array([7, 7])), helper.make_node("Reshape", ["wav", "c"], ["a"])],
            "a",
        ),  # fails
    ],
)
def test_what_a_graph_gives_is_checked(tmp_path, nodes, outputs):
    size = load_tokenizer(save_tiny_model(tmp_path / "model")).vocab_size
    kinds = {"a": FLOAT, "b": INT64}
    folder = save(tmp_path / "model", nodes(size), {name: kinds[name] for name in outputs})
    model = Transcriber.load(folder, engine="onnx")
    with pytest.raises(CheckpointError, match=r"model\.onnx: (must give|cannot be run)"):
        model.transcribe(speechlike(1.0), sample_rate=RATE)
    save(tmp_path / "model", [probs(size), lens(3)], kinds)
    assert Transcriber.load(folder, engine="onnx").transcribe(speechlike(1.0), sample_rate=RATE).duration == 1.0
