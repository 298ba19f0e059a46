"""SAN-M: attention beside an FSMN memory, a depthwise convolution that adds its own input.

Encoder blocks have both; SenseVoice's encoder goes on with more of them behind its norm. Decoder layers replace
self-attention by the memory alone; the attention left looks at the encoder. A streaming encoder runs over overlapping
windows: each has a current part, whose outputs count, a look-ahead, and sees keys of the windows before it; training
and decoding of a whole recording compute the same, all windows at once.

Shapes: B utterances, T frames, F features, D model width, H heads, K kernel, U tokens, L layers, W windows, N frames
of a window.
Sources: Gao et al., "SAN-M", Interspeech 2020, sections 2.3 (memory) and 2.5 (beside attention); Zhang et al.,
"Deep-FSMN", 2018, section 3; FunASR's ``SANMEncoderChunkOpt`` (streaming).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.errors import ConfigError, ShapeError
from speechnar.nn.blocks import FeedForward
from speechnar.nn.dropout import Dropout
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask, zero_padding
from speechnar.nn.parallel_decoder import CrossAttendingLayer, KeyValueProjector

Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Extend = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class WindowConfig(Config):
    """How a streaming encoder cuts frames into windows; the defaults are those of FunASR's online models."""

    current_frames: PositiveInt = 10
    """Frames of a window whose outputs count, and from one window to the next."""
    ahead_frames: NonNegativeInt = 5
    """Frames behind them that are only looked at; the last window has no such frames."""
    encoder_look_back: NonNegativeInt = 4
    """Windows before it whose current frames an encoder block attends to."""
    decoder_look_back: NonNegativeInt = 1
    """The same of the decoder: a token sees the window it fires in, and so many before."""
    lead_frames: NonNegativeInt = 0
    """Zero frames put before the first one; FunASR's runtime has ``ahead_frames`` of them."""
    late_look_back: bool = False
    """Look back on the last frames of the window before, as the cache of FunASR's decoder does."""

    @model_validator(mode="after")
    def _check(self) -> "WindowConfig":
        if self.lead_frames >= self.current_frames:
            raise ValueError(f"lead_frames must stay below current_frames {self.current_frames}")
        if self.late_look_back and self.decoder_look_back > 1:
            raise ValueError(f"late_look_back needs decoder_look_back of at most 1, got {self.decoder_look_back}")
        return self

    @property
    def frames(self) -> int:
        """N."""
        return self.current_frames + self.ahead_frames


class SanmEncoderConfig(Config):
    """Widths of the encoder; the defaults are small."""

    kind: Literal["sanm"] = "sanm"
    model_dim: PositiveInt = 256
    num_layers: PositiveInt = 12
    num_heads: PositiveInt = 4
    ff_dim: PositiveInt = 1024
    kernel_size: PositiveInt = 11
    """Of the memories, in frames."""
    dropout: Probability = 0.1
    attention_dropout: Probability = 0.1
    norm_eps: float = Field(default=1e-12, gt=0)
    """FunASR's value; bf16 training is safer with 1e-5."""
    windows: WindowConfig | None = None
    """None sees the whole utterance."""
    num_upper_layers: NonNegativeInt | None = None
    """Blocks behind the norm, which end in a norm of their own (SenseVoice); None: neither blocks nor norm."""

    @model_validator(mode="after")
    def _check(self) -> "SanmEncoderConfig":
        if self.windows is not None and self.num_upper_layers is not None:
            raise ValueError("an encoder with windows has no upper layers; leave num_upper_layers out")
        return self


class FsmnMemory(nn.Conv1d):
    """Depthwise convolution over (B, U, D) plus its own input; nothing enters from outside the utterance.

    SAN-M, equation 7, with steps of one frame and without what the layer below remembers.
    """

    def __init__(self, model_dim: int, kernel_size: int, *, shift: int = 0) -> None:
        """Build the memory; ``shift`` moves the window to the left, so that (K - 1) / 2 makes it causal."""
        left = (kernel_size - 1) // 2 + shift
        if kernel_size < 1 or not 0 <= left < kernel_size:
            raise ConfigError(f"the memory's window must hold its own frame; kernel {kernel_size}, shift {shift}")
        super().__init__(model_dim, model_dim, kernel_size, groups=model_dim, bias=False)
        self.left, self.right = left, kernel_size - 1 - left

    def forward(self, x: Tensor, valid: Tensor, past: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Map ``x`` (B, U, D), real where ``valid`` (B, U), to (B, U, D); rows of padding hold finite garbage.

        ``past`` (B, K - 1, D) is what a causal memory had as its input before ``x``; None: nothing.
        """
        x = zero_padding(x, valid)
        padded = F.pad(x, (0, 0, self.left, self.right)) if past is None else torch.cat([past, x], dim=1)
        return x + super().forward(padded.transpose(1, 2)).transpose(1, 2)


class SanmDecoderFeedForward(nn.Module):
    """Linear, ReLU, dropout, LayerNorm over the hidden width, Linear without bias; no residual of its own."""

    activated: ClassVar[tuple[str, ...]] = ("proj_in",)
    """Behind what ``activation`` stands; it may be computed along (`speechnar.models.prepare`)."""

    def __init__(self, model_dim: int, ff_dim: int, *, dropout: float, norm_eps: float) -> None:
        super().__init__()
        self.proj_in = nn.Linear(model_dim, ff_dim)
        self.activation = nn.ReLU()
        self.dropout = Dropout(dropout)
        self.norm = nn.LayerNorm(ff_dim, norm_eps)
        self.proj_out = nn.Linear(ff_dim, model_dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``x`` (..., D) to (..., D)."""
        y: Tensor = self.proj_out(self.norm(self.dropout(self.activation(self.proj_in(x)))))
        return y


class SanmDecoderLayer(CrossAttendingLayer):
    """Feed-forward into the memory, added to the input; then cross-attention."""

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        ff_dim: int,
        *,
        kernel_size: int,
        shift: int,
        dropout: float,
        attention_dropout: float,
        norm_eps: float,
    ) -> None:
        super().__init__(model_dim, num_heads, dropout=dropout, attention_dropout=attention_dropout, norm_eps=norm_eps)
        self.norm_ff = nn.LayerNorm(model_dim, norm_eps)
        self.ff = SanmDecoderFeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)
        self.norm_fsmn = nn.LayerNorm(model_dim, norm_eps)
        self.fsmn = FsmnMemory(model_dim, kernel_size, shift=shift)

    def remember(self, x: Tensor, valid: Tensor, cache: "DecoderCache | None" = None) -> Tensor:
        """Add to ``x`` (B, U, D) the memory of its feed-forward output; ``cache`` holds the tokens before."""
        y = self.norm_fsmn(self.ff(self.norm_ff(x)))
        memory = self.fsmn(y, valid, None if cache is None else cache.take(self, y))
        return x + self.dropout(memory)


@dataclass
class DecoderCache:
    """The memories' inputs of the last tokens of one stream, by layer; empty before the first token."""

    past: dict[int, Tensor] = field(default_factory=dict)
    """(B, K - 1, D) of the layer that has this ``id``."""

    def take(self, layer: SanmDecoderLayer, y: Tensor) -> Tensor:
        """Return what came before ``y`` (B, U, D) in ``layer``, (B, K - 1, D), and keep what the next call needs."""
        size = layer.fsmn.left
        past = self.past.get(id(layer), y.new_zeros(y.size(0), size, y.size(2)))
        joined = torch.cat([past, y], dim=1)
        self.past[id(layer)] = joined[:, joined.size(1) - size :]
        return past


class SanmDecoder(KeyValueProjector):
    """Layers over token vectors that attend to the encoder, a feed-forward module without residual, and a norm.

    The vectors carry no positions: the memory tells neighbours apart.
    """

    def __init__(
        self,
        model_dim: int,
        num_layers: int,
        num_heads: int,
        ff_dim: int,
        *,
        kernel_size: int = 11,
        shift: int = 0,
        dropout: float = 0.1,
        attention_dropout: float = 0.1,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(model_dim, num_layers, num_heads)
        self.layers = nn.ModuleList(
            SanmDecoderLayer(
                model_dim,
                num_heads,
                ff_dim,
                kernel_size=kernel_size,
                shift=shift,
                dropout=dropout,
                attention_dropout=attention_dropout,
                norm_eps=norm_eps,
            )
            for _ in range(num_layers)
        )
        self.norm_last = nn.LayerNorm(model_dim, norm_eps)
        self.ff_last = SanmDecoderFeedForward(model_dim, ff_dim, dropout=dropout, norm_eps=norm_eps)
        self.norm = nn.LayerNorm(model_dim, norm_eps)

    def forward(
        self, x: Tensor, valid: Tensor, keys_values: Tensor, mask: Tensor, cache: DecoderCache | None = None
    ) -> Tensor:
        """Map as `TokenDecoder` does; ``cache`` holds the tokens before, while streaming with a causal memory."""
        for layer, (keys, values) in zip(self.layers, keys_values, strict=True):
            assert isinstance(layer, SanmDecoderLayer)
            x = layer.attend(layer.remember(x, valid, cache), keys, values, mask)
        hidden: Tensor = self.norm(self.ff_last(self.norm_last(x)))
        return hidden

    def attention(self, x: Tensor, valid: Tensor, keys_values: Tensor, mask: Tensor) -> Tensor:
        """Return the last layer's attention weights (B, H, U, T), float32; the arguments are those of `forward`."""
        for layer, (keys, values) in zip(self.layers[:-1], keys_values[:-1], strict=True):
            assert isinstance(layer, SanmDecoderLayer)
            x = layer.attend(layer.remember(x, valid), keys, values, mask)
        last = self.layers[-1]
        assert isinstance(last, SanmDecoderLayer)
        q, keys = last.queries(last.remember(x, valid)), keys_values[-1, 0]
        scores = (q @ keys.transpose(2, 3) / math.sqrt(q.size(3))).masked_fill(~mask, -torch.inf)
        return scores.softmax(3, dtype=torch.float32)


class SanmEncoderBlock(nn.Module):
    """Attention plus the memory of its values (SAN-M, section 2.5), then feed-forward; the first changes the width."""

    def __init__(self, in_dim: int, config: SanmEncoderConfig) -> None:
        super().__init__()
        model_dim = config.model_dim
        if model_dim % config.num_heads:
            raise ConfigError(f"model_dim must be a multiple of num_heads, got {model_dim} and {config.num_heads}")
        self.num_heads = config.num_heads
        self.attention_dropout = config.attention_dropout
        self.has_residual = in_dim == model_dim
        self.norm_attention = nn.LayerNorm(in_dim, config.norm_eps)
        self.qkv = nn.Linear(in_dim, 3 * model_dim)
        self.fsmn = FsmnMemory(model_dim, config.kernel_size)
        self.out = nn.Linear(model_dim, model_dim)
        self.ff = FeedForward(
            model_dim, config.ff_dim, dropout=config.dropout, norm_eps=config.norm_eps, activation=nn.ReLU()
        )
        self.dropout = Dropout(config.dropout)

    def forward(self, x: Tensor, valid: Tensor, mask: Tensor, extend: Extend | None = None) -> Tensor:
        """Map ``x`` (B, T, F or D) to (B, T, D).

        Args:
            x: (B, T, F or D)
            valid: bool (B, T)
            mask: bool (B, 1, 1 or T, keys), True = may be seen; at least one key for each frame.
            extend: puts keys and values (B, H, T, D / H) of earlier windows before those of this one.
        """
        qkv = self.qkv(self.norm_attention(x))
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        memory = self.fsmn(qkv.chunk(3, dim=2)[2], valid)
        if extend is not None:
            k, v = extend(k, v)
        y = F.scaled_dot_product_attention(q, k, v, mask, self.attention_dropout if self.training else 0.0)
        y = self.dropout(self.out(y.transpose(1, 2).flatten(2)) + memory)
        x = x + y if self.has_residual else y
        return x + self.ff(x)


@dataclass(frozen=True, kw_only=True)
class WindowedSpeech(EncodedSpeech):
    """Encoder output of windows: ``enc`` has each frame as its own window knows it, ``windows`` all that was computed.

    ``lens`` counts ``lead_frames``. An utterance of n frames has ceil((n - ahead_frames) / current_frames) windows, at
    least one; the last one counts whole.
    """

    windows: Tensor
    """(B, W, N, D), zero in padding."""
    config: WindowConfig

    @property
    def windows_valid(self) -> Tensor:
        """Bool (B, W, N): True = real frame of a window that the utterance has."""
        return _windows_valid(self.lens, self.windows.size(1), self.config)

    def of_frames(self, x: Tensor) -> Tensor:
        """Pick the outputs that count from ``x`` (B, W, N, ...): (B, T, ...), whatever stands in padding."""
        return _of_frames(x, self.lens, self.enc.size(1), self.config)

    def visible(self, frames: Tensor) -> Tensor:
        """Return bool (B, U, W * N): what of the windows tokens see that fire at ``frames`` (B, U) behind the lead."""
        frames = frames + self.config.lead_frames
        window = (frames // self.config.current_frames).minimum(num_windows(self.lens, self.config)[:, None] - 1)
        age = window[..., None] - torch.arange(self.windows.size(1), device=frames.device)  # (B, U, W)
        places = torch.arange(self.windows.size(2), device=frames.device)
        late = self.config.late_look_back
        is_kept = places >= self.config.ahead_frames if late else places < self.config.current_frames
        before = ((age > 0) & (age <= self.config.decoder_look_back))[..., None] & is_kept
        return (((age == 0)[..., None] | before) & self.windows_valid[:, None]).flatten(2)


def num_windows(lens: Tensor, config: WindowConfig) -> Tensor:
    """Map frames (B,) to windows (B,), at least one each."""
    past = lens - config.ahead_frames + config.current_frames - 1
    return past.div(config.current_frames, rounding_mode="floor").clamp(min=1)


def _windows_valid(lens: Tensor, count: int, config: WindowConfig) -> Tensor:
    starts = torch.arange(count, device=lens.device) * config.current_frames
    frames = starts[:, None] + torch.arange(config.frames, device=lens.device)  # (W, N)
    return (frames < lens[:, None, None]) & valid_mask(num_windows(lens, config), count)[..., None]


def _of_frames(x: Tensor, lens: Tensor, num_frames: int, config: WindowConfig) -> Tensor:
    frames = torch.arange(num_frames, device=x.device)
    window = (frames // config.current_frames).minimum(num_windows(lens, config)[:, None] - 1)  # (B, T)
    place = (frames - window * config.current_frames).clamp(max=config.frames - 1)  # clamped in padding only
    index = window * config.frames + place
    flat = x.flatten(1, 2)
    return flat.gather(1, index.view(*index.shape, *[1] * (flat.dim() - 2)).expand(-1, -1, *flat.shape[2:]))


class SanmEncoder(nn.Module):
    """Stacked frames to encoded frames, one each; satisfies ``(feats, feat_lens) -> (enc, enc_lens)``."""

    def __init__(self, config: SanmEncoderConfig, num_features: int) -> None:
        super().__init__()
        if num_features % 2:
            raise ConfigError(f"positions need an even number of features, got {num_features}")
        self.config = config
        self.layers = nn.ModuleList(
            SanmEncoderBlock(config.model_dim if index else num_features, config) for index in range(config.num_layers)
        )
        self.norm = nn.LayerNorm(config.model_dim, config.norm_eps)
        self.upper_layers = nn.ModuleList(
            SanmEncoderBlock(config.model_dim, config) for _ in range(config.num_upper_layers or 0)
        )
        has_upper_norm = config.num_upper_layers is not None
        self.upper_norm = nn.LayerNorm(config.model_dim, config.norm_eps) if has_upper_norm else nn.Identity()

    def forward(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a padded batch ``feats`` (B, T, F), anything beyond ``feat_lens`` (B,), to (B, T, D) and lengths."""
        speech = self.encode(feats, feat_lens)
        return speech.enc, speech.lens

    def encode(self, feats: Tensor, feat_lens: Tensor) -> EncodedSpeech:
        """Encode as `forward` does; an encoder with windows returns `WindowedSpeech`."""
        if feats.dim() != 3 or feat_lens.shape != feats.shape[:1]:
            raise ShapeError(
                f"need feats (B, T, F) and feat_lens (B,), got {tuple(feats.shape)}, {tuple(feat_lens.shape)}"
            )
        valid = valid_mask(feat_lens, feats.size(1))
        x = self.place(zero_padding(feats, valid), first=0)
        if self.config.windows is not None:
            lead = self.config.windows.lead_frames
            x = F.pad(zero_padding(x, valid), (0, 0, lead, 0))
            return self._encode_windows(x, feat_lens + lead, self.config.windows)
        for layer in self.layers:
            x = layer(x, valid, valid[:, None, None, :])
        x = self.norm(x)
        for layer in self.upper_layers:
            x = layer(x, valid, valid[:, None, None, :])
        return EncodedSpeech(enc=zero_padding(self.upper_norm(x), valid), lens=feat_lens)

    def place(self, feats: Tensor, *, first: int) -> Tensor:
        """Scale ``feats`` (B, T, F) and add the positions from ``first`` + 1 on: sines, then cosines."""
        half = feats.size(2) // 2
        steps = torch.arange(half, device=feats.device, dtype=torch.float32)
        rates = torch.exp(steps * (-math.log(10000.0) / max(1, half - 1)))
        numbers = torch.arange(first + 1, first + 1 + feats.size(1), device=feats.device, dtype=torch.float32)
        angles = numbers[:, None] * rates
        return feats * math.sqrt(self.config.model_dim) + torch.cat([angles.sin(), angles.cos()], dim=1)

    def _encode_windows(self, x: Tensor, lens: Tensor, config: WindowConfig) -> WindowedSpeech:
        batch, num_frames, _ = x.shape
        hop, size = config.current_frames, config.frames
        count = max(1, (num_frames - config.ahead_frames + hop - 1) // hop)
        x = F.pad(x, (0, 0, 0, max(0, (count - 1) * hop + size - num_frames)))
        x = x.unfold(1, size, hop).transpose(2, 3).flatten(0, 1)  # (B W, N, F)
        valid = _windows_valid(lens, count, config)
        own = (valid[:, :, None, :] | torch.eye(size, dtype=torch.bool, device=x.device)).flatten(0, 1)  # (B W, N, N)
        ages = torch.arange(config.encoder_look_back, 0, -1, device=x.device)
        exists = (torch.arange(count, device=x.device)[:, None] >= ages).repeat_interleave(hop, dim=1)  # (W, keys)
        past = exists.repeat(batch, 1)[:, None].expand(-1, size, -1)
        mask = torch.cat([past, own], dim=2)[:, None]

        def extend(k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return _look_back(k, batch, config), _look_back(v, batch, config)

        flat = valid.flatten(0, 1)
        for layer in self.layers:
            x = layer(x, flat, mask, extend)
        windows = zero_padding(self.norm(x), flat).view(batch, count, size, -1)
        enc = zero_padding(_of_frames(windows, lens, num_frames, config), valid_mask(lens, num_frames))
        return WindowedSpeech(enc=enc, lens=lens, windows=windows, config=config)

    def stream(self) -> "SanmEncoderStream":
        """Start encoding one utterance as its features come; the result is that of `encode`.

        Raises:
            ConfigError: the encoder sees whole utterances.
        """
        if self.config.windows is None:
            raise ConfigError("only an encoder with windows can stream; train one with encoder.windows set")
        return SanmEncoderStream(self, self.config.windows)


def _look_back(x: Tensor, batch: int, config: WindowConfig) -> Tensor:
    """Put before ``x`` (B W, H, N, D / H) the current frames of the windows before, oldest first, zeros where none."""
    windows = x.view(batch, -1, *x.shape[1:])
    current = windows[..., : config.current_frames, :]
    ages = range(config.encoder_look_back, 0, -1)
    count = windows.size(1)
    shifted = [F.pad(current, (0, 0) * 3 + (age, 0))[:, :count] for age in ages]
    return torch.cat([*shifted, windows], dim=3).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class EncodedWindow:
    """One window of a stream."""

    enc: Tensor
    """(1, up to N, D)"""
    num_current: int
    """How many of its first frames count."""
    is_last: bool


@dataclass
class SanmEncoderStream:
    """One utterance encoded window by window, with cached keys and values."""

    encoder: SanmEncoder
    config: WindowConfig
    _frames: Tensor | None = None
    """(1, T, F) with positions, from the first frame of the next window on."""
    _num_feats: int = 0
    _caches: list[tuple[Tensor, Tensor] | None] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._caches = [None] * len(self.encoder.layers)

    def push(self, feats: Tensor) -> Iterator[EncodedWindow]:
        """Take ``feats`` (1, T, F) of any length; yield each window that is known not to be the last."""
        frames = self.encoder.place(feats, first=self._num_feats)
        self._num_feats += feats.size(1)
        if self._frames is None:
            self._frames = F.pad(frames, (0, 0, self.config.lead_frames, 0))
        else:
            self._frames = torch.cat([self._frames, frames], dim=1)
        while self._frames.size(1) > self.config.frames:
            yield self._encode(self._frames[:, : self.config.frames], self.config.current_frames, is_last=False)
            self._frames = self._frames[:, self.config.current_frames :]

    def finish(self) -> Iterator[EncodedWindow]:
        """Yield the last window, unless no features came; the stream cannot be used afterwards."""
        if self._frames is not None and self._num_feats > 0:
            yield self._encode(self._frames, self._frames.size(1), is_last=True)

    def _encode(self, x: Tensor, num_current: int, *, is_last: bool) -> EncodedWindow:
        valid = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        for index, layer in enumerate(self.encoder.layers):
            cached = self._caches[index]
            seen = x.size(1) + (0 if cached is None else cached[0].size(2))

            def extend(k: Tensor, v: Tensor, index: int = index) -> tuple[Tensor, Tensor]:
                return self._extend(k, v, index, num_current)

            x = layer(x, valid, valid.new_ones(1, 1, 1, seen), extend)
        return EncodedWindow(enc=self.encoder.norm(x), num_current=num_current, is_last=is_last)

    def _extend(self, k: Tensor, v: Tensor, index: int, num_current: int) -> tuple[Tensor, Tensor]:
        cached = self._caches[index]
        keep = self.config.encoder_look_back * self.config.current_frames
        past = (k[:, :, :0], v[:, :, :0]) if cached is None else cached
        joined = [torch.cat([old, x[:, :, :num_current]], dim=2) for old, x in zip(past, (k, v), strict=True)]
        first = max(0, joined[0].size(2) - keep)
        self._caches[index] = (joined[0][:, :, first:], joined[1][:, :, first:])
        return torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
