"""A folder of FunASR's SenseVoice, and what becomes of its options, pieces and weights."""

import json

import pytest
import sentencepiece
import torch
import yaml

from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop import convert, family_of
from speechnar.interop.family import FolderListing, check_wanted
from speechnar.interop.sensevoice import parse_sensevoice, read_tokenizer
from speechnar.models.asr.sensevoice import SenseVoice
from speechnar.models.base import load_model
from speechnar.text.tokenizer import SentencePieceTokenizer
from tests.reference.funasr_folders import golden_state, read_golden, write_folder
from tests.unit.tiny import TEXTS

BPE_FILE = "chn_jpn_yue_eng_ko_spectok.bpe.model"


@pytest.fixture(scope="module")
def golden():
    """A tiny model that FunASR built."""
    return read_golden("sensevoice")


@pytest.fixture
def folder(tmp_path, golden):
    return write_folder(golden, tmp_path / "funasr")


@pytest.fixture
def options(golden):
    return yaml.safe_load(str(golden["file/config.yaml"]))


def test_folder_holds_exactly_what_is_published(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        *("am.mvn", BPE_FILE, "config.yaml", "configuration.json", "model.pt"),
    ]


def test_converted_folder_loads_with_every_weight_in_its_place(folder, golden, tmp_path):
    report = convert(folder, tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    state, ours = golden_state(golden), loaded.model.state_dict()
    assert isinstance(loaded.model, SenseVoice)
    assert len(report.keys) == len(state)
    assert report.num_parameters == sum(tensor.numel() for tensor in state.values())
    rows = {line.split()[0]: line.split()[-1] for line in str(report).splitlines()}
    for theirs, name in {
        "embed.weight": "queries.weight",
        "ctc.ctc_lo.bias": "ctc.proj.bias",
        "encoder.encoders0.0.self_attn.fsmn_block.weight": "encoder.layers.0.fsmn.weight",
        "encoder.encoders.1.norm2.bias": "encoder.layers.2.ff.0.bias",
        "encoder.after_norm.weight": "encoder.norm.weight",
        "encoder.tp_encoders.1.self_attn.linear_q_k_v.weight": "encoder.upper_layers.1.qkv.weight",
        "encoder.tp_norm.bias": "encoder.upper_norm.bias",
    }.items():
        assert rows[theirs] == name
        assert torch.equal(ours[name], state[theirs])
    card = yaml.safe_load((tmp_path / "ours" / "README.md").read_text().split("---")[1])
    assert card["language"] == ["zh", "en", "yue", "ja", "ko"]
    assert loaded.model.encoder.norm.eps == 1e-5


def test_pieces_keep_their_ids_but_for_the_blank_and_the_unknown(folder, tmp_path):
    convert(folder, tmp_path / "ours")
    tokenizer = load_model(tmp_path / "ours").tokenizer
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(folder / BPE_FILE))
    assert isinstance(tokenizer, SentencePieceTokenizer)
    assert tokenizer.pieces == ("<blank>", "<unk>", *(theirs.id_to_piece(i) for i in range(2, len(theirs))))
    assert tokenizer.encode("the cat") == theirs.encode("the cat")
    assert tokenizer.encode("Q") == [theirs.piece_to_id("▁"), tokenizer.unk_id]
    ids = theirs.encode("he said 你好")
    assert tokenizer.decode(ids) == theirs.decode(ids) == "he said 你好"


def test_files_have_their_usual_names_without_a_meta_file(folder, tmp_path):
    (folder / "configuration.json").unlink()
    convert(folder, tmp_path / "ours")
    (folder / BPE_FILE).rename(folder / "bpe.model")
    convert(folder, tmp_path / "again")
    (folder / "bpe.model").unlink()
    with pytest.raises(ModelNotFoundError, match=rf"need {BPE_FILE} or bpe.model"):
        convert(folder, tmp_path / "never")


def test_meta_file_cannot_point_outside(folder, tmp_path):
    meta = json.loads((folder / "configuration.json").read_text())
    meta["file_path_metas"]["tokenizer_conf"]["bpemodel"] = "../stolen.model"
    (folder / "configuration.json").write_text(json.dumps(meta))
    with pytest.raises(CheckpointError, match="must lie inside the folder"):
        convert(folder, tmp_path / "ours")


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("encoder_conf", {"sanm_shfit": 2}, "encoder_conf.sanm_shfit"),
        ("encoder_conf", {"input_layer": "conv2d"}, "encoder_conf.input_layer"),
        ("encoder_conf", {"tp_blocks": -1}, "encoder_conf.tp_blocks"),
        ("encoder_conf", {"more": 1}, "encoder_conf.more"),
        ("model_conf", {"blank_id": 3}, "model_conf.blank_id"),
        ("frontend_conf", {"snip_edges": False}, "frontend_conf.snip_edges"),
        (None, {"encoder": "SANMEncoder"}, "encoder"),
        (None, {"tokenizer": "CharTokenizer"}, "tokenizer"),
        (None, {"normalize": "GlobalMVN"}, "normalize"),
    ],
)
def test_options_without_a_counterpart_are_named(options, section, changes, message):
    (options if section is None else options[section]).update(changes)
    with pytest.raises(ConfigError, match=message):
        parse_sensevoice(options)


def test_what_training_alone_needs_is_left_out(options):
    config = parse_sensevoice(options)
    assert config.encoder.num_upper_layers == 2
    assert config.spec_augment is not None
    for name in ("dataset", "dataset_conf", "train_conf", "optim", "scheduler", "specaug_conf"):
        options.pop(name)
    assert parse_sensevoice(options) == config
    options.pop("specaug")
    assert parse_sensevoice(options) == config.model_copy(update={"spec_augment": None})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda s: s.update({"encoder.tp_encoders.2.norm1.bias": torch.ones(16)}),
            r"unknown: encoder\.upper_layers\.2",
        ),
        (lambda s: s.update({"decoder.embed.0.weight": torch.ones(1)}), r"no counterpart: decoder\.embed\.0\.weight"),
        (lambda s: s.pop("encoder.tp_norm.bias"), r"1 missing: encoder\.upper_norm\.bias"),
        (
            lambda s: s.update({"embed.weight": torch.ones(15, 140)}),
            r"queries\.weight \(15, 140\) instead of \(16, 140",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(folder, golden, tmp_path, spoil, message):
    state = golden_state(golden)
    spoil(state)
    torch.save(state, folder / "model.pt")
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_pieces_of_another_model_are_refused(tmp_path):
    SentencePieceTokenizer.train(TEXTS, 60, ("<|zh|>", "<|en|>")).save(tmp_path)
    with pytest.raises(DataError, match="must begin with <unk>, <s>, </s>"):
        read_tokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(DataError, match="empty file"):
        read_tokenizer(tmp_path / "tokenizer.model")


def test_a_language_without_a_piece_is_named(golden, tmp_path):
    # The bytes of a piece are those of its text; a name of the same length leaves the file whole.
    spoiled = golden[f"binary/{BPE_FILE}"].tobytes().replace(b"<|ko|>", b"<|xx|>")
    (tmp_path / "bpe.model").write_bytes(spoiled)
    with pytest.raises(DataError, match=r"no <\|ko\|>"):
        read_tokenizer(tmp_path / "bpe.model")


def test_what_the_hub_is_asked_for_is_what_the_conversion_reads(folder, tmp_path):
    listing = FolderListing(folder)
    assert family_of(listing).name == "FunASR"
    published = {path.name for path in folder.iterdir()}
    for name in ("README.md", "model_quant.onnx", "example/zh.mp3", "fig/aed_figure.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    assert set(check_wanted(family_of(listing), FolderListing(folder))) == published
    (folder / "tokens.json").write_text("[]")  # as on ModelScope
    assert set(check_wanted(family_of(listing), FolderListing(folder))) == published | {"tokens.json"}
    convert(folder, tmp_path / "ours")
