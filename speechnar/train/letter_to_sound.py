"""Train the pronunciation of unlisted words on the dictionary (``speechnar tts fit-letters``).

Words that begin with the same six letters are set aside together, so that no plural is
scored whose singular was learned.

Shapes: B words, L letters with the boundaries, D model width, K kernel, V phonemes with the blank, F = 2 L frames.
"""

import json
import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from speechnar.config import Config
from speechnar.metrics.error_rate import wer
from speechnar.text.letter_to_sound import (
    FRAMES_PER_LETTER,
    NORM_EPS,
    NUM_SYMBOLS,
    PAD_ID,
    PHONEMES,
    LetterToSound,
    letter_ids,
)
from speechnar.text.lexicon import english, phonemes_of

logger = logging.getLogger(__name__)

HELD_OUT_SHARE = 0.05
SHARED_LETTERS = 6


class NetworkConfig(Config):
    """Size of the network."""

    model_dim: int = 64
    num_layers: int = 4
    kernel_size: int = 5


class LetterNetwork(nn.Module):
    """The network of :class:`speechnar.text.letter_to_sound.LetterToSound`, which lists its parameters, in torch."""

    def __init__(self, config: NetworkConfig, *, dropout: float = 0.1) -> None:
        super().__init__()
        dim, kernel = config.model_dim, config.kernel_size
        self.embedding = nn.Embedding(NUM_SYMBOLS, dim, padding_idx=PAD_ID)
        self.norms = nn.ModuleList(nn.RMSNorm(dim, eps=NORM_EPS) for _ in range(config.num_layers))
        self.convs = nn.ModuleList(nn.Conv1d(dim, 2 * dim, kernel, padding="same") for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(dim, eps=NORM_EPS)
        self.output = nn.Linear(dim, FRAMES_PER_LETTER * len(PHONEMES))
        self.dropout = nn.Dropout(dropout)

    def forward(self, letters: Tensor) -> Tensor:
        """Map symbols (B, L), padded by ``PAD_ID``, to logits (B, F, V)."""
        is_valid = (letters != PAD_ID).unsqueeze(-1)
        x = self.embedding(letters)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            normed = (norm(x) * is_valid).transpose(1, 2)
            x = x + self.dropout(F.glu(conv(normed).transpose(1, 2), dim=-1))
        return self.output(self.norm(x)).unflatten(-1, (FRAMES_PER_LETTER, len(PHONEMES))).flatten(1, 2)

    def loss(self, letters: Tensor, letter_lens: Tensor, phonemes: Tensor, phoneme_lens: Tensor) -> Tensor:
        """Return the CTC loss in nats per phoneme; a word with more phonemes than frames counts as none."""
        log_probs = self(letters).log_softmax(dim=-1).transpose(0, 1)
        lens = FRAMES_PER_LETTER * letter_lens
        total = F.ctc_loss(log_probs, phonemes, lens, phoneme_lens, blank=0, reduction="sum", zero_infinity=True)
        return total / phoneme_lens.sum()

    def export(self) -> dict[str, Tensor]:
        """Return the parameters under the names of :class:`LetterToSound`, in half precision."""
        weights = {"embedding": self.embedding.weight, "norm": self.norm.weight}
        weights |= {f"output.{name}": parameter for name, parameter in self.output.named_parameters()}
        for layer, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            weights |= {f"norm.{layer}": scale for scale in norm.parameters()}
            weights |= {f"conv.{layer}.{name}": parameter for name, parameter in conv.named_parameters()}
        return {name: parameter.detach().half().contiguous() for name, parameter in weights.items()}


def split_words() -> tuple[list[str], list[str]]:
    """Return the words to learn from and those set aside, both in order; acronyms are neither."""
    entries = english().entries
    words = sorted(word for word in entries if word.isascii() and word.isalpha() and len(word) > 1)
    words = [word for word in words if word.islower() or (word.istitle() and word.lower() not in entries)]
    stems = sorted({word[:SHARED_LETTERS].lower() for word in words})
    aside = set(random.Random(0).sample(stems, round(HELD_OUT_SHARE * len(stems))))  # noqa: S311  # not cryptography
    held_out = [word for word in words if word[:SHARED_LETTERS].lower() in aside]
    return [word for word in words if word[:SHARED_LETTERS].lower() not in aside], held_out


def train(words: Sequence[str], config: NetworkConfig, *, num_epochs: int, batch_size: int, lr: float) -> LetterNetwork:
    """Return a network that learned the dictionary's pronunciation of ``words``; the same each time on one machine."""
    torch.manual_seed(0)
    network = LetterNetwork(config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.01)
    batches = _batches(words, batch_size)
    num_steps = num_epochs * len(batches)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=num_steps, pct_start=0.1)
    rng = random.Random(0)  # noqa: S311  # not cryptography
    start = time.monotonic()
    for epoch in range(1, num_epochs + 1):
        rng.shuffle(batches)
        total = torch.zeros(())
        for batch in batches:
            loss = network.loss(*batch)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]  # torch has no types here
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.detach()
        logger.info("epoch %d: loss %.3f, %.0f s", epoch, total / len(batches), time.monotonic() - start)
    return network.eval()


def evaluate(model: LetterToSound, words: Sequence[str]) -> dict[str, float]:
    """Return the phoneme error rate and the share of words without error, with and without regard to stress."""
    scores: dict[str, float] = {"num_words": len(words)}
    said = [english().entries[word] for word in words], [model(word) for word in words]
    for suffix, dropped in (("", ""), ("_without_stress", "ˈˌ")):
        table = str.maketrans("", "", dropped)
        refs, hyps = ([" ".join(phonemes_of(word.translate(table))) for word in side] for side in said)
        scores[f"phoneme_error_rate{suffix}"] = round(wer(refs, hyps, normalizer="none").rate, 4)
        right = sum(ref == hyp for ref, hyp in zip(refs, hyps, strict=True))
        scores[f"word_accuracy{suffix}"] = round(right / len(words), 4)
    return scores


def fit(out: Path, *, num_epochs: int, batch_size: int, lr: float) -> dict[str, float]:
    """Train, and write the weights in half precision to ``out.safetensors`` and what was measured to ``out.json``.

    Returns:
        What was measured on the words set aside, as `evaluate` does, with the numbers of words and epochs learned from.
    """
    words, held_out = split_words()
    logger.info("%d words, %d set aside", len(words), len(held_out))
    network = train(words, NetworkConfig(), num_epochs=num_epochs, batch_size=batch_size, lr=lr)
    weights = network.export()
    scores = evaluate(LetterToSound({name: tensor.numpy() for name, tensor in weights.items()}), held_out)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, out.with_suffix(".safetensors"))
    scores |= {"num_training_words": len(words), "epochs": num_epochs}
    out.with_suffix(".json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    return scores


def _batches(words: Sequence[str], batch_size: int) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return letters (B, L), their lengths, phonemes (B, U), their lengths; words of like length together."""
    ids = {phoneme: number for number, phoneme in enumerate(PHONEMES)}
    ordered = random.Random(0).sample(words, len(words))  # noqa: S311  # not cryptography
    ordered.sort(key=len)
    batches = []
    for first in range(0, len(ordered), batch_size):
        part = ordered[first : first + batch_size]
        letters = [torch.tensor(letter_ids(word)) for word in part]
        phonemes = [torch.tensor([ids[p] for p in phonemes_of(english().entries[word])]) for word in part]
        lens = (torch.tensor([len(row) for row in rows]) for rows in (letters, phonemes))
        letter_lens, phoneme_lens = lens
        padded = (nn.utils.rnn.pad_sequence(rows, batch_first=True) for rows in (letters, phonemes))
        padded_letters, padded_phonemes = padded
        batches.append((padded_letters, letter_lens, padded_phonemes, phoneme_lens))
    return batches
