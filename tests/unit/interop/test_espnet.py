import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from speechnar.asr.clips import ClipDecoder
from speechnar.asr.transcriber import Transcriber
from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop import convert_espnet, family_of
from speechnar.interop.espnet import ESPNET
from speechnar.interop.espnet_names import MODULE_NAMES, destination_of, map_state
from speechnar.interop.espnet_options import parse_options
from speechnar.interop.family import FolderListing, check_wanted
from speechnar.models.base import load_model
from speechnar.text.tokenizer import SentencePieceTokenizer
from tests.unit.tiny import speechlike

GOLDEN_PATH = Path(__file__).parents[2] / "reference" / "golden" / "owsm_ctc.npz"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN_PATH, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def options(golden):
    """Options of a tiny model that ESPnet built."""
    return json.loads(str(golden["options"]))


@pytest.fixture
def state(golden):
    """Weights of the same model, written by ESPnet."""
    return {name[6:]: torch.from_numpy(value) for name, value in golden.items() if name.startswith("state/")}


@pytest.fixture
def folder(tmp_path, options, state):
    return write(tmp_path / "espnet", options, state)


def write(folder, options, state):
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(options, allow_unicode=True))
    torch.save(state, folder / "valid.ave.pth")
    return folder


def test_converted_folder_loads_with_every_weight_in_its_place(folder, state, tmp_path):
    report = convert_espnet(folder, tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    ours = loaded.model.state_dict()
    assert len(report.keys) == len(state)
    assert report.num_parameters == sum(p.numel() for p in loaded.model.parameters())
    q, k, v = (state[f"encoder.encoders.1.attn.linear_{name}.weight"].float() for name in "qkv")
    assert torch.equal(ours["encoder.layers.1.attention.qkv.weight"], torch.cat([q, k, v]))
    assert torch.equal(ours["normalizer.mean"], state["normalize.mean"].float())
    assert loaded.tokenizer.piece_of(8) == "▁"
    card = (tmp_path / "ours" / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1]) == {"language": ["deu", "eng"], "tasks": ["asr", "st"]}
    lines = str(report).splitlines()
    assert len(lines) == len(state) + 1
    assert lines[0].split() == ["frontend.logmel.melmat", "257", "x", "40", "frontend.mel_matrix"]
    assert any("attn.linear_k.bias" in line and line.endswith("attention.qkv[1].bias") for line in lines)


def test_packed_model_is_found_through_its_meta_file(folder, tmp_path):
    packed = tmp_path / "packed"
    (packed / "exp/train").mkdir(parents=True)
    (folder / "config.yaml").rename(packed / "exp/train/config.yaml")
    (folder / "valid.ave.pth").rename(packed / "exp/train/valid.ave.pth")
    meta = {
        "espnet": "202511",
        "files": {"s2t_model_file": "exp/train/valid.ave.pth"},
        "yaml_files": {"s2t_train_config": "exp/train/config.yaml"},
    }
    (packed / "meta.yaml").write_text(yaml.safe_dump(meta))
    convert_espnet(packed, tmp_path / "ours")
    load_model(tmp_path / "ours")
    del meta["files"]
    (packed / "meta.yaml").write_text(yaml.safe_dump(meta))
    with pytest.raises(CheckpointError, match="s2t_model_file"):
        convert_espnet(packed, tmp_path / "ours")


@pytest.mark.parametrize("name", ["../stolen.pth", "/etc/passwd", "..\\stolen.pth", "C:\\x.pth", "a/../../b", "", 3])
def test_meta_file_cannot_point_outside(folder, tmp_path, name):
    (tmp_path / "stolen.pth").write_bytes(b"")
    meta = {"files": {"s2t_model_file": name}, "yaml_files": {"s2t_train_config": "config.yaml"}}
    (folder / "meta.yaml").write_text(yaml.safe_dump(meta))
    with pytest.raises(CheckpointError, match="must lie inside the folder"):
        convert_espnet(folder, tmp_path / "ours")


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickled_code_is_refused_and_not_run(folder, state, tmp_path):
    torch.save({**state, "extra": Exploit(tmp_path / "ran")}, folder / "valid.ave.pth")
    with pytest.raises(CheckpointError, match="tensors only"):
        convert_espnet(folder, tmp_path / "ours")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 not really", b"\x80\x02}q\x00.", b"\x00" * 100])
def test_damaged_weights_are_refused(folder, tmp_path, content):
    (folder / "valid.ave.pth").write_bytes(content)
    with pytest.raises(CheckpointError):
        convert_espnet(folder, tmp_path / "ours")


@pytest.mark.parametrize("content", ["- a list", "{", "!!python/object/apply:os.mkdir [ran]", "\x00"])
def test_configuration_is_read_as_data(folder, tmp_path, content):
    (folder / "config.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.yaml: must"):
        convert_espnet(folder, tmp_path / "ours")


def test_deepspeed_wrapper_is_taken_off(folder, state, tmp_path):
    torch.save({"module": state, "global_step": 3}, folder / "valid.ave.pth")
    convert_espnet(folder, tmp_path / "ours")
    assert load_model(tmp_path / "ours").name == "ours"


def test_checkpoints_of_more_than_tensors_are_refused(folder, state, tmp_path):
    torch.save({**state, "epoch": 3}, folder / "valid.ave.pth")
    with pytest.raises(CheckpointError, match="not so: epoch"):
        convert_espnet(folder, tmp_path / "ours")


def drop(state, *names):
    for name in names:
        del state[name]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.update({"encoder.extra.weight": torch.ones(1)}), r"no counterpart: encoder\.extra\.weight"),
        (lambda s: s.update({"decoder.output.bias": torch.ones(1)}), "--skip-decoder"),
        (lambda s: drop(s, "encoder.after_norm.bias"), r"1 missing: encoder\.norm\.bias"),
        (lambda s: drop(s, "encoder.encoders.0.attn.linear_k.bias"), r"qkv\.bias needs 3 tensors of one shape"),
        (lambda s: s.update({"ctc.ctc_lo.bias": torch.ones(3)}), r"ctc\.proj\.bias \(3,\) instead of \(28,\)"),
        (lambda s: s.update({"prompt_encoder.encoders.9.norm1.bias": torch.ones(12)}), "1 unknown: prompt_encoder"),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, state, tmp_path, spoil, message):
    spoil(state)
    torch.save(state, folder / "valid.ave.pth")
    with pytest.raises(CheckpointError, match=message):
        convert_espnet(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_every_unsupported_option_is_named_at_once(options):
    options["encoder_conf"] |= {"gate_activation": "tanh", "input_layer": "linear", "brand_new": 1}
    options["frontend_conf"]["htk"] = True
    options["preprocessor_conf"] = {"anything": "goes"}
    with pytest.raises(ConfigError) as caught:
        parse_options(options)
    for name in ("gate_activation", "input_layer", "brand_new", "frontend_conf.htk"):
        assert name in str(caught.value)
    assert "anything" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        (
            "",
            {"encoder": "rnn"},
            "encoder must be one of e_branchformer_ctc, conformer, e_branchformer, branchf",
        ),
        ("", {"normalize": "utterance_mvn"}, "norm_vars"),
        ("", {"normalize": None}, "normalize"),
        ("", {"token_type": "phn"}, "token_type"),
        ("", {"input_size": 80}, "input_size"),
        ("frontend_conf", {"frontend_conf": {"use_wpe": True}}, "speech enhancement"),
        ("frontend_conf", {"fs": "fast"}, "sample rate"),
        ("frontend_conf", {"win_length": 1024}, "win_length"),
        ("encoder_conf", {"use_cross_attention": [True, False, True]}, "use_cross_attention"),
        ("encoder_conf", {"interctc_use_conditioning": False}, "without interctc_use_conditioning"),
        ("encoder_conf", {"rel_pos_type": "legacy", "pos_enc_layer_type": "rel_pos"}, "not supported"),
        ("encoder_conf", {"num_blocks": 10**9}, "num_blocks"),
        ("encoder_conf", {"macaron_ffn": False}, "macaron_ffn"),
        ("encoder_conf", {"interctc_layer_idx": [1, 3]}, "interctc_layers"),
        ("model_conf", {"ctc_asr_only": [True, False]}, "3 values"),
        ("model_conf", {"ctc_asr_only": [True, True, True]}, "last one false"),
        ("model_conf", {"sym_na": "<nothing>"}, "sym_na"),
    ],
)
def test_unsupported_options_are_refused(options, section, changes, message):
    (options[section] if section else options).update(changes)
    with pytest.raises(ConfigError, match=message):
        parse_options(options).to_config()


def test_options_left_out_take_espnets_defaults(options):
    del options["encoder_conf"]["merge_conv_kernel"]
    options["frontend_conf"] = {"fs": 8000}
    options["model_conf"] = {}
    options["specaug"] = None
    options["normalize"], options["normalize_conf"] = "utterance_mvn", {"norm_vars": True}
    config = parse_options(options).to_config()
    assert config.encoder.merge_kernel_size == 3
    assert (config.frontend.hop_length, config.frontend.win_length, config.frontend.sample_rate) == (128, 512, 8000)
    assert config.interctc_asr_only == (False, False)
    assert config.interctc_weight == 0.0
    assert config.spec_augment is None
    assert config.normalize == "utterance"


@pytest.mark.parametrize(
    ("pattern", "every"), [(True, 1), (False, None), ([False, True, False], 2), ([False, False, False], None)]
)
def test_cross_attention_of_every_nth_block(options, pattern, every):
    options["encoder_conf"]["use_cross_attention"] = pattern
    assert parse_options(options).to_config().encoder.cross_attention_every == every


@pytest.mark.parametrize(
    ("encoder", "positions"), [("conformer", "legacy"), ("branchformer", "relative"), ("transformer", "absolute")]
)
def test_recognisers_take_espnets_defaults(options, encoder, positions):
    asr = {name: options[name] for name in ("token_list", "token_type", "normalize", "normalize_conf")}
    conf = {"macaron_style": True} if encoder == "conformer" else {}
    asr |= {"encoder": encoder, "encoder_conf": conf}
    parsed = parse_options(asr)
    config = parsed.to_config()
    assert (config.encoder.kind, config.encoder.positions, config.encoder.subsampling) == (encoder, positions, 4)
    assert (config.prompt, config.clip_s, config.interctc_layers) == (None, None, ())
    assert parsed.head_config() is None
    asr |= {"decoder": "transformer", "decoder_conf": {"num_blocks": 3}}
    with pytest.raises(ConfigError, match="must be <sos/eos>, one of token_list"):
        parse_options(asr).head_config()
    asr["token_list"] = [*options["token_list"][:-3], "<sos/eos>"]
    assert parse_options(asr).head_config().num_layers == 3
    assert parse_options({**asr, "model_conf": {"ctc_weight": 1.0}}).head_config() is None
    for conf, message in (({"concat_after": True}, "concat_after"), ({"brand_new": 1}, "brand_new")):
        with pytest.raises(ConfigError, match=message):
            parse_options({**asr, "decoder_conf": conf}).head_config()
    with pytest.raises(ConfigError, match="ctc_weight"):
        parse_options({**asr, "model_conf": {"ctc_weight": 0.0}})


@pytest.mark.parametrize(("given", "clip_s"), [({}, 30.0), ({"speech_length": 20, "anything": "goes"}, 20.0)])
def test_the_length_of_padded_clips_comes_with_the_model(options, given, clip_s):
    assert parse_options({**options, "preprocessor_conf": given}).to_config().clip_s == clip_s


def test_subword_model_is_found_beside_the_configuration(folder, options, tmp_path):
    tokenizer = SentencePieceTokenizer.train(
        ["abc def ab de"], 30, ("<na>", "<nolang>", "<eng>", "<asr>"), model_type="char"
    )
    options |= {"token_type": "bpe", "bpemodel": "/home/someone/data/bpe_30/bpe.model"}
    options["token_list"] = list(tokenizer.pieces)
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(ModelNotFoundError, match=r"put bpe\.model there"):
        convert_espnet(folder, tmp_path / "ours")
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.model").rename(folder / "bpe.model")
    with pytest.raises(CheckpointError, match="of another shape"):  # found; only this vocabulary is smaller
        convert_espnet(folder, tmp_path / "ours")
    options["token_list"][10] = "strange"
    (folder / "config.yaml").write_text(yaml.safe_dump(options))
    with pytest.raises(DataError, match="strange"):
        convert_espnet(folder, tmp_path / "ours")


OWSM_EXP = "exp/s2t_train_s2t_multitask-ctc_ebf27_conv2d8_size1024_raw_bpe50000"
OWSM_WEIGHTS = f"{OWSM_EXP}/valid.total_count.ave_5best.till45epoch.pth"
OWSM_BPE = "data/token_list/bpe_unigram50000/bpe.model"


@pytest.fixture
def published(tmp_path, options, state):
    """A folder with the files of OWSM-CTC's published repositories, whose vocabulary is of subwords."""
    tokenizer = SentencePieceTokenizer.train(["a bad cab"], 20, ("<na>", "<nolang>", "<eng>", "<asr>"), "char")
    options |= {"token_list": list(tokenizer.pieces), "token_type": "bpe", "bpemodel": OWSM_BPE}
    options["normalize_conf"] = {"stats_file": "exp/s2t_stats_raw_bpe50000/train/feats_stats.npz"}
    options["preprocessor_conf"] = {"speech_length": 30, "speech_init_silence": 30, "nolang_symbol": "<nolang>"}
    rows = torch.arange(tokenizer.vocab_size) % len(state["ctc.ctc_lo.bias"])
    for name in ("embed.weight", "ctc.ctc_lo.weight", "ctc.ctc_lo.bias"):
        state[name] = state[name][rows]
    state["encoder.conditioning_layer.weight"] = state["encoder.conditioning_layer.weight"][:, rows]
    root = tmp_path / "published"
    for name in (f"{OWSM_EXP}/images/loss.png", "exp/s2t_stats_raw_bpe50000/train/feats_stats.npz", "README.md"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not read")
    (root / OWSM_BPE).parent.mkdir(parents=True)
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "saved" / "tokenizer.model").rename(root / OWSM_BPE)
    (root / OWSM_EXP / "config.yaml").write_text(yaml.safe_dump(options, allow_unicode=True))
    torch.save(state, root / OWSM_WEIGHTS)
    meta = {
        "espnet": "202402",
        "files": {"s2t_model_file": OWSM_WEIGHTS},
        "yaml_files": {"s2t_train_config": f"{OWSM_EXP}/config.yaml"},
    }
    (root / "meta.yaml").write_text(yaml.safe_dump(meta))
    return root


@pytest.mark.parametrize("with_meta", [True, False])
def test_the_published_layout_is_read_as_it_is(published, tmp_path, with_meta):
    if not with_meta:
        (published / "meta.yaml").unlink()
    listing = FolderListing(published)
    assert family_of(listing) is ESPNET
    wanted = check_wanted(ESPNET, listing)
    needed = {"README.md", f"{OWSM_EXP}/config.yaml", OWSM_WEIGHTS, OWSM_BPE}
    assert set(wanted) == needed | ({"meta.yaml"} if with_meta else set())
    for name in wanted:  # the rest is not there
        (tmp_path / "fetched" / name).parent.mkdir(parents=True, exist_ok=True)
        (published / name).rename(tmp_path / "fetched" / name)
    report = convert_espnet(tmp_path / "fetched", tmp_path / "ours")
    assert all(key.destination for key in report.keys)
    assert ClipDecoder(load_model(tmp_path / "ours")).shortest_samples == 30 * 16000
    transcriber = Transcriber.load(tmp_path / "ours")
    segments = transcriber.transcribe(speechlike(2.0), sample_rate=16000, word_timestamps=True).segments
    assert all(segment.words is not None and segment.end <= 2.0 for segment in segments)


def test_folders_without_a_model_are_not_found(folder, state, tmp_path):
    with pytest.raises(ModelNotFoundError, match="found 0"):
        convert_espnet(tmp_path / "absent", tmp_path / "ours")
    torch.save(state, folder / "second.pth")
    with pytest.raises(ModelNotFoundError, match=r"found 2 \.pth"):
        convert_espnet(folder, tmp_path / "ours")


def test_decoder_is_skipped_on_request_only():
    state = {"decoder.embed.weight": torch.ones(2), "ctc.ctc_lo.bias": torch.ones(3, dtype=torch.float16)}
    mapped, keys = map_state(state, skip_decoder=True)
    assert list(mapped) == ["ctc.proj.bias"]
    assert mapped["ctc.proj.bias"].dtype == torch.float32
    assert [key.destination for key in keys] == [None, "ctc.proj.bias"]


@pytest.mark.parametrize(
    ("key", "ours"),
    [
        ("encoder.encoders.12.conv_module.norm.running_var", "encoder.layers.12.conv.norm.running_var"),
        ("encoder.encoders.0.self_attn.pos_bias_u", "encoder.layers.0.attention.content_bias"),
        ("encoder.embed.out.0.bias", "encoder.subsampling.proj.bias"),
        ("encoder.encoders.0.attn.linear_q.scale", None),
        ("encoder.layers.0.norm_ff.bias", None),
        ("", None),
    ],
)
def test_names(key, ours):
    assert destination_of(key) == ours


def test_no_two_modules_share_a_name_but_for_those_of_different_encoders():
    twice = (".self_attn.", "embed.out.0", "encoder.encoders.*.norm1", "encoder.encoders.*.norm2")
    encoders = {key: name for key, name in MODULE_NAMES.items() if not key.startswith(("prompt", "decoder"))}
    names = [name for key, name in encoders.items() if not any(part in key for part in twice)]
    assert len(set(names)) == len(names)
