"""wav2vec 2.0's network: against torch's own layers, padding, freezing, masks, and what stands on it."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.encoder import ConformerConfig
from speechnar.nn.lengths import valid_mask
from speechnar.nn.wav2vec2 import (
    KERNELS,
    MIN_SAMPLES,
    STRIDES,
    ConvPositions,
    Wav2Vec2Config,
    Wav2Vec2Encoder,
    Wav2Vec2Trunk,
    Wav2Vec2TrunkConfig,
)
from tests.contracts import check_gradients_reach_all, check_padding_contract

BASE = Wav2Vec2Config.debug()
LARGE = BASE.model_copy(update={"conv_norm": "layer", "conv_bias": True, "norm_first": True, "position_kernel": 7})
KINDS = {"base": BASE, "large": LARGE}
LENS = torch.tensor([4000, 2901, 399])


def make(kind="base", **changes) -> Wav2Vec2Encoder:
    torch.manual_seed(0)
    encoder = Wav2Vec2Encoder(KINDS[kind].model_copy(update=changes))
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" in name or name.endswith("bias") or name == "positions.magnitude":
                parameter.add_(0.1 * torch.randn_like(parameter))
    return encoder.eval()


def whole(encoder, feats, feat_lens):
    return encoder(*encoder.frozen(feats, feat_lens))


def make_samples(batch=3, size=4000):
    return torch.randn(batch, size, 1, generator=torch.Generator().manual_seed(1))


def torch_layers(encoder, *, norm_first):
    """torch's own Transformer layers with the same weights: an implementation that is not ours."""
    layers = []
    for mine in encoder.layers:
        other = nn.TransformerEncoderLayer(
            32, 2, 64, dropout=0.0, activation="gelu", batch_first=True, norm_first=norm_first, layer_norm_eps=1e-5
        ).eval()
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
        layers.append(other)
    return layers


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_it_is_what_torchs_own_layers_compute(kind):
    encoder = make(kind)
    samples = make_samples(2)
    x = samples.mT
    convolutions = encoder.convolutions
    for index, (conv, stride) in enumerate(zip(convolutions.convs, STRIDES, strict=True)):
        x = F.conv1d(x, conv.weight, conv.bias, stride=stride)
        if kind == "large":
            norm = convolutions.norms[index]
            x = F.layer_norm(x.mT, (16,), norm.weight, norm.bias).mT
        elif index == 0:  # statistics over time, a channel at a time
            norm = convolutions.norms[0]
            x = (x - x.mean(2, keepdim=True)) / (x.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
            x = x * norm.weight[:, None] + norm.bias[:, None]
        x = F.gelu(x)
    frames, lens = encoder.frozen(samples, torch.tensor([4000, 4000]))
    assert lens.tolist() == [12, 12]
    torch.testing.assert_close(frames, x.mT, atol=1e-5, rtol=1e-4)
    projection = encoder.projection
    x = projection.proj(F.layer_norm(frames, (16,), projection.norm.weight, projection.norm.bias))
    positions = encoder.positions
    conv = nn.utils.parametrizations.weight_norm(
        nn.Conv1d(32, 32, positions.direction.size(2), padding=positions.direction.size(2) // 2, groups=4), dim=2
    )
    conv.parametrizations.weight.original0.copy_(positions.magnitude)
    conv.parametrizations.weight.original1.copy_(positions.direction)
    conv.bias.copy_(positions.bias)
    x = x + F.gelu(conv(x.mT)[..., :12]).mT
    if kind == "base":
        x = encoder.norm_in(x)
    for layer in torch_layers(encoder, norm_first=kind == "large"):
        x = layer(x)
    if kind == "large":
        x = encoder.norm(x)
    found, _ = encoder(frames, lens)
    torch.testing.assert_close(found, x, atol=1e-5, rtol=1e-4)


def test_a_frame_sees_25_ms_every_20():
    assert Wav2Vec2Config.subsampling == 320
    field, hop = 1, 1
    for kernel, stride in zip(KERNELS, STRIDES, strict=True):
        field, hop = field + (kernel - 1) * hop, hop * stride
    assert (field, hop) == (MIN_SAMPLES, 320)
    encoder = make()
    for size, expected in ((0, 1), (1, 1), (400, 1), (719, 1), (720, 2), (16000, 49)):
        frames, lens = encoder.frozen(torch.randn(1, size, 1), torch.tensor([size]))
        assert frames.shape == (1, expected, 16)
        assert lens.tolist() == [expected]


@pytest.mark.parametrize("frozen_layers", [0, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_utterance_is_encoded_as_if_it_were_alone(kind, frozen_layers):
    """The group norm of the base models, over time, is where transformers has it otherwise."""
    encoder = make(kind, frozen_layers=frozen_layers)
    check_padding_contract(lambda x, lens: whole(encoder, x, lens), make_samples(), LENS)


@torch.no_grad()
def test_a_group_norm_takes_out_level_and_offset():
    encoder, samples = make(), make_samples(1)
    lens = torch.tensor([4000])
    torch.testing.assert_close(
        encoder.frozen(3 * samples - 2, lens)[0], encoder.frozen(samples, lens)[0], atol=1e-3, rtol=1e-3
    )
    other = make("large")
    assert (other.frozen(3 * samples - 2, lens)[0] - other.frozen(samples, lens)[0]).abs().max() > 0.05


@pytest.mark.parametrize("frozen_layers", [0, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_freezing_changes_no_output_and_gives_no_gradient(kind, frozen_layers):
    samples, lens = make_samples(2), torch.tensor([4000, 3100])
    free, part = make(kind), make(kind, frozen_layers=frozen_layers)
    part.load_state_dict(free.state_dict())
    states, state_lens = part.frozen(samples, lens)
    assert states.size(2) == part.num_features == (32 if frozen_layers else 16)
    assert not states.requires_grad
    found, _ = part(states, state_lens)
    torch.testing.assert_close(found, whole(free, samples, lens)[0])
    trained = {name for name, parameter in part.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("convolutions") for name in trained)  # never are
    assert ("positions.direction" in trained) == (frozen_layers == 0)
    assert (not trained) == (frozen_layers == 3)
    if trained:
        # What no frame was masked for does not learn; the sum of a normalised vector would not, either.
        idle = {name for name, _ in part.named_parameters()} - trained | {"projection.mask_embed"}
        check_gradients_reach_all(part, (found * torch.randn_like(found)).sum(), except_for=tuple(idle))
        assert all(p.grad is None for name, p in part.named_parameters() if name not in trained)


@torch.no_grad()
def test_an_emptied_frame_becomes_the_embedding_of_what_is_masked():
    encoder = make()
    frames, lens = encoder.frozen(make_samples(2), torch.tensor([4000, 3100]))
    masked = frames.clone()
    masked[0, 3:5] = 0.0
    projected, expected = encoder.projection(masked), encoder.projection(frames)
    expected[0, 3:5] = encoder.projection.mask_embed
    expected[1, int(lens[1]) :] = encoder.projection.mask_embed  # padding is 0 as well, and is taken out behind it
    torch.testing.assert_close(projected, expected)
    out, plain = encoder(masked, lens)[0], encoder(frames, lens)[0]
    assert (out[0] - plain[0]).abs().max() > 0.01
    torch.testing.assert_close(out[1], plain[1])


@torch.no_grad()
def test_any_sequence_can_be_run_and_read_between_its_layers():
    """UniEnc puts token embeddings behind the frames."""
    encoder, seen = make(), []
    frames, lens = encoder.frozen(make_samples(2), torch.tensor([4000, 3100]))
    x, valid = encoder.projection(frames), valid_mask(lens, frames.size(1))

    def hook(number, y):
        seen.append(number)
        return y + 1.0 if number == 2 else y

    found = encoder.run(x, valid)
    torch.testing.assert_close(found, encoder(frames, lens)[0])
    changed = encoder.run(x, valid, after_layer=hook)
    assert seen == [1, 2, 3]
    assert (changed - found).abs().max() > 0.01
    longer = torch.cat([x[:1], torch.randn(1, 4, 32)], dim=1)
    assert encoder.run(longer, torch.ones(1, longer.size(1), dtype=torch.bool)).shape == longer.shape


@torch.no_grad()
def test_positions_begin_with_weights_as_they_are_drawn():
    positions = ConvPositions(32, 8, 4)
    x = torch.randn(1, 20, 32)
    expected = F.gelu(F.conv1d(x.mT, positions.direction, positions.bias, padding=4, groups=4)[..., :20]).mT
    torch.testing.assert_close(positions(x), expected)
    positions.direction *= 3.0  # only its direction counts
    torch.testing.assert_close(positions(x), expected)


def test_dropout_is_of_what_is_trained():
    encoder = make(dropout=0.5).train()
    frozen = make(dropout=0.5, frozen_layers=3).train()
    samples, lens = make_samples(1), torch.tensor([4000])
    assert not torch.equal(whole(encoder, samples, lens)[0], whole(encoder, samples, lens)[0])
    assert torch.equal(whole(frozen, samples, lens)[0], whole(frozen, samples, lens)[0])
    assert not encoder.layers[0].training or encoder.layers[0].dropout.p == 0.5


@pytest.mark.parametrize(("subsampling", "expected"), [(None, [12, 8, 1]), (1, [12, 8, 1]), (2, [6, 4, 1])])
@torch.no_grad()
def test_blocks_stand_on_joined_frames_or_none_do(subsampling, expected):
    sizes = {"model_dim": 24, "num_layers": 2, "num_heads": 2, "ff_dim": 48, "kernel_size": 5, "positions": "rotary"}
    blocks = None if subsampling is None else ConformerConfig(**sizes, subsampling=subsampling)
    config = Wav2Vec2TrunkConfig(wav2vec2=BASE, blocks=blocks)
    trunk = Wav2Vec2Trunk(config, 1).eval()
    assert config.subsampling == 320 * (subsampling or 1)
    assert (config.model_dim, config.num_layers) == ((24, 2) if blocks else (32, 0))

    def encode(samples, sample_lens):
        states, lens = whole(trunk.pretrained, samples, sample_lens)
        return trunk.blocks(states, lens) if trunk.blocks else (states, lens)

    out, lens = encode(make_samples(), LENS)
    assert lens.tolist() == expected
    assert out.shape == (3, expected[0], config.model_dim)
    check_padding_contract(encode, make_samples(), LENS)


def test_published_sizes():
    """Of transformers' models of these names, pretraining's parts left out: HuBERT base and large."""
    with torch.device("meta"):
        sizes = [Wav2Vec2Encoder(config) for config in (Wav2Vec2Config(), Wav2Vec2Config.large())]
    assert [sum(p.numel() for p in encoder.parameters()) for encoder in sizes] == [94_371_712, 315_438_720]


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"reads samples \(frontend waveform\), got features of 80 channels"):
        Wav2Vec2Trunk(Wav2Vec2TrunkConfig(wav2vec2=BASE), 80)
    with pytest.raises(ValidationError, match="frozen_layers must be at most num_layers=12"):
        Wav2Vec2Config(frozen_layers=13)
    with pytest.raises(ValidationError, match="multiple of position_groups=5"):
        Wav2Vec2Config(position_groups=5)
