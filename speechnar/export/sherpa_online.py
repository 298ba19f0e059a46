"""A Paraformer that streams, as the folder that sherpa-onnx's online recogniser reads.

sherpa-onnx computes features, cuts windows, integrates and keeps the decoder's memories itself; one graph encodes a
window, another one writes the tokens that fired in it. A window is 5 frames that were current before, 10 current ones
and 3 ahead, zeros before the first, and nothing else of what was before is looked back on. A model that learned with
`WINDOWS` writes what it writes here, 30 ms later, since the first stack of frames has nothing before the first one. One
that looks back, as FunASR's online models do, attends to those 5 frames in place of its memory, as in sherpa-onnx's own
editions of these models, so that texts may differ. The end is heard if silence follows.

Shapes: one stream, T frames of a window, F features, D model width, K kernel of the memories, U tokens, V vocabulary.
Source: sherpa-onnx 2.0.1, ``csrc/online-recognizer-paraformer-impl.h`` and ``csrc/features.cc``.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.fbank import KaldiFbankConfig
from speechnar.errors import ConfigError
from speechnar.export.best_path import silent_pieces
from speechnar.export.graph import Input, Precision, write_graph
from speechnar.export.sherpa import paraformer_metadata, write_pieces, write_reader
from speechnar.models.asr.paraformer import Paraformer
from speechnar.models.asr.paraformer_stream import missing_to_stream
from speechnar.models.base import LoadedModel
from speechnar.nn.cif import CifPredictor
from speechnar.nn.sanm import DecoderCache, SanmDecoder, SanmDecoderLayer, SanmEncoder, WindowConfig
from speechnar.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

BEFORE = 5
"""Frames of a window that were current in the one before."""
WINDOWS = WindowConfig(current_frames=10, ahead_frames=3, encoder_look_back=0, decoder_look_back=0, lead_frames=3)
FEATURES = KaldiFbankConfig(lfr_window=7, lfr_shift=6)
SKIPPED_ID = 0
"""What sherpa-onnx takes for no token."""


def export_sherpa_online(loaded: LoadedModel, out: str | Path, *, precision: Precision = "fp32") -> Path:
    """Write a Paraformer that streams as a folder for sherpa-onnx's online recogniser and return that folder.

    ``reader.json`` names the method of ``sherpa_onnx.OnlineRecognizer`` that reads it, and its arguments.

    Args:
        loaded: the model, on the CPU.
        out: the new folder, made if absent.
        precision: see `speechnar.export.graph.write_graph`.

    Raises:
        ConfigError: the model does not stream, or hears other frames than sherpa-onnx has.
        MissingExtraError: onnx or onnxscript is absent.
    """
    model, tokenizer = loaded.model, loaded.tokenizer
    if not isinstance(model, Paraformer):
        raise ConfigError(f"sherpa-onnx's online reader takes a Paraformer; model {loaded.name} is {loaded.kind}")
    missing, frontend = missing_to_stream(model), model.config.frontend
    if missing or not isinstance(frontend, KaldiFbankConfig):
        raise ConfigError(
            f"sherpa-onnx's online reader takes a Paraformer that streams; model {loaded.name} lacks "
            + ", ".join(missing)
        )
    if frontend.model_copy(update={"dither": 0.0}) != FEATURES or not silent_pieces(tokenizer)[SKIPPED_ID]:
        raise ConfigError(
            f"sherpa-onnx's online reader computes the features of FunASR's online models, and writes nothing for "
            f"token {SKIPPED_ID}; model {loaded.name} was trained on others"
        )
    encoder, decoder = _WindowEncoder(model), _WindowDecoder(model, tokenizer)
    if encoder.windows != WINDOWS:
        logger.warning("model %s has learned with other windows than sherpa-onnx cuts; texts may differ", loaded.name)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_pieces(out, tokenizer)
    width, num_frames, num_tokens = encoder.width, BEFORE + WINDOWS.frames, 4
    frames = torch.linspace(-1, 1, num_frames * model.frontend.num_features).view(1, num_frames, -1)
    lens = Input(torch.tensor([num_frames], dtype=torch.int32))
    sizes = {
        "encoder_output_size": width,
        "decoder_num_blocks": len(decoder.layers),
        "decoder_kernel_size": decoder.past_size + 1,
    }
    write_graph(
        encoder,
        {"speech": Input(frames), "speech_lengths": lens},
        ("enc", "enc_len", "alphas"),
        out / "encoder.onnx",
        metadata=paraformer_metadata(model, tokenizer) | sizes,
        precision=precision,
    )
    enc, embeds = torch.linspace(-1, 1, num_frames * width), torch.linspace(-1, 1, num_tokens * width)
    pasts = Input(tuple(torch.zeros(1, width, decoder.past_size) for _ in decoder.layers))
    write_graph(
        decoder,
        {
            "enc": Input(enc.view(1, num_frames, width)),
            "enc_len": lens,
            "acoustic_embeds": Input(embeds.view(1, num_tokens, width), (1,)),
            "acoustic_embeds_len": Input(torch.tensor([num_tokens], dtype=torch.int32)),
            "pasts": pasts,
        },
        ("logits", "sample_ids", *pasts.names("next_pasts")),
        out / "decoder.onnx",
        metadata=sizes,
        precision=precision,
    )
    files = {"encoder": "encoder.onnx", "decoder": "decoder.onnx"}
    write_reader(out, "OnlineRecognizer", "from_paraformer", **files, feature_dim=FEATURES.num_mels)
    return out


class _WindowEncoder(nn.Module):
    """From placed frames to states and weights, zero where the model does not look."""

    def __init__(self, model: Paraformer) -> None:
        super().__init__()
        assert isinstance(model.encoder, SanmEncoder) and isinstance(model.head.embedder, CifPredictor)
        assert model.encoder.config.windows is not None, "as asked for"
        self.layers, self.norm = model.encoder.layers, model.encoder.norm
        self.embedder = model.head.embedder
        self.windows = model.encoder.config.windows
        self.width = model.encoder.config.model_dim
        self.hidden = hidden_frames(self.windows)

    def forward(self, speech: Tensor, speech_lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map speech (1, T, F) and T (1,) to states (1, T, D), T (1,) and weights (1, T)."""
        x = speech[:, self.hidden :]
        valid = torch.ones(x.shape[:2], dtype=torch.bool)
        for layer in self.layers:
            x = layer(x, valid, valid[:, None, None])
        x = self.norm(x)
        alphas = F.pad(self.embedder.alphas(x, valid), (self.hidden, 0))
        return F.pad(x, (0, 0, self.hidden, 0)), speech_lengths + 0, alphas


class _WindowDecoder(nn.Module):
    """From the vectors of the tokens that fired to their ids, `SKIPPED_ID` where one is no text."""

    is_silent: Tensor

    def __init__(self, model: Paraformer, tokenizer: Tokenizer) -> None:
        super().__init__()
        assert isinstance(model.encoder, SanmEncoder) and isinstance(model.head.decoder, SanmDecoder)
        assert model.encoder.config.windows is not None, "as asked for"
        self.decoder, self.output = model.head.decoder, model.head.output
        self.hidden = hidden_frames(model.encoder.config.windows)
        self.past_size = model.config.head.kernel_size - 1
        self.register_buffer("is_silent", silent_pieces(tokenizer))

    @property
    def layers(self) -> list[SanmDecoderLayer]:
        return [layer for layer in self.decoder.layers if isinstance(layer, SanmDecoderLayer)]

    def forward(
        self,
        enc: Tensor,
        enc_len: Tensor,
        acoustic_embeds: Tensor,
        acoustic_embeds_len: Tensor,
        pasts: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:
        """Map enc (1, T, D), embeds (1, U, D) and pasts (1, D, K - 1) to logits (1, U, V), ids (1, U) and pasts."""
        cache = DecoderCache({id(layer): past.mT for layer, past in zip(self.layers, pasts, strict=True)})
        keys_values = self.decoder.project(enc[:, self.hidden :])
        is_token = torch.ones(acoustic_embeds.shape[:2], dtype=torch.bool)
        mask = torch.ones(1, 1, 1, keys_values.size(4), dtype=torch.bool)
        logits = self.output(self.decoder(acoustic_embeds, is_token, keys_values, mask, cache))
        ids = logits.argmax(2)
        ids = ids.masked_fill(self.is_silent[ids], SKIPPED_ID)
        return logits, ids, *(cache.past[id(layer)].mT for layer in self.layers)


def hidden_frames(windows: WindowConfig) -> int:
    """Return how many frames of sherpa-onnx's windows a model does not see that never looked back."""
    return 0 if windows.encoder_look_back else BEFORE
