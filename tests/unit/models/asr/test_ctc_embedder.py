import pytest
import torch
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.models.asr.ctc_embedder import CtcEmbedder
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from speechnar.nn.positions import sinusoids


def make_embedder() -> CtcEmbedder:
    torch.manual_seed(0)
    return CtcEmbedder(8, vocab_size=5, blank_id=0).eval()


def peaky(path: list[list[int]], lens: list[int]) -> EncodedSpeech:
    """Posteriors whose best path is ``path``, NaN in padding."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(len(path), len(path[0]), 5, generator=generator)
    logits = logits + 6.0 * F.one_hot(torch.tensor(path), 5)
    all_lens = torch.tensor(lens)
    log_probs = logits.log_softmax(2).masked_fill(~valid_mask(all_lens, len(path[0]))[..., None], torch.nan)
    return EncodedSpeech(enc=torch.zeros(*log_probs.shape[:2], 8), lens=all_lens, log_probs=log_probs)


PATH = [[0, 1, 1, 0, 1, 2, 2, 2, 0], [3, 3, 0, 4, 0, 0, 0, 0, 0]]


def test_vectors_are_those_of_averaged_posteriors() -> None:
    embedder, speech = make_embedder(), peaky(PATH, [9, 5])
    assert speech.log_probs is not None
    cut = embedder(speech)
    spans = [[(1, 3), (4, 5), (5, 8)], [(0, 2), (3, 4)]]
    assert cut.lens.tolist() == [3, 2]
    for row, pairs in enumerate(spans):
        assert list(zip(cut.starts[row].tolist(), cut.ends[row].tolist(), strict=True))[: len(pairs)] == pairs
        for u, (start, end) in enumerate(pairs):
            mean = speech.log_probs[row, start:end].exp().mean(0)
            x = F.relu(embedder.norm(embedder.proj(mean)))
            expected = x * 8**0.5 + sinusoids(torch.tensor([u]), 8)[0]
            torch.testing.assert_close(cut.embeds[row, u], expected)
    assert not cut.embeds[1, 2:].any()


def test_the_reference_is_aligned_and_posteriors_learn() -> None:
    embedder, speech = make_embedder(), peaky(PATH, [9, 5])
    best = embedder(speech)
    given = embedder(speech, torch.tensor([[1, 1, 2], [3, 4, -7]]), torch.tensor([3, 2]))
    torch.testing.assert_close(given.embeds, best.embeds)
    other = embedder(speech, torch.tensor([[1, 2], [4, 4]]), torch.tensor([2, 1]))
    assert other.lens.tolist() == [2, 1]
    assert other.starts[1].tolist() == [3, 0]
    logits = torch.randn(1, 6, 5).requires_grad_()
    learning = EncodedSpeech(enc=torch.zeros(1, 6, 8), lens=torch.tensor([6]), log_probs=logits.log_softmax(2))
    embedder(learning, torch.tensor([[2, 3]]), torch.tensor([2])).embeds.sum().backward()
    assert logits.grad is not None
    assert logits.grad.abs().sum() > 0


def test_nothing_to_embed() -> None:
    embedder, speech = make_embedder(), peaky([[0, 0, 0]], [3])
    cut = embedder(speech)
    assert cut.lens.tolist() == [0]
    assert cut.embeds.shape == (1, 1, 8)
    assert not cut.embeds.any()
    crowded = embedder(speech, torch.tensor([[1, 1, 1, 1]]), torch.tensor([4]))  # does not fit three frames
    assert crowded.embeds.isfinite().all()


def test_posteriors_are_required() -> None:
    with pytest.raises(ConfigError, match="CTC loss"):
        make_embedder()(EncodedSpeech(enc=torch.zeros(1, 3, 8), lens=torch.tensor([3])))
