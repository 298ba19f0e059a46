"""A classifier of sounds: which of the words it knows are told of a sound, as a judge of generated ones.

It is trained on recordings only. The layer before the last is the embedding in which sets of sounds are compared
(`speechnar.metrics.embeddings`).

Shapes: B utterances, S samples, T frames, F mel bands, D model width, E embedding width, V words, U tokens.
Source: Snyder et al., "X-vectors: Robust DNN embeddings for speaker recognition", ICASSP 2018, section 2.2: the layers
over time and their mean and deviation, with words instead of speakers. What is told of several words is learned as
equal shares of each.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.augment import SpecAugment, SpecAugmentConfig
from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.data.batch import SpeechBatch
from speechnar.errors import DataError
from speechnar.models.base import LossOutput, ModelConfig, Trainable
from speechnar.models.judges.speaker_verifier import MIN_VARIANCE, TimeDelay, draw_pieces
from speechnar.models.tts.mel_pca import check_sample_rate
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.text.tokenizer import Tokenizer


class SoundClassifierConfig(ModelConfig):
    """The classifier; the defaults are for minutes of sound, on a CPU."""

    kind: Literal["sound_classifier"] = "sound_classifier"
    frontend: LogMelConfig = Field(default_factory=lambda: LogMelConfig(log_floor=1e-6))
    model_dim: PositiveInt = 128
    layers: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(default=((5, 1), (3, 2), (3, 3), (1, 1)), min_length=1)
    """Kernel size (odd) and dilation, in frames, of each layer."""
    embedding_dim: PositiveInt = 64
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    segment_frames: PositiveInt = 300
    """Longest piece of an utterance that is trained on."""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig(freq_masks=1, freq_width=10, time_masks=2)
    """None: nothing is masked."""

    @classmethod
    def debug(cls) -> "SoundClassifierConfig":
        """Return a narrow network, for tests."""
        return cls(model_dim=32, embedding_dim=8, dropout=0.0, segment_frames=50, spec_augment=None)


class SoundClassifier(Trainable):
    """Samples to words."""

    learns_from = ("speech",)

    def __init__(self, config: SoundClassifierConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.frontend)
        self.spec_augment = None if config.spec_augment is None else SpecAugment(config.spec_augment)
        widths = [config.frontend.num_mels, *[config.model_dim] * len(config.layers)]
        self.layers = nn.ModuleList(
            TimeDelay(in_dim, out_dim, kernel_size, dilation, config.dropout)
            for in_dim, out_dim, (kernel_size, dilation) in zip(widths[:-1], widths[1:], config.layers, strict=True)
        )
        self.project = nn.Linear(2 * config.model_dim, config.embedding_dim)
        self.words = nn.Linear(config.embedding_dim, tokenizer.vocab_size)

    @classmethod
    def from_config(cls, config: SoundClassifierConfig, tokenizer: Tokenizer) -> "SoundClassifier":
        """Build the classifier for the words of ``tokenizer``."""
        return cls(config, tokenizer)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the sound."""
        return self.config.frontend.sample_rate

    def embed(self, wav: Tensor, wav_lens: Tensor) -> Tensor:
        """Map samples (B, S) at the rate of `frontend`, anything beyond ``wav_lens``, to embeddings (B, E)."""
        feats, lens = self.frontend(wav, wav_lens)
        valid = valid_mask(lens, feats.size(1))
        feats = zero_padding(feats, valid)
        count = lens.clamp(min=1)[:, None, None]
        mean = feats.sum((1, 2), keepdim=True) / (count * feats.size(2))  # how loud it is does not matter
        x = zero_padding(feats - mean, valid)
        if self.training and self.spec_augment is not None:
            x = self.spec_augment(x, lens)
        for layer in self.layers:
            x = layer(x, valid)
        x = x.float()
        mean = x.sum(1, keepdim=True) / count
        variance = zero_padding(x - mean, valid).square().sum(1) / count[:, 0]
        pooled = torch.cat([mean[:, 0], variance.clamp(min=MIN_VARIANCE).sqrt()], dim=1)
        return F.relu(self.project(pooled)).float()

    def forward(self, wav: Tensor, wav_lens: Tensor) -> Tensor:
        """Map samples as `embed` to logits (B, V) float32."""
        return self.words(self.embed(wav, wav_lens)).float()

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the cross-entropy in nats per utterance, and as ``wrong`` the share whose best word is not told.

        In training it is about a random piece of each utterance, in evaluation about whole utterances.

        Raises:
            DataError: an utterance has no text, or the sound has another sample rate.
        """
        check_sample_rate(batch, self.config.frontend)
        if bool((batch.token_lens == 0).any()):
            raise DataError(f"utterance {batch.utt_ids[int(batch.token_lens.argmin())]!r}: no word is told of it")
        wav, lens = batch.wav, batch.wav_lens
        if self.training:
            wav, lens = draw_pieces(wav, lens, self.config.segment_frames * self.config.frontend.hop_length)
        logits = self(wav, lens)
        told = valid_mask(batch.token_lens, batch.tokens.size(1)).float()
        shares = torch.zeros_like(logits).scatter_add_(1, batch.tokens * told.long(), told / told.sum(1, keepdim=True))
        wrong = (shares.gather(1, logits.argmax(1, keepdim=True)) == 0).float().mean()
        weight = torch.tensor(float(len(logits)), device=logits.device)
        return LossOutput(F.cross_entropy(logits, shares), {"wrong": wrong}, weight)
