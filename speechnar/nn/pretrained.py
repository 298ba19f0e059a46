"""A pretrained encoder as trunk: what of it is frozen, how deep its layers lie, and blocks of our own on it.

Its lowest layers can be frozen. They are then part of feature extraction: they get no gradient and no augmentation, and
what they put out can be stored once (``speechnar data features``) and trained on.

Shapes: B utterances, T feature frames, T' positions, F features, C channels of what is extracted, D width.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from typing_extensions import Self

from speechnar.config import Config
from speechnar.nn.context import BlockContext
from speechnar.nn.encoder import AfterLayer, BlocksConfig, Encoder
from speechnar.nn.lengths import key_mask, valid_mask, zero_padding


class PretrainedEncoderConfig(Config):
    """Sizes that every pretrained encoder has."""

    subsampling: ClassVar[int]
    """Feature frames to one position."""
    model_dim: PositiveInt
    num_layers: PositiveInt
    num_heads: PositiveInt
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Of the layers that are not frozen."""
    frozen_layers: NonNegativeInt = 0
    """Layers, from the first on, that keep their weights, as does what lies below them; 0 trains all of them."""

    @model_validator(mode="after")
    def _check_layers(self) -> Self:
        if self.frozen_layers > self.num_layers:
            raise ValueError(f"frozen_layers must be at most num_layers={self.num_layers}, got {self.frozen_layers}")
        if self.model_dim % self.num_heads or self.model_dim % 2:
            raise ValueError(f"model_dim must be even and a multiple of num_heads={self.num_heads}")
        return self


class PretrainedEncoder(nn.Module, ABC):
    """Transformer layers over what lies below them; the first ``frozen_layers`` can be run apart from the rest.

    A subclass builds ``layers``, a ``norm`` behind the last one (None: there is none) and its lower parts, then calls
    `freeze`. Each utterance is encoded as if it were alone.
    """

    layers: nn.ModuleList
    norm: nn.LayerNorm | None

    def __init__(self, frozen_layers: int) -> None:
        super().__init__()
        self.frozen_layers = frozen_layers

    @property
    @abstractmethod
    def num_features(self) -> int:
        """Channels of what `frozen` returns."""

    @abstractmethod
    def lower_parts(self) -> list[nn.Module]:
        """Return what lies below the layers and is trained with them."""

    def untrained_parts(self) -> list[nn.Module]:
        """Return what is never trained, whatever is frozen."""
        return []

    def extract(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Run `untrained_parts` over features (B, T, F): (B, T', C) and lengths (B,); without any, they stay."""
        return feats, feat_lens

    @abstractmethod
    def embed(self, x: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Run `lower_parts` over the output of `extract`: what the first layer sees (B, T', D), and lengths (B,)."""

    def freeze(self) -> None:
        """Take what is frozen out of training."""
        for part in self.frozen_parts():
            part.requires_grad_(False)

    def frozen_parts(self) -> list[nn.Module]:
        """Return the modules that keep their weights."""
        count = self.frozen_layers
        parts = [*self.untrained_parts(), *(self.lower_parts() if count else []), *self.layers[:count]]
        return [*parts, self.norm] if count == len(self.layers) and self.norm is not None else parts

    def depth_of(self, name: str) -> int:
        """Return how many layers lie above the parameter ``name``; the norm behind them counts as none."""
        part, _, rest = name.partition(".")
        if part == "layers":
            return len(self.layers) - int(rest.partition(".")[0])
        return 0 if part == "norm" else len(self.layers) + 1

    @torch.no_grad()
    def frozen(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Run the frozen part over features (B, T, F): its output (B, T', D) and lengths (B,).

        No layer is frozen: returns the output of `extract`. Every one is: the states are those that `forward` returns.
        """
        x, lens = self.extract(feats, feat_lens)
        if not self.frozen_layers:
            return x, lens
        x, lens = self.embed(x, lens)
        return self.run_layers(x, valid_mask(lens, x.size(1)), 0, self.frozen_layers), lens

    def forward(self, states: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Run what is not frozen over the output of `frozen`: states (B, T', D), 0 in padding, and lengths (B,)."""
        x = zero_padding(states, valid_mask(lens, states.size(1)))
        if not self.frozen_layers:
            x, lens = self.embed(x, lens)
        if self.frozen_layers == len(self.layers):
            return x, lens
        return self.run_layers(x, valid_mask(lens, x.size(1)), self.frozen_layers, len(self.layers)), lens

    def run_layers(
        self, x: Tensor, valid: Tensor, first: int, last: int, *, after_layer: AfterLayer | None = None
    ) -> Tensor:
        """Run layers ``first`` to ``last`` (exclusive), and the norm behind the last of all, over ``x`` (B, N, D).

        Args:
            x: what layer ``first`` sees.
            valid: bool (B, N): True where ``x`` is real; elsewhere, the result is 0.
            first: of the layers, from 0 on.
            last: behind the layers that are run.
            after_layer: as in `speechnar.nn.encoder.Encoder.forward`.
        """
        context = BlockContext(valid=valid, attn_mask=key_mask(valid))
        x = zero_padding(x, valid)
        for number, layer in enumerate(self.layers[first:last], start=first + 1):
            x = layer(x, context)
            if after_layer is not None:
                x = after_layer(number, x)
        if last == len(self.layers) and self.norm is not None:
            x = self.norm(x)
        return zero_padding(x, valid)


class PretrainedTrunkConfig(Config):
    """A pretrained encoder, whose sizes are in the field that its kind names, and blocks of our own on it."""

    kind: str
    blocks: BlocksConfig | None = None
    """What stands on it; its ``subsampling`` joins positions. None: heads read the states of the encoder."""

    @property
    def encoder(self) -> PretrainedEncoderConfig:
        """The sizes of the encoder."""
        found: PretrainedEncoderConfig = getattr(self, self.kind)
        return found

    @property
    def model_dim(self) -> int:
        """Width of the output."""
        return self.encoder.model_dim if self.blocks is None else self.blocks.model_dim

    @property
    def num_layers(self) -> int:
        """Blocks of our own."""
        return 0 if self.blocks is None else self.blocks.num_layers

    @property
    def subsampling(self) -> int:
        """Feature frames to one output position."""
        return self.encoder.subsampling * (1 if self.blocks is None else self.blocks.total_subsampling)

    @property
    def total_subsampling(self) -> int:
        """The same, by the name that it has in encoders of our own."""
        return self.subsampling


class PretrainedTrunk(nn.Module):
    """A pretrained encoder and the blocks on it, run one after the other: others may read what is between.

    The weights of the encoder are named after its kind.
    """

    def __init__(self, config: PretrainedTrunkConfig, encoder: PretrainedEncoder) -> None:
        super().__init__()
        self.kind = config.kind
        self.config = config
        self.add_module(config.kind, encoder)
        self.blocks = None if config.blocks is None else Encoder(config.blocks, config.encoder.model_dim)

    @property
    def pretrained(self) -> PretrainedEncoder:
        """The encoder."""
        found = self.get_submodule(self.kind)
        assert isinstance(found, PretrainedEncoder), "as built"
        return found

    def depth_of(self, name: str) -> int:
        """Return how many layers of the pretrained encoder lie above the parameter ``name``; 0: it is not of it."""
        part, _, rest = name.partition(".")
        return self.pretrained.depth_of(rest) if part == self.kind else 0
