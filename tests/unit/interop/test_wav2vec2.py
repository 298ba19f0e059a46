"""wav2vec 2.0's and HuBERT's checkpoints: every tensor finds its place, whatever it is called."""

import json

import pytest
import torch
from safetensors.torch import save_file

from speechnar import Transcriber
from speechnar.config import parse_config
from speechnar.errors import CheckpointError, ConfigError, DataError, ModelNotFoundError
from speechnar.interop import convert
from speechnar.interop.family import FolderListing
from speechnar.interop.wav2vec2 import convert_wav2vec2, wanted_of_wav2vec2
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.asr.wav2vec2 import Wav2Vec2
from speechnar.models.base import load_model
from speechnar.nn.wav2vec2 import KERNELS, Wav2Vec2Config
from tests.unit.tiny import speechlike

LAYERS, CONV, DIM, FF = 2, 16, 32, 48
PIECES = ("<pad>", "<s>", "</s>", "<unk>", "|", *"EATONI'")
POSITIONS = "encoder.pos_conv_embed.conv"
OLD, NEW = (
    (f"{POSITIONS}.weight_g", f"{POSITIONS}.weight_v"),
    (
        f"{POSITIONS}.parametrizations.weight.original0",
        f"{POSITIONS}.parametrizations.weight.original1",
    ),
)


def make_options(kind="base", **changes):
    options = {
        "model_type": "wav2vec2",
        "hidden_size": DIM,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "intermediate_size": FF,
        "conv_dim": [CONV] * 7,
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
        "mask_time_prob": 0.05,
        "architectures": ["Wav2Vec2Model"],
    }
    if kind == "large":
        options |= {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
    return options | changes


def make_state(kind="base", *, spelling=NEW):
    """Random weights under transformers' names; every one differs, so that no two can be confused."""
    generator = torch.Generator().manual_seed(0)
    state = {}

    def add(name, *shape):
        state[name] = 0.2 * torch.randn(*shape, generator=generator)

    for index, kernel in enumerate(KERNELS):
        prefix = f"feature_extractor.conv_layers.{index}"
        add(f"{prefix}.conv.weight", CONV, CONV if index else 1, kernel)
        names = ([f"{prefix}.conv.bias"] if kind == "large" else []) + (
            [f"{prefix}.layer_norm.weight", f"{prefix}.layer_norm.bias"] if kind == "large" or index == 0 else []
        )
        for name in names:
            add(name, CONV)
    for name, shape in (("layer_norm", (CONV,)), ("projection", (DIM, CONV))):
        add(f"feature_projection.{name}.weight", *shape)
        add(f"feature_projection.{name}.bias", shape[0])
    add("masked_spec_embed", DIM)
    add(spelling[0], 1, 1, 8)
    add(spelling[1], DIM, DIM // 4, 8)
    add(f"{POSITIONS}.bias", DIM)
    for module in ("encoder.layer_norm", *(f"encoder.layers.{i}" for i in range(LAYERS))):
        shapes = {"": (DIM,)}
        if module != "encoder.layer_norm":
            shapes = {f".attention.{name}_proj": (DIM, DIM) for name in ("q", "k", "v", "out")}
            shapes |= {".layer_norm": (DIM,), ".final_layer_norm": (DIM,)}
            shapes |= {".feed_forward.intermediate_dense": (FF, DIM), ".feed_forward.output_dense": (DIM, FF)}
        for name, shape in shapes.items():
            add(f"{module}{name}.weight", *shape)
            add(f"{module}{name}.bias", shape[0])
    return state


def with_head(state, prefix="wav2vec2"):
    """Add a CTC head that hears letters all the time."""
    generator = torch.Generator().manual_seed(1)
    bias = torch.tensor([-99.0] * 5 + [0.0] * (len(PIECES) - 5))
    head = {"lm_head.weight": torch.randn(len(PIECES), DIM, generator=generator), "lm_head.bias": bias}
    return {f"{prefix}.{name}": tensor for name, tensor in state.items()} | head


def write_folder(folder, options, state, *, pickled=False, vocab=None):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(options))
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    if vocab is not None:
        (folder / "vocab.json").write_text(json.dumps(vocab))
    return folder


def vocabulary(pieces=PIECES):
    return {piece: number for number, piece in enumerate(pieces)}


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("spelling", [OLD, NEW])
@pytest.mark.parametrize("kind", ["base", "large"])
def test_every_tensor_has_its_place(tmp_path, kind, spelling, pickled):
    state = make_state(kind, spelling=spelling)
    report = convert(write_folder(tmp_path / "theirs", make_options(kind), state, pickled=pickled), tmp_path / "ours")
    model = load_model(tmp_path / "ours").model
    assert isinstance(model, Wav2Vec2)
    sizes = {"conv_dim": CONV, "model_dim": DIM, "num_layers": LAYERS, "num_heads": 2, "ff_dim": FF}
    large = {"conv_norm": "layer", "conv_bias": True, "norm_first": True} if kind == "large" else {}
    assert model.config.encoder == Wav2Vec2Config(**sizes, **large, position_kernel=8, position_groups=4)
    encoder = model.encoder
    layer, theirs = encoder.layers[1], "encoder.layers.1"
    for name, part in zip("qkv", layer.attention.qkv.weight.chunk(3), strict=True):
        torch.testing.assert_close(part, state[f"{theirs}.attention.{name}_proj.weight"])
    pairs = {
        "feature_extractor.conv_layers.3.conv.weight": encoder.convolutions.convs[3].weight,
        "feature_extractor.conv_layers.0.layer_norm.bias": encoder.convolutions.norms[0].bias,
        "feature_projection.layer_norm.weight": encoder.projection.norm.weight,
        "feature_projection.projection.bias": encoder.projection.proj.bias,
        "masked_spec_embed": encoder.projection.mask_embed,
        spelling[0]: encoder.positions.magnitude,
        spelling[1]: encoder.positions.direction,
        "encoder.layer_norm.weight": (encoder.norm if kind == "large" else encoder.norm_in).weight,
        f"{theirs}.attention.out_proj.bias": layer.attention.out.bias,
        f"{theirs}.layer_norm.weight": layer.norm_attention.weight,
        f"{theirs}.feed_forward.intermediate_dense.weight": layer.ff[1].weight,
        f"{theirs}.feed_forward.output_dense.bias": layer.ff[4].bias,
        f"{theirs}.final_layer_norm.weight": layer.ff[0].weight,
    }
    for name, ours in pairs.items():
        torch.testing.assert_close(ours, state[name])  # in float32, as it was
    lines = str(report).splitlines()
    assert {line.split()[0] for line in lines[:-1]} == set(state)
    assert not any(line.endswith("skipped") for line in lines)
    assert report.num_parameters == sum(tensor.numel() for tensor in state.values())


def test_what_served_pretraining_is_skipped_and_said_so(tmp_path):
    state = {f"wav2vec2.{name}": tensor for name, tensor in make_state().items()}
    extra = {"quantizer.codevectors": torch.ones(1, 8, 4), "project_q.weight": torch.ones(4, 4)}
    extra |= {"quantizer.weight_proj.bias": torch.ones(8), "project_hid.bias": torch.ones(4)}
    report = convert_wav2vec2(write_folder(tmp_path / "theirs", make_options(), state | extra), tmp_path / "ours")
    skipped = {line.split()[0] for line in str(report).splitlines() if line.endswith("skipped")}
    assert skipped == set(extra)


@pytest.mark.parametrize("prefix", ["wav2vec2", "hubert"])
def test_with_a_ctc_head_it_is_a_recogniser(tmp_path, prefix):
    options = make_options("large", model_type=prefix, pad_token_id=0)
    state = with_head(make_state("large"), prefix)
    convert(write_folder(tmp_path / "theirs", options, state, vocab=vocabulary()), tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    assert isinstance(loaded.model, OwsmCtc)
    assert loaded.tokenizer.pieces == ("<blank>", "<s>", "</s>", "<unk>", "▁", *"EATONI'")
    torch.testing.assert_close(loaded.model.ctc.proj.weight, state["lm_head.weight"])
    wav = torch.from_numpy(speechlike(1.0))
    with torch.no_grad():
        out = loaded.model.encode(wav[None], torch.tensor([16000]))
        normal = (wav - wav.mean()) / wav.std(correction=0)
        encoder = loaded.model.encoder.pretrained
        states, _ = encoder(*encoder.frozen(normal[None, :, None], torch.tensor([16000])))
        logits = states @ state["lm_head.weight"].T + state["lm_head.bias"]
    torch.testing.assert_close(out.log_probs, logits.log_softmax(2), atol=1e-4, rtol=1e-4)
    transcript = Transcriber.load(tmp_path / "ours").transcribe(wav, sample_rate=16000, word_timestamps=True)
    assert transcript.text == loaded.tokenizer.decode(loaded.model.best_tokens(out)[0]) != ""
    assert set(transcript.text) <= set("EATONI'")


def test_a_vocabulary_may_be_written_in_other_ways(tmp_path):
    pieces = (*"abcdefghi", " ")
    options = make_options(pad_token_id=11)
    folder = write_folder(tmp_path / "theirs", options, with_head(make_state()), vocab=vocabulary(pieces))
    (folder / "added_tokens.json").write_text(json.dumps({"[UNK]": 10, "[PAD]": 11}))
    names = {"word_delimiter_token": " ", "unk_token": {"content": "[UNK]", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    convert_wav2vec2(folder, tmp_path / "ours")
    loaded = load_model(tmp_path / "ours")
    assert loaded.tokenizer.pieces == (*"abcdefghi", "▁", "<unk>", "<blank>")
    assert loaded.model.blank_id == 11


def test_of_mms_one_language_is_kept(tmp_path):
    """Published: weights with the adapters of one language, a vocabulary of each, and a file of adapters of each."""
    options = make_options("large", adapter_attn_dim=4)
    generator = torch.Generator().manual_seed(2)
    shapes = {"norm.weight": (DIM,), "norm.bias": (DIM,), "linear_1.weight": (4, DIM), "linear_1.bias": (4,)}
    shapes |= {"linear_2.weight": (DIM, 4), "linear_2.bias": (DIM,)}
    names = [f"encoder.layers.{i}.adapter_layer.{name}" for i in range(LAYERS) for name in shapes]
    tensors = {name: torch.randn(shapes[name.split("layer.")[1]], generator=generator) for name in names}
    state = with_head(make_state("large") | tensors)
    folder = write_folder(tmp_path / "theirs", options, state, vocab={"eng": vocabulary(), "fra": vocabulary("abc")})
    convert(folder, tmp_path / "eng")
    loaded = load_model(tmp_path / "eng")
    adapter = loaded.model.encoder.pretrained.layers[1].adapter
    torch.testing.assert_close(adapter[4].weight, tensors["encoder.layers.1.adapter_layer.linear_2.weight"])
    assert loaded.tokenizer.pieces[5:] == PIECES[5:]
    assert Transcriber.load(tmp_path / "eng").transcribe(speechlike(0.5), sample_rate=16000).language == "eng"

    french = (*PIECES, "É")
    (folder / "vocab.json").write_text(json.dumps({"eng": vocabulary(), "fra": vocabulary(french)}))
    with pytest.raises(ModelNotFoundError, match=r"need adapter.fra.safetensors or adapter.fra.bin"):
        convert(folder, tmp_path / "fra", language="fra")
    other = {f"wav2vec2.{name}": tensor + 1 for name, tensor in tensors.items()}
    other |= {"lm_head.weight": torch.randn(len(french), DIM, generator=generator), "lm_head.bias": torch.ones(13)}
    save_file(other, folder / "adapter.fra.safetensors")
    report = convert(folder, tmp_path / "fra", language="fra")
    assert {key.source for key in report.keys} == set(state)
    loaded = load_model(tmp_path / "fra")
    adapter = loaded.model.encoder.pretrained.layers[1].adapter
    torch.testing.assert_close(adapter[4].weight, tensors["encoder.layers.1.adapter_layer.linear_2.weight"] + 1)
    torch.testing.assert_close(loaded.model.ctc.proj.weight, other["lm_head.weight"])
    assert loaded.tokenizer.pieces[-1] == "É"
    assert Transcriber.load(tmp_path / "fra").transcribe(speechlike(0.5), sample_rate=16000).language == "fra"

    (folder / "tokenizer_config.json").write_text(json.dumps({"target_lang": "fra"}))
    assert "adapter.fra.safetensors" in wanted_of_wav2vec2(FolderListing(folder))
    convert(folder, tmp_path / "again")
    assert load_model(tmp_path / "again").tokenizer.pieces[-1] == "É"
    save_file(other, folder / "adapter.fre.safetensors")
    with pytest.raises(DataError, match=r"no language 'fre'; among its 2 are"):
        convert(folder, tmp_path / "fre", language="fre")
    with pytest.raises(ConfigError, match="language must be one that the files of"):
        convert(folder, tmp_path / "fre", language="../fra")


def test_a_language_is_for_mms_alone(tmp_path):
    folder = write_folder(tmp_path / "theirs", make_options(), with_head(make_state()), vocab=vocabulary())
    with pytest.raises(ConfigError, match=r"language is for models with adapters \(MMS\)"):
        convert(folder, tmp_path / "ours", language="eng")
    (folder / "config.json").write_text(json.dumps({"model_type": "parakeet_ctc"}))
    with pytest.raises(ConfigError, match=r"--language is for MMS, .* is of Parakeet-CTC"):
        convert(folder, tmp_path / "ours", language="eng")
    with pytest.raises(ConfigError, match="adapters stand behind layers with norm_first"):
        parse_config({"adapter_dim": 4}, Wav2Vec2Config, source="x")


@pytest.mark.parametrize("is_new", [False, True])
def test_of_tokens_that_were_added_those_without_a_row_are_left_out(tmp_path, is_new):
    """The tokenizer of many a model knows <s> and </s>, which its head does not."""
    letters = ("[UNK]", "[PAD]", "|", *"abcdefgh")
    options = make_options(pad_token_id=1)
    folder = write_folder(tmp_path / "theirs", options, with_head(make_state()), vocab=vocabulary(letters))
    added = {"<s>": 11, "</s>": 12}
    if is_new:
        decoder = {str(number): {"content": piece, "special": True} for piece, number in added.items()}
        decoder |= {"0": {"content": "[UNK]"}, "1": {"content": "[PAD]"}}
        (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoder}))
    else:
        (folder / "added_tokens.json").write_text(json.dumps(added))
    convert_wav2vec2(folder, tmp_path / "ours")
    assert load_model(tmp_path / "ours").tokenizer.pieces == ("<unk>", "<blank>", "▁", *"abcdefgh", "<s>")


def test_a_model_that_writes_lower_case_may_have_learnt_upper_case(tmp_path):
    folder = write_folder(tmp_path / "theirs", make_options(), with_head(make_state()), vocab=vocabulary())
    (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    convert_wav2vec2(folder, tmp_path / "ours")
    assert load_model(tmp_path / "ours").tokenizer.pieces[4:] == ("▁", *"eatoni'")


def test_a_checkpoint_without_masks_gets_an_embedding_of_them(tmp_path):
    state = make_state()
    del state["masked_spec_embed"]
    convert_wav2vec2(write_folder(tmp_path / "theirs", make_options(), state), tmp_path / "ours")
    assert not load_model(tmp_path / "ours").model.encoder.projection.mask_embed.any()


def test_what_is_missing_or_unknown_is_named(tmp_path):
    state = make_state()
    del state["encoder.layers.1.feed_forward.output_dense.bias"]
    with pytest.raises(CheckpointError, match=r"1 missing: encoder.layers.1.ff.4.bias"):
        convert_wav2vec2(write_folder(tmp_path / "a", make_options(), state), tmp_path / "ours")
    state = make_state()
    del state["encoder.layers.0.attention.k_proj.bias"]
    with pytest.raises(CheckpointError, match=r"missing of encoder.layers.0.attention.qkv.bias"):
        convert_wav2vec2(write_folder(tmp_path / "b", make_options(), state), tmp_path / "ours")
    state = make_state() | {"encoder.layers.0.another_layer.norm.weight": torch.ones(DIM)}
    with pytest.raises(CheckpointError, match=r"1 tensors have no counterpart: encoder.layers.0.another_layer.norm"):
        convert_wav2vec2(write_folder(tmp_path / "c", make_options(), state), tmp_path / "ours")
    with pytest.raises(CheckpointError, match=r"unknown: encoder.convolutions.convs.0.bias"):
        convert_wav2vec2(write_folder(tmp_path / "d", make_options(), make_state("large")), tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conv_pos_batch_norm": True, "hidden_act": "relu"}, r"hidden_act: .*conv_pos_batch_norm: "),
        ({"feat_proj_layer_norm": False}, "feat_proj_layer_norm: "),
        ({"add_adapter": True}, "add_adapter: "),
        ({"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "must have kernels"),
        ({"conv_dim": [16] * 6 + [8]}, "one width"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps must be 1e-05, got 1e-12"),
        ({"num_attention_heads": 5}, "multiple of num_heads=5"),
    ],
)
def test_options_that_ours_has_not_are_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        convert_wav2vec2(write_folder(tmp_path / "theirs", make_options(**options), make_state()), tmp_path / "ours")


def test_samples_prepared_otherwise_are_refused(tmp_path):
    folder = write_folder(tmp_path / "theirs", make_options("large"), make_state("large"))
    (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 8000}))
    with pytest.raises(ConfigError, match="sampling_rate must be 16000, got 8000"):
        convert_wav2vec2(folder, tmp_path / "ours")


@pytest.mark.parametrize("kind", ["base", "large"])
def test_samples_that_are_not_normalised_there_are_not_here(tmp_path, kind):
    for do_normalize, normalize in ((True, "wav2vec2"), (False, "global")):
        folder = tmp_path / normalize
        write_folder(folder, make_options(kind), with_head(make_state(kind)), vocab=vocabulary())
        (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": do_normalize}))
        convert_wav2vec2(folder, tmp_path / "ours")
        model = load_model(tmp_path / "ours").model
        assert model.config.normalize == normalize
        wav = torch.from_numpy(speechlike(0.2))
        feats = model.normalizer(wav[None, :, None], torch.tensor([len(wav)]))[0, :, 0]
        expected = (wav - wav.mean()) / (wav.var(correction=0) + 1e-7).sqrt() if do_normalize else wav
        torch.testing.assert_close(feats, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("vocab", "error", "message"),
    [
        (None, ModelNotFoundError, "vocab.json is missing; the checkpoint has a CTC head"),
        ({"eng": {"a": 0}}, DataError, "must map every piece to a number of its own"),
        ({**vocabulary(), "é": 14}, DataError, "must map every piece to a number of its own"),
        (vocabulary(("<pad>", "|", *"ABCDEFGHIJ")), DataError, "none of the 12 lines holds <unk>"),
        (vocabulary(("<pad>", "|", "<unk>", "dʒ", *"ABCDEFGH")), DataError, "single characters"),
        (vocabulary(PIECES[:11]), CheckpointError, r"ctc.proj.weight \(12, 32\) instead of \(11, 32\)"),
    ],
)
def test_other_vocabularies_are_refused(tmp_path, vocab, error, message):
    folder = write_folder(tmp_path / "theirs", make_options(), with_head(make_state()), vocab=vocab)
    with pytest.raises(error, match=message):
        convert_wav2vec2(folder, tmp_path / "ours")


def test_files_that_are_missing_or_run_code_are_refused(tmp_path):
    folder = write_folder(tmp_path / "theirs", make_options(), make_state())
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelNotFoundError, match=r"need model.safetensors or pytorch_model.bin"):
        convert(folder, tmp_path / "ours")
    torch.save({"state": ModelNotFoundError("not a tensor")}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="must be a checkpoint of tensors only"):
        convert(folder, tmp_path / "ours")
    (folder / "config.json").write_text(json.dumps({"model_type": "wavlm"}))
    with pytest.raises(ModelNotFoundError, match=r"wav2vec 2.0 or HuBERT of Hugging Face .*found the files of none"):
        convert(folder, tmp_path / "ours")
