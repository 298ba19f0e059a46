"""Paraformer's and CASS-NAT's best path as one graph: the same tokens as the model's, at any length, in any batch."""

import json

import numpy as np
import pytest
import torch

from speechnar import DecodeOptions, Transcriber
from speechnar.asr.onnx import load_onnx
from speechnar.errors import ConfigError
from speechnar.export.recogniser import export_onnx
from speechnar.models.asr.cassnat import CassNat, CassNatConfig
from speechnar.models.asr.paraformer import ParaformerConfig
from speechnar.models.asr.paraformer_head import CifConfig
from speechnar.models.base import load_model, save_model
from speechnar.text.tokenizer import SentencePieceTokenizer
from speechnar.text.words import WORDS_FOLDER, WordLists, write_words
from tests.unit.tiny import (
    RATE,
    TEXTS,
    save_tiny_joint,
    save_tiny_paraformer,
    save_tiny_sensevoice,
    save_tiny_tts,
    save_tiny_whisper,
    speechlike,
    write_speechlike,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow  # writing a graph takes its time


def save_tiny_cassnat(folder):
    torch.manual_seed(0)
    tokenizer = SentencePieceTokenizer.train(TEXTS, 60)
    model = CassNat(CassNatConfig.debug(), tokenizer).eval()
    with torch.no_grad():
        model.trunk.ctc.proj.weight.mul_(4.0)
        model.head.out.weight.mul_(4.0)
    save_model(folder, model, tokenizer, card="---\nlanguage: en\n---\n# tiny\n")
    return folder


def save_fixed_paraformer(folder):
    config = ParaformerConfig.debug()
    head = config.head.model_copy(update={"embedder": CifConfig(threshold="fixed")})
    return save_tiny_paraformer(folder, config.model_copy(update={"head": head}))


FAMILIES = {
    "paraformer": (save_tiny_paraformer, None),
    "paraformer_fixed": (save_fixed_paraformer, None),
    "cassnat": (save_tiny_cassnat, None),
    "joint_cassnat": (save_tiny_joint, "cassnat"),
    "joint_paraformer": (save_tiny_joint, "paraformer"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """Return a model, the same as a graph, and the folders of both."""
    save, decoder = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    source = save(folder / "model")
    write_words(source / WORDS_FOLDER / "eng.xz", {"the": 0.05})
    exported = export_onnx(load_model(source), source, folder / "graph", decoder=decoder)
    return load_model(source).model, load_onnx(exported).model, source, exported


def shortest(model, num_frames):
    """Return the fewest samples that make so many frames."""
    prefix = model.num_prefix
    return next(
        size
        for size in range(400, 40 * RATE, 160)
        if int(model.encode(torch.zeros(1, size), torch.tensor([size])).lens) - prefix == num_frames
    )


def compare(model, graph, sizes):
    """Check that the graph writes what the model writes for clips of ``sizes`` samples, as one batch."""
    decoder = graph.decoder_names[0]
    lens = torch.tensor(sizes)
    wav = torch.zeros(len(sizes), max(sizes))
    for row, size in enumerate(sizes):
        wav[row, :size] = torch.from_numpy(speechlike(size / RATE + 0.1, seed=row))[:size]
    with torch.inference_mode():
        wanted = model.decode(model.encode(wav, lens), decoder)
    found = graph.decode(graph.encode(wav, lens), decoder)
    for one, other in zip(found, wanted, strict=True):
        assert one.tokens == other.tokens
        assert (one.starts, one.ends) == (other.starts, other.ends)
        np.testing.assert_allclose(one.scores, other.scores, atol=2e-3)
        np.testing.assert_allclose(one.total, other.total, atol=2e-2)
    return sum(len(path.tokens) for path in wanted)


@torch.inference_mode()
def test_clips_of_a_few_frames_give_the_same(pair):
    model, graph, *_ = pair
    for num_frames in (1, 2, 3):
        compare(model, graph, [shortest(model, num_frames)])


@pytest.mark.parametrize("sizes", [[16001], [10 * RATE], [60 * RATE], [2 * RATE, 9999, 3210], [5000] * 3], ids=str)
def test_clips_of_any_length_and_number_give_the_same(pair, sizes):
    model, graph, *_ = pair
    assert compare(model, graph, sizes) > 0


def test_it_transcribes_as_the_model_does(pair, tmp_path):
    _, graph, source, exported = pair
    decoder = graph.decoder_names[0]
    paths = [write_speechlike(tmp_path / f"{seed}.wav", 1.0 + seed, seed=seed) for seed in range(3)]
    options = DecodeOptions(decoder=decoder, vad=False)
    ours = Transcriber.load(source, device="cpu", precision="fp32").transcribe(paths, options=options)
    theirs = Transcriber.load(exported, engine="onnx").transcribe(paths, options=options, word_timestamps=True)
    assert [found.text for found in theirs] == [wanted.text for wanted in ours]
    assert any(found.text for found in theirs)


def test_graphs_say_what_they_are(pair):
    onnx = pytest.importorskip("onnx")
    _, graph, source, exported = pair
    assert WordLists(exported).languages == ("eng",)
    model = onnx.load(exported / "model.onnx")
    written = {prop.key: prop.value for prop in model.metadata_props}
    assert written["source"] == load_model(source).kind
    assert json.loads(written["opset"]) == {each.domain: each.version for each in model.opset_import}[""]
    dims = {value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
            for value in model.graph.input}  # fmt: skip
    assert all(isinstance(dim, str) for name in ("wav", "wav_lens") for dim in dims[name])
    assert json.loads((exported / "config.json").read_text())["config"]["decoder"] == graph.decoder_names[0]


def test_what_a_graph_does_not_take_is_told(pair):
    _, graph, *_ = pair
    wav, lens = torch.zeros(1, RATE), torch.tensor([RATE])
    with pytest.raises(ConfigError, match="no prompt"):
        graph.encode(wav, lens, prompt=torch.zeros(1, 2))
    out = graph.encode(wav, lens)
    for decoder, options in (("other", {}), (graph.decoder_names[0], {"num_alignments": 4})):
        with pytest.raises(ConfigError, match="without options"):
            graph.decode(out, decoder, **options)


def test_what_cannot_be_exported_is_told(tmp_path):
    joint = save_tiny_joint(tmp_path / "joint")
    for decoder in ("refiner", "transformer_ar", "nothing"):
        with pytest.raises(ConfigError, match="ctc or cassnat or paraformer"):
            export_onnx(load_model(joint), joint, tmp_path / "out", decoder=decoder)
    sensevoice, tts = save_tiny_sensevoice(tmp_path / "sensevoice"), save_tiny_tts(tmp_path / "tts")
    for folder, reason in ((sensevoice, "for sherpa alone"), (tts, "no recogniser")):
        with pytest.raises(ConfigError, match=reason):
            export_onnx(load_model(folder), folder, tmp_path / "out")


@pytest.mark.parametrize("save", [save_tiny_whisper, save_tiny_paraformer])
def test_filter_banks_stay_float32_in_8_bits(tmp_path, save):
    onnx = pytest.importorskip("onnx")
    source = save(tmp_path / "model")
    loaded = load_model(source)
    graph = onnx.load(export_onnx(loaded, source, tmp_path / "graph", precision="int8") / "model.onnx").graph
    bank = next(tensor for name, tensor in loaded.model.named_buffers() if name.endswith("mel_matrix"))
    shapes = {tuple(bank.shape), tuple(bank.shape)[::-1]}
    banks = {each.name for each in graph.initializer if tuple(each.dims) in shapes and each.data_type == 1}
    assert any(node.op_type == "MatMul" and banks & set(node.input) for node in graph.node)
    assert any(node.op_type == "MatMulInteger" for node in graph.node)
