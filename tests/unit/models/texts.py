"""A language of letters and its translation: each word's letters shifted, so that both sides have as many words."""

import numpy as np
import torch
from torch import nn

from speechnar.data.pairs import PairBatch, PairDataConfig, PairDataset
from speechnar.data.parallel_text import Sentence
from speechnar.text.tokenizer import CharTokenizer

TOKENIZER = CharTokenizer(("<blank>", "<unk>", "▁", *"abcdefgh", "<sop>", "<sos>", "<eos>"))
TRANSLATED = str.maketrans("abcd", "efgh")


def sentences(num: int, *, seed: int = 0, max_words: int = 4) -> list[Sentence]:
    rng = np.random.default_rng(seed)
    found = []
    for number in range(num):
        words = ["".join(rng.choice(list("abcd"), rng.integers(1, 4))) for _ in range(rng.integers(1, max_words + 1))]
        text = " ".join(words)
        found.append(Sentence(f"s{number:03d}", text, "eng", {"deu": text.translate(TRANSLATED)}))
    return found


def dataset(given: list[Sentence], *, training: bool = True, seed: int = 0, **changes) -> PairDataset:
    values = {"train": "train", "dev": "dev", "source": "eng", "target": "deu", "batch_tokens": 60, **changes}
    return PairDataset(given, TOKENIZER, PairDataConfig.model_validate(values), training=training, seed=seed)


def one_batch(num: int = 4, *, training: bool = False, **changes) -> PairBatch:
    (batch,) = dataset(sentences(num), training=training, batch_tokens=10_000, **changes).batches(0)
    return batch


def learn(model: nn.Module, batch: PairBatch, steps: int, *, last_lr: float = 4e-3) -> list[list[int]]:
    """Train ``model`` on ``batch`` alone, with a learning rate that falls evenly to ``last_lr``; return its targets."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, last_lr / 4e-3, total_iters=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        model.loss(batch).total.backward()
        optimizer.step()
        schedule.step()
    model.eval()
    return [row[:n].tolist() for row, n in zip(batch.tgt_tokens, batch.tgt_lens, strict=True)]
