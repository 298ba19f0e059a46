"""ARDiT: speech latents from text, block after block, each block by flow matching; and spans within known speech.

One transformer sees the text, the latents that are certain, and noisy ones; each token has a time (-1 text, 0 certain,
up to 1 noise) and a place on the axis of the text. Training treats all blocks of an utterance in one pass. Generation
caches keys and values, and a block costs exactly as many evaluations as its sampler has steps: what became certain
since the last evaluation enters beside the next one's noisy block.

Shapes: B utterances, U text tokens, T latents, M latents to generate, N tokens of the network, C latent channels,
D model width.
Source: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024, sections 3.3 and 3.4.

Differs from the paper:
- the certain block and the next noisy one share an evaluation, with equal results; there, another pass writes the
  cache.
- ``modulation="shared"``: layers share the projection of their times.
- ``aligned_text``: each latent has what is spoken where it stands, as the frames of Le et al., "Voicebox", NeurIPS
  2023, section 3.3; the network need not learn to look there.
- errors may have weights by channel.
- ``infill_prob`` below 1 leaves utterances without known speech around them, as a voice needs that is to speak without
  a reference.
- ``history_noise`` above 0 makes certain latents less certain in training, so that at inference small errors do not
  grow (as in Rouard et al., "Continuous Audio Language Models", 2025).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.data.latents import LatentBatch
from speechnar.decode.flow import euler, mix
from speechnar.errors import ShapeError
from speechnar.models.base import LossOutput
from speechnar.nn.dit import DiffusionTransformer, ModulationKind
from speechnar.nn.dropout import Dropout
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.text.tokenizer import Tokenizer

TEXT_TIME, CERTAIN_TIME = -1.0, 0.0
TEXT, CONTEXT, PADDING = 0, 2, 2**31 - 1
"""Orders of what is known from the start, and of padding; see `visible`."""
BLURRED_SHARE = 0.5
"""Of the utterances, if any noise is to be in certain latents."""
SPOKEN_LAYERS, SPOKEN_KERNEL = 2, 3
"""Of `SpokenText`, which so sees two tokens on either side."""


class ArditConfig(Config):
    """The generator; the defaults are for one voice on a CPU."""

    kind: Literal["ardit"] = "ardit"
    latent_dim: PositiveInt = 16
    """Channels of a latent."""
    block_size: PositiveInt | None = 4
    """Latents generated together; None: all of them, which is the fully parallel model."""
    infill_prob: float = Field(default=0.5, ge=0, le=1)
    """Share of the utterances of which only a random span is learned, with the rest known (fill-in-the-middle)."""
    aligned_text: bool = False
    """Add to each latent what `SpokenText` finds at its place in the text."""
    history_noise: float = Field(default=0.0, ge=0, lt=1)
    """In training, half the utterances have noise of a deviation up to this in their certain latents; 0: the paper."""
    model_dim: PositiveInt = 256
    num_layers: PositiveInt = 8
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 1024
    modulation: ModulationKind = "shared"
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @classmethod
    def debug(cls) -> "ArditConfig":
        """Return two small layers, for tests."""
        return cls(latent_dim=4, model_dim=64, num_layers=2, num_heads=2, ff_dim=128, dropout=0.0)

    @classmethod
    def published(cls) -> "ArditConfig":
        """Return the paper's network, with blocks of 4 (its other one has 1)."""
        return cls(infill_prob=1.0, model_dim=1024, num_layers=12, num_heads=16, ff_dim=4096, modulation="per_layer")


@dataclass(frozen=True)
class Middle:
    """The span of each utterance that is to be generated, and how it falls into blocks."""

    starts: Tensor
    """(B,) first latent."""
    lens: Tensor
    """(B,) latents, at least 1."""
    blocks: Tensor
    """(B, M) int64, the block of each latent of the span, from 0."""

    @classmethod
    def of(cls, starts: Tensor, lens: Tensor, block_size: int | None, offsets: Tensor | None = None) -> "Middle":
        """Cut spans into blocks of ``block_size``, of which the first is ``offsets`` (B,) shorter (not for None)."""
        steps = torch.arange(int(lens.max()), device=lens.device).expand(len(lens), -1)
        if block_size is None:
            return cls(starts, lens, torch.zeros_like(steps))
        return cls(starts, lens, (steps if offsets is None else steps + offsets[:, None]) // block_size)

    @property
    def valid(self) -> Tensor:
        """Bool (B, M)."""
        return valid_mask(self.lens, self.blocks.size(1))

    def take(self, x: Tensor) -> Tensor:
        """Take the span, (B, M) or (B, M, C), out of ``x`` (B, T) or (B, T, C); padding is zero."""
        steps = torch.arange(self.blocks.size(1), device=x.device)
        return zero_padding(_take(x, self.starts[:, None] + steps), self.valid)

    def mean(self, losses: Tensor) -> LossOutput:
        """Return the mean of ``losses`` (B, M) over the latents of all spans; their number is its weight."""
        weight = self.lens.sum()
        return LossOutput(total=zero_padding(losses, self.valid).sum() / weight, weight=weight)

    def put(self, x: Tensor, y: Tensor) -> Tensor:
        """Return ``x`` (B, T) or (B, T, C) with ``y`` (B, M) or (B, M, C) in place of the span."""
        steps = torch.arange(x.size(1), device=x.device) - self.starts[:, None]
        inside = (steps >= 0) & (steps < self.lens[:, None])
        return torch.where(inside.view(*inside.shape, *[1] * (x.dim() - 2)), _take(y, steps), x)


def draw_middle(
    latent_lens: Tensor, block_size: int | None, infill_prob: float, generator: torch.Generator | None = None
) -> Middle:
    """Draw for each utterance all of it or, with ``infill_prob``, a span of uniform length at a uniform place.

    The first block is short by a uniform number of latents, so that blocks begin anywhere.
    """
    coin, length, place, offset = torch.rand(4, len(latent_lens), generator=generator, device=latent_lens.device)
    lens = torch.where(coin < infill_prob, 1 + _below(length, latent_lens), latent_lens)
    offsets = None if block_size is None else _below(offset, torch.full_like(latent_lens, block_size))
    return Middle.of(_below(place, latent_lens - lens + 1), lens, block_size, offsets)


def draw_times(middle: Middle, generator: torch.Generator | None = None) -> Tensor:
    """Draw a time in [0, 1) for each block, and return that of each latent, (B, M)."""
    blocks = middle.blocks
    times = torch.rand(len(blocks), int(blocks.max()) + 1, generator=generator, device=blocks.device)
    return times.gather(1, blocks)


def blur(latents: Tensor, max_std: float) -> Tensor:
    """Add to half the utterances of ``latents`` (B, T, C) normal noise, of a deviation uniform up to ``max_std``."""
    coin, share = torch.rand(2, len(latents), 1, 1, device=latents.device)
    std = (coin < BLURRED_SHARE) * share * max_std
    return latents + std * torch.randn_like(latents)


def visible(queries: Tensor, keys: Tensor) -> Tensor:
    """Return bool (B, Q, K): which tokens (keys) each token (query) may see, by the orders (B, Q) and (B, K) of both.

    Text has order 0, known latents 2, block m of those to be generated 3 + 2 m while noisy and 4 + 2 m when certain:
    an even order is seen by every order from there on, an odd one only by itself. So the text sees the text, known
    latents the text and each other, a certain block also the certain ones up to itself, and a noisy block the certain
    ones before it and itself (section 3.3). Padding is of the largest order.
    """
    queries, keys = queries[:, :, None], keys[:, None, :]
    return (keys <= queries) & ((keys % 2 == 0) | (keys == queries))


@dataclass(frozen=True, kw_only=True)
class NetworkTokens:
    """What the network is given."""

    inputs: Tensor
    """(B, N, D)"""
    times: Tensor
    """(B, N)"""
    positions: Tensor
    """(B, N)"""
    orders: Tensor
    """(B, N) int64, for `visible`."""

    def __add__(self, other: "NetworkTokens") -> "NetworkTokens":
        return NetworkTokens(
            inputs=torch.cat([self.inputs, other.inputs], 1),
            times=torch.cat([self.times, other.times], 1),
            positions=torch.cat([self.positions, other.positions], 1),
            orders=torch.cat([self.orders, other.orders], 1),
        )


class SpokenText(nn.Module):
    """What is spoken at each latent: tokens among their neighbours, in between two of them by how near each is.

    A sound depends on those around it; the convolutions tell so at once what attention would have to find (as those
    over the text of Chen et al., "F5-TTS", 2024, section 3.2).
    """

    def __init__(self, vocab_size: int, model_dim: int, dropout: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocab_size, model_dim)
        self.norms = nn.ModuleList(nn.LayerNorm(model_dim) for _ in range(SPOKEN_LAYERS))
        self.convs = nn.ModuleList(
            nn.Conv1d(model_dim, model_dim, SPOKEN_KERNEL, padding=SPOKEN_KERNEL // 2) for _ in range(SPOKEN_LAYERS)
        )
        self.dropout = Dropout(dropout)

    def forward(self, speech: LatentBatch) -> Tensor:
        """Return (B, T, D)."""
        tokens, token_lens = speech.tokens, speech.token_lens
        valid = valid_mask(token_lens, tokens.size(1))
        x = self.embed(tokens.masked_fill(~valid, 0))
        for norm, conv in zip(self.norms, self.convs, strict=True):
            y = conv(zero_padding(norm(x), valid).transpose(1, 2)).transpose(1, 2)
            x = x + self.dropout(F.gelu(y, approximate="tanh"))
        # Token u lasts from u to u + 1.
        places = (speech.positions.nan_to_num(0.0) - 0.5).clamp(min=0).minimum(token_lens[:, None] - 1)
        before = places.long()
        share = (places - before)[:, :, None].to(x.dtype)
        after = (before + 1).minimum(token_lens[:, None] - 1)
        return _take(x, before) * (1 - share) + _take(x, after) * share


class Ardit(nn.Module):
    """Text to latents, given how many there are and where in the text they are spoken."""

    def __init__(self, config: ArditConfig, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(vocab_size, config.model_dim)
        self.project = nn.Linear(config.latent_dim, config.model_dim)
        self.spoken = SpokenText(vocab_size, config.model_dim, config.dropout) if config.aligned_text else None
        self.trunk = DiffusionTransformer(
            config.model_dim,
            config.num_layers,
            config.num_heads,
            config.ff_dim,
            modulation=config.modulation,
            dropout=config.dropout,
        )
        self.output = nn.Linear(config.model_dim, config.latent_dim)
        # The first prediction is the mean velocity, zero, as DiT's.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @classmethod
    def from_config(cls, config: ArditConfig, tokenizer: Tokenizer) -> "Ardit":
        """Build the model for the symbols of ``tokenizer``."""
        return cls(config, tokenizer.vocab_size)

    def loss(self, batch: LatentBatch) -> LossOutput:
        """Return the mean squared error of the velocity per latent channel; the mean is over ``weight`` latents.

        In evaluation mode the same batch has the same spans, times and noise every time.
        """
        device = batch.latents.device
        generator = None if self.training else torch.Generator(device).manual_seed(0)
        config = self.config
        middle = draw_middle(batch.latent_lens, config.block_size, config.infill_prob, generator)
        return self.flow_loss(batch, middle, middle.take(batch.latents), generator)

    def flow_loss(
        self, speech: LatentBatch, middle: Middle, latents: Tensor, generator: torch.Generator | None = None
    ) -> LossOutput:
        """Return the loss on paths from noise to ``latents`` (B, M, C), which follow the true ones of ``speech``."""
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        times = draw_times(middle, generator)
        noisy, target = mix(latents, noise, times)
        if self.training and self.config.history_noise:
            speech = replace(speech, latents=blur(speech.latents, self.config.history_noise))
        errors = self.velocity(speech, middle, noisy, times) - target
        return middle.mean(speech.weigh(errors.square()).mean(-1))

    def velocity(self, speech: LatentBatch, middle: Middle, noisy: Tensor, times: Tensor) -> Tensor:
        """Return the velocity (B, M, C) float32 of every block of the span, each given the true latents before it.

        Args:
            speech: text and latents, the span's included.
            middle: the span.
            noisy: (B, M, C)
            times: (B, M), one for each block.
        """
        valid = valid_mask(speech.latent_lens, speech.latents.size(1))
        context = torch.full_like(valid, CONTEXT, dtype=torch.int64)
        orders = middle.put(context, 4 + 2 * middle.blocks)
        spoken, positions = self.spoken_text(speech), speech.positions
        certain = self.latent_tokens(speech.latents, spoken, positions, CERTAIN_TIME, orders=orders, valid=valid)
        spoken, positions = middle.take(spoken), middle.take(positions)
        current = self.latent_tokens(noisy, spoken, positions, times, orders=3 + 2 * middle.blocks, valid=middle.valid)
        tokens = self.text_tokens(speech) + certain + current
        mask = visible(tokens.orders, tokens.orders)
        features = self.trunk(tokens.inputs, tokens.times, tokens.positions, mask)
        return self.output(features[:, -noisy.size(1) :]).float()

    @torch.no_grad()
    def generate(
        self, speech: LatentBatch, starts: Tensor, lens: Tensor, *, seeds: Sequence[int], num_steps: int = 16
    ) -> Tensor:
        """Return ``speech.latents`` (B, T, C) with the spans replaced by generated latents, and padding by zero.

        Args: as of `stream`.

        Raises:
            ShapeError: a span does not fit its utterance, or there is not one seed for each.
            ConfigError: ``num_steps`` is less than 1.
        """
        blocks = list(self.stream(speech, starts, lens, seeds=seeds, num_steps=num_steps))
        known = zero_padding(speech.latents, valid_mask(speech.latent_lens, speech.latents.size(1)))
        return Middle.of(starts, lens, self.config.block_size).put(known, torch.cat(blocks, dim=1))

    @torch.no_grad()
    def stream(
        self, speech: LatentBatch, starts: Tensor, lens: Tensor, *, seeds: Sequence[int], num_steps: int = 16
    ) -> Iterator[Tensor]:
        """Yield block after block of the spans, (B, block_size, C), the last one shorter; zeros beyond a span's end.

        Args:
            speech: text, positions, and the latents known on either side of the span; within it they may be anything.
            starts: (B,) first latent of each span.
            lens: (B,) latents to generate, at least 1; all of the utterance needs no known speech.
            seeds: of each utterance: the noise depends on nothing else, so that a batch changes nothing.
            num_steps: network evaluations per block.

        Raises:
            ShapeError: a span does not fit its utterance, or there is not one seed for each.
            ConfigError: ``num_steps`` is less than 1.
        """
        _check_spans(speech, starts, lens, seeds)
        middle = Middle.of(starts, lens, self.config.block_size)
        noise = _draw_noise(middle, seeds, self.config.latent_dim).to(speech.latents.device)
        velocity = BlockVelocity(self, speech, middle)
        for first in range(0, noise.size(1), self.config.block_size or noise.size(1)):
            block = velocity.enter(first)
            latents = euler(velocity, noise[:, block], num_steps)
            velocity.settle(latents)
            yield zero_padding(latents, middle.valid[:, block])

    def spoken_text(self, speech: LatentBatch) -> Tensor:
        """Return (B, T, D) what is added to each latent, 0 without ``aligned_text``."""
        if self.spoken is None:
            return speech.latents.new_zeros(*speech.positions.shape, self.config.model_dim)
        features: Tensor = self.spoken(speech)
        return features

    def text_tokens(self, speech: LatentBatch) -> NetworkTokens:
        """Return the text as the network sees it."""
        tokens = speech.tokens
        valid = valid_mask(speech.token_lens, tokens.size(1))
        positions = torch.arange(tokens.size(1), device=tokens.device, dtype=torch.float32).expand(tokens.shape)
        return NetworkTokens(
            inputs=self.embed(tokens.masked_fill(~valid, 0)),
            times=torch.full_like(positions, TEXT_TIME),
            positions=positions,
            orders=torch.full_like(tokens, TEXT).masked_fill(~valid, PADDING),
        )

    def latent_tokens(
        self,
        latents: Tensor,
        spoken: Tensor,
        positions: Tensor,
        times: Tensor | float,
        *,
        orders: Tensor,
        valid: Tensor,
    ) -> NetworkTokens:
        """Return latents (B, n, C) as the network sees them; the other arguments are (B, n) but ``spoken`` (B, n, D).

        Args:
            latents: certain or noisy.
            spoken: of `spoken_text`.
            positions: on the axis of the text.
            times: 0 certain, 1 noise; one for all or (B, n).
            orders: for `visible`.
            valid: bool, False = padding.
        """
        times = torch.as_tensor(times, device=latents.device).expand(valid.shape)
        return NetworkTokens(
            inputs=self.project(zero_padding(latents, valid)) + spoken,
            times=zero_padding(times, valid),
            positions=zero_padding(positions, valid),
            orders=orders.masked_fill(~valid, PADDING),
        )

    def _known(self, speech: LatentBatch, spoken: Tensor, middle: Middle) -> NetworkTokens:
        """Return the text and the latents on either side of the span."""
        lens = speech.latent_lens - middle.lens
        steps = torch.arange(int(lens.max()), device=lens.device)
        steps = steps + torch.where(steps >= middle.starts[:, None], middle.lens[:, None], 0)
        valid = valid_mask(lens, steps.size(1))
        latents, spoken, positions = (_take(x, steps) for x in (speech.latents, spoken, speech.positions))
        orders = torch.full_like(steps, CONTEXT)
        known = self.latent_tokens(latents, spoken, positions, CERTAIN_TIME, orders=orders, valid=valid)
        return self.text_tokens(speech) + known


class BlockVelocity:
    """The velocity of one block after another, given those before; every call is one evaluation of the network.

    What is certain but not cached (text and known latents, later each block when it is settled) enters beside the
    noisy block of the next evaluation, and only its keys and values are kept.
    """

    def __init__(self, model: Ardit, speech: LatentBatch, middle: Middle) -> None:
        self._model = model
        self._middle = middle
        spoken = model.spoken_text(speech)
        self._spoken = middle.take(spoken)
        self._positions = middle.take(speech.positions)
        self._caches = model.trunk.new_caches()
        self._uncached: NetworkTokens | None = model._known(speech, spoken, middle)
        self._orders = middle.blocks[:, :0]
        self._block = slice(0, 0)

    def enter(self, first: int) -> slice:
        """Go to the block that begins with latent ``first`` of the span, and return which latents are in it."""
        blocks = self._middle.blocks[0]  # the longest utterance has all blocks, and in the others they lie alike
        self._block = slice(first, first + int((blocks[first:] == blocks[first]).sum()))
        return self._block

    def __call__(self, noisy: Tensor, time: float) -> Tensor:
        """Return the velocity (B, n, C) of the block whose latents are ``noisy`` (B, n, C) at ``time``."""
        tokens = self._tokens(noisy, time, 3)
        if self._uncached is not None:
            tokens = self._uncached + tokens
        orders = torch.cat([self._orders, tokens.orders], 1)
        mask = visible(tokens.orders, orders)
        trunk = self._model.trunk
        features = trunk(
            tokens.inputs, tokens.times, tokens.positions, None if bool(mask.all()) else mask, self._caches
        )
        self._orders = orders[:, : orders.size(1) - noisy.size(1)]
        for cache in self._caches:
            cache.truncate(self._orders.size(1))
        self._uncached = None
        velocity: Tensor = self._model.output(features[:, -noisy.size(1) :]).float()
        return velocity

    def settle(self, latents: Tensor) -> None:
        """Take ``latents`` (B, n, C) as the certain ones of the block."""
        self._uncached = self._tokens(latents, CERTAIN_TIME, 4)

    def _tokens(self, latents: Tensor, time: float, order: int) -> NetworkTokens:
        block = self._block
        orders, valid = order + 2 * self._middle.blocks[:, block], self._middle.valid[:, block]
        spoken, positions = self._spoken[:, block], self._positions[:, block]
        return self._model.latent_tokens(latents, spoken, positions, time, orders=orders, valid=valid)


def _check_spans(speech: LatentBatch, starts: Tensor, lens: Tensor, seeds: Sequence[int]) -> None:
    if not len(speech.tokens) == len(starts) == len(lens) == len(seeds):
        raise ShapeError(
            f"need a start, a length and a seed for each of {len(speech.tokens)} utterances, got {len(starts)}, "
            f"{len(lens)} and {len(seeds)}"
        )
    if not bool((speech.token_lens >= 1).all()):
        raise ShapeError("every utterance needs one text token at least")
    if not bool(((starts >= 0) & (lens >= 1) & (starts + lens <= speech.latent_lens)).all()):
        raise ShapeError(
            f"spans must hold one latent at least and lie within their utterances, got starts {starts.tolist()} and "
            f"lengths {lens.tolist()} in {speech.latent_lens.tolist()} latents"
        )


def _draw_noise(middle: Middle, seeds: Sequence[int], latent_dim: int) -> Tensor:
    rows = [
        torch.randn(length, latent_dim, generator=torch.Generator().manual_seed(seed))
        for length, seed in zip(middle.lens.tolist(), seeds, strict=True)
    ]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _below(uniform: Tensor, limits: Tensor) -> Tensor:
    """Turn ``uniform`` (B,) in [0, 1) into integers from 0 to ``limits`` - 1."""
    return (uniform * limits).long().minimum(limits - 1)  # rounding may reach the limit


def _take(x: Tensor, steps: Tensor) -> Tensor:
    """Return ``x[b, steps[b, m]]`` as (B, M) or (B, M, C), the nearest where there is no such step."""
    steps = steps.clamp(0, x.size(1) - 1)
    return x.gather(1, steps.view(*steps.shape, *[1] * (x.dim() - 2)).expand(*steps.shape, *x.shape[2:]))
