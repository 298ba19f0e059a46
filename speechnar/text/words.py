"""How often the words of a language are said: the lists that a recogniser's folder may hold, as ``words/eng.xz``.

A list is text, packed by LZMA. A line is the logarithm to base 10 of a frequency, in hundredths, and the words that
have it: ``-253 very back``. They are in lower case, as `speechnar.text.normalize` writes them.
"""

import lzma
import math
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

from speechnar.errors import DataError
from speechnar.files import read_bounded

WORDS_FOLDER = "words"
MAX_BYTES = 1 << 25
"""Of a list, packed or not: more than that of a million words."""
MAX_MEMORY = 1 << 26
"""To unpack one: a list may ask for any."""
LEAST = -3000
"""Number of a line: nobody counts so many words."""
_NAME = re.compile(r"[a-z]{3}\.xz")


class WordLists:
    """The lists of a model folder, each read when it is first asked for.

    Args:
        folder: of the model; it need not hold any.
    """

    def __init__(self, folder: Path) -> None:
        found = sorted((folder / WORDS_FOLDER).glob("*.xz"))
        self._paths = {path.stem: path for path in found if _NAME.fullmatch(path.name)}
        self._read: dict[str, Mapping[str, float]] = {}

    @property
    def languages(self) -> tuple[str, ...]:
        """ISO 639-3 codes of the languages that have one."""
        return tuple(self._paths)

    def __getitem__(self, language: str) -> Mapping[str, float]:
        """Return the natural logarithm of the frequency of each word of a language that has a list.

        Raises:
            DataError: the list is damaged.
        """
        if language not in self._read:
            self._read[language] = read_words(self._paths[language])
        return self._read[language]


def read_words(path: Path) -> dict[str, float]:
    """Return the natural logarithm of the frequency of each word in a list.

    Raises:
        DataError: it is unreadable or malformed.
    """
    try:
        unpacking = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_MEMORY)
        text = unpacking.decompress(read_bounded(path, MAX_BYTES), MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise DataError(f"{path}: must hold at most {MAX_BYTES:,} bytes")
        if not unpacking.eof:
            raise ValueError("it is cut off")
        lines = [line.split() for line in text.decode().splitlines()]
        found: dict[str, float] = {}
        for hundredths, *words in lines:
            number = int(hundredths)
            if not words or not LEAST <= number <= 0:
                raise ValueError(f"a line must be a number from {LEAST} to 0 and its words, got {hundredths[:40]}")
            found |= dict.fromkeys(words, number / 100 * math.log(10))
    except (OSError, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path}: is no list of words ({' '.join(str(error).split())[:120]})") from None
    return found


def write_words(path: Path, frequencies: Mapping[str, float]) -> None:
    """Write the list of words of these frequencies, each in (0, 1], the same bytes each time."""
    lines: dict[int, list[str]] = {}
    for word, frequency in sorted(frequencies.items(), key=lambda pair: (-pair[1], pair[0])):
        lines.setdefault(round(100 * math.log10(frequency)), []).append(word)
    text = "".join(f"{hundredths} {' '.join(words)}\n" for hundredths, words in lines.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(text.encode()))


def copy_words(source: Path, dest: Path) -> None:
    """Let the model folder ``dest`` have the lists of ``source``, and no others.

    Raises:
        DataError: one is damaged, or none.
    """
    if (source / WORDS_FOLDER).resolve() == (dest / WORDS_FOLDER).resolve():
        return
    shutil.rmtree(dest / WORDS_FOLDER, ignore_errors=True)
    lists = WordLists(source)
    for language in lists.languages:  # each is read, so that nothing else is copied that a folder may link to
        write_words(dest / WORDS_FOLDER / f"{language}.xz", {word: math.exp(x) for word, x in lists[language].items()})
