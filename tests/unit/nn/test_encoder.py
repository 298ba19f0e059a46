import pytest
import torch

from speechnar.errors import ConfigError, ShapeError
from speechnar.nn.attention import SelfAttention
from speechnar.nn.context import BlockContext, Chunking
from speechnar.nn.encoder import BranchformerConfig, ConformerConfig, EBranchformerConfig, Encoder, TransformerConfig
from tests.contracts import check_gradients_reach_all, check_padding_contract, check_stream_equals_whole

CONFORMER = ConformerConfig(model_dim=16, num_layers=2, num_heads=2, ff_dim=32, kernel_size=7, cross_attention_every=2)
BRANCHFORMER = EBranchformerConfig(
    model_dim=16,
    num_layers=2,
    num_heads=2,
    ff_dim=32,
    gate_dim=32,
    kernel_size=7,
    merge_kernel_size=5,
    cross_attention_every=2,
)
CONFIGS = [
    config.model_copy(update={"positions": positions, "subsampling": subsampling})
    for config in (CONFORMER, BRANCHFORMER)
    for positions, subsampling in (("absolute", 8), ("relative", 4), ("rotary", 6))
]
CONFIGS.append(  # w2v-BERT 2.0's options
    CONFORMER.model_copy(
        update={
            "positions": "shaw",
            "max_distance": 5,
            "max_distance_ahead": 2,
            "causal_conv": True,
            "subsampling": 2,
            "joining_norm": True,
            "joining_partial": False,
            "output_norm": False,
        }
    )
)
NAMES = [f"{config.kind}-{config.positions}-{config.subsampling}x" for config in CONFIGS]


def build(config, num_features=23):
    torch.manual_seed(0)
    encoder = Encoder(config, num_features).eval()
    for parameter in encoder.parameters():
        if parameter.dim() == 1:  # biases start at 0 and hide sign and order mistakes
            torch.nn.init.normal_(parameter, std=0.3)
    return encoder


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@torch.no_grad()
def test_padding_contract(config):
    feats = torch.randn(5, 97, 23)
    check_padding_contract(build(config), feats, torch.tensor([97, 60, 40, 15, 3]))


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@torch.no_grad()
def test_padding_contract_with_prefix_memory_and_chunks(config):
    feats = torch.randn(3, 97, 23)
    check_padding_contract(
        build(config), feats, torch.tensor([97, 55, 7]), chunking=Chunking(chunk_frames=3, left_chunks=1)
    )
    encoder = build(config)
    prefix, memory = torch.randn(1, 2, 16), torch.randn(1, 4, 16)
    whole, lens = encoder(feats[:1], torch.tensor([97]), prefix=prefix, memory=memory, memory_lens=torch.tensor([3]))
    memory[:, 3] = 99.0  # beyond memory_lens
    again, _ = encoder(feats[:1], torch.tensor([97]), prefix=prefix, memory=memory, memory_lens=torch.tensor([3]))
    torch.testing.assert_close(whole, again)
    without, lens_without = encoder(feats[:1], torch.tensor([97]))
    assert int(lens) == int(lens_without) + 2
    assert not torch.allclose(whole[:, 2:], without)


@pytest.mark.parametrize(
    "config",
    [
        BranchformerConfig(model_dim=16, num_layers=2, num_heads=2, gate_dim=32, kernel_size=7),
        TransformerConfig(model_dim=16, num_layers=2, num_heads=2, ff_dim=32),
    ],
    ids=lambda config: config.kind,
)
@torch.no_grad()
def test_encoders_without_a_prompt_keep_the_contracts(config):
    feats = torch.randn(3, 97, 23)
    check_padding_contract(build(config), feats, torch.tensor([97, 55, 7]))
    check_stream_equals_whole(build(config), feats, Chunking(chunk_frames=3, left_chunks=1), [9, 64])
    with torch.enable_grad():
        encoder = build(config)
        # Its blocks end in a norm, whose sum is a constant: a random projection has none.
        enc, _ = encoder(feats, torch.tensor([97, 55, 70]))
        check_gradients_reach_all(encoder, (enc * torch.randn_like(enc)).sum())


GRANITE = ConformerConfig(
    model_dim=16,
    num_layers=3,
    num_heads=2,
    ff_dim=32,
    kernel_size=5,
    positions="shaw",
    max_distance=6,
    attention_block=4,
    conv_expansion=2,
    halving_blocks=(1, 3),
    subsampling=2,
    joining_deltas=True,
    output_norm=False,
)
"""All that Granite Speech's encoder needs."""


@torch.no_grad()
def test_blocks_that_halve_time_keep_the_padding_contract():
    encoder, feats = build(GRANITE), torch.randn(6, 97, 23)
    check_padding_contract(encoder, feats, torch.tensor([97, 60, 41, 9, 3, 1]))
    seen = []

    def look(_number, x):
        seen.append(x.size(1))
        return x

    _, lens = encoder(feats, torch.tensor([97, 60, 41, 9, 3, 1]), after_layer=look)
    assert seen == [24, 24, 12]
    assert lens.tolist() == [12, 7, 5, 1, 1, 1]
    assert GRANITE.total_subsampling == 8
    with torch.enable_grad():
        encoder = build(GRANITE)
        enc, _ = encoder(feats, torch.tensor([97, 60, 41, 9, 30, 30]))
        check_gradients_reach_all(encoder, (enc * torch.randn_like(enc)).sum())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"positions": "relative"}, "need positions shaw, got relative"),
        ({"halving_blocks": (4,)}, "at most num_layers=3"),
        ({"halving_blocks": (1, 1)}, "must differ"),
    ],
)
def test_impossible_blocks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ConformerConfig(**{**GRANITE.model_dump(), **changes})


def test_blocks_know_neither_chunks_nor_sequences_of_others():
    with pytest.raises(ConfigError, match="neither attention_block"):
        build(GRANITE).stream(Chunking(chunk_frames=4))
    with pytest.raises(ConfigError, match="got halving_blocks"):
        build(GRANITE).run(torch.randn(1, 8, 16), torch.ones(1, 8, dtype=torch.bool))


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
@pytest.mark.parametrize(
    "chunking", [Chunking(chunk_frames=2, left_chunks=2), Chunking(chunk_frames=5)], ids=["2+2", "5+all"]
)
@torch.no_grad()
def test_stream_equals_whole(config, chunking):
    encoder = build(config)
    feats = torch.randn(2, 143, 23)
    for sizes in ([], [1, 2, 3, 50], [143], [70, 0, 70]):
        check_stream_equals_whole(encoder, feats, chunking, sizes)
    check_stream_equals_whole(encoder, feats[:, :4], chunking, [2])
    check_stream_equals_whole(encoder, feats[:, : encoder.subsampling.min_frames], chunking, [9])
    prefix = torch.randn(2, 2, 16)
    memory = torch.randn(2, 3, 16)
    check_stream_equals_whole(
        encoder, feats, chunking, [64, 9], prefix=prefix, memory=memory, memory_lens=torch.tensor([3, 1])
    )


FAST = CONFORMER.model_copy(
    update={
        "conv_norm": "batch",
        "subsampling": 8,
        "subsampling_padding": 1,
        "subsampling_separable": True,
        "output_norm": False,
        "cross_attention_every": None,
    }
)


@torch.no_grad()
def test_fast_conformer_keeps_the_padding_contract_and_knows_no_chunks():
    encoder = build(FAST, 32)
    check_padding_contract(encoder, torch.randn(4, 97, 32), torch.tensor([97, 60, 9, 1]))
    with pytest.raises(ConfigError, match="subsampling_padding 0"):
        encoder.stream(Chunking(chunk_frames=4))


def test_fast_conformer_learns():
    encoder = build(FAST, 32).train()
    enc, _ = encoder(torch.randn(2, 60, 32), torch.tensor([60, 44]))
    check_gradients_reach_all(encoder, (enc * torch.randn_like(enc)).sum())


@pytest.mark.parametrize("config", [FAST, CONFIGS[-1]], ids=["fast", "shaw"])
@torch.no_grad()
def test_without_a_norm_behind_it_the_last_block_has_the_last_word(config):
    encoder = build(config, 32)
    last = []
    enc, _ = encoder(torch.randn(1, 40, 32), torch.tensor([40]), after_layer=lambda _, x: last.append(x) or x)
    assert torch.equal(enc, last[-1])
    frames, lens = encoder.embed(torch.randn(1, 40, 32), torch.tensor([40]))
    assert encoder.run(frames, torch.ones(1, int(lens), dtype=torch.bool)).shape == frames.shape


@torch.no_grad()
def test_adapters_halve_the_positions():
    encoder = build(CONFIGS[-1].model_copy(update={"num_adapters": 2, "cross_attention_every": None}), 8)
    check_padding_contract(encoder, torch.randn(3, 41, 8), torch.tensor([41, 30, 3]))
    assert encoder.config.total_subsampling == 8
    enc, lens = encoder(torch.randn(1, 41, 8), torch.tensor([41]))
    assert enc.shape == (1, 5, 16)
    assert lens.tolist() == [5]  # 20 pairs, halved twice
    with pytest.raises(ConfigError, match=r"chunks need num_adapters 0, .* got 2"):
        encoder.stream(Chunking(chunk_frames=4))
    with pytest.raises(ConfigError, match="num_adapters 0, got 2"):
        encoder.run(torch.randn(1, 4, 16), torch.ones(1, 4, dtype=torch.bool))


LEGACY = CONFORMER.model_copy(update={"positions": "legacy", "cross_attention_every": None})


@torch.no_grad()
def test_legacy_positions_keep_the_padding_contract():
    feats = torch.randn(5, 97, 23)
    check_padding_contract(build(LEGACY), feats, torch.tensor([97, 60, 40, 15, 3]))


def test_legacy_positions_learn_but_know_no_chunks():
    encoder = build(LEGACY).train()
    enc, _ = encoder(torch.randn(2, 60, 23), torch.tensor([60, 44]))
    check_gradients_reach_all(encoder, (enc * torch.randn_like(enc)).sum())
    with pytest.raises(ConfigError, match="legacy"):
        encoder(torch.randn(1, 60, 23), torch.tensor([60]), chunking=Chunking(chunk_frames=4))


@torch.no_grad()
def test_legacy_scores_are_those_of_a_shift_that_wraps_around():
    torch.manual_seed(1)
    attention = SelfAttention(8, 2, positions="legacy")
    q, table = torch.randn(1, 2, 6, 4), torch.randn(6, 8)
    context = BlockContext(valid=torch.ones(1, 6, dtype=torch.bool), attn_mask=None, positions=table)
    keys = attention.pos(table).view(6, 2, 4).transpose(0, 1)
    unshifted = (q + attention.distance_bias[:, None]) @ keys.transpose(1, 2) / 2
    padded = torch.cat([torch.zeros(1, 2, 6, 1), unshifted], dim=3)
    shifted = padded.flatten(2)[..., 6:].view(1, 2, 6, 6)  # every row begins one place later than the row before
    torch.testing.assert_close(attention._legacy_scores(q, context), shifted)


@torch.no_grad()
def test_a_wide_chunk_differs_from_whole_only_at_its_edge():
    encoder = build(CONFIGS[1])
    feats, lens = torch.randn(1, 120, 23), torch.tensor([120])
    whole, _ = encoder(feats, lens)
    chunked, _ = encoder(feats, lens, chunking=Chunking(chunk_frames=whole.size(1)))
    torch.testing.assert_close(chunked, whole, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_later_chunk_never_changes_an_earlier_one():
    encoder = build(CONFIGS[0])
    feats, lens = torch.randn(1, 200, 23), torch.tensor([200])
    chunking = Chunking(chunk_frames=4)
    before, _ = encoder(feats, lens, chunking=chunking)
    feats[:, 150:] = 0.0
    after, _ = encoder(feats, lens, chunking=chunking)
    torch.testing.assert_close(before[:, :16], after[:, :16])
    assert not torch.allclose(before[:, 20:], after[:, 20:])


@pytest.mark.parametrize("config", CONFIGS, ids=NAMES)
def test_gradients_reach_every_parameter(config):
    encoder = build(config).train()
    feats = torch.randn(2, 60, 23)
    enc, _ = encoder(
        feats,
        torch.tensor([60, 44]),
        prefix=torch.randn(2, 1, 16),
        memory=torch.randn(2, 3, 16),
        memory_lens=torch.tensor([3, 2]),
    )
    check_gradients_reach_all(encoder, (enc * torch.randn_like(enc)).sum())


@torch.no_grad()
def test_one_memory_token_shortcut_equals_attention():
    from speechnar.nn.attention import CrossAttention

    torch.manual_seed(1)
    attention = CrossAttention(16, 4).eval()
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 1, 16)
    twice = attention(x, memory.expand(2, 2, 16), None)  # two equal keys take the full path to the same answer
    torch.testing.assert_close(attention(x, memory, None), twice)


@pytest.mark.parametrize(("factor", "min_frames"), [(4, 7), (6, 11), (8, 15)])
def test_subsampling_lengths(factor, min_frames):
    from speechnar.nn.conv import ConvSubsampling

    subsampling = ConvSubsampling(23, 8, factor=factor)
    assert subsampling.min_frames == min_frames
    for num_frames in range(min_frames, 60):
        assert subsampling(torch.randn(1, num_frames, 23)).size(1) == int(
            subsampling.out_lens(torch.tensor([num_frames]))
        )
    assert subsampling.out_lens(torch.tensor([1])).tolist() == [1]


def test_wrong_shapes_and_sizes_are_named():
    with pytest.raises(ConfigError, match="multiple of num_heads"):
        Encoder(CONFORMER.model_copy(update={"num_heads": 3}), 23)
    with pytest.raises(ConfigError, match="odd"):
        Encoder(CONFORMER.model_copy(update={"kernel_size": 8}), 23)
    with pytest.raises(ShapeError, match="feat_lens"):
        build(CONFORMER)(torch.randn(2, 50, 23), torch.tensor([50]))
    with pytest.raises(ConfigError, match="chunk_frames"):
        Chunking(chunk_frames=0)
