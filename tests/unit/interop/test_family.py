"""Which family the names of files tell, and which files are wanted of it."""

import json

import pytest

from speechnar.errors import CheckpointError, ModelNotFoundError
from speechnar.interop import FAMILIES, family_of
from speechnar.interop.family import (
    FolderListing,
    check_wanted,
    in_root,
    listed_of,
    transformers_config,
    transformers_weights,
)

# File lists as published (owsm_ctc_v3.1_1B, paraformer-zh, magnet-small-10secs, whisper-base, wav2vec2-base-960h) or as
# training leaves them, and what of them is fetched.
OWSM = "exp/s2t_train_s2t_multitask-ctc_ebf27_conv2d8_size1024_raw_bpe50000"
LAYOUTS = {
    "packed ESPnet": (
        "ESPnet",
        {
            "README.md": "",
            ".gitattributes": "",
            "meta.yaml": json.dumps(
                {
                    "files": {"s2t_model_file": f"{OWSM}/valid.total_count.ave_5best.till45epoch.pth"},
                    "yaml_files": {"s2t_train_config": f"{OWSM}/config.yaml"},
                }
            ),
            f"{OWSM}/config.yaml": "bpemodel: data/token_list/bpe_unigram50000/bpe.model",
            f"{OWSM}/valid.total_count.ave_5best.till45epoch.pth": "",
            f"{OWSM}/images/loss.png": "",
            "exp/s2t_stats_raw_bpe50000/train/feats_stats.npz": "",
            "data/token_list/bpe_unigram50000/bpe.model": "",
        },
        {
            "meta.yaml",
            "README.md",
            f"{OWSM}/config.yaml",
            f"{OWSM}/valid.total_count.ave_5best.till45epoch.pth",
            "data/token_list/bpe_unigram50000/bpe.model",
        },
    ),
    "ESPnet as trained, by characters": (
        "ESPnet",
        {"exp_owsm/asr/config.yaml": "token_type: char", "exp_owsm/asr/valid.acc.ave.pth": "", "optim/x.pth": ""},
        {"exp_owsm/asr/config.yaml", "exp_owsm/asr/valid.acc.ave.pth"},
    ),
    "FunASR": (
        "FunASR",
        {
            "configuration.json": json.dumps({"file_path_metas": {"init_param": "model.pt", "config": "config.yaml"}}),
            "config.yaml": "",
            "model.pt": "",
            "model_quant.onnx": "",
            "am.mvn": "",
            "tokens.json": "",
            "seg_dict": "",
            "example/asr_example.wav": "",
        },
        {"configuration.json", "config.yaml", "model.pt", "am.mvn", "tokens.json", "seg_dict"},
    ),
    "audiocraft": (
        "audiocraft",
        {"state_dict.bin": "", "compression_state_dict.bin": "", "README.md": ""},
        {"state_dict.bin", "compression_state_dict.bin"},
    ),
    "cassnat_asr": (
        "cassnat_asr",
        {"config.yaml": "", "averaged.mdl": "", "vocab.txt": "", "tokenizer.model": "", "train.log": ""},
        {"config.yaml", "averaged.mdl", "vocab.txt", "tokenizer.model"},
    ),
    "Whisper of Hugging Face": (
        "Whisper",
        {
            "config.json": json.dumps({"model_type": "whisper"}),
            "model.safetensors": "",
            "pytorch_model.bin": "",
            "flax_model.msgpack": "",
            "tokenizer.json": "",
        },
        {"config.json", "model.safetensors", "tokenizer.json"},
    ),
    "wav2vec 2.0": (
        "wav2vec 2.0 or HuBERT of Hugging Face",
        {
            "config.json": json.dumps({"model_type": "wav2vec2"}),
            "pytorch_model.bin": "",
            "tf_model.h5": "",
            "vocab.json": "",
            "preprocessor_config.json": "",
            "tokenizer.json": "",
        },
        {"config.json", "pytorch_model.bin", "vocab.json", "preprocessor_config.json"},
    ),
}


def write(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return FolderListing(folder)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_are_recognized_and_only_what_is_needed_is_wanted(tmp_path, layout):
    name, files, wanted = LAYOUTS[layout]
    listing = write(tmp_path, files)
    family = family_of(listing)
    assert family.name == name
    assert set(check_wanted(family, listing)) == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_is_malformed_is_recognized_or_not_but_raises_nothing(tmp_path, layout):
    _, files, _ = LAYOUTS[layout]
    listing = write(tmp_path, dict.fromkeys(files, "\0{"))
    for family in FAMILIES:
        assert family.recognizes(listing) in (True, False)


@pytest.mark.parametrize("files", [{}, {"config.json": '{"model_type": "bert"}', "tokenizer.json": ""}, {"a/x.pt": ""}])
def test_foreign_files_are_of_no_family(tmp_path, files):
    with pytest.raises(ModelNotFoundError, match="found the files of none"):
        family_of(write(tmp_path, files))


def test_files_of_two_families_are_refused(tmp_path):
    with pytest.raises(ModelNotFoundError, match="found the files of FunASR and audiocraft"):
        family_of(write(tmp_path, {"model.pt": "", "state_dict.bin": ""}))


@pytest.mark.parametrize(
    ("layout", "absent"),
    [
        ("packed ESPnet", "data/token_list/bpe_unigram50000/bpe.model"),
        ("packed ESPnet", f"{OWSM}/config.yaml"),
        ("FunASR", "am.mvn"),
        ("audiocraft", "compression_state_dict.bin"),
        ("Whisper of Hugging Face", "model.safetensors"),
        ("wav2vec 2.0", "pytorch_model.bin"),
    ],
)
def test_a_missing_file_is_named_before_anything_is_fetched(tmp_path, layout, absent):
    _, files, _ = LAYOUTS[layout]
    files = {name: text for name, text in files.items() if name != absent and not name.endswith("pytorch_model.bin")}
    listing = write(tmp_path, files)
    stem = "model.safetensors" if absent == "pytorch_model.bin" else absent
    with pytest.raises(ModelNotFoundError, match=stem.rpartition("/")[2]):
        check_wanted(family_of(listing), listing)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..\\secret"])
def test_names_outside_are_refused(tmp_path, name):
    meta = {"files": {"s2t_model_file": name}, "yaml_files": {"s2t_train_config": "config.yaml"}}
    listing = write(tmp_path / "model", {"meta.yaml": json.dumps(meta), "config.yaml": ""})
    with pytest.raises(CheckpointError, match="must lie inside the folder"):
        check_wanted(family_of(listing), listing)
    with pytest.raises((CheckpointError, ModelNotFoundError)):
        listing.path(name)


def test_too_many_files_are_no_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr("speechnar.interop.family.MAX_FILES", 2)
    listing = write(tmp_path, {"a": "", "b": "", "c/d": ""})
    with pytest.raises(ModelNotFoundError, match="too many files"):
        _ = listing.names


def test_parts_of_listings(tmp_path):
    listing = write(tmp_path, {"b.pt": "", "a.pt": "", "c/d.pt": "", "config.json": "[1]", "pytorch_model.bin": ""})
    assert listed_of(listing, "a.pt", "absent", "c/d.pt") == ("a.pt", "c/d.pt")
    assert in_root(listing, ".pt") == ["a.pt", "b.pt"]
    assert transformers_config(listing) == {}
    assert transformers_weights(listing) == "pytorch_model.bin"
    (tmp_path / "config.json").write_text('{"model_type": "x"}')
    assert transformers_config(listing) == {"model_type": "x"}
    assert transformers_weights(FolderListing(tmp_path / "c")) == "model.safetensors"
