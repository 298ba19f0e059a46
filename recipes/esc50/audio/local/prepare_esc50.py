"""Make the train, dev and test data directories of ESC-50; the name of a clip's class is its text.

Fold 5 is for testing. Of fold 4, the clips of every fourth recording are for development: clips of one recording are
always in the same set.
"""

import argparse
import csv
from pathlib import Path

import soundfile

from speechnar.data.download import unpacked_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError

COLUMNS = {"filename", "fold", "category", "src_file"}
TEST_FOLD, DEV_FOLD, DEV_EACH = 5, 4, 4


def read_clips(root: Path) -> dict[str, list[Utterance]]:
    """Return the clips of every set.

    Raises:
        DataError: the list of clips is not the corpus', or names a recording that is not there.
    """
    path = root / "meta" / "esc50.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not rows[0].keys() >= COLUMNS:
        raise DataError(f"{path}: must have the columns {', '.join(sorted(COLUMNS))}")
    sources = sorted({row["src_file"] for row in rows if int(row["fold"]) == DEV_FOLD})
    dev_sources = set(sources[::DEV_EACH])
    sets: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for row in rows:
        wav_path = (root / "audio" / row["filename"]).resolve()
        if not wav_path.is_file():
            raise DataError(f"{path}: names {row['filename']}, which is not in {root / 'audio'}")
        fold = int(row["fold"])
        name = "dev" if fold == DEV_FOLD and row["src_file"] in dev_sources else "train"
        sets["test" if fold == TEST_FOLD else name].append(
            Utterance(
                utt_id=wav_path.stem,
                wav_path=wav_path,
                text=row["category"],
                spk_id=row["src_file"],
                duration_s=soundfile.info(wav_path).duration,
            )
        )
    return sets


def main() -> None:
    """Write ``DATA/{train,dev,test}``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="archive of ESC-50 or its unpacked folder")
    parser.add_argument("data", type=Path)
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    args = parser.parse_args()
    root = unpacked_corpus(args.corpus, args.unpack_to, holds="meta/esc50.csv")
    for name, utterances in read_clips(root).items():
        write_kaldi_dir(args.data / name, utterances)
        print(f"{name}: {len(utterances)} clips of {len({utterance.text for utterance in utterances})} classes")


if __name__ == "__main__":
    main()
