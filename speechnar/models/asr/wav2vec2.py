"""wav2vec 2.0 and HuBERT as sources of weights, pretrained and without a task.

No system of ours is one; those that stand on its network (`speechnar.nn.wav2vec2.Wav2Vec2Trunk`,
`speechnar.models.asr.unienc`) take their start from a model folder of this kind (``init_from``). One that was
fine-tuned with CTC is a recogniser, of kind ``owsm_ctc``.

Shapes: B utterances, S samples, T frames, D width.
Sources: Baevski et al. 2020 and Hsu et al. 2021, see `speechnar.nn.wav2vec2`.
"""

from typing import Literal

from torch import Tensor, nn

from speechnar.models.base import ModelConfig
from speechnar.nn.wav2vec2 import Wav2Vec2Config, Wav2Vec2Encoder
from speechnar.text.tokenizer import Tokenizer


class Wav2Vec2ModelConfig(ModelConfig):
    """Sizes of the network; the defaults are those of the base models."""

    kind: Literal["wav2vec2"] = "wav2vec2"
    encoder: Wav2Vec2Config = Wav2Vec2Config()

    @classmethod
    def debug(cls) -> "Wav2Vec2ModelConfig":
        """Return a model of few parameters, for tests."""
        return cls(encoder=Wav2Vec2Config.debug())


class Wav2Vec2(nn.Module):
    """The network, for parity and as a start for others."""

    def __init__(self, config: Wav2Vec2ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Wav2Vec2Encoder(config.encoder)

    @classmethod
    def from_config(cls, config: Wav2Vec2ModelConfig, tokenizer: Tokenizer) -> "Wav2Vec2":
        """Build with random weights."""
        del tokenizer  # it names no tokens
        return cls(config)

    def encode(self, samples: Tensor, sample_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised samples (B, S, 1) to states (B, T, D), 0 in padding, and their lengths (B,)."""
        return self.encoder(*self.encoder.frozen(samples, sample_lens))
