"""Paraformer: integrate-and-fire finds the number of tokens, one pass of a SAN-M decoder writes them all.

Training decodes twice. The first pass sees acoustic vectors only and teaches nothing; in the second, some of them are
replaced by embeddings of the reference, more where the first was wrong (the glancing sampler), so that the decoder
learns how neighbouring tokens depend on each other.

Shapes: B utterances, T encoder frames, D model width, V vocabulary (blank included), U tokens (end token counted).
Source: Gao et al., "Paraformer", Interspeech 2022, section 2.
"""

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.decode.align import CtcPath
from speechnar.models.base import LossOutput
from speechnar.nn.cif import CifPredictor, CifThreshold, PredictorConv, quantity_loss
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from speechnar.nn.sanm import SanmDecoder

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
    """How inference counts: ``dynamic`` as in the paper, ``fixed`` as in FunASR."""


class ParaformerHeadConfig(Config):
    """Predictor and decoder behind any encoder, of the encoder's width."""

    kind: Literal["paraformer"] = "paraformer"
    embedder: CifConfig = CifConfig()
    num_layers: PositiveInt = 6
    """Decoder layers with a memory and cross-attention; a feed-forward module follows them."""
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 1024
    kernel_size: PositiveInt = 11
    """Of the decoder's memory, in tokens."""
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
    """Let the sentence end fire as a token of its own."""

    @classmethod
    def debug(cls) -> "ParaformerHeadConfig":
        """Return a head with every part present and few parameters, for tests."""
        return cls(num_layers=2, num_heads=2, ff_dim=64)


class ParaformerHead(nn.Module):
    """A `SpeechDecoder`: token vectors, parallel decoder, output layer, and the embeddings the sampler shows."""

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
        self.embedder = CifPredictor(
            model_dim,
            conv=config.embedder.conv,
            smooth_factor=config.embedder.smooth_factor,
            noise_threshold=config.embedder.noise_threshold,
            threshold=config.embedder.threshold,
            dropout=config.dropout,
        )
        self.decoder = SanmDecoder(
            model_dim,
            config.num_layers,
            config.num_heads,
            config.ff_dim,
            kernel_size=config.kernel_size,
            dropout=config.dropout,
            attention_dropout=config.attention_dropout,
            norm_eps=config.norm_eps,
        )
        self.token_embed = nn.Embedding(vocab_size, model_dim)
        self.output = nn.Linear(model_dim, vocab_size)

    def loss(self, speech: EncodedSpeech, tokens: Tensor, token_lens: Tensor) -> LossOutput:
        """Return cross-entropy (nats per utterance, label-smoothed) plus the weighted quantity loss.

        Parts: ``ce``, ``quantity``, and ``wrong``, the tokens per utterance that the first pass got wrong.
        """
        targets, target_lens = self._targets(tokens, token_lens)
        is_target = valid_mask(target_lens, targets.size(1))
        targets = targets.masked_fill(~is_target, self.eos_id)
        cut = self.embedder(speech, targets, target_lens)
        keys_values = self.decoder.project(speech.enc)
        mask = speech.valid[:, None, None, :]
        embeds, wrong = cut.embeds, is_target.new_zeros(len(targets), dtype=torch.int64)
        if self.training and self.config.glancing_ratio > 0:
            with torch.no_grad():
                first = self.output(self.decoder(embeds, is_target, keys_values, mask)).argmax(2)
            wrong = ((first != targets) & is_target).sum(1)
            shown = draw_glances(is_target, (self.config.glancing_ratio * wrong).floor().long())
            embeds = self.token_embed(targets).to(embeds.dtype).where(shown[..., None], embeds)
        logits = self.output(self.decoder(embeds, is_target, keys_values, mask))
        ce = self._cross_entropy(logits, targets.masked_fill(~is_target, -100))
        quantity = quantity_loss(cut.alphas, target_lens).mean()
        parts = {"ce": ce.detach(), "quantity": quantity.detach(), "wrong": wrong.float().mean()}
        weight = torch.tensor(float(len(targets)), device=ce.device)
        return LossOutput(total=ce + self.config.quantity_weight * quantity, parts=parts, weight=weight)

    def _targets(self, tokens: Tensor, token_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Append the end token where it is counted; leave at least one column."""
        if not self.config.count_end:
            return (tokens if tokens.size(1) else F.pad(tokens, (0, 1), value=self.eos_id)), token_lens
        targets = F.pad(tokens, (0, 1), value=self.eos_id)
        return targets.scatter(1, token_lens[:, None], self.eos_id), token_lens + 1

    def _cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        summed = F.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            reduction="sum",
            label_smoothing=self.config.label_smoothing,
        )
        return summed / targets.size(0)

    @torch.no_grad()
    def decode(self, speech: EncodedSpeech) -> list[CtcPath]:
        """Return the best token of every fire, sentence start, end and blank left out, with the frames it fired on."""
        cut = self.embedder(speech)
        is_token = valid_mask(cut.lens, cut.embeds.size(1))
        hidden = self.decoder(cut.embeds, is_token, self.decoder.project(speech.enc), speech.valid[:, None, None, :])
        scores, tokens = self.output(hidden).log_softmax(2, dtype=torch.float32).max(2)
        columns = (tokens, cut.starts, cut.ends, scores)
        rows = zip(cut.lens.tolist(), *(column.tolist() for column in columns), strict=True)
        return [self._path(*(column[:num] for column in row)) for num, *row in rows]

    def _path(self, tokens: list[int], starts: list[int], ends: list[int], scores: list[float]) -> CtcPath:
        kept = [i for i, token in enumerate(tokens) if token not in self.silent_ids]
        return CtcPath(
            tokens=[tokens[i] for i in kept],
            starts=[starts[i] for i in kept],
            ends=[ends[i] for i in kept],
            scores=[scores[i] for i in kept],
            total=sum(scores),
        )


def draw_glances(is_token: Tensor, counts: Tensor) -> Tensor:
    """Return bool (B, U) with ``counts`` (B,) positions drawn in each row, uniformly among those of ``is_token``."""
    draws = torch.rand(is_token.shape, device=is_token.device).masked_fill(~is_token, 2.0)
    ranks = draws.argsort(dim=1).argsort(dim=1)
    return (ranks < counts[:, None]) & is_token
