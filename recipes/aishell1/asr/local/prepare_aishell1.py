"""Make the train, dev and test data directories of AISHELL-1 (OpenSLR SLR33), text without spaces.

The archive ``data_aishell.tgz`` holds one transcript for all sets and an archive for each speaker, ``wav/S0002.tar.gz``
with ``train/S0002/BAC009S0002W0122.wav`` and so on. Recordings without a transcript are dropped, as in Kaldi's recipe.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import soundfile

from speechnar.data.download import extract_archive, unpacked_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError

TRANSCRIPT = "transcript/aishell_transcript_v0.8.txt"
# Utterances with a transcript; 141925 recordings in all.
SIZES = {"train": 120098, "dev": 14326, "test": 7176}


def read_transcript(path: Path) -> dict[str, str]:
    """Return the text by utterance id; the spaces between words are a segmenter's and not spoken, so they go."""
    texts = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        utt_id, *words = line.split()
        if not words:
            raise DataError(f"{path}:{number}: must be an utterance id and its words, got {line!r}")
        texts[utt_id] = "".join(words)
    return texts


def unpack_speakers(root: Path, unpack_to: Path) -> list[Path]:
    """Return the folders that hold ``<set>/<speaker>/*.wav``, unpacking the archives of speakers not found there."""
    done = {folder.name for name in SIZES for folder in (root / "wav" / name).glob("*")}
    archives = [path for path in sorted((root / "wav").glob("*.tar.gz")) if path.name.split(".")[0] not in done]
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda path: extract_archive(path, unpack_to / path.name.split(".")[0]), archives))
    return [root / "wav", *found]


def read_set(folders: list[Path], name: str, texts: dict[str, str]) -> tuple[list[Utterance], int]:
    """Return the utterances of a set, sorted by id, and the number of recordings dropped for want of a transcript."""
    paths = {path.stem: path.resolve() for folder in folders for path in folder.glob(f"{name}/*/*.wav")}
    kept = sorted(paths.keys() & texts.keys())
    with ThreadPoolExecutor() as pool:  # a header each, mostly waiting for the disk
        durations = list(pool.map(lambda utt_id: soundfile.info(paths[utt_id]).duration, kept))
    utterances = [
        Utterance(utt_id, paths[utt_id], texts[utt_id], paths[utt_id].parent.name, duration, lang="cmn")
        for utt_id, duration in zip(kept, durations, strict=True)
    ]
    return utterances, len(paths) - len(kept)


def main() -> None:
    """Write ``DATA/{train,dev,test}``; missing utterances are errors."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="data_aishell.tgz or the unpacked data_aishell folder")
    parser.add_argument("data", type=Path)
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    parser.add_argument("--incomplete", action="store_true", help="accept sets with other numbers of utterances")
    args = parser.parse_args()
    root = unpacked_corpus(args.corpus, args.unpack_to, holds=TRANSCRIPT)
    texts = read_transcript(root / TRANSCRIPT)
    folders = unpack_speakers(root, args.unpack_to / "speakers")
    for name, size in SIZES.items():
        utterances, num_dropped = read_set(folders, name, texts)
        if len(utterances) != size and not args.incomplete:
            raise DataError(f"{root}: {name} must hold {size} utterances, got {len(utterances)}; unpack it again")
        write_kaldi_dir(args.data / name, utterances)
        hours = sum(utterance.duration_s for utterance in utterances) / 3600
        print(f"{name}: {len(utterances)} utterances, {hours:.1f} hours; {num_dropped} without transcript dropped")


if __name__ == "__main__":
    main()
