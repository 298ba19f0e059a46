"""The part that CASS-NAT and UniEnc share: front end, encoder, a CTC head and an intermediate one of its own.

The encoder is a Conformer, or a pretrained wav2vec 2.0 or HuBERT as in the UniEnc paper.

Shapes: B utterances, S samples, T feature frames, T' encoder frames, F features, E encoder width, D model width, V
vocabulary (blank included), U tokens. A Conformer's two widths are one.
Sources: Fan et al., "A CTC Alignment-based Non-autoregressive Transformer for End-to-end Automatic Speech Recognition",
TASLP 2023; Lee and Watanabe, "Intermediate Loss Regularization for CTC-based Speech Recognition", ICASSP 2021,
section 3; Fan et al., "UniEnc-CASSNAT", IEEE Signal Processing Letters 2024 (the pretrained encoder).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Discriminator, Field, NonNegativeFloat, PositiveInt, Tag, model_validator
from torch import Tensor, nn

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.audio.fbank import AnyFrontendConfig, KaldiFbankConfig, build_frontend
from speechnar.config import Config
from speechnar.models.base import AsrModel, ModelConfig
from speechnar.nn.ctc import CtcHead
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.encoder import AfterLayer, ConformerConfig, Encoder
from speechnar.nn.frontend import Normalization, augmented, build_augmenter, build_normalizer, normalized_features
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.trunks import check_frontend
from speechnar.nn.wav2vec2 import NORM_EPS, Wav2Vec2Config, Wav2Vec2Encoder
from speechnar.text.tokenizer import Tokenizer


def conformer(
    *,
    model_dim: int,
    num_layers: int,
    num_heads: int,
    kernel_size: int = 31,
    subsampling_channels: int | None = None,
) -> ConformerConfig:
    """Return the authors' Conformer: clipped distances, one group norm, no norm at the end of its blocks."""
    return ConformerConfig(
        model_dim=model_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        ff_dim=2 * model_dim,
        kernel_size=kernel_size,
        positions="clipped",
        max_distance=20,
        conv_norm="group",
        block_norm=False,
        subsampling_padding=1,
        subsampling_channels=subsampling_channels,
        norm_eps=1e-5,
    )


class WaveformEncoderConfig(Config):
    """wav2vec 2.0 or HuBERT as the encoder; heads and decoders read its states at a width of their own.

    The defaults are those of the UniEnc authors' run on HuBERT base (``hubert_unienc_cassnat_decode.yaml``).
    """

    kind: Literal["wav2vec2"] = "wav2vec2"
    wav2vec2: Wav2Vec2Config = Wav2Vec2Config()
    model_dim: PositiveInt = 768
    """Width that heads and decoders read (D)."""
    num_heads: PositiveInt = 12
    """Of UniEnc's acoustic embedding."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Of UniEnc's acoustic embedding, its attention included."""
    norm_eps: float = Field(default=NORM_EPS, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "WaveformEncoderConfig":
        if self.wav2vec2.frozen_layers:
            raise ValueError(
                "frozen_layers must be 0, since this encoder may be run twice; see `frozen` of a training run"
            )
        if self.model_dim % (2 * self.num_heads):
            raise ValueError(f"model_dim must be a multiple of twice num_heads={self.num_heads}, got {self.model_dim}")
        return self

    @property
    def attention_dropout(self) -> float:
        """That of everything else."""
        return self.dropout

    @property
    def num_layers(self) -> int:
        """Blocks behind which an intermediate head can be."""
        return self.wav2vec2.num_layers

    @property
    def subsampling(self) -> int:
        """Samples to one frame."""
        return self.wav2vec2.subsampling


class WaveformEncoder(nn.Module):
    """wav2vec 2.0 or HuBERT with what `speechnar.nn.encoder.Encoder` offers this trunk."""

    def __init__(self, config: WaveformEncoderConfig) -> None:
        super().__init__()
        self.wav2vec2 = Wav2Vec2Encoder(config.wav2vec2)
        self.dropout = nn.Identity()  # it has its own, behind the positions

    def embed(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return what stands for the extracted frames (B, T', C) before any position is told: (B, T', E), (B,)."""
        feats = zero_padding(feats, valid_mask(feat_lens, feats.size(1)))
        return self.wav2vec2.projection(feats), feat_lens

    def run(self, x: Tensor, valid: Tensor, *, after_layer: AfterLayer | None = None) -> Tensor:
        """Run positions and layers over any sequence (B, N, E) as `embed` makes it, real where ``valid`` (B, N)."""
        return self.wav2vec2.run(x, valid, after_layer=after_layer)


def _kind_of_encoder(value: Any) -> str:
    """A Conformer is what the encoder is if nothing else is said."""
    return str(value.get("kind", "conformer") if isinstance(value, Mapping) else getattr(value, "kind", None))


class CtcTrunkConfig(ModelConfig):
    """What the models on this trunk have in common."""

    frontend: AnyFrontendConfig = KaldiFbankConfig()
    normalize: Normalization = "global"
    encoder: Annotated[
        Annotated[ConformerConfig, Tag("conformer")] | Annotated[WaveformEncoderConfig, Tag("wav2vec2")],
        Discriminator(_kind_of_encoder),
    ] = conformer(model_dim=256, num_layers=12, num_heads=4)
    interctc_layer: PositiveInt = 6
    """Block (1-based) behind which the intermediate CTC loss is taken."""
    ctc_weight: NonNegativeFloat = 0.5
    """Of the CTC loss, beside a cross-entropy of weight 1; both per token."""
    interctc_weight: NonNegativeFloat = 0.5
    """Of the intermediate CTC loss; 0 leaves it out."""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig(time_masks=8, time_ratio=0.04)

    @property
    def reads_inter(self) -> bool:
        """Whether any head reads what leaves block ``interctc_layer``."""
        return self.interctc_weight > 0

    @model_validator(mode="after")
    def _check_trunk(self) -> "CtcTrunkConfig":
        if self.interctc_weight > 0 and self.interctc_layer >= self.encoder.num_layers:
            raise ValueError(
                f"interctc_layer must stay below num_layers={self.encoder.num_layers}, got {self.interctc_layer}"
            )
        if isinstance(self.encoder, ConformerConfig) and self.encoder.cross_attention_every is not None:
            raise ValueError("this encoder has no prompt to attend to; leave cross_attention_every out")
        check_frontend(self.frontend.kind, self.encoder.kind)
        return self


@dataclass(frozen=True, kw_only=True)
class TrunkOutput:
    """What the trunk makes of a batch."""

    frames: Tensor
    """(B, T', E) what the encoder's first block saw; of wav2vec 2.0, before positions are told."""
    enc: Tensor
    """(B, T', D) zero in padding."""
    lens: Tensor
    """(B,) encoder frames."""
    log_probs: Tensor
    """(B, T', V) float32 of CTC."""
    inter_log_probs: Tensor | None = None
    """The same of the intermediate head, if there is one."""

    @property
    def speech(self) -> EncodedSpeech:
        """What a parallel decoder sees."""
        return EncodedSpeech(enc=self.enc, lens=self.lens, log_probs=self.log_probs)


class NormedHead(nn.Module):
    """A head on a block whose output was not normalised: LayerNorm, Linear, log-softmax."""

    def __init__(self, model_dim: int, vocab_size: int, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(model_dim, norm_eps)
        self.proj = nn.Linear(model_dim, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (B, N, D) to log-probabilities (B, N, V), float32 under any autocast."""
        return self.proj(self.norm(x)).log_softmax(dim=-1, dtype=torch.float32)


class CtcTrunk(nn.Module):
    """Waveforms to encoder output and CTC posteriors."""

    def __init__(self, config: CtcTrunkConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.frontend = build_frontend(config.frontend)
        num_features = self.frontend.num_features
        self.normalizer = build_normalizer(config.normalize, num_features)
        self.spec_augment = build_augmenter(config.spec_augment)
        model_dim = config.encoder.model_dim
        has_inter = config.interctc_weight > 0
        self.encoder: Encoder | WaveformEncoder
        # What brings states, and those behind block interctc_layer, to the width of the heads.
        self.proj: nn.Module = nn.Identity()
        self.inter_proj: nn.Module = nn.Identity()
        if isinstance(config.encoder, ConformerConfig):
            self.encoder = Encoder(config.encoder, num_features)
        else:
            self.encoder = WaveformEncoder(config.encoder)
            self.proj = nn.Linear(config.encoder.wav2vec2.model_dim, model_dim)
            if config.reads_inter:
                self.inter_proj = nn.Linear(config.encoder.wav2vec2.model_dim, model_dim)
        self.ctc = CtcHead(model_dim, tokenizer.vocab_size, blank_id=tokenizer.blank_id)
        self.inter_ctc = NormedHead(model_dim, tokenizer.vocab_size, config.encoder.norm_eps) if has_inter else None

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one encoder frame to the next."""
        return float(self.frontend.frame_shift_s) * self.config.encoder.subsampling

    def features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S) in [-1, 1] to normalised features (B, T, F), float32 under any autocast, and lengths.

        Of wav2vec 2.0 they are what its convolutions extract, in the precision of an autocast.
        """
        feats, feat_lens = normalized_features(self.frontend, self.normalizer, wav, wav_lens)
        if isinstance(self.encoder, WaveformEncoder):
            return self.encoder.wav2vec2.frozen(feats, feat_lens)
        return feats, feat_lens

    def training_features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return `features`, masked by SpecAugment while training."""
        feats, feat_lens = self.features(wav, wav_lens)
        return augmented(self.spec_augment, feats, feat_lens), feat_lens

    def encode(self, feats: Tensor, feat_lens: Tensor) -> TrunkOutput:
        """Encode normalised features (B, T, F)."""
        frames, lens = self.encoder.embed(feats, feat_lens)
        valid = valid_mask(lens, frames.size(1))
        enc, inter = self.run(frames, valid)
        enc = zero_padding(enc, valid)
        return TrunkOutput(
            frames=frames,
            enc=enc,
            lens=lens,
            log_probs=self.ctc(enc),
            inter_log_probs=None if self.inter_ctc is None else self.inter_ctc(inter),
        )

    def run(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Run the blocks over ``x`` (B, N, E), real where ``valid`` (B, N).

        Returns:
            enc (B, N, D), and what left block ``interctc_layer`` (B, N, D), not normalised; garbage in padding.
        """
        inter = x

        def tap(number: int, y: Tensor) -> Tensor:
            nonlocal inter
            inter = y if number == self.config.interctc_layer else inter
            return y

        enc = self.encoder.run(x, valid, after_layer=tap)
        return self.proj(enc), self.inter_proj(inter)

    def losses(
        self, out: TrunkOutput, tokens: Tensor, token_lens: Tensor, is_valid: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted CTC losses and each of them, in nats per token.

        Equation 14 of Lee and Watanabe 2021, with weights that need not add up to 1.

        An utterance's loss is divided by its number of tokens; those that have no target (``is_valid`` (B,)) do not
        count, those that do not fit count 0.
        """
        heads = {"ctc": out.log_probs, "inter_ctc": out.inter_log_probs}
        parts: dict[str, Tensor] = {}
        for name, log_probs in heads.items():
            if log_probs is not None:
                per_token = self.ctc.loss(log_probs, out.lens, tokens, token_lens) / token_lens.clamp(min=1)
                parts[name] = (per_token * is_valid).sum() / is_valid.sum().clamp(min=1)
        total = self.config.ctc_weight * parts["ctc"]
        if "inter_ctc" in parts:
            total = total + self.config.interctc_weight * parts["inter_ctc"]
        return total, parts


class CtcTrunkModel(AsrModel):
    """What CASS-NAT and UniEnc have from their trunk."""

    decoder_names = ("cassnat", "ctc")
    num_prefix = 0
    warm_starts: ClassVar[Mapping[str, str]] = {"owsm_ctc": "trunk."}
    config: CtcTrunkConfig
    trunk: CtcTrunk

    @property
    def frontend(self) -> nn.Module:
        """The front end."""
        return self.trunk.frontend

    @property
    def normalizer(self) -> nn.Module:
        """The normaliser of features."""
        return self.trunk.normalizer

    @property
    def sample_rate(self) -> int:
        """Samples per second of the waveforms."""
        return self.config.frontend.sample_rate

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one encoder frame to the next."""
        return self.trunk.frame_shift_s

    def depth_of(self, name: str) -> int:
        """Return how deep in a pretrained encoder the parameter ``name`` lies; 0 outside of one."""
        encoder, prefix = self.trunk.encoder, "trunk.encoder.wav2vec2."
        if not isinstance(encoder, WaveformEncoder) or not name.startswith(prefix):
            return 0
        return encoder.wav2vec2.depth_of(name.removeprefix(prefix))

    def adopt(self, kind: str, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> dict[str, Tensor]:
        """Return the weights of a model of ``kind`` under our names: of wav2vec 2.0, those of our encoder."""
        if kind != "wav2vec2":
            return super().adopt(kind, weights, tokenizer)
        half = "encoder."
        return {f"trunk.{half}{kind}.{n.removeprefix(half)}": w for n, w in weights.items() if n.startswith(half)}

    def encode(self, wav: Tensor, wav_lens: Tensor) -> TrunkOutput:
        """Run the encoder, of UniEnc its first pass, over waveforms (B, S) in [-1, 1] of ``wav_lens`` (B,) samples."""
        return self.trunk.encode(*self.trunk.features(wav, wav_lens))
