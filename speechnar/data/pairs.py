"""Batches of sentences with their translations, in which sources may end early.

A source of a batch ends with ``<eos>`` if it is complete. What is translated again and again while a source grows must
also be learned from sources that have ended nowhere: each epoch draws prefixes of the pairs anew, i of n source words
with the same share of the target words. The end mark tells the model which of the two it has, so that short targets
of prefixes do not teach it to stop early.

Shapes: B pairs, S source tokens, U target tokens.
Sources: Niehues et al., "Low-Latency Neural Speech Translation", INTERSPEECH 2018, section 3.1 (prefixes cut by share);
Arivazhagan et al., "Re-translation versus Streaming for Simultaneous Translation", IWSLT 2020, section 3.2 (mixed one
to one with whole sentences).
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from speechnar.config import Config
from speechnar.data.parallel_text import Sentence
from speechnar.data.resumable import ResumableBatches
from speechnar.errors import DataError
from speechnar.text.tokenizer import WORD_START, Tokenizer

logger = logging.getLogger(__name__)

EOS = "<eos>"
MAX_READ_BEFORE = 3
"""A previous hypothesis had seen one to three words less (the end mark counts as one)."""

Ints = NDArray[np.int64]


class PairDataConfig(Config):
    """Which parallel text, in what direction and portions."""

    kind: Literal["pairs"] = "pairs"
    train: Path | tuple[Path, ...]
    """Directories of texts."""
    dev: Path | tuple[Path, ...]
    source: str = Field(pattern=r"^[a-z]{3}$")
    """ISO 639-3."""
    target: str = Field(pattern=r"^[a-z]{3}$")
    batch_tokens: PositiveInt = 4096
    """Tokens of a batch with their padding: the longest source or target times the number of pairs."""
    max_tokens: PositiveInt = 128
    """Pairs of which one side, with its end, is longer are dropped in training."""
    prefixes: NonNegativeInt = 1
    """Prefixes of each pair in an epoch, beside the pair."""


@dataclass(frozen=True)
class PairBatch:
    """Padded pairs; ids are padded by the tokenizer's ``pad_id``."""

    src_tokens: Tensor
    """(B, S) int64; ends with ``<eos>`` where the source is complete."""
    src_lens: Tensor
    """(B,)"""
    tgt_tokens: Tensor
    """(B, U) int64, without sentence start and end."""
    tgt_lens: Tensor
    """(B,); 0 where a prefix is too short for a target word."""
    previous_src_lens: Tensor
    """(B,) source tokens that were known one to three words before; may be 0."""
    previous_tgt_lens: Tensor
    """(B,) target tokens by then."""
    utt_ids: tuple[str, ...]
    refs: tuple[str, ...]
    """Target text of each whole pair."""

    def to(self, device: torch.device | str) -> "PairBatch":
        """Return the batch with every tensor on ``device``."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True)
class _Side:
    """A sentence in tokens, and where its words end."""

    ids: list[int]
    ends: list[int]
    """Tokens of the first 0, 1, ... words."""

    @classmethod
    def of(cls, text: str, tokenizer: Tokenizer) -> "_Side":
        ids = tokenizer.encode(text)
        pieces = tokenizer.spell(ids)
        starts = [place for place, piece in enumerate(pieces) if place == 0 or piece.startswith(WORD_START)]
        return cls(ids, [*starts, len(ids)] if ids else [0])

    @property
    def num_words(self) -> int:
        return len(self.ends) - 1


@dataclass(frozen=True)
class _Pair:
    utt_id: str
    ref: str
    src: _Side
    tgt: _Side

    def target_words(self, num_read: int) -> int:
        """Return how many target words belong to that many source words."""
        return round(min(num_read, self.src.num_words) * self.tgt.num_words / self.src.num_words)


@dataclass(frozen=True)
class _Draw:
    """A pair as it is to be learned this time."""

    pair: _Pair
    num_read: int
    """Source words; one more than there are: all, and the end mark."""
    num_read_before: int

    @property
    def src_len(self) -> int:
        words = self.pair.src.num_words
        return self.pair.src.ends[min(self.num_read, words)] + (self.num_read > words)

    @property
    def tgt_len(self) -> int:
        return self.pair.tgt.ends[self.pair.target_words(self.num_read)]


class PairDataset(ResumableBatches[list[_Draw], PairBatch]):
    """Sentences of one or more directories as batches of pairs, the same ones for the same seed and epoch.

    Args:
        sentences: those without text in both languages are dropped; ids must be unique.
        tokenizer: of both languages; must have ``<eos>``.
        config: direction and sizes.
        training: shuffle, draw prefixes and drop what is too long; otherwise every epoch is the whole pairs in order.
        seed: of every random choice.

    Raises:
        DataError: ids repeat, no sentence is usable (with the reasons), or the tokenizer has no ``<eos>``.
    """

    def __init__(
        self, sentences: Sequence[Sentence], tokenizer: Tokenizer, config: PairDataConfig, *, training: bool, seed: int
    ) -> None:
        super().__init__()
        self.config = config
        self.training = training
        self.seed = seed
        self.dropped: Counter[str] = Counter()
        """Sentences left out, by reason."""
        self._pad_id, self._eos_id = tokenizer.pad_id, tokenizer.id_of(EOS)
        self._pairs: list[_Pair] = []
        if len({sentence.utt_id for sentence in sentences}) < len(sentences):
            raise DataError("ids of sentences must differ across directories, got the same one twice")
        for sentence in sentences:
            src, tgt = sentence.in_language(config.source), sentence.in_language(config.target)
            if src is None or tgt is None:
                self.dropped[f"no text in {config.source if src is None else config.target}"] += 1
                continue
            pair = _Pair(sentence.utt_id, tgt, _Side.of(src, tokenizer), _Side.of(tgt, tokenizer))
            longest = max(len(pair.src.ids), len(pair.tgt.ids))
            if not pair.src.ids or not pair.tgt.ids:
                self.dropped["nothing to spell"] += 1
            elif training and longest + 1 > min(config.max_tokens, config.batch_tokens):
                self.dropped["longer than max_tokens"] += 1
            else:
                self._pairs.append(pair)
        if not self._pairs:
            raise DataError(f"none of {len(sentences)} sentences is usable: {dict(self.dropped)}")
        if self.dropped:
            logger.warning("dropped %s of %d sentences", dict(self.dropped), len(sentences))

    def __len__(self) -> int:
        """Return the number of pairs in use."""
        return len(self._pairs)

    def _plan(self, epoch: int) -> list[list[_Draw]]:
        """Return the batches of an epoch: pairs of similar length together, in random order."""
        rng = np.random.default_rng((self.seed, epoch))
        draws = self._draws(rng)
        sizes = np.array([max(draw.src_len, draw.tgt_len) for draw in draws])
        order = np.argsort(sizes + (rng.random(len(draws)) if self.training else 0.0), kind="stable")
        batches: list[list[_Draw]] = [[]]
        for place in order.tolist():
            # In order of size (shuffled within one), so the newest is the longest.
            if batches[-1] and (len(batches[-1]) + 1) * int(sizes[place]) > self.config.batch_tokens:
                batches.append([])
            batches[-1].append(draws[place])
        return [batches[place] for place in rng.permutation(len(batches))] if self.training else batches

    def _draws(self, rng: np.random.Generator) -> list[_Draw]:
        num_prefixes = self.config.prefixes if self.training else 0
        before: Ints = rng.integers(1, MAX_READ_BEFORE + 1, size=(len(self._pairs), 1 + num_prefixes))
        where = rng.random((len(self._pairs), num_prefixes))
        draws = []
        for pair, ages, places in zip(self._pairs, before.tolist(), where.tolist(), strict=True):
            num_words = pair.src.num_words
            num_read = [num_words + 1, *(1 + int(place * num_words) for place in places)]
            draws += [_Draw(pair, read, max(read - age, 0)) for read, age in zip(num_read, ages, strict=True)]
        return draws

    def _batch(self, epoch: int, plan: list[_Draw]) -> PairBatch:
        srcs = [[*draw.pair.src.ids, self._eos_id][: draw.src_len] for draw in plan]
        tgts = [draw.pair.tgt.ids[: draw.tgt_len] for draw in plan]
        before = [_Draw(draw.pair, draw.num_read_before, 0) for draw in plan]
        src_tokens, src_lens = self._pad(srcs)
        tgt_tokens, tgt_lens = self._pad(tgts)
        return PairBatch(
            src_tokens=src_tokens,
            src_lens=src_lens,
            tgt_tokens=tgt_tokens,
            tgt_lens=tgt_lens,
            previous_src_lens=torch.tensor([draw.src_len for draw in before]),
            previous_tgt_lens=torch.tensor([draw.tgt_len for draw in before]),
            utt_ids=tuple(draw.pair.utt_id for draw in plan),
            refs=tuple(draw.pair.ref for draw in plan),
        )

    def _pad(self, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        tensors = [torch.tensor(row, dtype=torch.int64) for row in rows]
        return pad_sequence(tensors, batch_first=True, padding_value=self._pad_id), torch.tensor([len(r) for r in rows])
