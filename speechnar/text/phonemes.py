"""English text to phonemes, for synthesis: a tokenizer whose pieces are sounds, pauses and the silence around them.

Words are looked up in a dictionary (:mod:`speechnar.text.lexicon`), the rest is read by a small network
(:mod:`speechnar.text.letter_to_sound`).

``encode("Hi, Bob.")`` spells ``^ h ˈI , b ˈɑ b . $``: ``^`` is the silence before, ``$`` that after, a mark is a pause
with its intonation, and nothing stands between words. A stress mark belongs to its vowel, so each piece is one sound.
A folder is known for one of phonemes by the piece ``<phonemes-eng>`` in ``tokens.txt``.

Source: the phoneme set is misaki's (see :mod:`speechnar.text.lexicon`).
"""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from speechnar.errors import DataError
from speechnar.text.letter_to_sound import english_letter_to_sound
from speechnar.text.lexicon import CONSONANTS, PRIMARY, SECONDARY, VOWELS, english, phonemes_of, with_stress
from speechnar.text.spoken import MARKS, spoken_words
from speechnar.text.tokenizer import BLANK, PHONEMES, UNK, WORD_START, PieceTokenizer, Tokenizer

SILENCE_BEFORE, SILENCE_AFTER = "^", "$"
EDGES = (SILENCE_BEFORE, SILENCE_AFTER)
PIECES: tuple[str, ...] = (
    *(BLANK, UNK, PHONEMES, *EDGES, *MARKS, *CONSONANTS),
    *(stress + vowel for vowel, stress in product(VOWELS, ("", PRIMARY, SECONDARY))),
)
"""Every piece, in the order of their ids; a tokenizer may do with fewer."""

_STAND_INS = {"?": ".", "!": ".", ";": ",.", ":": ",.", "—": ",.", "ᵊ": "ə", "ᵻ": "əɪ"}
"""What is said for a mark or a vowel that a tokenizer lacks, besides the same vowel with another stress."""

_WEAK_FORMS = {"the": ("ðə", "ði"), "to": ("tə", "tu"), "an": ("ən", "ən"), "i": ("ˌI", "ˌI")}
"""Before a consonant, before a vowel."""
_ENDS_SENTENCE = frozenset(".?!")
_CAMEL_CASE = re.compile(r"(?<=[a-z]{2})(?=[A-Z][a-z]{2})")
_VOWELS = frozenset(VOWELS)


@dataclass(frozen=True)
class SpokenWord:
    """One white-space separated word of a text, and which tokens of ``encode(text)`` speak it."""

    text: str
    start: int
    end: int
    """Token positions, the end excluded; equal for what is not spoken, such as an emoji."""


class PhonemeTokenizer(PieceTokenizer):
    """English text, in any case and with figures and abbreviations, as phonemes.

    Text in which nothing can be said (blank, emoji, only punctuation) has no tokens at all, not even the edges. A piece
    that the tokenizer lacks is replaced by a similar one; if it lacks those too, a phoneme is ``<unk>`` and a mark
    nothing.

    Raises:
        DataError: a special piece is missing, or a piece is listed twice.
    """

    def __init__(self, pieces: Sequence[str] = PIECES, *, source: str = "pieces") -> None:
        super().__init__(pieces, source=source)
        missing = [piece for piece in (BLANK, UNK, *EDGES) if piece not in self._ids]
        if missing:
            raise DataError(f"{source}: a tokenizer of phonemes needs the piece {missing[0]!r}")
        self._spoken = {piece: self._find(piece) for piece in PIECES}

    @classmethod
    def of(cls, texts: Iterable[str]) -> "PhonemeTokenizer":
        """Make the tokenizer of what occurs in ``texts``: a voice that never heard a "?" is not to guess at one.

        Raises:
            DataError: no text has anything to say.
        """
        found = {piece for text in texts for pieces in phonemes_by_word(text) for piece in pieces}
        if not found:
            raise DataError("a tokenizer of phonemes needs text with words in it, got none")
        return cls([piece for piece in PIECES if piece in {BLANK, UNK, PHONEMES, *EDGES} | found])

    def encode(self, text: str) -> list[int]:
        """Return ``^``, the phonemes and marks, ``$``; nothing for text without a word. Specials count as text."""
        ids = [token_id for word in self._encode_by_word(text) for token_id in word]
        return [self._ids[SILENCE_BEFORE], *ids, self._ids[SILENCE_AFTER]] if ids else []

    def encode_words(self, text: str) -> list[SpokenWord]:
        """Return the span in ``encode(text)`` of each word of ``text.split()``.

        Spans follow each other without a gap and leave out only the two edges; a mark belongs to the word before it.
        """
        words, position = [], 1
        for word, ids in zip(text.split(), self._encode_by_word(text), strict=True):
            words.append(SpokenWord(word, position, position + len(ids)))
            position += len(ids)
        if position == 1:
            return [SpokenWord(word.text, 0, 0) for word in words]
        return words

    def decode(self, ids: Iterable[int]) -> str:
        """Return the phonemes of ``ids`` with spaces between them, without pauses, edges and specials.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        silent = {*EDGES, *MARKS}
        pieces = [(self.piece_of(i), self.is_special(i)) for i in ids]
        return " ".join(piece for piece, special in pieces if not special and piece not in silent)

    def spell(self, ids: Sequence[int], *, unspaced: bool = False) -> list[str]:
        """Return the pieces of ``ids``, each as a word of its own.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        del unspaced  # phonemes do not tell where words begin
        return super().spell(ids, unspaced=True)

    def _encode_plain(self, text: str) -> list[int]:
        return [token_id for word in self._encode_by_word(text) for token_id in word]

    def _encode_by_word(self, text: str) -> list[list[int]]:
        return [[i for piece in pieces for i in self._spoken[piece]] for pieces in phonemes_by_word(text)]

    def _find(self, piece: str) -> list[int]:
        """Return the id of ``piece`` or of what is said for it; nothing for a mark without either."""
        vowel = piece[-1]
        alike = [stress + v for v in (vowel, *_STAND_INS.get(vowel, "")) for stress in ("", PRIMARY, SECONDARY)]
        for candidate in (piece, *alike):
            if candidate in self._ids:
                return [self._ids[candidate]]
        return [] if piece in MARKS else [self.unk_id]


def phonemes_by_word(text: str) -> list[list[str]]:
    """Return the phonemes and marks of each word of ``text.split()``."""
    spoken = [(number, part) for number, parts in enumerate(spoken_words(text)) for part in parts]
    said: list[list[str]] = [[] for _ in text.split()]
    following: list[str] = []
    # From the end, since "the" and "to" depend on the sound that follows.
    for at in range(len(spoken) - 1, -1, -1):
        number, part = spoken[at]
        if part in MARKS:
            following = []
            said[number].insert(0, part)
            continue
        before = spoken[at - 1][1] if at else "."
        after = spoken[at + 1][1] if at + 1 < len(spoken) else "."
        following = _pronounce(part, before, "" if after in MARKS else after, following)
        said[number][:0] = following
    return said


def encode_words(tokenizer: Tokenizer, text: str) -> list[SpokenWord]:
    """Return the span in ``tokenizer.encode(text)`` of each word of ``text.split()``, whatever the tokenizer.

    In tokenizers of characters and SentencePiece, the ``▁`` before a word belongs to it.

    Raises:
        DataError: the tokenizer does not cut this text where it has spaces.
    """
    if isinstance(tokenizer, PhonemeTokenizer):
        return tokenizer.encode_words(text)
    pieces, words = tokenizer.spell(tokenizer.encode(text)), text.split()
    starts = [at for at, piece in enumerate(pieces) if at == 0 or piece.startswith(WORD_START)]
    if len(starts) != len(words):
        raise DataError(
            f"the tokenizer must begin each word of a text that is to be edited with {WORD_START!r}: it makes "
            f"{len(starts)} of the {len(words)} words of {text!r}"
        )
    ends = [*starts[1:], len(pieces)][: len(words)]
    return [SpokenWord(*span) for span in zip(words, starts, ends, strict=True)]


def _pronounce(word: str, before: str, after: str, following: Sequence[str]) -> list[str]:
    """Return the phonemes of a word between two others; ``after`` is empty and so are its phonemes before a pause."""
    weak = _weak_form(word, before, after, following)
    return phonemes_of(weak) if weak else list(_pronounce_alone(word, before in _ENDS_SENTENCE, not after))


def _weak_form(word: str, before: str, after: str, following: Sequence[str]) -> str:
    """Return the reduced form that articles and "to" have before other words, or ""."""
    if not after:
        return ""
    small, before_vowel = word.lower(), bool(following) and following[0][-1] in _VOWELS
    if small == "a":
        is_letter = word == "A" and before not in MARKS and not (before.isupper() and len(before) > 1)
        return "" if is_letter else "ə"
    if small == "used" and after.lower() == "to":
        return "jˈust"
    return _WEAK_FORMS.get(small, ("", ""))[before_vowel]


@functools.lru_cache(maxsize=1 << 16)
def _pronounce_alone(word: str, starts_sentence: bool, ends_phrase: bool) -> tuple[str, ...]:
    parts = _CAMEL_CASE.split(word)
    if len(parts) > 1 and english().lookup(word) is None:
        word = "-".join(parts)
    said = english().pronounce(word, _guess, starts_sentence=starts_sentence, ends_phrase=ends_phrase)
    return tuple(phonemes_of(said))


def _guess(letters: str) -> str:
    return with_stress(english_letter_to_sound()(letters)) or english().letters(letters)
