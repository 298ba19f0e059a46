"""Which encoder a configuration gives."""

import pytest

from speechnar.errors import ConfigError
from speechnar.nn.encoder import ConformerConfig, EBranchformerConfig, Encoder
from speechnar.nn.trunks import build_encoder, check_frontend
from speechnar.nn.wav2vec2 import Wav2Vec2Config, Wav2Vec2Trunk, Wav2Vec2TrunkConfig
from speechnar.nn.whisper import WhisperConfig, WhisperTrunk, WhisperTrunkConfig
from speechnar.nn.zipformer import Zipformer, ZipformerConfig

SIZES = {"model_dim": 24, "num_layers": 1, "num_heads": 2, "ff_dim": 48}
WHISPER = WhisperTrunkConfig(whisper=WhisperConfig(num_mels=80, model_dim=32, num_layers=1, num_heads=2))


@pytest.mark.parametrize(
    ("config", "num_features", "expected"),
    [
        (ConformerConfig(**SIZES), 80, Encoder),
        (EBranchformerConfig(**SIZES, gate_dim=48), 80, Encoder),
        (ZipformerConfig(), 80, Zipformer),
        (WHISPER, 80, WhisperTrunk),
        (Wav2Vec2TrunkConfig(wav2vec2=Wav2Vec2Config.debug()), 1, Wav2Vec2Trunk),
    ],
)
def test_every_kind_has_its_encoder(config, num_features, expected):
    encoder = build_encoder(config, num_features)
    assert type(encoder) is expected
    assert encoder.config == config


def test_samples_and_their_encoder_need_each_other():
    check_frontend("waveform", "wav2vec2")
    check_frontend("log_mel", "whisper")
    for frontend, encoder in (("log_mel", "wav2vec2"), ("waveform", "conformer")):
        with pytest.raises(ValueError, match=f"need each other, got {frontend} and {encoder}"):
            check_frontend(frontend, encoder)
    with pytest.raises(ConfigError, match="reads 80 mel bands, the front end has 1"):
        build_encoder(WHISPER, 1)
