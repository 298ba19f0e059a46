"""A vocoder that learns from what is left of log-mels in latents, as which a synthesiser will give them to it.

Latents keep the large shapes of log-mels and lose the lines of the harmonics. A vocoder that has learned from log-mels
alone takes what it is given for what was said, and sounds blurred; one that learns from decoded latents puts them back.

Source: Shen et al., "Natural TTS synthesis by conditioning WaveNet on mel spectrogram predictions", ICASSP 2018, whose
vocoder learns from predictions, too. Here the predictor has no part in it, only the codec, which is given.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from typing_extensions import Self

from speechnar.data.batch import SpeechBatch
from speechnar.models.base import LossOutput, ModelConfig, Trainable
from speechnar.models.tts.mel_autoencoder import MelAutoencoder, MelAutoencoderConfig
from speechnar.models.tts.mel_pca import MelPca, MelPcaConfig
from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.text.tokenizer import Tokenizer


class VocosCodedConfig(ModelConfig):
    """The vocoder, and the codec whose log-mels it learns from."""

    kind: Literal["vocos_coded"] = "vocos_coded"
    codec: Annotated[MelPcaConfig | MelAutoencoderConfig, Field(discriminator="kind")] = MelPcaConfig()
    vocos: VocosConfig = VocosConfig()

    @classmethod
    def debug(cls) -> "VocosCodedConfig":
        """Return the smallest of both, for tests."""
        return cls(codec=MelPcaConfig.debug(), vocos=VocosConfig.debug())

    @classmethod
    def published(cls) -> "VocosCodedConfig":
        """Return the papers' vocoder and codec."""
        return cls(codec=MelAutoencoderConfig.published(), vocos=VocosConfig.published())

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.vocos.frontend != self.codec.frontend:
            raise ValueError("vocos.frontend must be equal to codec.frontend: one makes the log-mels the other hears")
        return self


class VocosCoded(Trainable):
    """A vocoder behind a codec, which does not learn."""

    learns_from = ("speech",)
    warm_starts: ClassVar[Mapping[str, str]] = {"mel_pca": "codec.", "mel_autoencoder": "codec.", "vocos": "vocos."}

    def __init__(self, config: VocosCodedConfig) -> None:
        super().__init__()
        self.config = config
        self.codec = MelPca(config.codec) if isinstance(config.codec, MelPcaConfig) else MelAutoencoder(config.codec)
        self.codec.requires_grad_(False)
        self.vocos = Vocos(config.vocos)

    @classmethod
    def from_config(cls, config: VocosCodedConfig, tokenizer: Tokenizer) -> "VocosCoded":
        """Build with random weights; the tokenizer of the text is not needed."""
        del tokenizer
        return cls(config)

    @property
    def pretrained(self) -> tuple[str, ...]:
        """The codec, which must come from elsewhere."""
        return ("codec.",)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model hears."""
        return self.vocos.sample_rate

    @property
    def exported(self) -> Vocos:
        """What is kept of a finished run."""
        return self.vocos

    def train(self, mode: bool = True) -> "VocosCoded":
        """Set the mode of the vocoder; the codec never learns."""
        super().train(mode)
        self.codec.eval()
        return self

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return `Vocos.loss_of` of random pieces of ``batch``, as they come out of latents; in evaluation the same."""
        wav = self.vocos.draw_segments(batch)
        with torch.no_grad():
            lens = torch.full((len(wav),), wav.size(1), device=wav.device)
            feats, feat_lens = self.codec.decode(*self.codec.encode(wav, lens))
        whole = wav[:, : feats.size(1) * self.config.vocos.frontend.hop_length]  # of a latent a part is no latent
        return self.vocos.loss_of(whole, feats, feat_lens)
