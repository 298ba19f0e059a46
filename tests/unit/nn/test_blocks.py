"""The blocks as the figures of their papers draw them, put together from their own parts."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from speechnar.nn.blocks import ConformerBlock, EBranchformerBlock, FeedForward
from speechnar.nn.context import BlockContext

DIM = 8
SIZES = {
    "positions": "absolute",
    "dropout": 0.5,  # of no effect in evaluation mode
    "attention_dropout": 0.5,
    "norm_eps": 0.01,
}


def randomize(block: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.4)
    return block.eval()


def conformer(**changes) -> ConformerBlock:
    values = {"kernel_size": 3, "conv_norm": "layer", "cross_attention": True, **SIZES, **changes}
    return randomize(ConformerBlock(DIM, 2, 12, **values))


def branchformer(**changes) -> EBranchformerBlock:
    values = {"gate_dim": 12, "kernel_size": 3, "merge_kernel_size": 5, "cross_attention": True, **SIZES, **changes}
    return randomize(EBranchformerBlock(DIM, 2, 12, **values))


def make_context(**changes) -> BlockContext:
    values = {
        "valid": torch.ones(2, 6, dtype=torch.bool),
        "attn_mask": None,
        "memory": torch.randn(2, 3, DIM),
        "memory_mask": torch.tensor([[True, True, True], [True, False, False]])[:, None, None],
    }
    return BlockContext(**{**values, **changes})


def norm(layer: nn.LayerNorm, x: torch.Tensor) -> torch.Tensor:
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
    return (x - mean) / (variance + 0.01).sqrt() * layer.weight + layer.bias


def feed_forward(module: FeedForward, x: torch.Tensor, activation=F.silu) -> torch.Tensor:
    hidden = activation(norm(module[0], x) @ module[1].weight.T + module[1].bias)
    return hidden @ module[4].weight.T + module[4].bias


@torch.no_grad()
def test_feed_forward_is_two_layers_behind_a_norm():
    x = torch.randn(2, 3, DIM)
    plain = randomize(FeedForward(DIM, 12, dropout=0.5, norm_eps=0.01))
    torch.testing.assert_close(plain(x), feed_forward(plain, x))
    other = randomize(FeedForward(DIM, 12, dropout=0.5, norm_eps=0.01, activation=nn.ReLU()))
    torch.testing.assert_close(other(x), feed_forward(other, x, F.relu))


@pytest.mark.parametrize("last_norm", [True, False])
@torch.no_grad()
def test_a_conformer_block(last_norm):
    """Gulati et al. 2020, figure 1: half a feed-forward, attention, convolution, half a feed-forward, norm."""
    block, context, x = conformer(last_norm=last_norm), make_context(), torch.randn(2, 6, DIM)
    y = x + feed_forward(block.ff_macaron, x) / 2
    y = y + block.attention(norm(block.norm_attention, y), context)
    y = y + block.conv(norm(block.norm_conv, y), context)
    y = y + feed_forward(block.ff, y) / 2
    prompt = block.prompt_attention
    y = y + prompt.attention(norm(prompt.norm, y), context.memory, context.memory_mask)
    y = norm(block.norm_out, y) if last_norm else y
    torch.testing.assert_close(block(x, context), y, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_an_e_branchformer_block():
    """Kim et al. 2022, figure 2: both branches see the same frames; a convolution of both is added to both."""
    block, context, x = branchformer(), make_context(), torch.randn(2, 6, DIM)
    y = x + feed_forward(block.ff_macaron, x) / 2
    attended = block.attention(norm(block.norm_attention, y), context)
    gated = block.gating(norm(block.norm_gating, y), context)
    both = torch.cat([attended, gated], dim=-1)
    y = y + (both + block.merge_conv(both, context)) @ block.merge.weight.T + block.merge.bias
    y = y + feed_forward(block.ff, y) / 2
    prompt = block.prompt_attention
    y = y + prompt.attention(norm(prompt.norm, y), context.memory, context.memory_mask)
    torch.testing.assert_close(block(x, context), norm(block.norm_out, y), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("build", [conformer, branchformer])
@torch.no_grad()
def test_without_a_memory_a_block_is_as_one_that_has_no_attention_to_it(build):
    block, bare, x = build(), build(cross_attention=False), torch.randn(2, 6, DIM)
    assert bare.prompt_attention is None
    bare.load_state_dict({name: w for name, w in block.state_dict().items() if "prompt" not in name})
    context = make_context()
    alone = replace(context, memory=None, memory_mask=None)
    assert torch.equal(block(x, alone), bare(x, alone))
    assert torch.equal(bare(x, context), bare(x, alone))
    assert not torch.allclose(block(x, context), block(x, alone), atol=1e-3)


@pytest.mark.parametrize("build", [conformer, branchformer])
@torch.no_grad()
def test_a_residual_path_leaves_silent_branches_out(build):
    """With every branch's last layer at zero, all that is left of a block is its norm."""
    block, x = build(), torch.randn(2, 6, DIM)
    for name, parameter in block.named_parameters():
        if name.startswith(("ff.4", "ff_macaron.4", "attention.out", "conv.pointwise_out", "merge.")) or (
            "attention.out" in name
        ):
            parameter.zero_()
    torch.testing.assert_close(block(x, make_context()), norm(block.norm_out, x), atol=1e-5, rtol=1e-4)
