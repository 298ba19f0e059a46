"""Byte-level byte-pair encoding, as GPT-2 and Whisper spell text: pieces are strings of bytes, any text can be spelled.

In files each byte is written as one printable character (`BYTE_LETTERS`; the space is ``Ġ``). A folder holds
``tokens.txt`` and ``merges.txt``: the pairs of pieces that are joined, first come first joined.

Sources: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016, section 3.2; Radford et
al., "Language Models are Unsupervised Multitask Learners", 2019, section 2.2 (bytes).
"""

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

from speechnar.errors import DataError
from speechnar.files import read_bounded, regular
from speechnar.text.scripts import begins_after
from speechnar.text.tokenizer import (
    BLANK,
    MAX_FILE_BYTES,
    MERGES_NAME,
    SENTENCE_PIECES,
    UNK,
    UNKNOWN_SHOWN_AS,
    WORD_START,
    PieceTokenizer,
)

Merges = Sequence[tuple[str, str]]

_PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
BYTE_LETTERS = {**{byte: chr(byte) for byte in _PRINTABLE}, **{byte: chr(256 + n) for n, byte in enumerate(_OTHERS)}}
"""How each byte is written: printable ones as they are in Latin-1, the others as letters from U+0100 on (GPT-2)."""
_LETTER_BYTES = {letter: byte for byte, letter in BYTE_LETTERS.items()}

# GPT-2's pattern; \p{L} and \p{N} in terms of the standard library.
_LETTER, _NUMBER = r"[^\W\d_]", r"\d"
_WORD = re.compile(rf"'s|'t|'re|'ve|'m|'ll|'d| ?{_LETTER}+| ?{_NUMBER}+| ?(?:(?!{_LETTER}|{_NUMBER})\S)+|\s+(?!\S)|\s+")
_UNSPACED_START = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]")
"""Writing that begins without a space: a sentence in it is spelled as Whisper does, not as a word amid a line."""


class BytePairTokenizer(PieceTokenizer):
    """Pieces joined by ``merges``; a sentence is spelled as if a space stood before it, unless its writing has none.

    What merges make need not be a piece: it may be but a step to a longer one. Where it remains, it is taken apart.

    Raises:
        DataError: a piece is listed twice, or ``<blank>``, ``<unk>`` or a byte is missing.
    """

    def __init__(self, pieces: Sequence[str], merges: Merges, *, source: str = "pieces") -> None:
        super().__init__(pieces, source=source)
        self.merges = tuple(merges)
        missing = [letter for letter in BYTE_LETTERS.values() if letter not in self._ids]
        if missing:
            raise DataError(f"{source}: every byte must be a piece; {missing[0]!r} is not")
        self._ranks = {pair: rank for rank, pair in enumerate(self.merges)}
        self._made_of = {"".join(pair): pair for pair in reversed(self.merges)}
        self._known: dict[str, list[int]] = {}

    @classmethod
    def from_json(cls, path: str | Path, *, blank_id: int | None = None) -> "BytePairTokenizer":
        """Read Hugging Face's ``tokenizer.json``; ids are kept, ``<blank>`` and ``<unk>`` come last.

        With ``blank_id`` its piece of this id is ``<blank>``, and one that is called ``<unk>`` is that.

        Raises:
            DataError: it is not the file of a byte-level BPE, or its ids have gaps.
        """
        try:
            document = json.loads(regular(path).read_text(encoding="utf-8"))
            model = document["model"]
            added = {token["content"]: token["id"] for token in document["added_tokens"]}
            ids: dict[str, int] = {**model["vocab"], **added}
            merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: must be a tokenizer.json of byte-level BPE ({type(error).__name__})") from None
        by_id = {token_id: piece for piece, token_id in ids.items()}
        if sorted(by_id) != list(range(len(by_id))):
            raise DataError(f"{path}: ids must be 0 to {len(by_id) - 1} without gaps")
        pieces = [by_id[token_id] for token_id in range(len(by_id))]
        # Whisper has an id that stands for no text at all.
        named = [piece or f"<|{token_id}|>" for token_id, piece in enumerate(pieces)]
        if blank_id is None:
            return cls([*named, BLANK, UNK], merges, source=str(path))
        if not 0 <= blank_id < len(named):
            raise DataError(f"{path}: the blank must be one of its {len(named)} pieces, got {blank_id}")
        named[blank_id] = BLANK
        return cls([*named, *(() if UNK in named else (UNK,))], merges, source=str(path))

    def cut(self, texts: Iterable[str], specials: Sequence[str] = (), *, min_count: int = 1) -> "BytePairTokenizer":
        """Return a tokenizer of the pieces that ``texts`` hold at least ``min_count`` times, and of all bytes.

        Rarer pieces are spelled by smaller ones, in the last resort by bytes; so any text can still be spelled. Letters
        of ``texts`` that have pieces keep them however rare they are, as a language with little text would else be
        spelled in parts of letters. What is kept is spelled as before.
        """
        counts: Counter[int] = Counter()
        letters: set[str] = set()
        for text in texts:
            counts.update(self._encode_plain(text))
            letters.update(letter for letter in text if letter.isalpha() and not letter.isascii())  # others are bytes
        wanted = {self.piece_of(token_id) for token_id, count in counts.items() if count >= min_count}
        wanted |= {_spell(space + letter) for letter in letters for space in ("", " ")}
        # In the order of their merges, so that the same texts give the same ids.
        kept = [piece for piece in dict.fromkeys("".join(pair) for pair in self.merges) if piece in wanted]
        steps, open_pieces = set(kept), list(kept)
        while open_pieces:
            new = [part for part in self._made_of[open_pieces.pop()] if part in self._made_of and part not in steps]
            steps |= set(new)
            open_pieces += new
        merges = [pair for pair in self.merges if "".join(pair) in steps]
        return type(self)([BLANK, UNK, *specials, *BYTE_LETTERS.values(), *kept, *SENTENCE_PIECES], merges)

    def _encode_plain(self, text: str) -> list[int]:
        text = " ".join(text.split())
        if not text:
            return []
        words = _WORD.findall(text if _UNSPACED_START.match(text) else f" {text}")
        return [token_id for word in words for token_id in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._known:
            parts = list(_spell(word))
            while len(parts) > 1:
                pairs = list(itertools.pairwise(parts))
                best = min(pairs, key=lambda pair: self._ranks.get(pair, len(self._ranks)))
                if best not in self._ranks:
                    break
                joined: list[str] = []
                for part in parts:
                    if joined and (joined[-1], part) == best:
                        joined[-1] += part
                    else:
                        joined.append(part)
                parts = joined
            self._known[word] = [token_id for part in parts for token_id in self._take_apart(part)]
        return self._known[word]

    def _take_apart(self, part: str) -> list[int]:
        """Return the ids of the pieces that ``part`` is made of: itself, if it is one."""
        if part in self._plain_ids:
            return [self._plain_ids[part]]
        return [token_id for smaller in self._made_of[part] for token_id in self._take_apart(smaller)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids`` without specials; ``<unk>``, and bytes that make no character, are ``⁇``.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        return "".join(self._show(list(ids))).strip(" ")

    def spell(self, ids: Sequence[int], *, unspaced: bool = False) -> list[str]:
        """Return the text of each of ``ids``, with ``▁`` in front where a word begins; specials as they are.

        The first piece of a character made of several shows it, the others show nothing. In text that is ``unspaced``
        a piece is a word, unless it goes on with what stands before it (`speechnar.text.scripts.begins_after`).

        Raises:
            DataError: an id is outside the vocabulary.
        """
        ids = list(ids)
        spelled, before = [], ""
        for token_id, shown in zip(ids, self._show(ids), strict=True):
            if self._special[token_id]:
                spelled.append(self._pieces[token_id])
                before = ""
                continue
            begins = shown.startswith(" ") or (unspaced and shown != "" and begins_after(before, shown[0]))
            spelled.append((WORD_START if begins else "") + shown.removeprefix(" "))
            before = shown[-1:] or before
        return spelled

    @cached_property
    def word_pieces(self) -> tuple[str, ...]:
        """Return what each piece adds to a word, with ``▁`` in front where it begins one; specials as they are.

        Bytes that are no character by themselves are surrogates (PEP 383).
        """
        return tuple(
            piece if self._special[token_id] else _as_word_piece(self._bytes_of(token_id))
            for token_id, piece in enumerate(self._pieces)
        )

    def drop_unfinished(self, ids: Sequence[int]) -> list[int]:
        """Return ``ids`` without those at the end that have begun a character but not ended it."""
        ids = list(ids)
        _, waiting = _whole_characters(b"".join(map(self._bytes_of, ids)), is_last=False)
        num_waiting = len(waiting)
        while num_waiting > 0:
            num_waiting -= len(self._bytes_of(ids.pop()))
        return ids

    def _bytes_of(self, token_id: int) -> bytes:
        """Return the bytes of a piece; a special has none."""
        piece = self.piece_of(token_id)
        return b"" if self._special[token_id] else bytes(_LETTER_BYTES[letter] for letter in piece)

    def _show(self, ids: Sequence[int]) -> list[str]:
        """Return what each id adds to the text: a character of several pieces is that of its first.

        Bytes wait until they are a character or can no longer become one.
        """
        shown, waiting, first = [], b"", 0
        for index, token_id in enumerate(ids):
            piece = self.piece_of(token_id)
            if self._special[token_id]:
                shown.append(UNKNOWN_SHOWN_AS if piece == UNK else "")
                continue
            follows = any(not self._special[later] for later in ids[index + 1 :])
            was_waiting = waiting != b""
            text, waiting = _whole_characters(waiting + self._bytes_of(token_id), is_last=not follows)
            shown.append(text)
            if was_waiting and text:
                shown[first] += text[0]
                shown[index] = text[1:]
            if text or not was_waiting:
                first = index
        return shown

    def save(self, folder: str | Path) -> None:
        """Write ``tokens.txt`` and ``merges.txt`` into ``folder``, which is made if absent."""
        super().save(folder)
        text = "".join(f"{left} {right}\n" for left, right in self.merges)
        (Path(folder) / MERGES_NAME).write_bytes(text.encode("utf-8"))


def _as_word_piece(data: bytes) -> str:
    begins = data.startswith(b" ")
    return (WORD_START if begins else "") + data.removeprefix(b" ").decode("utf-8", "surrogateescape")


def _whole_characters(data: bytes, *, is_last: bool) -> tuple[str, bytes]:
    """Split ``data`` into text and the bytes of a character that is not complete; wrong bytes are shown as ``⁇``."""
    text = ""
    while data:
        try:
            return text + data.decode("utf-8"), b""
        except UnicodeDecodeError as error:
            text += data[: error.start].decode("utf-8")
            if error.reason == "unexpected end of data" and not is_last:
                return text, data[error.start :]
            text += UNKNOWN_SHOWN_AS
            data = data[error.end :]
    return text, b""


def _spell(text: str) -> str:
    return "".join(BYTE_LETTERS[byte] for byte in text.encode("utf-8"))


def read_merges(path: str | Path) -> list[tuple[str, str]]:
    """Read one pair of pieces a line.

    Raises:
        DataError: it cannot be read, or a line is no pair; the message gives it.
    """
    try:
        text = read_bounded(Path(path), MAX_FILE_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from None
    merges = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], start=1):
        left, space, right = line.partition(" ")
        if not (left and space and right) or " " in right:
            raise DataError(f"{path}:{number}: must be two pieces with a space between them, got {line[:60]!r}")
        merges.append((left, right))
    return merges
