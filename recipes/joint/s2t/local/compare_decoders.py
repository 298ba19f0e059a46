"""Tell how sure the difference between two decoders is: ``compare_decoders.py DATA_DIR HYP OTHER_HYP``.

Prints it in points of macro CER, with the 95 % interval of paired draws of the utterances within each language.

Source: Bisani and Ney, "Bootstrap estimates for confidence intervals in ASR performance evaluation", ICASSP 2004.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from speechnar.data.kaldi import read_kaldi_dir
from speechnar.metrics.error_rate import cer

DRAWS = 3000


def read_texts(path: Path) -> dict[str, str]:
    """Read lines of an utterance's id and its text, which may be empty."""
    lines = [line.partition(" ") for line in path.read_text(encoding="utf-8").splitlines()]
    return {utt_id: text for utt_id, _, text in lines}


def main() -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("hyps", nargs=2, type=Path, metavar="HYP")
    args = parser.parse_args()
    hyps = [read_texts(path) for path in args.hyps]
    counts: dict[str, list[list[float]]] = {}  # by language: letters of each utterance, and the errors of both
    for utterance in read_kaldi_dir(args.data_dir):
        rates = [
            cer([utterance.text], [hyp.get(utterance.utt_id, "")], normalizer="basic", lang=utterance.lang)
            for hyp in hyps
        ]
        size = rates[0].ref_len
        counts.setdefault(utterance.lang, []).append([size, *(rate.rate * size for rate in rates)])
    tables = [np.array(rows) for rows in counts.values()]
    rng = np.random.default_rng(0)

    def difference(drawn: list[np.ndarray]) -> float:
        sums = [table.sum(0) for table in drawn]
        return 100 * float(np.mean([(total[2] - total[1]) / total[0] for total in sums]))

    draws = [difference([table[rng.integers(len(table), size=len(table))] for table in tables]) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [0.025, 0.975])
    print(f"{difference(tables):.2f} [{low:.2f}, {high:.2f}]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
