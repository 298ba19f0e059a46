"""N-gram language models and hotwords, as scorers that grow with the prefixes of a beam search.

A prefix scorer is three functions over an immutable, hashable state: `start`, `step` (state and token to the next
state and the change of score, in nats) and `finish` (what the end of the utterance adds).
Sources: the ARPA format (Doug Paul; SRILM's ngram-format(5)); Katz back-off, IEEE TASSP 1987; Aho and Corasick,
"Efficient string matching", CACM 1975, for the failure links of the hotword trie.
"""

import gzip
import io
import math
import re
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

from speechnar.decode.align import WORD_START
from speechnar.errors import ConfigError, DataError
from speechnar.text.normalize import get_normalizer
from speechnar.text.scripts import UNSPACED_LETTER, ends_before
from speechnar.text.tokenizer import assemble_characters

LOG_10 = math.log(10.0)
MAX_LINE = 1 << 16
MOST_WORDS = 2
"""That end with a token, but in rare texts: l'homme."""
BEGIN_WORD, END_WORD = "<s>", "</s>"
UNKNOWN_WORDS = ("<unk>", "<UNK>")
GZIP_MAGIC = b"\x1f\x8b"

_LEADS_BEHIND_WORDS = frozenset({0xC2, *range(0xE3, 0xEA), 0xEF})
"""First bytes in UTF-8 of letters before which words end: those of Latin-1 punctuation, of kana, Chinese characters and
their punctuation (U+3000 to U+9FFF), and of wide forms. That of U+2019, an apostrophe, is not among them."""

WordIds = tuple[int, ...]


class PrefixScorer(Protocol):
    """What a beam search asks of a language model or a hotword list."""

    max_step: float
    """No step adds more than this, in nats; lets the search skip extensions that cannot survive."""

    def start(self) -> Any:
        """Return the state of the empty prefix."""

    def step(self, state: Any, token: int) -> tuple[Any, float]:
        """Return the state after ``token`` and what it adds to the score, in nats."""

    def finish(self, state: Any) -> float:
        """Return what ending the utterance here adds to the score, in nats."""


class NgramLm:
    """A back-off n-gram model over words; log-probabilities are in nats.

    A word outside the vocabulary scores as ``<unk>`` when the model has it, else as ``oov_log_prob`` and the context
    is forgotten.
    """

    max_step = 0.0

    def __init__(
        self,
        vocab: dict[str, int],
        ngrams: dict[WordIds, tuple[float, float]],
        order: int,
        *,
        oov_log_prob: float = -10.0 * LOG_10,
    ) -> None:
        self.vocab = vocab
        self.order = order
        self.oov_log_prob = oov_log_prob
        self._ngrams = ngrams  # ids -> (log-probability of the last given the others, back-off weight)
        self._unknown = next((vocab[word] for word in UNKNOWN_WORDS if word in vocab), None)

    @classmethod
    def read_arpa(cls, path: str | Path) -> "NgramLm":
        """Read an ARPA file of any order, plain or gzip.

        Raises:
            DataError: naming the line, when the file is unreadable, truncated or contradicts itself.
        """
        return _ArpaReader(Path(path)).read()

    def start(self) -> WordIds:
        """Return the context at the beginning of a sentence."""
        begin = self.vocab.get(BEGIN_WORD)
        return () if begin is None or self.order == 1 else (begin,)

    def score(self, context: WordIds, word: str) -> tuple[WordIds, float]:
        """Return the context after ``word`` and the log-probability of ``word`` in ``context``."""
        word_id = self.vocab.get(word, self._unknown)
        if word_id is None:
            return (), self.oov_log_prob
        log_prob = 0.0
        for begin in range(len(context) + 1):
            history = context[begin:]
            found = self._ngrams.get((*history, word_id))
            if found is not None:
                log_prob += found[0]
                break
            log_prob += self._ngrams.get(history, (0.0, 0.0))[1]
        keep = self.order - 1
        return (*context, word_id)[-keep:] if keep else (), log_prob

    def finish(self, context: WordIds) -> float:
        """Return the log-probability of the end of the sentence; 0 for a model without ``</s>``."""
        return self.score(context, END_WORD)[1] if END_WORD in self.vocab else 0.0


class WordRewards:
    """How often words are said, as a model without context that `WordNgram` takes; what is no word costs.

    A search with log-probabilities alone would write fewer words than were said. So each word is worth a bonus beside
    them, by which one of a few in a million is neither rewarded nor punished; the usual word insertion bonus.

    Args:
        log_frequencies: natural logarithms of the frequencies of words in lower case (`speechnar.text.words`).
    """

    BONUS = 3.5 * LOG_10
    UNKNOWN = -8.5 * LOG_10
    """Of a word that is not listed, bonus apart. These and the weight of the lists were chosen on development sets in
    six languages (recipes/joint/s2t/RESULTS.md)."""

    def __init__(self, log_frequencies: Mapping[str, float]) -> None:
        self.vocab = log_frequencies
        self.max_step = max(0.0, max(log_frequencies.values(), default=0.0) + self.BONUS)

    def start(self) -> WordIds:
        """Return the context, which is none."""
        return ()

    def score(self, context: WordIds, word: str) -> tuple[WordIds, float]:
        """Return the context and what ``word`` is worth, in nats."""
        return context, self.vocab.get(word, self.UNKNOWN) + self.BONUS

    def finish(self, context: WordIds) -> float:
        """Return what the end of the sentence is worth: nothing."""
        return 0.0


class TokenNgram:
    """Score tokens by an n-gram model whose words are the pieces themselves; special pieces (``<...>``) are free."""

    max_step = 0.0

    def __init__(self, lm: NgramLm, pieces: Sequence[str]) -> None:
        self._lm = lm
        self._pieces = pieces

    def start(self) -> WordIds:
        """Return the state of the empty prefix."""
        return self._lm.start()

    def step(self, state: WordIds, token: int) -> tuple[WordIds, float]:
        """Score one piece."""
        piece = self._pieces[token]
        return (state, 0.0) if _is_special(piece) else self._lm.score(state, piece)

    def finish(self, state: WordIds) -> float:
        """Score the end of the sentence."""
        return self._lm.finish(state)


class WordNgram:
    """Score words, each when the piece with "▁" that begins the next one arrives, or at the end of the utterance.

    A letter of writing without spaces is a word, scored when it is there. A word that the model does not know as it is
    written is looked up without punctuation, in lower or upper case, and then by its parts between apostrophes; where
    only punctuation stands, nothing is scored.
    """

    def __init__(self, lm: NgramLm | WordRewards, pieces: Sequence[str]) -> None:
        """Score tokens that add ``pieces`` (`speechnar.text.tokenizer.Tokenizer.word_pieces`) to words."""
        self._lm = lm
        self._pieces = pieces
        self.max_step = MOST_WORDS * lm.max_step

    def start(self) -> tuple[WordIds, str]:
        """Return the context and the unfinished word of the empty prefix."""
        return self._lm.start(), ""

    def step(self, state: tuple[WordIds, str], token: int) -> tuple[tuple[WordIds, str], float]:
        """Extend the unfinished word, scoring it first if ``token`` begins another."""
        context, word = state
        piece = self._pieces[token]
        if _is_special(piece):
            return state, 0.0
        total = 0.0
        if piece.startswith(WORD_START):
            context, total = self._score(context, word)
            word, piece = "", piece.removeprefix(WORD_START)
        word = assemble_characters(word + piece)
        while letter := UNSPACED_LETTER.search(word):
            for part in (word[: letter.start()], letter[0]):
                context, log_prob = self._score(context, part)
                total += log_prob
            word = word[letter.end() :]
        return (context, word), total

    def finish(self, state: tuple[WordIds, str]) -> float:
        """Score the unfinished word and the end of the sentence."""
        context, log_prob = self._score(*state)
        return log_prob + self._lm.finish(context)

    def _score(self, context: WordIds, word: str) -> tuple[WordIds, float]:
        """Return the context after ``word``, which may be nothing, and its log-probability."""
        known = self._lm.vocab
        parts = [word] if word in known else get_normalizer("basic")(word, "eng").split()
        total = 0.0
        for part in chain.from_iterable(_parts_known(part, known) for part in parts):
            context, log_prob = self._lm.score(context, part if part in known else _upper_if_known(part, known))
            total += log_prob
        return context, total


def _parts_known(word: str, known: Container[str]) -> list[str]:
    """Return ``word``, or its parts between apostrophes where only those are known: l'homme."""
    parts = [part for part in word.split("'") if part]
    return parts if word not in known and all(part in known for part in parts) else [word]


def _upper_if_known(word: str, known: Container[str]) -> str:
    return word.upper() if word.upper() in known else word


class HotwordBooster:
    """Add ``weight`` nats for every token inside a listed phrase.

    The bonus comes while a phrase is being spelled, so that it survives the beam, and is taken back if the phrase
    breaks off: a finished text has gained ``weight`` times the number of its tokens that listed phrases cover, and
    text without any of them keeps its score. With ``pieces`` (`speechnar.text.tokenizer.Tokenizer.word_pieces`), a
    phrase counts only where a word ends: "cat" is not rewarded inside "cats". Before punctuation it ends, and behind
    and before every letter of writing without spaces. The state is (trie node, bit mask of the revocable ones among the
    tokens it spells).
    """

    def __init__(self, phrases: Iterable[Sequence[int]], weight: float, *, pieces: Sequence[str] | None = None) -> None:
        if not 0 <= weight < math.inf:
            raise ConfigError(f"hotword weight must be finite and at least 0, got {weight}")
        self.weight = self.max_step = weight
        self._pieces = pieces
        self._ended_by = None if pieces is None else [_ends_word_before(piece) for piece in pieces]
        self._children: list[dict[int, int]] = [{}]
        self._depth = [0]
        self._is_end = [False]
        self._is_closed = [False]
        for phrase in phrases:
            self._add(phrase)
        self._fallback, self._complete, self._closed = self._link_suffixes()

    def start(self) -> tuple[int, int]:
        """Return the state of the empty prefix."""
        return 0, 0

    def step(self, state: tuple[int, int], token: int) -> tuple[tuple[int, int], float]:
        """Follow ``token`` down the trie, from the longest suffix of the text that it continues."""
        node, revocable = state
        if self._closed[node] or self._ended_by is None or self._ended_by[token]:
            revocable = self._settle(node, revocable)
        while node and token not in self._children[node]:
            node = self._fallback[node]
        kept = revocable & ((1 << self._depth[node]) - 1)
        lost = (revocable ^ kept).bit_count()
        child = self._children[node].get(token)
        if child is None:
            return (0, 0), -self.weight * lost
        return (child, kept << 1 | 1), self.weight * (1 - lost)

    def finish(self, state: tuple[int, int]) -> float:
        """Take back the bonus of a phrase that the end of the utterance cuts off."""
        return -self.weight * self._settle(*state).bit_count()

    def _settle(self, node: int, revocable: int) -> int:
        """Return ``revocable`` without the tokens of the longest phrase that ends here."""
        return revocable >> self._complete[node] << self._complete[node]

    def _add(self, phrase: Sequence[int]) -> None:
        if not phrase:
            raise ConfigError("a hotword must have at least one token; drop the empty one")
        node = 0
        for token in phrase:
            if token not in self._children[node]:
                self._children[node][token] = len(self._children)
                self._children.append({})
                self._depth.append(self._depth[node] + 1)
                self._is_end.append(False)
                self._is_closed.append(False)
            node = self._children[node][token]
        self._is_end[node] = True
        if self._pieces is not None:
            text = assemble_characters("".join(self._pieces[token] for token in phrase))
            self._is_closed[node] = UNSPACED_LETTER.match(text[-1:]) is not None

    def _link_suffixes(self) -> tuple[list[int], list[int], list[bool]]:
        """Return, for each node, its longest proper suffix in the trie, and of the longest phrase ending it the length.

        The third says whether no word can go on behind that phrase. Breadth first, so that the answers for shorter
        strings are known.
        """
        fallback, complete = [0] * len(self._children), [0] * len(self._children)
        closed = [False] * len(self._children)
        queue = [0]
        for node in queue:
            complete[node] = self._depth[node] if self._is_end[node] else complete[fallback[node]]
            closed[node] = self._is_closed[node] if self._is_end[node] else closed[fallback[node]]
            for token, child in self._children[node].items():
                suffix = fallback[node]
                while suffix and token not in self._children[suffix]:
                    suffix = fallback[suffix]
                fallback[child] = self._children[suffix].get(token, 0) if node else 0
                queue.append(child)
        return fallback, complete, closed


def _ends_word_before(piece: str) -> bool:
    """Tell whether no word goes on with ``piece``."""
    if not piece or piece.startswith(WORD_START) or _is_special(piece):
        return piece != ""
    byte = piece[0].encode("utf-8", "surrogateescape")[0]
    is_alone = "\udc80" <= piece[0] <= "\udcff"
    return byte in _LEADS_BEHIND_WORDS if is_alone else ends_before(piece[0])


def _is_special(piece: str) -> bool:
    return piece.startswith("<") and piece.endswith(">")


class _ArpaReader:
    """One pass over an ARPA file; knows the line it is at, for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._line = 0
        self._vocab: dict[str, int] = {}
        self._ngrams: dict[WordIds, tuple[float, float]] = {}

    def read(self) -> NgramLm:
        try:
            with self._path.open("rb") as raw:
                packed = raw.read(2) == GZIP_MAGIC
                raw.seek(0)
                # GzipFile reads like any binary file; its stub is an IO[bytes] of another name.
                stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
                return self._parse(self._lines(io.TextIOWrapper(stream, encoding="utf-8", newline="\n")))
        except UnicodeDecodeError:
            raise self._fault("must be UTF-8 text", line=self._line + 1) from None
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise self._fault("the gzip data is damaged or cut off; copy the file again") from None
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read ({error.strerror or error})") from None

    def _lines(self, text: io.TextIOWrapper) -> Iterator[str]:
        """Yield stripped lines that are not empty."""
        while line := text.readline(MAX_LINE):
            self._line += 1
            if len(line) == MAX_LINE:
                raise self._fault(f"a line must be shorter than {MAX_LINE} characters")
            line = line.strip(" \t\r\n")
            if line:
                yield line

    def _parse(self, lines: Iterator[str]) -> NgramLm:
        if not any(line == "\\data\\" for line in lines):
            raise self._fault(r"must be an ARPA model: no \data\ line found")
        counts: list[int] = []
        section = r"\data" + "\\"
        for line in lines:
            if line.startswith("\\"):
                section = line
                break
            counts.append(self._read_count(line, order=len(counts) + 1))
        if not counts:
            raise self._fault(r"\data\ must list at least one 'ngram 1=COUNT'")
        for order, count in enumerate(counts, start=1):
            if section != f"\\{order}-grams:":
                raise self._fault(f"expected \\{order}-grams:, got {section[:40]!r}")
            section = self._read_section(lines, order, count)
        if section != "\\end\\":
            raise self._fault(rf"expected \end\, got {section[:40]!r}")
        return NgramLm(self._vocab, self._ngrams, order=len(counts))

    def _read_count(self, line: str, order: int) -> int:
        match = re.fullmatch(r"ngram\s+(\d{1,3})\s*=\s*(\d{1,15})", line, flags=re.ASCII)
        if match is None or int(match[1]) != order:
            raise self._fault(f"expected 'ngram {order}=COUNT', got {line[:40]!r}")
        return int(match[2])

    def _read_section(self, lines: Iterator[str], order: int, count: int) -> str:
        """Read the n-grams of one order and return the section line that follows them."""
        for num_read, line in enumerate(lines):
            fields = re.split(r"[ \t]+", line)  # not str.split(): a word may hold other Unicode spaces
            if len(fields) == 1 and line.startswith("\\"):
                if num_read != count:
                    raise self._fault(f"{count} {order}-grams were announced, {num_read} found")
                return line
            self._read_ngram(fields, order)
        raise self._fault(rf"the file ends among the {order}-grams, without \end\; it is cut off")

    def _read_ngram(self, fields: list[str], order: int) -> None:
        if len(fields) not in (order + 1, order + 2):
            raise self._fault(f"a {order}-gram needs {order + 1} or {order + 2} fields, got {len(fields)}")
        log_prob = self._read_number(fields[0])
        if log_prob > 0:
            raise self._fault(f"a log-probability must not be above 0, got {fields[0]}")
        backoff = self._read_number(fields[-1]) if len(fields) == order + 2 else 0.0
        words = fields[1 : order + 1]
        if order == 1:
            self._vocab.setdefault(words[0], len(self._vocab))
        unknown = next((word for word in words if word not in self._vocab), None)
        if unknown is not None:
            raise self._fault(f"{unknown[:40]!r} is not among the 1-grams")
        ids = tuple(self._vocab[word] for word in words)
        if ids in self._ngrams:
            raise self._fault(f"{' '.join(words)[:60]!r} is listed twice")
        self._ngrams[ids] = (log_prob * LOG_10, backoff * LOG_10)

    def _read_number(self, text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise self._fault(f"expected a number, got {text[:40]!r}") from None
        if math.isnan(value) or value == math.inf:
            raise self._fault(f"expected a finite number or -inf, got {text[:40]!r}")
        return value

    def _fault(self, message: str, line: int | None = None) -> DataError:
        return DataError(f"{self._path}:{max(line or self._line, 1)}: {message}")
