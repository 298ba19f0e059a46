"""Recognisers as folders that sherpa-onnx reads: graphs, ``tokens.txt``, and ``reader.json``, which says how.

sherpa-onnx has a reader for each family, which computes the family's features itself. Paraformer and SenseVoice have
such readers, and their features are ours. For all other models the front end is part of the graph, which hears samples
as they are; of the readers that hand on samples, that of omnilingual CTC sets their deviation to 1, while features such
as Whisper's depend on it, so the one of Moonshine is taken, which does not. Moonshine is autoregressive: its encoder is
here the whole recogniser, best path included, and its decoder reads out the tokens that were found, one by one, in one
operation each. Their spelling is bytes, so that pieces of characters make characters. It gives no times.

Shapes: B utterances, S samples, T frames, F features, V vocabulary, U tokens.
Source: sherpa-onnx 2.0.1, ``csrc/offline-recognizer-{paraformer,sense-voice,moonshine-v2}-impl.h``.
"""

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.asr.clips import MIN_CLIP_FRAMES
from speechnar.audio.cmvn import MIN_STD, GlobalCmvn
from speechnar.audio.fbank import KaldiFbankConfig
from speechnar.errors import ConfigError
from speechnar.export.best_path import BestPath, side_by_side, silent_pieces, text_bytes
from speechnar.export.graph import OPSET, Input, Precision, write_graph
from speechnar.export.recogniser import graph_of, waveform_inputs
from speechnar.models.asr.paraformer import PARAFORMER, Paraformer
from speechnar.models.asr.sensevoice import ANY_LANGUAGE, EMOTIONS, EVENTS, LANGUAGES, SPOKEN, WRITTEN, SenseVoice
from speechnar.models.base import LoadedModel
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from speechnar.text.languages import ISO3_TO_ISO1
from speechnar.text.tokenizer import UNK, UNKNOWN_SHOWN_AS, LexiconTokenizer, Tokenizer

READER_FILE, TOKENS_FILE = "reader.json", "tokens.txt"
OFFLINE = "OfflineRecognizer"
SENTENCE_END = "</s>"
LABELS = (EMOTIONS, EVENTS, ("withitn", "woitn"))
"""Of SenseVoice, behind those of languages."""
END_ID, FIRST_ID = 2, 3
"""Moonshine's end, and the first of our tokens behind it, which come twice: as they begin a text and as they go on."""
CELLS_PER_TOKEN = 3
"""Moonshine's search ends after 0.36 tokens for each vector of the encoder."""


def export_sherpa(
    loaded: LoadedModel, out: str | Path, *, decoder: str | None = None, precision: Precision = "fp32"
) -> Path:
    """Write a recogniser as a folder for sherpa-onnx and return that folder.

    ``reader.json`` names the method of ``sherpa_onnx.OfflineRecognizer`` that reads it, and its arguments.

    Args:
        loaded: the model, on the CPU.
        out: the new folder, made if absent.
        decoder: see `speechnar.export.recogniser.export_onnx`.
        precision: see `speechnar.export.graph.write_graph`.

    Raises:
        ConfigError: the model has no such decoder, or no reader fits it.
        MissingExtraError: onnx or onnxscript is absent.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    model: Any = loaded.model
    if isinstance(model, SenseVoice):
        _write_sensevoice(model, loaded.tokenizer, out, precision)
    elif isinstance(model, Paraformer) and decoder in (None, PARAFORMER) and _has_readers_features(model):
        _write_paraformer(model, loaded.tokenizer, out, precision)
    else:
        _write_samples(loaded, out, decoder, precision)
    return out


def _has_readers_features(model: Paraformer | SenseVoice) -> bool:
    """Tell whether the features are those that sherpa-onnx computes for models of FunASR."""
    frontend = model.config.frontend
    if not isinstance(frontend, KaldiFbankConfig) or not isinstance(model.normalizer, GlobalCmvn):
        return False
    return frontend == KaldiFbankConfig(
        num_mels=frontend.num_mels,
        lfr_window=frontend.lfr_window,
        lfr_shift=frontend.lfr_shift,
        dither=frontend.dither,
    )


def _write_paraformer(model: Paraformer, tokenizer: Tokenizer, out: Path, precision: Precision) -> None:
    write_pieces(out, tokenizer)
    write_graph(
        _ParaformerReader(model, tokenizer, tokenizer.id_of("<eos>")),
        _feature_inputs("speech", "speech_lengths", model.frontend.num_features),
        ("logits", "token_num"),
        out / "model.onnx",
        metadata=paraformer_metadata(model, tokenizer),
        precision=precision,
    )
    write_reader(out, OFFLINE, "from_paraformer", paraformer="model.onnx", feature_dim=model.config.frontend.num_mels)


def _write_sensevoice(model: SenseVoice, tokenizer: Tokenizer, out: Path, precision: Precision) -> None:
    if not _has_readers_features(model):
        raise ConfigError("sherpa-onnx computes SenseVoice's features as FunASR does; this model was trained on others")
    _write_tokens(out, ((UNKNOWN_SHOWN_AS if piece == UNK else piece, i) for i, piece in enumerate(tokenizer.pieces)))
    rows = {f"lang_{ISO3_TO_ISO1.get(code, code)}": row for code, (row, _) in LANGUAGES.items()}
    inputs = {
        **_feature_inputs("x", "x_length", model.frontend.num_features),
        "language": Input(torch.tensor([0, 3, 4], dtype=torch.int32), (0,)),
        "text_norm": Input(torch.tensor([14, 15, 14], dtype=torch.int32), (0,)),
    }
    metadata = _metadata("sense_voice_ctc", tokenizer, model) | rows
    metadata |= {"lang_auto": ANY_LANGUAGE, "with_itn": WRITTEN, "without_itn": SPOKEN}
    metadata |= {"normalize_samples": 0, "blank_id": tokenizer.blank_id}
    graph = _SenseVoiceReader(model, tokenizer)
    write_graph(graph, inputs, ("logits",), out / "model.onnx", metadata=metadata, precision=precision)
    write_reader(out, OFFLINE, "from_sense_voice", model="model.onnx", feature_dim=model.config.frontend.num_mels)


def _write_samples(loaded: LoadedModel, out: Path, decoder: str | None, precision: Precision) -> None:
    graph, config = graph_of(loaded, decoder)
    if config.sample_rate != 16000:
        raise ConfigError(f"sherpa-onnx hands on samples at 16000 Hz; this model hears {config.sample_rate} Hz")
    if isinstance(loaded.tokenizer, LexiconTokenizer):
        raise ConfigError(
            "sherpa-onnx joins words of a lexicon by its reader for Paraformer alone, and this model's features or "
            f"decoder ({config.decoder}) are not of that"
        )
    spelled = text_bytes(loaded.tokenizer, UNKNOWN_SHOWN_AS)
    size = loaded.tokenizer.vocab_size
    lines = [(base64.b64encode(text.removeprefix(b" ")).decode(), FIRST_ID + i) for i, text in spelled.items()]
    lines += [(base64.b64encode(text).decode(), FIRST_ID + size + i) for i, text in spelled.items()]
    _write_tokens(out, lines)
    clip_s = config.clip_s or MIN_CLIP_FRAMES * config.frame_shift_s
    write_graph(
        _SampleReader(BestPath(graph, loaded.tokenizer), round(clip_s * config.sample_rate)),
        {"input_values": Input(waveform_inputs(config.sample_rate)["wav"].example[:1], (1,))},
        ("last_hidden_state",),
        out / "encoder.onnx",
        metadata=config.model_dump(mode="json") | {"precision": precision},
        precision=precision,
    )
    _write_readout(out / "decoder.onnx", FIRST_ID + 2 * size)
    write_reader(out, OFFLINE, "from_moonshine_v2", encoder="encoder.onnx", decoder="decoder.onnx")


def _feature_inputs(feats: str, lens: str, num_features: int) -> dict[str, Input]:
    example = torch.linspace(-1, 1, 3 * 40 * num_features).view(3, 40, num_features)
    return {feats: Input(example, (0, 1)), lens: Input(torch.tensor([40, 30, 20], dtype=torch.int32), (0,))}


def paraformer_metadata(model: Paraformer, tokenizer: Tokenizer) -> dict[str, object]:
    """Return what sherpa-onnx's readers of Paraformer must know of its features."""
    return _metadata("paraformer", tokenizer, model)


def _metadata(kind: str, tokenizer: Tokenizer, model: Paraformer | SenseVoice) -> dict[str, object]:
    frontend, normalizer = model.config.frontend, model.normalizer
    assert isinstance(frontend, KaldiFbankConfig) and isinstance(normalizer, GlobalCmvn), "as asked for"
    return {
        "model_type": kind,
        "comment": "exported by speechnar",
        "vocab_size": tokenizer.vocab_size,
        "lfr_window_size": frontend.lfr_window,
        "lfr_window_shift": frontend.lfr_shift,
        "neg_mean": _numbers(-normalizer.mean),
        "inv_stddev": _numbers(1 / normalizer.std.clamp(min=MIN_STD)),
    }


def _numbers(values: Tensor) -> str:
    return ",".join(f"{value:.9g}" for value in values.tolist())


def write_pieces(out: Path, tokenizer: Tokenizer) -> None:
    """Write the ``tokens.txt`` of a Paraformer, whose pieces sherpa-onnx itself joins to words."""
    named = {tokenizer.id_of("<eos>"): SENTENCE_END, tokenizer.unk_id: UNKNOWN_SHOWN_AS}
    _write_tokens(out, ((named.get(i, piece), i) for i, piece in enumerate(tokenizer.pieces)))


def _write_tokens(out: Path, lines: Iterable[tuple[str, int]]) -> None:
    (out / TOKENS_FILE).write_bytes("".join(f"{piece} {i}\n" for piece, i in lines).encode("utf-8"))


def write_reader(out: Path, kind: str, method: str, **arguments: str | int) -> None:
    """Write ``reader.json``: the class of sherpa-onnx, its method and the arguments that read a folder."""
    reader = {"class": f"sherpa_onnx.{kind}", "method": method}
    document = {**reader, "arguments": {**arguments, "tokens": TOKENS_FILE}}
    (out / READER_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


class _ParaformerReader(nn.Module):
    """From stacked, normalised features to one-hot scores of the tokens that are text, then the end of the sentence.

    sherpa-onnx takes the best token of each place up to the first end, in a batch of the longest one's places too.
    """

    is_silent: Tensor

    def __init__(self, model: Paraformer, tokenizer: Tokenizer, eos_id: int) -> None:
        super().__init__()
        self.model = model
        self.eos_id = eos_id
        self.num_tokens = tokenizer.vocab_size
        self.register_buffer("is_silent", silent_pieces(tokenizer))

    def forward(self, speech: Tensor, speech_lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoded: EncodedSpeech = self.model.encode_features(speech, speech_lengths.long())
        cut, log_probs = self.model.head.name_fires(encoded)
        tokens = log_probs.argmax(2)
        keep = valid_mask(cut.lens, tokens.size(1)) & ~self.is_silent[tokens]
        kept, lens = side_by_side(tokens, keep, fill=self.eos_id)
        return F.one_hot(kept, self.num_tokens).float(), lens.int()


class _SenseVoiceReader(nn.Module):
    """From stacked, normalised features to log-probabilities of four labels and the frames.

    sherpa-onnx takes the first four tokens for the labels, and shows all others: each label is the best of its kind,
    and where the best of a frame is no text, it is blank.
    """

    is_silent: Tensor

    def __init__(self, model: SenseVoice, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.model = model
        self.blank_id, self.num_tokens = tokenizer.blank_id, tokenizer.vocab_size
        self.register_buffer("is_silent", silent_pieces(tokenizer))
        self.labels = _labels(tokenizer)

    def forward(self, x: Tensor, x_length: Tensor, language: Tensor, text_norm: Tensor) -> Tensor:
        prefix = torch.stack([language, text_norm], 1).long()
        out = self.model.encode_features(x, x_length.long(), prefix=prefix)
        labels = [
            torch.tensor(ids)[out.label_log_probs[:, place, ids].argmax(1)] for place, ids in enumerate(self.labels)
        ]
        best = out.log_probs.argmax(2)
        text = best.masked_fill(self.is_silent[best], self.blank_id)
        return F.one_hot(torch.cat([torch.stack(labels, 1), text], 1), self.num_tokens).float()


def _labels(tokenizer: Tokenizer) -> list[list[int]]:
    """Return the ids of languages, emotions, events and styles, of which the vocabulary has one each at least."""
    kinds = ([label for _, label in LANGUAGES.values()], *([f"<|{name}|>" for name in names] for names in LABELS))
    found = [[i for i, piece in enumerate(tokenizer.pieces) if piece in labels] for labels in kinds]
    if not all(found):
        raise ConfigError("sherpa-onnx reads four labels before the text: language, emotion, event and style")
    return found


class _SampleReader(nn.Module):
    """From the samples of one utterance to numbers of tokens, as if they were the states of an encoder."""

    def __init__(self, best_path: BestPath, shortest: int) -> None:
        super().__init__()
        self.best_path = best_path
        self.shortest = shortest
        self.num_pieces = len(best_path.is_silent)

    def forward(self, input_values: Tensor) -> Tensor:
        """Map (1, S) to (1, 3 U + 3, 1), the end of the sentence behind the tokens."""
        wav = F.pad(input_values, (0, max(0, self.shortest - input_values.size(1))))
        tokens, lens = self.best_path(wav, torch.ones(1, dtype=torch.int64) * wav.size(1))
        places = torch.arange(tokens.size(1))
        ids = tokens + FIRST_ID + (places > 0) * self.num_pieces
        ids = ids.where(places < lens[:, None], END_ID)
        num_more = (CELLS_PER_TOKEN - 1) * tokens.size(1) + CELLS_PER_TOKEN
        return F.pad(ids, (0, num_more), value=END_ID)[..., None].float()


def _write_readout(path: Path, num_ids: int) -> None:
    """Write the decoder: the token at the place that its cache is long, and a cache that is longer by one."""
    import onnx  # noqa: PLC0415  # an extra, which is there
    from onnx import TensorProto, helper  # noqa: PLC0415

    cached = [f"{half}.{kind}" for half in ("decoder", "encoder") for kind in ("key", "value")]
    past = [f"past_key_values.0.{name}" for name in cached]
    present = [f"present.0.{name}" for name in cached]
    nodes = [
        helper.make_node("Shape", [past[0]], ["place"], start=2, end=3),
        helper.make_node("Gather", ["encoder_hidden_states", "place"], ["found"], axis=1),
        helper.make_node("Cast", ["found"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Squeeze", ["whole", "last"], ["id"]),
        helper.make_node("OneHot", ["id", "depth", "values"], ["logits"]),
        *(helper.make_node("Concat", [past[i], "cell"], [present[i]], axis=2) for i in (0, 1)),
        *(helper.make_node("Identity", [past[i]], [present[i]]) for i in (2, 3)),
    ]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, [1, 1]),
        helper.make_tensor_value_info("encoder_hidden_states", TensorProto.FLOAT, [1, "cells", 1]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, f"{name}.length", 1]) for name in past),
        helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1]),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1, num_ids]),
        *(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, f"{name}.length", 1]) for name in present),
    ]
    constants = [
        helper.make_tensor("cell", TensorProto.FLOAT, [1, 1, 1, 1], [0.0]),
        helper.make_tensor("last", TensorProto.INT64, [1], [2]),
        helper.make_tensor("depth", TensorProto.INT64, [1], [num_ids]),
        helper.make_tensor("values", TensorProto.FLOAT, [2], [0.0, 1.0]),
    ]
    graph = helper.make_graph(nodes, "readout", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10), path)
