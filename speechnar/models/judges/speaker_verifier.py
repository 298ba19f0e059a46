"""A speaker verifier: speech of any length to a vector that tells who speaks, whatever is said.

A time-delay network sees a few frames around each frame, attention chooses those that tell most, and their weighted
mean and deviation become one vector. It is trained to tell the speakers of the training data apart; of others, two
recordings are by the same voice if the cosine between their vectors is high (`speechnar.metrics.verification`).

Shapes: B utterances, S samples, T frames, F mel bands, D model width, P pooled width, E embedding width, N speakers.
Sources: Snyder et al., "X-vectors: Robust DNN embeddings for speaker recognition", ICASSP 2018, section 2.2; Okabe,
Koshinaka and Shinoda, "Attentive statistics pooling for deep speaker embedding", Interspeech 2018; Wang et al.,
"Additive margin softmax for face verification", 2018.
Differs from the papers: layer norm instead of batch norm over frames, whose statistics would count padding (after the
pooling there is none, and batch norm takes out what all utterances share); one layer instead of two after the pooling;
frames near an edge see zeros beyond it, so that the shortest words have a vector, too.
"""

from typing import Annotated, Literal

import torch
from annotated_types import Ge, Lt
from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.augment import SpecAugment, SpecAugmentConfig
from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.data.batch import SpeechBatch
from speechnar.errors import DataError
from speechnar.models.base import LossOutput, ModelConfig, Trainable
from speechnar.models.tts.mel_pca import check_sample_rate
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.text.tokenizer import Tokenizer

MIN_VARIANCE = 1e-6


def _different(speakers: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(speakers)) < len(speakers):
        raise ValueError("each speaker must be named once")
    return speakers


class SpeakerVerifierConfig(ModelConfig):
    """The verifier; the defaults are for an hour or two of speech, on a CPU."""

    kind: Literal["speaker_verifier"] = "speaker_verifier"
    speakers: Annotated[tuple[str, ...], AfterValidator(_different)] = ()
    """The training speakers, as ``utt2spk`` names them; only these can be trained on."""
    # Digital silence would otherwise stretch the features far beyond speech.
    frontend: LogMelConfig = Field(default_factory=lambda: LogMelConfig(log_floor=1e-6))
    model_dim: PositiveInt = 192
    layers: tuple[tuple[PositiveInt, PositiveInt], ...] = ((5, 1), (3, 2), (3, 3), (1, 1))
    """Kernel size (odd) and dilation, in frames, of each layer of width ``model_dim``."""
    pooled_dim: PositiveInt = 384
    """Width of the layer whose mean and deviation are taken."""
    attention_dim: PositiveInt = 64
    embedding_dim: PositiveInt = 128
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.1
    margin: NonNegativeFloat = 0.2
    """By how much the cosine with the right speaker must exceed those with the others."""
    scale: PositiveFloat = 30.0
    """Of cosines, before the softmax."""
    segment_frames: PositiveInt = 150
    """Longest piece of an utterance that is trained on."""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig(freq_masks=1, freq_width=10, time_masks=2)
    """None: nothing is masked."""

    @field_validator("layers")
    @classmethod
    def _check_layers(cls, layers: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        if not layers or any(kernel_size % 2 == 0 for kernel_size, _ in layers):
            raise ValueError(f"layers must be one at least, of odd kernel sizes, got {layers}")
        return layers

    @classmethod
    def debug(cls) -> "SpeakerVerifierConfig":
        """Return a narrow network for two speakers, for tests."""
        return cls(
            speakers=("ann", "bob"),
            model_dim=32,
            pooled_dim=48,
            attention_dim=16,
            embedding_dim=16,
            dropout=0.0,
            segment_frames=50,
            spec_augment=None,
        )

    @classmethod
    def published(cls) -> "SpeakerVerifierConfig":
        """Return the x-vectors' widths and pieces: 512, pooled 1,500, embeddings of 512, of 3 s speech."""
        return cls(model_dim=512, pooled_dim=1500, embedding_dim=512, segment_frames=300)


class SpeakerVerifier(Trainable):
    """Samples to unit vectors, near each other for the same speaker."""

    learns_from = ("speech",)

    def __init__(self, config: SpeakerVerifierConfig) -> None:
        super().__init__()
        self.config = config
        self.frontend = LogMel(config.frontend)
        self.spec_augment = None if config.spec_augment is None else SpecAugment(config.spec_augment)
        widths = [config.frontend.num_mels, *[config.model_dim] * len(config.layers)]
        self.layers = nn.ModuleList(
            TimeDelay(in_dim, out_dim, kernel_size, dilation, config.dropout)
            for in_dim, out_dim, (kernel_size, dilation) in zip(widths[:-1], widths[1:], config.layers, strict=True)
        )
        self.layers.append(TimeDelay(config.model_dim, config.pooled_dim, 1, 1, config.dropout))
        self.attend = nn.Sequential(
            nn.Linear(config.pooled_dim, config.attention_dim),
            nn.Tanh(),
            nn.Linear(config.attention_dim, 1, bias=False),
        )
        self.norm = nn.BatchNorm1d(2 * config.pooled_dim)
        self.project = nn.Linear(2 * config.pooled_dim, config.embedding_dim)
        self.speaker_vectors = nn.Parameter(torch.randn(len(config.speakers), config.embedding_dim))
        self._numbers = {spk_id: number for number, spk_id in enumerate(config.speakers)}

    @classmethod
    def from_config(cls, config: SpeakerVerifierConfig, tokenizer: Tokenizer) -> "SpeakerVerifier":
        """Build the verifier; the tokenizer of the text is not needed."""
        del tokenizer
        return cls(config)

    @property
    def sample_rate(self) -> int:
        """Samples per second of the speech."""
        return self.config.frontend.sample_rate

    def forward(self, wav: Tensor, wav_lens: Tensor) -> Tensor:
        """Map samples (B, S) at the rate of `frontend`, anything beyond ``wav_lens``, to vectors (B, E) of length 1."""
        feats, lens = self.frontend(wav, wav_lens)
        valid = valid_mask(lens, feats.size(1))
        # Without the mean over time, the room and the microphone matter less.
        mean = zero_padding(feats, valid).sum(1, keepdim=True) / lens.clamp(min=1)[:, None, None]
        x = zero_padding(feats - mean, valid)
        if self.training and self.spec_augment is not None:
            x = self.spec_augment(x, lens)
        for layer in self.layers:
            x = layer(x, valid)
        return F.normalize(self.project(self._center(self._pool(x, valid))).float(), dim=-1)

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the softmax loss with a margin, in nats per utterance, and as ``wrong`` the share taken for another.

        In training it is about a random piece of each utterance, in evaluation about whole utterances.

        Raises:
            DataError: the batch does not say who speaks, or a speaker is not one of the configuration's; or the speech
                has another sample rate.
        """
        check_sample_rate(batch, self.config.frontend)
        target = torch.tensor(self._targets(batch), device=batch.wav.device)
        wav, lens = batch.wav, batch.wav_lens
        if self.training:
            wav, lens = draw_pieces(wav, lens, self.config.segment_frames * self.config.frontend.hop_length)
        cosines = self(wav, lens) @ F.normalize(self.speaker_vectors, dim=-1).T  # (B, N)
        margins = self.config.margin * F.one_hot(target, cosines.size(1))
        total = F.cross_entropy(self.config.scale * (cosines - margins), target)
        wrong = (cosines.argmax(1) != target).float().mean()
        return LossOutput(total, {"wrong": wrong}, torch.tensor(float(len(target)), device=total.device))

    def _targets(self, batch: SpeechBatch) -> list[int]:
        speakers = batch.speakers or ("",) * len(batch.utt_ids)
        for utt_id, spk_id in zip(batch.utt_ids, speakers, strict=True):
            if spk_id not in self._numbers:
                raise DataError(
                    f"utterance {utt_id!r}: its speaker must be one of the {len(self._numbers)} in the configuration's "
                    f"speakers, got {spk_id!r}; name all training speakers there"
                )
        return [self._numbers[spk_id] for spk_id in speakers]

    def _pool(self, x: Tensor, valid: Tensor) -> Tensor:
        """Return mean and deviation of (B, T, P) over time, weighted by attention: (B, 2 P)."""
        x = x.float()
        scores = self.attend(x).squeeze(-1).float()
        weights = scores.masked_fill(~valid, torch.finfo(torch.float32).min).softmax(-1)[..., None]
        mean = (weights * x).sum(1)
        variance = (weights * (x - mean[:, None]).square()).sum(1)
        return torch.cat([mean, variance.clamp(min=MIN_VARIANCE).sqrt()], dim=-1)

    def _center(self, pooled: Tensor) -> Tensor:
        """Normalise (B, 2 P) over the batch; the last of an epoch may be a single utterance, which has no variance."""
        norm = self.norm
        uses_batch = self.training and len(pooled) > 1
        return F.batch_norm(pooled, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=uses_batch)


def draw_pieces(wav: Tensor, wav_lens: Tensor, max_samples: int) -> tuple[Tensor, Tensor]:
    """Return a random piece of each utterance (B, S), or the whole of a shorter one: (B, S'), lengths (B,)."""
    size = min(max_samples, wav.size(1))
    spare = (wav_lens - size).clamp(min=0)
    starts = (torch.rand(len(spare), device=spare.device) * (spare + 1)).long().minimum(spare)
    return wav.gather(1, starts[:, None] + torch.arange(size, device=spare.device)), wav_lens.clamp(max=size)


class TimeDelay(nn.Module):
    """A dilated convolution over time, rectified and normalised; padding goes in and comes out as 0."""

    def __init__(self, in_dim: int, out_dim: int, kernel_size: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_dim, out_dim, kernel_size, padding="same", dilation=dilation)
        self.norm = nn.LayerNorm(out_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """Map ``x`` (B, T, D) with ``valid`` bool (B, T) to (B, T, D')."""
        y = F.relu(self.conv(x.transpose(1, 2)).transpose(1, 2))
        return zero_padding(self.dropout(self.norm(y)), valid)
