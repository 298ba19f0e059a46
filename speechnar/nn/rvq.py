"""Residual vector quantisation: a vector as the sum of one entry of each codebook, learned by moving averages.

Shapes: B utterances, T frames, D latent channels, K codebooks, V entries of a codebook, N vectors.
Sources: Zeghidour et al., "SoundStream", TASLP 2022, algorithm 1; van den Oord, Vinyals and Kavukcuoglu, "Neural
Discrete Representation Learning", NeurIPS 2017, appendix A.1 (moving averages); Défossez et al., "High Fidelity Neural
Audio Compression", TMLR 2023, section 3.2 (entries nobody uses are replaced). Buffers have the names of audiocraft's
``EuclideanCodebook``.
Differs from the papers: nothing is quantised at first (``warmup_steps``), so that the entries begin as means of latents
that mean something: those of a new encoder are all alike, and move further at a step than they differ. What counts as
unused is a share of the mean use (``dead_share``), not a number of vectors: it does not depend on the size of a batch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-5
KMEANS_ROUNDS = 20


@dataclass(frozen=True)
class Quantized:
    """Latents by the nearest entries."""

    latents: Tensor
    """(B, T, D) float32; their gradient goes straight through to what was quantised."""
    codes: Tensor
    """(B, K, T) int64."""
    commitment: Tensor
    """() mean squared distance of the residuals to their entries; its gradient goes to what was quantised.
    EnCodec's equation 3 is the sum."""


class ResidualQuantizer(nn.Module):
    """K codebooks, each for what those before it leave (SoundStream, algorithm 1).

    Args:
        num_codebooks: K.
        codebook_size: V.
        latent_dim: D.
        decay: of the moving averages.
        dead_share: entries used less than this share of the mean are replaced while training.
        warmup_steps: training batches that pass unquantised before there are entries.
    """

    steps: Tensor
    """() training batches so far, until there are entries."""

    def __init__(
        self,
        num_codebooks: int,
        codebook_size: int,
        latent_dim: int,
        *,
        decay: float = 0.99,
        dead_share: float = 0.05,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__()
        self.warmup_steps = warmup_steps
        self._is_warm = False  # what ``steps`` says, without asking the device at every step
        self.register_buffer("steps", torch.zeros(()))
        self.layers = nn.ModuleList(
            _Codebook(codebook_size, latent_dim, decay, dead_share) for _ in range(num_codebooks)
        )

    def forward(self, latents: Tensor) -> Quantized:
        """Quantise ``latents`` (B, T, D), in float32 under any autocast; in training, learn from them."""
        x = latents.float()
        if not self._is_warm:
            self._is_warm = float(self.steps) >= self.warmup_steps
        if self.training and not self._is_warm:
            self.steps += 1
            codes_shape = len(x), len(self.layers), x.size(1)
            return Quantized(x, torch.zeros(codes_shape, dtype=torch.int64, device=x.device), x.square().mean() * 0)
        residual, codes, distances = x, [], []
        for layer in self.layers:
            entries, ids = layer(residual)
            distances.append(F.mse_loss(residual, entries))
            residual = residual - entries
            codes.append(ids)
        return Quantized(x - residual.detach(), torch.stack(codes, dim=1), torch.stack(distances).mean())

    @torch.no_grad()
    def encode(self, latents: Tensor) -> Tensor:
        """Return the codes (B, K, T) of ``latents`` (B, T, D); nothing is learned."""
        residual, codes = latents.float(), []
        for layer in cast(Iterable[_Codebook], self.layers):
            ids = layer.nearest(residual)
            residual = residual - F.embedding(ids, layer.embed)
            codes.append(ids)
        return torch.stack(codes, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the latents (B, T, D) float32 of ``codes`` (B, K, T); if they are fewer, of the first codebooks."""
        layers = list(cast(Iterable[_Codebook], self.layers))[: codes.size(1)]
        entries = [F.embedding(ids, layer.embed) for ids, layer in zip(codes.unbind(1), layers, strict=True)]
        return torch.stack(entries).sum(0)


def perplexity(codes: Tensor, codebook_size: int) -> Tensor:
    """Return () how many entries are in use in ``codes`` (B, K, T), by their entropy; the mean over codebooks.

    A codebook all of whose V entries are used equally often has V, one that always gives the same has 1.
    """
    counts = torch.stack([torch.bincount(ids.flatten(), minlength=codebook_size) for ids in codes.unbind(1)])
    shares = counts / counts.sum(1, keepdim=True)
    return torch.special.entr(shares).sum(1).exp().mean()


class _Codebook(nn.Module):
    inited: Tensor
    """(1,) 1 once there are entries."""
    cluster_size: Tensor
    """(V,) moving average of how many vectors each entry is nearest to."""
    embed: Tensor
    """(V, D) entries."""
    embed_avg: Tensor
    """(V, D) moving average of the sum of those vectors."""

    def __init__(self, codebook_size: int, latent_dim: int, decay: float, dead_share: float) -> None:
        super().__init__()
        self.decay = decay
        self.dead_share = dead_share
        self._has_begun = False  # what ``inited`` says, without asking the device at every step
        entries = torch.randn(codebook_size, latent_dim)
        self.register_buffer("inited", torch.zeros(1))
        self.register_buffer("cluster_size", torch.zeros(codebook_size))
        self.register_buffer("embed", entries)
        self.register_buffer("embed_avg", entries.clone())

    def nearest(self, x: Tensor) -> Tensor:
        """Return the ids (B, T) of the entries nearest to ``x`` (B, T, D)."""
        with torch.autocast(x.device.type, enabled=False):
            distances = self.embed.square().sum(1) - 2 * x.flatten(0, 1) @ self.embed.T
        return distances.argmin(1).view(x.shape[:2])

    @torch.no_grad()
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the entries (B, T, D) nearest to ``x`` (B, T, D), and their ids (B, T)."""
        vectors = x.flatten(0, 1)
        if self.training and not self._has_begun:
            self._has_begun = self._begin(vectors)
        ids = self.nearest(x)
        entries = F.embedding(ids, self.embed)
        if self.training:
            self._learn(vectors, ids.flatten())
        return entries, ids

    def _begin(self, vectors: Tensor) -> bool:
        """Start with the means of ``vectors`` (N, D), by k-means, unless there are entries; return if there are now."""
        if bool(self.inited) or not bool(vectors.isfinite().all()):
            return bool(self.inited)
        means, counts = _kmeans(vectors, len(self.embed))
        self.embed.copy_(means)
        self.embed_avg.copy_(means * counts[:, None])
        self.cluster_size.copy_(counts)
        self.inited.fill_(1.0)
        return True

    def _learn(self, vectors: Tensor, ids: Tensor) -> None:
        """Move the entries to the vectors (N, D) they are nearest to; vectors that are not finite change nothing.

        Van den Oord et al. 2017, equations 6 to 8.
        """
        size = len(self.embed)
        is_sound = vectors.isfinite().all()
        counts = torch.bincount(ids, minlength=size).to(vectors)
        sums = torch.zeros_like(self.embed).index_add_(0, ids, vectors)
        cluster_size = torch.lerp(counts, self.cluster_size, self.decay)
        embed_avg = torch.lerp(sums, self.embed_avg, self.decay)
        mean_size = cluster_size.mean()
        # An entry begins anew as a random vector with the use of an average one.
        is_dead = cluster_size < self.dead_share * mean_size
        samples = vectors[torch.randint(len(vectors), (size,), device=vectors.device)]
        cluster_size = cluster_size.where(~is_dead, mean_size)
        embed_avg = embed_avg.where(~is_dead[:, None], samples * mean_size)
        total = cluster_size.sum()
        smoothed = (cluster_size + EPSILON) / (total + size * EPSILON) * total
        for old, new in (
            (self.cluster_size, cluster_size),
            (self.embed_avg, embed_avg),
            (self.embed, embed_avg / smoothed[:, None]),
        ):
            old.copy_(new.where(is_sound, old))


def _kmeans(vectors: Tensor, num_means: int) -> tuple[Tensor, Tensor]:
    """Return ``num_means`` means (V, D) of ``vectors`` (N, D), and how many are nearest to each, at least 1 assumed."""
    count = len(vectors)
    order = torch.randperm(count, device=vectors.device)
    means = vectors[order.repeat(-(-num_means // count))[:num_means]]
    counts = torch.ones(num_means, device=vectors.device)
    for _ in range(KMEANS_ROUNDS):
        nearest = (means.square().sum(1) - 2 * vectors @ means.T).argmin(1)
        counts = torch.bincount(nearest, minlength=num_means).to(vectors)
        sums = torch.zeros_like(means).index_add_(0, nearest, vectors)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
    return means, counts.clamp(min=1)
