"""Make the train, dev and test data directories of Asterisk's music on hold.

Five pieces are too few to hold out any: each is cut into stretches of 30 s, and every second one begins with 11 s that
are not trained on. The middle 10 s of these are for dev and test in turn. The title of the piece is the text.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile

from speechnar.audio.io import read_audio
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError

SAMPLE_RATE = 16000
STRETCH_S = 30.0
HELD_OUT_S = 11.0
"""What is left out of every second stretch; 10 s of it are used."""
GAP_S = 0.5
"""On either side of what is held out."""
MIN_S = 10.0
"""Shorter stretches are left out: a model learns from windows of this length."""
SUFFIXES = (".g722", ".wav")


def find_pieces(corpus: Path) -> dict[str, Path]:
    """Return the recordings below ``corpus`` by their names.

    Raises:
        DataError: there is none, or one is there twice.
    """
    found: dict[str, Path] = {}
    for path in sorted(path for suffix in SUFFIXES for path in corpus.rglob(f"*{suffix}")):
        if path.stem in found:
            raise DataError(f"{path} and {found[path.stem]} are the same piece; give the folder of one package")
        found[path.stem] = path
    if not found:
        raise DataError(f"{corpus}: holds no {' or '.join(SUFFIXES)}; give the unpacked asterisk-moh-opsound package")
    return found


def title_of(name: str) -> str:
    """Return the words of the title in the name of a file: ``artist-the_title`` is ``the title``."""
    return (name.partition("-")[2] or name).replace("_", " ")


def cut(duration_s: float, first_set: int) -> dict[str, list[tuple[float, float]]]:
    """Return the stretches (start, end) of each set in a piece; every second one begins with held-out sound."""
    sets: dict[str, list[tuple[float, float]]] = {"train": [], "dev": [], "test": []}
    held_out = ("dev", "test")
    for number, begin in enumerate(np.arange(0.0, duration_s, STRETCH_S).tolist()):
        start, end = begin, min(begin + STRETCH_S, duration_s)
        if number % 2 == 1 and end - begin >= HELD_OUT_S:
            start = begin + HELD_OUT_S
            sets[held_out[(number // 2 + first_set) % 2]].append((begin + GAP_S, start - GAP_S))
        if end - start >= MIN_S:
            sets["train"].append((start, end))
    return sets


def main() -> None:
    """Write ``DATA/{train,dev,test}`` and ``DATA/audio``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="unpacked package")
    parser.add_argument("data", type=Path)
    args = parser.parse_args()
    audio = args.data.resolve() / "audio"
    audio.mkdir(parents=True, exist_ok=True)
    sets: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for index, (name, path) in enumerate(find_pieces(args.corpus).items()):
        samples = read_audio(path, target_rate=SAMPLE_RATE).samples
        flac = audio / f"{name}.flac"
        soundfile.write(flac, samples, SAMPLE_RATE, subtype="PCM_16")
        for set_name, stretches in cut(len(samples) / SAMPLE_RATE, index).items():
            sets[set_name] += [
                Utterance(
                    utt_id=f"{name}-{round(100 * start):06d}",
                    wav_path=flac,
                    text=title_of(name),
                    spk_id=name,
                    duration_s=end - start,
                    start_s=start,
                    end_s=end,
                )
                for start, end in stretches
            ]
    for set_name, utterances in sets.items():
        write_kaldi_dir(args.data / set_name, utterances)
        minutes = sum(utterance.duration_s for utterance in utterances) / 60
        print(f"{set_name}: {len(utterances)} stretches, {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
