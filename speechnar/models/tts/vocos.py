"""Vocos: log-mels to samples by way of a spectrum, which a ConvNeXt predicts at the frame rate.

Nothing is upsampled by the network: it gives magnitude and phase of every frame, and an inverse Fourier transform the
samples. It is trained to reconstruct recordings from their log-mels (`Vocos.loss`, by the ordinary training loop), and
against discriminators (`speechnar.models.tts.vocos_adversary`).

Shapes: B utterances, S samples, T frames, F mel bands, D model width, N samples of the window.
Sources: Siuzdak, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders for high-quality audio
synthesis", ICLR 2024, section 3; Liu et al., "A ConvNet for the 2020s", CVPR 2022 (ConvNeXt); Yamamoto, Song and Kim,
"Parallel WaveGAN", ICASSP 2020, section 3.2 (the loss on spectra).

Differs from the paper:
- frames are centred on the hop of samples they stand for, which it tries, too.
- ``stft_weight``: a loss on spectra of three resolutions may join that on log-mels; it makes up for few steps of
  adversarial training.
- ``magnitude_weight`` and ``phase_iterations``: the network may be told the magnitudes that it is to find, which it
  learns in few updates, and the phases, which take it many against discriminators, be found for them.
"""

import math
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.audio.griffin_lim import find_phases
from speechnar.audio.stft import inverse_stft, stft
from speechnar.data.batch import SpeechBatch
from speechnar.models.base import LossOutput, ModelConfig, Trainable
from speechnar.models.tts.mel_pca import check_frontend, check_sample_rate
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.text.tokenizer import Tokenizer

KERNEL_SIZE = 7
NORM_EPS = 1e-6
INIT_STD = 0.02
MAX_LOG_MAGNITUDE = math.log(1e2)
"""Keeps the exponential from overflowing before anything is learned; the loudest sounds stay below."""
STFT_SIZES = (256, 512, 1024)
MIN_POWER = 1e-7
MIN_MAGNITUDE, MIN_NORM = 1e-3, 1e-2
"""Of a frame of samples in [-1, 1] and of all of them: below is silence, whose details are not learned."""


class VocosConfig(ModelConfig):
    """The vocoder; the defaults are for 16 kHz on a CPU."""

    kind: Literal["vocos"] = "vocos"
    frontend: LogMelConfig = Field(default_factory=lambda: LogMelConfig.for_vocoder(16000))
    """Also gives the window and the hop of the synthesis."""
    model_dim: PositiveInt = 256
    ff_dim: PositiveInt = 768
    num_layers: PositiveInt = 8
    segment_frames: PositiveInt = 100
    """Length of the pieces it is trained on."""
    mel_weight: NonNegativeFloat = 45.0
    """Of the absolute difference of log-mels, in nats."""
    stft_weight: NonNegativeFloat = 1.0
    """Of `stft_loss`."""
    magnitude_weight: NonNegativeFloat = 0.0
    """Of `magnitude_loss`."""
    phase_iterations: NonNegativeInt = 0
    """Of `find_phases`, which outside of training takes the place of the network's phases; 0: these."""

    _check_frontend = field_validator("frontend")(check_frontend)

    @classmethod
    def debug(cls) -> "VocosConfig":
        """Return two small layers and short pieces, for tests."""
        return cls(model_dim=64, ff_dim=128, num_layers=2, segment_frames=25)

    @classmethod
    def published(cls) -> "VocosConfig":
        """Return the paper's: 24 kHz, 100 bands, 13.5 M parameters, pieces of 16,384 samples."""
        return cls(
            frontend=LogMelConfig.for_vocoder(24000),
            model_dim=512,
            ff_dim=1536,
            num_layers=8,
            segment_frames=64,
            stft_weight=0.0,
        )

    @property
    def hears_samples(self) -> bool:
        """Whether there is a loss of samples, not of magnitudes alone."""
        return self.mel_weight > 0 or self.stft_weight > 0

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if not (self.hears_samples or self.magnitude_weight):
            raise ValueError("one of mel_weight, stft_weight and magnitude_weight must be above 0")
        window, hop = self.frontend.win_length, self.frontend.hop_length
        if window % 2 or hop > window // 2:
            raise ValueError(f"frontend must have an even win_length of two hops at least, got {window} and {hop}")
        size = self.segment_frames * hop
        if size < max(STFT_SIZES):
            raise ValueError(f"segment_frames must make {max(STFT_SIZES)} samples at least, got {size}")
        return self


class Vocos(Trainable):
    """Log-mels to samples."""

    learns_from = ("speech",)
    window: Tensor

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.frontend)
        self.register_buffer("window", torch.hann_window(config.frontend.win_length), persistent=False)
        padding = KERNEL_SIZE // 2
        self.embed = nn.Conv1d(config.frontend.num_mels, config.model_dim, KERNEL_SIZE, padding=padding)
        self.norm_in = nn.LayerNorm(config.model_dim, NORM_EPS)
        self.blocks = nn.ModuleList(
            _ConvNeXtBlock(config.model_dim, config.ff_dim, scale=1 / config.num_layers)
            for _ in range(config.num_layers)
        )
        self.norm_out = nn.LayerNorm(config.model_dim, NORM_EPS)
        self.head = nn.Linear(config.model_dim, 2 * (config.frontend.win_length // 2 + 1))
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Linear) and module.bias is not None:
                nn.init.trunc_normal_(module.weight, std=INIT_STD)
                nn.init.zeros_(module.bias)

    @classmethod
    def from_config(cls, config: VocosConfig, tokenizer: Tokenizer) -> "Vocos":
        """Build the vocoder; the tokenizer of the text is not needed."""
        del tokenizer
        return cls(config)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model hears."""
        return self.config.frontend.sample_rate

    def forward(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map log-mels (B, T, F) of `frontend` to samples (B, T hop) float32, zero in padding, and lengths (B,).

        Frames beyond ``feat_lens`` may hold anything.
        """
        hop_length = self.config.frontend.hop_length
        if feats.size(1) == 0:
            return feats.new_zeros(len(feats), 0), feat_lens * hop_length
        return self.sound(self.find_spectrum(feats, feat_lens), feat_lens), feat_lens * hop_length

    def find_spectrum(self, feats: Tensor, feat_lens: Tensor) -> Tensor:
        """Map log-mels as `forward` takes them, at least one frame, to what `spectrum` returns."""
        valid = valid_mask(feat_lens, feats.size(1))
        x = self.norm_in(_over_time(self.embed, zero_padding(feats, valid)))
        for block in self.blocks:
            x = block(x, valid)
        return self.spectrum(x)

    def spectrum(self, x: Tensor) -> Tensor:
        """Map what the last block gives, (B, T, D), to a complex spectrum (B, N / 2 + 1, T).

        A graph that is exported has no complex numbers: there it is (B, N / 2 + 1, T, 2), real and imaginary.
        """
        with torch.autocast(x.device.type, enabled=False):  # eight bits are few for logarithms and angles
            log_magnitude, phase = self.head(self.norm_out(x.float())).float().transpose(1, 2).chunk(2, dim=1)
        magnitude = log_magnitude.clamp(max=MAX_LOG_MAGNITUDE).exp()
        if torch.compiler.is_exporting():
            return torch.stack([magnitude * phase.cos(), magnitude * phase.sin()], dim=-1)
        return torch.polar(magnitude, phase)

    def sound(self, spectrum: Tensor, frame_lens: Tensor) -> Tensor:
        """Map what `spectrum` gives to samples (B, T hop), with other phases if the configuration says so."""
        hop_length, iterations = self.config.frontend.hop_length, self.config.phase_iterations
        if iterations and not self.training:
            magnitudes = spectrum.abs() if spectrum.is_complex() else spectrum.square().sum(-1).sqrt()
            spectrum = find_phases(magnitudes, frame_lens, self.window, hop_length, iterations=iterations)
        return inverse_stft(spectrum, frame_lens, self.window, hop_length)

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the weighted losses of a random piece of each utterance, of ``weight`` utterances.

        ``parts`` has those with a weight, without it: `magnitude_loss`, and those of `reconstruction_loss`. In
        evaluation mode the same batch gives the same pieces every time.
        """
        wav = self.draw_segments(batch)
        lens = torch.full((len(wav),), wav.size(1), device=wav.device)
        return self.loss_of(wav, *self.frontend(wav, lens))

    def loss_of(self, wav: Tensor, feats: Tensor, feat_lens: Tensor) -> LossOutput:
        """Return those of whole hops (B, T hop) and of log-mels (B, T, F) that tell of them; no padding."""
        config = self.config
        spectrum = self.find_spectrum(feats, feat_lens)
        total, parts = wav.new_zeros(()), {}
        if config.magnitude_weight:
            parts["magnitude"] = magnitude_loss(stft(wav, self.window, config.frontend.hop_length), spectrum)
            total = total + config.magnitude_weight * parts["magnitude"]
        if config.hears_samples:
            near = self.reconstruction_loss(wav, self.sound(spectrum, feat_lens))
            total, parts = total + near.total, parts | dict(near.parts)
        return LossOutput(total, parts, torch.tensor(float(len(wav)), device=wav.device))

    def draw_segments(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Tensor:
        """Return a random piece (B, segment_frames hop) of each utterance; a short one is followed by silence.

        In evaluation mode the same batch gives the same pieces every time.

        Raises:
            DataError: the speech has another sample rate than the model.
        """
        check_sample_rate(batch, self.config.frontend)
        if generator is None and not self.training:
            generator = torch.Generator(batch.wav.device).manual_seed(0)
        size = self.config.segment_frames * self.config.frontend.hop_length
        wav = zero_padding(batch.wav, valid_mask(batch.wav_lens, batch.wav.size(1)))
        wav = F.pad(wav, (0, max(0, size - wav.size(1))))
        num_places = (batch.wav_lens - size).clamp(min=0) + 1
        uniform = torch.rand(len(wav), generator=generator, device=wav.device)
        starts = (uniform * num_places).long().minimum(num_places - 1)
        return wav.gather(1, starts[:, None] + torch.arange(size, device=wav.device))

    def reconstruct(self, wav: Tensor) -> Tensor:
        """Return samples (B, S) made from the log-mels of ``wav`` (B, S), which is whole hops without padding."""
        lens = torch.full((len(wav),), wav.size(1), device=wav.device)
        made, _ = self(*self.frontend(wav, lens))
        return made

    def reconstruction_loss(self, real: Tensor, made: Tensor) -> LossOutput:
        """Return the weighted distances between samples, both (B, S) without padding.

        ``parts`` has them without their weights: ``mel``, and ``stft`` where it has a weight.
        """
        config = self.config
        lens = torch.full((len(real),), real.size(1), device=real.device)
        mel = F.l1_loss(self.frontend(made, lens)[0], self.frontend(real, lens)[0])
        total, parts = config.mel_weight * mel, {"mel": mel}
        if config.stft_weight:
            parts["stft"] = stft_loss(real, made)
            total = total + config.stft_weight * parts["stft"]
        return LossOutput(total, parts, torch.tensor(float(len(real)), device=real.device))


def magnitude_loss(real: Tensor, found: Tensor) -> Tensor:
    """Return () spectral convergence plus log-magnitude distance of spectra (B, N / 2 + 1, T), both of one window.

    Yamamoto et al. 2020, equations 4 and 5; here each utterance has a convergence of its own.
    """
    expected, magnitudes = real.abs(), found.abs()
    dims = (1, 2)
    missing = (expected - magnitudes).norm(dim=dims) / expected.norm(dim=dims).clamp(min=MIN_NORM)
    return missing.mean() + F.l1_loss((magnitudes + MIN_MAGNITUDE).log(), (expected + MIN_MAGNITUDE).log())


def stft_loss(real: Tensor, made: Tensor) -> Tensor:
    """Return () spectral convergence plus log-magnitude distance of (B, S), the mean over `STFT_SIZES`.

    Yamamoto et al. 2020, equations 3 to 6.
    """
    losses = []
    for size in STFT_SIZES:
        expected, found = _magnitudes(real, size), _magnitudes(made, size)
        convergence = (expected - found).norm() / expected.norm()
        losses.append(convergence + F.l1_loss(found.log(), expected.log()))
    return torch.stack(losses).mean()


def _magnitudes(wav: Tensor, size: int) -> Tensor:
    window = torch.hann_window(size, device=wav.device)
    spectrum = torch.stft(wav.float(), size, size // 4, window=window, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square()).clamp(min=MIN_POWER).sqrt()


class _ConvNeXtBlock(nn.Module):
    """A depthwise convolution over time, then a perceptron, scaled and added."""

    def __init__(self, model_dim: int, ff_dim: int, *, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(model_dim, model_dim, KERNEL_SIZE, padding=KERNEL_SIZE // 2, groups=model_dim)
        self.norm = nn.LayerNorm(model_dim, NORM_EPS)
        self.ff = nn.Sequential(nn.Linear(model_dim, ff_dim), nn.GELU(), nn.Linear(ff_dim, model_dim))
        self.scale = nn.Parameter(torch.full((model_dim,), scale))

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        return self.transform(x, _over_time(self.depthwise, zero_padding(x, valid)))

    def transform(self, x: Tensor, convolved: Tensor) -> Tensor:
        """Add to ``x`` (B, T, D) what follows its convolution over time."""
        y: Tensor = self.ff(self.norm(convolved))
        return x + self.scale * y


def _over_time(conv: nn.Conv1d, x: Tensor) -> Tensor:
    """Apply ``conv`` to (B, T, C), for which it wants channels first."""
    y: Tensor = conv(x.transpose(1, 2))
    return y.transpose(1, 2)
