import pytest
import torch
from torch.nn import functional as F

from speechnar.models.base import MtModel, load_model, save_model
from speechnar.models.mt.fretna_ctc import FretnaCtc, FretnaCtcConfig
from speechnar.nn.lengths import valid_mask
from tests.contracts import check_gradients_reach_all
from tests.unit.models.texts import TOKENIZER, learn, one_batch


def make(**changes):
    torch.manual_seed(0)
    return FretnaCtc.from_config(FretnaCtcConfig.debug().model_copy(update=changes), TOKENIZER).eval()


def test_gradients_reach_all_parameters():
    model = make().train()
    check_gradients_reach_all(model, model.loss(one_batch(8)).total)


@torch.no_grad()
def test_the_loss_is_ctc_per_target_token():
    model, batch = make(), one_batch(5, training=True)
    slots, lens, memory = model._slots(*model._read(batch.src_tokens, batch.src_lens))
    assert torch.equal(lens, 2 * batch.src_lens)
    log_probs = model.ctc(model._states(slots, lens, memory)).transpose(0, 1)
    nats = F.ctc_loss(log_probs, batch.tgt_tokens, lens, batch.tgt_lens, reduction="sum")
    out = model.loss(batch)
    assert float(out.total) == pytest.approx(float(nats) / int((batch.tgt_lens + 1).sum()), rel=1e-5)
    assert float(out.parts["misfits"]) == 0


@torch.no_grad()
def test_targets_that_do_not_fit_are_counted_and_cost_nothing():
    model, batch = make(upsampling=1), one_batch(5)
    one_token = torch.ones_like(batch.src_lens)
    shortened = type(batch)(**{**vars(batch), "src_lens": one_token})
    out = model.loss(shortened)
    assert float(out.parts["misfits"]) == pytest.approx(float((batch.tgt_lens > 1).float().mean()))
    assert out.total.isfinite()


@torch.no_grad()
def test_a_share_of_the_wrong_slots_is_shown_and_falls():
    model, batch = make(glance_share=0.8, glance_share_end=0.0, glance_steps=10), one_batch(8)
    slots, lens, memory = model._slots(*model._read(batch.src_tokens, batch.src_lens))
    log_probs = model.ctc(model._states(slots, lens, memory))
    shares = []
    for num_batches in (0, 5, 20):
        model.num_batches.fill_(num_batches)
        names, is_shown = model._glance(slots, lens, memory, batch)
        num_wrong = ((names != log_probs.argmax(-1)) & valid_mask(lens, names.size(1))).sum(1)
        share = 0.8 * max(0, 1 - num_batches / 10)
        assert torch.equal(is_shown.sum(1), (share * num_wrong).round().long())
        assert not is_shown[~valid_mask(lens, names.size(1))].any()
        shares.append(int(is_shown.sum()))
        for row, n, target, u in zip(names, lens, batch.tgt_tokens, batch.tgt_lens, strict=True):
            spelled = [t for t in row[:n].unique_consecutive().tolist() if t != model.blank_id]
            assert spelled == target[:u].tolist()
    assert shares[0] > shares[1] > shares[2] == 0


def test_batches_are_counted_in_training_only():
    model, batch = make(), one_batch(2)
    model.loss(batch)
    assert int(model.num_batches) == 0
    model.train().loss(batch)
    assert int(model.num_batches) == 1


@torch.no_grad()
def test_sentences_do_not_depend_on_their_batch_or_its_padding():
    model, batch = make(), one_batch(6)
    spoiled = batch.src_tokens.where(valid_mask(batch.src_lens, batch.src_tokens.size(1)), -9)
    names = model.name_slots(spoiled, batch.src_lens)
    assert (names != model.blank_id).any()
    for i in range(6):
        n = int(batch.src_lens[i])
        alone = model.name_slots(batch.src_tokens[i : i + 1, :n], batch.src_lens[i : i + 1])
        assert torch.equal(alone[0], names[i, : 2 * n]) and not names[i, 2 * n :].any()
    assert model.merge(names) == model.translate(batch)


@torch.no_grad()
def test_old_names_are_repeated_under_a_bias():
    model, batch = make(), one_batch(3)
    old = torch.full((3, 2), 5)
    free = model.name_slots(batch.src_tokens, batch.src_lens)
    assert torch.equal(model.name_slots(batch.src_tokens, batch.src_lens, old), free)
    held = model.name_slots(batch.src_tokens, batch.src_lens, old, bias=1e4)
    assert (held[:, :2] == 5).all() and torch.equal(held[:, 2:], free[:, 2:])
    longer = torch.full((3, 99), 5)
    held = model.name_slots(batch.src_tokens, batch.src_lens, longer, bias=1e4)
    assert model.merge(held) == [[5]] * 3


@pytest.mark.slow
def test_pairs_are_learned_and_a_saved_model_translates_alike(tmp_path):
    model, batch = make().train(), one_batch(6, training=True)
    expected = learn(model, batch, 100)
    found = model.translate(batch)
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 0.8 * len(expected)
    save_model(tmp_path, model, TOKENIZER)
    loaded = load_model(tmp_path).model
    assert isinstance(loaded, MtModel) and loaded.translate(batch) == found


@torch.no_grad()
@pytest.mark.parametrize("bias", [0.0, 1.5])
def test_names_without_a_softmax_are_the_likeliest(bias):
    model, batch = make(), one_batch(3)
    log_probs, lens = model.score_names(batch.src_tokens, batch.src_lens)
    old = torch.randint(4, 7, (len(lens), log_probs.size(1) + 3))
    gains = torch.zeros_like(log_probs).scatter(2, old[:, : log_probs.size(1), None], bias)
    wanted = (log_probs + gains).argmax(-1).where(valid_mask(lens, log_probs.size(1)), model.blank_id)
    assert torch.equal(model.name_slots(batch.src_tokens, batch.src_lens, old, bias=bias), wanted)
    assert model.merge(torch.tensor([[5, 5, model.blank_id, 5, 6], [model.blank_id] * 5])) == [[5, 5, 6], []]
