"""Make the train, dev and test data directories of LJSpeech 1.1, or of the first part of it.

The text is the corpus' own normalised one, with its punctuation. Dev is LJ002-0121 to LJ002-0130, test is LJ002-0131 to
LJ002-0160 (both within the first part, so that results of a part and of the whole are on the same sentences).
"""

import argparse
import re
from pathlib import Path

import soundfile

from speechnar.data.download import unpacked_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError

NAME = re.compile(r"LJ\d{3}-\d{4}")
DEV, TEST = ("LJ002-0121", "LJ002-0130"), ("LJ002-0131", "LJ002-0160")
NUM_COLUMNS = 3


def set_of(name: str) -> str:
    """Return the name of the set that the clip ``name`` belongs to."""
    for label, (first, last) in {"dev": DEV, "test": TEST}.items():
        if first <= name <= last:
            return label
    return "train"


def read_clips(root: Path, last: str | None) -> dict[str, list[Utterance]]:
    """Return the clips of every set whose audio is there, sorted by name, up to the one named ``last``.

    Raises:
        DataError: a line of the metadata is malformed, or no clip is there.
    """
    sets: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    metadata = root / "metadata.csv"
    for number, line in enumerate(metadata.read_text(encoding="utf-8").splitlines(), start=1):
        columns = line.split("|")
        if len(columns) != NUM_COLUMNS or not NAME.fullmatch(columns[0]):
            raise DataError(f"{metadata}:{number}: must be NAME|TEXT|NORMALISED TEXT, got {line[:60]!r}")
        name, _, text = columns
        wav_path = root / "wavs" / f"{name}.wav"
        if wav_path.is_file() and (last is None or name <= last):  # the metadata of a part may be that of the whole
            sets[set_of(name)].append(
                Utterance(
                    utt_id=name,
                    wav_path=wav_path.resolve(),
                    text=" ".join(text.split()),
                    spk_id="lj",
                    duration_s=soundfile.info(wav_path).duration,
                    lang="eng",
                )
            )
    for label, utterances in sets.items():
        if not utterances:
            raise DataError(f"{root}: no clip of the {label} set is there")
        utterances.sort(key=lambda utterance: utterance.utt_id)
    return sets


def main() -> None:
    """Write ``DATA/{train,dev,test}``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="archive of the dataset or its unpacked folder")
    parser.add_argument("data", type=Path)
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    parser.add_argument("--last", metavar="NAME", help="leave out the clips behind this one")
    args = parser.parse_args()
    root = unpacked_corpus(args.corpus, args.unpack_to, holds="metadata.csv")
    for name, utterances in read_clips(root, args.last).items():
        write_kaldi_dir(args.data / name, utterances)
        minutes = sum(utterance.duration_s for utterance in utterances) / 60
        print(f"{name}: {len(utterances)} utterances, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
