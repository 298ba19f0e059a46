"""Check that the tokenizer can spell every corpus: a token it does not know could be neither learnt nor recognised."""

import argparse
import json
from pathlib import Path

from speechnar.errors import DataError


def main() -> None:
    """Fail if a data directory in ``STATISTICS``, of `speechnar data describe`, holds unknown tokens."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("statistics", type=Path)
    path = parser.parse_args().statistics
    unknown = {
        folder: report["unknown_tokens"]
        for folder, report in json.loads(path.read_text(encoding="utf-8")).items()
        if report["unknown_tokens"]
    }
    if unknown:
        raise DataError(f"{path}: every token must be in the vocabulary, unknown are {unknown}; clean the text")


if __name__ == "__main__":
    main()
