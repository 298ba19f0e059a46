"""Paraformer: integrate-and-fire finds the number of tokens, one pass of a SAN-M decoder writes them all.

Training decodes twice. The first pass sees acoustic vectors only and teaches nothing; in the second, some of them are
replaced by embeddings of the reference, more where the first was wrong (the glancing sampler), so that the decoder
learns how neighbouring tokens depend on each other.

Shapes: B utterances, S samples, T encoder frames, F features, D model width, V vocabulary (blank included), U tokens
(end token counted).
Source: Gao et al., "Paraformer: Fast and Accurate Parallel Transformer for Non-autoregressive End-to-End Speech
Recognition", Interspeech 2022, section 2.

Its parts: `paraformer_head` (predictor, sampler, decoder), `ctc_embedder` (Paraformer-v2), `bicif` (timestamps),
`seaco` (hotwords), `paraformer_stream` (streaming).

Differs from the paper:
- the number of embeddings that the sampler shows is rounded down, as in FunASR; there, up.
- CTC beside the cross-entropy, where it is trained, as in FunASR's recipes.
- minimum word error rate training is an option (``mwer``), for a model that cross-entropy has trained.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.audio.fbank import FrontendConfig, KaldiFbankConfig, build_frontend
from speechnar.data.batch import SpeechBatch
from speechnar.decode.align import CtcPath
from speechnar.errors import ConfigError
from speechnar.models.asr.ctc_embedder import CtcEmbedderConfig
from speechnar.models.asr.paraformer_head import CifConfig, ParaformerHead, ParaformerHeadConfig
from speechnar.models.asr.seaco import SeacoBias, SeacoConfig
from speechnar.models.base import AsrModel, LossOutput, ModelConfig
from speechnar.nn.ctc import CtcHead
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.encoder import ConformerConfig, Encoder
from speechnar.nn.frontend import (
    Normalization,
    augmented,
    build_augmenter,
    build_normalizer,
    extended,
    normalized_features,
)
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.sanm import (
    SanmEncoder,
    SanmEncoderConfig,
    WindowConfig,
)
from speechnar.text.tokenizer import Tokenizer

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
PARAFORMER = "paraformer"


class ParaformerConfig(ModelConfig):
    """Configuration of a `Paraformer`; vocabulary and feature width come from elsewhere."""

    kind: Literal["paraformer"] = "paraformer"
    frontend: FrontendConfig = KaldiFbankConfig(lfr_window=7, lfr_shift=6)
    """By default 80 mel bands, seven frames stacked every 60 ms."""
    normalize: Normalization = "global"
    """Of stacked features."""
    encoder: Annotated[SanmEncoderConfig | ConformerConfig, Field(discriminator="kind")] = SanmEncoderConfig()
    head: ParaformerHeadConfig = ParaformerHeadConfig()
    hotwords: SeacoConfig | None = None
    """Hotword modules, trained alone: the rest of the model is then frozen."""
    ctc_weight: float = Field(default=0.0, ge=0, lt=1)
    """Share of the CTC loss beside the cross-entropy; 0 builds no CTC head."""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig(
        freq_masks=1, freq_width=30, time_masks=1, time_ratio=0.1
    )
    """Bands are masked alike in all stacked frames."""

    @model_validator(mode="after")
    def _check(self) -> "ParaformerConfig":
        heads, width = self.head.num_heads, self.encoder.model_dim
        if width % heads:
            raise ValueError(f"head.num_heads must divide the encoder's width {width}, got {heads}")
        if self.head.decoder == "whisper":
            raise ValueError("head.decoder whisper needs a model of kind joint on a Whisper trunk")
        if self.head.embedder.kind == "ctc" and self.ctc_weight == 0:
            raise ValueError("an embedder of kind ctc needs ctc_weight above 0; Paraformer-v2 has 0.5")
        return self

    @classmethod
    def debug(cls) -> "ParaformerConfig":
        """Return a model of well under 1 M parameters with every part present, for tests."""
        return cls(
            encoder=SanmEncoderConfig(model_dim=32, num_layers=2, num_heads=2, ff_dim=64),
            head=ParaformerHeadConfig.debug(),
            ctc_weight=0.3,
        )

    @classmethod
    def small(cls) -> "ParaformerConfig":
        """Return 12 blocks of width 256 and 6 decoder layers (ours)."""
        return cls()

    @classmethod
    def large(cls) -> "ParaformerConfig":
        """Return FunASR's Paraformer-large: 220.0 M parameters with its 8404 tokens."""
        return cls(
            encoder=SanmEncoderConfig(model_dim=512, num_layers=50, ff_dim=2048), head=ParaformerHeadConfig.large()
        )

    @classmethod
    def aishell(cls) -> "ParaformerConfig":
        """Return FunASR's AISHELL recipe: a Conformer encoder, a Transformer decoder, and CTC."""
        return cls(
            frontend=KaldiFbankConfig(),
            normalize="utterance",
            encoder=ConformerConfig(ff_dim=2048, kernel_size=15, conv_norm="batch", attention_dropout=0.0),
            head=ParaformerHeadConfig(
                embedder=CifConfig(conv="depthwise", threshold="fixed"),
                decoder="transformer",
                ff_dim=2048,
                attention_dropout=0.0,
                norm_eps=1e-12,
                glancing_ratio=0.4,
                count_end=False,
            ),
            ctc_weight=0.3,
            spec_augment=SpecAugmentConfig(freq_masks=2, freq_width=30, time_masks=2, time_ratio=0.1),
        )

    @classmethod
    def large_online(cls) -> "ParaformerConfig":
        """Return the large model for streaming: windows of 600 ms and 300 ms ahead, and a causal decoder."""
        large = cls.large()
        encoder = large.encoder.model_copy(update={"windows": WindowConfig()})
        return large.model_copy(update={"encoder": encoder, "head": large.head.model_copy(update={"fsmn_shift": 5})})

    @classmethod
    def large_v2(cls) -> "ParaformerConfig":
        """Return Paraformer-v2 of the size of the large model: tokens cut by CTC, no sampler."""
        head = ParaformerHeadConfig.large().model_copy(update={"embedder": CtcEmbedderConfig(), "glancing_ratio": 0.0})
        return cls.large().model_copy(update={"head": head, "ctc_weight": 0.5})


class Paraformer(AsrModel):
    """The recogniser: features, encoder, head, and CTC beside it where that is trained."""

    num_prefix = 0

    def __init__(self, config: ParaformerConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.blank_id = tokenizer.blank_id
        self.frontend = build_frontend(config.frontend)
        num_features = self.frontend.num_features
        self.normalizer = build_normalizer(config.normalize, num_features)
        self.spec_augment = build_augmenter(config.spec_augment)
        self.encoder = _build_encoder(config.encoder, num_features)
        self.head = ParaformerHead(
            config.head,
            config.encoder.model_dim,
            vocab_size=tokenizer.vocab_size,
            sos_id=tokenizer.id_of("<sos>"),
            eos_id=tokenizer.id_of("<eos>"),
            blank_id=tokenizer.blank_id,
        )
        self.ctc: CtcHead | None = None
        if config.ctc_weight > 0:
            self.ctc = CtcHead(config.encoder.model_dim, tokenizer.vocab_size, blank_id=tokenizer.blank_id)
        self.bias: SeacoBias | None = None
        if config.hotwords is not None:
            self.requires_grad_(False)
            self.bias = SeacoBias(
                config.hotwords,
                config.encoder.model_dim,
                vocab_size=tokenizer.vocab_size,
                sos_id=tokenizer.id_of("<sos>"),
                blank_id=tokenizer.blank_id,
            )

    @classmethod
    def from_config(cls, config: ParaformerConfig, tokenizer: Tokenizer) -> "Paraformer":
        """Build with random weights."""
        return cls(config, tokenizer)

    @property
    def decoder_names(self) -> tuple[str, ...]:
        """What can be asked to decode; the first is the default."""
        return (PARAFORMER,) if self.ctc is None else (PARAFORMER, "ctc")

    @property
    def knows_hotwords(self) -> bool:
        """Whether it has modules for hotwords."""
        return self.bias is not None

    @property
    def sample_rate(self) -> int:
        """What the model hears, in Hz."""
        return self.config.frontend.sample_rate

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one encoder frame to the next."""
        subsampling = self.config.encoder.total_subsampling if isinstance(self.config.encoder, ConformerConfig) else 1
        return float(self.frontend.frame_shift_s) * subsampling

    def features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S) in [-1, 1] to normalised features (B, T, F), float32 under any autocast, and lengths.

        Utterances too short for a frame are extended with zeros to one.
        """
        wav, wav_lens = extended(wav, wav_lens, self.shortest_samples)
        return normalized_features(self.frontend, self.normalizer, wav, wav_lens)

    @property
    def shortest_samples(self) -> int:
        """Samples that make one frame."""
        config = self.config.frontend
        return config.frame_length_samples if isinstance(config, KaldiFbankConfig) else 1

    def encode(self, wav: Tensor, wav_lens: Tensor) -> EncodedSpeech:
        """Encode waveforms.

        Args:
            wav: (B, S) float32 in [-1, 1] at the front end's sample rate; anything beyond ``wav_lens``.
            wav_lens: (B,) samples.
        """
        return self.encode_features(*self.features(wav, wav_lens))

    def encode_features(self, feats: Tensor, feat_lens: Tensor) -> EncodedSpeech:
        """Encode normalised features (B, T, F)."""
        if isinstance(self.encoder, SanmEncoder):
            speech = self.encoder.encode(feats, feat_lens)
        else:
            enc, lens = self.encoder(feats, feat_lens)
            speech = EncodedSpeech(enc=zero_padding(enc, valid_mask(lens, enc.size(1))), lens=lens)
        return speech if self.ctc is None else replace(speech, log_probs=self.ctc(speech.enc))

    def augment(self, feats: Tensor, feat_lens: Tensor) -> Tensor:
        """Mask ``feats`` (B, T, F); a band is masked in all frames that were stacked into one."""
        stacked = feats.size(2) // self.config.frontend.num_mels
        return augmented(self.spec_augment, feats, feat_lens, stacked=stacked)

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return cross-entropy, quantity and CTC losses, in nats per utterance that has a transcript.

        CE and CTC share the weight (1 - w) and w (FunASR); the tokens are those of the transcript alone. A model with
        ``hotwords`` learns these alone.
        """
        feats, feat_lens = self.features(batch.wav, batch.wav_lens)
        speech = self.encode_features(self.augment(feats, feat_lens), feat_lens)
        tokens, token_lens = batch.asr_tokens, batch.asr_token_lens
        if batch.prefix is not None:  # a tokenizer of languages and tasks puts these two before the text
            tokens, token_lens = tokens[:, 2:], token_lens - 2
        if self.bias is not None:
            losses = self._hotword_losses(self.bias, speech, tokens, token_lens)
        else:
            losses = self.head.losses(speech, tokens, token_lens)
            if self.ctc is not None and speech.log_probs is not None:
                losses["ctc"] = self.ctc.loss(speech.log_probs, speech.lens, tokens, token_lens)
        learn, count = batch.asr_valid, batch.asr_valid.sum().clamp(min=1)
        parts = {name: (values * learn).sum() / count for name, values in losses.items()}
        weight = self.config.ctc_weight
        total = parts["hotword"] if self.bias is not None else self.head.total(parts, ce_weight=1 - weight)
        if "ctc" in parts:
            total = total + weight * parts["ctc"]
        num = torch.tensor(float(len(batch.wav)), device=total.device)
        return LossOutput(total=total, parts={k: v.detach() for k, v in parts.items()}, weight=num)

    def _hotword_losses(
        self, bias: SeacoBias, speech: EncodedSpeech, tokens: Tensor, token_lens: Tensor
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            targets, target_lens = self.head.targets(tokens, token_lens)
            cut = self.head.embedder(speech, targets, target_lens)
            valid = valid_mask(target_lens, targets.size(1))
            hidden = self.head.decoder(cut.embeds, valid, *self.head.look(speech, cut))
        ce, inside = bias.loss(cut.embeds, hidden, valid, tokens, token_lens, token_embed=self.head.token_embed)
        return {"hotword": ce, "inside": inside}

    def train(self, mode: bool = True) -> "Paraformer":
        """Switch to training; what is frozen beside hotword modules stays in evaluation mode."""
        super().train(mode)
        if self.bias is not None:
            for module in self.children():
                module.train(mode and module is self.bias)
        return self

    @torch.no_grad()
    def hotword_vectors(self, hotwords: Sequence[Sequence[int]]) -> Tensor:
        """Map the token ids of hotwords to vectors (R, D) for `decode`; they serve every utterance.

        Raises:
            ConfigError: the model was built without ``hotwords``.
            DataError: a hotword is empty, or holds an id outside the vocabulary.
        """
        if self.bias is None:
            raise ConfigError("this model knows no hotwords; train it with hotwords configured")
        return self.bias.embed(hotwords, self.head.token_embed)

    @torch.no_grad()
    def decode(
        self,
        speech: EncodedSpeech,
        decoder: str = PARAFORMER,
        *,
        hotwords: Tensor | None = None,
        hotword_weight: float = 1.0,
    ) -> list[CtcPath]:
        """Return the best hypothesis of each utterance.

        Args:
            speech: of `encode`.
            decoder: the only one that is decoded here; CTC has its own search.
            hotwords: of `hotword_vectors`.
            hotword_weight: 1 lets the bias decoder alone decide about hotwords, 0 ignores it.

        Raises:
            ConfigError: this model has no such decoder.
        """
        if decoder != PARAFORMER:
            raise ConfigError(f"this model decodes with {', '.join(self.decoder_names)}; got {decoder!r}")
        if hotwords is None or self.bias is None:
            return self.head.decode(speech)
        cut = self.head.embedder(speech)
        valid = valid_mask(cut.lens, cut.embeds.size(1))
        hidden = self.head.decoder(cut.embeds, valid, *self.head.look(speech, cut))
        vectors = self.bias.select(hidden, valid, hotwords)
        log_probs = self.head.output(hidden).log_softmax(2, dtype=torch.float32)
        bias_logits = self.bias(cut.embeds, hidden, valid, vectors)
        return self.head.paths(cut, self.bias.merge(log_probs, bias_logits, hotword_weight))

    @torch.no_grad()
    def recognize(self, batch: SpeechBatch) -> list[list[int]]:
        """Return the token ids of each utterance."""
        return [path.tokens for path in self.decode(self.encode(batch.wav, batch.wav_lens))]


def _build_encoder(config: SanmEncoderConfig | ConformerConfig, num_features: int) -> SanmEncoder | Encoder:
    if isinstance(config, SanmEncoderConfig):
        return SanmEncoder(config, num_features)
    return Encoder(config, num_features)
