"""Granite Speech's checkpoints: every tensor finds its place, and what ours has not is named."""

import json

import pytest
import torch
from safetensors.torch import save_file

from speechnar import Transcriber
from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop import convert, family_of
from speechnar.interop.family import FolderListing, check_wanted
from speechnar.interop.granite import GRANITE, NEVER, convert_granite
from speechnar.models.base import load_model
from speechnar.text.byte_pairs import BYTE_LETTERS
from tests.unit.tiny import speechlike

DIM, FF, HEADS, LAYERS, DISTANCE, KERNEL = 16, 24, 2, 3, 5, 3
MERGES = [("Ġ", "t"), ("Ġt", "h"), ("Ġth", "e"), ("c", "a"), ("ca", "t")]
PIECES = ["<|blank|>", *BYTE_LETTERS.values(), *("".join(pair) for pair in MERGES)]
OPTIONS = {
    "model_type": "granite_speech5_ctc",
    "vocab_size": len(PIECES),
    "pad_token_id": 0,
    "ctc_loss_reduction": "mean",
    "encoder_config": {
        "hidden_size": DIM,
        "intermediate_size": FF,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "max_position_embeddings": DISTANCE,
        "context_size": 4,
        "conv_kernel_size": KERNEL,
        "subsample_layers": [0, 1],
        "attention_dropout": 0.0,
    },
}


def make_state():
    """Random weights under transformers' names; every one differs, so that no two can be confused."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def add(name, *shape, bias=True):
        state[f"encoder.{name}.weight"] = 0.2 * torch.randn(*shape, generator=generator)
        if bias:
            state[f"encoder.{name}.bias"] = 0.2 * torch.randn(shape[0], generator=generator)

    add("input_linear", DIM, 320)
    add("out", len(PIECES), DIM)
    add("out_mid", DIM, len(PIECES))
    for layer in (f"layers.{index}" for index in range(LAYERS)):
        for norm in ("feed_forward1", "self_att", "conv", "feed_forward2", "out"):
            add(f"{layer}.norm_{norm}", DIM)
        for number in (1, 2):
            add(f"{layer}.feed_forward{number}.linear1", FF, DIM)
            add(f"{layer}.feed_forward{number}.linear2", DIM, FF)
        for part in "qkv":
            add(f"{layer}.self_attn.{part}_proj", DIM, DIM, bias=False)
        add(f"{layer}.self_attn.o_proj", DIM, DIM)
        add(f"{layer}.self_attn.rel_pos_emb", 2 * DISTANCE + 1, DIM // HEADS, bias=False)
        add(f"{layer}.conv.pointwise_lin1", 4 * DIM, DIM)
        add(f"{layer}.conv.depthwise_conv", 2 * DIM, 1, KERNEL, bias=False)
        add(f"{layer}.conv.norm", 2 * DIM)
        add(f"{layer}.conv.pointwise_lin2", DIM, 2 * DIM)
        state[f"encoder.{layer}.conv.norm.running_mean"] = torch.randn(2 * DIM, generator=generator)
        state[f"encoder.{layer}.conv.norm.running_var"] = torch.rand(2 * DIM, generator=generator) + 0.5
        state[f"encoder.{layer}.conv.norm.num_batches_tracked"] = torch.tensor(3)
    return state


def write(folder, *, state=None, options=OPTIONS, merges=MERGES):
    """Write the files that are published."""
    folder.mkdir(exist_ok=True)
    save_file(make_state() if state is None else state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(options))
    vocab = {piece: number for number, piece in enumerate(PIECES)}
    added = [{"id": 0, "content": "<|blank|>", "special": True}]
    model = {"type": "BPE", "vocab": vocab, "merges": [list(pair) for pair in merges]}
    (folder / "tokenizer.json").write_text(json.dumps({"model": model, "added_tokens": added}))
    extractor = {"sampling_rate": 16000, "num_mel_bins": 80, "n_fft": 512, "win_length": 400, "hop_length": 160}
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": extractor}))
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n")
    return folder


def test_every_tensor_finds_its_place(tmp_path):
    source, state = write(tmp_path / "theirs"), make_state()
    listing = FolderListing(source)
    assert family_of(listing) is GRANITE
    assert set(check_wanted(GRANITE, listing)) == {path.name for path in source.iterdir()}
    report = convert(source, tmp_path / "ours")
    assert {key.source for key in report.keys} == set(state)
    assert all(key.destination for key in report.keys)
    model = load_model(tmp_path / "ours").model
    ours = model.state_dict()
    q, k, v = (state[f"encoder.layers.1.self_attn.{part}_proj.weight"] for part in "qkv")
    assert torch.equal(ours["encoder.layers.1.attention.qkv.weight"], torch.cat([q, k, v]))
    assert not ours["encoder.layers.1.attention.qkv.bias"].any()
    distances = state["encoder.layers.2.self_attn.rel_pos_emb.weight"]
    assert torch.equal(ours["encoder.layers.2.attention.distances.weight"], distances.flip(0))
    assert torch.equal(ours["encoder.subsampling.proj.bias"], state["encoder.input_linear.bias"] / DIM**0.5)
    assert torch.equal(ours["ctc.proj.weight"][:-1], state["encoder.out.weight"])
    assert ours["ctc.proj.bias"][-1] == NEVER
    assert not ours["conditioning.weight"][:, -1].any()
    assert model.config.interctc_layers == (1,)
    assert model.frame_shift_s == pytest.approx(0.08)


@pytest.mark.parametrize("seconds", [0.02, 0.5, 3.0])
def test_a_folder_transcribes(tmp_path, seconds):
    convert_granite(write(tmp_path / "theirs"), tmp_path / "ours")
    transcript = Transcriber.load(tmp_path / "ours").transcribe(
        speechlike(seconds), sample_rate=16000, word_timestamps=True
    )
    assert transcript.language == "eng"
    assert all(0 <= word.start <= word.end <= seconds for s in transcript.segments for word in s.words)


def test_what_ours_has_not_is_named(tmp_path):
    inner = OPTIONS["encoder_config"] | {"hidden_act": "gelu", "num_key_value_heads": 1}
    write(tmp_path / "theirs", options=OPTIONS | {"encoder_config": inner})
    with pytest.raises(ConfigError, match="hidden_act"):
        convert_granite(tmp_path / "theirs", tmp_path / "ours")
    inner = OPTIONS["encoder_config"] | {"num_key_value_heads": 1}
    write(tmp_path / "theirs", options=OPTIONS | {"encoder_config": inner})
    with pytest.raises(ConfigError, match="num_key_value_heads must be 2"):
        convert_granite(tmp_path / "theirs", tmp_path / "ours")
    write(tmp_path / "theirs")
    (tmp_path / "theirs" / "processor_config.json").write_text(
        json.dumps({"feature_extractor": {"hop_length": 128, "delta_win_length": 5}})
    )
    with pytest.raises(ConfigError, match="hop_length must be 160, got 128; delta_win_length must be 3, got 5"):
        convert_granite(tmp_path / "theirs", tmp_path / "ours")


def test_vocabularies_that_do_not_fit_are_refused(tmp_path):
    write(tmp_path / "theirs", options=OPTIONS | {"vocab_size": 300})
    with pytest.raises(DataError, match="must hold 300 pieces"):
        convert_granite(tmp_path / "theirs", tmp_path / "ours")
    write(tmp_path / "theirs", options=OPTIONS | {"pad_token_id": 400})
    with pytest.raises(DataError, match="the blank must be one of its 262 pieces, got 400"):
        convert_granite(tmp_path / "theirs", tmp_path / "ours")
    (tmp_path / "theirs" / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json is missing"):
        convert_granite(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s: s.update({"encoder.extra.weight": torch.ones(1)}), r"no counterpart: encoder\.extra\.weight"),
        (lambda s: s.pop("encoder.layers.0.norm_out.bias"), r"1 missing: encoder\.layers\.0\.norm_out\.bias"),
        (lambda s: s.update({"encoder.input_linear.weight": torch.ones(DIM, 160)}), "of another shape"),
        (lambda s: s.update({"ctc_head.bias": torch.ones(len(PIECES))}), r"ctc_head\.bias must be encoder\.out\.bias"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, spoil, message):
    state = make_state()
    spoil(state)
    write(tmp_path / "theirs", state=state)
    with pytest.raises(CheckpointError, match=message):
        convert_granite(tmp_path / "theirs", tmp_path / "ours")
