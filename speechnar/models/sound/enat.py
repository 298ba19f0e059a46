"""MAGNeT with an encoder of what is known and a light decoder of what is not: each code is encoded once.

In the first codebook, the encoder sees the codes that are revealed, and nothing else: those of a step look at all that
were revealed before (by cached keys and values) and at each other, and are never looked at again. In the codebooks
above, it sees the codes below, once for all steps. In both, a decoder of few layers looks at what the encoder made of
the known frames, and at the masked ones.

Shapes: B utterances, T frames, K codebooks, V codes of a codebook, D model width, N known frames, M masked frames,
H heads.
Sources: Ni et al., "ENAT: Rethinking Spatial-temporal Interactions in Token-based Image Synthesis", NeurIPS 2024,
sections 4.1 (known and masked tokens apart) and 4.2 (reuse); Ziv et al. (MAGNeT), ICLR 2024.

Differs from ENAT:
- what is reused are the keys and values of all layers, not the last features.
- training is therefore one pass, in which a known code sees those of its own step and of earlier ones, the steps being
  drawn at random.
"""

from typing import Literal, cast

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.data.batch import SpeechBatch
from speechnar.data.codes import CodeBatch
from speechnar.models.base import LossOutput
from speechnar.models.sound.code_model import (
    CodeGenerator,
    CodeModelConfig,
    Condition,
    TextConfig,
    add_condition,
    build_context,
    build_transformer,
    join_conditions,
)
from speechnar.models.sound.magnet import MagnetConfig, masked_loss, split_guided
from speechnar.nn.code_transformer import NORM_EPS, CodeContext, CodeLayer, initialize, local_attention
from speechnar.nn.decoder import KeyValueCache
from speechnar.nn.positions import rotate
from speechnar.text.tokenizer import Tokenizer


class EnatConfig(MagnetConfig):
    """As `MagnetConfig`; ``network`` is the encoder."""

    kind: Literal["enat"] = "enat"  # type: ignore[assignment]  # a kind of its own
    decoder_layers: PositiveInt = 2
    max_steps: PositiveInt = 16
    """Most steps in which known codes are revealed while training; their number is drawn."""

    @classmethod
    def debug(cls) -> "EnatConfig":
        """Return the smallest, for tests."""
        return cls(**{**MagnetConfig.debug().model_dump(exclude={"kind"}), "decoder_layers": 2, "max_steps": 4})

    @classmethod
    def published(cls) -> "EnatConfig":
        """Return MAGNeT small with ENAT's split of the layers of its largest model: 22 and 2."""
        values = MagnetConfig.published().model_dump(exclude={"kind"})
        network = CodeModelConfig.published().model_copy(update={"num_layers": 22})
        return cls(**{**values, "network": network.model_dump()})


class Enat(CodeGenerator):
    """A condition, and codes of which some are masked, to the masked ones."""

    def __init__(self, config: EnatConfig, tokenizer: Tokenizer) -> None:
        super().__init__(config, tokenizer)
        self.config = config
        sizes, has_memory = config.network, isinstance(config.condition, TextConfig)
        self.encoder = build_transformer(config)
        self.norm_known = nn.LayerNorm(sizes.model_dim, NORM_EPS)
        self.decoder = nn.ModuleList(
            _DecoderLayer(sizes.model_dim, sizes.num_heads, sizes.ff_dim, dropout=sizes.dropout, has_memory=has_memory)
            for _ in range(config.decoder_layers)
        )
        for depth, layer in enumerate(self.decoder):
            initialize(layer, sizes.num_layers + depth)

    def forward(self, codes: Tensor, codebook: int, condition: Condition, steps: Tensor | None = None) -> Tensor:
        """Return logits (B, T, V) float32 of ``codebook``; those of known frames mean nothing.

        Args:
            codes: (B, K, T), V where masked and in the codebooks above.
            codebook: which.
            condition: of each utterance.
            steps: (B, T) int64, at which each known code of the first codebook was revealed; None: in training they
                are drawn, in evaluation all are revealed at once.
        """
        known = codes[:, codebook] != self.embed.mask_id
        base = add_condition(self.embed(codes[:, :codebook]) if codebook else self._places(codes), condition)
        places = torch.arange(codes.size(2), device=codes.device)
        reach = self.config.reach if codebook else None
        context = build_context(self.config.network, condition, places, reach=reach)
        if codebook:
            base = self.encoder(base, context)
        x = base + self.embed.codes[codebook](codes[:, codebook])
        features = x if codebook else self._encode_known(x, known, condition, steps)
        for layer in cast(list[_DecoderLayer], self.decoder):
            keys, values = layer.project(self.norm_known(features), context.angles)
            x = layer(x, keys, values, context, masked=~known)
        return self.heads[codebook](self.norm(x)).float()

    def _places(self, codes: Tensor) -> Tensor:
        """Return (1, T, D) frames of which nothing is known but where they are."""
        return self.embed.positions(0, codes.size(2), codes.device)[None].to(self.norm.weight.dtype)

    def _encode_known(self, frames: Tensor, known: Tensor, condition: Condition, steps: Tensor | None) -> Tensor:
        """Return the encoder's features (B, T, D) at known frames; elsewhere they mean nothing.

        Only as many frames are encoded as the utterance that knows most has.
        """
        if steps is None:
            steps = self._draw_steps(known)
        num_known = max(1, int(known.sum(1).max()))
        order = (~known).to(torch.uint8).argsort(dim=1, stable=True)[:, :num_known]  # known frames, rising, then others
        valid, steps = known.gather(1, order), steps.gather(1, order)
        index = order[..., None].expand(-1, -1, frames.size(2))
        seen = valid[:, None] & (steps[:, None] <= steps[:, :, None])
        seen = seen | torch.eye(num_known, dtype=torch.bool, device=seen.device)  # padding sees itself, to stay finite
        context = build_context(self.config.network, condition, order, mask=seen)
        found = self.encoder(frames.gather(1, index), context)
        return torch.zeros_like(frames, dtype=found.dtype).scatter(1, index, found)

    def _draw_steps(self, known: Tensor) -> Tensor:
        """Return (B, T) steps at which frames are revealed: spans together, the number of steps drawn, too."""
        if not self.training:
            return torch.zeros_like(known, dtype=torch.int64)
        span_len, device = self.config.span_len, known.device
        num_spans = -(-known.size(1) // span_len)
        counts = (torch.rand(len(known), 1, device=device) * self.config.max_steps).long() + 1
        drawn = (torch.rand(len(known), num_spans, device=device) * counts).long()
        return drawn.repeat_interleave(span_len, 1)[:, : known.size(1)]

    def loss(self, batch: SpeechBatch | CodeBatch) -> LossOutput:
        """Return the cross-entropy of masked codes, as `speechnar.models.sound.magnet.Magnet.loss`."""
        return masked_loss(self, batch)

    def predictor(self, condition: Condition, unconditional: Condition | None) -> "EnatPredictor":
        """Return what `speechnar.decode.mask_predict.mask_predict` asks; ``unconditional`` is for guidance."""
        return EnatPredictor(self, condition, unconditional)


class _DecoderLayer(nn.Module):
    """Masked frames look at all frames: at what the encoder made of the known ones, and at each other."""

    def __init__(self, model_dim: int, num_heads: int, ff_dim: int, *, dropout: float, has_memory: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.layer = CodeLayer(model_dim, num_heads, ff_dim, dropout=dropout, has_memory=has_memory)
        self.known = nn.Linear(model_dim, 2 * model_dim, bias=False)

    def project(self, features: Tensor, angles: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map features (B, N, D) of known frames to keys, turned by ``angles``, and values (B, N, H, D / H)."""
        keys, values = self.known(features).unflatten(2, (2, self.num_heads, -1)).unbind(2)
        return keys if angles is None else rotate(keys, angles[..., None, :]), values

    def forward(
        self,
        x: Tensor,
        keys: Tensor,
        values: Tensor,
        context: CodeContext,
        *,
        masked: Tensor | None = None,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Map frames (B, M, D) to (B, M, D).

        Args:
            x: all T frames, or the masked ones if ``positions`` is given.
            keys: (B, T, H, D / H) of all frames; where masked, those of ``x`` stand instead.
            values: the same.
            context: of the frames of ``x`` among all T.
            masked: bool (B, T); not needed with ``positions``.
            positions: (B, M) of ``x``.
        """
        layer = self.layer
        q, k, v = layer.project(x, context.angles)
        if positions is None:
            assert masked is not None
            k, v = (torch.where(masked[..., None, None], new, old) for new, old in ((k, keys), (v, values)))
        else:
            index = positions[..., None, None].expand_as(k)
            k, v = keys.to(k).scatter(1, index, k), values.to(v).scatter(1, index, v)
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        if context.reach is None:
            y = F.scaled_dot_product_attention(q, k, v, context.mask_of(None, q.dtype))
        elif positions is None:
            y = local_attention(q, k, v, context.reach)
        else:
            places = positions[:, None, :, None].expand_as(q)
            everywhere = torch.zeros_like(k).scatter(2, places, q)
            y = local_attention(everywhere, k, v, context.reach).gather(2, places)
        return layer.rest(x + layer.dropout(layer.out(y.transpose(1, 2).flatten(2))), context.memory)


class EnatPredictor:
    """A `speechnar.decode.mask_predict.Predictor` that encodes a code once, when it is revealed."""

    def __init__(self, model: Enat, condition: Condition, unconditional: Condition | None) -> None:
        self.model = model
        self.mask_id = model.embed.mask_id
        self.is_guided = unconditional is not None
        both = condition if unconditional is None else join_conditions([condition, unconditional])
        self.condition = both.keep()
        self._caches: list[KeyValueCache] = []
        self._base = self._keys = self._values = torch.empty(0)
        self._places = torch.empty(0)
        """(T,) positions of all frames."""
        self._order = torch.empty(0)
        """(B, L) positions of the codes in the caches."""
        self._hidden = torch.empty(0, dtype=torch.bool)
        """(B, T) frames that are not encoded yet."""

    def begin(self, codes: Tensor, codebook: int) -> None:
        """Encode the codes below ``codebook``; of the first, nothing yet."""
        model = self.model
        codes = self._twice(codes)
        base = add_condition(model.embed(codes[:, :codebook]) if codebook else model._places(codes), self.condition)
        self._places = torch.arange(codes.size(2), device=codes.device)
        self._order = self._places.new_zeros(len(codes), 0)
        if codebook:
            base = model.encoder(base, self._context(self._places, self._places, model.config.reach))
        self._base = base.expand(len(codes), -1, -1)
        self._caches = model.encoder.new_caches()
        self._hidden = torch.ones(len(codes), codes.size(2), dtype=torch.bool, device=codes.device)
        num_heads = model.config.network.num_heads
        shape = len(model.decoder), len(codes), codes.size(2), num_heads, self._base.size(2) // num_heads
        self._keys, self._values = self._base.new_zeros(shape), self._base.new_zeros(shape)

    def __call__(
        self, codes: Tensor, codebook: int, positions: Tensor, *, is_guided: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits (B, M, V) with the condition and without, wanted or not: what is cached must be complete."""
        del is_guided
        model = self.model
        codes, positions = self._twice(codes), self._twice(positions)
        table = model.embed.codes[codebook]
        reach = model.config.reach if codebook else None
        masked = torch.zeros_like(self._hidden).scatter(1, positions, torch.ones_like(positions, dtype=torch.bool))
        revealed = self._hidden & ~masked
        self._hidden = masked
        num_new = int(revealed[0].sum())  # of every utterance as many
        if num_new:
            new = revealed.nonzero()[:, 1].view(len(codes), num_new)
            index = new[..., None].expand(-1, -1, self._base.size(2))
            features = self._base.gather(1, index) + table(codes[:, codebook].gather(1, new))
            self._order = torch.cat([self._order, new], dim=1)
            context = self._context(new, self._order, reach)
            if codebook == 0:
                features = model.encoder(features, context, self._caches)
            for depth, layer in enumerate(cast(list[_DecoderLayer], model.decoder)):
                keys, values = layer.project(model.norm_known(features), context.angles)
                places = new[..., None, None].expand_as(keys)
                self._keys[depth].scatter_(1, places, keys.to(self._keys))
                self._values[depth].scatter_(1, places, values.to(self._values))
        # A known frame of a span that is not complete keeps its code.
        given = codes[:, codebook].gather(1, positions)
        x = self._base.gather(1, positions[..., None].expand(-1, -1, self._base.size(2))) + table(given)
        context = self._context(positions, self._places, reach)
        for depth, layer in enumerate(cast(list[_DecoderLayer], model.decoder)):
            x = layer(x, self._keys[depth], self._values[depth], context, positions=positions)
        return split_guided(model.heads[codebook](model.norm(x)).float(), is_guided=self.is_guided)

    def _context(self, places: Tensor, keys: Tensor, reach: int | None) -> CodeContext:
        return build_context(self.model.config.network, self.condition, places, keys, reach=reach)

    def _twice(self, rows: Tensor) -> Tensor:
        return torch.cat([rows, rows]) if self.is_guided else rows
