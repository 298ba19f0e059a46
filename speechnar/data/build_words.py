"""List the words of the texts of Kaldi data directories: ``python -m speechnar.data.build_words DIR... OUT``.

The list is a tokenizer whose tokens are words, as what is told to a model that makes sound: names of classes (one word
each, as ``crying_baby``) or captions.
"""

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from speechnar.data.kaldi import read_kaldi_dir
from speechnar.errors import DataError, SpeechnarError
from speechnar.text.tokenizer import BLANK, NA, TOKENS_NAME, UNK, LexiconTokenizer

logger = logging.getLogger(__name__)


def build_words(texts: Iterable[str], out: str | Path, *, min_count: int = 1) -> None:
    """Save a tokenizer of the words that stand at least ``min_count`` times in ``texts``, the most frequent first.

    A folder ``out`` that already holds a token list is complete and left alone.

    Raises:
        DataError: there is no such word.
    """
    out = Path(out)
    if (out / TOKENS_NAME).exists():
        logger.info("%s is there already", out)
        return
    counts = Counter(word for text in texts if text != NA for word in text.split())
    words = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
    if not words:
        raise DataError(f"no word stands {min_count} times in the texts; give data with texts, or a lower --min-count")
    partial = out.with_name(f".{out.name}.partial")
    LexiconTokenizer((BLANK, UNK, *words), {}).save(partial)
    if out.exists():
        raise DataError(f"{out}: holds no {TOKENS_NAME}, so it is no tokenizer; remove the folder")
    partial.replace(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dirs", nargs="+", type=Path, metavar="DIR", help="training data directories")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--min-count", type=int, default=1, metavar="N", help="leave rarer words out")
    args = parser.parse_args(argv)
    try:
        texts = (utterance.text for folder in args.data_dirs for utterance in read_kaldi_dir(folder))
        build_words(texts, args.out, min_count=args.min_count)
    except SpeechnarError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
