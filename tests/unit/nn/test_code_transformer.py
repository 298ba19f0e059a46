import math

import pytest
import torch
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.code_transformer import (
    CodeContext,
    CodeTransformer,
    Memory,
    frame_sinusoids,
    local_attention,
    relative_context,
)
from tests.contracts import check_gradients_reach_all


def make(**changes) -> CodeTransformer:
    torch.manual_seed(0)
    sizes = {"dropout": 0.0, "has_memory": True, **changes}
    return CodeTransformer(16, 2, 2, 32, **sizes).eval()


@pytest.mark.parametrize("num_frames", [1, 5, 32, 33, 100])
@pytest.mark.parametrize("reach", [0, 2, 40])
def test_local_attention_is_attention_with_a_mask(num_frames, reach):
    q, k, v = torch.randn(3, 2, 3, num_frames, 8)
    frames = torch.arange(num_frames)
    near = (frames - frames[:, None]).abs() <= reach
    torch.testing.assert_close(
        local_attention(q, k, v, reach), F.scaled_dot_product_attention(q, k, v, near), atol=1e-6, rtol=1e-5
    )


@torch.no_grad()
def test_frames_see_as_far_as_the_layers_reach():
    model, x = make(), torch.randn(1, 40, 16)
    other = x.clone()
    other[:, 20] = torch.randn(16)

    def moved(**context):
        change = model(x, CodeContext(**context)) - model(other, CodeContext(**context))
        return change.abs().sum((0, 2)).nonzero().flatten().tolist()

    assert moved(reach=3) == list(range(14, 27))  # two layers
    assert moved(is_causal=True) == list(range(20, 40))
    assert moved() == list(range(40))


def relative(places, keys=None, **options) -> CodeContext:
    return relative_context(places, places if keys is None else keys, num_heads=2, head_dim=8, **options)


@torch.no_grad()
@pytest.mark.parametrize("is_relative", [False, True])
def test_cached_frames_are_as_those_seen_at_once(is_relative):
    model, x, memory = make(), torch.randn(2, 9, 16), torch.randn(2, 4, 16)
    caches = model.new_caches()

    def context(first, last):
        places, keys = torch.arange(first, last), torch.arange(last)
        if is_relative:
            return relative(places, keys, mask=(keys <= places[:, None])[None], memory=memory)
        return CodeContext(is_causal=first == 0, memory=memory)

    whole = model(x, context(0, 9))
    parts = [model(x[:, :4], context(0, 4), caches)]
    parts += [model(x[:, i : i + 1], context(i, i + 1), caches) for i in range(4, 9)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("is_relative", [False, True])
@pytest.mark.parametrize("reach", [None, 2])
def test_wanted_frames_are_those_of_all(reach, is_relative):
    network = make(has_memory=True).eval()
    x, memory = torch.randn(3, 20, 16), torch.randn(3, 4, 16)
    context = CodeContext(reach=reach, memory=memory)
    if is_relative:
        context = relative(torch.arange(20), reach=reach, memory=memory)
    wanted = torch.tensor([[0, 7, 8], [1, 2, 19], [5, 10, 15]])
    whole = network(x, context)
    expected = torch.stack([rows[index] for rows, index in zip(whole, wanted, strict=True)])
    torch.testing.assert_close(network(x, context, wanted=wanted), expected)


@torch.no_grad()
@pytest.mark.parametrize("reach", [None, 3])
def test_relative_frames_know_distances_only(reach):
    """Moved in time, everything is as it was; in the other direction it is not."""
    model, x = make(has_memory=False), torch.randn(2, 20, 16)
    places = torch.arange(20)
    found = model(x, relative(places, reach=reach))
    torch.testing.assert_close(model(x, relative(places + 100, reach=reach)), found, atol=1e-5, rtol=1e-4)
    assert (model(x, relative(places.flip(0), reach=reach)) - found).abs().max() > 1e-2


def test_the_far_is_scored_lower():
    context = relative_context(torch.tensor([[1, 5]]), torch.tensor([[0, 1, 5]]), num_heads=4, head_dim=2)
    distances = torch.tensor([[1, 0, 4], [5, 4, 0]])
    expected = torch.stack([-slope * distances for slope in (1, 1 / 4, 1 / 16, 1 / 64)])
    torch.testing.assert_close(context.mask, expected[None], atol=0, rtol=0)


@torch.no_grad()
def test_frames_in_another_order_are_the_same():
    model, x, places = make(has_memory=False), torch.randn(1, 9, 16), torch.arange(9)
    order = torch.randperm(9)
    mask = torch.rand(1, 9, 9) < 0.7
    mask = mask | torch.eye(9, dtype=torch.bool)
    found = model(x, relative(places, mask=mask))
    shuffled = model(x[:, order], relative(places[order], mask=mask[:, order][:, :, order]))
    torch.testing.assert_close(shuffled, found[:, order], atol=1e-5, rtol=1e-4)


def test_rows_without_a_memory_are_as_those_with_zeros():
    network = make(has_memory=True).eval()
    x, memory = torch.randn(3, 20, 16), torch.randn(3, 4, 16)
    memory[1:] = 0
    torch.testing.assert_close(network(x, CodeContext(memory=memory[:1])), network(x, CodeContext(memory=memory)))


@torch.no_grad()
def test_a_memory_of_many_calls_is_projected_once_by_each_layer():
    network, x, memory = make(has_memory=True).eval(), torch.randn(3, 20, 16), torch.randn(2, 4, 16)
    expected = network(x, CodeContext(memory=memory))
    calls = []
    for layer in network.layers:
        layer.memory.key_value.register_forward_hook(lambda *_: calls.append(1))
    kept = Memory(memory)
    for _ in range(3):
        torch.testing.assert_close(network(x, CodeContext(memory=kept)), expected, rtol=0, atol=0)
    assert len(calls) == len(network.layers)


def test_gradients_reach_every_parameter():
    model = make(dropout=0.1).train()
    out = model(torch.randn(2, 40, 16), CodeContext(reach=3, memory=torch.randn(2, 5, 16)))
    check_gradients_reach_all(model, (out * torch.randn_like(out)).sum())


def test_positions():
    found = frame_sinusoids(torch.tensor([0, 7]), 6)
    rates = [1.0, 10000**-0.5, 1e-4]
    expected = [[1, 1, 1, 0, 0, 0], [math.cos(7 * r) for r in rates] + [math.sin(7 * r) for r in rates]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_sizes_must_fit():
    with pytest.raises(ConfigError, match="model_dim must be a multiple of 2 num_heads, got 6 and 2"):
        CodeTransformer(6, 1, 2, 8, dropout=0.0, has_memory=False)
