"""Models made of pieces against the models that the pieces are of."""

import json

import pytest
import sentencepiece

from speechnar.errors import DataError
from speechnar.text.sentencepiece_model import build_sentencepiece, read_tokenizer_json
from speechnar.text.tokenizer import SentencePieceTokenizer
from tests.unit.tiny import TEXTS

UNSEEN = ("the dog sat home", "a  catnap,  he said ", "good day é", " ")


def train(tmp_path, model_type):
    """Return a trained processor, and its pieces and scores without what our own tokenizers add."""
    SentencePieceTokenizer.train(TEXTS, 60, model_type=model_type).save(tmp_path)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    numbers = range(model.get_piece_size())
    return model, [model.id_to_piece(i) for i in numbers], [model.get_score(i) for i in numbers]


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_model_cuts_text_as_the_one_that_its_pieces_are_of(tmp_path, model_type):
    model, pieces, scores = train(tmp_path, model_type)
    made = sentencepiece.SentencePieceProcessor(model_proto=build_sentencepiece(pieces, scores, model_type=model_type))
    for text in (*TEXTS, *UNSEEN):
        assert made.encode(text, out_type=str) == model.encode(text, out_type=str)
        assert made.decode(made.encode(text)) == model.decode(model.encode(text))


def document_of(pieces, scores, model_type):
    """Return what Hugging Face's converters make of a SentencePiece model, with padding added."""
    if model_type == "bpe":
        ranks = {piece: -score for piece, score in zip(pieces, scores, strict=True)}
        cuts = [(piece[:i], piece[i:]) for piece in pieces for i in range(1, len(piece)) if piece != "<unk>"]
        merges = sorted((cut for cut in cuts if set(cut) <= set(pieces)), key=lambda cut: ranks["".join(cut)])
        model = {"type": "BPE", "vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": merges}
    else:
        model = {"type": "Unigram", "vocab": list(zip(pieces, scores, strict=True)), "unk_id": 0}
    added = [
        {"id": 0, "content": "<unk>", "special": True},
        {"id": len(pieces), "content": "<pad>", "special": True},
    ]
    return {"added_tokens": added, "model": model}


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
def test_a_tokenizer_json_is_the_model_again(tmp_path, model_type):
    model, pieces, scores = train(tmp_path, model_type)
    document = document_of(pieces, scores, model_type)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document))
    ids, content = read_tokenizer_json(path)
    assert ids == {**{piece: i for i, piece in enumerate(pieces)}, "<pad>": len(pieces)}
    made = sentencepiece.SentencePieceProcessor(model_proto=content)
    for text in (*TEXTS, *UNSEEN):
        assert made.encode(text) == model.encode(text)
    if model_type == "bpe":  # as older files have it
        document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
        path.write_text(json.dumps(document))
        assert read_tokenizer_json(path) == (ids, content)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[", "must be the tokenizer.json of a SentencePiece model"),
        ({"model": {"type": "WordPiece", "vocab": {}}}, "must be the tokenizer.json"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 2}, "merges": []}}, "must be the tokenizer.json"),
        ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "must hold <unk> among its pieces"),
        ({"model": {"type": "BPE", "vocab": {"<unk>": 0, "<0x00>": 1}, "merges": []}}, "and no bytes"),
    ],
)
def test_other_files_are_refused(tmp_path, document, message):
    path = tmp_path / "tokenizer.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    with pytest.raises(DataError, match=message):
        read_tokenizer_json(path)
