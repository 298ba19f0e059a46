"""sherpa-onnx's online recogniser reads a Paraformer that streams, and writes what the model writes as it hears."""

import json
import logging

import numpy as np
import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.export.model import export_model
from speechnar.export.sherpa_online import FEATURES, WINDOWS, export_sherpa_online
from speechnar.models.asr.paraformer import ParaformerConfig
from speechnar.models.asr.paraformer_head import CifConfig
from speechnar.models.asr.paraformer_stream import ParaformerStream
from speechnar.models.base import load_model
from speechnar.nn.sanm import WindowConfig
from tests.unit.tiny import RATE, save_tiny_model, save_tiny_paraformer, speechlike

LATER = 480
"""Samples: its first stack of frames begins with the first frame, ours with copies of it."""


def save_streaming(folder, windows=WINDOWS, frontend=FEATURES):
    base = ParaformerConfig.debug()
    head = base.head.model_copy(update={"fsmn_shift": 5, "embedder": CifConfig(threshold="fixed")})
    encoder = base.encoder.model_copy(update={"windows": windows})
    return save_tiny_paraformer(
        folder, base.model_copy(update={"head": head, "encoder": encoder, "frontend": frontend})
    )


def heard(folder, clip, size):
    """Return the pieces that sherpa-onnx writes of a clip that comes ``size`` samples at a time."""
    sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
    reader = json.loads((folder / "reader.json").read_text())
    assert reader["class"] == "sherpa_onnx.OnlineRecognizer"
    files = {name: str(folder / value) for name, value in reader["arguments"].items() if isinstance(value, str)}
    recognizer = getattr(sherpa_onnx.OnlineRecognizer, reader["method"])(**{**reader["arguments"], **files})
    stream = recognizer.create_stream()
    for start in range(0, len(clip), size):
        stream.accept_waveform(RATE, clip[start : start + size])
        while recognizer.is_ready(stream):
            recognizer.decode_stream(stream)
    return recognizer.tokens(stream)


@pytest.mark.slow  # writing a graph takes its time
@pytest.mark.parametrize("size", [1600, 12345])
def test_it_writes_what_the_model_writes_as_it_hears(tmp_path, size):
    pytest.importorskip("onnxscript")
    source = save_streaming(tmp_path / "model")
    loaded = load_model(source)
    loaded.model.normalizer.mean.copy_(torch.linspace(8, 12, 560))
    loaded.model.normalizer.std.copy_(torch.linspace(2, 4, 560))
    folder = export_model(loaded, source, tmp_path / "sherpa", target="sherpa-online")
    clip = np.concatenate([np.zeros(400, np.float32), speechlike(7.3, seed=1)])  # its first frame is one of zeros
    stream = ParaformerStream(loaded.model)
    tokens = [
        token
        for start in range(0, len(clip), size)
        for token in stream.push(torch.from_numpy(clip[start : start + size])).tokens
    ]
    wanted = [loaded.tokenizer.pieces[token] for token in tokens]
    found = heard(folder, np.concatenate([np.zeros(LATER, np.float32), clip, np.zeros(RATE, np.float32)]), size)
    assert len(wanted) > 10 and len(set(wanted)) > 2
    assert found[: len(wanted)] == wanted


@pytest.mark.slow  # writing a graph takes its time
def test_a_model_that_looks_back_is_read_and_the_difference_told(tmp_path, caplog):
    pytest.importorskip("onnxscript")
    loaded = load_model(save_streaming(tmp_path / "model", WindowConfig()))
    with caplog.at_level(logging.WARNING, logger="speechnar"):
        folder = export_sherpa_online(loaded, tmp_path / "sherpa", precision="int8")
    assert "other windows" in caplog.text
    assert heard(folder, speechlike(5.0, seed=1), 9600)


def test_what_the_reader_does_not_take_is_told(tmp_path):
    whole = load_model(save_tiny_paraformer(tmp_path / "whole"))
    with pytest.raises(ConfigError, match=r"encoder\.windows set"):
        export_sherpa_online(whole, tmp_path / "out")
    other = FEATURES.model_copy(update={"window": "povey"})
    with pytest.raises(ConfigError, match="features of FunASR"):
        export_sherpa_online(load_model(save_streaming(tmp_path / "other", frontend=other)), tmp_path / "out")
    source = save_tiny_model(tmp_path / "ctc")
    with pytest.raises(ConfigError, match="takes a Paraformer"):
        export_model(load_model(source), source, tmp_path / "out", target="sherpa-online")
    assert not (tmp_path / "out").exists()
