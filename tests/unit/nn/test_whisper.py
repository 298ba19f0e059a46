"""Whisper's encoder: against torch's own layers, padding, freezing, and what stands on it."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.encoder import ConformerConfig
from speechnar.nn.whisper import WhisperConfig, WhisperEncoder, WhisperTrunk, WhisperTrunkConfig, whisper_positions
from tests.contracts import check_gradients_reach_all, check_padding_contract

TINY = WhisperConfig(num_mels=20, model_dim=32, num_layers=3, num_heads=2)


def make(**changes) -> WhisperEncoder:
    torch.manual_seed(0)
    encoder = WhisperEncoder(TINY.model_copy(update=changes))
    for name, parameter in encoder.named_parameters():
        if "norm" in name or name.endswith("bias"):
            parameter.data += 0.1 * torch.randn_like(parameter)
    for layer in encoder.layers:
        layer.attention.qkv.bias.data[32:64] = 0.0
    return encoder.eval()


def whole(encoder, feats, feat_lens):
    return encoder(*encoder.frozen(feats, feat_lens))


def make_trunk(frozen_layers=3, subsampling=2) -> WhisperTrunk:
    torch.manual_seed(0)
    blocks = ConformerConfig(
        model_dim=24, num_layers=2, num_heads=2, ff_dim=48, kernel_size=5, positions="rotary", subsampling=subsampling
    )
    whisper = TINY.model_copy(update={"frozen_layers": frozen_layers})
    return WhisperTrunk(WhisperTrunkConfig(whisper=whisper, blocks=blocks), 20).eval()


@torch.no_grad()
def test_layers_are_those_of_torch():
    """torch's own Transformer, given the same weights: an implementation that is not ours."""
    encoder = make()
    theirs = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(
            32, 2, 128, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, layer_norm_eps=1e-5
        ),
        3,
        norm=nn.LayerNorm(32),
        enable_nested_tensor=False,
    ).eval()
    for mine, other in zip(encoder.layers, theirs.layers, strict=True):
        other.self_attn.in_proj_weight.copy_(mine.attention.qkv.weight)
        other.self_attn.in_proj_bias.copy_(mine.attention.qkv.bias)
        pairs = [
            (other.self_attn.out_proj, mine.attention.out),
            (other.norm1, mine.norm_attention),
            (other.norm2, mine.ff[0]),
            (other.linear1, mine.ff[1]),
            (other.linear2, mine.ff[4]),
        ]
        for target, source in pairs:
            target.load_state_dict(source.state_dict())
    theirs.norm.load_state_dict(encoder.norm.state_dict())
    feats = torch.randn(2, 50, 20)
    x = F.gelu(F.conv1d(feats.mT, encoder.conv1.weight, encoder.conv1.bias, padding=1))
    x = F.gelu(F.conv1d(x, encoder.conv2.weight, encoder.conv2.bias, stride=2, padding=1)).mT
    expected = theirs(x + whisper_positions(25, 32, x.device))
    found, lens = whole(encoder, feats, torch.tensor([50, 50]))
    assert lens.tolist() == [25, 25]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_positions_have_known_values():
    table = whisper_positions(1600, 64, torch.device("cpu"))
    assert table[0].tolist() == [0.0] * 32 + [1.0] * 32
    torch.testing.assert_close(table[7, 0], torch.tensor(7.0).sin())
    torch.testing.assert_close(table[7, 63], torch.tensor(7.0 / 10000).cos())  # rates fall to exactly 1 / 10000
    assert len(table) == 1600  # beyond Whisper's 1500


@pytest.mark.parametrize("frozen_layers", [0, 2, 3])
@torch.no_grad()
def test_an_utterance_is_encoded_as_if_it_were_alone(frozen_layers):
    encoder = make(frozen_layers=frozen_layers)
    feats = torch.randn(3, 41, 20)
    check_padding_contract(lambda x, lens: whole(encoder, x, lens), feats, torch.tensor([41, 40, 3]))


@pytest.mark.parametrize("frozen_layers", [0, 2, 3])
def test_freezing_changes_no_output_and_gives_no_gradient(frozen_layers):
    feats, lens = torch.randn(2, 30, 20), torch.tensor([30, 21])
    free, part = make(), make(frozen_layers=frozen_layers)
    part.load_state_dict(free.state_dict())
    states, state_lens = part.frozen(feats, lens)
    assert states.size(2) == part.num_features == (32 if frozen_layers else 20)
    found, _ = part(states, state_lens)
    torch.testing.assert_close(found, whole(free, feats, lens)[0])
    trained = [name for name, parameter in part.named_parameters() if parameter.requires_grad]
    assert (not trained) == (frozen_layers == 3)
    assert any(name.startswith("conv1") for name in trained) == (frozen_layers == 0)
    if trained:
        loss = found.square().sum() + found.sum()
        untrained = {name for name, _ in part.named_parameters()} - set(trained)
        check_gradients_reach_all(part, loss, except_for=tuple(untrained))
        assert all(parameter.grad is None for name, parameter in part.named_parameters() if name in untrained)


def test_no_gradient_moves_the_bias_of_keys():
    encoder = make()
    out, _ = whole(encoder, torch.randn(1, 30, 20), torch.tensor([30]))
    (out * torch.randn_like(out)).sum().backward()
    gradient = encoder.layers[0].attention.qkv.bias.grad
    assert gradient[32:64].abs().max() < 1e-5 < gradient[:32].abs().max()


@pytest.mark.parametrize(("subsampling", "expected"), [(1, [21, 11, 1]), (2, [11, 6, 1])])
@torch.no_grad()
def test_blocks_stand_on_joined_positions(subsampling, expected):
    trunk = make_trunk(subsampling=subsampling)
    lens = torch.tensor([41, 22, 2])
    assert trunk.config.subsampling == 2 * subsampling

    def encode(feats, feat_lens):
        return trunk.blocks(*whole(trunk.whisper, feats, feat_lens))

    out, out_lens = encode(torch.randn(3, 41, 20), lens)
    assert out_lens.tolist() == expected
    assert out.shape == (3, expected[0], 24)
    check_padding_contract(encode, torch.randn(3, 41, 20), lens)


def test_sizes_that_do_not_fit_are_refused():
    trunk = make_trunk()
    with pytest.raises(ConfigError, match="20 mel bands, the front end has 80"):
        WhisperTrunk(trunk.config, 80)
    with pytest.raises(ValidationError, match="frozen_layers must be at most num_layers=6"):
        WhisperConfig(frozen_layers=7)
