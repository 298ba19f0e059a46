"""Replace the targets of training pairs by a teacher's translations: ``python -m speechnar.train.distil``.

What is written at once cannot choose between two good translations word by word; of a teacher's there is one for each
source, and an easier one. A share of the pairs keeps its target, since teachers say rare words too rarely.

Shapes: B sentences, S source tokens.
Sources: Kim and Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016; Gu et al., "Non-Autoregressive Neural
Machine Translation", ICLR 2018, section 4; Ding et al., "Understanding and Improving Lexical Choice in
Non-Autoregressive Translation", ICLR 2021 (why to keep raw data).
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from speechnar.data.pairs import EOS
from speechnar.data.parallel_text import Sentence, read_sentences, write_sentences
from speechnar.errors import ConfigError, DataError, SpeechnarError
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL", help="of kind reta")
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="OUT", help="a directory of texts; left alone if it is complete")
    parser.add_argument("--source", required=True, metavar="LANG", help="ISO 639-3")
    parser.add_argument("--target", required=True, metavar="LANG")
    parser.add_argument("--beam-size", type=int, default=4, metavar="N", help="default: %(default)s")
    parser.add_argument("--token-reward", type=float, default=0.0, metavar="X", help="default: %(default)s")
    parser.add_argument("--raw-share", type=float, default=0.15, metavar="P", help="default: %(default)s")
    parser.add_argument("--batch-tokens", type=int, default=2048, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe")
    parser.add_argument("-d", "--device", default="cpu")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if (args.out / "text").exists():
        logger.info("%s is there already", args.out)
        return 0
    try:
        loaded = load_model(args.model, device=args.device)
        if not isinstance(loaded.model, Reta):
            raise ConfigError(f"{args.model}: a teacher must be of kind reta, got {type(loaded.model).__name__}")
        with torch.autocast(torch.device(args.device).type, dtype=torch.bfloat16, enabled=args.bf16):
            distilled = distil(
                loaded.model,
                loaded.tokenizer,
                read_sentences(args.data_dir),
                source=args.source,
                target=args.target,
                beam_size=args.beam_size,
                token_reward=args.token_reward,
                raw_share=args.raw_share,
                batch_tokens=args.batch_tokens,
                seed=args.seed,
            )
        write_sentences(args.out, distilled)
    except SpeechnarError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    logger.info("%s: %d pairs", args.out, len(distilled))
    return 0


if __name__ == "__main__":
    sys.exit(main())
