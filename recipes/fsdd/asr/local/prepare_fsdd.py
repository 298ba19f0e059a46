"""Make the train, dev and test data directories of the Free Spoken Digit Dataset.

The recording ``{digit}_{speaker}_{index}.wav`` becomes the utterance ``{speaker}-{digit}-{index}``; its text is the
digit's word. The test set is the corpus' own: indices 0 to 4 of each digit and speaker; 5 and 6 are for development.
"""

import argparse
import re
from collections import Counter
from pathlib import Path

import soundfile

from speechnar.data.download import unpacked_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NAME = re.compile(r"(?P<digit>\d)_(?P<speaker>[a-z]+)_(?P<index>\d+)\.wav")
# First index of each set behind the one before it.
TEST_END, DEV_END = 5, 7
NUM_RECORDINGS, NUM_EACH = 3000, 50


def set_of(index: int) -> str:
    """Return the name of the set that the recordings of this index belong to."""
    if index < TEST_END:
        return "test"
    return "dev" if index < DEV_END else "train"


def read_recordings(folder: Path) -> dict[str, list[Utterance]]:
    """Return the utterances of every set, sorted by id.

    Raises:
        DataError: a file is not named as the corpus names them, or their numbers are not those of version 1.0.10.
    """
    sets: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    each: Counter[tuple[str, str]] = Counter()
    for wav_path in sorted(folder.glob("*.wav")):
        match = NAME.fullmatch(wav_path.name)
        if match is None:
            raise DataError(f"{wav_path}: the name must be {{digit}}_{{speaker}}_{{index}}.wav")
        digit, speaker, index = match["digit"], match["speaker"], match["index"]
        each[speaker, digit] += 1
        sets[set_of(int(index))].append(
            Utterance(
                utt_id=f"{speaker}-{digit}-{index}",
                wav_path=wav_path.resolve(),
                text=WORDS[int(digit)],
                spk_id=speaker,
                duration_s=soundfile.info(wav_path).duration,
                lang="eng",
            )
        )
    total = sum(each.values())
    if total != NUM_RECORDINGS:
        raise DataError(
            f"{folder}: version 1.0.10 has {NUM_RECORDINGS} recordings, got {total}; fetch the archive of that version"
        )
    uneven = {f"{digit}_{speaker}": count for (speaker, digit), count in sorted(each.items()) if count != NUM_EACH}
    if uneven:
        raise DataError(f"{folder}: must hold {NUM_EACH} recordings of each digit and speaker, got {uneven}")
    return {name: sorted(utterances, key=lambda utterance: utterance.utt_id) for name, utterances in sets.items()}


def main() -> None:
    """Write ``DATA/{train,dev,test}``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="archive of the dataset or its unpacked folder")
    parser.add_argument("data", type=Path)
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    args = parser.parse_args()
    root = unpacked_corpus(args.corpus, args.unpack_to, holds="recordings/0_jackson_0.wav")
    for name, utterances in read_recordings(root / "recordings").items():
        write_kaldi_dir(args.data / name, utterances)
        minutes = sum(utterance.duration_s for utterance in utterances) / 60
        print(f"{name}: {len(utterances)} utterances, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
