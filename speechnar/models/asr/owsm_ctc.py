"""OWSM-CTC: recognition, translation and language identification by one encoder with CTC everywhere.

An utterance's encoder positions begin with two embeddings, its language (or ``<nolang>``) and its task. Text spoken
before it is encoded by a small Transformer and read by cross-attention in every third block. After some blocks the
shared CTC head is applied, and its posteriors are fed back (self-conditioning); the earlier heads learn the transcript
whatever the task, the later ones the task's target. Every target begins with ``<language><task>``, so the first token
of a greedy path names the language.

Shapes: B utterances, S samples, T feature frames, T' encoder positions (two prefix positions, then frames),
F features, D model width, V vocabulary (blank included), U tokens, M prompt tokens.
Sources: Peng et al., "OWSM-CTC: An Open Encoder-Only Speech Foundation Model", ACL 2024, section 3; Nozaki and
Komatsu, "Relaxing the Conditional Independence Assumption of CTC-based ASR by Conditioning on Intermediate
Predictions", 2021 (self-conditioning); Yao et al., "CR-CTC: Consistency regularization on CTC", ICLR 2025, section 3.2.

Differs from the paper:
- utterances need not be padded to 30 s, unless ``clip_s`` says that the model was trained on nothing else.
- ``prompt=None`` leaves out prefix and prompt: a plain self-conditioned CTC recogniser, or one without intermediate
  heads, on a Zipformer for one, which CR-CTC's authors have.
- ``consistency_weight`` adds CR-CTC.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.augment import SpecAugmentConfig
from speechnar.audio.fbank import AnyFrontendConfig, LogMelConfig, build_frontend
from speechnar.config import Config
from speechnar.data.batch import SpeechBatch
from speechnar.decode.ctc import collapse
from speechnar.errors import ConfigError
from speechnar.models.base import AsrModel, LossOutput, ModelConfig
from speechnar.nn.context import Chunking
from speechnar.nn.ctc import CtcHead, CtcPosteriors, fits
from speechnar.nn.encoder import EBranchformerConfig, Encoder
from speechnar.nn.frontend import Normalization, augmented, build_augmenter, build_normalizer, normalized_features
from speechnar.nn.lengths import valid_mask
from speechnar.nn.positions import sinusoids
from speechnar.nn.pretrained import PretrainedTrunk
from speechnar.nn.transformer import TransformerEncoder
from speechnar.nn.trunks import EncoderConfig, build_encoder, check_frontend
from speechnar.nn.zipformer import Zipformer, ZipformerConfig
from speechnar.text.tokenizer import Tokenizer


class PromptConfig(Config):
    """Encoder of the previous text; the defaults are the published ones."""

    model_dim: PositiveInt = 512
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 8
    ff_dim: PositiveInt = 2048
    dropout: float = Field(default=0.1, ge=0, lt=1)
    norm_eps: float = Field(default=1e-12, gt=0)


class OwsmCtcConfig(ModelConfig):
    """Every hyper-parameter of the model; the defaults are those of our ``base``."""

    kind: Literal["owsm_ctc"] = "owsm_ctc"
    frontend: AnyFrontendConfig = LogMelConfig()
    normalize: Normalization = "global"
    encoder: EncoderConfig = EBranchformerConfig(
        model_dim=384,
        num_layers=9,
        num_heads=6,
        ff_dim=1536,
        gate_dim=1536,
        positions="absolute",
        subsampling=8,
        cross_attention_every=3,
    )
    interctc_layers: tuple[PositiveInt, ...] = (3, 6)
    """Blocks (1-based) behind which the CTC head is applied and fed back."""
    interctc_asr_only: tuple[bool, ...] = (True, False)
    """For each of them: True learns the transcript whatever the task is."""
    interctc_weight: float = Field(default=0.5, ge=0, lt=1)
    """Share of the mean of the intermediate losses in the total; the published models weigh all heads equally."""
    interctc_norm: bool = False
    """The encoder's last norm stands before the intermediate heads as well, as in ESPnet's Conformer."""
    prompt: PromptConfig | None = PromptConfig(model_dim=384, num_layers=4, num_heads=6, ff_dim=1536)
    """None: no prompt, language or task; targets are plain text."""
    spec_augment: SpecAugmentConfig | None = SpecAugmentConfig()
    consistency_weight: NonNegativeFloat = 0.0
    """CR-CTC: weight of the divergence between the posteriors of two differently masked copies; 0.2 in the paper."""
    clip_s: PositiveFloat | None = None
    """Seconds that the model knows its clips to last: recognition pads shorter ones with silence. None: any length."""

    @model_validator(mode="after")
    def _check(self) -> "OwsmCtcConfig":
        layers = self.interctc_layers
        if len(self.interctc_asr_only) != len(layers):
            raise ValueError(f"interctc_asr_only needs {len(layers)} values, one for each of interctc_layers")
        if list(layers) != sorted(set(layers)) or (layers and layers[-1] >= self.encoder.num_layers):
            raise ValueError(f"interctc_layers must rise and stay below num_layers={self.encoder.num_layers}")
        if self.prompt is not None and not self.encoder.num_layers:
            raise ValueError(
                "the blocks on a pretrained encoder read the prompt; set encoder.blocks, or prompt to null"
            )
        if isinstance(self.encoder, ZipformerConfig) and (layers or self.prompt is not None):
            raise ValueError("a zipformer has neither intermediate heads nor a prompt; leave both out")
        if getattr(self.encoder, "num_adapters", 0) and (layers or self.prompt is not None):
            raise ValueError(
                "behind num_adapters positions are others than behind blocks: leave interctc_layers empty, and set "
                "prompt to null"
            )
        check_frontend(self.frontend.kind, self.encoder.kind)
        return self

    @classmethod
    def debug(cls) -> "OwsmCtcConfig":
        """Return a model of well under 1 M parameters with every part present, for tests."""
        return cls(
            encoder=_published_encoder(model_dim=48, num_layers=4, num_heads=2, subsampling_channels=8),
            interctc_layers=(1, 2),
            interctc_asr_only=(True, False),
            prompt=PromptConfig(model_dim=32, num_layers=1, num_heads=1, ff_dim=64),
        )

    @classmethod
    def small(cls) -> "OwsmCtcConfig":
        """Return 6 blocks of width 256 (ours; no OWSM-CTC of this size was published)."""
        return cls(
            encoder=_published_encoder(model_dim=256, num_layers=6, num_heads=4),
            interctc_layers=(2, 4),
            prompt=PromptConfig(model_dim=256, num_layers=2, num_heads=4, ff_dim=1024),
        )

    @classmethod
    def base(cls) -> "OwsmCtcConfig":
        """Return 9 blocks of width 384, the width of OWSM base (ours)."""
        return cls()

    @classmethod
    def published(cls, *, num_mels: int = 128) -> "OwsmCtcConfig":
        """Return the 1.01 B model: 128 mel bands for OWSM-CTC v4, 80 for v3.1 and v3.2."""
        return cls(
            frontend=LogMelConfig(num_mels=num_mels),
            encoder=_published_encoder(model_dim=1024, num_layers=27, num_heads=16),
            interctc_layers=(6, 12, 15, 21),
            interctc_asr_only=(True, True, True, False),
            interctc_weight=0.8,
            prompt=PromptConfig(),
            clip_s=30.0,
        )


def _published_encoder(
    *, model_dim: int, num_layers: int, num_heads: int, subsampling_channels: int | None = None
) -> EBranchformerConfig:
    return EBranchformerConfig(
        model_dim=model_dim,
        num_layers=num_layers,
        num_heads=num_heads,
        ff_dim=4 * model_dim,
        gate_dim=4 * model_dim,
        positions="absolute",
        subsampling=8,
        subsampling_channels=subsampling_channels,
        cross_attention_every=3,
    )


@dataclass(frozen=True, kw_only=True)
class CtcOutput:
    """What the CTC heads say about a batch."""

    posteriors: CtcPosteriors
    """(B, T', V) of the last head; the first ``num_prefix`` positions belong to the prefix."""
    lens: Tensor
    """(B,) positions, prefix counted."""
    inter: tuple[CtcPosteriors, ...] = ()
    """The same of the intermediate heads, first to last."""
    states: Tensor | None = None
    """(B, N, E) of the pretrained encoder, if there is one, 0 in padding."""
    state_lens: Tensor | None = None
    """(B,) of ``states``."""

    @property
    def enc(self) -> Tensor:
        """(B, T', D)."""
        return self.posteriors.enc

    @property
    def log_probs(self) -> Tensor:
        """(B, T', V) float32 of the last head."""
        return self.posteriors.log_probs

    @property
    def inter_log_probs(self) -> tuple[Tensor, ...]:
        """The same of the intermediate heads."""
        return tuple(posteriors.log_probs for posteriors in self.inter)


class PromptEncoder(nn.Module):
    """Embeds language, task and previous text, and brings them to the width of the speech encoder."""

    def __init__(self, config: PromptConfig, vocab_size: int, out_dim: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, config.model_dim)
        self.encoder = TransformerEncoder(
            config.model_dim,
            config.num_layers,
            config.num_heads,
            config.ff_dim,
            dropout=config.dropout,
            norm_eps=config.norm_eps,
        )
        # As in ESPnet, equal widths need no projection.
        same = config.model_dim == out_dim
        self.prefix_proj = nn.Identity() if same else nn.Linear(config.model_dim, out_dim)
        self.memory_proj = nn.Identity() if same else nn.Linear(config.model_dim, out_dim)

    def embed_prefix(self, prefix: Tensor) -> Tensor:
        """Map the ids of language and task (B, 2) to (B, 2, D)."""
        embedded: Tensor = self.prefix_proj(self.embed(prefix))
        return embedded

    def forward(self, prompt: Tensor, prompt_lens: Tensor) -> Tensor:
        """Map previous text (B, M) to memory (B, M, D)."""
        x = self.embed(prompt)
        x = x * x.size(2) ** 0.5 + sinusoids(torch.arange(x.size(1), device=x.device), x.size(2))
        memory: Tensor = self.memory_proj(self.encoder(x, prompt_lens))
        return memory


class OwsmCtc(AsrModel):
    """The recogniser: features, encoder, shared self-conditioned CTC head."""

    def __init__(self, config: OwsmCtcConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = config
        self.blank_id = tokenizer.blank_id
        self.frontend = build_frontend(config.frontend)
        num_features = self.frontend.num_features
        self.normalizer = build_normalizer(config.normalize, num_features)
        self.spec_augment = build_augmenter(config.spec_augment)
        self.encoder = build_encoder(config.encoder, num_features)
        model_dim = config.encoder.model_dim
        self.ctc = CtcHead(model_dim, tokenizer.vocab_size, blank_id=tokenizer.blank_id)
        self.conditioning = nn.Linear(tokenizer.vocab_size, model_dim) if config.interctc_layers else None
        self.prompt_encoder: PromptEncoder | None = None
        if config.prompt is not None:
            self.prompt_encoder = PromptEncoder(config.prompt, tokenizer.vocab_size, model_dim)
            self.na_id = tokenizer.id_of("<na>")
            self.default_prefix = (tokenizer.id_of("<nolang>"), tokenizer.id_of("<asr>"))

    @classmethod
    def from_config(cls, config: OwsmCtcConfig, tokenizer: Tokenizer) -> "OwsmCtc":
        """Build with random weights."""
        return cls(config, tokenizer)

    @property
    def decoder_names(self) -> tuple[str, ...]:
        """What can be asked to decode."""
        return ("ctc",)

    @property
    def blocks(self) -> Encoder | None:
        """The encoder's own blocks; None of a Zipformer, or on a pretrained encoder without any."""
        if isinstance(self.encoder, PretrainedTrunk):
            return self.encoder.blocks
        return self.encoder if isinstance(self.encoder, Encoder) else None

    @property
    def num_prefix(self) -> int:
        """Positions of the output that belong to language and task, before the first frame."""
        return 0 if self.prompt_encoder is None else 2

    @property
    def sample_rate(self) -> int:
        """What the model hears, in Hz."""
        return int(self.config.frontend.sample_rate)

    @property
    def frame_shift_s(self) -> float:
        """Seconds from one output frame to the next."""
        return float(self.frontend.frame_shift_s) * self.config.encoder.total_subsampling

    @property
    def clip_s(self) -> float | None:
        """Seconds to which recognition pads shorter clips; None: it does not."""
        return self.config.clip_s

    def features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S) in [-1, 1] to normalised features (B, T, F), float32 under any autocast, and lengths.

        What is frozen of a pretrained encoder counts as part of feature extraction.
        """
        feats, feat_lens = normalized_features(self.frontend, self.normalizer, wav, wav_lens)
        if isinstance(self.encoder, PretrainedTrunk):
            return self.encoder.pretrained.frozen(feats, feat_lens)
        return feats, feat_lens

    def frozen_weights(self) -> Iterator[Tensor]:
        """Yield what of the encoder is never trained; `features` depends on it."""
        if isinstance(self.encoder, PretrainedTrunk):
            for part in self.encoder.pretrained.frozen_parts():
                yield from part.parameters()

    def depth_of(self, name: str) -> int:
        """Return how deep in a pretrained encoder the parameter ``name`` lies; 0 outside of one."""
        part, _, rest = name.partition(".")
        return self.encoder.depth_of(rest) if part == "encoder" and isinstance(self.encoder, PretrainedTrunk) else 0

    def adopt(self, kind: str, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> dict[str, Tensor]:
        """Return the weights of a model of ``kind`` under our names: of our encoder's kind, those of its encoder."""
        if kind != self.config.encoder.kind:
            return super().adopt(kind, weights, tokenizer)
        half = "encoder."
        return {f"{half}{kind}.{name.removeprefix(half)}": w for name, w in weights.items() if name.startswith(half)}

    def features_of(self, batch: SpeechBatch) -> tuple[Tensor, Tensor]:
        """Return the features of `features` and their lengths, read from ``batch`` where they are stored in it."""
        if batch.feats is not None and batch.feat_lens is not None:
            return batch.feats, batch.feat_lens
        return self.features(batch.wav, batch.wav_lens)

    def encode(
        self,
        wav: Tensor,
        wav_lens: Tensor,
        *,
        prefix: Tensor | None = None,
        prompt: Tensor | None = None,
        prompt_lens: Tensor | None = None,
        chunking: Chunking | None = None,
    ) -> CtcOutput:
        """Encode waveforms.

        Args:
            wav: (B, S) float32 in [-1, 1] at the front end's sample rate.
            wav_lens: (B,) samples.
            prefix: (B, 2) ids of language and task; None asks for recognition of an unknown language.
            prompt: (B, M) ids of the previous text; None means there is none (``<na>``).
            prompt_lens: (B,) tokens of ``prompt``.
            chunking: limited context, for streaming; None sees the whole utterance.

        Raises:
            ConfigError: a prefix or a prompt is given to a model that has none, or ``chunking`` to a pretrained
                encoder.
        """
        feats, feat_lens = self.features(wav, wav_lens)
        return self.encode_features(
            feats, feat_lens, prefix=prefix, prompt=prompt, prompt_lens=prompt_lens, chunking=chunking
        )

    def encode_features(
        self,
        feats: Tensor,
        feat_lens: Tensor,
        *,
        prefix: Tensor | None = None,
        prompt: Tensor | None = None,
        prompt_lens: Tensor | None = None,
        chunking: Chunking | None = None,
    ) -> CtcOutput:
        """Encode what `features` returns, (B, T, F) and (B,); the rest as in `encode`."""
        batch = feats.size(0)
        prefix_embeds, memory = None, None
        if self.prompt_encoder is not None:
            if prefix is None:
                prefix = torch.tensor(self.default_prefix, device=feats.device).expand(batch, 2)
            prefix_embeds = self.prompt_encoder.embed_prefix(prefix)
            if prompt is None or prompt_lens is None:
                prompt = torch.tensor([[self.na_id]], device=feats.device)
                prompt_lens = torch.ones(1, dtype=torch.int64, device=feats.device)
            memory = self.prompt_encoder(prompt, prompt_lens).expand(batch, -1, -1)
            prompt_lens = prompt_lens.expand(batch)
        elif prefix is not None or prompt is not None:
            raise ConfigError("this model takes neither language and task nor a prompt; leave them out")
        inter: list[CtcPosteriors] = []
        states = state_lens = None
        if isinstance(self.encoder, PretrainedTrunk):
            if chunking is not None:
                raise ConfigError(
                    f"an encoder of kind {self.encoder.kind} sees the whole utterance; leave out chunking"
                )
            feats, feat_lens = states, state_lens = self.encoder.pretrained(feats, feat_lens)
        enc, lens = feats, feat_lens
        if isinstance(self.encoder, Zipformer):
            if chunking is not None:
                raise ConfigError("a Zipformer sees the whole utterance; leave out chunking")
            enc, lens = self.encoder(feats, feat_lens)
        if self.blocks is not None:
            enc, lens = self.blocks(
                feats,
                feat_lens,
                prefix=prefix_embeds,
                memory=memory,
                memory_lens=prompt_lens,
                after_layer=lambda number, x: self.condition(number, x, inter),
                chunking=chunking,
            )
        return CtcOutput(
            posteriors=CtcPosteriors(self.ctc, enc),
            lens=lens,
            inter=tuple(inter),
            states=states,
            state_lens=state_lens,
        )

    def condition(self, number: int, x: Tensor, inter: list[CtcPosteriors]) -> Tensor:
        """Behind the blocks of ``interctc_layers``, append the head's output to ``inter`` and feed it back.

        Peng et al. 2024, equations 5 to 7; `speechnar.nn.encoder.Encoder` calls it after every block.
        """
        if number not in self.config.interctc_layers:
            return x
        assert self.conditioning is not None and self.blocks is not None
        inter.append(CtcPosteriors(self.ctc, self.blocks.norm(x) if self.config.interctc_norm else x))
        return x + inter[-1].fed_into(self.conditioning)

    def loss(self, batch: SpeechBatch) -> LossOutput:
        """Return the weighted CTC losses of all heads, in nats per utterance (Peng et al. 2024, equation 9)."""
        return self.loss_and_output(batch)[0]

    def loss_and_output(self, batch: SpeechBatch) -> tuple[LossOutput, CtcOutput]:
        """Return the loss and what it was computed from, of several masked copies with ``consistency_weight``."""
        feats, feat_lens = self.features_of(batch)
        prefix, prompt, prompt_lens = batch.prefix, batch.prompt, batch.prompt_lens
        if self.prompt_encoder is None:
            prefix = prompt = prompt_lens = None
        copies = 2 if self.training and self.config.consistency_weight > 0 else 1
        feats, feat_lens = _repeat(feats, copies), _repeat(feat_lens, copies)
        feats = augmented(self.spec_augment, feats, feat_lens)
        out = self.encode_features(
            feats,
            feat_lens,
            prefix=None if prefix is None else _repeat(prefix, copies),
            prompt=None if prompt is None else _repeat(prompt, copies),
            prompt_lens=None if prompt_lens is None else _repeat(prompt_lens, copies),
        )
        task = (batch.tokens, batch.token_lens, batch.tokens_valid)
        asr = (batch.asr_tokens, batch.asr_token_lens, batch.asr_valid)
        ctc = self._ctc_loss(out.log_probs, out.lens, *task)
        parts = {"ctc": ctc}
        total = ctc
        if out.inter:
            inter_losses = [
                self._ctc_loss(posteriors.log_probs, out.lens, *(asr if asr_only else task))
                for posteriors, asr_only in zip(out.inter, self.config.interctc_asr_only, strict=True)
            ]
            parts |= {f"interctc{n}": loss for n, loss in zip(self.config.interctc_layers, inter_losses, strict=True)}
            weight = self.config.interctc_weight
            total = (1 - weight) * ctc + weight * torch.stack(inter_losses).mean()
        if copies == 2:
            parts["consistency"] = _consistency(out.log_probs, out.lens)
            total = total + self.config.consistency_weight * parts["consistency"]
        parts["unfit"] = (~fits(out.lens[: batch.wav.size(0)], batch.tokens, batch.token_lens)).float().mean()
        weight_sum = torch.tensor(float(batch.wav.size(0)), device=batch.wav.device)
        return LossOutput(total=total, parts={k: v.detach() for k, v in parts.items()}, weight=weight_sum), out

    def _ctc_loss(
        self, log_probs: Tensor, lens: Tensor, tokens: Tensor, token_lens: Tensor, is_valid: Tensor
    ) -> Tensor:
        """Return the mean over utterances that have a target (not ``<na>``); those that do not fit count 0.

        ``log_probs`` may hold several copies of the batch (2 B, ...), all with the same targets.
        """
        copies = log_probs.size(0) // tokens.size(0)
        is_valid = _repeat(is_valid, copies)
        losses = self.ctc.loss(log_probs, lens, _repeat(tokens, copies), _repeat(token_lens, copies))
        return (losses * is_valid).sum() / is_valid.sum().clamp(min=1)

    @torch.no_grad()
    def recognize(self, batch: SpeechBatch) -> list[list[int]]:
        """Return the greedy token ids of each utterance, specials included."""
        return self.best_tokens(self.encode_batch(batch))

    def encode_batch(self, batch: SpeechBatch) -> CtcOutput:
        """Encode the speech of ``batch``, or its stored features, told what it tells of language, task and prompt."""
        feats, feat_lens = self.features_of(batch)
        if self.prompt_encoder is None:
            return self.encode_features(feats, feat_lens)
        return self.encode_features(
            feats, feat_lens, prefix=batch.prefix, prompt=batch.prompt, prompt_lens=batch.prompt_lens
        )

    def best_tokens(self, out: CtcOutput) -> list[list[int]]:
        """Return the token ids of the best path of the last head, specials included."""
        best = out.posteriors.best()
        return [path.tokens for path in collapse(best.classes, best.scores, out.lens, self.blank_id)]


def _repeat(x: Tensor, copies: int) -> Tensor:
    return x if copies == 1 else torch.cat([x] * copies)


def _consistency(log_probs: Tensor, lens: Tensor) -> Tensor:
    """Return the symmetric divergence between the posteriors of the two halves of the batch, in nats per utterance.

    Each side is pulled to the other's posteriors as constants (Yao et al. 2025, equation 4).
    """
    first, second = log_probs.chunk(2)
    valid = valid_mask(lens.chunk(2)[0], first.size(1))[..., None]
    divergence = F.kl_div(first, second.detach(), reduction="none", log_target=True)
    divergence = divergence + F.kl_div(second, first.detach(), reduction="none", log_target=True)
    return (divergence * valid).sum() / (2 * first.size(0))
