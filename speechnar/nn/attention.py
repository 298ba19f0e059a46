"""Multi-head attention over one SDPA core: self-attention with six kinds of positions, and cross-attention.

Shapes: B utterances, T frames, L cached frames, M memory tokens, D model width, H heads.
Sources: Vaswani et al. 2017, equation 1; Dai et al., "Transformer-XL", 2019, section 3.3 (relative positions, as in
ESPnet's ``RelPositionMultiHeadedAttention``); Su et al., "RoFormer", 2021; Shaw et al., "Self-Attention with Relative
Position Representations", 2018, section 3.2 (distances beyond a limit count as the limit: ``clipped``, and ``shaw``,
which is theirs for keys alone). ``legacy`` are the relative positions of old ESPnet and FunASR models, which see the
future by the wrong query.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.errors import ConfigError
from speechnar.nn.context import BlockContext, LayerCache
from speechnar.nn.positions import rotate

PositionKind = Literal["absolute", "relative", "rotary", "clipped", "shaw", "legacy"]
_BY_DISTANCE = ("relative", "clipped", "legacy")


class SelfAttention(nn.Module):
    """Self-attention with one fused projection to queries, keys and values.

    ``positions="absolute"`` means that positions were added to the input and attention itself is blind to them.
    ``max_distances`` are those behind and before a query that ``shaw`` tells apart. With ``block_frames`` a frame sees
    those of its own block of so many alone, counted from the first one.
    """

    def __init__(
        self,
        model_dim: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        positions: PositionKind = "absolute",
        max_distances: tuple[int, int] = (0, 0),
        block_frames: int | None = None,
    ) -> None:
        super().__init__()
        if num_heads < 1 or model_dim % num_heads:
            raise ConfigError(f"model_dim must be a multiple of num_heads, got {model_dim} and {num_heads}")
        self.num_heads = num_heads
        self.dropout = dropout
        self.positions = positions
        self.qkv = nn.Linear(model_dim, 3 * model_dim)
        self.out = nn.Linear(model_dim, model_dim)
        self.max_distances = max_distances
        self.block_frames = block_frames
        head_dim = model_dim // num_heads
        if positions == "shaw":
            self.distances = nn.Embedding(sum(max_distances) + 1, head_dim)
        if positions in _BY_DISTANCE:
            self.pos = nn.Linear(model_dim, model_dim, bias=False)
            self.content_bias = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_heads, head_dim)))
            self.distance_bias = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_heads, head_dim)))

    def forward(self, x: Tensor, context: BlockContext) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D); rows of padding hold finite garbage."""
        if self.block_frames is None:
            return self._attend(x, context)
        # Every block becomes an utterance of its own.
        num_frames, size = x.size(1), self.block_frames
        missing = -num_frames % size
        blocks = F.pad(x, (0, 0, 0, missing)).view(-1, size, x.size(2))
        valid = F.pad(context.valid, (0, missing)).view(-1, size)
        itself = torch.eye(size, dtype=torch.bool, device=x.device)  # a block of padding has nothing else to see
        within = BlockContext(valid=valid, attn_mask=valid[:, None, None, :] | itself)
        return self._attend(blocks, within).view(x.size(0), num_frames + missing, -1)[:, :num_frames]

    def _attend(self, x: Tensor, context: BlockContext) -> Tensor:
        batch, num_frames, model_dim = x.shape
        q, k, v = (
            self.qkv(x).view(batch, num_frames, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        )  # each (B, H, T, D/H)
        if self.positions == "rotary":
            assert context.positions is not None
            q, k = rotate(q, context.positions), rotate(k, context.positions)
        if context.cache is not None:
            k, v = _extend(context.cache, k, v, context)
        mask: Tensor | None = context.attn_mask
        if self.positions == "shaw":
            mask = self._shaw_scores(q, k, context)
        if self.positions in _BY_DISTANCE:
            match self.positions:
                case "clipped":
                    mask = self._clipped_scores(q, k, context)
                case "legacy":
                    mask = self._legacy_scores(q, context)
                case _:
                    mask = self._distance_scores(q, context)
            q = q + self.content_bias[:, None]
        y = F.scaled_dot_product_attention(q, k, v, mask, self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(batch, num_frames, model_dim))

    def _biased(self, q: Tensor) -> Tensor:
        """Return what meets the table of positions: ``q`` is scaled, since scores are many times as many."""
        return (q + self.distance_bias[:, None]) / math.sqrt(q.size(3))

    def _distance_scores(self, q: Tensor, context: BlockContext) -> Tensor:
        """Return the additive scores (B, H, T, L + T) of Transformer-XL's terms (b) and (d), -inf where not visible."""
        assert context.positions is not None
        heads, head_dim = q.size(1), q.size(3)
        table = (
            self.pos(context.positions.to(q.dtype)).view(1, -1, heads, head_dim).transpose(1, 2)
        )  # (1, H, 2T+L-1, D/H)
        scores = align_distances(self._biased(q) @ table.transpose(-2, -1))
        return scores if context.attn_mask is None else scores.masked_fill(~context.attn_mask, -torch.inf)

    def _clipped_scores(self, q: Tensor, k: Tensor, context: BlockContext) -> Tensor:
        """Return the same scores from a table of 2M + 1 distances (key - query), those beyond M read at M."""
        assert context.positions is not None
        heads, head_dim = q.size(1), q.size(3)
        table = self.pos(context.positions.to(q.dtype)).view(-1, heads, head_dim).permute(1, 2, 0)  # (H, D/H, 2M+1)
        by_distance = self._biased(q) @ table
        limit = table.size(2) // 2
        return _read_distances(by_distance, k.size(2), (limit, limit), context)

    def _shaw_scores(self, q: Tensor, k: Tensor, context: BlockContext) -> Tensor:
        """Return what the distance (key - query) adds: an embedding that all heads share (Shaw et al., equation 4)."""
        farthest = k.size(2) - 1  # what is further than that is not there
        behind, ahead = (min(distance, farthest) for distance in self.max_distances)
        origin = self.max_distances[0]
        table = self.distances.weight[origin - behind : origin + ahead + 1].T
        by_distance = (q / math.sqrt(q.size(3))) @ table
        return _read_distances(by_distance, k.size(2), (behind, ahead), context)

    def _legacy_scores(self, q: Tensor, context: BlockContext) -> Tensor:
        """Return the scores (B, H, T, T) of ESPnet's ``LegacyRelPositionMultiHeadedAttention``.

        Its shift is right for keys up to the query's own place only: what a query i has of keys from i + 2 on are
        scores of query i + 1, and of key i + 1 it has none. Its table counts from a fixed end, so that distances are
        offset by the utterance's length. Differs from it: that is the utterance's own length, not the batch's.
        """
        assert context.positions is not None
        batch, heads, num_frames, head_dim = q.shape
        table = self.pos(context.positions.to(q.dtype)).view(-1, heads, head_dim).permute(1, 2, 0)  # (H, D/H, T)
        scores = self._biased(q) @ table
        frames = torch.arange(num_frames, device=q.device)
        ahead = frames - frames[:, None]  # (queries, keys)
        last = context.valid.sum(1)[:, None, None, None] - 1

        def read(rows: Tensor, places: Tensor) -> Tensor:
            return rows.gather(3, places.clamp(0, num_frames - 1).expand(batch, heads, -1, -1))

        past = read(scores, last + ahead)
        future = read(F.pad(scores[:, :, 1:], (0, 0, 0, 1)), ahead - 2).masked_fill(ahead == 1, 0.0)
        scores = past.where(ahead <= 0, future)
        return scores if context.attn_mask is None else scores.masked_fill(~context.attn_mask, -torch.inf)


def align_distances(by_distance: Tensor) -> Tensor:
    """Map scores (B, H, T, L + 2 T - 1) by distance to (B, H, T, L + T) by key: row i begins at column T - 1 - i.

    A column is put before, and the rows are read a column shorter (Dai et al., appendix B). Without gradients, nothing
    is copied: the rows are read where they are.
    """
    batch, heads, num_queries, num_distances = by_distance.shape
    num_keys = num_distances - num_queries + 1
    if not torch.is_grad_enabled() and not torch.compiler.is_exporting():
        rows = by_distance.contiguous()
        strides = (*rows.stride()[:2], num_distances - 1, 1)
        return rows.as_strided((batch, heads, num_queries, num_keys), strides, rows.storage_offset() + num_queries - 1)
    shifted = F.pad(by_distance, (1, 0)).view(batch, heads, -1, num_queries)[:, :, 1:]
    return shifted.reshape(batch, heads, num_queries, -1)[..., :num_keys]


def _read_distances(by_distance: Tensor, num_keys: int, limits: tuple[int, int], context: BlockContext) -> Tensor:
    """Return the scores (B, H, T, L + T) of each key, -inf where not visible; the queries are the last T of the keys.

    ``by_distance`` (B, H, T, N) holds those of the distances from ``-limits[0]`` to ``limits[1]``; these two stand for
    all beyond as well.
    """
    batch, heads, num_queries, _ = by_distance.shape
    keys = torch.arange(num_keys, device=by_distance.device)
    if torch.is_grad_enabled() or torch.compiler.is_exporting():
        distances = (keys - keys[num_keys - num_queries :, None]).clamp(-limits[0], limits[1])
        scores = by_distance.gather(3, (distances + limits[0]).expand(batch, heads, -1, -1))
    else:
        # Both ends, as often as there are distances that they stand for: rows that `align_distances` reads.
        behind, ahead = num_keys - 1 - limits[0], num_queries - 1 - limits[1]
        kept = by_distance[..., max(0, -behind) : by_distance.size(3) - max(0, -ahead)]
        first = kept[..., :1].expand(-1, -1, -1, max(0, behind))
        last = kept[..., -1:].expand(-1, -1, -1, max(0, ahead))
        scores = align_distances(torch.cat([first, kept, last], dim=3))
    return scores if context.attn_mask is None else scores.masked_fill(~context.attn_mask, -torch.inf)


def _extend(cache: LayerCache, k: Tensor, v: Tensor, context: BlockContext) -> tuple[Tensor, Tensor]:
    """Put this chunk's keys and values behind the cached ones, and keep as many as the next chunk may see."""
    if cache.keys is not None and cache.values is not None:
        k, v = torch.cat([cache.keys, k], dim=2), torch.cat([cache.values, v], dim=2)
    chunking = context.chunking
    if chunking is None or chunking.left_chunks is None:
        cache.keys, cache.values = k, v
    else:
        keep = min(k.size(2), chunking.left_chunks * chunking.chunk_frames)
        cache.keys, cache.values = k[:, :, k.size(2) - keep :], v[:, :, v.size(2) - keep :]
    return k, v


class CrossAttention(nn.Module):
    """Attention of frames (queries) to a memory (keys and values) of any width, the latter projected together."""

    def __init__(self, model_dim: int, num_heads: int, *, dropout: float = 0.0, memory_dim: int | None = None) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(model_dim, model_dim)
        self.key_value = nn.Linear(memory_dim or model_dim, 2 * model_dim)
        self.out = nn.Linear(model_dim, model_dim)

    def forward(self, x: Tensor, memory: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Map ``x`` (B, T, D) and ``memory`` (B, M, D), seen where ``memory_mask`` (B, 1, 1 or T, M), to (B, T, D)."""
        return self.attend(x, *self.project(memory), memory_mask)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Map ``memory`` (B, M, E) to its keys and values, each (B, H, M, D / H)."""
        k, v = self.key_value(memory).view(memory.size(0), memory.size(1), 2, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return k, v

    def attend(self, x: Tensor, keys: Tensor, values: Tensor, memory_mask: Tensor | None) -> Tensor:
        """Map ``x`` (B, T, D) to (B, T, D) by the keys and values of `project`."""
        batch, num_frames, model_dim = x.shape
        if keys.size(2) == 1 and not self.training:
            # One key takes all the attention whatever the query: the answer is its value.
            return self.out(values.transpose(1, 2).flatten(2)).expand(batch, num_frames, model_dim)
        q = self.query(x).view(batch, num_frames, self.num_heads, -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, keys, values, memory_mask, self.dropout if self.training else 0.0)
        return self.out(y.transpose(1, 2).reshape(batch, num_frames, model_dim))
