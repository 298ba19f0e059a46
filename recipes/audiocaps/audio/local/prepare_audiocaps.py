"""Make the train, dev and test data directories of AudioCaps from its lists of captions and your recordings.

CORPUS holds ``train.csv``, ``val.csv`` and ``test.csv`` as published, and anywhere below it the recordings, each named
``<youtube_id>_<start_time>`` or ``<youtube_id>`` with any suffix of sound. Captions whose recording is missing are
counted; of several captions of one recording, dev and test have the first.
"""

import argparse
import csv
from pathlib import Path

import soundfile

from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.text.normalize import NORMALIZERS

SETS = {"train": "train", "val": "dev", "test": "test"}
SUFFIXES = {".wav", ".flac", ".ogg", ".mp3"}
COLUMNS = {"audiocap_id", "youtube_id", "start_time", "caption"}


def read_set(path: Path, recordings: dict[str, Path], *, keeps_all: bool) -> tuple[list[Utterance], int]:
    """Return the utterances of one list, and how many captions have no recording.

    Raises:
        DataError: the list is not there, or not one of AudioCaps.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; it is one of the lists of AudioCaps")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not rows[0].keys() >= COLUMNS:
        raise DataError(f"{path}: must have the columns {', '.join(sorted(COLUMNS))}")
    utterances, seen, missing = [], set(), 0
    for row in rows:
        clip = f"{row['youtube_id']}_{row['start_time']}"
        wav_path = recordings.get(clip) or recordings.get(row["youtube_id"])
        if wav_path is None:
            missing += 1
            continue
        if clip in seen and not keeps_all:
            continue
        seen.add(clip)
        utterances.append(
            Utterance(
                utt_id=f"{int(row['audiocap_id']):06d}",
                wav_path=wav_path.resolve(),
                text=NORMALIZERS["basic"](row["caption"], "eng"),
                spk_id=clip,
                duration_s=soundfile.info(wav_path).duration,
            )
        )
    return utterances, missing


def main() -> None:
    """Write ``DATA/{train,dev,test}``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("data", type=Path)
    args = parser.parse_args()
    recordings = {path.stem: path for path in sorted(args.corpus.rglob("*")) if path.suffix.lower() in SUFFIXES}
    for list_name, set_name in SETS.items():
        utterances, missing = read_set(args.corpus / f"{list_name}.csv", recordings, keeps_all=list_name == "train")
        # A speaker's utterances must stand together, and ids in order: an id begins with its speaker's.
        utterances = [
            Utterance(**{**vars(utterance), "utt_id": f"{utterance.spk_id}-{utterance.utt_id}"})
            for utterance in utterances
        ]
        write_kaldi_dir(args.data / set_name, utterances)
        print(f"{set_name}: {len(utterances)} captions, {missing} without recording")


if __name__ == "__main__":
    main()
