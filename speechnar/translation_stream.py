"""Translation of a text that is still growing: words in, what to show after each of them out, and a log of it all.

Every system (translating anew, by edits, in one pass, by draft and verification, or k tokens behind) is a
`Translating` source by source; `TranslationStream` drives it, hides what is likely to change, and measures.

Shapes: S source tokens, U target tokens.
Sources: Arivazhagan et al., ICASSP 2020, section 3 (re-translation, masking of the last words); those of the models.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from speechnar.data.pairs import EOS
from speechnar.decode.retranslation import Previous
from speechnar.decode.verify import rest_of, verify
from speechnar.errors import ConfigError
from speechnar.metrics.simultaneous import StreamedSentence, Update, common_prefix, masked
from speechnar.models.fretna import FIRST_ITERATIONS, EditBias, Fretna, inner_rows
from speechnar.models.fretna_ctc import FretnaCtc
from speechnar.models.reta import Reta
from speechnar.models.wait_k import WaitK, WaitKStream
from speechnar.text.sentences import clean
from speechnar.text.tokenizer import WORD_START, Tokenizer

MAX_SOURCE_TOKENS = 400
"""Of a source that is translated at once; attention to more would be slow, and no model has seen as many."""


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

    def __init__(self, model: Reta, *, beam_size: int = 1, token_reward: float = 0.0, bias: float = 0.0) -> None:
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

    def __init__(self, model: Reta, *, drafter: FretnaCtc | None = None, bias: float = 0.0) -> None:
        self.evaluations = 0
        self._model = model
        self._drafter = drafter
        self._bias = bias
        self._said: list[int] = []

    def update(self, src_tokens: list[int], *, is_final: bool) -> list[int]:
        """See `Translating`."""
        del is_final  # the source tells
        src, lens = _tensors(src_tokens, self._model)
        draft, propose = self._said, None
        if self._drafter is not None:
            (proposal,) = self._drafter.merge(self._drafter.name_slots(src, lens))
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
        self, model: Fretna, *, max_iterations: int = 1, bias: EditBias | None = None, forget: int = 0
    ) -> None:
        if forget < 0:
            raise ConfigError(f"forget must be at least 0 tokens, got {forget}")
        self.evaluations = 0
        self._forget = forget
        self._model = model
        self._max_iterations = max_iterations
        self._bias = bias
        self._said: list[int] = []

    def update(self, src_tokens: list[int], *, is_final: bool) -> list[int]:
        """See `Translating`."""
        src, lens = _tensors(src_tokens, self._model)
        iterations = max(self._max_iterations, FIRST_ITERATIONS) if is_final else self._max_iterations
        kept = self._said[: max(len(self._said) - self._forget, 0)]
        said, said_lens = _tensors(kept, self._model)
        refined = self._model.edit(src, lens, said, said_lens, max_iterations=iterations, bias=self._bias)
        self.evaluations += refined.evaluations
        (self._said,) = inner_rows(refined)
        return self._said


class Naming:
    """FReTNA in one pass, perhaps leaning to the names it gave before."""

    def __init__(self, model: FretnaCtc, *, bias: float = 0.0) -> None:
        self.evaluations = 0
        self._model = model
        self._bias = bias
        self._names: torch.Tensor | None = None

    def update(self, src_tokens: list[int], *, is_final: bool) -> list[int]:
        """See `Translating`."""
        del is_final  # the source tells
        src, lens = _tensors(src_tokens, self._model)
        self._names = self._model.name_slots(src, lens, self._names, bias=self._bias)
        self.evaluations += 1
        (said,) = self._model.merge(self._names)
        return said


class Waiting:
    """Wait-k, whose unfinished last word is kept back until it is whole."""

    def __init__(self, model: WaitK, tokenizer: Tokenizer, *, delay: int) -> None:
        self._stream = WaitKStream(model, delay)
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


@dataclass(frozen=True)
class TranslationUpdate:
    """What to show after a word."""

    stable: str
    """What was shown before, too; the rest is new or has changed."""
    unstable: str
    erased: int
    """Words that were shown and are taken back."""
    num_read: int
    """Source words so far."""
    seconds: float
    """Of computation: the model's alone, without tokens and strings."""
    is_final: bool = False
    """Whether the source is finished."""

    @property
    def text(self) -> str:
        """Return all that is shown."""
        return " ".join(part for part in (self.stable, self.unstable) if part)


class TranslationStream:
    """One source at a time: `start`, `push` its words, `finish`.

    >>> stream = TranslationStream(lambda: Retranslating(model), tokenizer)  # doctest: +SKIP
    >>> for word in words:  # doctest: +SKIP
    ...     print(stream.push(word).text)
    >>> print(stream.finish().text)  # doctest: +SKIP
    """

    def __init__(self, system: System, tokenizer: Tokenizer, *, num_masked: int = 0) -> None:
        """Start a source.

        Args:
            system: translates.
            tokenizer: of both languages.
            num_masked: words at the end that are not shown until the source is finished.

        Raises:
            ConfigError: ``num_masked`` is negative.
        """
        if num_masked < 0:
            raise ConfigError(f"num_masked must be at least 0, got {num_masked}")
        self._system = system
        self._tokenizer = tokenizer
        self._num_masked = num_masked
        self._eos_id = tokenizer.id_of(EOS)
        self._mute = mute_ids(tokenizer)
        self.start()

    def start(self) -> None:
        """Forget the source, and begin another."""
        self._translating = self._system()
        self._words: list[str] = []
        self._updates: list[Update] = []
        self._shown: tuple[str, ...] = ()
        self._is_finished = False

    def push(self, text: str) -> TranslationUpdate:
        """Take the next word or words, and return what to show.

        White space alone changes nothing, and control characters are left out. Words that the tokenizer cannot spell
        count, but say nothing to the model; a source of which it can spell nothing stays as it is.

        Raises:
            ConfigError: the source was finished, or became longer than `MAX_SOURCE_TOKENS`.
        """
        if self._is_finished:
            raise ConfigError("a finished source takes no more words; start another")
        num_known = len(self._words)
        tokens = self._taken(text)
        has_more = len(self._words) > num_known
        return self._update(tokens, is_final=False) if has_more and tokens else self._show(self._shown, 0.0)

    def finish(self, rest: str = "") -> TranslationUpdate:
        """Take the last words, if any are left, and return the translation of all; called again, it returns the same.

        Raises:
            ConfigError: the source became longer than `MAX_SOURCE_TOKENS`; it goes on without these words.
        """
        if not self._is_finished:
            tokens = self._taken(rest)
            self._is_finished = True
            if self._words:
                return self._update([*tokens, self._eos_id], is_final=True)
        return self._show(self._shown, 0.0)

    def revise(self, text: str, *, is_final: bool = False) -> TranslationUpdate:
        """Take ``text`` as all of the source so far, whatever was pushed before, and return what to show.

        The log of such a source may not be scored: its words can become fewer.

        Args:
            text: may differ from what it was in any word.
            is_final: finish the source with it.

        Raises:
            ConfigError: the source was finished, is longer than `MAX_SOURCE_TOKENS`, or the system cannot revise.
        """
        if self._is_finished or not self.can_revise:
            raise ConfigError("a source is revised before it is finished, and not by wait-k; start another, or push")
        known, self._words = self._words, []
        try:
            tokens = self._taken(text)
        except ConfigError:
            self._words = known
            raise
        self._is_finished = is_final
        if not self._words:
            return self._show((), 0.0)
        return self._update([*tokens, self._eos_id] if is_final else tokens, is_final=is_final)

    @property
    def can_revise(self) -> bool:
        """Tell whether `revise` can be called: wait-k cannot unread a word."""
        return not isinstance(self._translating, Waiting)

    def fits(self, text: str) -> bool:
        """Tell whether ``text`` is short enough to be a source."""
        return len(self._tokenizer.encode(text)) < MAX_SOURCE_TOKENS

    @property
    def evaluations(self) -> int:
        """Evaluations of decoders since the start of the source, one after another."""
        return self._translating.evaluations

    def log(self) -> StreamedSentence:
        """Return all updates of the source.

        Raises:
            DataError: there was none.
        """
        return StreamedSentence(len(self._words), tuple(self._updates))

    def _taken(self, text: str) -> list[int]:
        """Add the words of ``text``; return the tokens of all."""
        words = [*self._words, *clean(" ".join(text.split())).split()]
        tokens = self._tokenizer.encode(" ".join(words))
        if len(tokens) >= MAX_SOURCE_TOKENS:
            raise ConfigError(
                f"a source may have up to {MAX_SOURCE_TOKENS} tokens, got {len(tokens)}; finish it at a sentence's end"
            )
        self._words = words
        return tokens

    def _update(self, tokens: list[int], *, is_final: bool) -> TranslationUpdate:
        seconds = 0.0
        if self._mute.issuperset(tokens):  # wait-k could not take it back
            words = self._words if self.can_revise or is_final else []
        else:
            started = time.perf_counter()
            said = self._translating.update(tokens, is_final=is_final)
            seconds = time.perf_counter() - started
            words = self._tokenizer.decode(said).split()
        shown = masked(words, self._num_masked, is_final=is_final)
        self._updates.append(Update(len(self._words), shown, seconds))
        return self._show(shown, seconds)

    def _show(self, shown: tuple[str, ...], seconds: float) -> TranslationUpdate:
        same = common_prefix(self._shown, shown)
        erased, self._shown = len(self._shown) - same, shown
        return TranslationUpdate(
            stable=" ".join(shown[:same]),
            unstable=" ".join(shown[same:]),
            erased=erased,
            num_read=len(self._words),
            seconds=seconds,
            is_final=self._is_finished,
        )


def mute_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Return the ids that say nothing to a model: what the tokenizer cannot spell, the start of a word, the end."""
    starts = (i for i, piece in enumerate(tokenizer.pieces) if piece == WORD_START)
    return frozenset({tokenizer.unk_id, tokenizer.id_of(EOS), *starts})


def _tensors(tokens: list[int], model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a batch of one on the model's device."""
    device = next(model.parameters()).device
    return torch.tensor([tokens], dtype=torch.int64, device=device), torch.tensor([len(tokens)], device=device)
