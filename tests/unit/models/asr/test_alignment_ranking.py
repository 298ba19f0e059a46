"""One of several alignments is kept, by a ranker or by CTC."""

import torch
from torch.nn import functional as F

from speechnar.decode.esa import NamedSlots, best_tokens, name_slots
from speechnar.decode.segments import path_segments
from speechnar.models.asr.alignment_ranking import ALIGNMENTS_AT_ONCE, choose, name_in_parts
from speechnar.nn.embedder import EncodedSpeech


def named(texts: list[list[int]]) -> NamedSlots:
    """Return alignments that name these texts; ``starts`` tells them apart."""
    width = max(map(len, texts)) + 1
    tokens = torch.tensor([[*text, *[9] * (width - len(text))] for text in texts])
    numbers = torch.arange(len(texts))[:, None].expand(-1, width)
    return NamedSlots(
        tokens=tokens,
        token_lens=torch.tensor([len(text) for text in texts]),
        starts=numbers,
        ends=numbers + 1,
        scores=torch.zeros(len(texts), width),
        totals=torch.zeros(len(texts)),
    )


def test_a_ranker_chooses_by_its_score_per_slot():
    """The longer text is less probable, and more so than the shorter one for each of its slots."""
    texts = [[5], [5, 6, 7], [8], [8], [6, 6]]
    index = torch.tensor([0, 0, 1, 1, 1])
    known = {(0, 5): -2.0, (0, 5, 6, 7): -3.6, (1, 8): -3.0, (1, 6, 6): -4.8}
    asked = []

    def ranker(speech, utterance_index, tokens, token_lens):
        rows = zip(utterance_index.tolist(), tokens.tolist(), token_lens.tolist(), strict=True)
        asked.extend((utterance, *row[:size]) for utterance, row, size in rows)
        return torch.tensor([known[row] for row in asked])

    speech = EncodedSpeech(enc=torch.zeros(2, 4, 3), lens=torch.tensor([4, 4]))
    kept = choose(named(texts), speech, index, ranker=ranker, blank_id=0)
    assert kept.starts[:, 0].tolist() == [1, 2]  # -0.9 against -1; -1.5 against -1.6, the first of two alike
    assert [path.tokens for path in kept.paths()] == [[5, 6, 7], [8]]
    assert sorted(asked) == sorted(known), "what alignments have in common is scored once"


def test_without_a_ranker_ctc_chooses():
    torch.manual_seed(0)
    log_probs = torch.randn(2, 9, 10).log_softmax(2)
    lens, index = torch.tensor([9, 7]), torch.tensor([0, 0, 0, 1, 1, 1])
    texts = [[1, 2], [3, 3, 4], [5], [6, 7], [8], [1, 1, 1, 1, 1, 1]]  # the last needs more frames than there are
    log_probs[1, 7:] = torch.nan
    losses = [
        F.ctc_loss(
            log_probs[b, : lens[b], None],
            torch.tensor([text]),
            lens[b : b + 1],
            torch.tensor([len(text)]),
            reduction="sum",
        )
        for b, text in zip(index, texts, strict=True)
    ]
    best = [min(range(3), key=lambda i: losses[i]), min(range(3, 6), key=lambda i: losses[i])]
    speech = EncodedSpeech(enc=torch.zeros(2, 9, 3), lens=lens, log_probs=log_probs)
    kept = choose(named(texts), speech, index, ranker=None, blank_id=0)
    assert kept.starts[:, 0].tolist() == best
    other = EncodedSpeech(enc=torch.zeros(2, 9, 3), lens=lens, log_probs=-log_probs.nan_to_num())
    assert choose(named(texts), other, index, ranker=None, blank_id=0).starts[:, 0].tolist() != best


def test_slots_are_named_in_parts_as_all_together():
    torch.manual_seed(0)
    num = 2 * ALIGNMENTS_AT_ONCE + 3
    paths, lens = torch.randint(0, 4, (num, 12)), torch.randint(4, 13, (num,))
    segments = path_segments(paths, lens, 0)
    x = torch.randn(num, segments.starts.size(1) + 1, 6)
    out = torch.nn.Linear(6, 8)
    sizes = []

    def log_probs(part):
        sizes.append(len(part))
        return out(part).log_softmax(-1)

    found = name_in_parts(x, segments, log_probs, never=(0, 1), eos_id=2)
    assert max(sizes) == ALIGNMENTS_AT_ONCE and sum(sizes) == num
    whole = name_slots(*best_tokens(out(x).log_softmax(-1), (0, 1)), segments, eos_id=2)
    for name, column in vars(whole).items():
        torch.testing.assert_close(getattr(found, name), column)
    assert found.tokens.min() == 2
