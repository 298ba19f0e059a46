"""Paraformer: integrate-and-fire finds the number of tokens, one pass of a SAN-M decoder writes them all.

Training decodes twice. The first pass sees acoustic vectors only and teaches nothing; in the second, some of them are
replaced by embeddings of the reference, more where the first was wrong (the glancing sampler), so that the decoder
learns how neighbouring tokens depend on each other.

Shapes: B utterances, S samples, T encoder frames, F features, D model width, V vocabulary (blank included), U tokens
(end token counted).
Source: Gao et al., "Paraformer", Interspeech 2022, section 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.audio.fbank import FrontendConfig, KaldiFbankConfig, build_frontend
from speechnar.config import Config
from speechnar.data.batch import SpeechBatch
from speechnar.decode.align import CtcPath
from speechnar.errors import ConfigError
from speechnar.models.asr.ctc_embedder import CtcEmbedder, HeardEmbedder
from speechnar.models.asr.seaco import SeacoBias, SeacoConfig
from speechnar.models.base import LossOutput
from speechnar.nn.cif import CifEmbeddings, CifPredictor, CifThreshold, PredictorConv, TimestampPredictor, quantity_loss
from speechnar.nn.ctc import CtcHead
from speechnar.nn.embedder import EncodedSpeech, TokenEmbeddings
from speechnar.nn.encoder import ConformerConfig, Encoder
from speechnar.nn.frontend import Normalization, augmented, build_augmenter, build_normalizer, normalized_features
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.mwer import expected_errors, sample_hypotheses
from speechnar.nn.parallel_decoder import ParallelDecoder
from speechnar.nn.sanm import (
    SanmDecoder,
    SanmEncoder,
    SanmEncoderConfig,
    WindowConfig,
    WindowedSpeech,
)
from speechnar.nn.whisper_decoder import WhisperTokenDecoder, look_at_states
from speechnar.text.tokenizer import Tokenizer

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
PARAFORMER = "paraformer"


class CifConfig(Config):
    """Continuous integrate-and-fire."""

    kind: Literal["cif"] = "cif"
    conv: PredictorConv = "full"
    """``full`` as in Paraformer-large; ``depthwise`` as in the AISHELL recipe."""
    smooth_factor: PositiveFloat = 1.0
    """s of alpha = relu(s * sigmoid(x) - n)."""
    noise_threshold: NonNegativeFloat = 0.0
    """n of the same."""
    threshold: CifThreshold = "dynamic"
    """How inference counts: ``dynamic`` as in the paper, ``rounded`` to the nearest, ``fixed`` as in FunASR."""


class CtcEmbedderConfig(Config):
    """CTC posteriors averaged over the frames of each token (Paraformer-v2)."""

    kind: Literal["ctc"] = "ctc"


class HeardEmbedderConfig(Config):
    """The expected embeddings of what CTC heard, for a decoder that knows its token embeddings (``whisper``)."""

    kind: Literal["heard"] = "heard"


class MwerConfig(Config):
    """Minimum word error rate training, for a model that cross-entropy has trained."""

    num_samples: int = Field(default=4, ge=2)
    """Hypotheses of an utterance, the best one counted."""
    mask_prob: float = Field(default=0.1, gt=0, lt=1)
    """Probability that a sample's token gives way to the second best (ours; the paper names none)."""
    ce_weight: NonNegativeFloat = 0.01
    """Weight of the cross-entropy beside it."""


class TimestampConfig(Config):
    """The second weights of BiCIF, which time the tokens."""

    steps_per_frame: PositiveInt = 3
    """Weights for each encoder frame; frames of 60 ms give steps of 20 ms."""
    smooth_factor: PositiveFloat = 0.25
    noise_threshold: NonNegativeFloat = 0.01
    weight: NonNegativeFloat = 0.5
    """Of their quantity loss."""


class ParaformerHeadConfig(Config):
    """Predictor and decoder behind any encoder, of the encoder's width."""

    kind: Literal["paraformer"] = "paraformer"
    embedder: Annotated[CifConfig | CtcEmbedderConfig | HeardEmbedderConfig, Field(discriminator="kind")] = CifConfig()
    decoder: Literal["sanm", "transformer", "whisper"] = "sanm"
    """``transformer``: self-attention in place of the memory, as in the AISHELL recipe. ``whisper``: layers that can
    begin from Whisper's decoder, of its width and with its embeddings, reading the states of a Whisper trunk."""
    num_layers: PositiveInt = 6
    """Decoder layers; a feed-forward module follows those of ``sanm``."""
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 1024
    kernel_size: PositiveInt = 11
    """Of the decoder's memory, in tokens."""
    fsmn_shift: NonNegativeInt = 0
    """Tokens by which the memory's window is moved into the past; (kernel_size - 1) / 2 makes it causal to stream."""
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.1
    norm_eps: float = Field(default=1e-5, gt=0)
    """FunASR's is 1e-12."""
    glancing_ratio: float = Field(default=0.75, ge=0, le=1)
    """Embeddings shown per wrong token of the first pass; 0 leaves the first pass out."""
    label_smoothing: Probability = 0.1
    quantity_weight: NonNegativeFloat = 1.0
    """Weight of the difference between the sum of the weights and the number of tokens."""
    count_end: bool = True
    """Let the sentence end fire as a token of its own; one that CTC counts has no end."""
    mwer: MwerConfig | None = None
    """Also learn the expected number of errors."""
    timestamps: TimestampConfig | None = None
    """Also predict when tokens are spoken."""

    @model_validator(mode="after")
    def _check(self) -> "ParaformerHeadConfig":
        if (self.decoder == "whisper") != (self.embedder.kind == "heard"):
            raise ValueError("a decoder of kind whisper and an embedder of kind heard need each other")
        return self

    @classmethod
    def debug(cls) -> "ParaformerHeadConfig":
        """Return a head with every part present and few parameters, for tests."""
        return cls(num_layers=2, num_heads=2, ff_dim=64)

    @classmethod
    def large(cls) -> "ParaformerHeadConfig":
        """Return the head of FunASR's Paraformer-large, for an encoder of width 512."""
        return cls(embedder=CifConfig(threshold="fixed"), num_layers=16, ff_dim=2048, norm_eps=1e-12)


@dataclass(frozen=True)
class TokenTimes:
    """When the tokens of one path are spoken, in encoder frames and fractions of them."""

    starts: list[float]
    ends: list[float]


class ParaformerHead(nn.Module):
    """A `SpeechDecoder`: token vectors, parallel decoder, output layer, and the embeddings the sampler shows."""

    tables = ("token_embed.weight", "output.weight", "embedder.table.weight")
    """Weights that are token embeddings, and one tensor, with a decoder of kind ``whisper``."""

    def __init__(
        self,
        config: ParaformerHeadConfig,
        model_dim: int,
        *,
        vocab_size: int,
        sos_id: int,
        eos_id: int,
        blank_id: int,
    ) -> None:
        super().__init__()
        self.config = config
        self.eos_id = eos_id
        self.silent_ids = frozenset((sos_id, eos_id, blank_id))
        self.token_embed = nn.Embedding(vocab_size, model_dim)
        self.embedder = _build_embedder(config, self.token_embed, blank_id=blank_id)
        self.counts_end = config.count_end and config.embedder.kind == "cif"
        self.decoder = _build_decoder(config, model_dim)
        self.output = nn.Linear(model_dim, vocab_size, bias=config.decoder != "whisper")
        if config.decoder == "whisper":
            nn.init.normal_(self.token_embed.weight, std=model_dim**-0.5)
            self.output.weight = self.token_embed.weight
        self.timestamps: TimestampPredictor | None = None
        if config.timestamps is not None:
            self.timestamps = TimestampPredictor(
                model_dim,
                steps_per_frame=config.timestamps.steps_per_frame,
                smooth_factor=config.timestamps.smooth_factor,
                noise_threshold=config.timestamps.noise_threshold,
            )

    def loss(self, speech: EncodedSpeech, tokens: Tensor, token_lens: Tensor) -> LossOutput:
        """Return cross-entropy (nats per utterance, label-smoothed) plus the weighted quantity loss.

        The parts are the means of those of `losses`.
        """
        parts = {name: values.float().mean() for name, values in self.losses(speech, tokens, token_lens).items()}
        weight = torch.tensor(float(len(tokens)), device=speech.enc.device)
        return LossOutput(total=self.total(parts), parts={k: v.detach() for k, v in parts.items()}, weight=weight)

    def total(self, parts: dict[str, Tensor], *, ce_weight: float = 1.0) -> Tensor:
        """Return the weighted sum of the parts that are differentiated."""
        mwer, timestamps = self.config.mwer, self.config.timestamps
        total = ce_weight * parts["ce"] if mwer is None else ce_weight * (mwer.ce_weight * parts["ce"] + parts["mwer"])
        if "quantity" in parts:
            total = total + self.config.quantity_weight * parts["quantity"]
        if timestamps is not None:
            total = total + timestamps.weight * parts["times"]
        return total

    def losses(self, speech: EncodedSpeech, tokens: Tensor, token_lens: Tensor) -> dict[str, Tensor]:
        """Return the losses of each utterance, (B,) each.

        ``ce`` nats and ``wrong``, the tokens the first pass got wrong; where configured, ``quantity``, tokens fired too
        many or too few, ``mwer``, the expected errors beyond their mean, and ``times``, the quantity of second weights.
        """
        targets, target_lens = self.targets(tokens, token_lens)
        is_target = valid_mask(target_lens, targets.size(1))
        targets = targets.masked_fill(~is_target, self.eos_id)
        cut = self.embedder(speech, targets, target_lens)
        keys_values, mask = self.look(speech, cut)
        embeds, wrong = cut.embeds, target_lens.new_zeros(len(targets))
        if self.training and self.config.glancing_ratio > 0:
            with torch.no_grad():
                first = self.output(self.decoder(embeds, is_target, keys_values, mask)).argmax(2)
            wrong = ((first != targets) & is_target).sum(1)
            shown = draw_glances(is_target, (self.config.glancing_ratio * wrong).floor().long())
            embeds = self.token_embed(targets).to(embeds.dtype).where(shown[..., None], embeds)
        logits = self.output(self.decoder(embeds, is_target, keys_values, mask))
        ce = F.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.masked_fill(~is_target, -100).flatten(),
            reduction="none",
            label_smoothing=self.config.label_smoothing,
        )
        losses = {"ce": ce.view_as(targets).sum(1), "wrong": wrong}
        if isinstance(cut, CifEmbeddings):
            losses["quantity"] = quantity_loss(cut.alphas, target_lens)
        if self.config.mwer is not None:
            log_probs = logits.log_softmax(2, dtype=torch.float32)
            hyps = sample_hypotheses(log_probs, self.config.mwer.num_samples, self.config.mwer.mask_prob)
            losses["mwer"] = expected_errors(log_probs, hyps, targets, target_lens)
        if self.timestamps is not None:
            losses["times"] = quantity_loss(self.timestamps.alphas(speech.enc, speech.lens), target_lens)
        return losses

    def targets(self, tokens: Tensor, token_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Append the end token to ``tokens`` (B, U) where it is counted; return at least one column, and lengths."""
        if not self.counts_end:
            return (tokens if tokens.size(1) else F.pad(tokens, (0, 1), value=self.eos_id)), token_lens
        targets = F.pad(tokens, (0, 1), value=self.eos_id)
        return targets.scatter(1, token_lens[:, None], self.eos_id), token_lens + 1

    def look(self, speech: EncodedSpeech, cut: TokenEmbeddings) -> tuple[Tensor, Tensor]:
        """Return the keys and values of ``speech``, and the mask (B, 1, 1 or U, frames) of what tokens may see."""
        if isinstance(speech, WindowedSpeech):
            visible = speech.visible((cut.ends - 1).clamp(min=0))
            return self.decoder.project(speech.windows.flatten(1, 2)), visible[:, None]
        if isinstance(self.decoder, WhisperTokenDecoder):
            return look_at_states(self.decoder, speech)
        return self.decoder.project(speech.enc), speech.valid[:, None, None, :]

    @torch.no_grad()
    def decode(self, speech: EncodedSpeech) -> list[CtcPath]:
        """Return the best token of every fire, sentence start, end and blank left out, with the frames it fired on."""
        cut = self.embedder(speech)
        is_token = valid_mask(cut.lens, cut.embeds.size(1))
        hidden = self.decoder(cut.embeds, is_token, *self.look(speech, cut))
        return self.paths(cut, self.output(hidden).log_softmax(2, dtype=torch.float32))

    @torch.no_grad()
    def times(self, speech: EncodedSpeech, paths: Sequence[CtcPath]) -> list[TokenTimes]:
        """Return when the tokens of ``paths``, decoded from ``speech``, are spoken.

        Raises:
            ConfigError: the head was built without ``timestamps``.
        """
        if self.timestamps is None:
            raise ConfigError("this head predicts no times; use the frames of the path, or train it with timestamps")
        lens = torch.tensor([len(path.tokens) for path in paths], device=speech.lens.device)
        starts, ends = self.timestamps.spans(speech.enc, speech.lens, lens)
        if isinstance(speech, WindowedSpeech):
            starts, ends = ((x - speech.config.lead_frames).clamp(min=0) for x in (starts, ends))
        rows = zip(lens.tolist(), starts.tolist(), ends.tolist(), strict=True)
        return [TokenTimes(begin[:num], end[:num]) for num, begin, end in rows]

    def paths(self, cut: TokenEmbeddings, log_probs: Tensor) -> list[CtcPath]:
        """Return the best hypotheses by the log-probabilities (B, U, V) of the tokens of ``cut``."""
        scores, tokens = log_probs.max(2)
        columns = (tokens, cut.starts, cut.ends, scores)
        rows = zip(cut.lens.tolist(), *(column.tolist() for column in columns), strict=True)
        return [self._path(*(column[:num] for column in row)) for num, *row in rows]

    def _path(self, tokens: list[int], starts: list[int], ends: list[int], scores: list[float]) -> CtcPath:
        kept = [i for i, token in enumerate(tokens) if token not in self.silent_ids]
        # Two tokens share the frame on whose weight one ends and the next begins: it counts for the next.
        ends = [*map(min, ends, starts[1:]), *ends[-1:]]
        return CtcPath(
            tokens=[tokens[i] for i in kept],
            starts=[starts[i] for i in kept],
            ends=[ends[i] for i in kept],
            scores=[scores[i] for i in kept],
            total=sum(scores),
        )


def _build_embedder(
    config: ParaformerHeadConfig, table: nn.Embedding, *, blank_id: int
) -> CifPredictor | CtcEmbedder | HeardEmbedder:
    vocab_size, model_dim = table.weight.shape
    match config.embedder:
        case HeardEmbedderConfig():
            return HeardEmbedder(table, blank_id=blank_id)
        case CtcEmbedderConfig():
            return CtcEmbedder(model_dim, vocab_size=vocab_size, blank_id=blank_id, dropout=config.dropout)
        case CifConfig() as embedder:
            return CifPredictor(
                model_dim,
                conv=embedder.conv,
                smooth_factor=embedder.smooth_factor,
                noise_threshold=embedder.noise_threshold,
                threshold=embedder.threshold,
                dropout=config.dropout,
            )


def _build_decoder(config: ParaformerHeadConfig, model_dim: int) -> SanmDecoder | ParallelDecoder | WhisperTokenDecoder:
    sizes = (model_dim, config.num_layers, config.num_heads, config.ff_dim)
    if config.decoder != "sanm":
        decoder_cls = WhisperTokenDecoder if config.decoder == "whisper" else ParallelDecoder
        return decoder_cls(
            *sizes, dropout=config.dropout, attention_dropout=config.attention_dropout, norm_eps=config.norm_eps
        )
    return SanmDecoder(
        *sizes,
        kernel_size=config.kernel_size,
        shift=config.fsmn_shift,
        dropout=config.dropout,
        attention_dropout=config.attention_dropout,
        norm_eps=config.norm_eps,
    )


def draw_glances(is_token: Tensor, counts: Tensor) -> Tensor:
    """Return bool (B, U) with ``counts`` (B,) positions drawn in each row, uniformly among those of ``is_token``."""
    draws = torch.rand(is_token.shape, device=is_token.device).masked_fill(~is_token, 2.0)
    ranks = draws.argsort(dim=1).argsort(dim=1)
    return (ranks < counts[:, None]) & is_token


class ParaformerConfig(Config):
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


class Paraformer(nn.Module):
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
        subsampling = self.config.encoder.subsampling if isinstance(self.config.encoder, ConformerConfig) else 1
        return float(self.frontend.frame_shift_s) * subsampling

    def features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S) in [-1, 1] to normalised features (B, T, F), float32 under any autocast, and lengths.

        Utterances too short for a frame are extended with zeros to one.
        """
        shortest = self.shortest_samples
        wav = zero_padding(wav, valid_mask(wav_lens, wav.size(1)))
        wav = F.pad(wav, (0, max(0, shortest - wav.size(1))))
        return normalized_features(self.frontend, self.normalizer, wav, wav_lens.clamp(min=shortest))

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
