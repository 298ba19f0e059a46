"""sherpa-onnx reads what is written for it, and writes the text that the model writes."""

import json

import numpy as np
import pytest
import torch

from speechnar import DecodeOptions, Synthesizer, Transcriber
from speechnar.audio.io import resample
from speechnar.errors import ConfigError
from speechnar.export.sherpa import export_sherpa
from speechnar.hub import find_model
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.base import load_model, save_model
from speechnar.text.tokenizer import SentencePieceTokenizer
from tests.unit.tiny import (
    RATE,
    TEXTS,
    save_tiny_joint,
    save_tiny_model,
    save_tiny_paraformer,
    save_tiny_sensevoice,
    save_tiny_whisper,
    speechlike,
)

pytest.importorskip("onnxscript")
sherpa_onnx = pytest.importorskip("sherpa_onnx", reason="sherpa-onnx is not installed")
pytestmark = pytest.mark.slow  # writing a graph takes its time

PLAIN = DecodeOptions(vad=False)


def open_reader(folder):
    """Return the recogniser that ``reader.json`` describes."""
    reader = json.loads((folder / "reader.json").read_text())
    files = {name: str(folder / value) for name, value in reader["arguments"].items() if isinstance(value, str)}
    return getattr(sherpa_onnx.OfflineRecognizer, reader["method"])(**{**reader["arguments"], **files})


def heard(recognizer, clips):
    streams = []
    for clip in clips:
        streams.append(recognizer.create_stream())
        streams[-1].accept_waveform(RATE, clip)
    recognizer.decode_streams(streams)
    return [stream.result for stream in streams]


def compare(source, folder, clips, *, decoder=None, unspaced=False):
    options = DecodeOptions(vad=False, decoder=decoder, word_weight=0)  # other programs know no words
    transcriber = Transcriber.load(source, device="cpu", precision="fp32")
    wanted = [each.text for each in transcriber.transcribe(list(clips), sample_rate=RATE, options=options)]
    wanted = [text.replace("⁇", "") for text in wanted]  # sherpa-onnx leaves out bytes that are no letter
    found = [result.text.strip() for result in heard(open_reader(folder), clips)]
    if unspaced:  # beside Chinese, sherpa-onnx writes Latin words with spaces and we without
        wanted, found = ([text.replace(" ", "") for text in texts] for texts in (wanted, found))
    assert found == wanted
    assert any(wanted)
    return wanted


CLIPS = [speechlike(seconds, seed=seed) for seed, seconds in enumerate((0.05, 0.31, 1.0, 4.7))]


@pytest.mark.parametrize(
    ("save", "decoder"),
    [
        (save_tiny_model, None),
        (save_tiny_whisper, "ctc"),
        (save_tiny_joint, "cassnat"),
        (save_tiny_joint, "paraformer"),
    ],
    ids=["ctc", "bytes", "cassnat", "paraformer"],
)
def test_models_of_samples_are_read(save, decoder, tmp_path):
    source = save(tmp_path / "model")
    folder = export_sherpa(load_model(source), tmp_path / "sherpa", decoder=decoder)
    compare(source, folder, CLIPS, decoder=decoder)


def test_paraformer_is_read_with_the_features_of_its_reader(tmp_path):
    source = save_tiny_paraformer(tmp_path / "model")
    loaded = load_model(source)
    loaded.model.normalizer.mean.copy_(torch.linspace(8, 12, 560))
    loaded.model.normalizer.std.copy_(torch.linspace(2, 4, 560))
    save_model(source, loaded.model, loaded.tokenizer, card="---\nlanguage: zh\n---\n# tiny\n")
    folder = export_sherpa(load_model(source), tmp_path / "sherpa")
    assert json.loads((folder / "reader.json").read_text())["method"] == "from_paraformer"
    compare(source, folder, CLIPS[1:], unspaced=True)


def test_sensevoice_is_read_with_its_labels(tmp_path):
    source = save_tiny_sensevoice(tmp_path / "model")
    folder = export_sherpa(load_model(source), tmp_path / "sherpa")
    assert json.loads((folder / "reader.json").read_text())["method"] == "from_sense_voice"
    wanted = Transcriber.load(source, device="cpu", precision="fp32")
    plain = DecodeOptions(vad=False, plain=True)  # as sherpa-onnx asks for if nothing is said
    ours = [wanted.transcribe(clip, sample_rate=RATE, options=plain) for clip in CLIPS[1:]]
    results = heard(open_reader(folder), CLIPS[1:])
    assert [result.text.strip() for result in results] == [each.text for each in ours]
    for result, each in zip(results, ours, strict=True):
        tags = each.tags[0]
        assert result.emotion.strip("<|>").lower() == (tags.emotion or "emo_unknown")
        assert result.event.strip("<|>").lower() == (tags.event or "event_unk")


@pytest.mark.skipif(not (find_model("joint-asr") / "model.safetensors").is_file(), reason="the model is not here")
def test_the_shipped_recogniser_hears_the_same(tmp_path):
    """The level counts: Whisper's features are not those of samples whose deviation is 1."""
    source = find_model("joint-asr")
    folder = export_sherpa(load_model(source), tmp_path / "sherpa")
    speech = Synthesizer.load(device="cpu").synthesize("Please enter the number of the room.", seed=1, steps=2)
    clip = np.concatenate([resample(speech.samples, speech.sample_rate, RATE), np.zeros(4000, np.float32)])
    compare(source, folder, [clip, 0.05 * clip, clip[:20000]])


def test_what_no_reader_fits_is_told(tmp_path):
    torch.manual_seed(0)
    tokenizer = SentencePieceTokenizer.train(TEXTS, 60)
    config = OwsmCtcConfig.debug()
    slow = config.frontend.model_copy(update={"sample_rate": 8000})
    model = OwsmCtc(config.model_copy(update={"frontend": slow, "prompt": None}), tokenizer)
    save_model(tmp_path / "slow", model, tokenizer, card="# slow\n")
    with pytest.raises(ConfigError, match="16000 Hz"):
        export_sherpa(load_model(tmp_path / "slow"), tmp_path / "out")
