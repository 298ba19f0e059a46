"""w2v-BERT's checkpoints: options and faults; what transformers makes of them is in tests/reference."""

import json

import pytest
import torch
from safetensors.torch import save_file

from speechnar import Transcriber
from speechnar.config import parse_config
from speechnar.errors import CheckpointError, ConfigError
from speechnar.interop import convert
from speechnar.interop.wav2vec2_bert import WAV2VEC2_BERT_NAMES, WITHOUT_BIAS, Wav2Vec2BertOptions
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.base import load_model
from speechnar.text.tokenizer import BLANK, UNK, CharTokenizer
from tests.unit.interop.layouts import in_their_layout
from tests.unit.interop.test_wav2vec2 import PIECES, vocabulary
from tests.unit.tiny import speechlike


def make_options(**changes):
    options = {
        "model_type": "wav2vec2-bert",
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "conv_depthwise_kernel_size": 5,
        "left_max_position_embeddings": 5,
        "right_max_position_embeddings": 2,
        "mask_time_prob": 0.05,
        "layerdrop": 0.1,
    }
    return options | changes


def make_state(options):
    ours = parse_config(options, Wav2Vec2BertOptions, source="options").to_config()
    model = OwsmCtc(ours, CharTokenizer((BLANK, UNK, *"abcdefghij")))
    state = in_their_layout(model, WAV2VEC2_BERT_NAMES, convolutions=(".pointwise_in.", ".pointwise_out."))
    convolutions = ("pointwise_conv1.bias", "depthwise_conv.bias", "pointwise_conv2.bias")
    state = {name: tensor for name, tensor in state.items() if not name.endswith(convolutions)}
    state["lm_head.bias"][:5] = -1e6
    inner = {name if name.startswith("lm_head") else f"wav2vec2_bert.{name}": t for name, t in state.items()}
    return inner | {"wav2vec2_bert.masked_spec_embed": torch.ones(16)}


def write_folder(folder, options, state=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(options))
    (folder / "vocab.json").write_text(json.dumps(vocabulary()))
    save_file(make_state(options) if state is None else state, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(("positions", "num_adapters"), [("relative_key", 1), ("relative", 0)])
def test_it_is_a_recogniser(tmp_path, positions, num_adapters):
    options = make_options(position_embeddings_type=positions, add_adapter=num_adapters > 0)
    folder, state = write_folder(tmp_path / "theirs", options), make_state(options)
    (folder / "README.md").write_text("---\nlanguage: mn\n---\n")
    report = convert(folder, tmp_path / "ours")
    assert {key.source for key in report.keys} == set(state)
    assert [key.source for key in report.keys if key.destination is None] == ["wav2vec2_bert.masked_spec_embed"]
    loaded = load_model(tmp_path / "ours")
    encoder = loaded.model.encoder
    attention, theirs = encoder.layers[1].attention, "wav2vec2_bert.encoder.layers.1"
    torch.testing.assert_close(attention.qkv.weight[32:], state[f"{theirs}.self_attn.linear_v.weight"])
    if positions == "relative_key":
        torch.testing.assert_close(attention.distances.weight, state[f"{theirs}.self_attn.distance_embedding.weight"])
    else:
        torch.testing.assert_close(attention.content_bias, state[f"{theirs}.self_attn.pos_bias_u"])
    name = "wav2vec2_bert.feature_projection.projection.weight"
    torch.testing.assert_close(encoder.subsampling.proj.weight, state[name] / 4)  # our encoder multiplies by it
    zeroed = [
        tensor
        for name, tensor in loaded.model.state_dict().items()
        if name.endswith(".bias") and any(part in name for part in WITHOUT_BIAS)
    ]
    assert len(zeroed) == 6
    assert not any(tensor.any() for tensor in zeroed)
    if num_adapters:
        name = "wav2vec2_bert.adapter.layers.0.self_attn_conv.weight"
        torch.testing.assert_close(encoder.adapters[0].joined.conv.weight, state[name])
    assert loaded.model.frame_shift_s == (0.04 if num_adapters else 0.02)
    transcript = Transcriber.load(tmp_path / "ours").transcribe(speechlike(1.0), sample_rate=16000)
    assert transcript.language == "mon"
    assert set(transcript.text) & set("EATONI'")
    assert set(transcript.text) <= set(PIECES) | {" "}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter_stride": 4, "hidden_act": "gelu"}, r"hidden_act: .*adapter_stride: "),
        ({"add_adapter": True, "output_hidden_size": 8}, "output_hidden_size must be hidden_size=16"),
        ({"add_adapter": True, "use_intermediate_ffn_before_adapter": True}, "use_intermediate_ffn_before_adapter: "),
        ({"position_embeddings_type": "rotary"}, "position_embeddings_type: "),
        ({"feature_projection_input_dim": 80}, "feature_projection_input_dim: "),
    ],
)
def test_options_that_ours_has_not_are_named(tmp_path, changes, message):
    folder = write_folder(tmp_path / "theirs", make_options())
    (folder / "config.json").write_text(json.dumps(make_options(**changes)))
    with pytest.raises(ConfigError, match=message):
        convert(folder, tmp_path / "ours")


def test_other_features_and_tensors_are_refused(tmp_path):
    folder = write_folder(tmp_path / "theirs", make_options())
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 80, "stride": 1}))
    with pytest.raises(ConfigError, match="stride must be 2, got 1"):
        convert(folder, tmp_path / "ours")
    state = make_state(make_options()) | {"wav2vec2_bert.intermediate_ffn.bias": torch.ones(16)}
    with pytest.raises(CheckpointError, match=r"1 tensors have no counterpart: wav2vec2_bert.intermediate_ffn.bias"):
        convert(write_folder(tmp_path / "more", make_options(), state), tmp_path / "ours")
    state = make_state(make_options())
    del state["lm_head.weight"], state["lm_head.bias"]  # pretrained, and without a task
    with pytest.raises(CheckpointError, match=r"2 missing: ctc.proj.bias, ctc.proj.weight"):
        convert(write_folder(tmp_path / "less", make_options(), state), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
