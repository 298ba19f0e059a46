"""What conversions of transformers' checkpoints share: names by a table, and biases that are not there."""

import json

import pytest
import torch

from speechnar.audio.fbank import LogMelConfig
from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.interop.transformers import (
    build_recogniser,
    find_weights,
    map_names,
    preprocessor_of,
    read_json,
)
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.nn.encoder import ConformerConfig
from speechnar.text.tokenizer import BLANK, UNK, CharTokenizer

NAMES = {
    "layers.0": "first",
    "layers.*.q": "layers.*.qkv[0]",
    "layers.*.k": "layers.*.qkv[1]",
    "layers.*.v": "layers.*.qkv[2]",
    "layers.*.conv": "layers.*.depthwise",
    "head": "head",
    "lone": "alone",
}


def test_names_are_found_by_number_module_and_part():
    theirs = {f"model.layers.11.{name}.weight": torch.full((2, 2), float(i)) for i, name in enumerate("kvq")}
    theirs |= {
        "model.layers.0.weight": torch.ones(1, dtype=torch.float16),
        "layers.3.conv.weight": torch.ones(2, 1, 1),
        "head.weight": torch.ones(2, 3, 1),
        "head.num_batches_tracked": torch.tensor(3),
        "lone": torch.ones(4),
        "model.training.only": torch.ones(1),
    }
    state, keys = map_names(theirs, NAMES, source="x", prefixes=("model.",), skipped=("training.",))
    assert state.keys() == {
        "layers.11.qkv.weight",
        "first.weight",
        "layers.3.depthwise.weight",
        "head.weight",
        "head.num_batches_tracked",
        "alone",
    }
    assert state["layers.11.qkv.weight"][:, 0].tolist() == [2, 2, 0, 0, 1, 1]
    assert state["first.weight"].dtype == torch.float32
    assert state["layers.3.depthwise.weight"].shape == (2, 1, 1)
    assert state["head.weight"].shape == (2, 3)
    assert state["head.num_batches_tracked"] == 3
    assert [key.source for key in keys] == list(theirs)
    assert [key.source for key in keys if key.destination is None] == ["model.training.only"]


def test_names_that_are_unknown_or_torn_are_named():
    with pytest.raises(CheckpointError, match=r"x: 2 tensors have no counterpart: other.weight, head.scale"):
        map_names({"other.weight": torch.ones(1), "head.scale": torch.ones(1)}, NAMES, source="x")
    with pytest.raises(CheckpointError, match=r"queries, keys or values are missing of layers.1.qkv.bias"):
        map_names({"layers.1.q.bias": torch.ones(2), "layers.1.v.bias": torch.ones(2)}, NAMES, source="x")


def test_constants_and_absent_biases_are_added_to_what_is_given():
    config = OwsmCtcConfig(
        frontend=LogMelConfig(num_mels=8),
        encoder=ConformerConfig(model_dim=4, num_layers=1, num_heads=1, ff_dim=4, kernel_size=3, subsampling=1),
        interctc_layers=(),
        interctc_asr_only=(),
        prompt=None,
    )
    tokenizer = CharTokenizer((BLANK, UNK, "a"))
    whole = {name: t for name, t in OwsmCtc(config, tokenizer).state_dict().items() if name.startswith(("enc", "ctc"))}
    state = {name: tensor for name, tensor in whole.items() if not name.endswith("conv.depthwise.bias")}
    with pytest.raises(CheckpointError, match=r"1 missing: encoder.layers.0.conv.depthwise.bias"):
        build_recogniser(config, tokenizer, dict(state), without_bias=(), source="x")
    model = build_recogniser(config, tokenizer, dict(state), without_bias=(".depthwise.",), source="x")
    assert not model.encoder.layers[0].conv.depthwise.bias.any()
    assert model.frontend.mel_matrix.any()
    assert torch.equal(model.normalizer.std, torch.ones(8))
    assert torch.equal(model.ctc.proj.weight, whole["ctc.proj.weight"])


def test_files_that_are_missing_or_malformed_are_named(tmp_path):
    assert preprocessor_of(tmp_path) == {}
    with pytest.raises(ModelNotFoundError, match=r"need model.safetensors or pytorch_model.bin, in one piece"):
        find_weights(tmp_path)
    (tmp_path / "pytorch_model.bin").touch()
    assert find_weights(tmp_path).name == "pytorch_model.bin"
    (tmp_path / "processor_config.json").write_text(json.dumps({"feature_extractor": {"do_normalize": False}}))
    assert preprocessor_of(tmp_path) == {"do_normalize": False}
    for content in ("[1]", "{", b"\xff"):
        path = tmp_path / "preprocessor_config.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(CheckpointError, match=r"must be JSON|must hold an object"):
            preprocessor_of(tmp_path)
        with pytest.raises(CheckpointError, match=r"must be JSON|must hold an object"):
            read_json(path)
