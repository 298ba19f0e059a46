"""Folders of the CASS-NAT authors' code to ours, on weights that their code made."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop import convert
from speechnar.interop.cassnat import convert_cassnat, destination_of, map_state, parse_options, read_tokenizer
from speechnar.models.base import load_model
from speechnar.text.tokenizer import SentencePieceTokenizer
from tests.unit.tiny import TEXTS

GOLDEN = Path(__file__).parents[2] / "reference" / "golden"
LETTERS = ["|", *"abcdefghijklmnopqrs"]


@pytest.fixture(params=["cassnat", "unienc"])
def golden(request):
    with np.load(GOLDEN / f"{request.param}.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture
def cassnat():
    with np.load(GOLDEN / "cassnat.npz", allow_pickle=False) as file:
        return dict(file)


def write(folder, golden, *, prefix="", extra=None, **options):
    folder.mkdir(exist_ok=True)
    values = {**json.loads(str(golden["options"])), **options}
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (folder / "vocab.txt").write_text("\n".join(LETTERS) + "\n")
    state = {prefix + name[6:]: torch.from_numpy(value) for name, value in golden.items() if name[:6] == "state/"}
    torch.save({"epoch": 3, "model_state": {**state, **(extra or {})}}, folder / "averaged.mdl")
    return folder


def test_a_folder_is_converted_and_works(golden, tmp_path):
    source = write(tmp_path / "theirs", golden, prefix="module.", use_cmvn=True)
    mels = golden["feats"].shape[1]
    statistics = [[*[20.0] * mels, 10.0], [*[130.0] * mels, 0.0]]  # mean 2, variance 13 - 4
    (source / "cmvn.ark").write_text("cmvn [\n" + "\n".join(" ".join(map(str, row)) for row in statistics) + " ]\n")
    report = convert(source, tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    assert loaded.config.kind == ("unienc" if "multi_ctc" in json.loads(str(golden["options"])) else "cassnat")
    assert loaded.tokenizer.pieces[:6] == ("<blank>", "<sos>", "<eos>", "<unk>", "▁", "a")
    torch.testing.assert_close(loaded.model.normalizer.mean, torch.full((mels,), 2.0))
    torch.testing.assert_close(loaded.model.normalizer.std, torch.full((mels,), 3.0))
    assert report.num_parameters == sum(parameter.numel() for parameter in loaded.model.parameters())
    assert f"{report.num_parameters:,} parameters" in str(report)
    feats = torch.from_numpy(golden["feats"])[None]
    with torch.no_grad():
        out = loaded.model.trunk.encode(feats, torch.tensor([feats.size(1)]))
    torch.testing.assert_close(out.log_probs[0], torch.from_numpy(golden["log_probs"]), atol=2e-4, rtol=0)


def test_their_old_names_of_the_modules():
    assert destination_of("embed_mapper.layers.3.feed_forward1.w_1.weight") == "head.self_blocks.3.ff_macaron.1.weight"
    assert destination_of("decoder.layers.1.sublayer.4.norm.a_2") == "head.mixed_blocks.1.ff.0.weight"
    assert destination_of("hub_base.norm.b_2") == "trunk.encoder.norm.bias"
    assert destination_of("acembed_extractor.layers.0.sublayer.1.norm.a_2", unienc=True) == "embedder.ff.0.weight"
    assert destination_of("acembed_extractor.layers.0.sublayer.1.norm.a_2") is None


def test_network_options_without_a_counterpart_are_all_named(cassnat, tmp_path):
    source = write(tmp_path / "theirs", cassnat, src_trigger=True, right_ctx=2, model_type="hubert")
    with pytest.raises(ConfigError, match=r"model_type: .*right_ctx: .*src_trigger: "):
        convert_cassnat(source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()
    options = json.loads(str(cassnat["options"]))
    with pytest.raises(ConfigError, match="interce_layer must be interctc_layer 2, got 1"):
        parse_options({**options, "multi_ctc": True, "interce_layer": 1})
    with pytest.raises(ConfigError, match="inter_ce_layer must stay below the 3 blocks"):
        parse_options({**options, "interce_layer": 3}).to_config()


def test_expansion_by_any_number_is_by_one_frame(cassnat):
    options = {**json.loads(str(cassnat["options"])), "left_trigger": 3, "right_trigger": 0}
    head = parse_options(options).to_config().head
    assert (head.expand_left, head.expand_right) == (1, 0)


def test_tensors_that_do_not_fit_are_named(cassnat, tmp_path):
    extra = {"mlm_generator.proj.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"1 tensors have no counterpart: mlm_generator\.proj\.bias"):
        convert_cassnat(write(tmp_path / "a", cassnat, extra=extra), tmp_path / "ours")
    extra = {"att_generator.proj.bias": torch.zeros(3)}
    with pytest.raises(CheckpointError, match=r"of another shape: head\.out\.bias \(3,\) instead of \(24,\)"):
        convert_cassnat(write(tmp_path / "b", cassnat, extra=extra), tmp_path / "ours")
    with pytest.raises(CheckpointError, match=r"\d+ missing: head\.self_blocks\.1"):
        convert_cassnat(write(tmp_path / "c", cassnat, N_self_dec=2), tmp_path / "ours")
    with pytest.raises(CheckpointError, match="needs 3 tensors of one shape"):
        map_state({"encoder.layers.0.self_attn.linears.0.weight": torch.zeros(4, 4)})


def test_files_that_are_missing_or_are_no_tensors(cassnat, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"one \.mdl file; found 0"):
        convert_cassnat(tmp_path, tmp_path / "ours")
    with pytest.raises(ConfigError, match="--skip-decoder is for ESPnet's hybrid models"):
        convert(write(tmp_path / "d", cassnat), tmp_path / "ours", skip_decoder=True)
    with pytest.raises(ModelNotFoundError, match=r"cmvn\.ark with the Kaldi statistics is missing"):
        convert_cassnat(write(tmp_path / "a", cassnat, use_cmvn=True), tmp_path / "ours")
    source = write(tmp_path / "b", cassnat)

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"model_state": {"x": Trap()}}, source / "averaged.mdl")
    with pytest.raises(CheckpointError, match="a checkpoint of tensors only"):
        convert_cassnat(source, tmp_path / "ours")
    assert not (tmp_path / "executed").exists()
    torch.save([1], source / "averaged.mdl")
    with pytest.raises(CheckpointError, match="must hold a mapping of names to tensors"):
        convert_cassnat(source, tmp_path / "ours")
    (source / "config.yaml").write_text("- a list")
    with pytest.raises(CheckpointError, match="must hold a mapping"):
        convert_cassnat(source, tmp_path / "ours")


def test_vocabularies(tmp_path):
    trained = SentencePieceTokenizer.train(TEXTS, 60)
    trained.save(tmp_path)  # writes tokenizer.model
    text = TEXTS[0]
    units = sorted({trained.piece_of(token) for token in trained.encode(text)})  # what occurs in their corpus
    assert len(units) < trained.vocab_size - 5
    (tmp_path / "vocab.txt").write_text("\n".join(units) + "\n")
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.vocab_size == 4 + len(units)
    assert tokenizer.unk_id not in tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    (tmp_path / "vocab.txt").write_text("a\na\n")
    with pytest.raises(DataError, match="already stands on line"):
        read_tokenizer(tmp_path)
