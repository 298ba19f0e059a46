"""Paraformer's predictor, sampler and decoder behind any encoder.

Shapes: B utterances, T encoder frames, D model width, V vocabulary (blank included), U tokens (end token counted).
Source: Gao et al., "Paraformer: Fast and Accurate Parallel Transformer for Non-autoregressive End-to-End Speech
Recognition", Interspeech 2022, sections 2.2 (predictor), 2.3 (sampler) and 2.4 (losses).
"""

from collections.abc import Sequence, Set
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.decode.align import CtcPath
from speechnar.errors import ConfigError
from speechnar.models.asr.bicif import TimestampConfig, TokenTimes
from speechnar.models.asr.ctc_embedder import CtcEmbedder, CtcEmbedderConfig, HeardEmbedder, HeardEmbedderConfig
from speechnar.models.base import LossOutput
from speechnar.nn.cif import CifEmbeddings, CifPredictor, CifThreshold, PredictorConv, TimestampPredictor, quantity_loss
from speechnar.nn.embedder import EncodedSpeech, TokenEmbeddings
from speechnar.nn.lengths import valid_mask
from speechnar.nn.mwer import expected_errors, sample_hypotheses
from speechnar.nn.parallel_decoder import ParallelDecoder
from speechnar.nn.sanm import (
    SanmDecoder,
    WindowedSpeech,
)
from speechnar.nn.whisper_decoder import WhisperTokenDecoder, look_at_states

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]


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


class MwerConfig(Config):
    """Minimum word error rate training, for a model that cross-entropy has trained."""

    num_samples: int = Field(default=4, ge=2)
    """Hypotheses of an utterance, the best one counted."""
    mask_prob: float = Field(default=0.1, gt=0, lt=1)
    """Probability that a sample's token gives way to the second best (ours; the paper names none)."""
    ce_weight: NonNegativeFloat = 0.01
    """Weight of the cross-entropy beside it."""


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
    """Embeddings shown per wrong token of the first pass (the paper's lambda, table 2); 0 leaves that pass out."""
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


class ParaformerHead(nn.Module):
    """A `SpeechDecoder`: token vectors, parallel decoder, output layer, and the embeddings the sampler shows."""

    tables = ("token_embed.weight", "output.weight", "embedder.table.weight")
    """Weights that are token embeddings, and one tensor, with a decoder of kind ``whisper``."""
    embedder: CifPredictor | CtcEmbedder | HeardEmbedder

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
        if config.decoder != "whisper":
            self.embedder = _build_embedder(config, model_dim, vocab_size=vocab_size, blank_id=blank_id)
        self.counts_end = config.count_end and config.embedder.kind == "cif"
        self.decoder = _build_decoder(config, model_dim)
        self.token_embed = nn.Embedding(vocab_size, model_dim)
        self.output = nn.Linear(model_dim, vocab_size, bias=config.decoder != "whisper")
        if config.decoder == "whisper":
            nn.init.normal_(self.token_embed.weight, std=model_dim**-0.5)
            self.output.weight = self.token_embed.weight
            self.embedder = HeardEmbedder(self.token_embed, blank_id=blank_id)
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
        return self.paths(*self.name_fires(speech))

    def name_fires(self, speech: EncodedSpeech) -> tuple[TokenEmbeddings, Tensor]:
        """Return what fires, and the log-probabilities (B, U, V) of its tokens, float32 under any autocast."""
        cut = self.embedder(speech)
        is_token = valid_mask(cut.lens, cut.embeds.size(1))
        hidden = self.decoder(cut.embeds, is_token, *self.look(speech, cut))
        return cut, self.output(hidden).log_softmax(2, dtype=torch.float32)

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
        return audible_paths(tokens, scores, cut.starts, own_ends(cut), cut.lens, silent_ids=self.silent_ids)


def own_ends(cut: TokenEmbeddings) -> Tensor:
    """Return the frames (B, U) after the last one of each token.

    Two tokens share the frame on whose weight one ends and the next begins: it counts for the next.
    """
    following = F.pad(cut.starts[:, 1:], (0, 1))
    is_followed = torch.arange(1, cut.ends.size(1) + 1, device=cut.ends.device) < cut.lens[:, None]
    return torch.minimum(cut.ends, following.where(is_followed, cut.ends))


def audible_paths(
    tokens: Tensor, scores: Tensor, starts: Tensor, ends: Tensor, lens: Tensor, *, silent_ids: Set[int]
) -> list[CtcPath]:
    """Return one path for each row of (B, U) tensors, of the first ``lens`` (B,) tokens that are not silent."""
    columns = (tokens, scores, starts, ends)
    rows = zip(lens.tolist(), *(column.tolist() for column in columns), strict=True)
    return [_audible_path(*(column[:num] for column in row), silent_ids=silent_ids) for num, *row in rows]


def _audible_path(
    tokens: list[int], scores: list[float], starts: list[int], ends: list[int], *, silent_ids: Set[int]
) -> CtcPath:
    kept = [i for i, token in enumerate(tokens) if token not in silent_ids]
    return CtcPath(
        tokens=[tokens[i] for i in kept],
        starts=[starts[i] for i in kept],
        ends=[ends[i] for i in kept],
        scores=[scores[i] for i in kept],
        total=sum(scores),
    )


def _build_embedder(
    config: ParaformerHeadConfig, model_dim: int, *, vocab_size: int, blank_id: int
) -> CifPredictor | CtcEmbedder:
    embedder = config.embedder
    if isinstance(embedder, CtcEmbedderConfig):
        return CtcEmbedder(model_dim, vocab_size=vocab_size, blank_id=blank_id, dropout=config.dropout)
    assert isinstance(embedder, CifConfig), "one of kind heard needs the token embeddings"
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
