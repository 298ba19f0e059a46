import pytest
import torch

from speechnar.nn.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_share_scale_and_gradient(dtype):
    torch.manual_seed(0)
    dropout = Dropout(0.25)
    x = torch.ones(100_003, dtype=dtype, requires_grad=True)
    y = dropout(x)
    kept = y != 0
    assert abs(kept.float().mean().item() - 0.75) < 0.01
    torch.testing.assert_close(y[kept].float(), torch.full_like(y[kept].float(), 4 / 3), rtol=1e-2, atol=0)
    y.sum().backward()
    assert torch.equal(x.grad != 0, kept)


def test_every_byte_of_a_word_is_random_and_seeded():
    torch.manual_seed(1)
    first = Dropout(0.5)(torch.ones(8000, 8)) != 0
    assert (first.float().mean(0) - 0.5).abs().max() < 0.03  # 8 columns, one for each byte
    correlation = torch.corrcoef(first.float().T) - torch.eye(8)
    assert correlation.abs().max() < 0.06
    torch.manual_seed(1)
    assert torch.equal(first, Dropout(0.5)(torch.ones(8000, 8)) != 0)


def test_evaluation_and_zero_change_nothing():
    x = torch.randn(5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x
