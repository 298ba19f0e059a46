"""Recognisers that `speechnar.export` has written, run by onnxruntime in the place of a model.

A graph holds everything from samples on, front end included, for any batch and length: to CTC's log-probabilities, or
to the tokens of Paraformer's or CASS-NAT's best path. A folder holds it as ``model.onnx`` beside the tokenizer, the
card and ``config.json``, which says what decoding must know. Needs ``speechnar[onnx]``.

Shapes: B utterances, S samples, T positions (the model's prefix, then frames), V vocabulary, U tokens.
"""

import json
import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError
from torch import Tensor, nn

from speechnar.asr.clips import CTC
from speechnar.audio.samples import MAX_RATE
from speechnar.decode.align import CtcPath
from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.extras import needs
from speechnar.files import read_bounded
from speechnar.models.asr.paraformer_head import audible_paths
from speechnar.models.base import CONFIG_FILE, MAX_CONFIG_BYTES, LoadedModel, ModelConfig
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import load_tokenizer
from speechnar.text.words import WordLists

GRAPH_FILE = "model.onnx"


class OnnxConfig(ModelConfig):
    """What decoding must know of a graph."""

    kind: Literal["onnx_ctc", "onnx_tokens"] = "onnx_ctc"
    """Whether it gives log-probabilities or the tokens of a best path."""
    source: str
    """Kind of the model that was exported."""
    decoder: str = CTC
    """Which of its decoders."""
    sample_rate: Annotated[int, Field(gt=0, le=MAX_RATE)]
    frame_shift_s: Annotated[float, Field(ge=1e-4, le=10)]
    num_prefix: NonNegativeInt
    blank_id: NonNegativeInt
    default_prefix: tuple[NonNegativeInt, ...]
    """Language and task where none are given."""
    clip_s: Annotated[float, Field(gt=0, le=600)] | None = None
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
    """A graph in the place of a model, whose ``vocab_size`` is that of its tokenizer."""

    def __init__(self, config: OnnxConfig, session: Any, vocab_size: int) -> None:
        super().__init__()
        self.config = config
        self.decoder_names = (config.decoder,)
        self.blank_id = config.blank_id
        self.num_prefix = config.num_prefix
        self.sample_rate = config.sample_rate
        self.frame_shift_s = config.frame_shift_s
        self.clip_s = config.clip_s
        self._session = session
        self._vocab_size = vocab_size

    def _run(self, wav: Tensor, wav_lens: Tensor, prefix: Tensor | None, prompt: Tensor | None) -> list[Tensor]:
        """Return what the graph says, lengths last; that they are what they should be is left to `_require`."""
        if prompt is not None:
            raise ConfigError("an exported model takes no prompt; leave it out")
        inputs = {"wav": wav.numpy(), "wav_lens": wav_lens.numpy()}
        if self.config.default_prefix:
            prefix = torch.tensor([self.config.default_prefix]).expand(len(wav), -1) if prefix is None else prefix
            inputs["prefix"] = prefix.numpy()
        try:
            return [torch.from_numpy(output) for output in self._session.run(None, inputs)]
        except Exception as error:  # onnxruntime has a class for every fault
            raise CheckpointError(f"{GRAPH_FILE}: cannot be run ({' '.join(str(error).split())[:120]})") from None

    def _require(self, is_so: bool) -> None:
        if not is_so:
            raise CheckpointError(f"{GRAPH_FILE}: must give what {CONFIG_FILE} and the tokenizer say, and gives other")


class OnnxCtc(_Graph):
    """A graph that ends with CTC's log-probabilities."""

    def encode(
        self, wav: Tensor, wav_lens: Tensor, *, prefix: Tensor | None = None, prompt: Tensor | None = None, **_: Any
    ) -> GraphOutput:
        """Map wav (B, S), wav_lens (B,) and the ids of language and task (B, 2) to log-probabilities.

        Raises:
            ConfigError: there is a prompt, which a graph does not take.
            CheckpointError: the graph fails, or gives something else.
        """
        outputs = self._run(wav, wav_lens, prefix, prompt)
        self._require([output.dim() for output in outputs] == [3, 1])
        log_probs, lens = outputs
        self._require(log_probs.size(0) == len(lens) == len(wav) and log_probs.size(2) == self._vocab_size)
        self._require(log_probs.dtype == torch.float32 and not log_probs.isnan().any())
        self._require(lens.dtype == torch.int64 and bool(((lens >= 0) & (lens <= log_probs.size(1))).all()))
        return GraphOutput(log_probs, lens)


class OnnxTokens(_Graph):
    """A graph that ends with the tokens of a best path."""

    def encode(
        self, wav: Tensor, wav_lens: Tensor, *, prefix: Tensor | None = None, prompt: Tensor | None = None, **_: Any
    ) -> GraphTokens:
        """Map wav (B, S), wav_lens (B,) and the ids of language and task (B, 2) to tokens.

        Raises:
            ConfigError: there is a prompt, which a graph does not take.
            CheckpointError: the graph fails, or gives something else.
        """
        outputs = self._run(wav, wav_lens, prefix, prompt)
        self._require([output.dim() for output in outputs] == [2, 2, 2, 2, 1])
        tokens, lens = outputs[0], outputs[-1]
        self._require(len({output.shape for output in outputs[:-1]}) == 1 and len(tokens) == len(lens) == len(wav))
        self._require(lens.dtype == torch.int64 and bool(((lens >= 0) & (lens <= tokens.size(1))).all()))
        said = tokens[valid_mask(lens, tokens.size(1))]
        self._require(tokens.dtype == torch.int64 and bool(((said >= 0) & (said < self._vocab_size)).all()))
        return GraphTokens(*outputs)

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
        document = json.loads(read_bounded(folder / CONFIG_FILE, MAX_CONFIG_BYTES))
        config = OnnxConfig(**document["config"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        reason = str(error).splitlines()[0][:120]
        raise CheckpointError(f"{folder / CONFIG_FILE}: must be that of an exported recogniser ({reason})") from None
    tokenizer = load_tokenizer(folder)
    if _names_other_files(folder / GRAPH_FILE):
        raise CheckpointError(f"{folder / GRAPH_FILE}: has weights in other files, which are not read")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(str(folder / GRAPH_FILE), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for every fault
        raise CheckpointError(f"{folder / GRAPH_FILE}: is not readable ({str(error)[:120]})") from None
    graph_cls = OnnxCtc if config.kind == "onnx_ctc" else OnnxTokens
    model = graph_cls(config, session, tokenizer.vocab_size).eval()
    return LoadedModel(model, tokenizer, config, folder.resolve().name, words=WordLists(folder))


def _names_other_files(graph: Path) -> bool:
    """Tell whether a graph has external data, which may lie anywhere: the key is a string of its protocol buffer."""
    with graph.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(b"\x0a\x08location") >= 0
