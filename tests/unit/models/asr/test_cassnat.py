import pytest
import torch
from torch.nn import functional as F

from speechnar.decode.esa import sample_segments
from speechnar.decode.segments import Segments
from speechnar.errors import ConfigError
from speechnar.models.asr import alignment_ranking
from speechnar.models.asr.cassnat import CassNatHead, CassNatHeadConfig
from speechnar.models.asr.transformer_ar import TransformerArHead, TransformerArHeadConfig
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from tests.contracts import check_gradients_reach_all

DIM, VOCAB, BLANK, SOS, EOS = 16, 12, 0, 10, 11
TINY = CassNatHeadConfig(
    num_self_layers=1, num_mixed_layers=2, num_heads=2, ff_dim=32, embedder_ff_dim=32, inter_ce_layer=2
)


def build(config=TINY, *, seed=0):
    torch.manual_seed(seed)
    head = CassNatHead(config, DIM, vocab_size=VOCAB, sos_id=SOS, eos_id=EOS, blank_id=BLANK).eval()
    for name, parameter in head.named_parameters():
        if parameter.dim() == 1:  # biases start at 0 and hide sign and order mistakes
            torch.nn.init.normal_(parameter, std=0.3, mean=1.0 if "norm" in name and "weight" in name else 0.0)
    return head


def speech_of(lens, *, seed=1, num_frames=None):
    torch.manual_seed(seed)
    num_frames = num_frames or max(lens)
    enc, log_probs = torch.randn(len(lens), num_frames, DIM), 3 * torch.randn(len(lens), num_frames, VOCAB)
    log_probs[..., [SOS, EOS]] -= 20.0
    lens = torch.tensor(lens)
    padding = ~valid_mask(lens, num_frames)[..., None]
    return EncodedSpeech(
        enc=enc.masked_fill(padding, torch.nan),
        lens=lens,
        log_probs=log_probs.log_softmax(-1).masked_fill(padding, torch.nan),
    )


def one(speech, i):
    n = int(speech.lens[i])
    return EncodedSpeech(
        enc=speech.enc[i : i + 1, :n], lens=speech.lens[i : i + 1], log_probs=speech.log_probs[i : i + 1, :n]
    )


TOKENS = torch.tensor([[1, 2, 2, 5, 7], [3, 4, -1, 99, 0], [8, 0, 0, 0, 0], [0, 0, 0, 0, 0]])
TOKEN_LENS = torch.tensor([5, 2, 1, 0])
LENS = [19, 9, 1, 6]


@pytest.mark.parametrize("conv_norm", ["group", "layer"])
@torch.no_grad()
def test_batch_equals_single_and_padding_may_be_nan(conv_norm):
    head = build(TINY.model_copy(update={"conv_norm": conv_norm}))
    speech = speech_of(LENS)
    whole = head.decode(speech)
    losses = [head.loss(one(speech, i), TOKENS[i : i + 1], TOKEN_LENS[i : i + 1]) for i in range(4)]
    batch = head.loss(speech, TOKENS, TOKEN_LENS)
    assert float(batch.weight) == 4
    for name in ("ce", "inter_ce"):
        torch.testing.assert_close(batch.parts[name], torch.stack([loss.parts[name] for loss in losses]).mean())
    for i, path in enumerate(whole):
        (alone,) = head.decode(one(speech, i))
        assert (alone.tokens, alone.starts, alone.ends) == (path.tokens, path.starts, path.ends)
        assert alone.total == pytest.approx(path.total, abs=1e-4)
    assert len({len(path.tokens) for path in whole}) > 1


@torch.no_grad()
def test_an_impossible_utterance_counts_zero():
    head = build()
    speech = speech_of([19, 4])
    tokens, token_lens = torch.tensor([[1, 2, 2, 5, 7], [1, 2, 2, 5, 7]]), torch.tensor([5, 5])
    both, first = head.loss(speech, tokens, token_lens), head.loss(one(speech, 0), tokens[:1], token_lens[:1])
    torch.testing.assert_close(both.total, first.total / 2)
    assert float(both.parts["unfit"]) == 0.5


def test_gradients_reach_all_but_the_alignment():
    head = build().train()
    speech = speech_of([19, 9])
    speech = EncodedSpeech(
        enc=speech.enc.nan_to_num().requires_grad_(), lens=speech.lens, log_probs=speech.log_probs.requires_grad_()
    )
    # Three slots of a segment that sees one frame have no use for a query; the others do.
    check_gradients_reach_all(head, head.loss(speech, TOKENS[:2], TOKEN_LENS[:2]).total)
    assert speech.log_probs.grad is None
    assert speech.enc.grad[0].abs().sum(-1).gt(0).all()
    assert speech.enc.grad[1, 9:].abs().sum() == 0


def test_an_impossible_utterance_leaves_gradients_finite():
    head = build().train()
    head.loss(speech_of([4, 3]), TOKENS[[0, 0]], TOKEN_LENS[[0, 0]]).total.backward()
    assert all(p.grad is None or p.grad.abs().sum() == 0 for p in head.parameters())


@torch.no_grad()
def test_decode_reports_emission_frames_and_stops_at_the_end():
    head = build()
    labels = torch.tensor([[0, 4, 4, 0, 5, 0, 0, 6]])
    speech = EncodedSpeech(
        enc=torch.randn(1, 8, DIM), lens=torch.tensor([8]), log_probs=F.one_hot(labels, VOCAB).float().log()
    )
    head.out.bias[EOS] = -100.0
    (path,) = head.decode(speech)
    assert len(path.tokens) == 4  # no slot named the end: the last one is a token as well
    assert path.starts == [1, 4, 7, 7]
    assert path.ends == [3, 5, 8, 8]
    assert path.total == pytest.approx(sum(path.scores), abs=1e-5)
    assert not {BLANK, SOS, EOS} & set(path.tokens)
    head.out.bias[EOS] = 100.0
    (path,) = head.decode(speech)
    assert path.tokens == [] and path.total == pytest.approx(0.0, abs=1e-5)


@torch.no_grad()
def test_one_sample_or_certain_frames_give_the_best_path():
    head, speech = build(), speech_of(LENS)
    best = head.decode(speech)
    assert head.decode(speech, num_alignments=1) == best
    for path, sampled in zip(best, head.decode(speech, num_alignments=9, threshold=0.0), strict=True):
        assert (path.tokens, path.starts, path.ends) == (sampled.tokens, sampled.starts, sampled.ends)
        assert path.total == pytest.approx(sampled.total, abs=1e-4)


@torch.no_grad()
def test_sampling_equals_decoding_and_ranking_one_alignment_at_a_time(monkeypatch):
    """The independent implementation: no sharing of frames, one alignment a call, the full CTC loss."""
    monkeypatch.setattr(alignment_ranking, "ALIGNMENTS_AT_ONCE", 4)
    head, speech = build(), speech_of(LENS)
    options = {"num_alignments": 12, "threshold": 0.95}
    found = head.decode(speech, **options)
    assert found != head.decode(speech)
    for i, path in enumerate(found):
        alone = one(speech, i)
        sampled = sample_segments(alone.log_probs, alone.lens, BLANK, **options)
        candidates = []
        for row in range(len(sampled.utterance_index)):
            segments = Segments(**{name: column[row : row + 1] for name, column in vars(sampled.segments).items()})
            (candidate,) = head._name(head.decode_slots(alone, segments)[0], segments).paths()
            tokens = torch.tensor([candidate.tokens], dtype=torch.long)
            losses = F.ctc_loss(alone.log_probs[0], tokens[0], alone.lens[0], torch.tensor(len(candidate.tokens)))
            score = -float(losses) * max(1, len(candidate.tokens))  # the mean divides by the number of tokens
            candidates.append((score, candidate))
        _, best = max(candidates, key=lambda item: item[0])
        assert (path.tokens, path.starts, path.ends) == (best.tokens, best.starts, best.ends)
        assert path.total == pytest.approx(best.total, abs=1e-4)
        (single,) = head.decode(alone, **options)
        assert single.tokens == path.tokens


@torch.no_grad()
def test_a_ranker_chooses_by_its_score_per_slot():
    head, speech = build(), speech_of(LENS[:2])
    seen = []

    def ranker(speech, utterance_index, tokens, token_lens):
        assert len(speech.lens) == 2
        seen.append(list(zip(utterance_index.tolist(), tokens.tolist(), token_lens.tolist(), strict=True)))
        return -(token_lens + 11.0)  # the best in total is the shortest, the best per slot the longest

    found = head.decode(speech, num_alignments=20, threshold=1.0, ranker=ranker)
    texts = [(i, tuple(tokens[:n])) for i, tokens, n in seen[0]]
    assert len(set(texts)) == len(texts) > 2
    for i, path in enumerate(found):
        assert (i, tuple(path.tokens)) in texts
        assert len(path.tokens) == max(len(text) for row, text in texts if row == i)


@torch.no_grad()
def test_the_autoregressive_head_ranks():
    head, speech = build(), speech_of(LENS[:2])
    speech = EncodedSpeech(enc=speech.enc.nan_to_num(), lens=speech.lens, log_probs=speech.log_probs)
    torch.manual_seed(4)
    judge = TransformerArHead(
        TransformerArHeadConfig.debug(), DIM, vocab_size=VOCAB, sos_id=SOS, eos_id=EOS, blank_id=BLANK
    ).eval()
    found = head.decode(speech, num_alignments=16, threshold=1.0, ranker=judge.score)
    index, plain = torch.arange(2), head.decode(speech)
    lens = [torch.tensor([len(path.tokens) for path in paths]) for paths in (found, plain)]
    tokens = [
        torch.nn.utils.rnn.pad_sequence([torch.tensor(path.tokens, dtype=torch.long) for path in paths], True)
        for paths in (found, plain)
    ]
    chosen, best_path = (judge.score(speech, index, t, n) / (n + 1) for t, n in zip(tokens, lens, strict=True))
    assert (chosen >= best_path - 1e-5).all() and (chosen > best_path + 1e-3).any()


@pytest.mark.slow
def test_a_tiny_head_memorises_two_utterances_under_autocast():
    head = build(TINY.model_copy(update={"dropout": 0.0, "attention_dropout": 0.0})).train()
    speech = speech_of([24, 15])
    labels = torch.zeros(2, 24, dtype=torch.long)
    targets = ([3, 3, 5, 1, 7], [9, 2, 4])
    for row, target in enumerate(targets):  # a CTC that is right about where tokens are but not about which
        labels[row, 2 : 2 + 3 * len(target) : 3] = torch.tensor([8, 6, 8, 6, 8][: len(target)])
    log_probs = (F.one_hot(labels, VOCAB) * 6.0).log_softmax(-1)
    speech = EncodedSpeech(enc=speech.enc, lens=speech.lens, log_probs=log_probs)
    tokens = torch.tensor([[3, 3, 5, 1, 7], [9, 2, 4, 0, 0]])
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(150):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = head.loss(speech, tokens, torch.tensor([5, 3]))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    assert loss.total.dtype == torch.float32
    head.eval()
    assert tuple(path.tokens for path in head.decode(speech)) == targets


def test_messages():
    with pytest.raises(ConfigError, match=r"EncodedSpeech\.log_probs"):
        build().decode(EncodedSpeech(enc=torch.zeros(1, 2, DIM), lens=torch.tensor([2])))
    with pytest.raises(ConfigError, match="eos"):
        CassNatHead(TINY, DIM, vocab_size=12, sos_id=1, eos_id=0, blank_id=0)
    with pytest.raises(ConfigError, match="even model_dim"):
        CassNatHead(TINY, 15, vocab_size=12, sos_id=1, eos_id=2, blank_id=0)
    with pytest.raises(ValueError, match="inter_ce_layer"):
        CassNatHeadConfig(num_self_layers=1, num_mixed_layers=1, inter_ce_layer=2)
