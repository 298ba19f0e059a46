"""The encoders that a recogniser may have: one of our own, or a pretrained one with blocks of our own on it."""

from typing import Annotated

from pydantic import Field

from speechnar.nn.encoder import AnyBlocksConfig, Encoder
from speechnar.nn.pretrained import PretrainedTrunk
from speechnar.nn.wav2vec2 import Wav2Vec2Trunk, Wav2Vec2TrunkConfig
from speechnar.nn.whisper import WhisperTrunk, WhisperTrunkConfig
from speechnar.nn.zipformer import Zipformer, ZipformerConfig

EncoderConfig = Annotated[
    AnyBlocksConfig | ZipformerConfig | WhisperTrunkConfig | Wav2Vec2TrunkConfig, Field(discriminator="kind")
]


def build_encoder(
    config: AnyBlocksConfig | ZipformerConfig | WhisperTrunkConfig | Wav2Vec2TrunkConfig, num_features: int
) -> Encoder | Zipformer | PretrainedTrunk:
    """Return the encoder that ``config`` describes, of features of ``num_features`` channels.

    Raises:
        ConfigError: a pretrained encoder reads other features.
    """
    match config:
        case ZipformerConfig():
            return Zipformer(config, num_features)
        case WhisperTrunkConfig():
            return WhisperTrunk(config, num_features)
        case Wav2Vec2TrunkConfig():
            return Wav2Vec2Trunk(config, num_features)
        case _:
            return Encoder(config, num_features)


def check_frontend(frontend: str, encoder: str) -> None:
    """Raise ValueError where one of the two kinds is of samples and the other is not."""
    if (frontend == "waveform") != (encoder == "wav2vec2"):
        raise ValueError(
            f"a frontend of kind waveform and an encoder of kind wav2vec2 need each other, got {frontend} and {encoder}"
        )
