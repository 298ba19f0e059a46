"""Make directories of texts of IWSLT 2014: TED talks in German and English, with the sets that papers report on.

As in fairseq's ``prepare-iwslt14.sh``: every 23rd pair of the training talks is for development, and five old sets
together are the test set. Case and punctuation are kept here, and a line is a pair as it stands: no tokenizer reads it.
"""

import argparse
import html
import re
from pathlib import Path

from speechnar.data.download import unpacked_corpus
from speechnar.data.parallel_text import Sentence, write_sentences
from speechnar.errors import DataError
from speechnar.text.languages import ISO3_TO_ISO1

LANGUAGES = ("deu", "eng")
PAIR = "-".join(ISO3_TO_ISO1[lang] for lang in LANGUAGES)
TESTS = ("TED.dev2010", "TEDX.dev2012", "TED.tst2010", "TED.tst2011", "TED.tst2012")
DEV_EVERY = 23
MAX_WORDS, MAX_RATIO = 175, 1.5
"""Training pairs with more words on a side, or so many times as many as on the other, are dropped."""
TAG = re.compile(r"<(/?)(\w+)[^>]*>")
TEXT_TAGS = {"title", "description"}
SEGMENT = re.compile(r"<seg id=[^>]*>(.*)</seg>")


def read_lines(path: Path) -> list[str]:
    """Return the lines of ``path``, split at line feeds only."""
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: must be UTF-8 text ({error})") from None


def talk_text(line: str) -> str | None:
    """Return what a line of the training talks says, in single spaces; None: it says something about the talk."""
    tags = TAG.findall(line)
    if any(name not in TEXT_TAGS for _, name in tags):
        return None
    return " ".join(TAG.sub(" ", line).split())


def read_pairs(folder: Path, name: str) -> list[tuple[str, ...]]:
    """Return the lines of a set, German and English."""
    by_lang = []
    for lang in LANGUAGES:
        code = ISO3_TO_ISO1[lang]
        if name == "train":
            texts = [talk_text(line) for line in read_lines(folder / f"train.tags.{PAIR}.{code}")]
            by_lang.append([text for text in texts if text is not None])
        else:
            lines = read_lines(folder / f"IWSLT14.{name}.{PAIR}.{code}.xml")
            found = [match[1] for match in map(SEGMENT.search, lines) if match]
            by_lang.append([" ".join(html.unescape(text).split()) for text in found])
    if len({len(lines) for lines in by_lang}) > 1:
        counts = " and ".join(str(len(lines)) for lines in by_lang)
        raise DataError(f"{folder}: {name} must have as many lines in German as in English, got {counts}")
    return list(zip(*by_lang, strict=True))


def is_clean(pair: tuple[str, ...]) -> bool:
    """Tell whether a training pair is of fitting and usual lengths."""
    fewer, more = sorted(len(text.split()) for text in pair)
    return fewer > 0 and more <= MAX_WORDS and more <= MAX_RATIO * fewer


def sentence_of(utt_id: str, pair: tuple[str, ...]) -> Sentence:
    """Return a pair as a sentence in German with its translation."""
    return Sentence(utt_id, pair[0], LANGUAGES[0], {LANGUAGES[1]: pair[1]})


def main() -> None:
    """Write ``OUT/{train,dev,test}``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="de-en.tgz, its folder, or a name in $SPEECHNAR_CORPORA")
    parser.add_argument("out", type=Path)
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    args = parser.parse_args()
    folder = unpacked_corpus(args.corpus, args.unpack_to, holds=f"train.tags.{PAIR}.de")
    talks = read_pairs(folder, "train")
    clean = [pair for pair in talks if is_clean(pair)]
    numbered = [(number, sentence_of(f"talks-{number:06d}", pair)) for number, pair in enumerate(clean, start=1)]
    sets = {
        "train": [sentence for number, sentence in numbered if number % DEV_EVERY],
        "dev": [sentence for number, sentence in numbered if number % DEV_EVERY == 0],
        "test": [
            sentence_of(f"{name}-{number:04d}", pair)
            for name in TESTS
            for number, pair in enumerate(read_pairs(folder, name), start=1)
            if all(pair)
        ],
    }
    for name, sentences in sets.items():
        write_sentences(args.out / name, sentences)
    counts = ", ".join(f"{name} {len(sentences)}" for name, sentences in sets.items())
    print(f"{counts} pairs; {len(talks) - len(clean)} of the talks dropped")


if __name__ == "__main__":
    main()
