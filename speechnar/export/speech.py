"""Synthesis as graphs: a vocoder alone, or durations, one-step ARDiT and the way from latents to samples.

ARDiT speaks block by block, so that it is two graphs. ``text.onnx`` reads the text and what is known of the speech
once, and returns keys and values; ``block.onnx`` turns the noise of one block into latents, in one evaluation, and
hands the keys and values on, with those of the block before it, which it is given as it was made. All blocks are of one
size; what a mask says is absent (the block before the first, the end of the last one) changes nothing.

Shapes: B utterances, U text tokens, T latents, n latents of a block, C latent channels, D model width, L layers,
H heads, N cached tokens, F mel bands, S samples.
Source: Liu et al., "Autoregressive Diffusion Transformer for Text-to-Speech Synthesis", 2024, sections 3.1 and 3.3.
"""

import shutil
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from speechnar.asr.onnx import GRAPH_FILE
from speechnar.data.latents import LatentBatch
from speechnar.errors import ConfigError
from speechnar.export.graph import Input, Precision, write_graph
from speechnar.models.base import CARD_FILE, LoadedModel
from speechnar.models.tts.ardit import CERTAIN_TIME, CONTEXT, PADDING, Ardit, visible
from speechnar.models.tts.tts import Tts
from speechnar.models.tts.vocos import Vocos
from speechnar.nn.decoder import KeyValueCache
from speechnar.nn.lengths import zero_padding

NOISE_TIME = 1.0
DURATIONS_FILE, TEXT_FILE, BLOCK_FILE, VOCODER_FILE = "durations.onnx", "text.onnx", "block.onnx", "vocoder.onnx"


def export_speech(loaded: LoadedModel, source: Path, out: str | Path, *, precision: Precision = "fp32") -> Path:
    """Write a model of kind vocos or tts as a folder of graphs with its tokenizer and its card, and return that folder.

    A vocos is one graph, from log-mels ``feats`` (B, T, F) and ``feat_lens`` (B,) to ``wav`` (B, S) and ``wav_lens``
    (B,). A tts is four: ``durations.onnx`` (seconds of each token), ``text.onnx`` (`ArditText`), ``block.onnx``
    (`ArditBlock`) and ``vocoder.onnx`` (latents to samples).

    Raises:
        ConfigError: the model is of another kind, or is no ARDiT of blocks.
        MissingExtraError: onnx or onnxscript is absent.
    """
    model = loaded.model
    if not isinstance(model, Vocos | Tts):
        raise ConfigError(f"of models that speak only those of kind vocos and tts are exported, got {loaded.kind}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    metadata = {"source": loaded.kind, "sample_rate": model.sample_rate, "precision": precision}
    if isinstance(model, Vocos):
        num_mels = model.config.frontend.num_mels
        options = {"metadata": metadata, "precision": precision}
        _write_synthesis(_Vocoder(model), "feats", num_mels, out / GRAPH_FILE, options)
    else:
        _write_tts(model, out, metadata, precision)
        loaded.tokenizer.save(out)
    if (source / CARD_FILE).is_file():
        shutil.copy(source / CARD_FILE, out / CARD_FILE)
    return out


def _write_synthesis(module: nn.Module, name: str, width: int, path: Path, options: dict[str, Any]) -> None:
    inputs = {
        name: Input(torch.linspace(-3, 3, 3 * 7 * width).view(3, 7, width), (0, 1)),
        f"{name.removesuffix('s')}_lens": Input(torch.tensor([7, 5, 4]), (0,)),
    }
    write_graph(module, inputs, ("wav", "wav_lens"), path, **options)


def _write_tts(model: Tts, out: Path, metadata: dict[str, Any], precision: Precision) -> None:
    ardit, config = model.ardit, model.config.ardit
    if config.block_size is None:
        raise ConfigError("an ARDiT without blocks is not exported; train one with ardit.block_size set")
    size, dim, channels = config.block_size, config.model_dim, config.latent_dim
    metadata = metadata | {"block_size": size, "latent_dim": channels, "latent_shift_s": model.latent_shift_s}
    options: dict[str, Any] = {"metadata": metadata, "precision": precision}
    _write_synthesis(_Decoder(model), "latents", channels, out / VOCODER_FILE, options)
    tokens, token_lens = torch.tensor([[1, 2, 3, 4, 5]] * 3), torch.tensor([5, 4, 2])
    text = {"tokens": Input(tokens, (0, 1)), "token_lens": Input(token_lens, (0,))}
    write_graph(_Durations(model), text, ("seconds",), out / DURATIONS_FILE, **options)
    num_latents = 11
    latents = torch.zeros(3, num_latents, channels)
    is_known = torch.arange(num_latents).expand(3, -1) < 3
    positions = torch.linspace(0.5, 4.5, num_latents).expand(3, -1).contiguous()
    given = (tokens, token_lens, latents, is_known, positions)
    named = dict(zip(("latents", "is_known", "positions"), given[2:], strict=True))
    write_graph(
        ArditText(ardit),
        text | {name: Input(value, (0, 1)) for name, value in named.items()},
        ("past", "past_valid", "spoken"),
        out / TEXT_FILE,
        **options,
    )
    with torch.no_grad():
        past, past_valid, _ = ArditText(ardit).eval()(*given)
    block = {
        "past": Input(past, (2, 4)),
        "past_valid": Input(past_valid, (0, 1)),
        "before": Input(torch.zeros(3, size, channels), (0,)),
        "before_spoken": Input(torch.zeros(3, size, dim), (0,)),
        "before_positions": Input(torch.zeros(3, size), (0,)),
        "before_valid": Input(torch.zeros(3, size, dtype=torch.bool), (0,)),
        "noise": Input(torch.ones(3, size, channels), (0,)),
        "spoken": Input(torch.zeros(3, size, dim), (0,)),
        "positions": Input(torch.ones(3, size), (0,)),
        "valid": Input(torch.ones(3, size, dtype=torch.bool), (0,)),
    }
    write_graph(ArditBlock(ardit), block, ("latents", "next_past", "next_past_valid"), out / BLOCK_FILE, **options)


class _Recorder(KeyValueCache):
    """Keys and values of one layer in a graph, where nothing is written in place."""

    def __init__(self, past: Tensor | None = None) -> None:
        super().__init__()
        self.all = past

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        new = torch.stack([keys.transpose(1, 2), values.transpose(1, 2)])
        self.all = new if self.all is None else torch.cat([self.all, new], 3)
        return self.all[0], self.all[1]


class ArditText(nn.Module):
    """What the network knows before the first block."""

    def __init__(self, ardit: Ardit) -> None:
        super().__init__()
        self.ardit = ardit

    def forward(
        self, tokens: Tensor, token_lens: Tensor, latents: Tensor, is_known: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys and values (L, 2, B, H, N, D / H), which of them count (B, N), and what is spoken (B, T, D).

        Args:
            tokens: (B, U); padding may hold anything.
            token_lens: (B,), at least 1.
            latents: (B, T, C) of the whole utterance; what is not known may hold anything.
            is_known: bool (B, T)
            positions: (B, T) of latents on the axis of the text.
        """
        lens = torch.ones_like(token_lens) * latents.size(1)
        speech = LatentBatch(
            tokens=tokens, token_lens=token_lens, latents=latents, latent_lens=lens, positions=positions
        )
        spoken = self.ardit.spoken_text(speech)
        orders = torch.full_like(is_known, CONTEXT, dtype=torch.int64)
        known = self.ardit.latent_tokens(latents, spoken, positions, CERTAIN_TIME, orders=orders, valid=is_known)
        given = self.ardit.text_tokens(speech) + known
        caches = [_Recorder() for _ in self.ardit.trunk.layers]
        mask = visible(given.orders, given.orders)
        self.ardit.trunk(given.inputs, given.times, given.positions, mask, [*caches])
        return torch.stack([cast(Tensor, cache.all) for cache in caches]), given.orders != PADDING, spoken


class ArditBlock(nn.Module):
    """One block of n latents from its noise, given everything before it."""

    def __init__(self, ardit: Ardit) -> None:
        super().__init__()
        self.ardit = ardit

    def forward(
        self,
        *,
        past: Tensor,
        past_valid: Tensor,
        before: Tensor,
        before_spoken: Tensor,
        before_positions: Tensor,
        before_valid: Tensor,
        noise: Tensor,
        spoken: Tensor,
        positions: Tensor,
        valid: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the block (B, n, C), 0 where it is not valid, and ``past`` and ``past_valid`` for the next one.

        Args:
            past: (L, 2, B, H, N, D / H) keys and values.
            past_valid: bool (B, N), which of them count.
            before: (B, n, C) the block before this one; before the first one nothing is valid.
            before_spoken: (B, n, D) of `ArditText`, at its latents.
            before_positions: (B, n)
            before_valid: bool (B, n)
            noise: (B, n, C)
            spoken: (B, n, D) at the latents of this block.
            positions: (B, n)
            valid: bool (B, n), False beyond the end of an utterance.
        """
        size, ardit = noise.size(1), self.ardit
        # Certain before noisy, as in `visible`: an even order, then an odd one.
        orders = torch.full_like(valid, 4, dtype=torch.int64)
        certain = ardit.latent_tokens(
            before, before_spoken, before_positions, CERTAIN_TIME, orders=orders, valid=before_valid
        )
        given = certain + ardit.latent_tokens(noise, spoken, positions, NOISE_TIME, orders=orders + 1, valid=valid)
        known = torch.full_like(past_valid, CONTEXT, dtype=torch.int64).masked_fill(~past_valid, PADDING)
        caches = [_Recorder(layer) for layer in past.unbind(0)]
        mask = visible(given.orders, torch.cat([known, given.orders], 1))
        features = ardit.trunk(given.inputs, given.times, given.positions, mask, [*caches])
        velocity = ardit.output(features[:, size:]).float()
        seen = torch.stack([cast(Tensor, cache.all)[:, :, :, :-size] for cache in caches])
        return zero_padding(noise - velocity, valid), seen, torch.cat([past_valid, before_valid], 1)


class _Durations(nn.Module):
    def __init__(self, model: Tts) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, token_lens: Tensor) -> Tensor:
        return self.model.predict_durations(tokens, token_lens)


class _Vocoder(nn.Module):
    def __init__(self, vocoder: Vocos) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, feats: Tensor, feat_lens: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.vocoder(feats, feat_lens))


class _Decoder(nn.Module):
    def __init__(self, model: Tts) -> None:
        super().__init__()
        self.model = model

    def forward(self, latents: Tensor, latent_lens: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], self.model.vocoder(*self.model.codec.decode(latents, latent_lens)))
