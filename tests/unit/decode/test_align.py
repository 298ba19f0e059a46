import math

import pytest
import torch

from speechnar.decode.align import CtcPath, WordSpan, viterbi_align, widen_words, word_spans
from speechnar.errors import ConfigError, ShapeError

BLANK = 0
PIECES = ("<blank>", "<unk>", "▁the", "▁cat", "s", "▁", "<eng>", "▁sat")


def random_batch(seed: int, batch: int = 6, vocab: int = 4):
    """Few labels, so that repeats are common; lengths always leave room for a path."""
    generator = torch.Generator().manual_seed(seed)
    token_lens = torch.randint(1, 6, (batch,), generator=generator)
    tokens = torch.randint(1, vocab, (batch, 6), generator=generator)
    lens = 2 * token_lens + torch.randint(0, 12, (batch,), generator=generator)
    log_probs = torch.randn(batch, int(lens.max()) + 2, vocab, generator=generator).mul(2).log_softmax(-1)
    for i in range(batch):
        log_probs[i, lens[i] :] = torch.nan
        tokens[i, token_lens[i] :] = -1
    return log_probs, lens, tokens, token_lens


@pytest.mark.parametrize("seed", range(12))
def test_equals_torchaudio_with_nan_padding(seed):
    forced_align = pytest.importorskip("torchaudio").functional.forced_align
    log_probs, lens, tokens, token_lens = random_batch(seed)
    found = viterbi_align(log_probs, lens, tokens, token_lens, BLANK)
    assert found.possible.all()
    for i, (num_frames, num_tokens) in enumerate(zip(lens.tolist(), token_lens.tolist(), strict=True)):
        labels, scores = forced_align(
            log_probs[i : i + 1, :num_frames].contiguous(), tokens[i : i + 1, :num_tokens].contiguous(), blank=BLANK
        )
        assert found.labels[i, :num_frames].tolist() == labels[0].tolist()
        assert (found.labels[i, num_frames:] == BLANK).all()
        torch.testing.assert_close(found.scores[i], scores.sum())


def test_spans_cover_the_labels_of_each_token():
    log_probs, lens, tokens, token_lens = random_batch(seed=3)
    found = viterbi_align(log_probs, lens, tokens, token_lens, BLANK)
    for i, path in enumerate(found.paths()):
        assert path.tokens == tokens[i, : token_lens[i]].tolist()
        rebuilt = [BLANK] * log_probs.size(1)
        for token, start, end, score in zip(path.tokens, path.starts, path.ends, path.scores, strict=True):
            assert rebuilt[start:end] == [BLANK] * (end - start) != []
            rebuilt[start:end] = [token] * (end - start)
            assert score == pytest.approx(log_probs[i, start:end, token].mean().item(), abs=1e-5)
        assert rebuilt == found.labels[i].tolist()


@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_accepts_other_dtypes(dtype, index_dtype):
    log_probs, lens, tokens, token_lens = random_batch(seed=1)
    # bfloat16 input is exact in float32: both must take the same decisions.
    log_probs = log_probs.to(dtype)
    found = viterbi_align(log_probs, lens.to(index_dtype), tokens.to(index_dtype), token_lens.to(index_dtype), BLANK)
    expected = viterbi_align(log_probs.double(), lens, tokens, token_lens, BLANK)
    assert torch.equal(found.labels, expected.labels)


def test_lengths_without_a_path_are_flagged():
    log_probs = torch.zeros(4, 3, 3).log_softmax(-1)
    tokens = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 2, 1], [1, 2, 1]])
    found = viterbi_align(log_probs, torch.tensor([3, 2, 3, 2]), tokens, torch.tensor([2, 2, 3, 3]), BLANK)
    assert found.possible.tolist() == [True, False, True, False]  # a repeat needs a frame of blank between
    assert found.labels.tolist() == [[1, 0, 1], [0, 0, 0], [1, 2, 1], [0, 0, 0]]
    assert found.scores[1] == found.scores[3] == -torch.inf
    assert found.starts[1].tolist() == found.ends[1].tolist() == [0, 0, 0]
    assert found.paths()[1] == CtcPath([], [], [], [], -math.inf)


def test_no_tokens_and_no_frames():
    log_probs = torch.tensor([0.25, 0.75]).log().expand(3, 2, 2)
    tokens, token_lens = torch.ones(3, 1, dtype=torch.long), torch.tensor([0, 0, 1])
    found = viterbi_align(log_probs, torch.tensor([2, 0, 0]), tokens, token_lens, BLANK)
    assert found.possible.tolist() == [True, True, False]
    assert found.scores.tolist() == [pytest.approx(2 * math.log(0.25)), 0.0, -math.inf]
    empty = viterbi_align(log_probs[:, :0], torch.zeros(3, dtype=torch.long), tokens[:, :0], token_lens * 0, BLANK)
    assert empty.possible.all() and empty.labels.shape == (3, 0)


def test_forbidden_and_nan_frames_are_impossible():
    log_probs = torch.zeros(2, 2, 3).log_softmax(-1).clone()
    log_probs[0, :, 1] = -torch.inf
    log_probs[1] = torch.nan
    found = viterbi_align(log_probs, torch.tensor([2, 2]), torch.tensor([[1], [1]]), torch.tensor([1, 1]), BLANK)
    assert not found.possible.any() and (found.scores == -torch.inf).all()


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match=r"log_probs \(B, T, V\)"):
        viterbi_align(torch.zeros(1, 2, 3), torch.tensor([2]), torch.tensor([1]), torch.tensor([1]), BLANK)


def path_of(tokens: list[int], starts: list[int]) -> CtcPath:
    return CtcPath(tokens, starts, [start + 1 for start in starts], [math.log(0.5)] * len(tokens), 0.0)


def test_words_begin_at_word_start_pieces_and_skip_specials():
    path = path_of([6, 2, 5, 3, 4, 1, 7], [0, 1, 3, 5, 6, 8, 9])
    words = word_spans(path, PIECES, frame_shift_s=0.1, offset_s=10.0)
    assert [word.word for word in words] == ["the", "cats", "sat"]
    assert [(round(w.start_s, 6), round(w.end_s, 6)) for w in words] == [(10.1, 10.2), (10.5, 10.7), (10.9, 11.0)]
    assert all(word.probability == pytest.approx(0.5) for word in words)


def test_word_start_piece_of_its_own_joins_the_next_piece():
    assert [w.word for w in word_spans(path_of([5, 4], [1, 2]), PIECES, frame_shift_s=1.0)] == ["s"]
    assert word_spans(path_of([], []), PIECES, frame_shift_s=1.0) == []


def test_a_lone_word_sign_does_not_begin_the_word():
    pieces = ["<blank>", "▁", "a", "b"]
    (word,) = word_spans(path_of([1, 2, 3], [2, 5, 6]), pieces, frame_shift_s=1.0)
    assert (word.word, word.start_s) == ("ab", 5.0)


def test_widened_words_share_the_gap():
    words = [WordSpan("a", 1.0, 1.1, 1.0), WordSpan("b", 1.5, 1.6, 1.0), WordSpan("c", 4.0, 4.1, 1.0)]
    wide = widen_words(words, duration_s=4.2, max_lead_s=0.3, max_tail_s=0.4, tail_share=0.75)
    expected = [(0.7, 1.4), (1.4, 2.0), (3.7, 4.2)]
    assert [(word.start_s, word.end_s) for word in wide] == [pytest.approx(times) for times in expected]
    assert widen_words([], duration_s=1.0) == []


def test_widened_words_stay_inside_the_recording():
    words = [WordSpan("a", 0.9, 1.3, 1.0), WordSpan("b", 1.4, 1.5, 1.0)]
    wide = widen_words(words, duration_s=1.0, max_lead_s=0.0)
    assert [(word.start_s, word.end_s) for word in wide] == [(0.9, 1.0), (1.0, 1.0)]
    with pytest.raises(ConfigError, match="tail_share"):
        widen_words([], duration_s=1.0, tail_share=2.0)
