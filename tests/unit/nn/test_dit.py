import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn import dit
from speechnar.nn.dit import DiffusionTransformer
from speechnar.nn.positions import rotary_angles, rotary_angles_at, rotate
from tests.contracts import check_gradients_reach_all

DIM = 16


def make_trunk(modulation="shared", *, is_new=False):
    torch.manual_seed(0)
    trunk = DiffusionTransformer(DIM, 2, 4, 32, modulation=modulation, dropout=0.1).eval()
    if not is_new:
        open_gates(trunk)
    return trunk


def open_gates(module: nn.Module) -> None:
    """Give values to what a new model has as zeros, so that its layers do something."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)


def random_tokens(batch=2, size=9):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, size, DIM, generator=generator)
    times = torch.randint(-1, 4, (batch, size), generator=generator) / 3
    positions = 10 * torch.rand(batch, size, generator=generator)
    return x, times, positions


def causal(batch, size):
    return torch.ones(size, size, dtype=torch.bool).tril().expand(batch, -1, -1)


@pytest.mark.parametrize("modulation", ["shared", "per_layer"])
def test_a_new_trunk_normalises_and_nothing_else(modulation):
    x, times, positions = random_tokens()
    y = make_trunk(modulation, is_new=True)(x, times, positions, None)
    torch.testing.assert_close(y, F.layer_norm(x, (DIM,), eps=1e-6))


@pytest.mark.parametrize("modulation", ["shared", "per_layer"])
def test_gradients_reach_every_parameter(modulation):
    trunk = make_trunk(modulation)
    check_gradients_reach_all(trunk, trunk(*random_tokens(), None).square().sum())


@pytest.mark.parametrize("modulation", ["shared", "per_layer"])
@torch.no_grad()
def test_each_token_has_its_own_time(modulation):
    trunk = make_trunk(modulation)
    x, times, positions = random_tokens()
    before = trunk(x, times, positions, causal(2, 9))
    times[:, 6] = 0.77
    after = trunk(x, times, positions, causal(2, 9))
    torch.testing.assert_close(after[:, :6], before[:, :6])
    assert ((after - before)[:, 6:].abs().amax(-1) > 1e-3).all()


@torch.no_grad()
def test_only_distances_between_positions_matter_not_the_order_of_tokens():
    trunk = make_trunk()
    x, times, positions = random_tokens()
    y = trunk(x, times, positions, None)
    torch.testing.assert_close(trunk(x, times, positions + 3.7, None), y, atol=1e-5, rtol=1e-4)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trunk(x[:, order], times[:, order], positions[:, order], None), y[:, order])
    assert (trunk(x, times, 1.1 * positions, None) - y).abs().max() > 1e-3


@torch.no_grad()
def test_cached_tokens_equal_the_whole():
    trunk = make_trunk()
    x, times, positions = random_tokens(2, 40)  # beyond the first size of the cache
    mask = causal(2, 40)
    whole = trunk(x, times, positions, mask)
    caches, first, pieces = trunk.new_caches(), 0, []
    for size in (3, 1, 30, 6):
        part = slice(first, first + size)
        first += size
        pieces.append(trunk(x[:, part], times[:, part], positions[:, part], mask[:, part, :first], caches))
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-5, rtol=1e-4)


def test_three_products_in_half_precision_are_as_near_the_truth_as_the_kernel(monkeypatch):
    """The former are taken to learn with a mask on a CPU; gradients in single precision are the truth."""
    trunk = make_trunk()
    x, times, positions = random_tokens(2, 40)

    def learn(*, is_half):
        trunk.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_half):
            y = trunk(x, times, positions, causal(2, 40))
        y.float().square().sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in trunk.parameters()])

    truth, products = learn(is_half=False), learn(is_half=True)
    monkeypatch.setattr(dit, "_attend", F.scaled_dot_product_attention)
    kernel = learn(is_half=True)
    assert not torch.equal(products, kernel)
    assert (products - truth).norm() < 1.5 * (kernel - truth).norm() < 0.5 * truth.norm()


def test_angles_of_whole_numbers_are_those_of_frames():
    positions = torch.arange(5, 12)
    device = torch.device("cpu")
    torch.testing.assert_close(rotary_angles_at(positions, 8), rotary_angles(5, 7, 8, device), atol=0, rtol=0)


def test_positions_between_the_frames_turn_by_the_same_rates():
    x, y = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))

    def score(first, second):
        angles = rotary_angles_at(torch.tensor([first, second]), 8)
        return float(rotate(x, angles[0]) @ rotate(y, angles[1]))

    assert score(1.25, 3.0) == pytest.approx(score(0.0, 1.75), abs=1e-5)
    assert score(1.25, 3.0) != pytest.approx(score(0.0, 1.5), abs=1e-3)


def test_heads_that_cannot_rotate_are_refused():
    with pytest.raises(ConfigError, match="model_dim must be a multiple of 2 num_heads"):
        DiffusionTransformer(12, 1, 4, 8, modulation="shared", dropout=0.0)
