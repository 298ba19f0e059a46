"""SentencePiece models made of a list of pieces, where another toolkit kept the pieces and not the model.

Pieces are all that byte-pair encoding needs besides their order: of all neighbours that together are a piece, the one
that was learnt first is joined first.

Source: ``sentencepiece_model.proto`` of SentencePiece; Sennrich et al., "Neural Machine Translation of Rare Words with
Subword Units", 2016, section 3.2.
"""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from speechnar.errors import DataError
from speechnar.files import regular
from speechnar.text.tokenizer import UNK

_MODEL_TYPES = {"unigram": 1, "bpe": 2}
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_BYTE = "<0x00>"


def build_sentencepiece(
    pieces: Sequence[str],
    scores: Sequence[float],
    *,
    model_type: Literal["unigram", "bpe"] = "bpe",
    controls: Iterable[str] = (),
) -> bytes:
    """Return a SentencePiece model: spaces are ``▁``, one stands before the text, runs of them count as one.

    Args:
        pieces: of the model, in the order of its ids; ``<unk>`` among them.
        scores: of each piece: log-probabilities or, with ``bpe``, what is joined first is the highest.
        model_type: how text is cut.
        controls: pieces that no text is cut into.
    """
    kinds = {UNK: _UNKNOWN, **dict.fromkeys(controls, _CONTROL)}
    model = b"".join(
        _field(1, _field(1, piece.encode("utf-8")) + _real(2, score) + _number(3, kinds.get(piece, _NORMAL)))
        for piece, score in zip(pieces, scores, strict=True)
    )
    trainer = _number(3, _MODEL_TYPES[model_type]) + _number(4, len(pieces)) + _number(40, pieces.index(UNK))
    normalizer = _field(1, b"identity") + _number(3, 1) + _number(4, 1) + _number(5, 1)
    return model + _field(2, trainer) + _field(3, normalizer)


def read_tokenizer_json(path: str | Path) -> tuple[dict[str, int], bytes]:
    """Read the pieces of a Hugging Face ``tokenizer.json`` that was made of a SentencePiece model.

    Returns:
        every piece with its id, those included that were added to the model; and the model again, which cuts text into
        the same pieces, up to the normalisation of characters.

    Raises:
        DataError: it is no such file, or spells unknown characters in bytes.
    """
    try:
        document = json.loads(regular(path).read_text(encoding="utf-8"))
        model, added = document["model"], document.get("added_tokens") or []
        specials = [str(token["content"]) for token in added if token.get("special")]
        outside: dict[str, int] = {token["content"]: token["id"] for token in added}
        pieces, scores, kind = _pieces_of(model)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: must be the tokenizer.json of a SentencePiece model ({type(error).__name__})"
        ) from None
    if UNK not in pieces or _BYTE in pieces:
        raise DataError(f"{path}: must hold {UNK} among its pieces, and no bytes")
    ids = {piece: number for number, piece in enumerate(pieces)} | outside
    controls = [piece for piece in specials if piece != UNK]
    return ids, build_sentencepiece(pieces, scores, model_type=kind, controls=controls)


def _pieces_of(model: Mapping[str, Any]) -> tuple[list[str], list[float], Literal["unigram", "bpe"]]:
    """Return the pieces of a model in the order of their ids, their scores, and how it cuts text."""
    if model.get("type") == "Unigram":
        return [str(piece) for piece, _ in model["vocab"]], [float(score) for _, score in model["vocab"]], "unigram"
    if model.get("type", "BPE") != "BPE":
        raise ValueError("neither BPE nor Unigram")
    by_id = sorted((number, str(piece)) for piece, number in model["vocab"].items())
    if [number for number, _ in by_id] != list(range(len(by_id))):
        raise ValueError("ids with gaps")
    joined = ["".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]]
    ranks = {piece: rank for rank, piece in enumerate(dict.fromkeys(joined))}
    return [piece for _, piece in by_id], [-float(ranks.get(piece, len(ranks))) for _, piece in by_id], "bpe"


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _real(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)
