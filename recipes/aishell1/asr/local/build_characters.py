"""Make a tokenizer of the characters of a data directory's text, the frequent ones first."""

import argparse
from collections import Counter
from pathlib import Path

from speechnar.data.kaldi import read_kaldi_dir
from speechnar.text.tokenizer import BLANK, SENTENCE_PIECES, UNK, CharTokenizer


def main() -> None:
    """Write the tokenizer folder ``OUT``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    counts = Counter(character for utterance in read_kaldi_dir(args.data_dir) for character in utterance.text)
    characters = sorted(counts, key=lambda character: (-counts[character], character))
    CharTokenizer((BLANK, UNK, *characters, *SENTENCE_PIECES)).save(args.out)
    print(f"{args.out}: {len(characters)} characters")


if __name__ == "__main__":
    main()
