"""Recognisers as folders that the package onnx-asr reads.

onnx-asr computes features itself. Of its readers two fit models of ours: that of NeMo's CTC (Parakeet and models that
were trained on its features), and that of Whisper. A model on Whisper's features is one graph from these to tokens,
CTC's best path included; its byte-level pieces are spelled as Whisper's are. Whisper's features last 30 s whatever was
said, so that the end of the speech is where silence without any energy begins: a frame at the end may be judged
otherwise than by the model itself, which is told the length.

Shapes: B utterances, T frames, F mel bands, V vocabulary, U tokens.
Source: onnx-asr 0.12, ``models/nemo.py``, ``models/whisper.py`` and ``preprocessors/numpy_preprocessor.py``.
"""

import json
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.audio.fbank import LogMelConfig
from speechnar.errors import ConfigError
from speechnar.export.best_path import collapsed, silent_pieces
from speechnar.export.graph import Input, Precision, write_graph
from speechnar.models.asr.joint import Joint
from speechnar.models.asr.owsm_ctc import OwsmCtc
from speechnar.models.base import LoadedModel
from speechnar.nn.pretrained import PretrainedTrunk
from speechnar.text.byte_pairs import BytePairTokenizer
from speechnar.text.tokenizer import BLANK, UNK, UNKNOWN_SHOWN_AS, Tokenizer

WHISPER_FRAMES = 3000
WHISPER_RANGE = 2.0
"""Features are at most this much below the loudest one (8 decades over 4)."""
WHISPER_FLOOR = -1.5
"""Of no energy at all: (log10 1e-10 + 4) / 4."""
OVERLAP_FRAMES = 2
"""Frames behind the speech whose windows still reach into it."""
WHISPER_CONTROLS = ("<|startoftranscript|>", "<|endoftext|>", "<|transcribe|>", "<|notimestamps|>")
_NUMBERS = {"max_length": "int32", "min_length": "int32", "num_beams": "int32", "num_return_sequences": "int32"}
_NUMBERS |= {"length_penalty": "float32", "repetition_penalty": "float32"}


def export_onnx_asr(loaded: LoadedModel, out: str | Path, *, precision: Precision = "fp32") -> Path:
    """Write a recogniser with CTC as a folder for ``onnx_asr.load_model``, and return that folder.

    ``config.json`` names the type of model, which ``load_model(type, folder)`` takes.

    Raises:
        ConfigError: no reader of onnx-asr computes the model's features.
        MissingExtraError: onnx or onnxscript is absent.
    """
    model = loaded.model.trunk if isinstance(loaded.model, Joint) else loaded.model
    frontend = model.config.frontend if isinstance(model, OwsmCtc) else None
    if not isinstance(model, OwsmCtc) or not isinstance(frontend, LogMelConfig):
        raise ConfigError(f"onnx-asr has no reader for a model of kind {loaded.kind}, or not for its features")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if model.config.normalize == "nemo" and frontend == LogMelConfig.for_nemo(frontend.num_mels):
        return _write_nemo(model, loaded.tokenizer, out, precision)
    if model.config.normalize == "peak" and isinstance(loaded.tokenizer, BytePairTokenizer):
        return _write_whisper(model, frontend.num_mels, loaded.tokenizer, out, precision)
    raise ConfigError(
        "onnx-asr computes features as NeMo and Whisper do; this model was trained on others, or its text is not "
        "spelled in bytes as Whisper's is"
    )


def _write_nemo(model: OwsmCtc, tokenizer: Tokenizer, out: Path, precision: Precision) -> Path:
    features, subsampling = model.frontend.num_features, model.config.encoder.total_subsampling
    example = torch.linspace(-1, 1, 3 * features * 64).view(3, features, 64)
    write_graph(
        _FromNemo(model),
        {"audio_signal": Input(example, (0, 2)), "length": Input(torch.tensor([64, 40, 32]), (0,))},
        ("logprobs",),
        out / _name("model", precision),
        metadata={"model_type": "EncDecCTCModelBPE", "vocab_size": tokenizer.vocab_size, "precision": precision},
        precision=precision,
    )
    named = {BLANK: "<blk>", UNK: UNKNOWN_SHOWN_AS}
    vocabulary = "".join(f"{named.get(piece, piece)} {i}\n" for i, piece in enumerate(tokenizer.pieces))
    (out / "vocab.txt").write_bytes(vocabulary.encode("utf-8"))
    _write_config(out, model_type="nemo-conformer-ctc", features_size=features, subsampling_factor=subsampling)
    return out


def _write_whisper(
    model: OwsmCtc, num_mels: int, tokenizer: BytePairTokenizer, out: Path, precision: Precision
) -> Path:
    path = out / _name("whisper-speechnar_beamsearch", precision)
    example = torch.linspace(-1, 1, 3 * num_mels * WHISPER_FRAMES).view(3, num_mels, WHISPER_FRAMES)
    end_id = tokenizer.vocab_size + WHISPER_CONTROLS.index("<|endoftext|>")
    write_graph(
        _FromWhisper(model, tokenizer, end_id),
        {"input_features": Input(example, (0,))},
        ("sequences",),
        path,
        metadata={"precision": precision},
        precision=precision,
    )
    _take_also(path, _NUMBERS | {"decoder_input_ids": "int32"})
    is_silent = silent_pieces(tokenizer).tolist()
    pieces = {f"<|{piece}|>" if is_silent[i] else piece: i for i, piece in enumerate(tokenizer.pieces)}
    added = {name: tokenizer.vocab_size + n for n, name in enumerate(WHISPER_CONTROLS)}
    for name, content in (("vocab.json", pieces), ("added_tokens.json", added)):
        (out / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    _write_config(out, model_type="whisper-ort", features_size=num_mels)
    return out


def _name(stem: str, precision: Precision) -> str:
    return f"{stem}.onnx" if precision == "fp32" else f"{stem}.{precision}.onnx"


def _write_config(out: Path, **values: str | int) -> None:
    (out / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _take_also(path: Path, inputs: dict[str, str]) -> None:
    """Let the graph take ``inputs`` that a search would need, and that change nothing."""
    import onnx  # noqa: PLC0415  # an extra, which is there
    from onnx import TensorProto, helper  # noqa: PLC0415

    types = {"int32": TensorProto.INT32, "float32": TensorProto.FLOAT}
    model = onnx.load(path)
    for name, kind in inputs.items():
        shape = ["batch", "length"] if name == "decoder_input_ids" else [1]
        model.graph.input.append(helper.make_tensor_value_info(name, types[kind], shape))
    onnx.save(model, path)


class _FromNemo(nn.Module):
    def __init__(self, model: OwsmCtc) -> None:
        super().__init__()
        self.model = model

    def forward(self, audio_signal: Tensor, length: Tensor) -> Tensor:
        return self.model.encode_features(audio_signal.transpose(1, 2), length).log_probs


class _FromWhisper(nn.Module):
    """From Whisper's features to sequences that begin with a token of the language, of which there is none."""

    is_silent: Tensor

    def __init__(self, model: OwsmCtc, tokenizer: Tokenizer, end_id: int) -> None:
        super().__init__()
        self.model = model
        self.end_id = end_id
        self.blank_id = tokenizer.blank_id
        self.register_buffer("is_silent", silent_pieces(tokenizer))

    def forward(self, input_features: Tensor) -> Tensor:
        """Map (B, F, 3000) to int32 (B, 1, U + 2)."""
        model = self.model
        feats, lens = input_features.transpose(1, 2), spoken_frames(input_features)
        if isinstance(model.encoder, PretrainedTrunk):
            feats, lens = model.encoder.pretrained.frozen(feats, lens)
        out = model.encode_features(feats, lens)
        tokens, num = collapsed(out.log_probs, out.lens, blank_id=self.blank_id, is_silent=self.is_silent)
        tokens = tokens.where(torch.arange(tokens.size(1)) < num[:, None], self.end_id)
        return F.pad(tokens, (2, 0), value=self.end_id)[:, None].int()


def spoken_frames(features: Tensor) -> Tensor:
    """Return the frames (B,), at least 1, before the silence that Whisper's ``features`` (B, F, T) end with.

    Silence is at the floor in all bands: no energy, or 8 decades below the loudest.
    """
    floor = (features.amax((1, 2)) - WHISPER_RANGE).clamp(min=WHISPER_FLOOR)
    is_heard = features.amax(1) > floor[:, None] + 1e-4
    behind = (is_heard * torch.arange(1, features.size(2) + 1)).amax(1)
    return (behind - OVERLAP_FRAMES).clamp(min=1)
