"""Attention against its sums, query by query and key by key."""

import math

import pytest
import torch
from torch import Tensor, nn

from speechnar.errors import ConfigError
from speechnar.nn.attention import CrossAttention, SelfAttention, _read_distances, align_distances
from speechnar.nn.context import BlockContext, Chunking, LayerCache
from speechnar.nn.positions import distance_sinusoids, rotary_angles, rotate, sinusoids

DIM, HEADS, FRAMES = 8, 2, 5
WIDTH = DIM // HEADS


def build(positions: str) -> SelfAttention:
    torch.manual_seed(0)
    attention = SelfAttention(DIM, HEADS, positions=positions, max_distances=LIMITS).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.7)
    return attention


def project(attention: SelfAttention, x: Tensor) -> Tensor:
    """Return queries, keys and values, each (T, H, D / H)."""
    return (x @ attention.qkv.weight.T + attention.qkv.bias).view(len(x), 3, HEADS, WIDTH).transpose(0, 1)


def by_sums(attention: SelfAttention, x: Tensor, score, visible=lambda query, key: True) -> Tensor:
    """Attend from each frame of ``x`` (T, D) to those that are visible by ``score(head, query, key)``."""
    values = project(attention, x)[2]
    rows = []
    for i in range(len(x)):
        heads = []
        for head in range(HEADS):
            keys = [j for j in range(len(x)) if visible(i, j)]
            weights = torch.stack([score(head, i, j) / math.sqrt(WIDTH) for j in keys]).softmax(0)
            heads.append(sum(weight * values[j, head] for weight, j in zip(weights, keys, strict=True)))
        rows.append(torch.cat(heads))
    return torch.stack(rows) @ attention.out.weight.T + attention.out.bias


def scores(attention: SelfAttention, x: Tensor):
    """Return score(head, query, key) without the scale, by the definition of each kind of positions."""
    q, k, _ = project(attention, x)
    match attention.positions:
        case "absolute":
            return lambda h, i, j: q[i, h] @ k[j, h]
        case "rotary":
            angles = rotary_angles(0, len(x), WIDTH, x.device)
            turned_q, turned_k = (rotate(y.transpose(0, 1)[None], angles)[0] for y in (q, k))
            return lambda h, i, j: turned_q[h, i] @ turned_k[h, j]
        case "shaw":  # Shaw et al. 2018, equation 4, with keys' embeddings alone
            behind, ahead = LIMITS
            places = attention.distances.weight
            return lambda h, i, j: q[i, h] @ (k[j, h] + places[max(-behind, min(ahead, j - i)) + behind])

    def table(distance: int) -> Tensor:
        place = torch.tensor([distance if attention.positions == "relative" else distance + LIMIT])
        return (sinusoids(place, DIM)[0] @ attention.pos.weight.T).view(HEADS, WIDTH)

    def score(h: int, i: int, j: int) -> Tensor:
        """Dai et al. 2019, section 3.3: content and distance, each with a bias in place of a query."""
        distance = i - j if attention.positions == "relative" else max(-LIMIT, min(LIMIT, j - i))
        content = (q[i, h] + attention.content_bias[h]) @ k[j, h]
        return content + (q[i, h] + attention.distance_bias[h]) @ table(distance)[h]

    return score


LIMIT = 2
"""Of clipped distances."""
LIMITS = (3, 1)
"""Of Shaw's: behind and before a query."""
KINDS = ("absolute", "rotary", "relative", "clipped", "shaw")


def positions_of(kind: str, num_frames: int, *, first: int = 0) -> Tensor | None:
    match kind:
        case "rotary":
            return rotary_angles(first, num_frames, WIDTH, torch.device("cpu"))
        case "relative":
            return distance_sinusoids(num_frames, first + num_frames, DIM, torch.device("cpu"))
        case "clipped":
            return sinusoids(torch.arange(2 * LIMIT + 1), DIM)
    return None


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_self_attention_is_its_sums(kind):
    attention, x = build(kind), torch.randn(2, FRAMES, DIM)
    valid = torch.ones(2, FRAMES, dtype=torch.bool)
    y = attention(x, BlockContext(valid=valid, attn_mask=None, positions=positions_of(kind, FRAMES)))
    for row in range(2):
        torch.testing.assert_close(y[row], by_sums(attention, x[row], scores(attention, x[row])), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_blocks_attend_to_themselves_alone():
    """As with a mask that hides other blocks; the last one is not full, and one utterance ends before it."""
    options = {"positions": "shaw", "max_distances": (3, 2)}
    attention, blocks = SelfAttention(DIM, HEADS, **options), SelfAttention(DIM, HEADS, **options, block_frames=4)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.7)
    blocks.load_state_dict(attention.state_dict())
    x, lens = torch.randn(2, 11, DIM), [11, 5]
    valid = torch.arange(11) < torch.tensor(lens)[:, None]
    number = torch.arange(11) // 4
    mask = (number == number[:, None]) & valid[:, None, None, :] | torch.eye(11, dtype=torch.bool)
    expected = attention(x, BlockContext(valid=valid, attn_mask=mask))
    found = blocks(x, BlockContext(valid=valid, attn_mask=valid[:, None, None, :]))
    assert found.isfinite().all()
    for row, length in enumerate(lens):
        torch.testing.assert_close(found[row, :length], expected[row, :length], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_masked_keys_are_not_seen(kind):
    attention, x = build(kind), torch.randn(1, FRAMES, DIM)
    mask = torch.rand(1, 1, FRAMES, FRAMES) < 0.5
    mask |= torch.eye(FRAMES, dtype=torch.bool)
    valid = torch.ones(1, FRAMES, dtype=torch.bool)
    y = attention(x, BlockContext(valid=valid, attn_mask=mask, positions=positions_of(kind, FRAMES)))
    wanted = by_sums(attention, x[0], scores(attention, x[0]), lambda i, j: bool(mask[0, 0, i, j]))
    torch.testing.assert_close(y[0], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("left_chunks", [None, 0, 1])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_cached_frames_are_seen_as_far_back_as_allowed(kind, left_chunks):
    attention, x = build(kind), torch.randn(1, 6, DIM)
    chunking, cache, parts = Chunking(chunk_frames=2, left_chunks=left_chunks), LayerCache(), []
    for start in (0, 2, 4):
        seen = 0 if cache.keys is None else cache.keys.size(2)
        positions = positions_of(kind, 2, first=start if kind == "rotary" else seen)
        context = BlockContext(
            valid=torch.ones(1, 2, dtype=torch.bool),
            attn_mask=None,
            positions=positions,
            chunking=chunking,
            cache=cache,
        )
        parts.append(attention(x[:, start : start + 2], context)[0])
    limit = 9 if left_chunks is None else left_chunks
    visible = lambda i, j: 0 <= i // 2 - j // 2 <= limit  # noqa: E731 -- it is an argument
    wanted = by_sums(attention, x[0], scores(attention, x[0]), visible)
    torch.testing.assert_close(torch.cat(parts), wanted, atol=1e-5, rtol=1e-4)
    assert cache.keys.size(2) == (6 if left_chunks is None else 2 * left_chunks)


@torch.no_grad()
def test_cross_attention_is_its_sums():
    torch.manual_seed(0)
    attention = CrossAttention(DIM, HEADS).eval()
    x, memory = torch.randn(2, 3, DIM), torch.randn(2, 4, DIM)
    lens = [4, 2]
    mask = torch.arange(4) < torch.tensor(lens)[:, None]
    y = attention(x, memory, mask[:, None, None])
    for row, length in enumerate(lens):
        q = (x[row] @ attention.query.weight.T + attention.query.bias).view(3, HEADS, WIDTH)
        k, v = (memory[row, :length] @ attention.key_value.weight.T + attention.key_value.bias).chunk(2, dim=1)
        k, v = k.view(length, HEADS, WIDTH), v.view(length, HEADS, WIDTH)
        weights = (torch.einsum("ihd,jhd->hij", q, k) / 2).softmax(2)
        wanted = torch.einsum("hij,jhd->ihd", weights, v).flatten(1) @ attention.out.weight.T + attention.out.bias
        torch.testing.assert_close(y[row], wanted, atol=1e-5, rtol=1e-4)


def test_dropout_of_weights_is_for_training():
    torch.manual_seed(0)
    attention, x = SelfAttention(DIM, HEADS, dropout=0.5), torch.randn(1, FRAMES, DIM)
    context = BlockContext(valid=torch.ones(1, FRAMES, dtype=torch.bool), attn_mask=None)
    assert not torch.equal(attention(x, context), attention(x, context))
    attention.eval()
    assert torch.equal(attention(x, context), attention(x, context))
    cross, memory = CrossAttention(DIM, HEADS, dropout=0.5), torch.randn(1, 1, DIM)
    assert not torch.equal(cross(x, memory, None), cross(x, memory, None))  # of a single key, too
    cross.eval()
    assert torch.equal(cross(x, memory, None), cross(x, memory, None))


def test_heads_must_divide_the_width():
    for heads in (0, 3):
        with pytest.raises(ConfigError, match=f"model_dim must be a multiple of num_heads, got 8 and {heads}"):
            SelfAttention(DIM, heads)


@pytest.mark.parametrize(("num_queries", "num_keys"), [(5, 5), (5, 9), (1, 1), (30, 30)])
@pytest.mark.parametrize("limits", [(2, 2), (3, 1), (0, 3), (20, 20)], ids=str)
def test_distances_are_read_alike_where_nothing_is_copied(num_queries, num_keys, limits):
    context = BlockContext(valid=torch.ones(2, num_queries, dtype=torch.bool), attn_mask=None)
    by_distance = torch.randn(2, 3, num_queries, num_keys + num_queries - 1)
    clipped = torch.randn(2, 3, num_queries, sum(limits) + 1)

    def read() -> list[Tensor]:
        return [align_distances(by_distance), _read_distances(clipped, num_keys, limits, context)]

    with torch.no_grad():
        found = read()
    assert all(torch.equal(a, b) for a, b in zip(found, read(), strict=True))


@pytest.mark.parametrize("positions", ["relative", "clipped", "shaw", "legacy"])
def test_attention_is_the_same_without_gradients(positions):
    attention, x = build(positions), torch.randn(2, FRAMES, DIM)
    valid = torch.arange(FRAMES) < torch.tensor([[FRAMES], [3]])
    table = distance_sinusoids(FRAMES, FRAMES, DIM, x.device)
    tables = {"relative": table, "clipped": table[: 2 * 2 + 1], "legacy": table[:FRAMES]}
    context = BlockContext(valid=valid, attn_mask=valid[:, None, None, :], positions=tables.get(positions))
    naive = attention(x, context)
    with torch.inference_mode():
        torch.testing.assert_close(attention(x, context), naive, atol=1e-6, rtol=1e-5)
