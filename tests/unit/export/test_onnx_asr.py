"""onnx-asr reads what is written for it, and writes the text that the model writes."""

import pytest
import torch

from speechnar import DecodeOptions, Transcriber
from speechnar.audio.cmvn import PeakRange
from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.errors import ConfigError
from speechnar.export.onnx_asr import WHISPER_FRAMES, export_onnx_asr, spoken_frames
from speechnar.models.asr.owsm_ctc import OwsmCtc, OwsmCtcConfig
from speechnar.models.base import load_model, save_model
from speechnar.text.tokenizer import SentencePieceTokenizer
from tests.unit.tiny import RATE, TEXTS, save_tiny_model, save_tiny_paraformer, save_tiny_whisper, speechlike

pytest.importorskip("onnxscript")
slow = pytest.mark.slow  # writing a graph takes its time


def heard(folder, kind, clips):
    onnx_asr = pytest.importorskip("onnx_asr", reason="onnx-asr is not installed")
    return onnx_asr.load_model(kind, folder).recognize(clips, sample_rate=RATE)


def compare(source, folder, kind, clips):
    transcriber = Transcriber.load(source, device="cpu", precision="fp32")
    options = DecodeOptions(vad=False, decoder="ctc")
    wanted = [
        each.text.replace("⁇", "\ufffd")
        for each in transcriber.transcribe(list(clips), sample_rate=RATE, options=options)
    ]
    assert any(wanted)
    assert [heard(folder, kind, [clip])[0].strip() for clip in clips] == wanted


CLIPS = [speechlike(seconds, seed=seed) for seed, seconds in enumerate((0.5, 1.13, 4.7))]


@slow
def test_models_on_features_of_nemo_are_read(tmp_path):
    torch.manual_seed(0)
    tokenizer = SentencePieceTokenizer.train(TEXTS, 60)
    debug = OwsmCtcConfig.debug()
    encoder = debug.encoder.model_copy(update={"subsampling_padding": 1})  # as NeMo's, so that no frame is lost
    config = debug.model_copy(
        update={"encoder": encoder, "frontend": LogMelConfig.for_nemo(), "normalize": "nemo", "prompt": None}
    )
    model = OwsmCtc(config, tokenizer).eval()
    with torch.no_grad():
        model.ctc.proj.weight.mul_(4.0)
        # What is trained does not hear pieces that stand for no text, which onnx-asr would write.
        never = [i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i) and i != tokenizer.blank_id]
        model.ctc.proj.bias[never] = -100.0
    save_model(tmp_path / "model", model, tokenizer, card="---\nlanguage: en\n---\n# tiny\n")
    folder = export_onnx_asr(load_model(tmp_path / "model"), tmp_path / "onnx-asr")
    compare(tmp_path / "model", folder, "nemo-conformer-ctc", CLIPS)


@slow
def test_models_on_features_of_whisper_are_read(tmp_path):
    source = save_tiny_whisper(tmp_path / "model")
    folder = export_onnx_asr(load_model(source), tmp_path / "onnx-asr")
    compare(source, folder, "whisper-ort", CLIPS)


@pytest.mark.parametrize("size", [1600, 7777, 16000, 48123])
@pytest.mark.parametrize("gain", [1.0, 1e-3])
def test_the_length_is_found_in_the_padding(size, gain):
    frontend = LogMel(LogMelConfig.for_whisper())
    wav = torch.zeros(1, WHISPER_FRAMES * 160)
    wav[0, :size] = gain * torch.from_numpy(speechlike(size / RATE + 0.1, seed=1))[:size]
    lens = torch.tensor([wav.size(1)])
    feats = PeakRange()(*frontend(wav, lens))
    assert abs(int(spoken_frames(feats.transpose(1, 2))) - size // 160) <= 1


def test_what_no_reader_fits_is_told(tmp_path):
    for save, reason in ((save_tiny_paraformer, "no reader"), (save_tiny_model, "as NeMo and Whisper do")):
        source = save(tmp_path / save.__name__)
        with pytest.raises(ConfigError, match=reason):
            export_onnx_asr(load_model(source), tmp_path / "out")
