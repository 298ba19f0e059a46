"""Convolutions against sums written out, utterance by utterance and chunk by chunk."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.context import BlockContext, Chunking, LayerCache
from speechnar.nn.conv import (
    ConformerConv,
    ConvGatingMlp,
    ConvSubsampling,
    DepthwiseConv,
    FrameJoining,
    MaskedGroupNorm,
)
from speechnar.nn.lengths import valid_mask

LENS = torch.tensor([9, 4, 1])
VALID = valid_mask(LENS, 9)


def context(**changes) -> BlockContext:
    return BlockContext(**{"valid": VALID, "attn_mask": None, **changes})


def frames(channels: int) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 9, channels).masked_fill(~VALID[..., None], torch.nan)


def sums(conv: nn.Conv1d, x: torch.Tensor, *, first: int = 0, end: int | None = None) -> torch.Tensor:
    """Return the frames [first, end) of a depthwise convolution over ``x`` (T, C), of which no later ones are seen."""
    end = len(x) if end is None else min(end, len(x))
    before = conv.num_before
    rows = []
    for t in range(first, end):
        y = conv.bias.clone()
        for k in range(conv.kernel_size[0]):
            if 0 <= t + k - before < end:
                y += conv.weight[:, 0, k] * x[t + k - before]
        rows.append(y)
    return torch.stack(rows)


@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_depthwise_convolution_is_a_sum_within_the_utterance(causal):
    torch.manual_seed(0)
    conv, x = DepthwiseConv(4, 5, causal=causal), frames(4)
    assert conv.num_before == (4 if causal else 2)
    y = conv(x, context())
    for row, length in enumerate(LENS.tolist()):
        torch.testing.assert_close(y[row, :length], sums(conv, x[row, :length]))


@torch.no_grad()
def test_leaky_padding_sees_what_stands_there():
    torch.manual_seed(0)
    conv, x = DepthwiseConv(4, 5), frames(4).nan_to_num(3.0)
    y = conv(x, context(leaky_padding=True))
    torch.testing.assert_close(y[1], sums(conv, x[1]))


@pytest.mark.parametrize("chunk_frames", [1, 2, 4, 20])
@pytest.mark.parametrize("causal", [False, True])
@torch.no_grad()
def test_chunks_see_no_later_ones(chunk_frames, causal):
    torch.manual_seed(0)
    conv, x = DepthwiseConv(4, 5, causal=causal), torch.randn(2, 9, 4)
    everything = context(valid=torch.ones(2, 9, dtype=torch.bool), chunking=Chunking(chunk_frames=chunk_frames))
    y = conv(x, everything)
    starts = range(0, 9, chunk_frames)
    for row in range(2):
        wanted = [sums(conv, x[row], first=start, end=start + chunk_frames) for start in starts]
        torch.testing.assert_close(y[row], torch.cat(wanted))
    cache = LayerCache()
    parts = []
    for start in starts:
        part = x[:, start : start + chunk_frames]
        alone = context(valid=torch.ones(part.shape[:2], dtype=torch.bool), chunking=everything.chunking, cache=cache)
        parts.append(conv(part, alone, "a name"))
    torch.testing.assert_close(torch.cat(parts, dim=1), y)
    assert list(cache.conv) == ["a name"]
    torch.testing.assert_close(cache.conv["a name"], x[:, -conv.num_before :])
    if causal:
        torch.testing.assert_close(y, conv(x, context(valid=everything.valid)))


@torch.no_grad()
def test_group_norm_is_over_the_real_frames_of_each_utterance():
    torch.manual_seed(0)
    norm, x = MaskedGroupNorm(6, eps=1e-3), frames(6) * 3 + 1
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    y = norm(x, VALID)
    for row, length in enumerate(LENS.tolist()):
        real = x[row, :length]
        normed = (real - real.mean()) / (real.var(correction=0) + 1e-3).sqrt()
        torch.testing.assert_close(y[row, :length], normed * norm.weight + norm.bias, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
@torch.no_grad()
def test_conformers_module_by_its_parts(kind):
    """Gulati et al. 2020, figure 2: pointwise and GLU, depthwise, norm, Swish, pointwise."""
    torch.manual_seed(0)
    module, x = ConformerConv(4, 3, norm=kind, norm_eps=0.1).eval(), frames(4)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    if kind == "batch":
        module.norm.running_mean.normal_()
        module.norm.running_var.uniform_(0.5, 2)
    y = module(x, context())
    for row, length in enumerate(LENS.tolist()):
        value, gate = (x[row, :length] @ module.pointwise_in.weight.T + module.pointwise_in.bias).chunk(2, dim=1)
        z = sums(module.depthwise, value / (1 + (-gate).exp()))
        if kind == "batch":
            z = (z - module.norm.running_mean) / (module.norm.running_var + module.norm.eps).sqrt()
        else:
            mean, variance = (
                (z.mean(), z.var(correction=0))
                if kind == "group"
                else (
                    z.mean(1, keepdim=True),
                    z.var(1, correction=0, keepdim=True),
                )
            )
            z = (z - mean) / (variance + (1e-5 if kind == "group" else 0.1)).sqrt()
        z = z * module.norm.weight + module.norm.bias
        wanted = (z / (1 + (-z).exp())) @ module.pointwise_out.weight.T + module.pointwise_out.bias
        torch.testing.assert_close(y[row, :length], wanted, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_gate_that_is_convolved():
    """Branchformer, section 3.3: GELU, one half times the convolution of the norm of the other."""
    torch.manual_seed(0)
    module, x = ConvGatingMlp(4, 6, 3, dropout=0.5, norm_eps=0.1).eval(), frames(4)
    fresh = module.depthwise(module.norm(torch.randn(3, 9, 3)), context())
    torch.testing.assert_close(fresh[0], torch.ones(9, 3), atol=1e-4, rtol=0)  # it starts by letting all pass
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    y = module(x, context())
    for row, length in enumerate(LENS.tolist()):
        hidden = F.gelu(x[row, :length] @ module.proj_in.weight.T + module.proj_in.bias)
        kept, gate = hidden[:, :3], hidden[:, 3:]
        gate = (gate - gate.mean(1, keepdim=True)) / (gate.var(1, correction=0, keepdim=True) + 0.1).sqrt()
        gate = sums(module.depthwise, gate * module.norm.weight + module.norm.bias)
        wanted = (kept * gate) @ module.proj_out.weight.T + module.proj_out.bias
        torch.testing.assert_close(y[row, :length], wanted, atol=1e-4, rtol=1e-4)


# Subsampling.


@pytest.mark.parametrize(("factor", "kernels"), [(4, [(3, 2)] * 2), (6, [(3, 2), (5, 3)]), (8, [(3, 2)] * 3)])
@torch.no_grad()
def test_a_frame_exists_where_all_that_it_looks_at_is_real(factor, kernels):
    """A change of an input frame reaches exactly the frames whose receptive field holds it."""
    torch.manual_seed(0)
    module = ConvSubsampling(23, 8, factor=factor, channels=4)
    field, stride = 1, 1
    for kernel, step in kernels:
        field, stride = field + (kernel - 1) * stride, stride * step
    assert stride == factor
    assert module.min_frames == field
    num_frames = field + 3 * factor + 1
    feats = torch.randn(1, num_frames, 23)
    y = module(feats)
    count = (num_frames - field) // factor + 1
    assert y.size(1) == int(module.out_lens(torch.tensor(num_frames))) == count == 4
    for place in range(num_frames):
        other = feats.clone()
        other[:, place] += 1.0
        changed = (module(other) - y).abs().sum((0, 2)) > 0
        assert changed.tolist() == [i * factor <= place < i * factor + field for i in range(count)]
    lens = torch.tensor([1, field - 1, field, field + factor - 1, field + factor])
    assert module.out_lens(lens).tolist() == [1, 1, 1, 1, 2]


@torch.no_grad()
def test_too_short_is_extended_by_zeros():
    torch.manual_seed(0)
    module, feats = ConvSubsampling(23, 8, factor=4), torch.randn(2, 3, 23)
    torch.testing.assert_close(module(feats), module(F.pad(feats, (0, 0, 0, 4))))


@torch.no_grad()
def test_channels_are_flattened_before_features():
    """ESPnet's order, which its checkpoints need."""
    torch.manual_seed(0)
    module, feats = ConvSubsampling(23, 8, factor=4, channels=3), torch.randn(1, 15, 23)
    y = F.relu(module.convs[1](F.relu(module.convs[0](feats[None]))))[0]  # (C, T', F')
    rows = torch.stack([torch.cat([y[channel, t] for channel in range(3)]) for t in range(y.size(1))])
    torch.testing.assert_close(module(feats)[0], rows @ module.proj.weight.T + module.proj.bias)


@torch.no_grad()
def test_padded_subsampling_is_blind_to_what_follows():
    torch.manual_seed(0)
    module = ConvSubsampling(20, 8, factor=4, channels=4, padding=1)
    lens = torch.tensor([13, 8, 5, 2])
    feats = torch.randn(4, 13, 20) * valid_mask(lens, 13)[..., None]
    out_lens = module.out_lens(lens)
    assert out_lens.tolist() == [4, 2, 2, 1]  # a quarter, rounded up
    together = module(feats, lens)
    for row, (length, num_out) in enumerate(zip(lens.tolist(), out_lens.tolist(), strict=True)):
        alone = module(feats[row : row + 1, :length], lens[row : row + 1])
        assert alone.size(1) == num_out
        torch.testing.assert_close(together[row, :num_out], alone[0])


@torch.no_grad()
def test_separable_subsampling_mixes_frames_of_each_channel_then_channels():
    """Rekesh et al. 2023: a depthwise convolution, then one of width 1; the first sees features and is as before."""
    torch.manual_seed(0)
    module = ConvSubsampling(16, 6, factor=8, channels=4, padding=1, separable=True)
    dense = ConvSubsampling(16, 6, factor=8, channels=4, padding=1)
    dense.proj, dense.convs[0] = module.proj, module.convs[0]
    for conv, (depthwise, pointwise) in zip(dense.convs[1:], list(module.convs)[1:], strict=True):
        mix = pointwise.weight[:, :, 0, 0]
        conv.weight.copy_(mix[:, :, None, None] * depthwise.weight[None, :, 0])
        conv.bias.copy_(mix @ depthwise.bias + pointwise.bias)
    lens = torch.tensor([50, 17, 1])
    feats = torch.randn(3, 50, 16) * valid_mask(lens, 50)[..., None]
    assert module.out_lens(lens).tolist() == [7, 3, 1]
    torch.testing.assert_close(module(feats, lens), dense(feats, lens), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_frames_are_joined_and_normed_and_a_last_incomplete_group_may_not_count():
    torch.manual_seed(0)
    feats, lens = torch.randn(1, 7, 3), torch.tensor([7, 6, 1])
    counted, whole = FrameJoining(3, 5, factor=2), FrameJoining(3, 5, factor=2, partial=False, norm_eps=0.1)
    assert counted.out_lens(lens).tolist() == [4, 3, 1]
    assert whole.out_lens(lens).tolist() == [3, 3, 1]
    nn.init.normal_(whole.norm.weight)
    joined = feats[:, :6].reshape(1, 3, 6)
    torch.testing.assert_close(whole(feats), whole.proj(F.layer_norm(joined, (6,), whole.norm.weight, eps=0.1)))
    torch.testing.assert_close(counted(feats)[:, :3], counted.proj(joined))
    torch.testing.assert_close(counted(feats)[:, 3], counted.proj(F.pad(feats[:, 6], (0, 3))))
    assert whole(feats[:, :1]).shape == (1, 1, 5)


@torch.no_grad()
def test_joined_frames_are_followed_by_their_slopes():
    """Of t * t it is 2 t within, and half a step at the ends, which are their own neighbours."""
    joining = FrameJoining(1, 4, factor=2, deltas=True)
    nn.init.eye_(joining.proj.weight)
    nn.init.zeros_(joining.proj.bias)
    frames = torch.tensor([0.0, 1.0, 4.0, 9.0, 16.0])
    feats = torch.stack([frames, frames * (torch.arange(5) < 3)])[..., None]
    long, short = joining(feats, torch.tensor([5, 3]))
    assert long.tolist() == [[0, 0.5, 1, 2], [4, 4, 9, 6], [16, 3.5, 0, 0]]
    assert short.tolist() == [[0, 0.5, 1, 2], [4, 1.5, 0, 0], [0, 0, 0, 0]]
    assert joining(feats[1:, :3]).tolist() == [short[:2].tolist()]


def test_espnets_rule_counts_frames_whose_first_input_is_real():
    module = ConvSubsampling(23, 8, factor=4)
    found = module.leaky_out_lens(torch.tensor([23, 13, 12, 1]), 23)
    assert found.tolist() == [5, 4, 3, 1]  # frames begin at 0, 4, 8, 12 and 16


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: DepthwiseConv(4, 4), "kernel_size must be odd, got 4"),
        (lambda: ConvGatingMlp(4, 5, 3, dropout=0.0, norm_eps=1e-5), "hidden_dim must be even, got 5"),
        (lambda: ConvSubsampling(23, 8, factor=5), r"subsampling must be one of \[4, 6, 8\], got 5"),
        (lambda: ConvSubsampling(6, 8, factor=4), "subsampling by 4 needs more features than it was given"),
    ],
)
def test_wrong_sizes_are_named(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
