"""The part that CASS-NAT and UniEnc share: front end, Conformer, a CTC head and an intermediate one of its own.

Shapes: B utterances, S samples, T feature frames, T' encoder frames, F features, D model width, V vocabulary (blank
included), U tokens.
Sources: Fan et al., "A CTC Alignment-based Non-autoregressive Transformer for End-to-end Automatic Speech Recognition",
TASLP 2023; Lee and Watanabe, "Intermediate Loss Regularization for CTC-based Speech Recognition", ICASSP 2021,
section 3.
"""

from dataclasses import dataclass

import torch
from pydantic import NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor, nn

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.audio.fbank import FrontendConfig, KaldiFbankConfig, build_frontend
from speechnar.models.base import ModelConfig
from speechnar.nn.ctc import CtcHead
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.encoder import ConformerConfig, Encoder
from speechnar.nn.frontend import Normalization, augmented, build_augmenter, build_normalizer, normalized_features
from speechnar.nn.lengths import valid_mask, zero_padding
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


class CtcTrunkConfig(ModelConfig):
    """What the models on this trunk have in common."""

    frontend: FrontendConfig = KaldiFbankConfig()
    normalize: Normalization = "global"
    encoder: ConformerConfig = conformer(model_dim=256, num_layers=12, num_heads=4)
    interctc_layer: PositiveInt = 6
    """Block (1-based) behind which the intermediate CTC loss is taken."""
    ctc_weight: NonNegativeFloat = 0.5
    """Of the CTC loss, beside a cross-entropy of weight 1; both per token."""
    interctc_weight: NonNegativeFloat = 0.5
    """Of the intermediate CTC loss; 0 leaves it out."""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig(time_masks=8, time_ratio=0.04)

    @model_validator(mode="after")
    def _check_trunk(self) -> "CtcTrunkConfig":
        if self.interctc_weight > 0 and self.interctc_layer >= self.encoder.num_layers:
            raise ValueError(
                f"interctc_layer must stay below num_layers={self.encoder.num_layers}, got {self.interctc_layer}"
            )
        if self.encoder.cross_attention_every is not None:
            raise ValueError("this encoder has no prompt to attend to; leave cross_attention_every out")
        return self


@dataclass(frozen=True, kw_only=True)
class TrunkOutput:
    """What the trunk makes of a batch."""

    frames: Tensor
    """(B, T', D) what the first block saw."""
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
        self.encoder = Encoder(config.encoder, num_features)
        model_dim = config.encoder.model_dim
        self.ctc = CtcHead(model_dim, tokenizer.vocab_size, blank_id=tokenizer.blank_id)
        has_inter = config.interctc_weight > 0
        self.inter_ctc = NormedHead(model_dim, tokenizer.vocab_size, config.encoder.norm_eps) if has_inter else None

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one encoder frame to the next."""
        return float(self.frontend.frame_shift_s) * self.config.encoder.subsampling

    def features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S) in [-1, 1] to normalised features (B, T, F), float32 under any autocast, and lengths."""
        return normalized_features(self.frontend, self.normalizer, wav, wav_lens)

    def training_features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Return `features`, masked by SpecAugment while training."""
        feats, feat_lens = self.features(wav, wav_lens)
        return augmented(self.spec_augment, feats, feat_lens), feat_lens

    def encode(self, feats: Tensor, feat_lens: Tensor) -> TrunkOutput:
        """Encode normalised features (B, T, F)."""
        frames, lens = self.encoder.embed(feats, feat_lens)
        enc, log_probs, inter = self.run(frames, valid_mask(lens, frames.size(1)))
        return TrunkOutput(frames=frames, enc=enc, lens=lens, log_probs=log_probs, inter_log_probs=inter)

    def run(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run the blocks over ``x`` (B, N, D), real where ``valid`` (B, N).

        Returns:
            enc (B, N, D), zero in padding, and the log-probabilities of CTC and of the intermediate head (B, N, V).
        """
        inter: list[Tensor] = []
        enc = self.encoder.run(x, valid, after_layer=lambda number, y: self._tap(number, y, inter))
        enc = zero_padding(enc, valid)
        return enc, self.ctc(enc), inter[0] if inter else None

    def _tap(self, number: int, x: Tensor, inter: list[Tensor]) -> Tensor:
        if number == self.config.interctc_layer and self.inter_ctc is not None:
            inter.append(self.inter_ctc(x))
        return x

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
