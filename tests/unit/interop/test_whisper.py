"""Whisper's checkpoints of three kinds: the same weights under three sets of names make the same model."""

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from speechnar.errors import CheckpointError, DataError, ModelNotFoundError
from speechnar.interop.whisper import convert_whisper, read_ct2
from speechnar.models.asr.whisper import Whisper, WhisperModelConfig
from speechnar.models.base import load_model
from speechnar.nn.whisper import whisper_positions
from speechnar.text.byte_pairs import BYTE_LETTERS

DIM, LAYERS, MELS, TOKENS = 32, 2, 20, 280


def openai_state():
    """Random weights under OpenAI's names; every one differs, so that no two can be confused."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return (0.2 * torch.randn(*shape, generator=generator)).half().float()

    state = {
        "encoder.conv1.weight": draw(DIM, MELS, 3),
        "encoder.conv1.bias": draw(DIM),
        "encoder.conv2.weight": draw(DIM, DIM, 3),
        "encoder.conv2.bias": draw(DIM),
        "encoder.positional_embedding": whisper_positions(30, DIM, torch.device("cpu")),
        "decoder.token_embedding.weight": draw(TOKENS, DIM),
        "decoder.positional_embedding": draw(16, DIM),
    }
    for half, last in (("encoder", "ln_post"), ("decoder", "ln")):
        state |= {f"{half}.{last}.weight": draw(DIM), f"{half}.{last}.bias": draw(DIM)}
        for layer in range(LAYERS):
            block = f"{half}.blocks.{layer}"
            for attention in ("attn", "cross_attn") if half == "decoder" else ("attn",):
                for name in ("query", "key", "value", "out"):
                    state[f"{block}.{attention}.{name}.weight"] = draw(DIM, DIM)
                    if name != "key":
                        state[f"{block}.{attention}.{name}.bias"] = draw(DIM)
                state |= {f"{block}.{attention}_ln.weight": draw(DIM), f"{block}.{attention}_ln.bias": draw(DIM)}
            state |= {f"{block}.mlp_ln.weight": draw(DIM), f"{block}.mlp_ln.bias": draw(DIM)}
            state |= {f"{block}.mlp.0.weight": draw(4 * DIM, DIM), f"{block}.mlp.0.bias": draw(4 * DIM)}
            state |= {f"{block}.mlp.2.weight": draw(DIM, 4 * DIM), f"{block}.mlp.2.bias": draw(DIM)}
    return state


HF_NAMES = [
    (".blocks.", ".layers."),
    (".cross_attn_ln.", ".encoder_attn_layer_norm."),
    (".cross_attn.", ".encoder_attn."),
    (".attn_ln.", ".self_attn_layer_norm."),
    (".attn.", ".self_attn."),
    (".query.", ".q_proj."),
    (".key.", ".k_proj."),
    (".value.", ".v_proj."),
    (".out.", ".out_proj."),
    (".mlp_ln.", ".final_layer_norm."),
    (".mlp.0.", ".fc1."),
    (".mlp.2.", ".fc2."),
    (".ln_post.", ".layer_norm."),
    (".ln.", ".layer_norm."),
    (".positional_embedding", ".embed_positions.weight"),
    (".token_embedding.", ".embed_tokens."),
]


def hf_state(state):
    renamed = {}
    for name, tensor in state.items():
        for theirs, other in HF_NAMES:
            name = name.replace(theirs, other)  # noqa: PLW2901  # renamed step by step
        renamed[f"model.{name}"] = tensor
    return renamed | {"proj_out.weight": state["decoder.token_embedding.weight"].clone()}


def ct2_state(state):
    """Join and rename as CTranslate2's converter does (its ``specs/whisper_spec.py``)."""
    found = {
        "encoder/num_heads": torch.tensor(2, dtype=torch.int16),
        "decoder/num_heads": torch.tensor(2, dtype=torch.int16),
        "decoder/activation": torch.tensor(3, dtype=torch.int8),
        "encoder/position_encodings/encodings": state["encoder.positional_embedding"],
        "decoder/position_encodings/encodings": state["decoder.positional_embedding"],
        "decoder/embeddings/weight": state["decoder.token_embedding.weight"],
    }
    found |= {f"encoder/{c}/{leaf}": state[f"encoder.{c}.{leaf}"] for c in ("conv1", "conv2") for leaf in LEAVES}

    def norm(theirs, ours):
        return {f"{theirs}/gamma": state[f"{ours}.weight"], f"{theirs}/beta": state[f"{ours}.bias"]}

    def joined(theirs, ours, names):
        biases = [state.get(f"{ours}.{name}.bias", torch.zeros(DIM)) for name in names]
        weights = [state[f"{ours}.{name}.weight"] for name in names]
        return {f"{theirs}/weight": torch.cat(weights), f"{theirs}/bias": torch.cat(biases)}

    for half, last in (("encoder", "ln_post"), ("decoder", "ln")):
        found |= norm(f"{half}/layer_norm", f"{half}.{last}")
        for layer in range(LAYERS):
            theirs, ours = f"{half}/layer_{layer}", f"{half}.blocks.{layer}"
            found |= norm(f"{theirs}/self_attention/layer_norm", f"{ours}.attn_ln")
            found |= joined(f"{theirs}/self_attention/linear_0", f"{ours}.attn", ("query", "key", "value"))
            found |= joined(f"{theirs}/self_attention/linear_1", f"{ours}.attn", ("out",))
            if half == "decoder":
                found |= norm(f"{theirs}/attention/layer_norm", f"{ours}.cross_attn_ln")
                parts = (("query",), ("key", "value"), ("out",))
                for number, names in enumerate(parts):
                    found |= joined(f"{theirs}/attention/linear_{number}", f"{ours}.cross_attn", names)
            found |= norm(f"{theirs}/ffn/layer_norm", f"{ours}.mlp_ln")
            found |= joined(f"{theirs}/ffn/linear_0", f"{ours}.mlp", ("0",))
            found |= joined(f"{theirs}/ffn/linear_1", f"{ours}.mlp", ("2",))
    return found


LEAVES = ("weight", "bias")


def write_ct2(path, state):
    types = {torch.float32: 0, torch.int8: 1, torch.int16: 2, torch.float16: 4}

    def text(value):
        data = value.encode() + b"\0"
        return struct.pack("<H", len(data)) + data

    parts = [struct.pack("<I", 6), text("WhisperSpec"), struct.pack("<II", 3, len(state))]
    for name, value in state.items():
        tensor = value.half() if value.dtype == torch.float32 else value
        data = tensor.numpy().tobytes()
        parts += [text(name), struct.pack(f"<B{tensor.dim()}I", tensor.dim(), *tensor.shape)]
        parts += [struct.pack("<BI", types[tensor.dtype], len(data)), data]
    path.write_bytes(b"".join(parts))


def write_folder(folder, kind, state):
    folder.mkdir(exist_ok=True)
    vocab = {letter: number for number, letter in enumerate(BYTE_LETTERS.values())}
    names = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|transcribe|>", "<|notimestamps|>")
    added = [{"content": name, "id": 256 + number} for number, name in enumerate(names)]
    document = {"model": {"vocab": vocab, "merges": []}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(document))
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    (folder / "config.json").write_text(json.dumps(heads))
    match kind:
        case "hf":
            save_file(hf_state(state), folder / "model.safetensors")
        case "openai":
            torch.save({"dims": {"n_mels": MELS}, "model_state_dict": state}, folder / "whisper.pt")
        case "ct2":
            write_ct2(folder / "model.bin", ct2_state(state))
    return folder


@pytest.mark.parametrize("kind", ["hf", "openai", "ct2"])
@torch.no_grad()
def test_every_format_gives_the_same_model(tmp_path, kind):
    state = openai_state()
    report = convert_whisper(write_folder(tmp_path / kind, kind, state), tmp_path / "ours")
    model = load_model(tmp_path / "ours").model
    assert isinstance(model, Whisper)
    assert model.config == WhisperModelConfig.model_validate(
        {
            "encoder": {"num_mels": MELS, "model_dim": DIM, "num_layers": LAYERS, "num_heads": 2},
            "decoder_layers": LAYERS,
            "decoder_heads": 2,
            "max_tokens": 16,
            "num_tokens": TOKENS,
        }
    )
    query, key, value = model.encoder.layers[1].attention.qkv.weight.chunk(3)
    torch.testing.assert_close(query, state["encoder.blocks.1.attn.query.weight"])
    torch.testing.assert_close(key, state["encoder.blocks.1.attn.key.weight"])
    torch.testing.assert_close(value, state["encoder.blocks.1.attn.value.weight"])
    assert not model.encoder.layers[1].attention.qkv.bias[DIM : 2 * DIM].any()
    # The decoder's keys and values of all layers are one projection: by a hand computation of the second layer's.
    enc = torch.randn(1, 7, DIM)
    keys, values = model.decoder.project(enc)[1]
    block = "decoder.blocks.1.cross_attn"
    torch.testing.assert_close(keys[0].transpose(0, 1).flatten(1), enc[0] @ state[f"{block}.key.weight"].T)
    expected = enc[0] @ state[f"{block}.value.weight"].T + state[f"{block}.value.bias"]
    torch.testing.assert_close(values[0].transpose(0, 1).flatten(1), expected)
    torch.testing.assert_close(model.decoder.layers[0].ff[4].weight, state["decoder.blocks.0.mlp.2.weight"])
    torch.testing.assert_close(model.positions, state["decoder.positional_embedding"])
    lines = str(report).splitlines()
    theirs = {"hf": hf_state, "openai": dict, "ct2": ct2_state}[kind](state)
    assert {line.split()[0] for line in lines[:-1]} == set(theirs)
    assert lines[-1].startswith(f"{len(theirs)} tensors, ")


@pytest.mark.parametrize("kind", ["hf", "openai", "ct2"])
def test_what_is_missing_or_unknown_is_named(tmp_path, kind):
    state = openai_state()
    del state["decoder.blocks.1.mlp.0.weight"]
    if kind != "ct2":
        with pytest.raises(CheckpointError, match=r"1 missing: decoder.layers.1.ff.1.weight"):
            convert_whisper(write_folder(tmp_path / "a", kind, state), tmp_path / "ours")
    state = openai_state() | {"decoder.blocks.0.adapter.weight": torch.ones(3)}
    if kind == "openai":
        with pytest.raises(CheckpointError, match=r"1 tensors have no counterpart: decoder.blocks.0.adapter.weight"):
            convert_whisper(write_folder(tmp_path / "b", kind, state), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_other_positions_are_refused(tmp_path):
    state = openai_state() | {"encoder.positional_embedding": torch.randn(30, DIM)}
    with pytest.raises(CheckpointError, match=r"must be Whisper's sinusoids; they differ by \d"):
        convert_whisper(write_folder(tmp_path / "a", "hf", state), tmp_path / "ours")


def test_damaged_and_foreign_files_are_refused(tmp_path):
    folder = write_folder(tmp_path / "a", "ct2", openai_state())
    whole = (folder / "model.bin").read_bytes()
    for data in (whole[:-100], whole[:3], b"", whole.replace(b"WhisperSpec", b"TransfSpecs")):
        (folder / "model.bin").write_bytes(data)
        with pytest.raises(CheckpointError, match=r"must be a CTranslate2 model.bin, whole"):
            read_ct2(folder / "model.bin")
    (folder / "model.bin").unlink()
    with pytest.raises(ModelNotFoundError, match="found none"):
        convert_whisper(folder, tmp_path / "ours")
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="byte-level BPE"):
        convert_whisper(folder, tmp_path / "ours")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json is missing"):
        convert_whisper(folder, tmp_path / "ours")
