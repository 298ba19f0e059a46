import pytest
import torch
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.lengths import valid_mask
from speechnar.nn.sanm import FsmnMemory, SanmDecoder
from tests.contracts import check_gradients_reach_all


@pytest.mark.parametrize(("kernel_size", "shift"), [(5, 0), (4, 0), (5, 2), (1, 0)])
def test_memory_is_a_window_sum_plus_its_input(kernel_size: int, shift: int) -> None:
    torch.manual_seed(0)
    memory = FsmnMemory(3, kernel_size, shift=shift)
    x = torch.randn(1, 9, 3)
    y = memory(x.clone().index_fill_(1, torch.tensor([7, 8]), torch.nan), valid_mask(torch.tensor([7]), 9))
    left = (kernel_size - 1) // 2 + shift
    for u in range(7):
        expected = x[0, u].clone()
        for k in range(kernel_size):
            source = u - left + k
            if 0 <= source < 7:
                expected += memory.weight[:, 0, k] * x[0, source]
        torch.testing.assert_close(y[0, u], expected)
    assert y.isfinite().all()


def test_memory_that_misses_its_own_frame_is_refused() -> None:
    with pytest.raises(ConfigError, match="kernel 5, shift 3"):
        FsmnMemory(4, 5, shift=3)


def test_decoder_equals_its_equations() -> None:
    torch.manual_seed(1)
    decoder = SanmDecoder(8, 2, 2, 16, kernel_size=3).eval()
    x, enc = torch.randn(1, 4, 8), torch.randn(1, 6, 8)
    with torch.no_grad():
        hidden = decoder(
            x, torch.ones(1, 4, dtype=torch.bool), decoder.project(enc), torch.ones(1, 1, 1, 6, dtype=torch.bool)
        )
        y = x[0]
        for index, layer in enumerate(decoder.layers):
            t = F.relu(F.linear(layer.norm_ff(y), layer.ff.proj_in.weight, layer.ff.proj_in.bias))
            t = layer.norm_fsmn(F.linear(layer.ff.norm(t), layer.ff.proj_out.weight))
            padded = F.pad(t, (0, 0, 1, 1))
            y = y + t + sum(layer.fsmn.weight[:, 0, k] * padded[k : k + 4] for k in range(3))
            q = layer.query(layer.norm_attention(y))
            rows = slice(16 * index, 16 * index + 16)
            k, v = F.linear(enc[0], decoder.key_value.weight[rows], decoder.key_value.bias[rows]).split(8, dim=1)
            heads = [
                torch.softmax(q[:, part] @ k[:, part].t() / 2.0, dim=1) @ v[:, part]
                for part in (slice(0, 4), slice(4, 8))
            ]
            y = y + layer.out(torch.cat(heads, dim=1))
        t = F.relu(decoder.ff_last.proj_in(decoder.norm_last(y)))
        expected = decoder.norm(F.linear(decoder.ff_last.norm(t), decoder.ff_last.proj_out.weight))
    torch.testing.assert_close(hidden[0], expected, atol=1e-5, rtol=1e-5)


def test_decoder_is_blind_to_padding() -> None:
    torch.manual_seed(2)
    decoder = SanmDecoder(8, 2, 2, 16).eval()
    x, enc = torch.randn(2, 5, 8), torch.randn(2, 7, 8)
    valid, seen = valid_mask(torch.tensor([5, 3]), 5), valid_mask(torch.tensor([7, 4]), 7)
    batch = decoder(x.masked_fill(~valid[..., None], torch.nan), valid, decoder.project(enc), seen[:, None, None])
    alone = decoder(x[1:, :3], valid[1:, :3], decoder.project(enc[1:, :4]), seen[1:, None, None, :4])
    torch.testing.assert_close(batch[1, :3], alone[0], atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter_of_the_decoder() -> None:
    torch.manual_seed(3)
    decoder = SanmDecoder(8, 2, 2, 16)
    hidden = decoder(
        torch.randn(2, 5, 8),
        torch.ones(2, 5, dtype=torch.bool),
        decoder.project(torch.randn(2, 7, 8)),
        torch.ones(2, 1, 1, 7, dtype=torch.bool),
    )
    check_gradients_reach_all(decoder, (hidden * torch.randn(8)).sum())


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        SanmDecoder(8, 1, 3, 16)
