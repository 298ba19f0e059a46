import random

import pytest
import torch

from speechnar.errors import ConfigError
from speechnar.models.base import MtModel, load_model, save_model
from speechnar.models.mt.wait_k import WaitK, WaitKConfig, WaitKStream
from speechnar.nn.lengths import valid_mask
from tests.contracts import check_gradients_reach_all
from tests.unit.models.texts import TOKENIZER, one_batch


def make(**changes):
    torch.manual_seed(0)
    model = WaitK.from_config(WaitKConfig.debug().model_copy(update=changes), TOKENIZER).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
        model.head.decoder.output.bias[model.head.eos_id] += 2.0
    return model


def test_gradients_reach_all_parameters():
    model = make().train()
    check_gradients_reach_all(model, model.loss(one_batch(8)).total)


@torch.no_grad()
def test_a_target_token_does_not_see_beyond_its_delay():
    model, batch = make(delay=2), one_batch(1)
    losses = []
    for place in range(int(batch.src_lens)):
        src = batch.src_tokens.clone()
        src[0, place] = 3 if int(src[0, place]) != 3 else 4
        one = type(batch)(**{**vars(batch), "src_tokens": src})
        # The first target token, and the end behind nothing, see two source tokens.
        first = type(one)(**{**vars(one), "tgt_tokens": one.tgt_tokens[:, :0], "tgt_lens": torch.tensor([0])})
        losses.append(float(model.loss(first).total))
    first = type(batch)(**{**vars(batch), "tgt_tokens": batch.tgt_tokens[:, :0], "tgt_lens": torch.tensor([0])})
    plain = float(model.loss(first).total)
    assert [abs(loss - plain) > 1e-6 for loss in losses] == [True, True] + [False] * (len(losses) - 2)


@torch.no_grad()
def test_training_draws_delays():
    torch.manual_seed(0)
    model = make(max_delay=3)
    drawn = {model._draw_delay(50) for _ in range(200)}
    assert drawn == {1, 2, 3, 50}


@torch.no_grad()
@pytest.mark.parametrize("delay", [1, 3])
def test_a_stream_writes_the_same_however_it_is_pushed(delay):
    model, batch, rng = make(), one_batch(8), random.Random(0)
    expected = model.decode(batch.src_tokens, batch.src_lens, delay=delay)
    assert len({len(row) for row in expected}) > 2
    for row, n, whole in zip(batch.src_tokens, batch.src_lens, expected, strict=True):
        for _ in range(3):
            stream, rest, written = WaitKStream(model, delay), row[:n].tolist(), []
            num_read = 0
            while len(rest) > 1:
                size = rng.randint(0, len(rest) - 1)
                now = stream.push(rest[:size], is_last=False)
                rest, num_read = rest[size:], num_read + size
                assert now[: len(written)] == written and len(now) == max(num_read - delay + 1, 0)
                written = now
            assert written == whole[: len(written)] and stream.push(rest, is_last=True) == whole
            assert stream.evaluations <= len(whole) + 1


@torch.no_grad()
def test_sentences_do_not_depend_on_their_batch_or_its_padding():
    model, batch = make(), one_batch(6)
    spoiled = batch.src_tokens.where(valid_mask(batch.src_lens, batch.src_tokens.size(1)), -9)
    found = model.decode(spoiled, batch.src_lens, delay=2)
    assert found == model.translate(batch)
    for i in range(6):
        n = batch.src_lens[i : i + 1]
        assert model.decode(batch.src_tokens[i : i + 1, : int(n)], n, delay=2) == [found[i]]


def test_delays_begin_at_one():
    model, batch = make(), one_batch(1)
    with pytest.raises(ConfigError, match="at least 1 token, got 0"):
        WaitKStream(model, 0)
    with pytest.raises(ConfigError, match="at least 1 token, got 0"):
        model.decode(batch.src_tokens, batch.src_lens, delay=0)


def test_a_saved_model_translates_alike(tmp_path):
    model, batch = make(), one_batch(3)
    save_model(tmp_path, model, TOKENIZER)
    loaded = load_model(tmp_path).model
    assert isinstance(loaded, MtModel) and loaded.translate(batch) == model.translate(batch)
