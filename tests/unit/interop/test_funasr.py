import json
import os

import pytest
import torch
import yaml

from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop import convert, convert_funasr
from speechnar.models.base import load_model
from speechnar.text.tokenizer import CharTokenizer, LexiconTokenizer
from tests.reference.funasr_folders import golden_state, read_golden, write_folder


@pytest.fixture(scope="module")
def golden():
    """A tiny model with timestamps and hotwords that FunASR built."""
    return read_golden("seaco")


@pytest.fixture
def folder(tmp_path, golden):
    return write_folder(golden, tmp_path / "funasr")


@pytest.fixture
def state(golden):
    return golden_state(golden)


@pytest.fixture
def options(golden):
    return yaml.safe_load(str(golden["file/config.yaml"]))


def test_converted_folder_loads_with_every_weight_in_its_place(folder, state, tmp_path):
    report = convert(folder, tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    ours = loaded.model.state_dict()
    assert len(report.keys) == len(state)
    assert report.num_parameters == sum(p.numel() for p in loaded.model.parameters())
    assert torch.equal(ours["encoder.layers.0.qkv.weight"], state["encoder.encoders0.0.self_attn.linear_q_k_v.weight"])
    assert torch.equal(ours["encoder.layers.2.ff.4.bias"], state["encoder.encoders.1.feed_forward.w_2.bias"])
    keys_values = [state[f"decoder.decoders.{i}.src_attn.linear_k_v.weight"] for i in range(2)]
    assert torch.equal(ours["head.decoder.key_value.weight"], torch.cat(keys_values))
    assert ours["bias.decoder.key_value.weight"].shape == (6 * 2 * 16, 16)
    assert isinstance(loaded.tokenizer, LexiconTokenizer)
    assert [loaded.tokenizer.piece_of(i) for i in (0, 1, 2, 3)] == ["<blank>", "<sos>", "<eos>", "一"]
    assert loaded.config.hotwords.no_bias_id == 73
    assert loaded.config.head.timestamps.steps_per_frame == 3
    shift = [float(x) for x in (folder / "am.mvn").read_text().split("[")[2].split("]")[0].split()]
    torch.testing.assert_close(ours["normalizer.mean"], -torch.tensor(shift))
    assert yaml.safe_load((tmp_path / "ours" / "README.md").read_text().split("---")[1])["language"] == "zh"
    lines = str(report).splitlines()
    assert len(lines) == len(state) + 1
    rows = {line.split()[0]: line.split()[-1] for line in lines}
    assert rows["encoder.encoders.0.norm1.bias"] == "encoder.layers.1.norm_attention.bias"
    assert rows["seaco_decoder.decoders.5.src_attn.linear_k_v.bias"] == "bias.decoder.key_value[5].bias"


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model_state_dict", "model"])
def test_wrappers_are_taken_off(folder, state, tmp_path, wrapper):
    prefixed = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save({wrapper: prefixed, "epoch": 3} if wrapper else prefixed, folder / "model.pt")
    convert_funasr(folder, tmp_path / "ours")
    load_model(tmp_path / "ours")


def test_files_have_their_usual_names_without_a_meta_file(folder, tmp_path):
    tokens = json.loads((folder / "tokens.json").read_text())
    (folder / "tokens.json").unlink()
    (folder / "tokens.txt").write_text("\n".join(tokens) + "\n")
    (folder / "configuration.json").unlink()
    (folder / "seg_dict").unlink()
    convert(folder, tmp_path / "ours")
    tokenizer = load_model(tmp_path / "ours").tokenizer
    assert isinstance(tokenizer, CharTokenizer)  # no word is in pieces
    assert tokenizer.piece_of(74) == "<unk>"


@pytest.mark.parametrize("change", [lambda i, token: f"{i}@@", lambda i, token: "ひ" if i == 5 else token])
def test_other_languages_stay_unnamed(folder, tmp_path, change):
    tokens = json.loads((folder / "tokens.json").read_text())
    tokens[3:-1] = [change(i, token) for i, token in enumerate(tokens[3:-1])]
    (folder / "tokens.json").write_text(json.dumps(tokens))
    convert(folder, tmp_path / "ours")
    assert "language" not in (tmp_path / "ours" / "README.md").read_text()


def test_meta_file_gives_other_names(folder, tmp_path):
    (folder / "sub").mkdir()
    (folder / "model.pt").rename(folder / "sub" / "avg10.pt")
    meta = json.loads((folder / "configuration.json").read_text())
    meta["file_path_metas"]["init_param"] = "sub/avg10.pt"
    (folder / "configuration.json").write_text(json.dumps(meta))
    convert(folder, tmp_path / "ours")
    meta["file_path_metas"]["frontend_conf"]["cmvn_file"] = "absent.mvn"
    (folder / "configuration.json").write_text(json.dumps(meta))
    with pytest.raises(ModelNotFoundError, match=r"absent\.mvn is missing"):
        convert(folder, tmp_path / "ours")


@pytest.mark.parametrize("key", ["init_param", "config"])
@pytest.mark.parametrize("name", ["../stolen", "/etc/passwd", "..\\stolen", "C:\\x", "a/../../b", "", 3])
def test_meta_file_cannot_point_outside(folder, tmp_path, key, name):
    (tmp_path / "stolen").write_bytes(b"")
    meta = {"file_path_metas": {key: name}}
    (folder / "configuration.json").write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="must lie inside the folder"):
        convert(folder, tmp_path / "ours")


@pytest.mark.parametrize("name", ["config.yaml", "model.pt", "am.mvn", "tokens.json"])
def test_missing_files_are_named(folder, tmp_path, name):
    (folder / "configuration.json").unlink()
    (folder / name).unlink()
    with pytest.raises(ModelNotFoundError, match=name):
        convert_funasr(folder, tmp_path / "ours")


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(folder, state, tmp_path):
    torch.save({"state_dict": state, "extra": Exploit(tmp_path / "ran")}, folder / "model.pt")
    with pytest.raises(CheckpointError, match="tensors only"):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x80\x02}q\x00.", b"\x00" * 100])
def test_damaged_weights_are_refused(folder, tmp_path, content):
    (folder / "model.pt").write_bytes(content)
    with pytest.raises(CheckpointError):
        convert(folder, tmp_path / "ours")


@pytest.mark.parametrize("content", ["- a list", "{", "!!python/object/apply:os.mkdir [ran]", "\x00"])
def test_configuration_is_read_as_data(folder, tmp_path, content):
    (folder / "config.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.yaml: must"):
        convert(folder, tmp_path / "ours")


@pytest.mark.parametrize("content", ["[1]", "{", '{"file_path_metas": [1]}'])
def test_meta_file_is_read_as_data(folder, tmp_path, content):
    (folder / "configuration.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"configuration\.json: "):
        convert(folder, tmp_path / "ours")


def drop(state, name):
    del state[name]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.update({"encoder.extra.weight": torch.ones(1)}), r"no counterpart: encoder\.extra\.weight"),
        (lambda s: s.update({"bias_embed.weight": torch.ones(1)}), r"no counterpart: bias_embed\.weight"),
        (lambda s: drop(s, "encoder.after_norm.bias"), r"1 missing: encoder\.norm\.bias"),
        (lambda s: drop(s, "decoder.decoders.0.src_attn.linear_k_v.bias"), r"key_value\.bias needs 2 tensors"),
        (
            lambda s: drop(s, "decoder.decoders.1.src_attn.linear_k_v.bias"),
            r"key_value\.bias \(32,\) instead",
        ),
        (lambda s: s.update({"predictor.cif_output.bias": torch.ones(3)}), r"embedder\.proj\.bias \(3,\) instead of"),
        (lambda s: s.update({"encoder.encoders.7.norm1.bias": torch.ones(16)}), r"1 unknown: encoder\.layers\.8"),
        (lambda s: s.update({"decoder.decoders2.0.norm1.bias": torch.ones(16)}), "no counterpart: decoder.decoders2"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, state, tmp_path, spoil, message):
    spoil(state)
    torch.save(state, folder / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_vocabulary_of_another_model_does_not_fit(folder, tmp_path):
    tokens = json.loads((folder / "tokens.json").read_text())
    (folder / "tokens.json").write_text(json.dumps([*tokens, "more"]))
    with pytest.raises(CheckpointError, match=r"head\.output\.bias \(75,\) instead of \(76,\)"):
        convert(folder, tmp_path / "ours")


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("{}", "list of strings"),
        ('["<blank>", 1]', "list of strings"),
        ("[", "must be a list of tokens"),
        ('["<s>", "<blank>", "</s>", "<unk>"]', "must begin with <blank>, <s> and </s>"),
        ('["<blank>", "<s>", "</s>", "a", "a", "<unk>"]', "already stands"),
        ('["<blank>", "<s>", "</s>", "a"]', "<unk>"),
    ],
)
def test_malformed_tokens_are_refused(folder, tmp_path, tokens, message):
    (folder / "tokens.json").write_text(tokens)
    with pytest.raises(DataError, match=message):
        convert(folder, tmp_path / "ours")


def test_statistics_must_be_of_the_features(folder, tmp_path):
    text = (folder / "am.mvn").read_text()
    (folder / "am.mvn").write_text(text.replace("<LearnRateCoef> 0 [ ", "<LearnRateCoef> 0 [ 0.5 "))
    with pytest.raises(CheckpointError, match=r"normalizer\.mean \(141,\) instead of \(140,\)"):
        convert(folder, tmp_path / "ours")


def test_heads_must_divide_the_width(folder, options, tmp_path):
    options["encoder_conf"]["attention_heads"] = 3
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        convert(folder, tmp_path / "ours")


@pytest.mark.parametrize("change", [{"frame_length": 1e9}, {"fs": 10**12}, {"n_mels": 10**6}, {"lfr_m": 10**6}])
def test_features_of_absurd_size_are_not_built(folder, options, tmp_path, change):
    options["frontend_conf"] |= change
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(ConfigError, match=next(iter(change))):
        convert(folder, tmp_path / "ours")


def test_folders_of_no_toolkit_or_of_two_are_refused(folder, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"ESPnet .*FunASR"):
        convert(tmp_path / "absent", tmp_path / "ours")
    (folder / "valid.pth").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="ESPnet and FunASR"):
        convert(folder, tmp_path / "ours")
    (folder / "valid.pth").unlink()
    with pytest.raises(ConfigError, match="--skip-decoder"):
        convert(folder, tmp_path / "ours", skip_decoder=True)


def test_english_is_told_by_its_letters(folder, tmp_path):
    tokens = json.loads((folder / "tokens.json").read_text())
    letters = [f"{first}{second}@@" for first in "abcdefghij" for second in "abcdefgh"]
    tokens[3:-1] = [*letters[: len(tokens) - 5], "'s"]
    (folder / "tokens.json").write_text(json.dumps(tokens))
    convert(folder, tmp_path / "ours")
    assert "\nlanguage: en\n" in (tmp_path / "ours" / "README.md").read_text()
    tokens[4] = "né"
    (folder / "tokens.json").write_text(json.dumps(tokens))
    convert(folder, tmp_path / "ours")
    assert "language" not in (tmp_path / "ours" / "README.md").read_text()
