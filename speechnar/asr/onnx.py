"""A recogniser as ONNX: written from any model with CTC, and run by onnxruntime in its place.

The graph holds everything from samples to log-probabilities, front end included, for any batch and length. A folder
holds it as ``model.onnx`` beside the tokenizer, the card and ``config.json``, which says what decoding must know.
Needs ``speechnar[onnx]``.

Shapes: B utterances, S samples, T positions (the model's prefix, then frames), V vocabulary.
"""

import json
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from speechnar.asr.clips import CTC
from speechnar.asr.speech_models import PaddedModel, SpeechModel, TaggingModel
from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.extras import needs
from speechnar.models.base import CARD_FILE, CONFIG_FILE, LoadedModel, ModelConfig
from speechnar.store import SCHEMA_VERSION
from speechnar.text.tokenizer import load_tokenizer

KIND: Literal["onnx_ctc"] = "onnx_ctc"
GRAPH_FILE = "model.onnx"
OPSET = 18
Precision = Literal["fp32", "int8"]


class OnnxConfig(ModelConfig):
    """What decoding must know of a graph."""

    kind: Literal["onnx_ctc"] = KIND
    source: str
    """Kind of the model that was exported."""
    sample_rate: PositiveInt
    frame_shift_s: PositiveFloat
    num_prefix: NonNegativeInt
    blank_id: NonNegativeInt
    default_prefix: tuple[NonNegativeInt, ...]
    """Language and task where none are given."""
    clip_s: PositiveFloat | None = None
    """Seconds that shorter clips are padded to, as the model was trained."""
    opset: PositiveInt = OPSET
    precision: Precision = "fp32"


@dataclass(frozen=True)
class GraphOutput:
    """What a graph says about a batch."""

    log_probs: Tensor
    """(B, T, V) float32"""
    lens: Tensor
    """(B,) positions, prefix counted."""


class OnnxCtc(nn.Module):
    """A graph in the place of a model."""

    decoder_names = (CTC,)

    def __init__(self, config: OnnxConfig, session: Any) -> None:
        super().__init__()
        self.config = config
        self.blank_id = config.blank_id
        self.num_prefix = config.num_prefix
        self.sample_rate = config.sample_rate
        self.frame_shift_s = config.frame_shift_s
        self.clip_s = config.clip_s
        self._session = session

    def encode(
        self, wav: Tensor, wav_lens: Tensor, *, prefix: Tensor | None = None, prompt: Tensor | None = None, **_: Any
    ) -> GraphOutput:
        """Map wav (B, S), wav_lens (B,) and the ids of language and task (B, 2) to log-probabilities.

        Raises:
            ConfigError: there is a prompt, which a graph does not take.
        """
        if prompt is not None:
            raise ConfigError("an exported model takes no prompt; leave it out")
        inputs = {"wav": wav.numpy(), "wav_lens": wav_lens.numpy()}
        if self.num_prefix:
            prefix = torch.tensor([self.config.default_prefix]).expand(len(wav), -1) if prefix is None else prefix
            inputs["prefix"] = prefix.numpy()
        log_probs, lens = self._session.run(None, inputs)
        return GraphOutput(torch.from_numpy(log_probs), torch.from_numpy(lens))


def load_onnx(folder: str | Path) -> LoadedModel:
    """Read a folder that `export_onnx` has written; it runs on the CPU, in as many threads as torch has.

    Raises:
        ModelNotFoundError: it is no such folder.
        CheckpointError: its configuration or its graph is not what `export_onnx` writes.
        MissingExtraError: onnxruntime is absent.
    """
    with needs("onnx"):
        import onnxruntime  # noqa: PLC0415  # an extra

    folder = Path(folder)
    missing = [name for name in (CONFIG_FILE, GRAPH_FILE) if not (folder / name).is_file()]
    if missing:
        raise ModelNotFoundError(f"{folder}: an exported model holds {CONFIG_FILE} and {GRAPH_FILE}; no {missing[0]}")
    try:
        document = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        config = OnnxConfig(**document["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        reason = str(error).splitlines()[0][:120]
        raise CheckpointError(f"{folder / CONFIG_FILE}: must be that of an exported model ({reason})") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(folder / GRAPH_FILE), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for every fault
        raise CheckpointError(f"{folder / GRAPH_FILE}: is not readable ({str(error)[:120]})") from None
    tokenizer = load_tokenizer(folder)
    return LoadedModel(OnnxCtc(config, session).eval(), tokenizer, config, folder.resolve().name)


def export_onnx(loaded: LoadedModel, source: Path, out: str | Path, *, precision: Precision = "fp32") -> Path:
    """Write a model with CTC as a folder with an ONNX graph and return that folder.

    Args:
        loaded: the model, on the CPU.
        source: its folder, whose card is kept.
        out: the new folder, made if absent.
        precision: ``int8``: weights of matrices in 8 bits, a channel's scale each, and their inputs as they come.

    Raises:
        ConfigError: the model has no CTC, or more beside it than a graph can say.
        MissingExtraError: onnx or onnxscript is absent.
    """
    with needs("onnx"):
        import onnxscript  # noqa: F401, PLC0415  # what torch writes graphs by
        from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: PLC0415

    model = loaded.model
    if not isinstance(model, SpeechModel) or CTC not in model.decoder_names:
        raise ConfigError(f"model {loaded.name} of kind {loaded.kind} has no CTC; only that is exported")
    if isinstance(model, TaggingModel):
        raise ConfigError(
            f"model {loaded.name} of kind {loaded.kind} names languages and sounds beside CTC; no graph does"
        )
    config = OnnxConfig(
        source=loaded.kind,
        sample_rate=model.sample_rate,
        frame_shift_s=model.frame_shift_s,
        num_prefix=model.num_prefix,
        blank_id=model.blank_id,
        default_prefix=getattr(model, "default_prefix", ()) if model.num_prefix else (),
        clip_s=model.clip_s if isinstance(model, PaddedModel) else None,
        precision=precision,
    )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out, prefix=".export-") as folder:
        graph = Path(folder) / GRAPH_FILE
        _write_graph(model, config, graph)
        if precision == "int8":
            whole, graph = graph, Path(folder) / "int8.onnx"
            quantize_dynamic(
                whole, graph, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["MatMul", "Gemm"]
            )
        graph.replace(out / GRAPH_FILE)
    loaded.tokenizer.save(out)
    if (source / CARD_FILE).is_file():
        shutil.copy(source / CARD_FILE, out / CARD_FILE)
    document = {"schema_version": SCHEMA_VERSION, "kind": KIND, "config": config.model_dump(mode="json")}
    (out / CONFIG_FILE).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    return out


class _WavToLogProbs(nn.Module):
    """From samples to what a search reads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, wav: Tensor, wav_lens: Tensor, prefix: Tensor | None = None) -> tuple[Tensor, Tensor]:
        context = {} if prefix is None else {"prefix": prefix}
        out = self.model.encode(wav, wav_lens, **context)
        return out.log_probs, out.lens


def _write_graph(model: Any, config: OnnxConfig, path: Path) -> None:
    # A batch of three: of two, the exporter would take its size for that of the prefix, which is fixed.
    lens = torch.tensor([2 * config.sample_rate, config.sample_rate, config.sample_rate // 2])
    wav = torch.from_numpy(np.random.default_rng(0).normal(scale=0.1, size=(3, int(lens[0]))).astype(np.float32))
    dynamic = torch.export.Dim.DYNAMIC
    inputs: dict[str, Tensor] = {"wav": wav, "wav_lens": lens}
    shapes: dict[str, dict[int, Any]] = {"wav": {0: dynamic, 1: dynamic}, "wav_lens": {0: dynamic}}
    if config.num_prefix:
        inputs["prefix"] = torch.tensor([config.default_prefix]).repeat(3, 1)
        shapes["prefix"] = {0: dynamic}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            _WavToLogProbs(model).eval(),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=[*inputs],
            output_names=["log_probs", "lens"],
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # it is where ``dynamo`` is set
    for name, value in config.model_dump(mode="json").items():
        program.model.metadata_props[name] = json.dumps(value)
    program.save(path)
