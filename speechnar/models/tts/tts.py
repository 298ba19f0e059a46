"""Text to speech: a tokenizer of speech latents, the ARDiT that makes latents of text, and a vocoder, as one model.

Only ARDiT and a small predictor of durations are trained here. The latents, the vocoder, and the aligner where there is
one, come from folders of their own (`Tts.warm_starts`) and stay as they are; a folder of this model holds everything
that speaking needs.

Shapes: B utterances, S samples, U text tokens, T latents, C latent channels, D width of the predictor.
Sources: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024, section 3; Ren et al.,
"FastSpeech 2", ICLR 2021, section 2.3 (durations by convolutions over the text, learned as logarithms).
Differs from the paper, which tells how long an utterance is by the rate of a reference: durations are predicted token
by token, from the text; with ``positions="aligned"`` they also say which latents belong to which token.
"""

import math
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from speechnar.config import Config
from speechnar.data.batch import SpeechBatch
from speechnar.data.latents import LatentBatch, aligned_positions, linear_positions
from speechnar.errors import DataError
from speechnar.models.base import LossOutput, ModelConfig, Trainable
from speechnar.models.tts.ardit import Ardit, ArditConfig
from speechnar.models.tts.mel_autoencoder import MelAutoencoder, MelAutoencoderConfig
from speechnar.models.tts.mel_pca import MelPca, MelPcaConfig, check_sample_rate
from speechnar.models.tts.monophones import Monophones, MonophonesConfig
from speechnar.models.tts.vocos import Vocos, VocosConfig
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.text.tokenizer import Tokenizer

MAX_DURATION = 250.0
"""Latents that a token can be predicted to last, 10 s at the usual rate: keeps the exponential from overflowing."""


class DurationConfig(Config):
    """The predictor of durations; the defaults are FastSpeech's."""

    model_dim: PositiveInt = 256
    num_layers: PositiveInt = 2
    kernel_size: PositiveInt = 3
    """Tokens that a layer sees; odd."""
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @classmethod
    def debug(cls) -> "DurationConfig":
        """Return two narrow layers, for tests."""
        return cls(model_dim=32, dropout=0.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        return self


class TtsConfig(ModelConfig):
    """All parts; the defaults are for one voice at 16 kHz, on a CPU."""

    kind: Literal["tts"] = "tts"
    codec: Annotated[MelPcaConfig | MelAutoencoderConfig, Field(discriminator="kind")] = MelPcaConfig()
    ardit: ArditConfig = ArditConfig(latent_dim=32)
    durations: DurationConfig = DurationConfig()
    vocoder: VocosConfig = VocosConfig()
    aligner: MonophonesConfig | None = None
    """What finds the words of a recording that is edited, or lends its voice; None: a recogniser does."""
    positions: Literal["aligned", "linear"] = "aligned"
    """Where latents stand on the axis of the text: at the token that is spoken, or by the share of time gone by."""
    channel_weighting: float = Field(default=0.0, ge=0)
    """Errors in a principal component weigh as its deviation to this power: small ones are mostly noise; 0: alike."""

    @classmethod
    def debug(cls) -> "TtsConfig":
        """Return the smallest of every part, for tests."""
        return cls(
            codec=MelPcaConfig.debug(),
            ardit=ArditConfig.debug(),
            durations=DurationConfig.debug(),
            vocoder=VocosConfig.debug(),
        )

    @classmethod
    def published(cls) -> "TtsConfig":
        """Return the paper's system at 24 kHz; how durations are predicted is ours."""
        return cls(
            codec=MelAutoencoderConfig.published(),
            ardit=ArditConfig.published(),
            vocoder=VocosConfig.published(),
            positions="linear",
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.ardit.latent_dim != self.codec.latent_dim:
            raise ValueError(
                f"ardit.latent_dim must be the {self.codec.latent_dim} of codec.latent_dim, got {self.ardit.latent_dim}"
            )
        if self.channel_weighting and not isinstance(self.codec, MelPcaConfig):
            raise ValueError("channel_weighting needs the principal components of a codec of kind mel_pca")
        if self.vocoder.frontend != self.codec.frontend:
            raise ValueError("vocoder.frontend must be equal to codec.frontend: one makes the log-mels the other hears")
        return self


class DurationPredictor(nn.Module):
    """Text tokens to the logarithm of 1 + the latents that each lasts."""

    def __init__(self, config: DurationConfig, vocab_size: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, config.model_dim)
        self.convs = nn.ModuleList(
            nn.Conv1d(config.model_dim, config.model_dim, config.kernel_size, padding=config.kernel_size // 2)
            for _ in range(config.num_layers)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.model_dim) for _ in range(config.num_layers))
        self.dropout = Dropout(config.dropout)
        self.output = nn.Linear(config.model_dim, 1)

    def forward(self, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Map ``tokens`` (B, U) to (B, U) float32, 0 in padding, which may hold anything."""
        valid = valid_mask(token_lens, tokens.size(1))
        x = self.embed(tokens.masked_fill(~valid, 0))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = F.relu(conv(zero_padding(x, valid).transpose(1, 2))).transpose(1, 2)
            x = self.dropout(norm(y))
        return zero_padding(self.output(x).squeeze(2).float(), valid)


class Tts(Trainable):
    """Text to latents to log-mels to samples."""

    learns_from = ("speech",)
    warm_starts: ClassVar[Mapping[str, str]] = {
        "mel_pca": "codec.",
        "mel_autoencoder": "codec.",
        "vocos": "vocoder.",
        "monophones": "aligner.",
    }

    def __init__(self, config: TtsConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.codec = MelPca(config.codec) if isinstance(config.codec, MelPcaConfig) else MelAutoencoder(config.codec)
        self.ardit = Ardit(config.ardit, vocab_size)
        self.durations = DurationPredictor(config.durations, vocab_size)
        self.vocoder = Vocos(config.vocoder)
        self.aligner = None if config.aligner is None else Monophones(config.aligner, vocab_size)
        for part in (self.codec, self.vocoder):
            part.requires_grad_(False)

    @classmethod
    def from_config(cls, config: TtsConfig, tokenizer: Tokenizer) -> "Tts":
        """Build the model for the symbols of ``tokenizer``."""
        return cls(config, tokenizer.vocab_size)

    @property
    def pretrained(self) -> tuple[str, ...]:
        """Parts that training leaves as they are: they must come from elsewhere."""
        return ("codec.", "vocoder.") if self.aligner is None else ("codec.", "vocoder.", "aligner.")

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model learns from and speaks."""
        return self.config.codec.frontend.sample_rate

    @property
    def latent_shift_s(self) -> float:
        """Seconds from one latent to the next."""
        return self.codec.latent_shift_s

    def train(self, mode: bool = True) -> "Tts":
        """Set the mode of what is trained; codec and vocoder never learn, and have no dropout."""
        super().train(mode)
        self.codec.eval()
        self.vocoder.eval()
        return self

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return ARDiT's loss plus the squared error of the logarithms of durations; ``weight`` is in latents.

        ``parts`` has both: ``flow`` per latent channel, ``duration`` per token. Without ``batch.durations`` the latter
        is of the sum over an utterance, which also counts its tokens, per utterance. In evaluation mode the same batch
        has the same loss every time.

        Raises:
            DataError: as `latents`.
        """
        speech = self.latents(batch)
        flow = self.ardit.loss(speech)
        duration = self.duration_loss(speech, batch.durations)
        return LossOutput(
            flow.total + duration, {"flow": flow.total.detach(), "duration": duration.detach()}, flow.weight
        )

    @torch.no_grad()
    def latents(self, batch: SpeechBatch) -> LatentBatch:
        """Return the text of ``batch`` with the latents of its speech and their positions.

        Raises:
            DataError: the speech has another sample rate than the model, is too short for a latent, has no text, or
                has no durations where positions are by alignment.
        """
        check_sample_rate(batch, self.config.codec.frontend)
        tokens, token_lens = batch.asr_tokens, batch.asr_token_lens
        with torch.autocast(batch.wav.device.type, enabled=False):  # half precision would be noise in the latents
            latents, latent_lens = self.codec.encode(batch.wav, batch.wav_lens)
        is_empty = (latent_lens < 1) | (token_lens < 1)
        if bool(is_empty.any()):
            utt_id = batch.utt_ids[int(is_empty.nonzero()[0, 0])]
            raise DataError(
                f"utterance {utt_id!r}: needs a text and at least {self.latent_shift_s:g} s of speech; set min_seconds"
            )
        positions = self.positions(token_lens, latent_lens, batch.durations)
        return LatentBatch(
            tokens=tokens,
            token_lens=token_lens,
            latents=latents,
            latent_lens=latent_lens,
            positions=positions,
            weights=self._channel_weights(),
        )

    def _channel_weights(self) -> Tensor | None:
        if not self.config.channel_weighting:
            return None
        assert isinstance(self.codec, MelPca)
        weights = self.codec.std**self.config.channel_weighting
        return weights / weights.mean()

    def positions(self, token_lens: Tensor, latent_lens: Tensor, durations: Tensor | None) -> Tensor:
        """Return where latents stand on the axis of the text, (B, T), as the model was trained.

        Args:
            token_lens: (B,)
            latent_lens: (B,)
            durations: (B, U) of each token in any unit, scaled to the latents; not used if positions are linear.

        Raises:
            DataError: durations are needed and not given, or are not as `aligned_positions` wants them.
        """
        if self.config.positions == "linear":
            return linear_positions(token_lens, latent_lens)
        if durations is None:
            raise DataError(
                "positions=aligned needs durations of the tokens, and the data have none; write them "
                "(speechnar data durations), or set positions=linear"
            )
        return aligned_positions(durations, token_lens, latent_lens)

    @torch.no_grad()
    def predict_durations(self, tokens: Tensor, token_lens: Tensor) -> Tensor:
        """Return the seconds (B, U) that each of ``tokens`` (B, U) lasts at the usual pace, 0 in padding."""
        num_latents = self.durations(tokens, token_lens).clamp(0.0, math.log1p(MAX_DURATION)).expm1()
        return num_latents * self.latent_shift_s

    def duration_loss(self, speech: LatentBatch, durations: Tensor | None) -> Tensor:
        """Return () the share of ``durations`` (B, U) in `loss`; None if only whole utterances are known."""
        predicted = self.durations(speech.tokens, speech.token_lens)
        valid = valid_mask(speech.token_lens, predicted.size(1))
        if durations is None:  # of sum(1 + latents): the predictions cannot leave where that has a slope
            totals = predicted.masked_fill(~valid, -torch.inf).logsumexp(1)
            return (totals - (speech.latent_lens + speech.token_lens).log()).square().mean()
        target = zero_padding(durations / self.latent_shift_s, valid).log1p()
        return (predicted - target).square().sum() / speech.token_lens.sum()
