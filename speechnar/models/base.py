"""What training and decoding ask of a model, and the model folder in which one is kept.

A model folder holds ``config.json`` (schema version, kind, configuration), ``model.safetensors``, the tokenizer's
files and ``README.md``. Reading one executes nothing and needs no other file; a stranger's folder is safe to open.
"""

import json
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeGuard, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from speechnar.config import Config, parse_config
from speechnar.decode.align import CtcPath
from speechnar.errors import CheckpointError, ConfigError, ModelNotFoundError
from speechnar.files import regular
from speechnar.hub import Precision
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.undrawn import Undrawn
from speechnar.store import SCHEMA_VERSION
from speechnar.text.tokenizer import Tokenizer, load_tokenizer
from speechnar.text.words import WordLists

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
CARD_FILE = "README.md"
MAX_CONFIG_BYTES = 1 << 20
MAX_CONFIG_NUMBER, MAX_CONFIG_INTEGER = 1e9, 1 << 20
"""No rate of a model, and no size or count of one, comes near; larger ones are typing errors or attacks."""

_STORED = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.int8, torch.int16, torch.int32}
    | {torch.int64, torch.bool}
)
MAX_BUFFERS = 1 << 25
"""Elements of buffers that need not be in the file of weights, as windows and mel bands are not."""


@dataclass(frozen=True)
class LossOutput:
    """A training loss and what it is made of."""

    total: Tensor
    """() float32, the mean over ``weight`` utterances; what is differentiated."""
    parts: dict[str, Tensor] = field(default_factory=dict)
    """Named shares for the log, each () and a mean over ``weight`` utterances."""
    weight: Tensor = field(default_factory=lambda: torch.tensor(1.0))
    """() number of utterances in the mean: batches of unequal size are averaged by it."""


class ModelConfig(Config):
    """What a model is built from; ``kind`` names it in YAML, in model folders and in `speechnar.models.MODELS`."""

    kind: str


@dataclass(frozen=True)
class Turn:
    """A loss, and what it may change. Models that learn from each other take turns in every update."""

    name: str
    """In the log, where there are several."""
    loss: Callable[[Any], LossOutput]
    """Of a batch, as `Trainable.loss`; parameters of other turns get no gradient."""
    prefix: str = ""
    """Of the names of the parameters that learn; "": all."""


class Trainable(nn.Module, ABC):
    """A model that learns by gradients, and all that training knows of it.

    Only ``learns_from`` and ``loss`` have to be given; the rest has the value that is right for most models. A run
    (`speechnar.train.run`) asks in this order: ``learns_from`` chooses the data; ``warm_starts`` and ``pretrained`` say
    what is copied from other models; ``begin`` does what is left before the first update; every update takes the
    ``turns``; ``loss`` scores held-out data; ``exported`` is what is kept.
    """

    learns_from: ClassVar[tuple[str, ...]]
    """Kinds of data (``data.kind`` of a run): ``speech`` yields `SpeechBatch`, ``codes`` `CodeBatch`, ``pairs``
    `PairBatch`. A model that learns from speech has ``sample_rate``, see `HearsSpeech`."""
    warm_starts: ClassVar[Mapping[str, str]] = {}
    """Where the weights of a model of another kind belong in this one: the kind to the prefix of their names."""
    is_exact: ClassVar[bool] = False
    """Whether others count on its very numbers, as on a codec's codes: it is then never prepared for inference."""

    @property
    def pretrained(self) -> tuple[str, ...]:
        """Prefixes of weights that training leaves as they are: they must come from elsewhere."""
        return ()

    @property
    def exported(self) -> nn.Module:
        """What is kept of a finished run, where others only helped to train it."""
        return self

    def begin(self) -> None:
        """Prepare a new run once all weights are loaded, such as copies of them; a continued run skips this."""

    def adopt(self, kind: str, weights: Mapping[str, Tensor], tokenizer: Tokenizer) -> dict[str, Tensor]:
        """Return the ``weights`` of a model of ``kind``, whose tokenizer is given, under the names that they have here.

        Names that this model has not are reported, and left out.
        """
        del tokenizer
        prefix = self.warm_starts.get(kind, "")
        return {f"{prefix}{name}": weight for name, weight in weights.items()}

    def depth_of(self, name: str) -> int:
        """Return how many layers of a pretrained part lie above the parameter ``name``; 0: it is of no such part."""
        del name
        return 0

    @abstractmethod
    def loss(self, batch: Any) -> LossOutput:
        """Return the loss of one batch, whatever batch the data of the model yield."""

    def turns(self) -> Sequence[Turn]:
        """Return what is done with each batch, in order; a turn listed twice is taken twice."""
        return [Turn("all", self.loss)]


class AsrModel(Trainable):
    """A model of speech whose transcripts are scored against references while it trains."""

    learns_from = ("speech",)

    @abstractmethod
    def recognize(self, batch: Any) -> list[list[int]]:
        """Return the token ids of the best hypothesis of each utterance of a `SpeechBatch`."""

    def recognize_with(self, batch: Any) -> dict[str, list[list[int]]]:
        """Return the token ids of each utterance by the name of the decoder; a model of one decoder has it nameless."""
        return {"": self.recognize(batch)}


class MtModel(Trainable):
    """A model of texts whose translations are scored against references while it trains."""

    learns_from = ("pairs",)

    @abstractmethod
    def translate(self, batch: Any) -> list[list[int]]:
        """Return the token ids of the best translation of each source of a `PairBatch`."""


class HearsSpeech(Protocol):
    """What every model that learns from speech has."""

    @property
    def sample_rate(self) -> int:
        """Samples per second of what it learns from."""


@runtime_checkable
class StoresFeatures(HearsSpeech, Protocol):
    """A model whose frozen part's output can be stored (`speechnar.train.extract_features`)."""

    def features(self, wav: Tensor, wav_lens: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``wav`` (B, S) to what the rest of the model reads, (B, T, F) and lengths (B,)."""

    def frozen_weights(self) -> Iterator[Tensor]:
        """Yield the weights behind `features` that are never trained; none where nothing is frozen."""


class NormalizesFeatures(Protocol):
    """A model with features of its own; if its normaliser is a `GlobalCmvn`, a new run measures it beforehand."""

    frontend: nn.Module
    normalizer: nn.Module


def normalizes_features(model: nn.Module) -> TypeGuard[NormalizesFeatures]:
    """Return whether ``model`` has these parts, which ``isinstance`` does not see in a module from Python 3.12 on."""
    return {"frontend", "normalizer"} <= dict(model.named_children()).keys()


class SpeechDecoder(Protocol):
    """A head that turns encoder output into text tokens: CASS-NAT's, Paraformer's or an autoregressive one."""

    def loss(self, speech: EncodedSpeech, tokens: Tensor, token_lens: Tensor) -> LossOutput:
        """Return the head's own loss in nats per utterance.

        Args:
            speech: encoder output; gradients flow into ``enc`` (and into ``log_probs`` where the method says so).
            tokens: (B, U) text without language, task, sentence start and end; padding may hold anything.
            token_lens: (B,)
        """

    def decode(self, speech: EncodedSpeech, **options: Any) -> list[CtcPath]:
        """Return the best hypothesis of each utterance: text tokens, the frames they stand on, log-probabilities."""


@dataclass(frozen=True)
class ModelEntry:
    """Where a ``kind`` of model is: ``model_cls.from_config(config_cls(...), tokenizer)`` builds one.

    The module is imported when a class is first asked for.
    """

    module: str
    config_name: str
    """Of a `ModelConfig` with the ``kind``."""
    model_name: str
    """Of an ``nn.Module`` with ``from_config(config, tokenizer)`` and the attribute ``config``."""

    @property
    def config_cls(self) -> type[ModelConfig]:
        """The class of its configuration."""
        found: type[ModelConfig] = getattr(import_module(self.module), self.config_name)
        return found

    @property
    def model_cls(self) -> Any:
        """The class of the model."""
        return getattr(import_module(self.module), self.model_name)


@dataclass(frozen=True)
class LoadedModel:
    """A model folder in memory."""

    model: nn.Module
    """float32, in evaluation mode."""
    tokenizer: Tokenizer
    config: ModelConfig
    name: str
    """Name of the folder."""
    precision: Precision | None = None
    """What it was prepared for inference in (`speechnar.models.prepare`); None: it is as it was saved."""
    words: WordLists | None = None
    """Those of the folder; None: it is not known."""

    @property
    def kind(self) -> str:
        """The key of its row in `speechnar.models.MODELS`."""
        return str(getattr(self.config, "kind", ""))  # `Config` says nothing of it, its subclasses for models do


def model_entry(kind: object) -> ModelEntry:
    """Look up a model by the ``kind`` of its configuration.

    Raises:
        ConfigError: no model is of that kind.
    """
    from speechnar.models import MODELS  # noqa: PLC0415  # the table's module imports this one

    entry: ModelEntry | None = MODELS.get(kind) if isinstance(kind, str) else None
    if entry is None:
        raise ConfigError(f"model kind must be one of {', '.join(sorted(MODELS))}; got {str(kind)[:60]!r}")
    return entry


def save_model(
    folder: str | Path,
    model: nn.Module,
    tokenizer: Tokenizer,
    *,
    card: str = "",
    dtype: torch.dtype | None = None,
) -> None:
    """Write ``model`` (which has ``.config``), its tokenizer and a card as a model folder.

    Weights appear last and by renaming, so that an interrupted save leaves no torn file.

    Args:
        folder: created if absent; files of these names are replaced.
        model: of a finished run, what is `Trainable.exported`.
        tokenizer: saved beside the weights.
        card: Markdown text of the model card.
        dtype: of the stored parameters, float16 or bfloat16 to ship half the size; buffers stay as they are.

    Raises:
        CheckpointError: the weights cannot be written, as on a full disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = config_of(model)
    document = {"schema_version": SCHEMA_VERSION, "kind": config.kind, "config": config.model_dump(mode="json")}
    tokenizer.save(folder)
    _replace_text(folder / CONFIG_FILE, json.dumps(document, indent=2) + "\n")
    _replace_text(folder / CARD_FILE, card)
    parameters = {name for name, _ in model.named_parameters()}
    state = model.state_dict()
    tied = tied_names(state)
    stored = {
        name: tensor.detach().to("cpu", dtype if name in parameters else None).contiguous()
        for name, tensor in state.items()
        if name not in tied
    }
    temporary = folder / f"{WEIGHTS_FILE}.tmp"
    try:
        save_file(stored, temporary, metadata={"format": "pt"})
        temporary.replace(folder / WEIGHTS_FILE)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(f"{folder / WEIGHTS_FILE}: cannot be written ({_one_line(error)})") from None


def config_of(model: nn.Module) -> ModelConfig:
    """Return what ``model`` was built from."""
    config = model.config
    assert isinstance(config, ModelConfig), "models keep the configuration they were built from"
    return config


def load_model(
    folder: str | Path, *, device: str | torch.device = "cpu", borrows: Callable[[nn.Module], bool] | None = None
) -> LoadedModel:
    """Read a model folder, in float32 and evaluation mode, onto ``device``.

    Args:
        folder: of a model.
        device: where its weights go.
        borrows: of a module: whether its weights stay as they are stored, mapped from the file, for a caller that makes
            others of them anyhow (`speechnar.models.prepare`).

    Raises:
        ModelNotFoundError: ``folder`` is not a model folder.
        CheckpointError: the configuration is not one of ours, the weights are unreadable or do not fit it.
        DataError: the tokenizer's files are malformed.
    """
    folder = Path(folder)
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        raise ModelNotFoundError(f"{folder}: a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}; no {missing[0]}")
    entry, config = read_model_config(folder)
    tokenizer = load_tokenizer(folder)
    state = read_weights(folder / WEIGHTS_FILE)
    budget = 2 * sum(tensor.numel() for tensor in state.values()) + 1
    try:
        with _parameter_budget(budget), Undrawn():
            model: nn.Module = entry.model_cls.from_config(config, tokenizer)
    except (RuntimeError, MemoryError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{folder}: no model can be built from {CONFIG_FILE} ({_one_line(error)})") from None
    load_state(model, state, source=str(folder / WEIGHTS_FILE), borrows=borrows)
    return LoadedModel(model.to(device).eval(), tokenizer, config, folder.resolve().name, words=WordLists(folder))


def read_model_config(folder: Path) -> tuple[ModelEntry, ModelConfig]:
    """Read and check ``config.json`` of a model folder.

    Raises:
        CheckpointError: it is not JSON, not of this schema, or holds unknown keys or impossible values.
    """
    path = folder / CONFIG_FILE
    try:
        if regular(path).stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path}: must be at most {MAX_CONFIG_BYTES} bytes")
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: must be JSON ({_one_line(error)})") from None
    if not isinstance(document, dict) or document.keys() != {"schema_version", "kind", "config"}:
        raise CheckpointError(f"{path}: must hold exactly schema_version, kind and config")
    if document["schema_version"] != SCHEMA_VERSION:
        version = _one_line(document["schema_version"])
        raise CheckpointError(f"{path}: schema_version must be {SCHEMA_VERSION}, got {version}; upgrade speechnar")
    values = document["config"]
    if not isinstance(values, dict) or values.get("kind") != document["kind"]:
        raise CheckpointError(f"{path}: config must be a mapping whose kind is {_one_line(document['kind'])}")
    _check_numbers(values, path)
    try:
        entry = model_entry(document["kind"])
        return entry, parse_config(values, entry.config_cls, source=str(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file of tensors that are plain or half-precision floats, or integers.

    Raises:
        CheckpointError: the file is missing, truncated or no safetensors, or a weight is of another type or not finite.
    """
    try:
        # The header is checked before anything is allocated.
        with safe_open(str(regular(path)), framework="pt") as header:
            header.keys()
        state = load_file(path)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: unreadable weights ({_one_line(error)})") from None
    for name, tensor in state.items():
        if tensor.dtype not in _STORED:
            raise CheckpointError(f"{path}: {name} must be of floats of 16 to 64 bits or integers, got {tensor.dtype}")
        if tensor.is_floating_point() and tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
            raise CheckpointError(f"{path}: weights must be finite, {name} is not; damaged, or of a run that failed")
    return state


def load_state(
    model: nn.Module,
    state: dict[str, Tensor],
    *,
    source: str,
    borrows: Callable[[nn.Module], bool] | None = None,
) -> None:
    """Copy ``state`` into ``model``: every name and shape must match; names tied to a given one may be absent.

    The parameters of modules that ``borrows`` names are not copied, but become those of ``state``, of whatever type;
    tied ones are copied all the same.

    Raises:
        CheckpointError: naming the keys that are missing, unknown or of another shape.
    """
    expected = model.state_dict()
    state = dict(state)
    tied = tied_names(expected)
    for name, first in tied.items():
        if name not in state and first in state:
            state[name] = state[first]
    shared = expected.keys() & state.keys()
    faults = {
        "missing": sorted(expected.keys() - state.keys()),
        "unknown": sorted(state.keys() - expected.keys()),
        "of another shape": sorted(
            f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in shared
            if state[name].shape != expected[name].shape
        ),
        "of another type": sorted(
            f"{name} {state[name].dtype} instead of {expected[name].dtype}"
            for name in shared
            if state[name].is_floating_point() != expected[name].is_floating_point()
        ),
    }
    found = [f"{len(names)} {fault}: {', '.join(names[:5])}" for fault, names in faults.items() if names]
    if found:
        raise CheckpointError(f"{source}: weights do not fit the model; {'; '.join(found)}"[:2000])
    borrowers = [] if borrows is None else [(name, part) for name, part in model.named_modules() if borrows(part)]
    for prefix, part in borrowers:
        for name, parameter in part.named_parameters(prefix, recurse=False):
            if name not in tied and name not in tied.values():
                parameter.data = state.pop(name)
    model.load_state_dict(state, strict=False)


def tied_names(state: dict[str, Tensor]) -> dict[str, str]:
    """Map every name of a tensor that an earlier name already stands for (tied weights) to that earlier name."""
    first: dict[tuple[Any, ...], str] = {}
    tied = {}
    for name, tensor in state.items():
        if tensor.numel() == 0:
            continue
        view = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if view in first:
            tied[name] = first[view]
        else:
            first[view] = name
    return tied


@contextmanager
def _parameter_budget(budget: int) -> Iterator[None]:
    """Let this thread register at most ``budget`` elements of parameters, and as many and `MAX_BUFFERS` of buffers.

    A hostile configuration names a million layers beside a file of three tensors; it must not be built.
    """
    used: Counter[str] = Counter()
    owner = threading.get_ident()

    def count(_module: nn.Module, name: str, tensor: Tensor | None, kind: str, limit: int) -> None:
        if tensor is None or threading.get_ident() != owner:
            return
        used[kind] += tensor.numel() + 1
        if used[kind] > limit:
            raise CheckpointError(
                f"{CONFIG_FILE} describes a larger model than {WEIGHTS_FILE} holds (reached at {name!r})"
            )

    handles = [
        register_module_parameter_registration_hook(partial(count, kind="parameter", limit=budget)),
        register_module_buffer_registration_hook(partial(count, kind="buffer", limit=budget + MAX_BUFFERS)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _check_numbers(value: Any, path: Path) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _check_numbers(item, path)
    elif isinstance(value, int | float):
        limit = MAX_CONFIG_INTEGER if isinstance(value, int) else MAX_CONFIG_NUMBER
        if not abs(value) <= limit:  # which NaN is not
            raise CheckpointError(f"{path}: numbers must be finite and at most {limit:g}, got {_one_line(value)[:30]}")


def _replace_text(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _one_line(value: object) -> str:
    return " ".join(str(value).split())[:200]
