"""What CASS-NAT asks of the encoder: clipped distances, padded subsampling, one group, blocks without a last norm."""

import pytest
import torch
from torch import nn

from speechnar.errors import ConfigError
from speechnar.nn.context import BlockContext, Chunking
from speechnar.nn.conv import ConvSubsampling, MaskedGroupNorm
from speechnar.nn.encoder import ConformerConfig, Encoder
from speechnar.nn.lengths import valid_mask
from speechnar.nn.positions import sinusoids
from tests.contracts import check_gradients_reach_all, check_padding_contract, check_stream_equals_whole
from tests.unit.nn.test_encoder import build

BASE = ConformerConfig(
    model_dim=16, num_layers=2, num_heads=2, ff_dim=32, kernel_size=7, positions="clipped", max_distance=3
)
CASSNAT = BASE.model_copy(update={"conv_norm": "group", "block_norm": False, "subsampling_padding": 1})


@pytest.mark.parametrize("config", [BASE, CASSNAT], ids=["clipped", "cassnat"])
@torch.no_grad()
def test_padding_contract(config):
    check_padding_contract(build(config), torch.randn(6, 97, 23), torch.tensor([97, 60, 39, 14, 3, 1]))


def test_gradients_reach_every_parameter():
    encoder = build(CASSNAT).train()
    enc, _ = encoder(torch.randn(2, 60, 23), torch.tensor([60, 43]))
    check_gradients_reach_all(encoder, (enc * torch.randn_like(enc)).sum())


@torch.no_grad()
def test_distances_that_are_never_clipped_equal_relative_positions():
    clipped = build(BASE.model_copy(update={"max_distance": 40}))
    relative = Encoder(BASE.model_copy(update={"positions": "relative"}), 23).eval()
    relative.load_state_dict({k: v for k, v in clipped.state_dict().items() if k != "distances"})
    clipped.distances.copy_(sinusoids(torch.arange(40, -41, -1), 16))  # Transformer-XL counts query - key
    feats, lens = torch.randn(2, 97, 23), torch.tensor([97, 50])
    (ours, enc_lens), (theirs, _) = clipped(feats, lens), relative(feats, lens)
    for i, n in enumerate(enc_lens.tolist()):
        torch.testing.assert_close(ours[i, :n], theirs[i, :n])


@torch.no_grad()
def test_distances_beyond_the_limit_are_not_told_apart():
    encoder = build(BASE.model_copy(update={"num_layers": 1, "max_distance": 2}))
    attention = encoder.layers[0].attention
    for name in ("qkv", "out"):
        nn.init.normal_(getattr(attention, name).weight)
    q, k = torch.randn(1, 2, 7, 8), torch.randn(1, 2, 9, 8)  # the queries are the last 7 of 9 positions
    context = BlockContext(valid=torch.ones(1, 7), attn_mask=None, positions=encoder.distances)
    found = attention._clipped_scores(q, k, context)
    table = attention.pos(encoder.distances).view(5, 2, 8)
    for i in range(7):
        for j in range(9):
            row = table[min(max(j - (i + 2), -2), 2) + 2]
            expected = ((q[0, :, i] + attention.distance_bias) * row).sum(-1) / 8**0.5
            torch.testing.assert_close(found[0, :, i, j], expected)


@torch.no_grad()
def test_streaming_with_clipped_distances():
    encoder, feats = build(BASE), torch.randn(2, 143, 23)
    for chunking in (Chunking(chunk_frames=2, left_chunks=2), Chunking(chunk_frames=5)):
        check_stream_equals_whole(encoder, feats, chunking, [1, 2, 3, 50])


@pytest.mark.parametrize("change", [{"conv_norm": "group"}, {"subsampling_padding": 1}])
def test_no_chunks_for_what_looks_beyond_them(change):
    encoder = build(BASE.model_copy(update=change))
    with pytest.raises(ConfigError, match="chunks need subsampling_padding 0"):
        encoder.stream(Chunking(chunk_frames=4))
    with pytest.raises(ConfigError, match="chunks need subsampling_padding 0"):
        encoder(torch.randn(1, 30, 23), torch.tensor([30]), chunking=Chunking(chunk_frames=4))


@torch.no_grad()
def test_group_norm_equals_torch_alone_and_ignores_padding():
    torch.manual_seed(0)
    norm, reference = MaskedGroupNorm(6), nn.GroupNorm(1, 6)
    for parameter in reference.parameters():
        nn.init.normal_(parameter)
    norm.load_state_dict(reference.state_dict())
    x, lens = 3 + torch.randn(3, 8, 6), torch.tensor([8, 3, 1])
    found = norm(x.masked_fill(~valid_mask(lens, 8)[..., None], torch.nan), valid_mask(lens, 8))
    for i, n in enumerate(lens.tolist()):
        torch.testing.assert_close(found[i : i + 1, :n].transpose(1, 2), reference(x[i : i + 1, :n].transpose(1, 2)))


@pytest.mark.parametrize("num_frames", [1, 2, 3, 4, 5, 8, 9])
def test_padded_subsampling_counts_the_last_incomplete_frame(num_frames):
    subsampling = ConvSubsampling(7, 16, padding=1)
    assert subsampling(torch.randn(1, num_frames, 7)).size(1) == -(-num_frames // 4)
    assert subsampling.out_lens(torch.tensor([num_frames])).tolist() == [-(-num_frames // 4)]
    assert subsampling.proj.in_features == 16 * 2


@torch.no_grad()
def test_running_over_a_sequence_equals_encoding_it():
    encoder = build(CASSNAT)
    feats, lens = torch.randn(2, 61, 23), torch.tensor([61, 30])
    whole, enc_lens = encoder(feats, lens)
    x, embedded_lens = encoder.embed(feats, lens)
    assert torch.equal(enc_lens, embedded_lens)
    torch.testing.assert_close(encoder.run(x, valid_mask(enc_lens, x.size(1))), whole)
    with pytest.raises(ConfigError, match="needs relative positions"):
        build(BASE.model_copy(update={"positions": "rotary"})).run(x, valid_mask(enc_lens, x.size(1)))
