"""An adapter that halves the frames, against its parts written out for each utterance alone."""

import torch
from torch.nn import functional as F

from speechnar.nn.adapter import HalvingAdapter
from speechnar.nn.context import BlockContext
from speechnar.nn.lengths import valid_mask
from tests.contracts import check_gradients_reach_all


def build():
    torch.manual_seed(0)
    adapter = HalvingAdapter(8, 2, 12, dropout=0.0, attention_dropout=0.0, norm_eps=0.1)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return adapter.eval()


@torch.no_grad()
def test_it_is_its_parts_and_blind_to_padding():
    adapter, lens = build(), torch.tensor([9, 6, 1])
    x = torch.randn(3, 9, 8).masked_fill(~valid_mask(lens, 9)[..., None], torch.nan)
    y, y_lens = adapter(x, lens)
    assert y_lens.tolist() == [5, 3, 1]

    def strided(part, frames):
        """A frame of the output sees its two neighbours among those of even numbers."""
        normed = F.pad(F.layer_norm(frames, (8,), part.norm.weight, part.norm.bias, 0.1), (0, 0, 1, 1))
        seen = [normed[t : t + 3] for t in range(0, len(frames), 2)]
        value, gate = torch.stack(
            [torch.einsum("kc,ock->o", window, part.conv.weight) + part.conv.bias for window in seen]
        ).chunk(2, dim=1)
        return value * gate.sigmoid()

    for row, length in enumerate(lens.tolist()):
        frames = x[row, :length]
        joined = strided(adapter.joined, frames)[None]
        context = BlockContext(valid=torch.ones(joined.shape[:2], dtype=torch.bool), attn_mask=None)
        z = strided(adapter.residual, frames) + adapter.attention(joined, context)[0]
        norm, up, relu, _, down, _ = adapter.ff
        wanted = z + down(relu(up(norm(z))))
        torch.testing.assert_close(y[row, : len(wanted)], wanted, atol=1e-4, rtol=1e-4)


def test_gradients_reach_every_parameter():
    adapter = build()
    y, _ = adapter(torch.randn(2, 7, 8), torch.tensor([7, 4]))
    check_gradients_reach_all(adapter, (y * torch.randn_like(y)).sum())
