import copy

import pytest
import torch

from speechnar.nn.rvq import ResidualQuantizer, perplexity


def grid() -> torch.Tensor:
    """Return (16, 2): the corners of small squares at the corners of a large one; two books of four suffice."""
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    return (4 * corners[:, None] + corners).flatten(0, 1)


def make(**options) -> ResidualQuantizer:
    torch.manual_seed(0)
    return ResidualQuantizer(2, 4, 2, **options)


def set_entries(model: ResidualQuantizer) -> None:
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    for layer, scale in zip(model.layers, (4.0, 1.0), strict=True):
        layer.embed.copy_(scale * corners)
        layer.embed_avg.copy_(scale * corners)
        layer.cluster_size.fill_(1.0)
        layer.inited.fill_(1.0)


def test_codes_of_a_known_quantiser():
    model = make().eval()
    set_entries(model)
    x = grid()[None] + 0.1
    quantized = model(x)
    assert torch.equal(quantized.codes[0, 0], torch.arange(4).repeat_interleave(4))
    assert torch.equal(quantized.codes[0, 1], torch.arange(4).repeat(4))
    torch.testing.assert_close(quantized.latents, grid()[None])
    # Residuals are one coarse step of 1 + 0.1 away in the first book, 0.1 in the second.
    torch.testing.assert_close(quantized.commitment, torch.tensor(((1.1**2 + 0.9**2) / 2 + 0.01) / 2))
    assert torch.equal(model.encode(x), quantized.codes)
    torch.testing.assert_close(model.decode(quantized.codes), quantized.latents)


def test_gradients_go_straight_through():
    model = make().train()
    set_entries(model)
    x = (grid()[None] + 0.1).requires_grad_()
    weights = torch.randn(1, 16, 2)
    (model(x).latents * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights)
    x.grad = None
    model.eval()(x).commitment.backward()
    # 2 / (16 * 2) per value and book, the mean over two books: towards the entry, which stands still.
    residuals = x.detach() - 4 * grid()[None].sign(), torch.full((1, 16, 2), 0.1)
    first = x.detach() - model.layers[0].embed[model.encode(x.detach())[:, 0]]
    second = first - model.layers[1].embed[model.encode(x.detach())[:, 1]]
    torch.testing.assert_close(x.grad, (first + second) / 32)
    assert residuals[1].shape == second.shape


def test_it_finds_the_entries_itself():
    torch.manual_seed(1)
    model = ResidualQuantizer(2, 4, 2)
    points = grid()
    for _ in range(300):
        x = points[torch.randint(16, (1, 64))] + 0.05 * torch.randn(1, 64, 2)
        model(x)
    model.eval()
    error = (model(points[None]).latents - points).abs().max()
    assert error < 0.1
    assert len(model.encode(points[None]).flatten(0, 1).T.unique(dim=0)) == 16


def test_an_update_in_closed_form():
    model = ResidualQuantizer(1, 2, 1, decay=0.75, dead_share=0.0)
    layer = model.layers[0]
    for buffer, value in ((layer.embed, [[0.0], [10.0]]), (layer.embed_avg, [[0.0], [40.0]])):
        buffer.copy_(torch.tensor(value))
    layer.cluster_size.copy_(torch.tensor([4.0, 4.0]))
    layer.inited.fill_(1.0)
    model(torch.tensor([[[1.0], [2.0], [3.0], [8.0]]]))
    assert layer.cluster_size.tolist() == [3.75, 3.25]
    assert layer.embed_avg.flatten().tolist() == [1.5, 32.0]
    torch.testing.assert_close(layer.embed.flatten(), torch.tensor([1.5 / 3.75, 32 / 3.25]), atol=1e-3, rtol=1e-4)


def test_entries_nobody_uses_are_replaced():
    model = make(decay=0.5)
    set_entries(model)
    model.layers[0].embed[3] = 1e3
    x = grid()[None]
    for _ in range(8):
        model(x)
    assert model.layers[0].embed.abs().max() < 10
    assert len(model.encode(x)[0, 0].unique()) == 4


def test_perplexity_counts_entries_in_use():
    all_used, one = torch.arange(8).repeat(3), torch.full((24,), 5)
    half = torch.arange(24) % 4
    assert float(perplexity(all_used.view(1, 1, 24), 8)) == pytest.approx(8)
    assert float(perplexity(torch.stack([one, half])[None], 8)) == pytest.approx((1 + 4) / 2)


def test_evaluation_learns_nothing_and_nan_spoils_nothing():
    model = make()
    model(grid()[None])
    before = copy.deepcopy(model.state_dict())
    model.eval()
    model(torch.randn(1, 9, 2))
    model.train()
    model(torch.full((1, 9, 2), torch.nan))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    untouched = ResidualQuantizer(2, 4, 2)
    untouched(torch.full((1, 9, 2), torch.nan))
    assert not any(layer.inited for layer in untouched.layers)
    untouched(grid()[None])
    assert all(layer.inited for layer in untouched.layers)
