"""List how often words are said, from the package ``wordfreq``, for a recogniser's folder: ``OUT/words/eng.xz``.

wordfreq 3.1.1 counts subtitles, books, news, Wikipedia and the Web until 2021; its data are under CC BY-SA 4.0.
"""

import argparse
from pathlib import Path

import wordfreq

from speechnar.text.normalize import NORMALIZERS
from speechnar.text.words import WORDS_FOLDER, write_words

LISTS = {"eng": "en", "fra": "fr", "deu": "de", "spa": "es", "ita": "it", "rus": "ru"}


def list_words(language: str, count: int) -> dict[str, float]:
    """Return the frequencies of the ``count`` most frequent words that have no digits, as scores write them."""
    found: dict[str, float] = {}
    for word in wordfreq.iter_wordlist(LISTS[language]):
        if len(found) == count:
            break
        plain = NORMALIZERS["basic"](word, language)
        if plain and " " not in plain and not any(letter.isdigit() for letter in plain):
            found.setdefault(plain, wordfreq.word_frequency(word, LISTS[language]))
    return found


def main() -> None:
    """Write the lists of the languages that wordfreq knows."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("out", type=Path, help="the model folder")
    parser.add_argument("--languages", nargs="+", default=list(LISTS), choices=list(LISTS))
    parser.add_argument("--count", type=int, default=100_000, help="words of a list; default: %(default)s")
    args = parser.parse_args()
    for language in args.languages:
        frequencies = list_words(language, args.count)
        write_words(args.out / WORDS_FOLDER / f"{language}.xz", frequencies)
        print(f"{language}: {len(frequencies)} words")


if __name__ == "__main__":
    main()
