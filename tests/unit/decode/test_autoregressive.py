import pytest
import torch

from speechnar.decode.autoregressive import greedy_search

SOS, EOS = 0, 1


class TableStep:
    """Log-probabilities that depend on the utterance and the whole history, by a table of random numbers."""

    def __init__(self, batch, vocab, seed=0):
        self.batch = batch
        self.vocab = vocab
        self.seed = seed
        self.histories = None

    def log_probs(self, utterance, history):
        key = hash((self.seed, utterance, tuple(history)))
        return torch.randn(self.vocab, generator=torch.Generator().manual_seed(key)).mul(2).log_softmax(0)

    def __call__(self, tokens, rows):
        past = [[] for _ in tokens] if self.histories is None else self.histories
        if rows is not None:
            past = [past[row] for row in rows.tolist()]
        self.histories = [[*history, token] for history, token in zip(past, tokens.tolist(), strict=True)]
        per_utterance = len(tokens) // self.batch
        return torch.stack([self.log_probs(n // per_utterance, h[1:]) for n, h in enumerate(self.histories)])


def walk(step, utterance, max_len, min_len=0):
    """Decode one utterance greedily, one token at a time."""
    tokens, total = [], 0.0
    while len(tokens) < max_len:
        log_probs = step.log_probs(utterance, tokens)
        if len(tokens) < min_len:
            log_probs[EOS] = -torch.inf
        best = int(log_probs.argmax())
        total += float(log_probs[best])
        if best == EOS:
            break
        tokens.append(best)
    return tokens, total


@pytest.mark.parametrize("min_len", [0, 4])
def test_greedy_search_takes_the_best_token_again_and_again(min_len):
    max_lens = torch.tensor([9, 2, 12, 1, 9])
    min_lens = torch.full((5,), min_len).minimum(max_lens) if min_len else None
    decoded = greedy_search(TableStep(5, 6), max_lens, sos_id=SOS, eos_id=EOS, min_lens=min_lens)
    for b, max_len in enumerate(max_lens.tolist()):
        tokens, total = walk(TableStep(5, 6), b, max_len, min(min_len, max_len))
        assert decoded.tokens[b, : decoded.lens[b]].tolist() == tokens
        assert float(decoded.totals[b]) == pytest.approx(total, abs=1e-5)
        assert (decoded.tokens[b, decoded.lens[b] :] == EOS).all()
        assert not decoded.token_scores[b, decoded.lens[b] :].any()
    assert decoded.tokens.size(1) == decoded.lens.max()
    assert {0, 2, 12} & set(decoded.lens.tolist()) or min_len  # short, cut off and long ones are among them


def test_nothing_is_decoded_where_nothing_may_be():
    decoded = greedy_search(TableStep(2, 6), torch.tensor([0, 0]), sos_id=SOS, eos_id=EOS)
    assert decoded.tokens.shape == (2, 0) and decoded.lens.tolist() == [0, 0] and decoded.totals.tolist() == [0, 0]
