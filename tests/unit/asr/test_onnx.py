"""A model as a graph says what the model says."""

import json

import numpy as np
import pytest
import torch

from speechnar import DecodeOptions, Transcriber
from speechnar.asr.clips import ClipDecoder
from speechnar.asr.onnx import OnnxConfig, OnnxCtc, load_onnx
from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.export.recogniser import export_onnx
from speechnar.models.base import LoadedModel, load_model
from tests.unit.tiny import (
    RATE,
    save_tiny_model,
    speechlike,
    write_speechlike,
)

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow  # writing a graph takes its time


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def exported(folder, tmp_path_factory):
    return export_onnx(load_model(folder), folder, tmp_path_factory.mktemp("onnx") / "tiny")


@pytest.mark.parametrize(("batch", "seconds"), [(1, 0.2), (1, 0.77), (3, 1.0), (2, 3.1), (1, 12.0)])
def test_every_length_and_batch_gives_the_same(folder, exported, batch, seconds):
    model, graph = load_model(folder).model, load_onnx(exported).model
    lens = torch.tensor([max(int(seconds * RATE) >> row, 3200) for row in range(batch)])
    wav = torch.zeros(batch, int(lens[0]))
    for row, length in enumerate(lens):
        wav[row, :length] = torch.from_numpy(speechlike(int(length) / RATE, seed=row))
    prefix = torch.tensor([model.default_prefix]).expand(batch, 2)
    with torch.inference_mode():
        wanted = model.encode(wav, lens, prefix=prefix)
    for found in (graph.encode(wav, lens, prefix=prefix), graph.encode(wav, lens)):
        assert torch.equal(found.lens, wanted.lens)
        for row, length in enumerate(wanted.lens):
            np.testing.assert_allclose(found.log_probs[row, :length], wanted.log_probs[row, :length], atol=2e-3)


def test_the_shortest_and_the_longest_say_the_same(folder, exported):
    """Three clips share a batch where they are alike; a minute is decoded in windows."""
    ours, theirs = Transcriber.load(folder, device="cpu", precision="fp32"), Transcriber.load(exported, engine="onnx")
    sound = speechlike(60.0, seed=4)
    clips = [sound[:num] for num in (1, 2, 3, RATE + 1, 10 * RATE, 60 * RATE)]
    options = DecodeOptions(vad=False)
    for batch in (*([clip] for clip in clips), clips[:3], clips[3:], [clips[3]] * 3):
        wanted = ours.transcribe(list(batch), sample_rate=RATE, options=options)
        found = theirs.transcribe(list(batch), sample_rate=RATE, options=options)
        assert [each.text for each in found] == [each.text for each in wanted]
    assert len(wanted[0].text) > 2


def test_it_transcribes_as_the_model_does(folder, exported, tmp_path):
    paths = [write_speechlike(tmp_path / f"{seed}.wav", 1.0 + seed, seed=seed) for seed in range(3)]
    ours, theirs = Transcriber.load(folder, device="cpu", precision="fp32"), Transcriber.load(exported, engine="onnx")
    assert theirs.languages == ours.languages
    for wanted, found in zip(
        ours.transcribe(paths, word_timestamps=True), theirs.transcribe(paths, word_timestamps=True), strict=True
    ):
        assert found.text == wanted.text != ""
        assert found.language == wanted.language
        for one, other in zip(found.segments, wanted.segments, strict=True):
            assert [word.start for word in one.words] == [word.start for word in other.words]
    assert theirs.translate(paths[0], to="de").text == ours.translate(paths[0], to="de").text


def test_clips_that_were_padded_still_are(folder):
    config = OnnxConfig(
        source="owsm_ctc",
        sample_rate=RATE,
        frame_shift_s=0.08,
        num_prefix=0,
        blank_id=0,
        default_prefix=(),
        clip_s=2.0,
    )
    tokenizer = load_model(folder).tokenizer
    decoder = ClipDecoder(
        LoadedModel(OnnxCtc(config, session=None, vocab_size=tokenizer.vocab_size), tokenizer, config, "graph")
    )
    assert decoder.shortest_samples == 2 * RATE


def test_eight_bits_are_smaller_and_almost_the_same(folder, exported, tmp_path):
    small = export_onnx(load_model(folder), folder, tmp_path / "int8", precision="int8")
    sizes = [(path / "model.onnx").stat().st_size for path in (small, exported)]
    assert sizes[0] < sizes[1]
    wav = torch.from_numpy(speechlike(2.0, seed=1))[None]
    lens = torch.tensor([wav.size(1)])
    one, other = (load_onnx(path).model.encode(wav, lens) for path in (small, exported))
    assert (one.log_probs.exp() - other.log_probs.exp()).abs().mean() < 0.02
    assert json.loads((small / "config.json").read_text())["config"]["precision"] == "int8"


def test_what_cannot_be_done_is_told(folder, exported, tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx"):
        Transcriber.load(folder, engine="onnx")
    with pytest.raises(ConfigError, match="CPU"):
        Transcriber.load(exported, engine="onnx", device="cuda")
    for name, content in (("config.json", b"{}"), ("model.onnx", b"no graph")):
        broken = tmp_path / name.replace(".", "-")
        broken.mkdir()
        for path in exported.iterdir():
            (broken / path.name).write_bytes(content if path.name == name else path.read_bytes())
        with pytest.raises(CheckpointError, match=name):
            load_onnx(broken)
