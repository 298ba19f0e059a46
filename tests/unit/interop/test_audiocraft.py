"""Settings and tensors of audiocraft's checkpoints, as its published models have them."""

import pickle

import pytest
import torch

from speechnar.errors import CheckpointError, ConfigError
from speechnar.interop.audiocraft import (
    codec_config_of,
    magnet_config_of,
    map_codec,
    map_magnet,
    read_checkpoint,
)
from speechnar.models.sound.encodec import Encodec, EncodecConfig
from speechnar.models.sound.magnet import MagnetConfig

# What xp.cfg says of the 32 kHz codec and of the small MAGNeT for 10 s of music, as far as it is read.
CODEC = {
    "sample_rate": 32000,
    "encodec": {"sample_rate": "${sample_rate}", "channels": "${channels}", "causal": False, "renormalize": False},
    "seanet": {
        "dimension": 128,
        "channels": 1,
        "causal": False,
        "n_filters": 64,
        "n_residual_layers": 1,
        "ratios": [8, 5, 4, 4],
        "activation": "ELU",
        "norm": "weight_norm",
        "kernel_size": 7,
        "lstm": 2,
        "decoder": {"trim_right_ratio": 1.0, "final_activation": None},
    },
    "rvq": {"n_q": 4, "bins": 2048},
}
MUSIC = {
    "lm_model": "transformer_lm_magnet",
    "transformer_lm": {
        "dim": 1024,
        "num_heads": 16,
        "num_layers": 24,
        "hidden_scale": 4,
        "n_q": 4,
        "card": 2048,
        "dropout": 0.0,
        "bias_ff": False,
        "subcodes_context": 5,
    },
    "conditioners": {"description": {"model": "t5", "t5": {"name": "t5-base"}}},
    "dataset": {"segment_duration": 10},
    "masking": {"span_len": 3},
    "classifier_free_guidance": {"training_dropout": 0.3},
    "generate": {
        "lm": {"decoding_steps": [20, 10, 10, 10], "temp": 3.0, "top_p": 0.9, "max_cfg_coef": 10.0, "min_cfg_coef": 1.0}
    },
}
UPSAMPLED = ("3", "6", "9", "12")
"""Layers of a decoder of four ratios that are transposed convolutions."""


def save(path, content):
    torch.save(content, path)
    return path


# Settings.


def test_settings_of_the_published_models_are_ours():
    codec = codec_config_of(CODEC, "cfg")
    assert codec == EncodecConfig.published()
    assert magnet_config_of(MUSIC, codec, "cfg") == MagnetConfig.published()


def test_what_a_model_leaves_out_is_audiocrafts_default():
    codec = codec_config_of(CODEC, "cfg")
    other = magnet_config_of({**MUSIC, "generate": {}, "classifier_free_guidance": None}, codec, "cfg")
    assert other == MagnetConfig.published().model_copy(update={"left_out_prob": 0.0})
    sizes = {key: value for key, value in MUSIC["transformer_lm"].items() if key not in ("hidden_scale", "dropout")}
    assert magnet_config_of({**MUSIC, "transformer_lm": sizes}, codec, "cfg") == MagnetConfig.published()


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("seanet", {"norm": "time_group_norm", "causal": True}, "cfg: seanet: causal must be False, got True; norm"),
        ("seanet", {"decoder": {"final_activation": "Tanh"}}, "seanet.decoder: final_activation must be None"),
        ("encodec", {"channels": 2}, "encodec: channels must be 1, got 2"),
        ("encodec", {"renormalize": True}, "encodec: renormalize must be False"),
        ("seanet", {"ratios": None}, "cfg: .*ratios"),
        ("rvq", {"bins": 1}, "cfg: .*codebook_size"),
    ],
)
def test_other_codecs_are_refused(section, change, message):
    with pytest.raises(ConfigError, match=message):
        codec_config_of({**CODEC, section: {**CODEC[section], **change}}, "cfg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lm_model": "transformer_lm"}, "cfg: lm_model must be transformer_lm_magnet, got 'transformer_lm'"),
        ({"transformer_lm": {**MUSIC["transformer_lm"], "kv_repeat": 2}}, "transformer_lm: kv_repeat must be 1, got 2"),
        ({"transformer_lm": {**MUSIC["transformer_lm"], "n_q": 8}}, "a codec of 8 x 2048 codes, got one of 4 x 2048"),
        ({"transformer_lm": None}, "cfg: xp.cfg must have a section transformer_lm"),
        ({"conditioners": {}}, "t5.name must be one of t5-small, t5-base, .*, got 'None'"),
        ({"conditioners": {"description": {"t5": {"name": "flan-t5-base"}}}}, "got 'flan-t5-base'"),
        ({"dataset": {"segment_duration": "long"}}, "cfg: .*window_frames"),
    ],
)
def test_other_generators_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        magnet_config_of({**MUSIC, **change}, codec_config_of(CODEC, "cfg"), "cfg")


# Tensors.


def test_every_tensor_of_a_codec_has_its_place():
    """The names that audiocraft gives to the parts of a codec are made of ours."""
    ours = Encodec(EncodecConfig.debug()).state_dict()
    theirs = {}
    for name, tensor in ours.items():
        key = name.replace(".layers.", ".model.", 1).replace("parametrizations.weight.original0", "weight_g")
        key = key.replace("parametrizations.weight.original1", "weight_v")
        if name.startswith("quantizer.layers."):
            number, part = name.split(".")[2:]
            key = f"quantizer.vq.layers.{number}._codebook.{part}"
        elif ".conv." in name:
            is_transposed = name.startswith("decoder") and "block" not in name and name.split(".")[2] in UPSAMPLED
            key = key.replace(".conv.", ".convtr.convtr." if is_transposed else ".conv.conv.")
        theirs[key] = tensor
    del theirs["quantizer.steps"]  # counts batches of ours
    state, keys = map_codec(theirs, "codec.bin")
    assert state.keys() == ours.keys()
    assert all(state[name] is ours[name] for name in ours if name != "quantizer.steps")
    assert state["quantizer.steps"] == 0
    assert [key.source for key in keys] == list(theirs)
    with pytest.raises(CheckpointError, match=r"codec\.bin: no counterpart for 1 tensors: decoder\.model\.0\.scale"):
        map_codec({**theirs, "decoder.model.0.scale": torch.zeros(1)}, "codec.bin")


def test_queries_keys_and_values_of_the_text_are_parted():
    packed = torch.arange(24.0).view(12, 2)
    prefix = "transformer.layers.7"
    state, (key,) = map_magnet({f"{prefix}.cross_attention.in_proj_weight": packed}, "model.bin")
    assert torch.equal(state[f"{prefix}.memory.query.weight"], packed[:4])
    assert torch.equal(state[f"{prefix}.memory.key_value.weight"], packed[4:])
    assert key.shape == (12, 2)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("emb.3.weight", "embed.codes.3.weight"),
        ("linears.0.weight", "heads.0.weight"),
        ("out_norm.bias", "norm.bias"),
        ("condition_provider.conditioners.description.output_proj.weight", "condition.project.weight"),
        ("transformer.layers.11.self_attn.in_proj_weight", "transformer.layers.11.qkv.weight"),
        ("transformer.layers.11.norm_cross.bias", "transformer.layers.11.norm_memory.bias"),
        ("transformer.layers.11.linear2.weight", "transformer.layers.11.contract.weight"),
    ],
)
def test_a_tensor_of_a_generator_is_ours_by_another_name(theirs, ours):
    weight = torch.zeros(3)
    state, (key,) = map_magnet({theirs: weight}, "model.bin")
    assert state == {ours: weight}
    assert (key.source, key.destination) == (theirs, ours)


def test_tensors_of_a_generator_that_we_have_not_are_named():
    strangers = {"emb.0.scale": 0, "transformer.layers.0.norm9.weight": 0, "transformer.layers.0.cross_attention.k": 0}
    with pytest.raises(
        CheckpointError, match=r"3 tensors: emb\.0\.scale, transformer\.layers\.0\.norm9\.weight, .*attention\.k"
    ):
        map_magnet({name: torch.zeros(2) for name in strangers}, "model.bin")


# Files.


def test_a_checkpoint_is_its_settings_and_its_weights_in_float32(tmp_path):
    weights = {"a": torch.ones(2, dtype=torch.float16), "n": torch.tensor([3])}
    for state in (weights, {"model": weights}):
        path = save(tmp_path / "a.bin", {"best_state": state, "xp.cfg": "dim: 16\n", "exported": True})
        options, found = read_checkpoint(path)
        assert options == {"dim": 16}
        assert found["a"].dtype == torch.float32 and found["a"].tolist() == [1, 1]
        assert found["n"].dtype == torch.int64


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pretrained": "facebook/encodec_32khz"}, "refers to the model 'facebook/encodec_32khz'; put that model's"),
        ({"best_state": {}}, r"must hold best_state and xp\.cfg"),
        ([1], r"must hold best_state and xp\.cfg"),
        ({"best_state": {}, "xp.cfg": "a: [1"}, "xp.cfg must be plain YAML"),
        ({"best_state": {}, "xp.cfg": "!!python/name:os.system"}, "xp.cfg must be plain YAML"),
        ({"best_state": {}, "xp.cfg": "text"}, "best_state and xp.cfg must be mappings"),
        ({"best_state": {"a": 1}, "xp.cfg": "{}"}, "best_state must hold tensors; not so: a"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content, message, tmp_path):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_checkpoint(save(tmp_path / "a.bin", content))
    assert "\n" not in str(caught.value)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    (tmp_path / "a.bin").write_bytes(pickle.dumps({"best_state": Hostile(), "xp.cfg": ""}))
    with pytest.raises(CheckpointError, match="tensors and settings only"):
        read_checkpoint(tmp_path / "a.bin")
    save(tmp_path / "b.bin", {"best_state": Hostile(), "xp.cfg": ""})
    with pytest.raises(CheckpointError, match="tensors and settings only"):
        read_checkpoint(tmp_path / "b.bin")
    assert not (tmp_path / "written").exists()
