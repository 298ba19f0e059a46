"""List the words of the texts of Kaldi data directories (``speechnar data words``).

The list is a tokenizer whose tokens are words, as what is told to a model that makes sound: names of classes (one word
each, as ``crying_baby``) or captions.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from speechnar.errors import DataError
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
