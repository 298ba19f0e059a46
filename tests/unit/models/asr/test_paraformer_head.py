"""Paraformer's decoder: its losses by their definitions, and what it writes."""

import pytest
import torch
from torch.nn import functional as F

from speechnar.models.asr.paraformer_head import (
    CifConfig,
    MwerConfig,
    ParaformerHead,
    ParaformerHeadConfig,
    draw_glances,
)
from speechnar.nn.embedder import EncodedSpeech
from speechnar.nn.lengths import valid_mask
from speechnar.nn.mwer import expected_errors, sample_hypotheses
from tests.contracts import check_gradients_reach_all

SMALL = ParaformerHeadConfig(num_layers=2, num_heads=2, ff_dim=32, dropout=0.0, attention_dropout=0.0)


def make_head(config: ParaformerHeadConfig = SMALL, *, vocab_size: int = 12) -> ParaformerHead:
    torch.manual_seed(0)
    return ParaformerHead(config, 16, vocab_size=vocab_size, sos_id=1, eos_id=2, blank_id=0)


def make_speech(lens: list[int], *, seed: int = 0) -> EncodedSpeech:
    generator = torch.Generator().manual_seed(seed)
    all_lens = torch.tensor(lens)
    enc = torch.randn(len(lens), max(lens), 16, generator=generator)
    return EncodedSpeech(enc=enc * valid_mask(all_lens, max(lens))[..., None], lens=all_lens)


def one_of(speech: EncodedSpeech, index: int) -> EncodedSpeech:
    num = int(speech.lens[index])
    return EncodedSpeech(enc=speech.enc[index : index + 1, :num], lens=speech.lens[index : index + 1])


def test_glances_are_exact_in_number_and_never_on_padding() -> None:
    is_token = valid_mask(torch.tensor([9, 4, 0, 6]), 9)
    counts = torch.tensor([5, 4, 0, 1])
    hits = torch.zeros(4, 9)
    for seed in range(300):
        torch.manual_seed(seed)
        shown = draw_glances(is_token, counts)
        assert shown.sum(1).tolist() == counts.tolist()
        assert not (shown & ~is_token).any()
        hits += shown
    assert (hits[0] / 300 - 5 / 9).abs().max() < 0.15  # five standard deviations


@pytest.mark.parametrize("count_end", [True, False])
@torch.no_grad()
def test_loss_equals_its_definition(count_end: bool) -> None:
    config = SMALL.model_copy(update={"count_end": count_end, "quantity_weight": 0.5})
    head = make_head(config).eval()
    speech = make_speech([20, 13])
    out = head.loss(speech, torch.tensor([[3, 4, 5, 6], [7, 8, -5, 99]]), torch.tensor([4, 2]))
    ce, quantity = 0.0, 0.0
    for i, row in enumerate([[3, 4, 5, 6], [7, 8]]):
        target = torch.tensor([*row, 2] if count_end else row)
        alone = one_of(speech, i)
        cut = head.embedder(alone, target[None], torch.tensor([len(target)]))
        valid = torch.ones(1, len(target), dtype=torch.bool)
        hidden = head.decoder(cut.embeds, valid, head.decoder.project(alone.enc), alone.valid[:, None, None])
        log_probs = head.output(hidden)[0].log_softmax(1)
        smoothed = 0.1 / 12 + 0.9 * F.one_hot(target, 12)
        ce += float(-(smoothed * log_probs).sum()) / 2
        quantity += abs(float(cut.alphas.sum()) - len(target)) / 2
    assert float(out.parts["ce"]) == pytest.approx(ce, rel=1e-4)
    assert float(out.parts["quantity"]) == pytest.approx(quantity, rel=1e-4)
    assert float(out.total) == pytest.approx(ce + 0.5 * quantity, rel=1e-4)
    assert float(out.weight) == 2


def test_second_pass_sees_the_reference_where_the_first_was_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    head = make_head(SMALL.model_copy(update={"glancing_ratio": 1.0})).train()
    inputs = []
    decode = head.decoder.forward

    def spy(x: torch.Tensor, *args: torch.Tensor) -> torch.Tensor:
        inputs.append(x)
        return decode(x, *args)

    monkeypatch.setattr(head.decoder, "forward", spy)
    tokens = torch.tensor([[3, 4, 5, 6]])
    out = head.loss(make_speech([20]), tokens, torch.tensor([4]))
    first, second = inputs
    replaced = (first != second).any(2)[0]
    assert int(replaced.sum()) == int(out.parts["wrong"]) > 0
    targets = torch.tensor([3, 4, 5, 6, 2])
    torch.testing.assert_close(second[0][replaced], head.token_embed(targets)[replaced])


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_every_parameter(autocast: bool) -> None:
    head = make_head().train()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = head.loss(make_speech([20, 13]), torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2]))
    assert out.total.dtype == torch.float32
    check_gradients_reach_all(head, out.total)


def test_glancing_leaves_the_gradients_of_the_second_pass_alone() -> None:
    """Autocast must not reuse the weights that the first pass cast without gradients."""
    speech, tokens, lens = make_speech([20, 13]), torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    grads = []
    for ratio in (0.0, 1e-6):  # so small a ratio runs the first pass and shows nothing
        head = make_head(SMALL.model_copy(update={"glancing_ratio": ratio})).train()
        with torch.autocast("cpu", torch.bfloat16):
            out = head.loss(speech, tokens, lens)
        out.total.backward()
        grads.append({name: p.grad for name, p in head.named_parameters() if p.grad is not None})
    assert grads[0].keys() <= grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad)


def test_errors_are_expected_over_samples_of_the_heads_own_output() -> None:
    head = make_head(SMALL.model_copy(update={"mwer": MwerConfig(num_samples=6, mask_prob=0.5)})).eval()
    speech, tokens, lens = make_speech([20, 13]), torch.tensor([[3, 4, 5, 6], [7, 8, 0, 0]]), torch.tensor([4, 2])
    torch.manual_seed(5)
    out = head.loss(speech, tokens, lens)
    targets, target_lens = torch.tensor([[3, 4, 5, 6, 2], [7, 8, 2, 2, 2]]), torch.tensor([5, 3])
    cut = head.embedder(speech, targets, target_lens)
    log_probs = head.output(head.decoder(cut.embeds, valid_mask(target_lens, 5), *head.look(speech, cut))).log_softmax(
        2
    )
    torch.manual_seed(5)
    hyps = sample_hypotheses(log_probs, 6, 0.5)
    torch.testing.assert_close(out.parts["mwer"], expected_errors(log_probs, hyps, targets, target_lens).mean())
    torch.testing.assert_close(out.total, 0.01 * out.parts["ce"] + out.parts["quantity"] + out.parts["mwer"])
    check_gradients_reach_all(head, out.total, except_for=("token_embed.weight",))


@pytest.mark.parametrize("threshold", ["dynamic", "rounded", "fixed"])
def test_decoding_in_a_batch_equals_decoding_alone(threshold: str) -> None:
    head = make_head(SMALL.model_copy(update={"embedder": CifConfig(threshold=threshold)})).eval()  # type: ignore[arg-type]
    speech = make_speech([31, 12, 1, 20])
    for i, path in enumerate(head.decode(speech)):
        (alone,) = head.decode(one_of(speech, i))
        assert (path.tokens, path.starts, path.ends) == (alone.tokens, alone.starts, alone.ends)
        assert path.scores == pytest.approx(alone.scores, abs=1e-4)
        assert path.total == pytest.approx(alone.total, abs=1e-3)
        assert all(0 <= s < e <= int(speech.lens[i]) for s, e in zip(path.starts, path.ends, strict=True))
        assert not set(path.tokens) & {0, 1, 2}


def test_an_utterance_in_which_nothing_fires_has_an_empty_hypothesis() -> None:
    head = make_head(SMALL.model_copy(update={"embedder": CifConfig(threshold="fixed")})).eval()
    with torch.no_grad():
        head.embedder.proj.bias.fill_(-20.0)
    for path in head.decode(make_speech([9, 5])):
        assert (path.tokens, path.starts, path.ends, path.scores, path.total) == ([], [], [], [], 0.0)


@pytest.mark.parametrize("count_end", [True, False])
def test_an_utterance_without_text_can_be_trained_on(count_end: bool) -> None:
    head = make_head(SMALL.model_copy(update={"count_end": count_end})).train()
    out = head.loss(make_speech([9, 5]), torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    assert out.total.isfinite()
    assert (float(out.parts["ce"]) > 0) == count_end
    out.total.backward()
    assert head.embedder.proj.weight.grad is not None
    assert head.embedder.proj.weight.grad.isfinite().all()


@pytest.mark.parametrize(("decoder", "count_end"), [("sanm", True), ("transformer", False)])
def test_head_memorises_two_utterances(decoder: str, count_end: bool) -> None:
    rounded = CifConfig(threshold="rounded")  # a sum a little above the number would be rounded up by the paper's rule
    head = make_head(SMALL.model_copy(update={"count_end": count_end, "decoder": decoder, "embedder": rounded})).train()
    speech, tokens, lens = make_speech([30, 22]), torch.tensor([[3, 4, 4, 5, 6], [7, 8, 9, 0, 0]]), torch.tensor([5, 3])
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-3)
    for _ in range(100):
        loss = head.loss(speech, tokens, lens).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    head.eval()
    assert [path.tokens for path in head.decode(speech)] == [[3, 4, 4, 5, 6], [7, 8, 9]]
