"""Recognisers that `speechnar.export` has written, run by onnxruntime in the place of a model.

A graph holds everything from samples on, front end included, for any batch and length: to CTC's log-probabilities, or
to the tokens of Paraformer's or CASS-NAT's best path. A folder holds it as ``model.onnx`` beside the tokenizer, the
card and ``config.json``, which says what decoding must know. Needs ``speechnar[onnx]``.

Shapes: B utterances, S samples, T positions (the model's prefix, then frames), V vocabulary, U tokens.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt, ValidationError
from torch import Tensor, nn

from speechnar.asr.clips import CTC
from speechnar.decode.align import CtcPath
from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.extras import needs
from speechnar.models.asr.paraformer_head import audible_paths
from speechnar.models.base import CONFIG_FILE, LoadedModel, ModelConfig
from speechnar.text.tokenizer import load_tokenizer

GRAPH_FILE = "model.onnx"


class OnnxConfig(ModelConfig):
    """What decoding must know of a graph."""

    kind: Literal["onnx_ctc", "onnx_tokens"] = "onnx_ctc"
    """Whether it gives log-probabilities or the tokens of a best path."""
    source: str
    """Kind of the model that was exported."""
    decoder: str = CTC
    """Which of its decoders."""
    sample_rate: PositiveInt
    frame_shift_s: PositiveFloat
    num_prefix: NonNegativeInt
    blank_id: NonNegativeInt
    default_prefix: tuple[NonNegativeInt, ...]
    """Language and task where none are given."""
    clip_s: PositiveFloat | None = None
    """Seconds that shorter clips are padded to, as the model was trained."""
    silent_ids: tuple[NonNegativeInt, ...] = ()
    """Of tokens that are no text, such as the end of the sentence."""
    opset: PositiveInt = 18
    precision: Literal["fp32", "int8"] = "fp32"


@dataclass(frozen=True)
class GraphOutput:
    """What a graph says about a batch."""

    log_probs: Tensor
    """(B, T, V) float32"""
    lens: Tensor
    """(B,) positions, prefix counted."""


@dataclass(frozen=True)
class GraphTokens:
    """The best path of a batch."""

    tokens: Tensor
    """(B, U) int64"""
    scores: Tensor
    """(B, U) log-probability of each token, nats."""
    starts: Tensor
    """(B, U) first frame of each token."""
    ends: Tensor
    """(B, U) frame after the last one of each token."""
    lens: Tensor
    """(B,) tokens."""


class _Graph(nn.Module):
    """A graph in the place of a model."""

    def __init__(self, config: OnnxConfig, session: Any) -> None:
        super().__init__()
        self.config = config
        self.decoder_names = (config.decoder,)
        self.blank_id = config.blank_id
        self.num_prefix = config.num_prefix
        self.sample_rate = config.sample_rate
        self.frame_shift_s = config.frame_shift_s
        self.clip_s = config.clip_s
        self._session = session

    def _run(self, wav: Tensor, wav_lens: Tensor, prefix: Tensor | None, prompt: Tensor | None) -> list[Tensor]:
        if prompt is not None:
            raise ConfigError("an exported model takes no prompt; leave it out")
        inputs = {"wav": wav.numpy(), "wav_lens": wav_lens.numpy()}
        if self.config.default_prefix:
            prefix = torch.tensor([self.config.default_prefix]).expand(len(wav), -1) if prefix is None else prefix
            inputs["prefix"] = prefix.numpy()
        return [torch.from_numpy(output) for output in self._session.run(None, inputs)]


class OnnxCtc(_Graph):
    """A graph that ends with CTC's log-probabilities."""

    def encode(
        self, wav: Tensor, wav_lens: Tensor, *, prefix: Tensor | None = None, prompt: Tensor | None = None, **_: Any
    ) -> GraphOutput:
        """Map wav (B, S), wav_lens (B,) and the ids of language and task (B, 2) to log-probabilities.

        Raises:
            ConfigError: there is a prompt, which a graph does not take.
        """
        return GraphOutput(*self._run(wav, wav_lens, prefix, prompt))


class OnnxTokens(_Graph):
    """A graph that ends with the tokens of a best path."""

    def encode(
        self, wav: Tensor, wav_lens: Tensor, *, prefix: Tensor | None = None, prompt: Tensor | None = None, **_: Any
    ) -> GraphTokens:
        """Map wav (B, S), wav_lens (B,) and the ids of language and task (B, 2) to tokens.

        Raises:
            ConfigError: there is a prompt, which a graph does not take.
        """
        return GraphTokens(*self._run(wav, wav_lens, prefix, prompt))

    def decode(self, out: GraphTokens, decoder: str, **options: Any) -> list[CtcPath]:
        """Return the best path of each utterance.

        Raises:
            ConfigError: the graph holds another decoder, or there are options, which it does not take.
        """
        if decoder != self.config.decoder or options:
            given = ", ".join([decoder, *options])
            raise ConfigError(f"this graph decodes with {self.config.decoder} and without options; got {given}")
        silent = frozenset(self.config.silent_ids)
        return audible_paths(out.tokens, out.scores, out.starts, out.ends, out.lens, silent_ids=silent)


def load_onnx(folder: str | Path) -> LoadedModel:
    """Read a folder that `speechnar.export` has written; it runs on the CPU, in as many threads as torch has.

    Raises:
        ModelNotFoundError: it is no such folder.
        CheckpointError: its configuration or its graph is not what is written there.
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
        raise CheckpointError(f"{folder / CONFIG_FILE}: must be that of an exported recogniser ({reason})") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(folder / GRAPH_FILE), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for every fault
        raise CheckpointError(f"{folder / GRAPH_FILE}: is not readable ({str(error)[:120]})") from None
    graph_cls = OnnxCtc if config.kind == "onnx_ctc" else OnnxTokens
    return LoadedModel(graph_cls(config, session).eval(), load_tokenizer(folder), config, folder.resolve().name)
