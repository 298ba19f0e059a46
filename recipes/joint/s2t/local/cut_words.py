"""Cut utterances at their word boundaries into pieces of one or two words, as more training data.

Prompts of one short word are where the language is hardest to tell, and they are rare; every long prompt is full of
them. The boundaries come from forced alignment; a cut lies in the middle of the pause between two words.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from speechnar import Transcriber
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.errors import SpeechnarError
from speechnar.text.transcript import Word

MARGIN_S = 0.12
"""Silence kept at most at a cut, on each side."""
MIN_S = 0.2
"""Shorter pieces are left out: the aligner has squeezed a word there."""


def main() -> None:
    """Align the data directory ``SOURCE`` with ``MODEL`` and write its pieces as the data directory ``TARGET``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--seed", type=int, default=0, help="another one cuts elsewhere")
    args = parser.parse_args()
    transcriber = Transcriber.load(args.model)
    rng = np.random.default_rng(args.seed)
    found: list[Utterance] = []
    skipped = 0
    for utterance in read_kaldi_dir(args.source):
        if len(utterance.text.split()) < 2 or utterance.start_s is not None:
            continue
        try:
            aligned = transcriber.align(utterance.wav_path, utterance.text, language=utterance.lang or "auto")
        except SpeechnarError:  # too long for one pass, or too short for its text
            skipped += 1
            continue
        words = [word for segment in aligned.segments for word in segment.words or ()]
        found.extend(_pieces(utterance, words, rng, f"cut{args.seed}"))
    write_kaldi_dir(args.target, found)
    print(f"{args.target}: {len(found)} pieces, {sum(u.duration_s for u in found) / 60:.1f} min; {skipped} not aligned")


def _pieces(utterance: Utterance, words: list[Word], rng: np.random.Generator, name: str) -> Iterator[Utterance]:
    first = 0
    while first < len(words):
        after = min(first + int(rng.integers(1, 3)), len(words))
        start = words[first].start - _margin(words[first - 1].end if first else 0.0, words[first].start)
        following = words[after].start if after < len(words) else utterance.duration_s
        end = min(words[after - 1].end + _margin(words[after - 1].end, following), utterance.duration_s)
        if end - start >= MIN_S:
            yield replace(
                utterance,
                utt_id=f"{utterance.utt_id}-{name}-{first:03d}",
                text=" ".join(word.word for word in words[first:after]),
                start_s=start,
                end_s=end,
                duration_s=end - start,
                translations={},
                prev_text=None,
            )
        first = after


def _margin(end: float, start: float) -> float:
    return min(MARGIN_S, max(start - end, 0.0) / 2)


if __name__ == "__main__":
    main()
