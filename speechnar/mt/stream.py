"""Translation of a text that is still growing: words in, what to show after each of them out, and a log of it all.

`TranslationStream` drives a system of `speechnar.mt.systems`, hides what is likely to change, and measures.

Source: Arivazhagan et al., ICASSP 2020, section 3 (re-translation, masking of the last words).
"""

import time
from dataclasses import dataclass

from speechnar.data.pairs import EOS
from speechnar.errors import ConfigError
from speechnar.metrics.simultaneous import StreamedSentence, Update, common_prefix, masked
from speechnar.mt.spelling import encode_familiar, without_ellipses
from speechnar.mt.systems import System, Waiting
from speechnar.text.sentences import clean
from speechnar.text.tokenizer import WORD_START, Tokenizer

MAX_SOURCE_TOKENS = 400
"""Of a source that is translated at once; attention to more would be slow, and no model has seen as many."""


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
        return len(self._read(text)) < MAX_SOURCE_TOKENS

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
        tokens = self._read(" ".join(words))
        if len(tokens) >= MAX_SOURCE_TOKENS:
            raise ConfigError(
                f"a source may have up to {MAX_SOURCE_TOKENS} tokens, got {len(tokens)}; finish it at a sentence's end"
            )
        self._words = words
        return tokens

    def _read(self, text: str) -> list[int]:
        """Encode as whole texts are; what is read once and for all cannot depend on the words to come."""
        return (
            encode_familiar(without_ellipses(text), self._tokenizer)
            if self.can_revise
            else self._tokenizer.encode(text)
        )

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
