"""What audiocraft computed, compared where audiocraft is not installed."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from speechnar.decode.mask_predict import mask_predict
from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.interop import convert
from speechnar.models.base import load_model
from speechnar.models.sound.encodec import Encodec
from speechnar.models.sound.magnet import Magnet


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden" / "magnet.npz", allow_pickle=False) as file:
        return dict(file)


def weights_of(golden, kind):
    weights = {
        name.partition("/")[2]: torch.from_numpy(value) for name, value in golden.items() if name.startswith(kind)
    }
    return {name: value for name, value in weights.items() if name != ""}


def write_folder(golden, folder, *, kinds=("model", "codec"), model_cfg=None, extra=None):
    folder.mkdir()
    names = {"model": "state_dict.bin", "codec": "compression_state_dict.bin"}
    for kind in kinds:
        cfg = model_cfg if kind == "model" and model_cfg else str(golden[f"{kind}_cfg"])
        weights = weights_of(golden, f"{kind}/") | ((extra or {}) if kind == "model" else {})
        torch.save({"best_state": weights, "xp.cfg": cfg, "version": "1.4", "exported": True}, folder / names[kind])
    return folder


@pytest.fixture(scope="module")
def model(golden, tmp_path_factory) -> Magnet:
    root = tmp_path_factory.mktemp("magnet")
    report = convert(write_folder(golden, root / "theirs"), root / "ours")
    theirs = weights_of(golden, "model/").keys() | weights_of(golden, "codec/").keys()
    assert {key.source for key in report.keys} == theirs
    return load_model(root / "ours").model


def condition_of(model, golden):
    features, lens = torch.from_numpy(golden["features"]), torch.from_numpy(golden["text_lens"])
    return model.condition.of_features(features, lens), model.condition.of_features(features, 0 * lens)


@torch.no_grad()
def test_logits_of_every_codebook(model, golden):
    codes, (condition, _) = torch.from_numpy(golden["codes"]), condition_of(model, golden)
    for codebook in range(4):
        found = model(codes, codebook, condition)
        torch.testing.assert_close(found, torch.from_numpy(golden[f"logits{codebook}"]), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "num_known"), [("generated", 0), ("continued", 7)])
def test_the_same_random_numbers_make_the_same_codes(model, golden, name, num_known):
    condition, unconditional = condition_of(model, golden)
    prompt = torch.from_numpy(golden["prompt"])
    codes = torch.zeros(2, 4, 24, dtype=torch.int64)
    codes[..., :7] = prompt
    found = mask_predict(
        model.predictor(condition, unconditional),
        codes,
        torch.arange(24) < num_known,
        model.config.sampling,
        span_len=model.config.span_len,
        generators=[torch.Generator().manual_seed(7 + row) for row in range(2)],
    )
    assert torch.equal(found, torch.from_numpy(golden[name]))


@torch.no_grad()
def test_the_codec(model, golden):
    wav, coded = torch.from_numpy(golden["wav"])[:, 0], torch.from_numpy(golden["coded"])
    assert torch.equal(model.codec.encode(wav)[0], coded)
    decoded, _ = model.codec.decode(coded)
    torch.testing.assert_close(decoded, torch.from_numpy(golden["decoded"])[:, 0], atol=1e-5, rtol=0)


def test_settings_come_along(model):
    config = model.config
    assert (config.window_frames, config.span_len, config.reach, config.left_out_prob) == (24, 3, 3, 0.3)
    assert config.sampling.model_dump() == {
        "steps": (6, 3, 3, 5),
        "temperature": 2.0,
        "top_p": 0.9,
        "guidance": (4.0, 1.0),
    }
    assert (config.condition.encoder, config.condition.text_dim) == ("t5-small", 512)
    assert (config.codec.sample_rate, config.codec.frame_rate) == (1152, 24)


def test_a_codec_alone(golden, tmp_path):
    report = convert(write_folder(golden, tmp_path / "theirs", kinds=("codec",)), tmp_path / "ours")
    assert "encoder.layers.0.conv.parametrizations.weight.original0" in str(report)
    assert isinstance(load_model(tmp_path / "ours").model, Encodec)


def test_what_we_have_not_is_refused(golden, tmp_path):
    cfg = yaml.safe_load(str(golden["model_cfg"]))
    cfg["transformer_lm"] |= {"xpos": True, "bias_ff": True}
    source = write_folder(golden, tmp_path / "options", model_cfg=yaml.safe_dump(cfg))
    with pytest.raises(ConfigError, match="bias_ff must be False, got True; xpos must be False, got True"):
        convert(source, tmp_path / "ours")
    cfg = yaml.safe_load(str(golden["model_cfg"])) | {"lm_model": "transformer_lm"}
    source = write_folder(golden, tmp_path / "kind", model_cfg=yaml.safe_dump(cfg))
    with pytest.raises(ConfigError, match="lm_model must be transformer_lm_magnet, got 'transformer_lm'"):
        convert(source, tmp_path / "ours")
    source = write_folder(golden, tmp_path / "more", extra={"emb.9.scale": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"no counterpart for 1 tensors: emb\.9\.scale"):
        convert(source, tmp_path / "ours")
    source = write_folder(golden, tmp_path / "other", extra={"emb.4.weight": torch.zeros(33, 16)})
    with pytest.raises(CheckpointError, match=r"1 unknown: embed\.codes\.4\.weight"):
        convert(source, tmp_path / "ours")
    source = write_folder(golden, tmp_path / "lonely", kinds=("model",))
    with pytest.raises(ModelNotFoundError, match=r"compression_state_dict\.bin is missing"):
        convert(source, tmp_path / "ours")


def test_files_that_are_not_a_model(golden, tmp_path):
    source = write_folder(golden, tmp_path / "theirs", kinds=("codec",))
    path = source / "compression_state_dict.bin"
    torch.save({"pretrained": "facebook/encodec_32khz"}, path)
    with pytest.raises(CheckpointError, match="refers to the model 'facebook/encodec_32khz'"):
        convert(source, tmp_path / "ours")
    torch.save({"weights": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"must hold best_state and xp\.cfg"):
        convert(source, tmp_path / "ours")
    path.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="must be a checkpoint of tensors and settings only"):
        convert(source, tmp_path / "ours")
