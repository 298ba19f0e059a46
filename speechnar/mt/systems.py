"""Ways to translate a source that grows: anew, by edits, in one pass, by draft and verification, or k tokens behind.

Each is a `Translating` source by source; `build_system` chooses by what the model is.

Shapes: S source tokens, U target tokens.
Sources: those of the models.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch

from speechnar.decode.retranslation import EditBias, Previous
from speechnar.decode.verify import rest_of, verify
from speechnar.errors import ConfigError
from speechnar.models.base import LoadedModel
from speechnar.models.prepare import load_like
from speechnar.text.tokenizer import WORD_START, Tokenizer

if TYPE_CHECKING:  # of the models, only what is loaded is imported
    from speechnar.models.mt.fretna import Fretna
    from speechnar.models.mt.fretna_ctc import FretnaCtc
    from speechnar.models.mt.reta import Reta
    from speechnar.models.mt.wait_k import WaitK


class Translating(Protocol):
    """A system in the middle of one source."""

    @property
    def evaluations(self) -> int:
        """Evaluations of decoders so far, one after another."""

    def update(self, src_tokens: list[int], *, is_final: bool) -> list[int]:
        """Return the translation of the source so far, which ends with ``<eos>`` if it is final."""


System = Callable[[], Translating]
"""Starts a source."""


class Retranslating:
    """An autoregressive model that translates the source so far anew, perhaps leaning to what it said before."""

    def __init__(self, model: "Reta", *, beam_size: int = 1, token_reward: float = 0.0, bias: float = 0.0) -> None:
        self.evaluations = 0
        self._model = model
        self._beam_size = beam_size
        self._token_reward = token_reward
        self._bias = bias
        self._said: list[int] = []

    def update(self, src_tokens: list[int], *, is_final: bool) -> list[int]:
        """See `Translating`."""
        del is_final  # the source tells
        src, lens = _tensors(src_tokens, self._model)
        said, said_lens = _tensors(self._said, self._model)
        previous = Previous(tokens=said, lens=said_lens, bias=self._bias) if self._said and self._bias else None
        (self._said,) = self._model.decode(
            src, lens, beam_size=self._beam_size, token_reward=self._token_reward, previous=previous
        )
        self.evaluations += 1 + len(self._said)
        return self._said


class Verifying:
    """An autoregressive model that reads a draft: what it said before, and behind it what a one-pass model proposes.

    Without a bias it says what a greedy `Retranslating` says. With one, only what it said before is favoured.
    """

    def __init__(self, model: "Reta", *, drafter: "FretnaCtc | None" = None, bias: float = 0.0) -> None:
        self.evaluations = 0
        self._model = model
        self._drafter = drafter
        self._source = None if drafter is None else drafter.new_source()
        self._bias = bias
        self._said: list[int] = []

    def update(self, src_tokens: list[int], *, is_final: bool) -> list[int]:
        """See `Translating`."""
        del is_final  # the source tells
        src, lens = _tensors(src_tokens, self._model)
        draft, propose = self._said, None
        if self._drafter is not None:
            (proposal,) = self._drafter.merge(self._drafter.name_slots(src, lens, growing=self._source))
            self.evaluations += 1
            draft = self._said + (rest_of(proposal, self._said) if self._said else proposal)

            def propose(accepted: list[int]) -> list[int]:
                return rest_of(proposal, accepted)

        verified = verify(
            self._model.verifier(src),
            draft,
            sos_id=self._model.head.sos_id,
            eos_id=self._model.head.eos_id,
            max_len=self._model.max_len(len(src_tokens)),
            bias=self._bias,
            num_biased=len(self._said),
            propose=propose,
            device=src.device,
        )
        self.evaluations += verified.evaluations
        self._said = verified.tokens
        return self._said


class Editing:
    """FReTNA: what was said before is edited, to the end with more patience.

    Its last ``forget`` tokens are written anew: what comes next in the source decides what they should have been, and
    edits leave too many of them as they are.

    Raises:
        ConfigError: ``forget`` is negative.
    """

    def __init__(
        self, model: "Fretna", *, max_iterations: int = 1, bias: EditBias | None = None, forget: int = 0
    ) -> None:
        if forget < 0:
            raise ConfigError(f"forget must be at least 0 tokens, got {forget}")
        self.evaluations = 0
        self._forget = forget
        self._model = model
        self._max_iterations = max_iterations
        self._bias = bias
        self._source = model.new_source()
        self._said: list[int] = []

    def update(self, src_tokens: list[int], *, is_final: bool) -> list[int]:
        """See `Translating`."""
        src, lens = _tensors(src_tokens, self._model)
        iterations = max(self._max_iterations, self._model.first_iterations) if is_final else self._max_iterations
        kept = self._said[: max(len(self._said) - self._forget, 0)]
        said, said_lens = _tensors(kept, self._model)
        refined = self._model.edit(
            src, lens, said, said_lens, max_iterations=iterations, bias=self._bias, growing=self._source
        )
        self.evaluations += refined.evaluations
        (self._said,) = refined.inner_rows()
        return self._said


class OnePass:
    """FReTNA by CTC, in one pass, perhaps leaning to the names it gave before."""

    def __init__(self, model: "FretnaCtc", *, bias: float = 0.0) -> None:
        self.evaluations = 0
        self._model = model
        self._bias = bias
        self._source = model.new_source()
        self._names: torch.Tensor | None = None

    def update(self, src_tokens: list[int], *, is_final: bool) -> list[int]:
        """See `Translating`."""
        del is_final  # the source tells
        src, lens = _tensors(src_tokens, self._model)
        self._names = self._model.name_slots(src, lens, self._names, bias=self._bias, growing=self._source)
        self.evaluations += 1
        (said,) = self._model.merge(self._names)
        return said


class Waiting:
    """Wait-k, whose unfinished last word is kept back until it is whole."""

    def __init__(self, model: "WaitK", tokenizer: Tokenizer, *, delay: int) -> None:
        self._stream = model.stream(delay)
        self._tokenizer = tokenizer
        self._num_read = 0

    @property
    def evaluations(self) -> int:
        """See `Translating`."""
        return self._stream.evaluations

    def update(self, src_tokens: list[int], *, is_final: bool) -> list[int]:
        """See `Translating`."""
        written = self._stream.push(src_tokens[self._num_read :], is_last=is_final)
        self._num_read = len(src_tokens)
        if is_final:
            return written
        starts = [i for i, piece in enumerate(self._tokenizer.spell(written)) if piece.startswith(WORD_START)]
        return written[: starts[-1]] if starts else []


@dataclass(frozen=True, kw_only=True)
class TranslationOptions:
    """How a model is to translate a text that grows; None: as it does if nothing is said."""

    beam_size: int | None = None
    """reta: hypotheses; 1."""
    token_reward: float | None = None
    """reta: nats for each token of a beam; 0."""
    bias: float | None = None
    """reta: weight of what was said before, in [0, 1); fretna_ctc: nats that it gains; 0."""
    verify: bool | None = None
    """reta: read what was said before as a draft."""
    draft: Path | None = None
    """reta: a fretna_ctc that drafts what comes behind it."""
    max_iterations: int | None = None
    """fretna: of an update; 1."""
    delete_cost: float | None = None
    """fretna: nats against deleting what was said before; 0."""
    insert_cost: float | None = None
    """fretna: nats against inserting before its end; 0."""
    margin: int | None = None
    """fretna: tokens at its end to which the costs do not apply; 0."""
    forget: int | None = None
    """fretna: tokens at its end that are written anew; 0."""
    delay: int | None = None
    """wait_k: tokens; what the model was scored by in training."""


def build_system(loaded: LoadedModel, options: TranslationOptions) -> System:
    """Return what starts sources with a loaded model.

    Raises:
        ConfigError: the model does not translate texts, or cannot honour an option.
        ModelNotFoundError, CheckpointError: the drafter cannot be loaded.
    """
    given = {name: value for name, value in asdict(options).items() if value is not None}
    if loaded.kind not in _SYSTEMS:
        *others, last = _SYSTEMS
        kinds = f"{', '.join(others)} or {last}"
        raise ConfigError(f"{loaded.name}: must be a model of kind {kinds}, got {type(loaded.model).__name__}")
    build, honoured = _SYSTEMS[loaded.kind]
    if wrong := sorted(given.keys() - honoured):
        name = type(loaded.model).__name__
        raise ConfigError(f"{loaded.name}: a {name} has no {', '.join(wrong)}; leave that out")
    return build(loaded, given)


def _build_editing(loaded: LoadedModel, given: dict[str, Any]) -> System:
    model = cast("Fretna", loaded.model)
    if "margin" in given and not given.keys() & {"delete_cost", "insert_cost"}:
        raise ConfigError(
            "margin is where costs of edits do not apply; give delete_cost or insert_cost, or leave it out"
        )
    bias = EditBias(
        delete=given.get("delete_cost", 0.0), insert=given.get("insert_cost", 0.0), margin=given.get("margin", 0)
    )
    iterations, forget = given.get("max_iterations", 1), given.get("forget", 0)
    return lambda: Editing(model, max_iterations=iterations, bias=bias, forget=forget)


def _build_one_pass(loaded: LoadedModel, given: dict[str, Any]) -> System:
    model = cast("FretnaCtc", loaded.model)
    return lambda: OnePass(model, bias=given.get("bias", 0.0))


def _build_waiting(loaded: LoadedModel, given: dict[str, Any]) -> System:
    model = cast("WaitK", loaded.model)
    return lambda: Waiting(model, loaded.tokenizer, delay=given.get("delay", model.config.delay))


def _build_retranslating(loaded: LoadedModel, given: dict[str, Any]) -> System:
    model, bias, draft = cast("Reta", loaded.model), given.get("bias", 0.0), given.get("draft")
    if not given.get("verify", draft is not None):
        if draft is not None:
            raise ConfigError("a draft is verified; leave out draft, or verify=False")
        beam_size, reward = given.get("beam_size", 1), given.get("token_reward", 0.0)
        return lambda: Retranslating(model, beam_size=beam_size, token_reward=reward, bias=bias)
    if given.keys() & {"beam_size", "token_reward"}:
        raise ConfigError("drafts are read greedily; leave out beam_size and token_reward, or verify and draft")
    drafter = None if draft is None else _load_drafter(draft, loaded)
    return lambda: Verifying(model, drafter=drafter, bias=bias)


_SYSTEMS: dict[str, tuple[Callable[[LoadedModel, dict[str, Any]], System], frozenset[str]]] = {
    "reta": (_build_retranslating, frozenset({"beam_size", "token_reward", "bias", "verify", "draft"})),
    "fretna": (_build_editing, frozenset({"max_iterations", "delete_cost", "insert_cost", "margin", "forget"})),
    "fretna_ctc": (_build_one_pass, frozenset({"bias"})),
    "wait_k": (_build_waiting, frozenset({"delay"})),
}
"""By kind of model: what builds a system of it, and the options that it honours."""


def _load_drafter(folder: Path, loaded: LoadedModel) -> "FretnaCtc":
    drafter = load_like(loaded, folder)
    if drafter.kind != "fretna_ctc" or drafter.tokenizer.pieces != loaded.tokenizer.pieces:
        raise ConfigError(f"{folder}: a drafter must be of kind fretna_ctc, with the tokenizer of {loaded.name}")
    return cast("FretnaCtc", drafter.model)


def _tensors(tokens: list[int], model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of one on the model's device."""
    device = next(model.parameters()).device
    return torch.tensor([tokens], dtype=torch.int64, device=device), torch.tensor([len(tokens)], device=device)
