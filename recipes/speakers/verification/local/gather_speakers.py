"""Gather a like amount of speech of every training speaker, and the same played faster and slower as other speakers.

A speaker with ten times the speech of the others would make the verifier learn little else. Speed changes the pitch and
the formants: to a verifier, a voice at another speed is another voice (Yamamoto et al., "Speaker augmentation and
bandwidth extension for deep speaker embedding", Interspeech 2019).
"""

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np

from speechnar.audio.augment import speed_perturb
from speechnar.audio.io import Audio
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir

RATE = 16000


def choose(utterances: Sequence[Utterance], most: int, held_out: int, seed: int) -> tuple[list[Utterance], ...]:
    """Return at most ``most`` utterances of each speaker to train on, and ``held_out`` others."""
    train, dev = [], []
    for spk_id, own in groupby(sorted(utterances, key=lambda u: (u.spk_id, u.utt_id)), key=lambda u: u.spk_id):
        group = list(own)
        order = np.random.default_rng([seed, *spk_id.encode()]).permutation(len(group))
        shuffled = [group[i] for i in order]
        dev += shuffled[:held_out]
        train += shuffled[held_out : held_out + most]
    return train, dev


def at_speed(utterances: Iterable[Utterance], speed: float, folder: Path) -> list[Utterance]:
    """Write each utterance at ``speed`` to ``folder``, and return it as another speaker's."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for utterance in utterances:
        name = f"sp{speed:g}-{utterance.utt_id}"
        audio = Audio(speed_perturb(read_utterance(utterance, RATE), speed, RATE), RATE)
        path = folder / f"{name}.flac"
        audio.save(path)
        changed = {"wav_path": path.resolve(), "duration_s": audio.duration, "start_s": None, "end_s": None}
        found.append(replace(utterance, utt_id=name, spk_id=f"sp{speed:g}-{utterance.spk_id}", pipe=None, **changed))
    return found


def main() -> None:
    """Write ``TARGET/train`` and ``TARGET/dev``, of the same speakers, from data directories."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("target", type=Path, metavar="TARGET")
    parser.add_argument("sources", type=Path, nargs="+", metavar="DATA_DIR")
    parser.add_argument("--most", type=int, default=60, help="utterances of a speaker; default: %(default)s")
    parser.add_argument("--held-out", type=int, default=2, help="and for the development set; default: %(default)s")
    parser.add_argument("--speeds", type=float, nargs="*", default=[0.9, 1.1])
    parser.add_argument("--same", nargs="*", default=[], metavar="NAME=SPEAKER", help="another name of a speaker")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    same = dict(pair.split("=") for pair in args.same)
    utterances = [
        replace(utterance, spk_id=same.get(utterance.spk_id, utterance.spk_id))
        for folder in args.sources
        for utterance in read_kaldi_dir(folder)
    ]
    train, dev = choose(utterances, args.most, args.held_out, args.seed)
    faster = [utterance for speed in args.speeds for utterance in at_speed(train, speed, args.target / "audio")]
    write_kaldi_dir(args.target / "dev", dev)
    write_kaldi_dir(args.target / "train", [*train, *faster])


if __name__ == "__main__":
    main()
