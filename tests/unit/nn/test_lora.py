"""Low-rank updates begin at nothing, learn alone, and vanish into the weights."""

import pytest
import torch
from torch import nn

from speechnar.errors import ConfigError
from speechnar.nn.lora import SCALE, add_lora, merge_lora


def test_an_update_is_what_the_paper_says():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Linear(6, 5))
    x, before = torch.randn(3, 6), layer[0].weight.detach().clone()
    expected = layer(x)
    layer.requires_grad_(False)
    assert add_lora(layer, 2) == 1
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)
    update = layer[0].parametrizations.weight[0]
    layer(x).square().sum().backward()
    assert {name for name, p in layer.named_parameters() if p.grad is not None} == {
        "0.parametrizations.weight.0.down",
        "0.parametrizations.weight.0.up",
    }
    assert update.up.grad.abs().sum() > 0
    with torch.no_grad():
        update.up.normal_()
    adapted = layer(x)
    # As beside the layer: W x + scale B (A x).
    beside = nn.functional.linear(x, before, layer[0].bias) + SCALE * (x @ update.down.T) @ update.up.T
    torch.testing.assert_close(adapted, beside)
    merge_lora(layer)
    assert set(layer.state_dict()) == {"0.weight", "0.bias"}
    torch.testing.assert_close(layer(x), adapted)
    assert not torch.equal(layer[0].weight, before)


def test_small_layers_and_shared_weights_are_left():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out, self.head, self.gate = (
                nn.Embedding(9, 8), nn.Linear(8, 9), nn.Linear(8, 8), nn.Linear(8, 1),
            )  # fmt: skip
            self.out.weight = self.embed.weight

    model = Tied()
    assert add_lora(model, 4) == 1
    assert model.out.weight is model.embed.weight
    assert {name for name, _ in model.named_parameters() if "down" in name} == {"head.parametrizations.weight.0.down"}


def test_ranks_that_cannot_be():
    with pytest.raises(ConfigError, match="at least 1"):
        add_lora(nn.Linear(4, 4), 0)
    with pytest.raises(ConfigError, match="lower the rank"):
        add_lora(nn.Linear(4, 4), 8)
