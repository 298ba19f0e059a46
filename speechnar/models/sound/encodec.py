"""EnCodec: samples to a few codes at a low rate, and back; and its training, alone and against discriminators.

`Encodec` reconstructs recordings (`Encodec.loss`); `EncodecGan` goes on from there against the discriminators of
`speechnar.models.tts.vocos_adversary`, its losses weighed by what they do to the output and not by their size.

Shapes: B utterances, S samples, T frames, D latent channels, K codebooks, V entries of a codebook.
Source: Défossez, Copet, Synnaeve and Adi, "High Fidelity Neural Audio Compression", TMLR 2023, section 3 (networks,
quantisation, losses, balancer; equations as arXiv 2210.13438 numbers them); the presets are those of Copet et al.,
"Simple and Controllable Music Generation", NeurIPS 2023, and of AudioGen.

Differs from the paper:
- for little data it may hear spectra (`MelEncoder`) and play oscillators and noise (`speechnar.nn.oscillators`).
- it is not causal, as MusicGen's codec is not.
- mel spectra are compared by absolute differences of both their values and their logarithms.
- the discriminators are Vocos': by periods, and by magnitudes of spectra.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.fbank import MAX_FFT, MAX_MELS, LogMel, LogMelConfig, slaney_mel_matrix
from speechnar.audio.samples import MAX_RATE
from speechnar.data.batch import SpeechBatch
from speechnar.errors import DataError, ShapeError
from speechnar.models.base import LossOutput, ModelConfig, Trainable, Turn
from speechnar.models.tts.vocos_adversary import VocosAdversary, VocosAdversaryConfig
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.oscillators import OscillatorDecoder
from speechnar.nn.rvq import Quantized, ResidualQuantizer, perplexity
from speechnar.nn.seanet import SeanetDecoder, SeanetEncoder, hop_length
from speechnar.text.tokenizer import Tokenizer

MEL_ENCODER_BANDS = ((512, 40), (2048, 256))
"""Windows of `MelEncoder` in samples and the mel bands of each: one tells when, the other which tone."""
MEL_ENCODER_DIM = 256
MEL_FLOOR = 1e-5
MIN_MAGNITUDE = 1e-5
MIN_POWER = 1e-9
_Ratio = Annotated[int, Field(gt=0, le=64)]
_FftSize = Annotated[int, Field(gt=0, le=MAX_FFT)]


class EncodecConfig(ModelConfig):
    """The codec; the defaults are 50 frames/s of 4 codes at 16 kHz, 1.8 kbit/s, for a CPU."""

    kind: Literal["encodec"] = "encodec"
    sample_rate: int = Field(default=16000, gt=0, le=MAX_RATE)
    ratios: tuple[_Ratio, ...] = Field(default=(8, 5, 4, 2), min_length=1, max_length=8)
    """How much each block of the decoder raises the rate; their product is the samples of a frame."""
    num_filters: PositiveInt = 16
    """Channels at the rate of the samples; doubled by each block."""
    num_residual_layers: PositiveInt = 1
    lstm_layers: NonNegativeInt = 0
    encoder: Literal["seanet", "mel"] = "seanet"
    """What hears: the paper's convolutions over samples, or `MelEncoder`, whose codes tell no phases."""
    decoder: Literal["seanet", "oscillators"] = "seanet"
    """What makes sound: the paper's convolutions, or tones and noise, which need to be told no phases."""
    latent_dim: int = Field(default=64, gt=0, le=4096)
    num_codebooks: int = Field(default=4, gt=0, le=64)
    codebook_size: int = Field(default=512, ge=2, le=1 << 14)
    warmup_steps: NonNegativeInt = 500
    """Training batches that pass unquantised before the codebooks begin."""
    segment_frames: PositiveInt = 50
    """Length of the pieces it is trained on."""
    wav_weight: NonNegativeFloat = 1.0
    """Of the absolute difference of samples."""
    mel_weight: NonNegativeFloat = 1.0
    """Of `MelDistance`."""
    mel_sizes: tuple[_FftSize, ...] = Field(default=(64, 128, 256, 512, 1024, 2048), min_length=1, max_length=16)
    """Windows of the spectra that are compared, in samples; short ones see phases of low tones, too."""
    mel_bands: int = Field(default=64, gt=0, le=MAX_MELS)
    """Most bands of such a spectrum; more tell tones from each other."""
    commitment_weight: NonNegativeFloat = 0.25
    """Of the squared distance of latents to what they are quantised as."""

    @classmethod
    def debug(cls) -> "EncodecConfig":
        """Return a small one of 50 frames/s at 16 kHz, for tests."""
        return cls(num_filters=4, latent_dim=8, num_codebooks=4, codebook_size=16, warmup_steps=0, segment_frames=16)

    @classmethod
    def published(cls) -> "EncodecConfig":
        """Return the 32 kHz codec of MusicGen and of MAGNeT for music: 4 x 2048 codes, 50 frames/s."""
        return cls(
            sample_rate=32000,
            ratios=(8, 5, 4, 4),
            num_filters=64,
            lstm_layers=2,
            latent_dim=128,
            codebook_size=2048,
            warmup_steps=0,
            wav_weight=0.1,
            mel_weight=2.0,
            commitment_weight=1.0,
        )

    @classmethod
    def published_sound(cls) -> "EncodecConfig":
        """Return the 16 kHz codec of AudioGen and of MAGNeT for sound."""
        return cls.published().model_copy(update={"sample_rate": 16000, "ratios": (8, 5, 4, 2)})

    @property
    def hop_length(self) -> int:
        """Samples of a frame."""
        return hop_length(self.ratios)

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_length


class Encodec(Trainable):
    """Samples to codes to samples."""

    learns_from = ("speech",)
    is_exact = True  # models are trained on its codes

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.config = config
        sizes = {
            "latent_dim": config.latent_dim,
            "num_filters": config.num_filters,
            "num_residual_layers": config.num_residual_layers,
            "lstm_layers": config.lstm_layers,
        }
        self.encoder: SeanetEncoder | MelEncoder = (
            SeanetEncoder(config.ratios, **sizes)
            if config.encoder == "seanet"
            else MelEncoder(config.sample_rate, config.hop_length, config.latent_dim)
        )
        self.decoder: SeanetDecoder | OscillatorDecoder = (
            SeanetDecoder(config.ratios, **sizes)
            if config.decoder == "seanet"
            else OscillatorDecoder(config.sample_rate, config.hop_length, config.latent_dim)
        )
        self.quantizer = ResidualQuantizer(
            config.num_codebooks, config.codebook_size, config.latent_dim, warmup_steps=config.warmup_steps
        )
        self.mel_distance = MelDistance(config.sample_rate, config.mel_sizes, config.mel_bands)

    @classmethod
    def from_config(cls, config: EncodecConfig, tokenizer: Tokenizer) -> "Encodec":
        """Build the codec; the tokenizer of the text is not needed."""
        del tokenizer
        return cls(config)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model hears."""
        return self.config.sample_rate

    @torch.no_grad()
    def encode(self, wav: Tensor, wav_lens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map samples (B, S) to codes (B, K, T) int64, 0 in padding, and lengths (B,) in frames, rounded up.

        Args:
            wav: beyond the lengths it may hold anything.
            wav_lens: (B,); None: all are S long.
        """
        if wav_lens is None:
            wav_lens = torch.full((len(wav),), wav.size(1), device=wav.device)
        latents, lens = self.encoder(wav, wav_lens)
        codes = self.quantizer.encode(latents)
        return codes.masked_fill(~valid_mask(lens, codes.size(2))[:, None], 0), lens

    @torch.no_grad()
    def decode(self, codes: Tensor, code_lens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map codes (B, K, T) in [0, V) to samples (B, T hop) float32 and lengths (B,); silence in padding.

        Args:
            codes: beyond the lengths they may be any of [0, V).
            code_lens: (B,); None: all are T long.

        Raises:
            ShapeError: there are not K codes of each frame.
        """
        num_codebooks = self.config.num_codebooks
        if codes.dim() != 3 or codes.size(1) != num_codebooks:
            raise ShapeError(f"codes must be (B, {num_codebooks}, T), got {tuple(codes.shape)}")
        if code_lens is None:
            code_lens = torch.full((len(codes),), codes.size(2), device=codes.device)
        wav, lens = self.decoder(self.quantizer.decode(codes), code_lens)
        return wav.float(), lens

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return how far random pieces of ``batch`` are from their reconstruction, the mean over utterances.

        ``parts`` has the shares without their weights: ``wav``, ``mel`` and ``commitment``. In evaluation mode the
        same batch gives the same pieces every time, nothing is learned, and ``perplexity`` tells how many entries of a
        codebook are in use.

        Raises:
            DataError: the sound has another sample rate than the model.
        """
        generator = None if self.training else torch.Generator(batch.wav.device).manual_seed(0)
        config = self.config
        real = self.draw_segments(batch, generator)
        made, quantized = self.reconstruct(real)
        parts = self.distances(real, made)
        total = config.wav_weight * parts["wav"] + config.mel_weight * parts["mel"]
        total = total + config.commitment_weight * quantized.commitment
        parts["commitment"] = quantized.commitment
        if not self.training:
            parts["perplexity"] = perplexity(quantized.codes, config.codebook_size)
        return LossOutput(total, parts, _count(real))

    def draw_segments(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> Tensor:
        """Return a random piece (B, segment_frames hop) of each utterance; a short one is followed by silence.

        Raises:
            DataError: the sound has another sample rate than the model.
        """
        check_rate(batch, self.sample_rate)
        size = self.config.segment_frames * self.config.hop_length
        return draw_segments(batch.wav, batch.wav_lens, size, generator)

    def reconstruct(self, wav: Tensor) -> tuple[Tensor, Quantized]:
        """Return what the codec makes of ``wav`` (B, S), whole frames without padding, and how it is quantised."""
        latents, _ = self.encoder(wav)
        quantized = self.quantizer(latents)
        made, _ = self.decoder(quantized.latents)
        return made.float(), quantized

    def distances(self, real: Tensor, made: Tensor) -> dict[str, Tensor]:
        """Return the mean distances () of samples (B, S): ``wav`` and ``mel``."""
        return {"wav": F.l1_loss(made, real), "mel": self.mel_distance(real, made)}


class MelEncoder(nn.Module):
    """Log-mel spectra of two resolutions, and two convolutions over them, to latents; as `SeanetEncoder`.

    Codes of samples tell phases, too, which nobody hears and no generator foretells that has learned from minutes of
    music. Codes of spectra do not; the decoder finds phases that fit.
    """

    def __init__(self, sample_rate: int, hop_length: int, latent_dim: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.frontends = nn.ModuleList(
            LogMel(
                LogMelConfig(
                    sample_rate=sample_rate,
                    n_fft=size,
                    win_length=size,
                    hop_length=hop_length,
                    num_mels=num_mels,
                    log_floor=MEL_FLOOR,
                    spectrum="magnitude",
                    padding="same",
                )
            )
            for size, num_mels in MEL_ENCODER_BANDS
        )
        self.first = nn.Conv1d(sum(num_mels for _, num_mels in MEL_ENCODER_BANDS), MEL_ENCODER_DIM, 3, padding=1)
        self.last = nn.Conv1d(MEL_ENCODER_DIM, latent_dim, 3, padding=1)

    def forward(self, wav: Tensor, wav_lens: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Map ``wav`` (B, S) to latents (B, T, D), T = ceil(S / hop_length), and lengths (B,); see `SeanetEncoder`."""
        given = torch.full((len(wav),), wav.size(1), device=wav.device) if wav_lens is None else wav_lens
        wav = F.pad(zero_padding(wav, valid_mask(given, wav.size(1))), (0, -wav.size(1) % self.hop_length))
        lens = (given + self.hop_length - 1) // self.hop_length
        feats = torch.cat([frontend(wav, lens * self.hop_length)[0] for frontend in self.frontends], dim=2)
        valid = valid_mask(lens, feats.size(1))
        # From silence to the loudest, logarithms of mel magnitudes lie between about -1 and 1 now.
        x = zero_padding(1 + 2 * feats / -math.log(MEL_FLOOR), valid).transpose(1, 2)
        x = zero_padding(F.elu(self.first(x)).transpose(1, 2), valid).transpose(1, 2)
        return zero_padding(self.last(x).transpose(1, 2), valid), None if wav_lens is None else lens


class MelDistance(nn.Module):
    """Mean absolute difference of mel spectra and of their natural logarithms, over windows of several sizes.

    Windows move by a quarter of their size.
    """

    def __init__(self, sample_rate: int, sizes: Sequence[int], most_bands: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        for size in sizes:
            matrix = slaney_mel_matrix(sample_rate, size, min(most_bands, size // 8), 0.0, sample_rate / 2)
            weights = torch.from_numpy(matrix)
            weights = weights / weights.sum(0).clamp(min=1e-9)  # a band is a mean of magnitudes
            self.register_buffer(f"matrix_{size}", weights, persistent=False)
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)

    def forward(self, real: Tensor, made: Tensor) -> Tensor:
        """Return () the distance of ``made`` (B, S) from ``real`` (B, S), in float32 under any autocast."""
        with torch.autocast(real.device.type, enabled=False):
            wavs = torch.cat([real.float(), made.float()])
            return torch.stack([self._distance(wavs, size) for size in self.sizes]).mean()

    def _distance(self, wavs: Tensor, size: int) -> Tensor:
        window, matrix = self.get_buffer(f"window_{size}"), self.get_buffer(f"matrix_{size}")
        spectrum = torch.stft(wavs, size, size // 4, window=window, normalized=True, return_complex=True)
        magnitudes = (spectrum.real.square() + spectrum.imag.square() + MIN_POWER).sqrt()
        real, made = torch.einsum("fm,bft->bmt", matrix.to(magnitudes), magnitudes).chunk(2)
        logs = F.l1_loss(made.clamp(min=MIN_MAGNITUDE).log(), real.clamp(min=MIN_MAGNITUDE).log())
        return F.l1_loss(made, real) + logs


def check_rate(batch: SpeechBatch, sample_rate: int) -> None:
    """Refuse sound at another rate than a model is for.

    Raises:
        DataError: the rates differ.
    """
    if batch.sample_rate != sample_rate:
        raise DataError(
            f"the model needs sound of {sample_rate} samples per second, got {batch.sample_rate}; resample it"
        )


def draw_segments(wav: Tensor, wav_lens: Tensor, size: int, generator: torch.Generator | None = None) -> Tensor:
    """Return a random piece (B, size) of each of ``wav`` (B, S), anything beyond its length (B,); silence follows."""
    wav = zero_padding(wav, valid_mask(wav_lens, wav.size(1)))
    wav = F.pad(wav, (0, max(0, size - wav.size(1))))
    num_places = (wav_lens - size).clamp(min=0) + 1
    uniform = torch.rand(len(wav), generator=generator, device=wav.device)
    starts = (uniform * num_places).long().minimum(num_places - 1)
    return wav.gather(1, starts[:, None] + torch.arange(size, device=wav.device))


def _count(wav: Tensor) -> Tensor:
    return torch.tensor(float(len(wav)), device=wav.device)


BALANCE = {"wav": 0.1, "mel": 2.0, "adversarial": 4.0, "features": 4.0}
"""Shares of the losses in the gradient of the output: the paper's, as in audiocraft."""


class EncodecGanConfig(ModelConfig):
    """The codec and its discriminators."""

    kind: Literal["encodec_gan"] = "encodec_gan"
    encodec: EncodecConfig = EncodecConfig()
    adversary: VocosAdversaryConfig = VocosAdversaryConfig()
    decoder_only: bool = False
    """Leave the codes of everything as they are, and learn to make better sound of them."""

    @classmethod
    def debug(cls) -> "EncodecGanConfig":
        """Return the smallest of both, for tests."""
        return cls(
            encodec=EncodecConfig.debug().model_copy(update={"segment_frames": 16}),
            adversary=VocosAdversaryConfig.debug(),
        )

    @classmethod
    def published(cls) -> "EncodecGanConfig":
        """Return MusicGen's codec; the discriminators are those published with Vocos."""
        return cls(encodec=EncodecConfig.published(), adversary=VocosAdversaryConfig.published())


class Balancer(nn.Module):
    """Losses of an output, each with its share of the gradient there whatever its own size (section 3.4, equation 5).

    The size of a gradient is its mean norm over utterances, as a moving average.
    """

    norms: Tensor
    """(losses,) moving averages."""
    updates: Tensor
    """() their number so far."""

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999) -> None:
        super().__init__()
        self.weights = dict(weights)
        self.decay = decay
        self.register_buffer("norms", torch.zeros(len(weights)))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, losses: Mapping[str, Tensor], output: Tensor) -> Tensor:
        """Return the weighted sum () of ``losses``, whose gradient at ``output`` (B, S) has norm 1 for each utterance.

        In evaluation mode, or where no gradient is wanted, it is the sum only.
        """
        total = torch.stack([self.weights[name] * losses[name] for name in self.weights]).sum()
        if not self.training or not torch.is_grad_enabled():
            return total
        grads = torch.stack([torch.autograd.grad(losses[name], output, retain_graph=True)[0] for name in self.weights])
        norms = grads.flatten(2).norm(dim=2).mean(1)
        is_sound = norms.isfinite().all()
        averages = torch.lerp(norms.detach(), self.norms, self.decay)
        self.norms.copy_(averages.where(is_sound, self.norms))
        self.updates.add_(is_sound.to(self.updates))
        unbiased = self.norms / (1 - self.decay ** self.updates.clamp(min=1))
        shares = torch.tensor(list(self.weights.values()), device=output.device)
        scales = shares / shares.sum().clamp(min=1e-12) / unbiased.clamp(min=1e-12)
        wanted = torch.einsum("l,l...->...", scales, grads)
        surrogate = (output * wanted).sum()
        return total.detach() + surrogate - surrogate.detach()


class EncodecGan(Trainable):
    """A codec and its adversary, which learn in turn."""

    learns_from = ("speech",)
    warm_starts: ClassVar[Mapping[str, str]] = {"encodec": "encodec."}

    def __init__(self, config: EncodecGanConfig) -> None:
        super().__init__()
        self.config = config
        self.encodec = Encodec(config.encodec)
        self.adversary = VocosAdversary(config.adversary)
        self.balancer = Balancer(BALANCE)

    @classmethod
    def from_config(cls, config: EncodecGanConfig, tokenizer: Tokenizer) -> "EncodecGan":
        """Build with random weights; the tokenizer of the text is not needed."""
        del tokenizer
        return cls(config)

    @property
    def sample_rate(self) -> int:
        """Samples per second of what the model hears."""
        return self.encodec.sample_rate

    @property
    def exported(self) -> Encodec:
        """What is kept of a finished run."""
        return self.encodec

    def turns(self) -> Sequence[Turn]:
        """Return the discriminators' turn, then the codec's. Each draws other pieces of the batch."""
        learns = "encodec.decoder." if self.config.decoder_only else "encodec."
        return [
            Turn("discriminator", self.discriminator_loss, "adversary."),
            Turn("generator", self.generator_loss, learns),
        ]

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the codec's loss without adversary (`Encodec.loss`), which scores held-out sound."""
        return self.encodec.loss(batch)

    def discriminator_loss(self, batch: SpeechBatch) -> LossOutput:
        """Return `VocosAdversary.discriminator_loss` of random pieces of ``batch``; the codebooks do not learn."""
        real = self.encodec.draw_segments(batch)
        made, _ = self.encodec.decode(self.encodec.encode(real)[0])
        return self.adversary.discriminator_loss(real, made)

    def generator_loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the balanced losses of random pieces of ``batch``, plus the commitment.

        ``parts`` has them without weights: ``wav``, ``mel``, ``adversarial``, ``features`` and ``commitment``.
        """
        real = self.encodec.draw_segments(batch)
        if self.config.decoder_only:
            latents = self.encodec.quantizer.decode(self.encodec.encode(real)[0])
            made, commitment = self.encodec.decoder(latents)[0].float(), latents.new_zeros(())
        else:
            made, quantized = self.encodec.reconstruct(real)
            commitment = quantized.commitment
        parts = {**self.encodec.distances(real, made), **self.adversary.generator_loss(real, made).parts}
        total = self.balancer(parts, made) + self.encodec.config.commitment_weight * commitment
        return LossOutput(total, {**parts, "commitment": commitment}, _count(real))
