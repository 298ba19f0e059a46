import pytest
import torch
from torch import nn

from speechnar.decode.align import viterbi_align
from speechnar.nn import ctc
from speechnar.nn.ctc import CtcHead, CtcPosteriors, fits

TOKENS = torch.tensor([[3, 3, 5, 3], [6, 1, -9, 99], [1, 2, 1, 2], [2, 2, 2, 2]])
TOKEN_LENS = torch.tensor([4, 2, 4, 4])
ENC_LENS = torch.tensor([9, 5, 7, 6])  # the last text needs 7 frames


def make(blank_id=0):
    torch.manual_seed(0)
    head = CtcHead(4, 8, blank_id=blank_id)
    enc = torch.randn(4, 9, 4)
    enc[1, 5:] = torch.inf  # padding may hold anything
    return head, enc


@pytest.mark.parametrize(("blank_id", "at_once"), [(0, 8), (7, 8 * 5), (4, 2**18)])
def test_nats_without_all_log_probabilities(monkeypatch, blank_id, at_once):
    monkeypatch.setattr(ctc, "LOGITS_AT_ONCE", at_once)
    head, enc = make(blank_id)
    tokens = TOKENS.clamp(0, 6)
    found = []
    for loss in (
        lambda x: head.loss(head(x), ENC_LENS, tokens, TOKEN_LENS),
        lambda x: head.nats(x, ENC_LENS, TOKENS if blank_id else tokens, TOKEN_LENS),
    ):
        head.zero_grad()
        x = enc.nan_to_num(posinf=1.0).requires_grad_()
        nats = loss(x)
        (nats * torch.tensor([1.0, 2.0, 0.5, 1.0])).sum().backward()
        found.append((nats, x.grad, head.proj.weight.grad, head.proj.bias.grad))
    for naive, quick in zip(*found, strict=True):
        torch.testing.assert_close(quick, naive, atol=1e-5, rtol=1e-4)
    assert found[1][0][3] == 0 and not fits(ENC_LENS, TOKENS, TOKEN_LENS)[3]
    assert found[1][0][:3].gt(0).all()


def test_padding_of_frames_counts_for_nothing():
    head, enc = make()
    nats = head.nats(enc, ENC_LENS, TOKENS, TOKEN_LENS)
    torch.testing.assert_close(nats, head.nats(enc.nan_to_num(posinf=3.0), ENC_LENS, TOKENS, TOKEN_LENS))
    nothing = head.nats(enc[:1], ENC_LENS[:1], TOKENS[:1, :0], torch.tensor([0]))  # an empty text is all blanks
    torch.testing.assert_close(nothing, -head(enc[:1])[:, :, 0].sum(1))


@torch.no_grad()
def test_alignment_by_visited_classes_and_the_best_class():
    head, enc = make()
    enc = enc.nan_to_num(posinf=1.0)
    visited = head.visit(enc, TOKENS, TOKEN_LENS)
    quick = viterbi_align(visited.logits, ENC_LENS, visited.classes, TOKEN_LENS, 0)
    naive = viterbi_align(head(enc), ENC_LENS, TOKENS, TOKEN_LENS, 0)
    assert torch.equal(quick.possible, naive.possible) and naive.possible.tolist() == [True, True, True, False]
    names = visited.names.gather(1, quick.labels)
    assert torch.equal(names[:3], naive.labels[:3])
    assert torch.equal(head.best(enc), head(enc).argmax(-1))


@pytest.mark.parametrize("at_once", [1, 5, 128])
def test_best_classes_without_all_log_probabilities(monkeypatch, at_once):
    monkeypatch.setattr(ctc, "FRAMES_AT_ONCE", at_once)
    monkeypatch.setattr(ctc, "LOGITS_AT_ONCE", 8)
    head, enc = make()
    enc = enc.nan_to_num(posinf=1.0)
    naive = head(enc).detach()
    picked = torch.tensor([6, 0])
    best = CtcPosteriors(head, enc).best(picked)
    assert torch.equal(best.classes, naive.argmax(2))
    torch.testing.assert_close(best.scores, naive.amax(2))
    torch.testing.assert_close(best.picked, naive[..., picked])
    assert CtcPosteriors(head, enc).best().picked.shape == (4, 9, 0)
    assert not best.scores.requires_grad


@pytest.mark.parametrize("at_once", [2, 128])
def test_probabilities_are_fed_on_without_all_of_them(monkeypatch, at_once):
    monkeypatch.setattr(ctc, "FRAMES_AT_ONCE", at_once)
    monkeypatch.setattr(ctc, "LOGITS_AT_ONCE", 8)
    head, enc = make()
    enc, layer = enc.nan_to_num(posinf=1.0), nn.Linear(8, 3)
    naive = layer(head(enc).exp())
    with torch.no_grad():
        torch.testing.assert_close(CtcPosteriors(head, enc).fed_into(layer), naive)
    learnt = CtcPosteriors(head, enc).fed_into(layer)
    assert torch.equal(learnt, naive) and learnt.requires_grad


def test_log_probabilities_can_be_asked_for_behind_inference_mode():
    head, enc = make()
    enc = enc.nan_to_num(posinf=1.0)
    with torch.inference_mode():
        posteriors = CtcPosteriors(head, enc * 1.0)
    assert posteriors.log_probs is posteriors.log_probs
    assert torch.equal(posteriors.log_probs, head(enc))
    with torch.no_grad():
        assert not CtcPosteriors(head, enc).log_probs.requires_grad
    assert CtcPosteriors(head, enc).log_probs.requires_grad


@pytest.mark.parametrize("num_classes", [1, 255, 256, 257, 1000, 1024])
def test_the_best_class_is_the_first_of_equals(num_classes):
    logits = torch.randint(0, 5, (9, num_classes), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(ctc.best_class(logits), logits.argmax(1))
    logits[0] = -torch.inf
    assert ctc.best_class(logits)[0] == 0
