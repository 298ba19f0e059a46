"""CTC's output to token paths: the best one, or a search with a language model, a language's words and hotwords.

Shapes: B clips, T positions, V vocabulary.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from speechnar.asr.options import DEFAULT_HOTWORD_WEIGHT, DEFAULT_LM_WEIGHT, DEFAULT_WORD_WEIGHT, DecodeOptions
from speechnar.decode.align import WORD_START, CtcPath
from speechnar.decode.ctc import greedy, prefix_beam_search
from speechnar.decode.lm import HotwordBooster, NgramLm, PrefixScorer, TokenNgram, WordNgram, WordRewards
from speechnar.text.tokenizer import Tokenizer
from speechnar.text.words import WordLists

BEAM_SIZE = 16
"""Of a search when none is given."""
MIN_LOG_PROB = -5.0
"""Of what a search for words considers. It is twice as fast as one for everything, and found the same on development
sets."""


class CtcSearch:
    """How one model's CTC is decoded.

    Args:
        options: the choices.
        tokenizer: of the model.
        blank_id: of the model.
        words: lists of words to favour, where there is no other language model; None: none.
        hotwords: tokens of each.

    Raises:
        DataError: the language model is malformed.
    """

    def __init__(
        self,
        options: DecodeOptions,
        tokenizer: Tokenizer,
        *,
        blank_id: int,
        words: WordLists | None,
        hotwords: Sequence[Sequence[int]],
    ) -> None:
        self.options, self.tokenizer, self.blank_id, self.words = options, tokenizer, blank_id, words
        self.lm = None if options.lm is None else _scorer_of(_read_lm(Path(options.lm)), tokenizer)
        weight = DEFAULT_HOTWORD_WEIGHT if options.hotword_weight is None else options.hotword_weight
        pieces = tokenizer.word_pieces if hotwords else ()
        self.hotwords = HotwordBooster(hotwords, weight, pieces=pieces) if hotwords else None
        self._of_language: dict[str, PrefixScorer] = {}

    @property
    def is_greedy(self) -> bool:
        """Whether the best path is taken, whatever the language."""
        return self.words is None and not self.options.needs_search

    def __call__(self, log_probs: Tensor, lens: Tensor, languages: Sequence[str]) -> list[CtcPath]:
        """Decode ``log_probs`` (B, T, V) of ``lens`` (B,) positions; a clip has the words of its language.

        Raises:
            DataError: a list of words is damaged.
        """
        if self.words is None:
            return self._search(log_probs, lens, self.lm, DEFAULT_LM_WEIGHT, self.options.lm_weight)
        found: dict[int, CtcPath] = {}
        for language in dict.fromkeys(languages):
            rows = [row for row, other in enumerate(languages) if other == language]
            scorer = self._words_of(language)
            paths = self._search(log_probs[rows], lens[rows], scorer, DEFAULT_WORD_WEIGHT, self.options.word_weight)
            found |= dict(zip(rows, paths, strict=True))
        return [found[row] for row in range(len(languages))]

    def _search(
        self, log_probs: Tensor, lens: Tensor, scorer: PrefixScorer | None, usual_weight: float, weight: float | None
    ) -> list[CtcPath]:
        needs_all = self.options.needs_search
        if scorer is None and not needs_all:
            return greedy(log_probs, lens, self.blank_id)
        nbest = prefix_beam_search(
            log_probs,
            lens,
            blank_id=self.blank_id,
            beam_size=self.options.beam_size or BEAM_SIZE,
            min_log_prob=-math.inf if needs_all else MIN_LOG_PROB,
            lm=scorer,
            lm_weight=usual_weight if weight is None else weight,
            hotwords=self.hotwords,
        )
        return [hypotheses[0] for hypotheses in nbest]

    def _words_of(self, language: str) -> PrefixScorer | None:
        """Return what favours the words of a language, if they are listed."""
        assert self.words is not None
        if language in self.words.languages and language not in self._of_language:
            self._of_language[language] = WordNgram(WordRewards(self.words[language]), self.tokenizer.word_pieces)
        return self._of_language.get(language)


def _scorer_of(lm: NgramLm, tokenizer: Tokenizer) -> PrefixScorer:
    """Return a scorer of words, or of pieces where the model is one of them."""
    spelled = zip(tokenizer.pieces, tokenizer.word_pieces, strict=True)
    starts = {piece for piece, shown in spelled if shown.startswith(WORD_START)}
    if any(word.startswith(WORD_START) or word in starts for word in lm.vocab):
        return TokenNgram(lm, tokenizer.pieces)
    return WordNgram(lm, tokenizer.word_pieces)


@lru_cache(maxsize=2)
def _read_lm(path: Path) -> NgramLm:
    return NgramLm.read_arpa(path)
