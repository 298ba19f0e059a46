"""The codec of text to speech is fitted to the data of its run."""

import pytest
import torch

from speechnar.models.base import load_model, save_model
from speechnar.models.tts.mel_autoencoder import MelAutoencoder, MelAutoencoderConfig
from speechnar.models.tts.tts import TtsConfig
from tests.unit.models.sounds import voices
from tests.unit.models.tts.test_tts_training import TOKENIZER, fit_codec_of, run_values, write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def test_an_autoencoder_is_measured_after_it_was_trained(corpus, tmp_path, capsys):
    debug = TtsConfig.debug()
    config = TtsConfig(
        codec=MelAutoencoderConfig.debug(), ardit=debug.ardit, durations=debug.durations, vocoder=debug.vocoder
    )
    assert fit_codec_of(run_values(corpus, config), tmp_path) == 2
    assert "init_from must name the trained mel_autoencoder" in capsys.readouterr().err
    torch.manual_seed(0)
    trained = MelAutoencoder(config.codec)
    save_model(tmp_path / "trained", trained, TOKENIZER)
    assert fit_codec_of(run_values(corpus, config, str(tmp_path / "trained")), tmp_path) == 0
    codec = load_model(tmp_path / "codec").model
    assert isinstance(codec, MelAutoencoder)
    assert torch.equal(codec.encoder.output.weight, trained.encoder.output.weight)
    batch = voices([16000, 12800, 9600] * 3)
    latents, lens = codec.encode(batch.wav, batch.wav_lens)
    real = torch.cat([row[:n] for row, n in zip(latents, lens, strict=True)])
    assert float(real.mean(0).abs().max()) < 0.3
    assert float((real.std(0) - 1).abs().max()) < 0.3


def test_only_text_to_speech_has_a_codec(corpus, tmp_path, capsys):
    values = {**run_values(corpus, TtsConfig.debug()), "model": {"kind": "vocos"}}
    assert fit_codec_of(values, tmp_path) == 2
    assert "model must be of kind tts, got 'vocos'" in capsys.readouterr().err
