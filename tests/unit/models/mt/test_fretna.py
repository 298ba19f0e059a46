from dataclasses import replace

import pytest
import torch

from speechnar.decode.levenshtein import edit_labels
from speechnar.errors import ConfigError, DataError
from speechnar.models.base import MtModel, load_model, save_model
from speechnar.models.mt import fretna
from speechnar.models.mt.fretna import EditBias, Fretna, FretnaConfig
from speechnar.nn.lengths import valid_mask
from speechnar.text.tokenizer import CharTokenizer
from tests.contracts import check_gradients_reach_all
from tests.unit.models.texts import TOKENIZER, learn, one_batch


def make(**changes):
    torch.manual_seed(0)
    model = Fretna.from_config(FretnaConfig.debug().model_copy(update=changes), TOKENIZER).eval()
    with torch.no_grad():
        model.insert.bias[1:4] += 1.0  # so that something is written
    return model


def previous_of(batch):
    return batch.tgt_tokens, batch.previous_tgt_lens


def test_gradients_reach_all_parameters():
    torch.manual_seed(0)
    model = make().train()
    check_gradients_reach_all(model, model.loss(one_batch(24, training=True)).total)


@torch.no_grad()
def test_the_loss_is_the_sum_of_three_heads():
    out = make().loss(one_batch(6))
    assert out.parts.keys() == {"insert", "token", "delete"}
    torch.testing.assert_close(out.total, sum(out.parts.values()))


@torch.no_grad()
def test_what_is_edited_is_made_of_shorter_references_or_lacks_tokens():
    torch.manual_seed(3)
    model, batch = make(), one_batch(60, training=True)
    ref, ref_lens = model._with_ends(batch.tgt_tokens, batch.tgt_lens)
    inputs, lens, old_lens = model._roll_in(batch, ref, ref_lens)
    labels = edit_labels(inputs, lens, ref, ref_lens)
    is_previous = old_lens > 0
    assert 0.2 < is_previous.float().mean() < 0.6
    assert not labels.deleted[~is_previous].any()  # tokens only lack
    assert 0 < (labels.deleted.sum() / (lens[is_previous] - 2).sum()) < 0.15
    assert (lens - 2)[is_previous].le(batch.previous_tgt_lens[is_previous]).all()
    for row, n in zip(inputs.tolist(), lens.tolist(), strict=True):
        assert row[0] == model.ids.sos and row[n - 1] == model.ids.eos and model.ids.sos not in row[1:n]
        assert row[:n].count(model.ids.eos) == 1 and model.ids.blank not in row[:n]

    _, own_lens, own_old = model._own_output(replace(batch, previous_src_lens=batch.previous_src_lens * 0))
    assert torch.equal(own_lens, torch.full_like(own_lens, 2)) and not own_old.any()
    _, own_lens, own_old = model._own_output(batch)
    assert torch.equal(own_old, own_lens - 2) and own_old.any()


@torch.no_grad()
def test_a_share_of_the_references_lacks_all_tokens(monkeypatch):
    model, batch = make(), one_batch(60, training=True)
    ref, ref_lens = model._with_ends(batch.tgt_tokens, batch.tgt_lens)
    monkeypatch.setattr(fretna, "PREVIOUS_SHARE", 0.0)
    shares = []
    for share in (0.0, fretna.EMPTY_SHARE, 0.999):
        monkeypatch.setattr(fretna, "EMPTY_SHARE", share)
        torch.manual_seed(3)
        shares.append((model._roll_in(batch, ref, ref_lens)[1] == 2).float().mean())
    assert shares[0] + 0.1 < shares[1] < shares[2] - 0.1
    assert shares[2] > 0.95


@torch.no_grad()
def test_own_output_has_been_edited_before(monkeypatch):
    model, batch = make(), one_batch(60, training=True)
    model.insert.bias[1] += 3.0
    calls = []
    edit = Fretna.edit

    def recording(self, src_tokens, src_lens, tokens, lens, **options):
        refined = edit(self, src_tokens, src_lens, tokens, lens, **options)
        given = [row[:n] for row, n in zip(tokens.tolist(), lens.tolist(), strict=True)]
        calls.append((src_lens, refined.inner_rows(), given))
        return refined

    monkeypatch.setattr(Fretna, "edit", recording)
    framed, framed_lens, _ = model._own_output(batch)
    (first_lens, first, before), (second_lens, second, given) = calls
    assert not any(before) and any(first)
    assert (first_lens <= second_lens).all() and (first_lens < second_lens).any()
    assert all(row in (made, []) for row, made in zip(given, first, strict=True)) and any(given)
    rows = [row[1 : n - 1] for row, n in zip(framed.tolist(), framed_lens.tolist(), strict=True)]
    assert all(row in (made, []) for row, made in zip(rows, second, strict=True)) and any(rows)


@torch.no_grad()
def test_sentences_do_not_depend_on_their_batch_or_its_padding():
    model, batch = make(), one_batch(6)
    tokens, lens = previous_of(batch)
    spoiled_src = batch.src_tokens.where(valid_mask(batch.src_lens, batch.src_tokens.size(1)), 3)
    spoiled = tokens.where(valid_mask(lens, tokens.size(1)), 5)
    found = model.edit(spoiled_src, batch.src_lens, spoiled, lens, max_iterations=3).inner_rows()
    assert any(found)
    for i in range(6):
        n, u = batch.src_lens[i : i + 1], lens[i : i + 1]
        alone = model.edit(batch.src_tokens[i : i + 1, : int(n)], n, tokens[i : i + 1, : int(u)], u, max_iterations=3)
        assert alone.inner_rows() == [found[i]]


@torch.no_grad()
def test_a_bias_leaves_alone_what_was_shown():
    model, batch = make(), one_batch(6)
    tokens, lens = previous_of(batch)
    rows = [row[:n].tolist() for row, n in zip(tokens, lens, strict=True)]
    free = model.edit(batch.src_tokens, batch.src_lens, tokens, lens, max_iterations=1).inner_rows()
    assert any(found[: len(row)] != row for found, row in zip(free, rows, strict=True))
    bias = EditBias(delete=1e4, insert=1e4)
    held = model.edit(batch.src_tokens, batch.src_lens, tokens, lens, max_iterations=1, bias=bias).inner_rows()
    for found, row in zip(held, rows, strict=True):
        assert found[: max(len(row) - 1, 0)] == row[:-1]  # the last one lies at the end, not before it
    with pytest.raises(ConfigError, match="max_iterations"):
        model.edit(batch.src_tokens, batch.src_lens, max_iterations=0)


@torch.no_grad()
def test_costs_of_the_configuration_decide_what_is_edited():
    model, batch = make(), one_batch(6)
    tokens, lens = previous_of(batch)
    tokens[:, 1] = tokens[:, 0]
    lens = lens.clamp(min=2)

    def edited(**settings: float) -> list[list[int]]:
        model.config = model.config.model_copy(update=settings)
        refined = model.edit(batch.src_tokens, batch.src_lens, tokens, lens, max_iterations=1)
        return refined.inner_rows()

    given = [row[:n] for row, n in zip(tokens.tolist(), lens.tolist(), strict=True)]
    assert edited(delete_cost=1e4, insert_bonus=-1e4, repeat_penalty=0.0) == given
    without = [[token for i, token in enumerate(row) if i == 0 or token != row[i - 1]] for row in given]
    assert edited(repeat_penalty=1e5) == without
    longer = edited(insert_bonus=1e4, repeat_penalty=0.0)
    assert all(len(more) >= len(row) for more, row in zip(longer, given, strict=True))
    assert any(len(more) > len(row) for more, row in zip(longer, given, strict=True))


@torch.no_grad()
def test_lengths_keep_within_their_ratio():
    model, batch = make(max_len_ratio=1.0), one_batch(6)
    model.insert.bias[16] += 100
    lens = [len(row) for row in model.translate(batch)]
    assert max(lens) == max(10, int(batch.src_lens.max())) and min(lens) == 10


@torch.no_grad()
def test_offsets_fall_into_their_buckets():
    model = make()
    model.offsets.weight.copy_(torch.arange(8.0)[:, None].expand(-1, 8))
    buckets = model._offset(20, torch.tensor([17, 0]))[..., 0]
    assert buckets[0].tolist() == [0, 0, *[1] * 8, *[2] * 4, 3, 4, 5, 6, 7, 7]
    assert buckets[1].tolist() == [6, *[7] * 19]


def test_without_offsets_it_is_a_levenshtein_transformer():
    model = make(offset_dim=0).train()
    assert model.insert.in_features == 64 and model.delete.in_features == 32
    model.loss(one_batch(4)).total.backward()


@pytest.mark.slow
def test_pairs_are_learned_and_a_saved_model_translates_alike(tmp_path):
    torch.manual_seed(1)
    model, batch = make(label_smoothing=0.0).train(), one_batch(6, training=True)
    expected = learn(model, batch, 300, last_lr=8e-5)
    found = model.translate(batch)
    assert sum(a == b for a, b in zip(found, expected, strict=True)) >= 0.5 * len(expected)
    tokens, lens = previous_of(batch)
    edited = model.edit(batch.src_tokens, batch.src_lens, tokens, lens, max_iterations=2)
    assert sum(a == b for a, b in zip(edited.inner_rows(), expected, strict=True)) >= 0.6 * len(expected)
    save_model(tmp_path, model, TOKENIZER)
    loaded = load_model(tmp_path).model
    assert isinstance(loaded, MtModel) and loaded.translate(batch) == found


def test_a_vocabulary_without_placeholder_is_refused():
    with pytest.raises(DataError, match="<sop>"):
        Fretna.from_config(FretnaConfig.debug(), CharTokenizer(("<blank>", "<unk>", "a", "<sos>", "<eos>")))
