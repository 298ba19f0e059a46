"""Make the train, dev and test data directories of AN4, split as in ESPnet's recipe.

Utterances are named ``<speaker>-<prefix>-<channel>`` (the file ``an251-fash-b`` becomes ``fash-an251-b``) and sorted;
the first 100 of the 948 training utterances are for development. Text is upper case, as the corpus has it, or lower
case where its tokenizer comes from another corpus.
"""

import argparse
import re
from pathlib import Path

import soundfile

from speechnar.data.download import unpacked_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError

LINE = re.compile(
    r"(?:<s> )?(?P<text>[^<>()]+?)(?: </s>)? \((?P<prefix>[^-]+)-(?P<speaker>[^-]+)-(?P<channel>[^-)]+)\)"
)
NUM_DEV = 100
NUM_TRAIN, NUM_TEST = 848, 130


def read_set(root: Path, name: str, wav_folder: str, letters: str) -> list[Utterance]:
    """Return the utterances of ``etc/an4_<name>.transcription``, sorted by id, in upper or lower case ``letters``."""
    transcription = root / "etc" / f"an4_{name}.transcription"
    utterances = []
    for number, line in enumerate(transcription.read_text(encoding="ascii").splitlines(), start=1):
        match = LINE.fullmatch(line.strip())
        if match is None:
            raise DataError(
                f"{transcription}:{number}: must be a transcript and (prefix-speaker-channel), got {line!r}"
            )
        prefix, speaker, channel = match["prefix"], match["speaker"], match["channel"]
        wav_path = root / "wav" / wav_folder / speaker / f"{prefix}-{speaker}-{channel}.sph"
        utterances.append(
            Utterance(
                utt_id=f"{speaker}-{prefix}-{channel}",
                wav_path=wav_path.resolve(),
                text=match["text"].lower() if letters == "lower" else match["text"],
                spk_id=speaker,
                duration_s=soundfile.info(wav_path).duration,
                lang="eng",
            )
        )
    return sorted(utterances, key=lambda utterance: utterance.utt_id)


def main() -> None:
    """Write ``DATA/{train,dev,test}``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="an4_sphere.tar.gz or the unpacked an4 folder")
    parser.add_argument("data", type=Path)
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    parser.add_argument("--letters", choices=("upper", "lower"), default="upper", help="case of the text")
    args = parser.parse_args()
    root = unpacked_corpus(args.corpus, args.unpack_to, holds="etc/an4_train.transcription")
    train = read_set(root, "train", "an4_clstk", args.letters)
    test = read_set(root, "test", "an4test_clstk", args.letters)
    sets = {"dev": train[:NUM_DEV], "train": train[NUM_DEV:], "test": test}
    sizes = {name: len(utterances) for name, utterances in sets.items()}
    if sizes != {"dev": NUM_DEV, "train": NUM_TRAIN, "test": NUM_TEST}:
        raise DataError(f"{root}: AN4 has {NUM_TRAIN} train, {NUM_DEV} dev and {NUM_TEST} test utterances, got {sizes}")
    for name, utterances in sets.items():
        write_kaldi_dir(args.data / name, utterances)
        minutes = sum(utterance.duration_s for utterance in utterances) / 60
        print(f"{name}: {len(utterances)} utterances, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
