"""Parakeet's checkpoints: options, vocabularies and faults; what transformers makes of them is in tests/reference."""

import json

import pytest
import torch
from safetensors.torch import save_file

from speechnar import Transcriber
from speechnar.config import parse_config
from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop import convert
from speechnar.interop.parakeet import PARAKEET_NAMES, ParakeetOptions
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.base import load_model
from speechnar.text.tokenizer import BLANK, SentencePieceTokenizer
from tests.unit.interop.layouts import in_their_layout
from tests.unit.tiny import TEXTS, speechlike

SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "conv_kernel_size": 5,
    "subsampling_conv_channels": 4,
}
BIASES = ("attention_bias", "convolution_bias")


def tokenizer_json():
    """Return a tokenizer.json as converters of SentencePiece models write it, and the ids of its pieces."""
    trained = SentencePieceTokenizer.train(TEXTS, 44, model_type="bpe")
    pieces = ["<unk>", *(piece for piece in trained.pieces if not piece.startswith("<"))]
    cuts = [(piece[:i], piece[i:]) for piece in pieces[1:] for i in range(1, len(piece))]
    merges = [cut for cut in cuts if set(cut) <= set(pieces)]
    ids = {piece: number for number, piece in enumerate(pieces)}
    added = [{"id": len(pieces), "content": "<pad>", "special": True}]
    return {"added_tokens": added, "model": {"type": "BPE", "vocab": ids, "merges": merges}}, ids | {"<pad>": len(ids)}


def make_options(num_pieces, **changes):
    encoder = SIZES | changes
    return {
        "model_type": "parakeet_ctc",
        "architectures": ["ParakeetForCTC"],
        "vocab_size": num_pieces,
        "pad_token_id": num_pieces - 1,
        "encoder_config": encoder | {"model_type": "parakeet_encoder", "layerdrop": 0.1},
    }


def make_state(options, *, without=()):
    """Return random weights of the layout that ``options`` describe."""
    ours = parse_config(options, ParakeetOptions, source="options").to_config()
    tokenizer, ids = SentencePieceTokenizer.train(TEXTS, 44, model_type="bpe"), options["vocab_size"]
    model = OwsmCtc(ours, tokenizer)
    model.ctc.proj = torch.nn.Linear(ours.encoder.model_dim, ids)
    state = in_their_layout(model, PARAKEET_NAMES, convolutions=(".pointwise_in.", ".pointwise_out.", "ctc.proj."))
    return {name: tensor for name, tensor in state.items() if not name.endswith(tuple(without))}


def write_folder(folder, *, options=None, state=None, document=None, **changes):
    folder.mkdir()
    made, ids = tokenizer_json()
    options = options or make_options(len(ids), **changes)
    (folder / "config.json").write_text(json.dumps(options))
    (folder / "tokenizer.json").write_text(json.dumps(document or made))
    save_file(make_state(options) if state is None else state, folder / "model.safetensors")
    return folder


def test_it_is_a_recogniser_of_its_language(tmp_path):
    folder = write_folder(tmp_path / "theirs")
    (folder / "README.md").write_text("---\nlanguage:\n- en\nlicense: cc-by-4.0\n---\n# Parakeet\n")
    report = convert(folder, tmp_path / "ours")
    loaded, state = load_model(tmp_path / "ours"), make_state(json.loads((folder / "config.json").read_text()))
    assert all(key.destination for key in report.keys)
    assert {key.source for key in report.keys} == set(state)
    block = loaded.model.encoder.layers[1]
    pairs = {
        "encoder.layers.1.self_attn.k_proj.weight": block.attention.qkv.weight[16:32],
        "encoder.layers.1.self_attn.bias_v": block.attention.distance_bias,
        "encoder.layers.1.conv.norm.running_var": block.conv.norm.running_var,
        "encoder.subsampling.layers.6.bias": loaded.model.encoder.subsampling.convs[2][1].bias,
        "encoder.subsampling.linear.weight": loaded.model.encoder.subsampling.proj.weight,
    }
    for name, ours in pairs.items():
        torch.testing.assert_close(ours, state[name])
    torch.testing.assert_close(
        block.conv.pointwise_in.weight, state["encoder.layers.1.conv.pointwise_conv1.weight"][..., 0]
    )
    assert loaded.tokenizer.pieces[-1] == BLANK
    assert loaded.model.frame_shift_s == 0.08
    transcriber = Transcriber.load(tmp_path / "ours")
    transcript = transcriber.transcribe(speechlike(1.0), sample_rate=16000, word_timestamps=True)
    assert transcript.language == "eng"
    assert transcript.text
    wav = torch.from_numpy(speechlike(1.0))[None]
    with torch.no_grad():
        out = loaded.model.encode(wav, torch.tensor([16000]))
    assert transcript.text.split() == loaded.tokenizer.decode(loaded.model.best_tokens(out)[0]).split()
    aligned = transcriber.align(speechlike(2.0), "the cat", sample_rate=16000)
    assert [word.word for segment in aligned.segments for word in segment.words] == ["the", "cat"]


def test_absent_biases_are_zero_and_an_input_that_is_not_scaled_is_not(tmp_path):
    options = make_options(len(tokenizer_json()[1]), **dict.fromkeys(BIASES, False), scale_input=False)
    without = (
        *(f"self_attn.{name}_proj.bias" for name in "qkvo"),
        *(f"feed_forward{i}.linear{j}.bias" for i in (1, 2) for j in (1, 2)),
        *(f"conv.{name}_conv{i}.bias" for name, i in (("pointwise", 1), ("depthwise", ""), ("pointwise", 2))),
    )
    state = make_state(options, without=without)
    convert(write_folder(tmp_path / "theirs", options=options, state=state), tmp_path / "ours")
    encoder = load_model(tmp_path / "ours").model.encoder
    block = encoder.layers[0]
    for module in (block.attention.qkv, block.attention.out, block.ff[1], block.ff_macaron[4], block.conv.depthwise):
        assert not module.bias.any()
    torch.testing.assert_close(encoder.subsampling.proj.weight, state["encoder.subsampling.linear.weight"] / 4)
    torch.testing.assert_close(encoder.subsampling.proj.bias, state["encoder.subsampling.linear.bias"] / 4)
    options["encoder_config"]["attention_bias"] = True
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(options))
    with pytest.raises(CheckpointError, match=r"missing: .*attention.out.bias"):
        convert(tmp_path / "theirs", tmp_path / "again")


def test_a_vocabulary_may_be_a_list_of_pieces_in_the_order_of_learning(tmp_path):
    folder = write_folder(tmp_path / "theirs")
    convert(folder, tmp_path / "ours")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"need tokenizer.json or vocab.json"):
        convert(folder, tmp_path / "again")
    (folder / "vocab.json").write_text(json.dumps(tokenizer_json()[1]))
    convert(folder, tmp_path / "again")
    first, second = (load_model(tmp_path / name).tokenizer for name in ("ours", "again"))
    assert first.pieces == second.pieces
    for text in TEXTS:
        assert first.encode(text) == second.encode(text)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_act": "relu", "subsampling_conv_stride": 3}, r"hidden_act: .*subsampling_conv_stride: "),
        ({"subsampling_factor": 16}, "subsampling_factor: "),
        ({"num_attention_heads": 3}, "model_dim must be a multiple of num_heads"),
    ],
)
def test_options_that_ours_has_not_are_named(tmp_path, changes, message):
    folder = write_folder(tmp_path / "theirs")
    options = make_options(len(tokenizer_json()[1]), **changes)
    (folder / "config.json").write_text(json.dumps(options))
    with pytest.raises(ConfigError, match=message):
        convert(folder, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_other_features_are_refused(tmp_path):
    folder = write_folder(tmp_path / "theirs")
    usual = {"feature_size": 80, "sampling_rate": 16000, "hop_length": 160, "n_fft": 512, "win_length": 400}
    (folder / "preprocessor_config.json").write_text(json.dumps(usual | {"preemphasis": 0.97, "padding_side": "right"}))
    convert(folder, tmp_path / "ours")
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": 128, "preemphasis": None}))
    with pytest.raises(ConfigError, match=r"feature_size must be 80, got 128; preemphasis must be 0.97, got None"):
        convert(folder, tmp_path / "ours")
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": {"sampling_rate": 8000}}))
    with pytest.raises(ConfigError, match="sampling_rate must be 16000, got 8000"):
        convert(folder, tmp_path / "ours")


def test_vocabularies_that_do_not_fit_are_refused(tmp_path):
    document, ids = tokenizer_json()
    document["added_tokens"] = []
    with pytest.raises(DataError, match=f"a piece for every id from 0 to {len(ids) - 1}"):
        convert(write_folder(tmp_path / "a", document=document), tmp_path / "ours")
    options = make_options(len(ids)) | {"pad_token_id": len(ids)}
    with pytest.raises(ConfigError, match="pad_token_id must lie in"):
        convert(
            write_folder(tmp_path / "b", options=options, state=make_state(make_options(len(ids)))), tmp_path / "ours"
        )
    assert not (tmp_path / "ours").exists()
