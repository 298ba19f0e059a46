"""Make directories of texts of Multi30k: image captions in English with their translations, line by line."""

import argparse
import gzip
from pathlib import Path

from speechnar.data.download import find_corpus
from speechnar.data.parallel_text import Sentence, write_sentences
from speechnar.errors import DataError
from speechnar.text.languages import ISO3_TO_ISO1

SOURCE = "eng"
SETS = {"train": "train", "dev": "val", "test": "test_2016_flickr", "test_2017": "test_2017_flickr"}


def read_lines(folder: Path, name: str, lang: str) -> list[str]:
    """Return the lines of ``<name>.<lang>.gz``, split at line feeds only, with single spaces."""
    path = folder / f"{name}.{ISO3_TO_ISO1[lang]}.gz"
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: must be text, compressed by gzip ({error})") from None
    return [" ".join(line.split()) for line in text.removesuffix("\n").split("\n")]


def read_set(folder: Path, name: str, targets: list[str]) -> tuple[list[Sentence], int]:
    """Return the sentences of a set in English and ``targets``, and how many lack a text and were left out."""
    by_lang = {lang: read_lines(folder, name, lang) for lang in (SOURCE, *targets)}
    if len({len(lines) for lines in by_lang.values()}) > 1:
        counts = ", ".join(f"{lang} {len(lines)}" for lang, lines in by_lang.items())
        raise DataError(f"{folder}: {name} must have as many lines in all languages, got {counts}")
    rows = [dict(zip(by_lang, row, strict=True)) for row in zip(*by_lang.values(), strict=True)]
    sentences = [
        Sentence(f"{name}-{number:05d}", row[SOURCE], SOURCE, {lang: row[lang] for lang in targets})
        for number, row in enumerate(rows)
        if all(row.values())
    ]
    return sentences, len(rows) - len(sentences)


def main() -> None:
    """Write ``OUT/{train,dev,test,test_2017}``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="folder of the compressed texts, or its name in $SPEECHNAR_CORPORA")
    parser.add_argument("out", type=Path)
    parser.add_argument("--targets", nargs="+", default=["deu", "fra"], metavar="LANG", help="ISO 639-3")
    args = parser.parse_args()
    folder = find_corpus(args.corpus)
    for name, stem in SETS.items():
        sentences, dropped = read_set(folder, stem, args.targets)
        write_sentences(args.out / name, sentences)
        print(f"{name}: {len(sentences)} sentences; {dropped} without a text dropped")


if __name__ == "__main__":
    main()
