"""MAGNeT: sound from masked codes, filled in a few parallel steps.

The codebooks of a codec are learned one at a time: those below are known, spans of frames of this one are masked, those
above are not known. Codebooks above the first depend on their surroundings only (restricted context).

Shapes: B utterances, T frames, K codebooks, V codes of a codebook, D model width, M masked frames.
Source: Ziv et al., "Masked Audio Generation using a Single Non-Autoregressive Transformer", ICLR 2024, section 3.

Differs from the paper:
- a share of the utterances learns with first frames that are known in all codebooks, as those of a prompt are when it
  generates; there, training never has them.
- the codebook to be learned, and whether the condition is left out, are drawn for each utterance, not for a batch.
- the first codebook, which is hardest and depends on the condition most, is drawn more often than the others.
- the condition of classes and small captions is added to every frame (`speechnar.models.sound.code_model`).
- frames know distances only, unless positions are to be absolute, as there.
"""

from typing import Literal, Protocol

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import Self

from speechnar.data.batch import SpeechBatch
from speechnar.data.codes import CodeBatch
from speechnar.decode.mask_predict import MaskPredictConfig, draw_spans
from speechnar.models.base import LossOutput
from speechnar.models.sound.code_model import (
    CodeEmbedding,
    CodeGenerator,
    CodeGeneratorConfig,
    CodeModelConfig,
    Condition,
    TextCondition,
    TextConfig,
    WordsCondition,
    add_condition,
    build_context,
    build_transformer,
    draw_codes_of,
    draw_left_out,
    join_conditions,
)
from speechnar.models.sound.encodec import Encodec, EncodecConfig
from speechnar.text.tokenizer import Tokenizer


class MagnetConfig(CodeGeneratorConfig):
    """The generator and its codec; the defaults are for 10 s of music on a CPU core."""

    kind: Literal["magnet"] = "magnet"
    span_len: PositiveInt = 3
    """Frames that are masked together."""
    reach: NonNegativeInt = 5
    """Frames before and after that a frame sees in codebooks above the first."""
    shares: tuple[float, ...] = (0.4, 0.2, 0.2, 0.2)
    """Of the utterances that learn each codebook."""
    prompted_prob: float = Field(default=0.2, ge=0, le=1)
    """Share of the utterances whose first frames are known in all codebooks, as those of a prompt are."""
    sampling: MaskPredictConfig = MaskPredictConfig(
        steps=(16, 6, 4, 4), temperature=2.0, top_p=0.95, guidance=(3.0, 1.0)
    )
    """How it generates unless it is asked otherwise."""

    @classmethod
    def debug(cls) -> "MagnetConfig":
        """Return the smallest, for tests."""
        return cls(
            codec=EncodecConfig.debug(),
            network=CodeModelConfig.debug(),
            window_frames=24,
            reach=2,
            sampling=MaskPredictConfig(steps=(4, 2, 2, 2), temperature=1.0, guidance=(2.0, 1.0)),
        )

    @classmethod
    def published(cls) -> "MagnetConfig":
        """Return the paper's for music, small, 10 s: 420 M parameters beside codec and text encoder."""
        return cls(
            codec=EncodecConfig.published(),
            network=CodeModelConfig.published(),
            condition=TextConfig(),
            shares=(0.25, 0.25, 0.25, 0.25),
            left_out_prob=0.3,
            prompted_prob=0.0,
            sampling=MaskPredictConfig(),
        )

    @classmethod
    def published_sound(cls) -> "MagnetConfig":
        """Return the paper's for sound, small, 10 s."""
        return cls.published().model_copy(
            update={
                "codec": EncodecConfig.published_sound(),
                "condition": TextConfig(encoder="t5-large", text_dim=1024),
                "left_out_prob": 0.1,
                "sampling": MaskPredictConfig(temperature=3.5, top_p=0.8, guidance=(20.0, 1.0)),
            }
        )

    @model_validator(mode="after")
    def _check(self) -> Self:
        num_codebooks = self.codec.num_codebooks
        if len(self.shares) != num_codebooks or min(self.shares) < 0 or sum(self.shares) <= 0:
            raise ValueError(f"shares must be {num_codebooks} numbers, one of each codebook, got {self.shares}")
        if len(self.sampling.steps) != num_codebooks:
            raise ValueError(f"sampling.steps must be {num_codebooks} numbers, got {self.sampling.steps}")
        if self.span_len >= self.learned_frames:
            raise ValueError(f"span_len must be less than {self.learned_frames} frames, got {self.span_len}")
        return self


class Magnet(CodeGenerator):
    """A condition, and codes of which some are masked, to the masked ones."""

    def __init__(self, config: MagnetConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        self.config = config
        self.transformer = build_transformer(config)

    def features(self, codes: Tensor, codebook: int, condition: Condition, wanted: Tensor | None = None) -> Tensor:
        """Return (B, T, D) of ``codes`` (B, K, T) with masks, for the head of ``codebook``; or of frames ``wanted``."""
        places = torch.arange(codes.size(2), device=codes.device)
        reach = self.config.reach if codebook else None
        context = build_context(self.config.network, condition, places, reach=reach)
        return self.norm(self.transformer(add_condition(self.embed(codes), condition), context, wanted=wanted))

    def forward(self, codes: Tensor, codebook: int, condition: Condition) -> Tensor:
        """Return logits (B, T, V) float32 of ``codebook``.

        Args:
            codes: (B, K, T), V where masked and in the codebooks above.
            codebook: which.
            condition: of each utterance.
        """
        return self.heads[codebook](self.features(codes, codebook, condition)).float()

    def loss(self, batch: SpeechBatch | CodeBatch) -> LossOutput:
        """Return the cross-entropy of masked codes, in nats.

        In training it is the mean over all that are masked, their number ``weight``; a codebook is drawn for each
        utterance. In evaluation mode it is the mean over utterances and codebooks, all of which are masked once, the
        same way every time; ``parts`` has that of each codebook (``nll_0``).

        Raises:
            DataError: as `speechnar.models.sound.code_model.draw_codes_of`.
        """
        return masked_loss(self, batch)

    def predictor(self, condition: Condition, unconditional: Condition | None) -> "MagnetPredictor":
        """Return what `speechnar.decode.mask_predict.mask_predict` asks; ``unconditional`` is for guidance."""
        return MagnetPredictor(self, condition, unconditional)


class MaskedModel(Protocol):
    """A model that learns from masked codes."""

    @property
    def config(self) -> MagnetConfig:
        """Return what it is."""

    codec: Encodec
    condition: WordsCondition | TextCondition
    embed: CodeEmbedding
    heads: nn.ModuleList
    training: bool

    def __call__(self, codes: Tensor, codebook: int, condition: Condition) -> Tensor:
        """Return logits (B, T, V) as `Magnet.forward`."""


def masked_loss(model: MaskedModel, batch: SpeechBatch | CodeBatch) -> LossOutput:
    """Return `Magnet.loss` of a model with its ``config``, ``codec``, ``condition`` and ``forward``."""
    config = model.config
    generator = None if model.training else torch.Generator(batch.tokens.device).manual_seed(0)
    codes = draw_codes_of(batch, model.codec, config.learned_frames, generator)
    count, device = len(codes), codes.device
    if model.training:
        left_out = draw_left_out(count, config.left_out_prob, device)
        condition = model.condition(batch.tokens, batch.token_lens, left_out)
        # On the CPU: which utterances go together must not wait for the device.
        drawn = torch.multinomial(torch.tensor(config.shares), count, replacement=True)
        losses, weights = [], []
        for codebook in range(config.codec.num_codebooks):
            index = (drawn == codebook).nonzero()[:, 0].to(device)
            if len(index):
                nll, masked = _masked_nll(model, codes[index], codebook, condition.rows(index), None)
                losses.append(nll.sum())
                weights.append(masked.sum())
            else:  # several processes must all have a gradient of every weight
                losses += [0.0 * weight.sum() for weight in model.heads[codebook].parameters()]
        weight = torch.stack(weights).sum().clamp(min=1)
        return LossOutput(torch.stack(losses).sum() / weight, weight=weight)
    condition = model.condition(batch.tokens, batch.token_lens, torch.zeros(count, dtype=torch.bool, device=device))
    parts = {}
    for codebook in range(config.codec.num_codebooks):
        nll, masked = _masked_nll(model, codes, codebook, condition, generator)
        parts[f"nll_{codebook}"] = (nll.sum(1) / masked.sum(1)).mean()
    return LossOutput(torch.stack(list(parts.values())).mean(), parts, torch.tensor(float(count), device=device))


def _masked_nll(
    model: MaskedModel, codes: Tensor, codebook: int, condition: Condition, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Mask spans of ``codebook``; return the nats (B, T) of its codes, 0 where not masked, and what is masked."""
    rates = torch.cos(torch.rand(len(codes), generator=generator, device=codes.device) * (torch.pi / 2))
    masked = draw_spans(rates, codes.size(2), model.config.span_len, generator)
    above = torch.arange(codes.size(1), device=codes.device)[:, None] > codebook
    if model.training:
        coins, ends = torch.rand(2, len(codes), 1, device=codes.device)
        is_prompted = coins < model.config.prompted_prob
        prompted = is_prompted & (torch.arange(codes.size(2), device=codes.device) < ends * codes.size(2))
        masked, above = masked & ~prompted, above & ~prompted[:, None]
    given = codes.masked_fill(above, model.embed.mask_id)
    given[:, codebook] = given[:, codebook].masked_fill(masked, model.embed.mask_id)
    logits = model(given, codebook, condition)
    nll = F.cross_entropy(logits.transpose(1, 2), codes[:, codebook], reduction="none")
    return nll * masked, masked


class MagnetPredictor:
    """A `speechnar.decode.mask_predict.Predictor`: all layers but the last at every frame, these where it is asked."""

    def __init__(self, model: Magnet, condition: Condition, unconditional: Condition | None) -> None:
        self.model = model
        self.mask_id = model.embed.mask_id
        self.condition = condition.keep()
        self.both = None if unconditional is None else join_conditions([condition, unconditional]).keep()

    def begin(self, codes: Tensor, codebook: int) -> None:
        """Nothing is prepared."""

    def __call__(
        self, codes: Tensor, codebook: int, positions: Tensor, *, is_guided: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits (B, M, V) with the condition and without."""
        condition = self.both if is_guided and self.both is not None else self.condition
        if condition is self.both:
            codes, positions = torch.cat([codes, codes]), torch.cat([positions, positions])
        features = self.model.features(codes, codebook, condition, positions)
        return split_guided(self.model.heads[codebook](features).float(), is_guided=condition is self.both)


def split_guided(logits: Tensor, *, is_guided: bool) -> tuple[Tensor, Tensor | None]:
    """Return both halves of (2 B, M, V), or logits (B, M, V) and None."""
    if not is_guided:
        return logits, None
    condition, unconditional = logits.chunk(2)
    return condition, unconditional
