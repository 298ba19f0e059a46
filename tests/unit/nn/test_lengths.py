import pytest
import torch

from speechnar.nn.lengths import longest, valid_mask, zero_padding


def test_frames_before_the_length_are_real():
    mask = valid_mask(torch.tensor([0, 2, 4, 9]), 4)
    assert mask.dtype == torch.bool
    assert mask.int().tolist() == [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]]


def test_the_longest_is_found_or_the_least_there_must_be():
    assert longest(torch.tensor([2, 5, 3])) == 5
    assert longest(torch.tensor([0, 0])) == 0
    assert longest(torch.tensor([0, 0]), least=1) == 1
    assert longest(torch.tensor([4]), least=1) == 4


def test_padding_becomes_zero_whatever_stood_there():
    valid = torch.tensor([[True, False], [True, True]])
    flat = torch.tensor([[1.0, torch.nan], [3.0, 4.0]])
    assert zero_padding(flat, valid).tolist() == [[1, 0], [3, 4]]
    deep = torch.tensor([[[[1.0], [2.0]], [[torch.inf], [torch.nan]]], [[[5.0], [6.0]], [[7.0], [-0.5]]]])
    assert zero_padding(deep, valid).squeeze(-1).tolist() == [[[1, 2], [0, 0]], [[5, 6], [7, -0.5]]]
    assert torch.isnan(flat[0, 1])  # what was given stays


def test_padding_has_no_gradient():
    x = torch.ones(1, 3, 2, requires_grad=True)
    zero_padding(x, torch.tensor([[True, True, False]])).sum().backward()
    assert x.grad.tolist() == [[[1, 1], [1, 1], [0, 0]]]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_without_padding_nothing_changes(device):
    x, valid = torch.ones(2, 3, 4, device=device), torch.ones(2, 3, dtype=torch.bool, device=device)
    y = zero_padding(x, valid)
    assert y.shape == x.shape
    assert (y is x) == (device == "cpu")  # elsewhere, nobody waits to know


def test_frames_may_lie_anyhow_in_memory():
    x, valid = torch.randn(2, 5, 3).transpose(1, 2), torch.tensor([[True, True, False], [True, False, False]])
    assert torch.equal(zero_padding(x, valid), x.masked_fill(~valid[..., None], 0.0))


def test_utterances_may_share_a_mask():
    x, valid = torch.ones(2, 3, 1), torch.tensor([[True, True, False]])
    assert zero_padding(x, valid).squeeze(2).tolist() == [[1, 1, 0], [1, 1, 0]]
