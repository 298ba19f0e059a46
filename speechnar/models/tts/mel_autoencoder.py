"""ARDiT's contextual autoencoder of log-mels: a transformer to Gaussian latents, and back by flow matching.

The encoder sees whole utterances and gives a latent for every four frames. The decoder makes frames from noise, given
the latents and, where a part of the frames is known (around an edit, or in the reference of a voice), those as well:
known frames are at time 0, the others at the time of the flow.

Shapes: B utterances, S samples, T frames, F mel bands, L latents, C latent channels, D model width, M feature maps.
Source: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024, section 3.2 and
appendix D (fine-tuning by masked reconstruction).

Differs from the paper:
- four frames become one latent by laying their features side by side and projecting them (left open there).
- a latent enters the decoder as four frames' features, added to those of the noisy frames (left open there).
- losses are means over mel values, with the same balance between the two; there, they are sums.
- the logarithm of the deviation is kept within `LOG_STD_RANGE`.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.cmvn import GlobalCmvn, compute_cmvn
from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.data.batch import SpeechBatch
from speechnar.decode.flow import euler, mix
from speechnar.errors import ShapeError
from speechnar.models.base import LossOutput, ModelConfig, Trainable
from speechnar.models.tts.mel_pca import check_frontend, check_sample_rate, stack
from speechnar.nn.dit import DiffusionTransformer, ModulationKind
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.text.tokenizer import Tokenizer

NUM_MAPS = 4
"""Feature maps, each the size of the log-mel, that the decoder's transformer hands to its convolutions."""
LOG_STD_RANGE = (-6.0, 2.0)


class MelAutoencoderConfig(ModelConfig):
    """The autoencoder; the defaults are 25 latents/s at 16 kHz, for a CPU."""

    kind: Literal["mel_autoencoder"] = "mel_autoencoder"
    frontend: LogMelConfig = Field(default_factory=lambda: LogMelConfig.for_vocoder(16000))
    frames_per_latent: PositiveInt = 4
    latent_dim: PositiveInt = 16
    """Channels of a latent."""
    kl_weight: NonNegativeFloat = 0.035
    """Of the divergence of a latent from N(0, I) in nats, against the squared error of its frames' values (sums)."""
    context_prob: float = Field(default=0.0, ge=0, le=1)
    """Share of the utterances of which a half is known to the decoder; above 0 for the fine-tuning."""
    model_dim: PositiveInt = 192
    encoder_layers: PositiveInt = 3
    decoder_layers: PositiveInt = 5
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 768
    modulation: ModulationKind = "shared"
    dropout: float = Field(default=0.1, ge=0, lt=1)
    conv_layers: int = Field(default=4, ge=2)
    """2-D convolutions over the feature maps and the noisy log-mel."""
    conv_channels: PositiveInt = 32

    _check_frontend = field_validator("frontend")(check_frontend)

    @classmethod
    def debug(cls) -> "MelAutoencoderConfig":
        """Return two small layers on either side, for tests."""
        return cls(
            latent_dim=4,
            model_dim=64,
            encoder_layers=2,
            decoder_layers=2,
            num_heads=2,
            ff_dim=128,
            dropout=0.0,
            conv_channels=8,
        )

    @classmethod
    def published(cls) -> "MelAutoencoderConfig":
        """Return the paper's: 24 kHz, 100 bands, 23.4 latents/s of 16 channels, two transformers of 226 M weights."""
        return cls(
            frontend=LogMelConfig.for_vocoder(24000),
            model_dim=1024,
            encoder_layers=12,
            decoder_layers=12,
            num_heads=16,
            ff_dim=4096,
            modulation="per_layer",
            conv_layers=6,
            conv_channels=128,
        )


@dataclass(frozen=True)
class KnownFrames:
    """Log-mels of which some frames are known."""

    feats: Tensor
    """(B, T, F), of L latents times the frames of one; unknown frames may hold anything."""
    known: Tensor
    """bool (B, T)"""


def draw_known(feat_lens: Tensor, max_len: int, generator: torch.Generator | None = None) -> Tensor:
    """Return bool (B, T), True for one half of each utterance, whose other half is one stretch, cyclically.

    With A uniform, frame n of N is to be generated where (A + n) mod N < N / 2 (appendix D).
    """
    lens = feat_lens.clamp(min=1)[:, None]
    uniform = torch.rand(len(feat_lens), 1, generator=generator, device=feat_lens.device)
    first = (uniform * lens).long()
    frames = torch.arange(max_len, device=feat_lens.device)
    return (2 * ((first + frames) % lens) >= lens) & valid_mask(feat_lens, max_len)


class MelAutoencoder(Trainable):
    """Samples to latents, latents to log-mels; once trained it stands where `MelPca` does."""

    learns_from = ("speech",)

    def __init__(self, config: MelAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.frontend)
        self.latent_shift_s = config.frames_per_latent * self.frontend.frame_shift_s
        self.normalizer = GlobalCmvn(config.frontend.num_mels)
        self.latent_normalizer = GlobalCmvn(config.latent_dim)
        self.encoder = _Encoder(config)
        self.decoder = _Decoder(config)

    @classmethod
    def from_config(cls, config: MelAutoencoderConfig, tokenizer: Tokenizer) -> "MelAutoencoder":
        """Build the autoencoder; the tokenizer of the text is not needed."""
        del tokenizer
        return cls(config)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model hears."""
        return self.config.frontend.sample_rate

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return squared error of the velocity per mel value plus divergence of the latents; ``weight`` is in frames.

        These are the terms of equation 9. ``parts`` has both: ``mse`` per generated mel value, ``kl`` in nats per
        latent. In evaluation mode the same batch has the same noise, times and known halves every time.

        Raises:
            DataError: the speech has another sample rate than the model.
        """
        check_sample_rate(batch, self.config.frontend)
        device = batch.wav.device
        generator = None if self.training else torch.Generator(device).manual_seed(0)
        config = self.config
        feats, feat_lens, valid = self._features(batch.wav, batch.wav_lens)
        mean, log_std, latent_valid = self.encoder(feats, feat_lens)
        noise = torch.randn(mean.shape, generator=generator, device=device)
        latents = zero_padding(mean + log_std.exp() * noise, latent_valid)

        coins, times = torch.rand(2, len(feats), 1, generator=generator, device=device)
        known = draw_known(feat_lens, feats.size(1), generator) & (coins < config.context_prob)
        times = times.masked_fill(known, 0.0)  # (B, T)
        noisy, target = mix(feats, torch.randn(feats.shape, generator=generator, device=device), times)
        errors = (self.decoder(noisy, times, latents, valid) - target).square().mean(-1)
        wanted = valid & ~known
        weight = wanted.sum().clamp(min=1)
        mse = zero_padding(errors, wanted).sum() / weight
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)  # (B, L)
        kl = zero_padding(divergence, latent_valid).sum() / latent_valid.sum().clamp(min=1)
        values_per_latent = config.frames_per_latent * config.frontend.num_mels
        return LossOutput(mse + config.kl_weight / values_per_latent * kl, {"mse": mse, "kl": kl}, weight)

    @torch.no_grad()
    def fit_latents(self, batches: Iterable[SpeechBatch]) -> None:
        """Measure the mean and deviation of latents, by which `encode` normalises; after training, without dropout.

        Raises:
            DataError: ``batches`` hold no latent.
        """
        posteriors = (self._posterior(batch.wav, batch.wav_lens) for batch in batches)
        mean, std = compute_cmvn((mean, latent_lens) for mean, _, latent_lens in posteriors)
        self.latent_normalizer.mean.copy_(torch.as_tensor(mean))
        self.latent_normalizer.std.copy_(torch.as_tensor(std))

    @torch.no_grad()
    def encode(
        self, wav: Tensor, wav_lens: Tensor, *, generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map samples (B, S) and lengths (B,) to normalised latents (B, L, C), zero in padding, and lengths (B,).

        Args:
            wav: beyond the lengths it may hold anything.
            wav_lens: (B,)
            generator: draws latents from the Gaussians; without it they are the means.
        """
        mean, log_std, latent_lens = self._posterior(wav, wav_lens)
        if generator is not None:
            mean = mean + log_std.exp() * torch.randn(mean.shape, generator=generator).to(mean)
        return self.latent_normalizer(mean, latent_lens), latent_lens

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        latent_lens: Tensor,
        *,
        context: KnownFrames | None = None,
        num_steps: int = 8,
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Map normalised latents (B, L, C) to log-mels (B, T, F), zero in padding, and lengths (B,).

        Args:
            latents: beyond the lengths they may hold anything.
            latent_lens: (B,)
            context: frames that are known; they are returned as they are.
            num_steps: network evaluations.
            seed: of the noise, which depends on nothing else: each utterance decodes as it would alone.

        Raises:
            ShapeError: the known frames are not those of the latents.
            ConfigError: ``num_steps`` is less than 1.
        """
        config = self.config
        shape = len(latents), latents.size(1) * config.frames_per_latent, config.frontend.num_mels
        feat_lens = latent_lens * config.frames_per_latent
        if context is None:
            context = KnownFrames(latents.new_zeros(shape), valid_mask(torch.zeros_like(feat_lens), shape[1]))
        if context.feats.shape != shape or context.known.shape != shape[:2]:
            raise ShapeError(
                f"known frames of {tuple(latents.shape)} latents must be {shape}, and known {shape[:2]}; "
                f"got {tuple(context.feats.shape)} and {tuple(context.known.shape)}"
            )
        valid = valid_mask(feat_lens, shape[1])
        known = context.known & valid
        scaled = latents * self.latent_normalizer.std + self.latent_normalizer.mean
        scaled = zero_padding(scaled, valid_mask(latent_lens, latents.size(1)))

        def velocity(x: Tensor, time: float) -> Tensor:
            times = torch.full(shape[:2], time, device=x.device).masked_fill(known, 0.0)
            return self.decoder(x, times, scaled, valid).masked_fill(known[..., None], 0.0)

        noise = torch.randn(shape[1:], generator=torch.Generator().manual_seed(seed)).to(latents.device)
        start = torch.where(known[..., None], self.normalizer(context.feats, feat_lens), noise)
        feats = euler(velocity, start, num_steps) * self.normalizer.std + self.normalizer.mean
        return zero_padding(torch.where(known[..., None], context.feats, feats), valid), feat_lens

    def _features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised log-mels (B, T, F), their lengths, and bool (B, T), all for whole latents only."""
        feats, feat_lens = self.frontend(wav, wav_lens)
        num_frames = self.config.frames_per_latent
        feats = feats[:, : feats.size(1) // num_frames * num_frames]
        feat_lens = feat_lens // num_frames * num_frames
        return self.normalizer(feats, feat_lens), feat_lens, valid_mask(feat_lens, feats.size(1))

    def _posterior(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean and log deviation of the latents as the network gives them, (B, L, C), and their lengths."""
        feats, feat_lens, _ = self._features(wav, wav_lens)
        mean, log_std, _ = self.encoder(feats, feat_lens)
        return mean, log_std, feat_lens // self.config.frames_per_latent


class _Trunk(nn.Module):
    """A diffusion transformer over the frames of an utterance, which all see each other."""

    def __init__(self, config: MelAutoencoderConfig, num_layers: int) -> None:
        super().__init__()
        self.transformer = DiffusionTransformer(
            config.model_dim,
            num_layers,
            config.num_heads,
            config.ff_dim,
            modulation=config.modulation,
            dropout=config.dropout,
        )

    def forward(self, x: Tensor, times: Tensor, valid: Tensor) -> Tensor:
        if x.size(1) == 0:
            return x
        positions = torch.arange(x.size(1), device=x.device, dtype=torch.float32).expand(valid.shape)
        visible = None
        if not bool(valid.all()):
            visible = valid[:, None].expand(-1, x.size(1), -1).clone()
            visible[..., 0] = True  # an utterance without frames sees something, so that its rows stay finite
        features: Tensor = self.transformer(x, times, positions, visible)
        return features


class _Encoder(nn.Module):
    """Frames to the mean and the log deviation of each latent."""

    def __init__(self, config: MelAutoencoderConfig) -> None:
        super().__init__()
        self.num_frames = config.frames_per_latent
        self.project = nn.Linear(config.frontend.num_mels, config.model_dim)
        self.trunk = _Trunk(config, config.encoder_layers)
        self.output = nn.Linear(self.num_frames * config.model_dim, 2 * config.latent_dim)

    def forward(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map normalised ``feats`` (B, T, F) to mean and log deviation (B, L, C) float32, and bool (B, L)."""
        times = feats.new_zeros(feats.shape[:2])
        features = self.trunk(self.project(feats), times, valid_mask(feat_lens, feats.size(1)))
        stacks, latent_lens = stack(features, feat_lens, self.num_frames)
        mean, log_std = self.output(stacks).float().chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_RANGE), valid_mask(latent_lens, mean.size(1))


class _Decoder(nn.Module):
    """Noisy frames and latents to the velocity of the frames."""

    def __init__(self, config: MelAutoencoderConfig) -> None:
        super().__init__()
        num_mels = config.frontend.num_mels
        self.project = nn.Linear(num_mels, config.model_dim)
        self.condition = nn.Linear(config.latent_dim, config.frames_per_latent * config.model_dim)
        self.trunk = _Trunk(config, config.decoder_layers)
        self.maps = nn.Linear(config.model_dim, NUM_MAPS * num_mels)
        channels = [NUM_MAPS + 1, *[config.conv_channels] * (config.conv_layers - 1), 1]
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1) for before, after in itertools.pairwise(channels)
        )
        # The first prediction is the mean velocity, zero.
        for parameter in self.convs[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, noisy: Tensor, times: Tensor, latents: Tensor, valid: Tensor) -> Tensor:
        """Return the velocity (B, T, F) float32 of ``noisy`` (B, T, F) at ``times`` (B, T), given (B, L, C)."""
        if noisy.size(1) == 0:
            return noisy
        noisy = zero_padding(noisy, valid)
        conditions = self.condition(latents).reshape(*valid.shape, -1)  # (B, L, 4 D) to (B, T, D)
        features = self.trunk(self.project(noisy) + conditions, zero_padding(times, valid), valid)
        maps = self.maps(features).unflatten(-1, (NUM_MAPS, -1)).transpose(1, 2)  # (B, M, T, F)
        x = torch.cat([maps, noisy[:, None]], dim=1)
        skipped: Tensor | None = None
        for index, conv in enumerate(self.convs):
            x = conv(x.masked_fill(~valid[:, None, :, None], 0.0))
            if index == len(self.convs) - 1:
                break
            x = F.leaky_relu(x)
            if index % 2 == 0:  # from the first layer to the third, and from there to the fifth
                x = x if skipped is None else x + skipped
                skipped = x
        return x[:, 0].float()
