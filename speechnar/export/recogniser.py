"""A recogniser as one graph from samples on: CTC's log-probabilities, or the tokens of a best path.

Shapes: B utterances, S samples, T positions (the model's prefix, then frames), V vocabulary, U tokens.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.asr.clips import CTC
from speechnar.asr.onnx import GRAPH_FILE, OnnxConfig
from speechnar.asr.speech_models import PaddedModel, SpeechModel, TaggingModel
from speechnar.decode.esa import best_tokens, name_slots
from speechnar.decode.segments import Segments, path_segments
from speechnar.errors import ConfigError
from speechnar.export.graph import OPSET, Input, Precision, write_graph
from speechnar.models.asr.cassnat import CassNat, CassNatHead
from speechnar.models.asr.joint import Joint
from speechnar.models.asr.paraformer import Paraformer
from speechnar.models.asr.paraformer_head import ParaformerHead, own_ends
from speechnar.models.asr.token_acoustic_embedder import clean, cut_posteriors
from speechnar.models.base import CARD_FILE, CONFIG_FILE, LoadedModel
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import longest
from speechnar.store import SCHEMA_VERSION
from speechnar.text.words import copy_words

SHORTEST_S = 0.025
"""Of what a graph hears: a frame of features."""
TOKEN_OUTPUTS = ("tokens", "scores", "starts", "ends", "token_lens")


def export_onnx(
    loaded: LoadedModel, source: Path, out: str | Path, *, decoder: str | None = None, precision: Precision = "fp32"
) -> Path:
    """Write a recogniser as a folder for ``Transcriber.load(..., engine="onnx")`` and return that folder.

    Args:
        loaded: the model, on the CPU.
        source: its folder, whose card and words are kept.
        out: the new folder, made if absent.
        decoder: CTC, ``paraformer`` or ``cassnat``, of those that the model has; None is its default.
        precision: see `speechnar.export.graph.write_graph`.

    Raises:
        ConfigError: the model has no such decoder, or more beside it than a graph can say.
        MissingExtraError: onnx or onnxscript is absent.
    """
    graph, config = graph_of(loaded, decoder)
    config = config.model_copy(update={"precision": precision})
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_graph(
        graph,
        waveform_inputs(config.sample_rate, config.default_prefix),
        ("log_probs", "lens") if config.decoder == CTC else TOKEN_OUTPUTS,
        out / GRAPH_FILE,
        metadata=config.model_dump(mode="json"),
        precision=precision,
    )
    loaded.tokenizer.save(out)
    if (source / CARD_FILE).is_file():
        shutil.copy(source / CARD_FILE, out / CARD_FILE)
    copy_words(source, out)
    document = {"schema_version": SCHEMA_VERSION, "kind": config.kind, "config": config.model_dump(mode="json")}
    (out / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return out


def graph_of(loaded: LoadedModel, decoder: str | None = None) -> tuple["WavToLogProbs | WavToTokens", OnnxConfig]:
    """Return the module from samples on, and what decoding must know of it.

    Raises:
        ConfigError: see `export_onnx`.
    """
    model: Any = loaded.model
    if not isinstance(model, SpeechModel):
        raise ConfigError(f"model {loaded.name} of kind {loaded.kind} is no recogniser")
    if isinstance(model, TaggingModel):
        raise ConfigError(
            f"model {loaded.name} of kind {loaded.kind} names languages and sounds beside CTC, and is exported for "
            "sherpa alone"
        )
    decoder = decoder or model.decoder_names[0]
    head = None if decoder == CTC else _head_of(model, decoder)
    if decoder not in model.decoder_names or (decoder != CTC and head is None):
        able = [name for name in model.decoder_names if name == CTC or _head_of(model, name) is not None]
        raise ConfigError(
            f"model {loaded.name} of kind {loaded.kind} can be exported with {' or '.join(able) or 'no decoder'}, "
            f"got {decoder}"
        )
    config = OnnxConfig(
        kind="onnx_ctc" if head is None else "onnx_tokens",
        source=loaded.kind,
        decoder=decoder,
        sample_rate=model.sample_rate,
        frame_shift_s=model.frame_shift_s,
        num_prefix=model.num_prefix if head is None else 0,
        blank_id=model.blank_id,
        default_prefix=_default_prefix(model),
        clip_s=model.clip_s if isinstance(model, PaddedModel) else None,
        silent_ids=() if head is None else _silent_ids(head),
        opset=OPSET,
    )
    return (WavToLogProbs(model) if head is None else WavToTokens(model, head)), config


def waveform_inputs(sample_rate: int, default_prefix: tuple[int, ...] = ()) -> Mapping[str, Input]:
    """Return samples and lengths, and the prefix of a model that has one."""
    # A batch of three: of two, the exporter would take its size for that of the prefix, which is fixed.
    lens = torch.tensor([2 * sample_rate, sample_rate, sample_rate // 2])
    noise = np.random.default_rng(0).normal(scale=0.1, size=(3, int(lens[0])))
    wav = Input(torch.from_numpy(noise.astype(np.float32)), (0, 1), {1: round(SHORTEST_S * sample_rate)})
    inputs = {"wav": wav, "wav_lens": Input(lens, (0,))}
    if default_prefix:
        inputs["prefix"] = Input(torch.tensor([default_prefix]).repeat(3, 1), (0,))
    return inputs


class WavToLogProbs(nn.Module):
    """From samples to what a search reads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, wav: Tensor, wav_lens: Tensor, prefix: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map wav (B, S), wav_lens (B,) and the prefix (B, P) to log-probabilities (B, T, V) and lengths (B,)."""
        context = {} if prefix is None else {"prefix": prefix}
        out = self.model.encode(wav, wav_lens, **context)
        return out.log_probs, out.lens


class WavToTokens(nn.Module):
    """From samples to the tokens of a best path."""

    def __init__(self, model: Any, head: ParaformerHead | CassNatHead) -> None:
        super().__init__()
        self.model = model
        self.head = head

    def forward(self, wav: Tensor, wav_lens: Tensor, prefix: Tensor | None = None) -> tuple[Tensor, ...]:
        """Map wav (B, S), wav_lens (B,) and the prefix (B, P) to what `TOKEN_OUTPUTS` names, (B, U), and (B,)."""
        context = {} if prefix is None else {"prefix": prefix}
        out = self.model.encode(wav, wav_lens, **context)
        if isinstance(self.model, Joint):
            out = self.model.encoded_speech(out)
        elif isinstance(self.model, CassNat):
            out = out.speech
        if isinstance(self.head, CassNatHead):
            return _name_segments(self.head, out)
        cut, log_probs = self.head.name_fires(out)
        scores, tokens = log_probs.max(2)
        return tokens, scores, cut.starts, own_ends(cut), cut.lens


def _name_segments(head: CassNatHead, speech: EncodedSpeech) -> tuple[Tensor, ...]:
    """Return what `CassNatHead.decode` finds with one alignment, the end of the sentence counted."""
    speech = clean(speech)
    labels = cut_posteriors(speech, head.blank_id, lose_last=head.config.lose_last_emission).argmax(-1)
    segments = _narrowed(path_segments(labels, speech.lens, head.blank_id, max_tokens=labels.size(1)))
    x, _ = head.decode_slots(speech, segments)
    tokens, scores = best_tokens(head.log_probs(x), (head.blank_id, head.sos_id))
    named = name_slots(tokens, scores, segments, eos_id=head.eos_id)
    lens = torch.minimum(named.token_lens + 1, segments.slot_lens)
    return named.tokens, named.scores, named.starts, named.ends, lens


def _narrowed(segments: Segments) -> Segments:
    columns = torch.arange(longest(segments.token_lens))  # a slice would be of the least of two sizes
    starts, ends = (F.pad(x, (0, 1)).index_select(1, columns) for x in (segments.starts, segments.ends))
    return replace(segments, starts=starts, ends=ends)


def _head_of(model: Any, decoder: str) -> ParaformerHead | CassNatHead | None:
    """Return the decoder that a graph can hold, or None."""
    if isinstance(model, Joint):
        head: Any = dict(model.decoders.items()).get(decoder)
    else:
        head = model.head if isinstance(model, Paraformer | CassNat) and decoder == model.decoder_names[0] else None
    return head if isinstance(head, ParaformerHead | CassNatHead) else None


def _silent_ids(head: ParaformerHead | CassNatHead) -> tuple[int, ...]:
    return (head.eos_id,) if isinstance(head, CassNatHead) else tuple(sorted(head.silent_ids))


def _default_prefix(model: Any) -> tuple[int, ...]:
    trunk = model.trunk if isinstance(model, Joint) else model
    return trunk.default_prefix if model.num_prefix else ()
