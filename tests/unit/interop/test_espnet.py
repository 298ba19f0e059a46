import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from speechnar.asr.clips import ClipDecoder
from speechnar.asr.transcriber import Transcriber
from speechnar.errors import CheckpointError, DataError, ModelNotFoundError
from speechnar.interop import convert_espnet, family_of
from speechnar.interop.espnet import ESPNET
from speechnar.interop.family import FolderListing, check_wanted
from speechnar.models.base import load_model
from speechnar.text.tokenizer import SentencePieceTokenizer
from tests.unit.tiny import speechlike

GOLDEN_PATH = Path(__file__).parents[2] / "reference" / "golden" / "owsm_ctc.npz"


def read_options():
    """Return the options of a tiny model that ESPnet built."""
    with np.load(GOLDEN_PATH, allow_pickle=False) as file:
        return json.loads(str(file["options"]))


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN_PATH, allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def options():
    return read_options()


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
