"""Join recordings of single digits by the same speaker into strings of digits, as training data for synthesis.

A generator that is to speak on in the voice of a reference must hear utterances long enough to hold both.
"""

import argparse
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir

MAX_DIGITS = 6
PAUSE_S = (0.03, 0.2)
NOISE = 1e-4
"""Standard deviation of the pauses' samples: digital silence occurs in no recording."""


def join(utterances: list[Utterance], folder: Path, rng: np.random.Generator, name: str) -> list[Utterance]:
    """Write each speaker's recordings in random order as strings of 2 to `MAX_DIGITS` digits, and return them."""
    found = []
    for speaker, own in groupby(sorted(utterances, key=lambda u: u.spk_id), key=lambda u: u.spk_id):
        rest = list(own)
        rng.shuffle(rest)  # type: ignore[arg-type]  # a list is a sequence
        while rest:
            size = int(rng.integers(2, MAX_DIGITS + 1))
            group, rest = rest[:size], rest[size:]
            utt_id = f"{speaker}-{name}-{len(found):05d}"
            wav, rate = _concatenate(group, rng)
            path = folder / f"{utt_id}.wav"
            soundfile.write(path, wav, rate)
            found.append(
                replace(
                    group[0],
                    utt_id=utt_id,
                    wav_path=path.resolve(),
                    text=" ".join(utterance.text for utterance in group),
                    duration_s=len(wav) / rate,
                )
            )
    return found


def _concatenate(group: list[Utterance], rng: np.random.Generator) -> tuple[NDArray[np.float32], int]:
    pieces = []
    for utterance in group:
        wav, rate = soundfile.read(utterance.wav_path, dtype="float32")
        pause = rng.normal(0.0, NOISE, round(rng.uniform(*PAUSE_S) * rate))
        pieces += [wav, pause.astype(np.float32)]
    return np.concatenate(pieces), rate


def main() -> None:
    """Write the data directory ``TARGET`` of joined recordings of the data directory ``SOURCE``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="how often each recording is used")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    folder = args.target / "wavs"
    folder.mkdir(parents=True, exist_ok=True)
    utterances = read_kaldi_dir(args.source)
    found = [joined for number in range(args.rounds) for joined in join(utterances, folder, rng, f"joined{number}")]
    write_kaldi_dir(args.target, found)
    print(f"{args.target}: {len(found)} strings, {sum(u.duration_s for u in found) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
