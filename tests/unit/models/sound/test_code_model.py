"""What generators of codes share: pieces of codes, embeddings, and what is left out."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from speechnar.data.codes import CodeBatch
from speechnar.errors import DataError
from speechnar.models.sound.code_model import CodeEmbedding, build_heads, draw_codes_of, draw_left_out
from speechnar.nn.code_transformer import frame_sinusoids
from tests.unit.models.generators import make_generator, narrow, shift_code
from tests.unit.models.sounds import voices

CODEC = make_generator("magnet").codec


def numbered(lens: list[int]) -> CodeBatch:
    """Return codes that say of which utterance, codebook and frame they are: 1000 b + 100 k + t; -1 in padding."""
    places = torch.arange(len(lens))[:, None, None] * 1000 + torch.arange(4)[:, None] * 100 + torch.arange(max(lens))
    code_lens = torch.tensor(lens)
    codes = places.masked_fill(torch.arange(max(lens)) >= code_lens[:, None, None], -1)
    return replace(shift_code(len(lens)), codes=codes, code_lens=code_lens)


def test_pieces_are_of_consecutive_frames_from_any_place_that_fits():
    lens, num_frames = [10, 6, 7], 6
    batch, starts = numbered(lens), [set(), set(), set()]
    generator = torch.Generator().manual_seed(0)
    for _ in range(100):
        codes = draw_codes_of(batch, CODEC, num_frames, generator)
        for row, found in enumerate(codes):
            start = int(found[0, 0]) - 1000 * row
            starts[row].add(start)
            assert torch.equal(found, batch.codes[row, :, start : start + num_frames])
    assert starts == [{0, 1, 2, 3, 4}, {0}, {0, 1}]  # each of them, and none that reaches into padding


def test_codes_of_waves_are_those_of_the_codec_with_silence_behind():
    batch = voices([20 * 320, 9 * 320 + 7], padding=torch.nan)
    (_, short) = draw_codes_of(batch, CODEC, 12)
    silent = F.pad(batch.wav[1, : 9 * 320 + 7], (0, 12 * 320 - 9 * 320 - 7))
    assert torch.equal(short, CODEC.encode(silent[None])[0][0])


def test_codes_that_are_too_short_are_named():
    with pytest.raises(DataError, match=r"utterance 'utt1': needs 7 frames, has 6; .* --min-seconds 0\.14"):
        draw_codes_of(numbered([10, 6, 7]), CODEC, 7)


@torch.no_grad()
def test_a_frame_is_the_sum_of_the_embeddings_of_its_codes():
    torch.manual_seed(0)
    embed = CodeEmbedding(4, 16, narrow(positions="absolute"))
    codes = torch.randint(17, (2, 4, 5))
    assert embed.mask_id == 16
    dim = embed.sizes.model_dim
    wanted = sum(embed.codes[k].weight[codes[:, k]] for k in range(4)) + frame_sinusoids(torch.arange(3, 8), dim)
    torch.testing.assert_close(embed(codes, first=3), wanted)
    two = embed.codes[0].weight[codes[:, 0]] + embed.codes[1].weight[codes[:, 1]]
    torch.testing.assert_close(embed(codes[:, :2]), two + frame_sinusoids(torch.arange(5), dim))
    relative = CodeEmbedding(4, 16, narrow(positions="relative"))
    wanted = sum(relative.codes[k].weight[codes[:, k]] for k in range(4))
    torch.testing.assert_close(relative(codes, first=3), wanted)


def test_heads_start_small_and_have_no_bias():
    torch.manual_seed(0)
    heads = build_heads(3, 500, 64)
    assert [(head.in_features, head.out_features, head.bias) for head in heads] == [(64, 500, None)] * 3
    for head in heads:
        assert float(head.weight.detach().std()) == pytest.approx(1 / 8, rel=0.03)
        assert float(head.weight.detach().abs().max()) <= 3 / 8


@pytest.mark.parametrize("prob", [0.0, 0.15, 1.0])
def test_a_share_is_left_out(prob):
    drawn = draw_left_out(4000, prob, torch.device("cpu"), torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.bool
    assert float(drawn.float().mean()) == pytest.approx(prob, abs=0.02)


def test_the_codec_never_learns():
    model = make_generator("magnet").train()
    assert model.training and not model.codec.training
    assert not any(parameter.requires_grad for parameter in model.codec.parameters())
    assert model.sample_rate == CODEC.sample_rate
