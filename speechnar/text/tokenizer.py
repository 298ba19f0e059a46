"""Tokenizers: text to token ids and back, in the vocabulary layout of ESPnet's OWSM models.

The id space is a list of *pieces*: ``<blank>``, ``<unk>``, the pieces of a SentencePiece model (or single characters),
then ``<sop>``, ``<sos>``, ``<eos>``. Ids are looked up by string, never assumed. A piece written ``<...>`` is a
*special*; ``▁`` (U+2581) begins a word. A folder holds ``tokens.txt`` (one piece per line, its number is the id) and,
for SentencePiece, ``tokenizer.model``, ``lexicon.txt`` for words in pieces, or ``merges.txt`` for pairs of bytes.

Source: OWSM-CTC, Peng et al., ACL 2024, section 3; SentencePiece, Kudo and Richardson, EMNLP 2018.
"""

import io
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from speechnar.errors import ConfigError, DataError
from speechnar.files import read_bounded
from speechnar.text.scripts import check_unicode

if TYPE_CHECKING:
    import sentencepiece

logger = logging.getLogger(__name__)

BLANK, UNK, NA, NOLANG, ASR = "<blank>", "<unk>", "<na>", "<nolang>", "<asr>"
PHONEMES = "<phonemes-eng>"
"""Marks a list of pieces as that of English phonemes."""
WORD_START = "▁"
UNKNOWN_SHOWN_AS = "⁇"
CONTINUED = "@@"
MODEL_NAME, TOKENS_NAME, LEXICON_NAME = "tokenizer.model", "tokens.txt", "lexicon.txt"
MERGES_NAME = "merges.txt"

SENTENCE_PIECES = ("<sop>", "<sos>", "<eos>")
# Specials that only code may emit: text that spells one of them is text.
CONTROL_PIECES = frozenset({BLANK, UNK, *SENTENCE_PIECES, "<s>", "</s>", "<pad>"})
# A folder may be anybody's. Whisper lists 51,866 pieces, of which 1,609 are specials.
MAX_FILE_BYTES, MAX_PIECES, MAX_SPECIALS = 1 << 26, 1 << 20, 1 << 13
# SentencePiece drops longer lines without a word; no transcript should vanish that way.
MAX_TRAINING_LINE_BYTES = 1 << 20

_SPECIAL = re.compile(r"<[^<>\s]+>")
_LANGUAGE = re.compile(r"<[a-z]{3}>")
_IDEOGRAPHS = re.compile(r"[\u4e00-\u9fff0-9@]+")
"""What FunASR writes without spaces."""
_LETTER = re.compile(r"[A-Za-z]")
_LEXICON_WORD = re.compile(r"[\u4e00-\u9fff]|[^\s\u4e00-\u9fff]+")
_NOT_LANGUAGES = CONTROL_PIECES | {ASR}


class Tokenizer(Protocol):
    """What models, data and decoding may ask of a tokenizer."""

    @property
    def pieces(self) -> tuple[str, ...]:
        """Return every piece; its position is its id."""
        ...

    @property
    def vocab_size(self) -> int:
        """Return the number of ids, specials included."""
        ...

    @property
    def blank_id(self) -> int:
        """Return the id of the CTC blank."""
        ...

    @property
    def pad_id(self) -> int:
        """Return the id that fills batches (the blank: no target holds it)."""
        ...

    @property
    def unk_id(self) -> int:
        """Return the id of whatever the vocabulary cannot spell."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``; specials in it become their own ids."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids`` without specials."""
        ...

    def spell(self, ids: Sequence[int], *, unspaced: bool = False) -> list[str]:
        """Return the pieces of ``ids``, each that begins a word written with ``▁`` in front.

        In text that is ``unspaced``, every token counts as a word, unless the tokenizer knows better.
        """
        ...

    @property
    def word_pieces(self) -> tuple[str, ...]:
        """Return what each piece adds to a word, with ``▁`` in front where it begins one; specials as they are.

        Bytes that are no character by themselves are surrogates (PEP 383), of which `assemble_characters` makes text.
        """
        ...

    def drop_unfinished(self, ids: Sequence[int]) -> list[int]:
        """Return ``ids`` without those at the end that have begun a character but not ended it."""
        ...

    def id_of(self, piece: str) -> int:
        """Return the id of ``piece``."""
        ...

    def piece_of(self, token_id: int) -> str:
        """Return the piece with this id."""
        ...

    def is_special(self, token_id: int) -> bool:
        """Tell whether the piece with this id is written ``<...>``."""
        ...

    def language_ids(self) -> dict[str, int]:
        """Return the ids of the ``<xxx>`` language pieces by ISO 639-3 code."""
        ...

    def save(self, folder: str | Path) -> None:
        """Write what :func:`load_tokenizer` reads into ``folder``."""
        ...


class PieceTokenizer(ABC):
    """The piece table and everything that follows from it; the tokenizers spell plain text."""

    def __init__(self, pieces: Sequence[str], *, source: str) -> None:
        self._pieces = tuple(pieces)
        self._ids = _index_pieces(self._pieces, source)
        self._special = tuple(map(_is_special, self._pieces))
        self._plain_ids = {piece: i for piece, i in self._ids.items() if not self._special[i]}
        self._spelled = {piece: i for piece, i in self._ids.items() if self._special[i] and piece not in CONTROL_PIECES}
        # The group keeps the specials in the result of split(); without specials the pattern must match nothing.
        alternatives = "|".join(re.escape(piece) for piece in self._spelled)
        self._splitter = re.compile(f"({alternatives or '(?!)'})")

    @abstractmethod
    def _encode_plain(self, text: str) -> list[int]:
        """Return the ids of text without specials; blank text has none."""

    @property
    def pieces(self) -> tuple[str, ...]:
        """Return every piece; its position is its id."""
        return self._pieces

    @property
    def vocab_size(self) -> int:
        """Return the number of ids, specials included."""
        return len(self._pieces)

    @property
    def blank_id(self) -> int:
        """Return the id of the CTC blank."""
        return self._ids[BLANK]

    @property
    def pad_id(self) -> int:
        """Return the id that fills batches (the blank: no target holds it)."""
        return self.blank_id

    @property
    def unk_id(self) -> int:
        """Return the id of whatever the vocabulary cannot spell."""
        return self._ids[UNK]

    def encode(self, text: str) -> list[int]:
        """Return the ids of ``text``.

        ``<eng><asr> good day`` gives the two special ids followed by those of ``good day``: as in OWSM, no empty ``▁``
        stands before a special. Specials must be in the vocabulary and are matched exactly; ``<blank>``, ``<unk>``,
        ``<sop>``, ``<sos>`` and ``<eos>`` never come out of text that spells them.

        Raises:
            DataError: it is not Unicode: bytes of another encoding, or half a pair of surrogates.
        """
        check_unicode(text)
        ids: list[int] = []
        for part in self._splitter.split(text):
            token_id = self._spelled.get(part)
            ids.extend(self._encode_plain(part) if token_id is None else [token_id])
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``: specials are dropped, except that ``<unk>`` is shown as ``⁇``.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        shown: list[str] = []
        for token_id in ids:
            piece = self.piece_of(token_id)
            if piece == UNK:
                shown.append(UNKNOWN_SHOWN_AS)
            elif not self._special[token_id]:
                shown.append(piece)
        return "".join(shown).replace(WORD_START, " ").strip(" ")

    def spell(self, ids: Sequence[int], *, unspaced: bool = False) -> list[str]:
        """Return the pieces of ``ids``; where text is ``unspaced``, with ``▁`` in front of every one but specials.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        pieces = [self.piece_of(token_id) for token_id in ids]
        if not unspaced:
            return pieces
        return [piece if piece.startswith((WORD_START, "<")) else WORD_START + piece for piece in pieces]

    @property
    def word_pieces(self) -> tuple[str, ...]:
        """Return what each piece adds to a word: the piece itself."""
        return self._pieces

    def drop_unfinished(self, ids: Sequence[int]) -> list[int]:
        """Return ``ids``: no piece is a part of a character."""
        return list(ids)

    def id_of(self, piece: str) -> int:
        """Return the id of ``piece``.

        Raises:
            DataError: the vocabulary does not hold it.
        """
        try:
            return self._ids[piece]
        except KeyError:
            raise DataError(f"piece {piece!r} is not among the {self.vocab_size} of this tokenizer") from None

    def piece_of(self, token_id: int) -> str:
        """Return the piece with this id.

        Raises:
            DataError: the id is outside the vocabulary.
        """
        if not 0 <= token_id < len(self._pieces):
            raise DataError(f"token id must lie in [0, {self.vocab_size}), got {token_id}")
        return self._pieces[token_id]

    def is_special(self, token_id: int) -> bool:
        """Tell whether the piece with this id is written ``<...>``.

        Raises:
            DataError: the id is outside the vocabulary.
        """
        self.piece_of(token_id)
        return self._special[token_id]

    def language_ids(self) -> dict[str, int]:
        """Return the ids of the ``<xxx>`` language pieces by ISO 639-3 code, in id order."""
        return {
            piece[1:-1]: token_id
            for token_id, piece in enumerate(self._pieces)
            if _LANGUAGE.fullmatch(piece) and piece not in _NOT_LANGUAGES
        }

    def save(self, folder: str | Path) -> None:
        """Write ``tokens.txt`` into ``folder``, which is made if absent."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = "".join(f"{piece}\n" for piece in self._pieces)
        (Path(folder) / TOKENS_NAME).write_bytes(text.encode("utf-8"))


class SentencePieceTokenizer(PieceTokenizer):
    """A SentencePiece model whose pieces are renumbered by a piece list (which may come from a foreign model).

    Args:
        model: a ``.model`` file or its bytes.
        pieces: the id space: ``<blank>``, ``<unk>`` and every piece of the model, in any order; sentence boundary
            specials that the model lacks are allowed.

    Raises:
        DataError: the model is unreadable, a piece is listed twice, ``<blank>`` or ``<unk>`` is missing, or a piece is
            unknown to the model. The message gives the line (counted from 1).
    """

    def __init__(self, model: str | Path | bytes, pieces: Sequence[str], *, source: str = "pieces") -> None:
        super().__init__(pieces, source=source)
        self._model = _load_model(model)
        of_model = _pieces_of(self._model)
        known = CONTROL_PIECES.union(of_model)
        for line, piece in enumerate(self._pieces, start=1):
            if piece not in known:
                raise DataError(
                    f"{source}:{line}: piece {piece[:60]!r} is unknown to the SentencePiece model; "
                    "the list and the model must come from the same training"
                )
        self._id_of_model_id = [
            self.unk_id if piece in CONTROL_PIECES else self._ids.get(piece, self.unk_id) for piece in of_model
        ]
        missing = [piece for piece in of_model if piece not in self._ids and piece not in CONTROL_PIECES]
        if missing:
            logger.warning(
                "%s: %d pieces of the SentencePiece model are not listed (first: %r) and will be encoded as %s",
                source,
                len(missing),
                missing[0],
                UNK,
            )

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        specials: Sequence[str] = (),
        model_type: Literal["unigram", "bpe", "char"] = "unigram",
    ) -> "SentencePieceTokenizer":
        """Train on ``texts``; the same texts in the same order give the same tokenizer.

        Every character of the corpus is covered. ``vocab_size`` counts all ids, specials included; a corpus too small
        to fill it gives fewer, with a warning.

        Args:
            texts: sentences; an empty one is skipped.
            vocab_size: the number of ids wanted.
            specials: pieces such as ``<eng>`` that are never split (see :func:`task_specials`).
            model_type: the algorithm; "char" uses every character.

        Raises:
            ConfigError: a special is not written ``<...>`` or is repeated or reserved, or ``vocab_size`` cannot hold
                the specials and the characters.
            DataError: there is no text.
        """
        _check_specials(specials)
        sentences = [" ".join(text.split()) for text in texts]
        sentences = [text for text in sentences if text]
        if not sentences:
            raise DataError("training a tokenizer needs at least one sentence that is not blank, got none")
        model = _train_model(sentences, vocab_size, specials, model_type)
        pieces = (BLANK, UNK, *(piece for piece in model_pieces(model) if piece != UNK), *SENTENCE_PIECES)
        if len(pieces) < vocab_size:
            logger.warning("the corpus fills %d of the %d ids asked for", len(pieces), vocab_size)
        return cls(model, pieces)

    def save(self, folder: str | Path) -> None:
        """Write ``tokenizer.model`` and ``tokens.txt`` into ``folder``, which is made if absent."""
        super().save(folder)
        (Path(folder) / MODEL_NAME).write_bytes(self._model.serialized_model_proto())

    def _encode_plain(self, text: str) -> list[int]:
        return [self._id_of_model_id[i] for i in self._model.encode(text)]


class CharTokenizer(PieceTokenizer):
    """One piece per character (code point), spaces as ``▁``; runs of white space count as one space.

    Raises:
        DataError: a piece is longer than one character and not a special, is listed twice, or ``<blank>`` or ``<unk>``
            is missing. The message gives the line (counted from 1).
    """

    def __init__(self, pieces: Sequence[str], *, source: str = "pieces") -> None:
        super().__init__(pieces, source=source)
        for line, (piece, special) in enumerate(zip(self._pieces, self._special, strict=True), start=1):
            if not special and (len(piece) != 1 or piece.isspace()):
                raise DataError(
                    f"{source}:{line}: a character tokenizer's pieces are single characters ({WORD_START} for the "
                    f"space) or specials, got {piece[:60]!r}; if this list belongs to SentencePiece, add {MODEL_NAME}"
                )

    def _encode_plain(self, text: str) -> list[int]:
        return [self._ids.get(character, self.unk_id) for character in WORD_START.join(text.split())]


class LexiconTokenizer(PieceTokenizer):
    """Characters of Chinese, and words of other scripts in pieces that a lexicon lists.

    A piece written ``xx@@`` is continued by the next one. Words are lower-cased; a word that the lexicon does not hold
    is spelled by its characters.

    Args:
        pieces: the id space.
        lexicon: pieces of each word; those that are not in the id space count as ``<unk>``.

    Raises:
        DataError: a piece is listed twice, or ``<blank>`` or ``<unk>`` is missing. The message gives the line.

    Source: FunASR 1.4, ``CharTokenizer`` with a ``seg_dict``, and ``sentence_postprocess``. Differs from it: Chinese
    needs no spaces around words of other scripts, ``<unk>`` is shown, and the start of a word that is not continued,
    or a sign before Chinese, stays where it is, where FunASR moves it or loses it.
    """

    def __init__(self, pieces: Sequence[str], lexicon: Mapping[str, Sequence[str]], *, source: str = "pieces") -> None:
        super().__init__(pieces, source=source)
        self._lexicon = {word: tuple(spelled) for word, spelled in lexicon.items()}

    def _encode_plain(self, text: str) -> list[int]:
        return [
            self._plain_ids.get(piece, self.unk_id)
            for word in _LEXICON_WORD.findall(text)
            for piece in self._spell(word)
        ]

    def _spell(self, word: str) -> Sequence[str]:
        word = word.lower()
        if word in self._lexicon:
            return self._lexicon[word]
        if word in self._plain_ids:
            return (word,)
        return [piece for character in word for piece in self._lexicon.get(character, (character,))]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``: words apart, Chinese without spaces, single letters in a row as an abbreviation.

        Specials are as in the other tokenizers.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        pieces = [
            self.piece_of(token_id) for token_id in ids if token_id == self.unk_id or not self.is_special(token_id)
        ]
        text, apart = "", False  # whether a space goes before the next word that is not Chinese
        for written, begins in _write([UNKNOWN_SHOWN_AS if piece == UNK else piece for piece in pieces]):
            is_ideograph = _IDEOGRAPHS.fullmatch(written) is not None
            text += f" {written}" if apart and begins and not is_ideograph else written
            apart = not is_ideograph and all(letter.isalpha() or letter == "'" for letter in written)
        return text

    def spell(self, ids: Sequence[int], *, unspaced: bool = False) -> list[str]:
        """Return the pieces of ``ids``, an abbreviation in capitals: ``▁`` stands before all but specials and what
        continues a word.

        Raises:
            DataError: an id is outside the vocabulary.
        """
        del unspaced  # Chinese is, other scripts are not
        return [
            f"{WORD_START}{written}" if begins and not self._special[token_id] and written != WORD_START else written
            for token_id, (written, begins) in zip(ids, _write([self.piece_of(i) for i in ids]), strict=True)
        ]

    def save(self, folder: str | Path) -> None:
        """Write ``tokens.txt`` and ``lexicon.txt`` into ``folder``, which is made if absent."""
        super().save(folder)
        text = "".join(f"{word} {' '.join(spelled)}\n" for word, spelled in self._lexicon.items())
        (Path(folder) / LEXICON_NAME).write_bytes(text.encode("utf-8"))


def _write(pieces: Sequence[str]) -> list[tuple[str, bool]]:
    """Return what FunASR writes for each piece, and whether a word begins with it."""
    written: list[tuple[str, bool]] = []
    rows = [(piece, not before.endswith(CONTINUED)) for before, piece in pairwise(["", *pieces])]
    for is_letter, group in groupby(rows, key=lambda row: row[1] and _LETTER.fullmatch(row[0]) is not None):
        run = list(group)
        if is_letter and len(run) > 1:  # an abbreviation
            written += [(letter.upper(), place == 0) for place, (letter, _) in enumerate(run)]
        else:
            written += [(piece.removesuffix(CONTINUED), begins) for piece, begins in run]
    return written


def model_pieces(model: str | Path | bytes) -> list[str]:
    """Return the pieces of a SentencePiece model, a ``.model`` file or its bytes, in the order of its own ids.

    Raises:
        DataError: it is unreadable.
    """
    return _pieces_of(_load_model(model))


def assemble_characters(pieces: str) -> str:
    """Return joined `Tokenizer.word_pieces` with every character that is complete; the other bytes stay surrogates."""
    return pieces.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")


def read_lexicon(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Return the pieces of each word of a file with one word and its pieces a line; words without pieces are left out.

    Raises:
        DataError: it cannot be read.
    """
    try:
        lines = read_bounded(Path(path), MAX_FILE_BYTES).decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from None
    fields = [line.split() for line in lines]
    return {row[0]: tuple(row[1:]) for row in fields if len(row) > 1}


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a folder's ``tokens.txt`` and, where there is one, ``tokenizer.model``, ``merges.txt`` or ``lexicon.txt``.

    Pieces among which is ``<phonemes-eng>`` are those of English phonemes.

    Raises:
        DataError: a file is missing, unreadable or inconsistent; the message gives the line of a wrong piece.
    """
    path = Path(folder) / TOKENS_NAME
    try:
        text = read_bounded(path, MAX_FILE_BYTES).decode("utf-8")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); a tokenizer folder needs {TOKENS_NAME}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: must be UTF-8") from None
    # Not splitlines(): it also breaks at U+2028 and its kin, which would shift every later id.
    pieces = text.removesuffix("\n").split("\n")
    model = Path(folder) / MODEL_NAME
    if model.exists():
        return SentencePieceTokenizer(model, pieces, source=str(path))
    if PHONEMES in pieces:
        from speechnar.text.phonemes import PhonemeTokenizer  # noqa: PLC0415  # it is built on this module

        return PhonemeTokenizer(pieces, source=str(path))
    merges = Path(folder) / MERGES_NAME
    if merges.exists():
        from speechnar.text.byte_pairs import BytePairTokenizer, read_merges  # noqa: PLC0415  # likewise

        return BytePairTokenizer(pieces, read_merges(merges), source=str(path))
    lexicon = Path(folder) / LEXICON_NAME
    if lexicon.exists():
        return LexiconTokenizer(pieces, read_lexicon(lexicon), source=str(path))
    return CharTokenizer(pieces, source=str(path))


def task_specials(languages: Sequence[str], translate_to: Sequence[str] = ()) -> tuple[str, ...]:
    """Return OWSM's specials for these ISO 639-3 languages: not available, language, recognition, translation into."""
    return (
        *(NA, "<nospeech>", NOLANG),
        *(f"<{lang}>" for lang in languages),
        ASR,
        *(f"<st_{lang}>" for lang in translate_to),
    )


def _is_special(piece: str) -> bool:
    return _SPECIAL.fullmatch(piece) is not None


def _index_pieces(pieces: Sequence[str], source: str) -> dict[str, int]:
    ids: dict[str, int] = {}
    num_special = sum(map(_is_special, pieces))
    if len(pieces) > MAX_PIECES or num_special > MAX_SPECIALS:
        raise DataError(
            f"{source}: must list at most {MAX_PIECES:,} pieces, {MAX_SPECIALS:,} of them specials; "
            f"got {len(pieces):,} and {num_special:,}"
        )
    for token_id, piece in enumerate(pieces):
        where = f"{source}:{token_id + 1}"
        if not piece or "\n" in piece:
            raise DataError(f"{where}: a piece must not be empty nor hold a line break, got {piece[:60]!r}")
        if piece in ids:
            raise DataError(f"{where}: piece {piece[:60]!r} already stands on line {ids[piece] + 1}; keep one of them")
        ids[piece] = token_id
    for piece in (BLANK, UNK):
        if piece not in ids:
            raise DataError(f"{source}: none of the {len(pieces)} lines holds {piece}, which every vocabulary needs")
    return ids


def _check_specials(specials: Sequence[str]) -> None:
    for special in specials:
        if not _SPECIAL.fullmatch(special) or special in CONTROL_PIECES:
            raise ConfigError(f"a special must be written <...> and not be one of our own, got {special!r}")
    if len(set(specials)) != len(specials):
        raise ConfigError("specials must differ from each other")


def _train_model(sentences: Sequence[str], vocab_size: int, specials: Sequence[str], model_type: str) -> bytes:
    import sentencepiece  # noqa: PLC0415  # as below

    if model_type not in ("unigram", "bpe", "char"):
        raise ConfigError(f"model_type must be unigram, bpe or char, got {model_type!r}")
    num_characters = len({character for text in sentences for character in text})
    # At least <unk>, the word start and the characters; <blank> and the sentence pieces are not in the model.
    num_ours = 1 + len(SENTENCE_PIECES)
    least = num_ours + 2 + len(specials) + num_characters
    if vocab_size < least:
        raise ConfigError(
            f"vocab_size must be about {least} or more to hold {len(specials)} specials and {num_characters} "
            f"characters, got {vocab_size}"
        )
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=model,
            model_type=model_type,
            vocab_size=vocab_size - num_ours,
            user_defined_symbols=list(specials),
            character_coverage=1.0,
            hard_vocab_limit=False,
            max_sentence_length=MAX_TRAINING_LINE_BYTES,
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        reason = str(error).rpartition("] ")[2]  # before it stand a source line and a C++ expression
        raise ConfigError(
            f"SentencePiece cannot train {vocab_size - num_ours} pieces on {len(sentences)} sentences with "
            f"{num_characters} characters and {len(specials)} specials; change vocab_size ({reason})"
        ) from None
    return model.getvalue()


def _pieces_of(model: "sentencepiece.SentencePieceProcessor") -> list[str]:
    try:
        return [model.id_to_piece(i) for i in range(model.get_piece_size())]
    except UnicodeDecodeError as error:
        raise DataError(f"SentencePiece model: a piece must be UTF-8 ({error.reason}); the file is damaged") from None


def _load_model(model: str | Path | bytes) -> "sentencepiece.SentencePieceProcessor":
    import sentencepiece  # noqa: PLC0415  # not every tokenizer needs it

    name = "tokenizer model" if isinstance(model, bytes) else str(model)
    try:
        content = model if isinstance(model, bytes) else read_bounded(Path(model), MAX_FILE_BYTES)
        # Without a model the constructor succeeds and the first use fails.
        if not content:
            raise DataError(f"{name}: must be a SentencePiece model, got an empty file")
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror})") from None
    except RuntimeError:
        raise DataError(f"{name}: must be a SentencePiece model, got something else or a damaged file") from None
