import pytest
import torch

from speechnar.nn.zipformer import Zipformer, ZipformerConfig
from tests.contracts import check_gradients_reach_all, check_padding_contract

CONFIG = ZipformerConfig(
    model_dims=(8, 16, 12),
    layers_of_stacks=(1, 2, 1),
    downsampling=(1, 4, 2),
    heads_of_stacks=(2, 4, 2),
    ff_dims=(16, 24, 16),
    kernel_sizes=(7, 5, 3),
    query_head_dim=4,
    value_head_dim=3,
    position_dim=6,
    subsampling_channels=(2, 3, 4),
)


def build():
    torch.manual_seed(0)
    encoder = Zipformer(CONFIG, 23).eval()
    for parameter in encoder.parameters():  # norms and shares start alike, and hide mistakes of order
        torch.nn.init.normal_(parameter, mean=0.1, std=0.3)
    return encoder


@torch.no_grad()
def test_padding_contract():
    encoder, lens = build(), torch.tensor([97, 60, 33, 12, 9, 1])
    feats = torch.randn(6, 97, 23)
    check_padding_contract(encoder, feats, lens)
    enc, enc_lens = encoder(feats, lens)
    assert enc.shape == (6, 23, 16)  # (97 - 7) // 2 positions, halved again and rounded up
    assert enc_lens.tolist() == [23, 13, 7, 1, 1, 1]
    assert (CONFIG.model_dim, CONFIG.num_layers, CONFIG.total_subsampling) == (16, 4, 4)


def test_every_weight_learns():
    encoder = build().train()
    enc, _ = encoder(torch.randn(2, 97, 23), torch.tensor([97, 80]))
    check_gradients_reach_all(encoder, (enc * torch.randn_like(enc)).sum())


@pytest.mark.parametrize(
    ("sizes", "published"),
    [
        (
            {
                "layers_of_stacks": (2, 2, 2, 2, 2, 2),
                "ff_dims": (512, 768, 768, 768, 768, 768),
                "model_dims": (192, 256, 256, 256, 256, 256),
            },
            22_118_279,
        ),
        ({}, 64_250_603),
        (
            {
                "layers_of_stacks": (2, 2, 4, 5, 4, 2),
                "ff_dims": (512, 768, 1536, 2048, 1536, 768),
                "model_dims": (192, 256, 512, 768, 512, 256),
            },
            147_010_094,
        ),
    ],
    ids=["S", "M", "L"],
)
def test_published_sizes_have_as_many_weights(sizes, published):
    """icefall's RESULTS.md, CR-CTC on LibriSpeech: with a head of 500 pieces, and an unused vector in each block."""
    config = ZipformerConfig(**sizes)
    with torch.device("meta"):
        modules = (Zipformer(config, 80), torch.nn.Linear(config.model_dim, 500))
    count = sum(parameter.numel() for module in modules for parameter in module.parameters())
    unused = sum(dim * layers for dim, layers in zip(config.model_dims, config.layers_of_stacks, strict=True))
    assert count + unused == published


@torch.no_grad()
def test_channels_that_the_last_stack_lacks_are_those_of_the_widest():
    encoder, seen = build(), []
    encoder.stacks[1].register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    encoder.halving.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    encoder(torch.randn(1, 60, 23), torch.tensor([60]))
    assert torch.equal(seen[1][..., 12:], seen[0][..., 12:])
    assert not torch.allclose(seen[1][..., :12], seen[0][..., :12])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"downsampling": (1, 2)}, "a value for each of the 3 stacks"),
        ({"model_dims": (8, 16, 14)}, "multiples of 4"),
        ({"position_dim": 5}, "position_dim"),
    ],
)
def test_sizes_that_do_not_go_together_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ZipformerConfig(**{**CONFIG.model_dump(), **changes})
