"""Front ends: waveform batches to feature batches in which each utterance is as if it were alone.

Shapes: B utterances, S samples, T frames, F features.
Two families of mel bands: ``LogMel`` (ESPnet, OWSM; the vocoders' with ``LogMelConfig.for_vocoder``) and ``KaldiFbank``
(Kaldi, FunASR's Paraformer). Encoders that hear samples (wav2vec 2.0, HuBERT) are given them by ``Waveform``.
"""

import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from speechnar.audio.samples import MAX_RATE
from speechnar.config import Config
from speechnar.errors import ConfigError

MAX_FFT, MAX_MELS, MAX_STACKED = 1 << 15, 512, 64
"""A configuration may be anybody's: what a front end allocates stays below 100 MB."""
MAGNITUDE_FLOOR = 1e-9
"""Added to the power before its root, whose slope at 0 is infinite; BigVGAN's ``meldataset.py`` has the same."""


def frame_mask(lens: Tensor, max_len: int) -> Tensor:
    """Return bool (B, max_len), True where a position lies within its utterance."""
    return torch.arange(max_len, device=lens.device) < lens[:, None]


class LogMelConfig(Config):
    """Log-mel energies as ESPnet's ``DefaultFrontend`` computes them; the defaults are OWSM-CTC's."""

    kind: Literal["log_mel"] = "log_mel"
    sample_rate: int = Field(default=16000, gt=0, le=MAX_RATE)
    """Samples per second of the waveform."""
    n_fft: int = Field(default=512, ge=2, le=MAX_FFT, multiple_of=2)
    """FFT size, samples."""
    win_length: int = Field(default=400, gt=0)
    """Length of the Hann window, samples; it sits in the middle of the FFT frame."""
    hop_length: int = Field(default=160, gt=0, le=MAX_FFT)
    """Frame shift, samples."""
    num_mels: int = Field(default=80, gt=0, le=MAX_MELS)
    """Mel bands."""
    mel_scale: Literal["slaney", "htk"] = "slaney"
    """``slaney``: bands of unit area, as librosa has them; ``htk``: of height 1, as torchaudio has them."""
    f_min: float = Field(default=0.0, ge=0)
    """Lower edge of the first band, Hz."""
    f_max: float | None = Field(default=None, gt=0)
    """Upper edge of the last band, Hz; half the sample rate if absent."""
    log_floor: float = Field(default=1e-10, gt=0)
    """Energies are raised to this before the logarithm."""
    log_offset: float = Field(default=0.0, ge=0)
    """Added to energies before the logarithm."""
    preemph: float = Field(default=0.0, ge=0, le=1)
    """Pre-emphasis coefficient; the first sample of an utterance stays as it is."""
    symmetric_window: bool = False
    """The window begins and ends with 0, instead of ending a sample before."""
    edges: Literal["reflect", "zero"] = "reflect"
    """What stands before the first sample of an utterance and behind its last one."""
    spectrum: Literal["power", "magnitude"] = "power"
    """What the mel bands sum up; vocoders are given magnitudes."""
    padding: Literal["center", "same"] = "center"
    """Where frame t is centred: on sample t hop (S // hop + 1 frames), or in the middle of the hop samples from there
    on, so that each frame stands for samples of its own (S // hop frames, the vocoders' way)."""

    drop_last: bool = False
    """Leave out the last frame of ``center`` padding, as Whisper does: S // hop frames."""
    even: bool = False
    """With ``drop_last``, keep the last frame where it makes the number even; a silent sample is added if it takes one.
    Granite Speech has pairs of frames."""

    @classmethod
    def for_whisper(cls, num_mels: int = 80) -> "LogMelConfig":
        """Return what Whisper hears (Radford et al. 2022, section 2.2), but for its normalisation (`PeakRange`)."""
        return cls(n_fft=400, win_length=400, hop_length=160, num_mels=num_mels, drop_last=True)

    @classmethod
    def for_nemo(cls, num_mels: int = 80) -> "LogMelConfig":
        """Return what NeMo's models hear (``FilterbankFeatures``), but for its normalisation (`UtteranceCmvn`)."""
        return cls(
            num_mels=num_mels,
            drop_last=True,
            log_offset=2**-24,
            preemph=0.97,
            symmetric_window=True,
            edges="zero",
        )

    @classmethod
    def for_granite(cls, num_mels: int = 80) -> "LogMelConfig":
        """Return what Granite Speech hears, but for its normalisation (`PeakRange`) and its slopes."""
        return cls(num_mels=num_mels, mel_scale="htk", drop_last=True, even=True)

    @classmethod
    def for_vocoder(cls, sample_rate: int = 24000) -> "LogMelConfig":
        """Return the features of BigVGAN, on which ARDiT builds: 100 bands and 93.75 frames/s at 24 kHz.

        At 16 kHz they are 80 bands and 100 frames/s.

        Raises:
            ConfigError: there is no such setting for ``sample_rate``.
        """
        sizes = {24000: (1024, 256, 100), 16000: (640, 160, 80)}
        if sample_rate not in sizes:
            raise ConfigError(f"sample_rate must be one of {sorted(sizes)}, got {sample_rate}")
        win_length, hop_length, num_mels = sizes[sample_rate]
        return cls(
            sample_rate=sample_rate,
            n_fft=1024,
            win_length=win_length,
            hop_length=hop_length,
            num_mels=num_mels,
            log_floor=1e-5,
            spectrum="magnitude",
            padding="same",
        )

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if self.win_length > self.n_fft:
            raise ValueError(f"win_length must be at most n_fft {self.n_fft}, got {self.win_length}")
        if self.drop_last and self.padding == "same":
            raise ValueError("drop_last is of padding center; same has no frame too many")
        if self.even and not self.drop_last:
            raise ValueError("even needs drop_last, from which it keeps a frame")
        if self.padding == "same" and (self.hop_length > self.n_fft or self.hop_length % 2):
            raise ValueError(
                f"hop_length must be even and at most n_fft {self.n_fft} with padding same, got {self.hop_length}"
            )
        f_max = self.sample_rate / 2 if self.f_max is None else self.f_max
        if not self.f_min < f_max <= self.sample_rate / 2:
            raise ValueError(f"need f_min < f_max <= {self.sample_rate / 2} Hz, got {self.f_min} and {f_max}")
        return self


class LogMel(nn.Module):
    """Waveforms to natural-log mel energies, equal to ESPnet's ``DefaultFrontend`` on each utterance alone.

    With ``LogMelConfig.for_vocoder`` they are natural-log mel magnitudes, equal to BigVGAN's.

    Differs from ESPnet: the right edge of every utterance is reflected at its own end, not at the end of the batch.
    Utterances of at most ``n_fft / 2`` samples, which a single reflection cannot extend, are reflected repeatedly
    (a single sample is repeated); empty utterances have no frames.
    """

    mel_matrix: Tensor
    window: Tensor

    def __init__(self, config: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.num_features = config.num_mels
        self.frame_shift_s = config.hop_length / config.sample_rate
        f_max = config.sample_rate / 2 if config.f_max is None else config.f_max
        make_matrix = slaney_mel_matrix if config.mel_scale == "slaney" else htk_mel_matrix
        mel_matrix = make_matrix(config.sample_rate, config.n_fft, config.num_mels, config.f_min, f_max)
        self.register_buffer("mel_matrix", torch.from_numpy(mel_matrix))  # in checkpoints, as ESPnet's melmat is
        # Of the meta device, on which converted models are built, torch would import its compiler to make it.
        window = torch.hann_window(config.win_length, periodic=not config.symmetric_window, device="cpu")
        self.register_buffer("window", window, persistent=False)

    def forward(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S) in [-1, 1] to ``feats`` (B, T, F) float32 and ``feat_lens`` (B,); T is as of ``padding``.

        Samples beyond ``wav_lens`` may hold anything, NaN included; frames beyond ``feat_lens`` are 0. Computes in
        float32 under any autocast.
        """
        config = self.config
        is_centered = config.padding == "center"
        one_more = int(is_centered and not config.drop_last)
        feat_lens = (wav_lens // config.hop_length + one_more).where(wav_lens > 0, 0)
        num_frames = wav.size(1) // config.hop_length + one_more
        if config.even:
            num_frames, feat_lens = num_frames + num_frames % 2, feat_lens + feat_lens % 2
            wav = F.pad(wav.masked_fill(~frame_mask(wav_lens, wav.size(1)), 0.0), (0, 1))
            wav_lens = wav_lens.maximum((feat_lens - 1) * config.hop_length + 1)  # one more, or none
        width = (config.n_fft if is_centered else config.n_fft - config.hop_length) // 2
        with torch.autocast(wav.device.type, enabled=False):
            wav = wav.float().masked_fill(~frame_mask(wav_lens, wav.size(1)), 0.0)
            if config.preemph > 0:
                wav = wav - config.preemph * F.pad(wav, (1, -1))
                wav = wav.masked_fill(~frame_mask(wav_lens, wav.size(1)), 0.0)
            padded = F.pad(wav, (width, width)) if config.edges == "zero" else _reflect_edges(wav, wav_lens, width)
            padded = F.pad(padded, (0, max(0, config.n_fft - padded.size(1))))  # too little for a frame
            spectrum = torch.stft(
                padded,
                config.n_fft,
                config.hop_length,
                config.win_length,
                self.window,
                center=False,
                return_complex=True,
            )
            energies = spectrum.real.square() + spectrum.imag.square()  # (B, n_fft / 2 + 1, T)
            if config.spectrum == "magnitude":
                energies = (energies + MAGNITUDE_FLOOR).sqrt()
            bands = energies.transpose(1, 2) @ self.mel_matrix
            feats = (bands + config.log_offset).clamp_min(config.log_floor).log()
            feats = feats[:, :num_frames]
        return feats.masked_fill(~frame_mask(feat_lens, feats.size(1))[..., None], 0.0), feat_lens


def _reflect_edges(wav: Tensor, wav_lens: Tensor, width: int) -> Tensor:
    """Extend each utterance of ``wav`` (B, S), 0 in padding, by ``width`` samples reflected at both of its own ends.

    Only the edges are gathered: an index for every sample would cost more memory than the waveform.
    """
    padded = F.pad(wav, (width, width))
    if wav.size(1) == 0:
        return padded
    offsets = torch.arange(width, device=wav.device)
    left = (offsets - width).expand(wav.size(0), -1)
    right = wav_lens[:, None] + offsets
    edges = torch.cat([left, right], dim=1)  # positions relative to each utterance's first sample
    last = (wav_lens[:, None] - 1).clamp_min(0)
    folded = edges.remainder((2 * last).clamp_min(1))  # the reflected signal repeats every 2 (n - 1) samples
    sources = torch.minimum(folded, 2 * last - folded).clamp_min(0)
    return padded.scatter(1, edges + width, wav.gather(1, sources))


def slaney_mel_matrix(sample_rate: int, n_fft: int, num_mels: int, f_min: float, f_max: float) -> np.ndarray:
    """Return float32 triangles (n_fft / 2 + 1, F) on Slaney's mel scale, each of unit area over Hz.

    Source: Slaney, "Auditory Toolbox", 1998; equal to the transpose of ``librosa.filters.mel``.
    """
    corners = _slaney_to_hz(np.linspace(_hz_to_slaney(f_min), _hz_to_slaney(f_max), num_mels + 2))
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * 2.0 / (corners[2:] - corners[:-2])).astype(np.float32)


def htk_mel_matrix(sample_rate: int, n_fft: int, num_mels: int, f_min: float, f_max: float) -> np.ndarray:
    """Return float32 triangles (n_fft / 2 + 1, F) on the mel scale of HTK, of height 1, straight over Hz.

    Source: Young et al., "The HTK Book", section 5.4; equal to ``torchaudio.functional.melscale_fbanks``.
    """
    mels = np.linspace(_hz_to_kaldi(f_min), _hz_to_kaldi(f_max), num_mels + 2)
    corners = 700.0 * np.expm1(mels / 1127.0)
    bins = np.fft.rfftfreq(n_fft, 1 / sample_rate)[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    triangles: np.ndarray = np.maximum(0.0, np.minimum(rising, falling))
    return triangles.astype(np.float32)


_SLANEY_HZ_PER_MEL = 200 / 3  # below 1 kHz, which is mel 15
_SLANEY_LOG_STEP = math.log(6.4) / 27  # above


def _hz_to_slaney(hz: float) -> float:
    return hz / _SLANEY_HZ_PER_MEL if hz < 1000 else 15 + math.log(hz / 1000) / _SLANEY_LOG_STEP


def _slaney_to_hz(mels: np.ndarray) -> np.ndarray:
    log_part = 1000 * np.exp(_SLANEY_LOG_STEP * (mels - 15))
    return np.where(mels < 15, mels * _SLANEY_HZ_PER_MEL, log_part)


class KaldiFbankConfig(Config):
    """Kaldi's ``compute-fbank-feats``, optionally stacked to a low frame rate (LFR)."""

    kind: Literal["kaldi_fbank"] = "kaldi_fbank"
    sample_rate: int = Field(default=16000, gt=0, le=MAX_RATE)
    """Samples per second of the waveform."""
    num_mels: int = Field(default=80, gt=0, le=MAX_MELS)
    """Mel bands."""
    frame_length_ms: float = Field(default=25.0, gt=0)
    """Window length."""
    frame_shift_ms: float = Field(default=10.0, gt=0)
    """Frame shift before stacking."""
    window: Literal["hamming", "povey"] = "hamming"
    """Window; Kaldi's own default is povey, FunASR's is hamming."""
    dither: float = Field(default=0.0, ge=0)
    """Standard deviation of the noise added to scaled samples, in training only."""
    preemph: float = Field(default=0.97, ge=0, le=1)
    """Pre-emphasis coefficient (Kaldi's ``--preemphasis-coefficient``)."""
    low_freq: float = Field(default=20.0, ge=0)
    """Lower edge of the first band, Hz (``--low-freq``)."""
    high_freq: float = 0.0
    """Upper edge of the last band, Hz; if not positive, an offset from half the sample rate (``--high-freq``, which is
    -400 in Kaldi's ``mfcc_hires.conf``)."""
    snip_edges: bool = True
    """Frames lie within the utterance; else one stands for every shift, and the edges are mirrored (icefall)."""
    lfr_window: int = Field(default=1, gt=0, le=MAX_STACKED)
    """Frames stacked into one (FunASR's ``lfr_m``)."""
    lfr_shift: int = Field(default=1, gt=0, le=MAX_STACKED)
    """Frames between stacks (FunASR's ``lfr_n``)."""
    scale: float = Field(default=32768.0, gt=0)
    """Factor on samples: Kaldi works in 16-bit units."""
    double_precision: bool = False
    """Compute in float64, as the features of transformers are computed; the logarithm of a band that holds next to
    nothing shows how the others were rounded."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if not (2 <= self.frame_length_samples <= MAX_FFT and 1 <= self.frame_shift_samples <= MAX_FFT):
            raise ValueError(f"frames must be 2 to {MAX_FFT} samples long and 1 to {MAX_FFT} samples apart")
        if not self.low_freq < self.top_freq <= self.sample_rate / 2:
            raise ValueError(
                f"need low_freq < high_freq <= {self.sample_rate / 2} Hz, got {self.low_freq} and {self.top_freq}"
            )
        return self

    @property
    def frame_length_samples(self) -> int:
        """Window length, samples; a fraction is dropped, as in Kaldi."""
        return int(self.sample_rate * self.frame_length_ms / 1000)

    @property
    def frame_shift_samples(self) -> int:
        """Frame shift, samples; a fraction is dropped, as in Kaldi."""
        return int(self.sample_rate * self.frame_shift_ms / 1000)

    @property
    def top_freq(self) -> float:
        """Upper edge of the last band, Hz."""
        return self.high_freq if self.high_freq > 0 else self.sample_rate / 2 + self.high_freq


class KaldiFbank(nn.Module):
    """Waveforms to Kaldi's natural-log mel energies, with FunASR's low-frame-rate stacking.

    With ``snip_edges`` utterances shorter than one window have no frames.
    """

    mel_matrix: Tensor
    window: Tensor

    def __init__(self, config: KaldiFbankConfig) -> None:
        super().__init__()
        self.config = config
        self.num_features = config.num_mels * config.lfr_window
        self.frame_shift_s = config.lfr_shift * config.frame_shift_samples / config.sample_rate
        self.n_fft = 2 ** math.ceil(math.log2(config.frame_length_samples))
        mel_matrix = kaldi_mel_matrix(config.sample_rate, self.n_fft, config.num_mels, config.low_freq, config.top_freq)
        self.register_buffer("mel_matrix", torch.from_numpy(mel_matrix), persistent=False)
        window = torch.from_numpy(_kaldi_window(config.window, config.frame_length_samples))
        self.register_buffer("window", window if config.double_precision else window.float(), persistent=False)

    def forward(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S) in [-1, 1] to ``feats`` (B, T, F) float32 and ``feat_lens`` (B,).

        Samples beyond ``wav_lens`` may hold anything, NaN included; frames beyond ``feat_lens`` are 0. Computes in
        float32, or as ``double_precision`` says, under any autocast.
        """
        config = self.config
        length, shift = config.frame_length_samples, config.frame_shift_samples
        if config.snip_edges:
            num_frames = max(0, (wav.size(1) - length) // shift + 1)
            feat_lens = ((wav_lens - length).div(shift, rounding_mode="floor") + 1).clamp_min(0)
        else:
            num_frames, feat_lens = (wav.size(1) + shift // 2) // shift, (wav_lens + shift // 2) // shift
        with torch.autocast(wav.device.type, enabled=False):
            clean = wav.float().masked_fill(~frame_mask(wav_lens, wav.size(1)), 0.0) * config.scale
            if config.snip_edges:
                frames = F.pad(clean, (0, max(0, length - wav.size(1)))).unfold(1, length, shift)
            else:
                frames = _mirrored_frames(clean, wav_lens, max(1, num_frames), length, shift)
            feats = self._log_mel(frames.to(self.window.dtype)).float()
            feats = feats[:, :num_frames]  # sliced last: an FFT of nothing is an error
        if config.lfr_window > 1 or config.lfr_shift > 1:
            feats, feat_lens = stack_frames(feats, feat_lens, config.lfr_window, config.lfr_shift)
        return feats.masked_fill(~frame_mask(feat_lens, feats.size(1))[..., None], 0.0), feat_lens

    def _log_mel(self, frames: Tensor) -> Tensor:
        if self.training and self.config.dither > 0:
            frames = frames + self.config.dither * torch.randn_like(frames)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        previous = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = (frames - self.config.preemph * previous) * self.window
        spectrum = torch.fft.rfft(frames, n=self.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        return (power @ self.mel_matrix.to(power.dtype)).clamp_min(torch.finfo(torch.float32).eps).log()


def _mirrored_frames(wav: Tensor, wav_lens: Tensor, num_frames: int, length: int, shift: int) -> Tensor:
    """Return windows (B, T, L) of ``wav`` (B, S) in the middle of every shift, mirrored at an utterance's ends.

    Source: Kaldi, ``feature-window.cc``, ``ExtractWindow``: the last sample is repeated.
    """
    wav = F.pad(wav, (0, 1)) if wav.size(1) == 0 else wav
    starts = torch.arange(num_frames, device=wav.device) * shift + shift // 2 - length // 2
    places = (starts[:, None] + torch.arange(length, device=wav.device)).flatten()
    lens = wav_lens.clamp(min=1)[:, None]
    places = places % (2 * lens)
    places = torch.minimum(places, 2 * lens - 1 - places)
    return wav.gather(1, places).view(len(wav), num_frames, length)


def kaldi_mel_matrix(sample_rate: int, n_fft: int, num_mels: int, low_freq: float, high_freq: float) -> np.ndarray:
    """Return float32 triangles (n_fft / 2 + 1, F), straight and of height 1 on Kaldi's mel scale.

    Source: Kaldi, ``feat/mel-computations.cc``, ``MelBanks``; the bin at half the sample rate weighs nothing.
    """
    corners = np.linspace(_hz_to_kaldi(low_freq), _hz_to_kaldi(high_freq), num_mels + 2)
    bins = _hz_to_kaldi(np.fft.rfftfreq(n_fft, 1 / sample_rate))[:, None]
    rising = (bins - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - bins) / (corners[2:] - corners[1:-1])
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    triangles[-1] = 0.0
    return triangles.astype(np.float32)


def _hz_to_kaldi(hz: float | np.ndarray) -> np.ndarray:
    return 1127.0 * np.log1p(np.asarray(hz) / 700.0)


def _kaldi_window(kind: Literal["hamming", "povey"], length: int) -> np.ndarray:
    cosine = np.cos(2 * np.pi * np.arange(length) / (length - 1))
    window = 0.54 - 0.46 * cosine if kind == "hamming" else (0.5 - 0.5 * cosine) ** 0.85
    return np.asarray(window)


def stack_frames(feats: Tensor, feat_lens: Tensor, window: int, shift: int) -> tuple[Tensor, Tensor]:
    """Stack ``window`` neighbouring frames at every ``shift``-th one: (B, T, F) to (B, ceil(T / shift), window * F).

    A stack begins (window - 1) // 2 frames early; what it misses at either end of its utterance is filled with that
    end's own frame. Stacks beyond the returned lengths are not zeroed. Source: FunASR, ``apply_lfr``; Gao et al.,
    "SAN-M", Interspeech 2020, section 3.1 (low frame rate).
    """
    num_stacks = (feats.size(1) + shift - 1) // shift  # in a graph, division of negative numbers rounds up
    starts = torch.arange(num_stacks, device=feats.device) * shift - (window - 1) // 2
    positions = (starts[:, None] + torch.arange(window, device=feats.device)).flatten()  # (stacks * window,)
    last = (feat_lens[:, None] - 1).clamp_min(0)
    sources = torch.minimum(positions.clamp_min(0)[None], last)  # (B, stacks * window)
    stacked = feats.gather(1, sources[..., None].expand(-1, -1, feats.size(2)))
    stack_lens = (feat_lens + shift - 1).div(shift, rounding_mode="floor")
    return stacked.reshape(feats.size(0), num_stacks, window * feats.size(2)), stack_lens


class WaveformConfig(Config):
    """Samples as they are, for an encoder with convolutions of its own (wav2vec 2.0, HuBERT)."""

    kind: Literal["waveform"] = "waveform"
    sample_rate: int = Field(default=16000, gt=0, le=MAX_RATE)
    """Samples per second of the waveform."""


class Waveform(nn.Module):
    """Every sample is a frame of one feature."""

    num_features = 1

    def __init__(self, config: WaveformConfig) -> None:
        super().__init__()
        self.config = config
        self.frame_shift_s = 1 / config.sample_rate

    def forward(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S), anything beyond ``wav_lens``, to ``feats`` (B, S, 1) float32, 0 there, and lengths."""
        return wav.float().masked_fill(~frame_mask(wav_lens, wav.size(1)), 0.0)[..., None], wav_lens


FrontendConfig = Annotated[LogMelConfig | KaldiFbankConfig, Field(discriminator="kind")]
AnyFrontendConfig = Annotated[LogMelConfig | KaldiFbankConfig | WaveformConfig, Field(discriminator="kind")]
"""Of models whose encoder may be one that hears samples."""


def build_frontend(config: LogMelConfig | KaldiFbankConfig | WaveformConfig) -> LogMel | KaldiFbank | Waveform:
    """Return the front end that ``config`` describes; all have ``num_features`` and ``frame_shift_s``."""
    match config:
        case LogMelConfig():
            return LogMel(config)
        case KaldiFbankConfig():
            return KaldiFbank(config)
        case WaveformConfig():
            return Waveform(config)
