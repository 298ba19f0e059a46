"""Replace the targets of training pairs by a teacher's translations (``speechnar data distil``).

What is written at once cannot choose between two good translations word by word; of a teacher's there is one for each
source, and an easier one. A share of the pairs keeps its target, since teachers say rare words too rarely.

Shapes: B sentences, S source tokens.
Sources: Kim and Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016; Gu et al., "Non-Autoregressive Neural
Machine Translation", ICLR 2018, section 4; Ding et al., "Understanding and Improving Lexical Choice in
Non-Autoregressive Translation", ICLR 2021 (why to keep raw data).
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from speechnar.data.pairs import EOS
from speechnar.data.parallel_text import Sentence, read_sentences, write_sentences
from speechnar.errors import ConfigError, DataError
from speechnar.models.base import load_model
from speechnar.models.mt.reta import Reta
from speechnar.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

LOG_EVERY_S = 30.0


def distil(
    model: Reta,
    tokenizer: Tokenizer,
    sentences: Sequence[Sentence],
    *,
    source: str,
    target: str,
    beam_size: int = 4,
    token_reward: float = 0.0,
    raw_share: float = 0.15,
    batch_tokens: int = 2048,
    seed: int = 0,
) -> list[Sentence]:
    """Return the pairs of ``source`` and ``target`` with the teacher's translations for targets.

    A pair keeps its own target if it is among the random ``raw_share``, or if the teacher says nothing.

    Args:
        model: the teacher.
        tokenizer: of both languages.
        sentences: those without text in both languages are left out.
        source: ISO 639-3 language.
        target: likewise.
        beam_size: of the teacher's search.
        token_reward: likewise (see `Reta.decode`).
        raw_share: in [0, 1].
        batch_tokens: source tokens of a batch, padding counted; hypotheses multiply them.
        seed: of the choice.

    Raises:
        ConfigError: ``raw_share`` is out of range.
        DataError: no sentence has text in both languages.
    """
    if not 0 <= raw_share <= 1:
        raise ConfigError(f"raw_share must lie in [0, 1], got {raw_share}")
    texts = [(sentence, sentence.in_language(source), sentence.in_language(target)) for sentence in sentences]
    pairs = [(sentence, src, tgt) for sentence, src, tgt in texts if src is not None and tgt is not None]
    if not pairs:
        raise DataError(f"none of {len(sentences)} sentences has text in {source} and in {target}")
    is_raw = np.random.default_rng(seed).random(len(pairs)) < raw_share
    eos_id = tokenizer.id_of(EOS)
    sources = [[*tokenizer.encode(src), eos_id] for _, src, _ in pairs]
    said: dict[int, str] = {}
    todo = sorted((place for place in range(len(pairs)) if not is_raw[place]), key=lambda place: len(sources[place]))
    device = next(model.parameters()).device
    started = logged = time.monotonic()
    for batch in _batches(todo, [len(row) for row in sources], batch_tokens):
        rows = [torch.tensor(sources[place]) for place in batch]
        src_tokens = pad_sequence(rows, batch_first=True).to(device)
        src_lens = torch.tensor([len(row) for row in rows], device=device)
        found = model.decode(src_tokens, src_lens, beam_size=beam_size, token_reward=token_reward)
        said |= {place: tokenizer.decode(ids) for place, ids in zip(batch, found, strict=True)}
        if time.monotonic() - logged > LOG_EVERY_S:
            logged = time.monotonic()
            logger.info("%d of %d sentences in %.0f s", len(said), len(todo), logged - started)
    return [
        replace(sentence, text=src, lang=source, translations={target: said.get(place, "").strip() or tgt})
        for place, (sentence, src, tgt) in enumerate(pairs)
    ]


def _batches(places: Sequence[int], lens: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group places in order of length."""
    batches: list[list[int]] = [[]]
    for place in places:
        if batches[-1] and (len(batches[-1]) + 1) * lens[place] > batch_tokens:
            batches.append([])
        batches[-1].append(place)
    return [batch for batch in batches if batch]


def distil_dir(
    model: str | Path,
    data_dir: str | Path,
    out: str | Path,
    *,
    source: str,
    target: str,
    beam_size: int = 4,
    token_reward: float = 0.0,
    raw_share: float = 0.15,
    batch_tokens: int = 2048,
    seed: int = 0,
    bf16: bool = False,
    device: str = "cpu",
) -> None:
    """Write what `distil` makes of the texts of ``data_dir`` to the directory ``out``; one with a text is left alone.

    Args:
        model: folder of the teacher.
        data_dir: a directory of texts.
        out: likewise.
        source, target, beam_size, token_reward, raw_share, batch_tokens, seed: as of `distil`.
        bf16: compute in bfloat16 where that is safe.
        device: of the teacher.

    Raises:
        ConfigError: the teacher is of another kind than reta, or ``raw_share`` is out of range.
        DataError: the directory is malformed, or no sentence has text in both languages.
    """
    if (Path(out) / "text").exists():
        logger.info("%s is there already", out)
        return
    loaded = load_model(model, device=device)
    if not isinstance(loaded.model, Reta):
        raise ConfigError(f"{model}: a teacher must be of kind reta, got {type(loaded.model).__name__}")
    with torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=bf16):
        distilled = distil(
            loaded.model,
            loaded.tokenizer,
            read_sentences(data_dir),
            source=source,
            target=target,
            beam_size=beam_size,
            token_reward=token_reward,
            raw_share=raw_share,
            batch_tokens=batch_tokens,
            seed=seed,
        )
    write_sentences(out, distilled)
    logger.info("%s: %d pairs", out, len(distilled))
