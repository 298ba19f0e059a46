"""The text tokens of best paths, by tensor operations alone."""

import torch

from speechnar.decode.ctc import greedy
from speechnar.export.best_path import collapsed, side_by_side, silent_pieces, text_bytes
from speechnar.text.byte_pairs import BYTE_LETTERS, BytePairTokenizer
from speechnar.text.tokenizer import BLANK, SENTENCE_PIECES, UNK, SentencePieceTokenizer, task_specials
from tests.unit.tiny import MERGES, TEXTS


def byte_tokenizer():
    made = ["".join(pair) for pair in MERGES]
    pieces = [BLANK, UNK, *task_specials(("eng",)), *BYTE_LETTERS.values(), *made, *SENTENCE_PIECES]
    return BytePairTokenizer(pieces, MERGES)


def test_kept_tokens_stand_side_by_side():
    tokens = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4], [9, 9, 9, 9]])
    keep = torch.tensor([[True, False, True, False], [True] * 4, [False] * 4])
    found, lens = side_by_side(tokens, keep, fill=0)
    assert lens.tolist() == [2, 4, 0]
    assert found.tolist() == [[5, 7, 0, 0], [1, 2, 3, 4], [0] * 4]


def test_a_best_path_is_that_of_the_search():
    torch.manual_seed(0)
    log_probs, lens = (4 * torch.randn(3, 50, 6)).log_softmax(2), torch.tensor([50, 31, 1])
    is_silent = torch.tensor([False, False, True, False, True, False])
    found, num = collapsed(log_probs, lens, blank_id=2, is_silent=is_silent)
    for row, path in enumerate(greedy(log_probs, lens, 2)):
        assert found[row, : num[row]].tolist() == [token for token in path.tokens if token != 4]
        assert (found[row, num[row] :] == 2).all()


def test_pieces_are_bytes_that_join_to_the_text():
    tokenizer = byte_tokenizer()
    spelled = text_bytes(tokenizer, "⁇")
    for text in ("the cat", "你好 né", "a 😀 b"):
        ids = tokenizer.encode(text)
        assert b"".join(spelled[i] for i in ids).decode().strip() == tokenizer.decode(ids)
    assert spelled[tokenizer.unk_id].decode() == "⁇"
    assert sorted(spelled) == (~silent_pieces(tokenizer)).nonzero()[:, 0].tolist()


def test_pieces_of_words_begin_with_a_space():
    tokenizer = SentencePieceTokenizer.train(TEXTS, 60)
    spelled = text_bytes(tokenizer, "⁇")
    ids = tokenizer.encode("the cat sat")
    assert b"".join(spelled[i] for i in ids) == b" the cat sat"
