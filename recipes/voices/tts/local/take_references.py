"""Make the test of strangers: of each speaker of test directories a reference, and other clips whose texts are spoken.

``DATA/voices`` has the clip of each speaker that is nearest to five seconds, ``DATA/test`` up to three others.
"""

import argparse
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.errors import DataError

REFERENCE_S = (3.0, 10.0)
WANTED_S = 5.0
TESTS_PER_SPEAKER = 3
MIN_TEXT_WORDS = 3


def take_references(utterances: Iterable[Utterance], num_speakers: int) -> tuple[list[Utterance], list[Utterance]]:
    """Return references and tests of up to ``num_speakers``: those whose reference is nearest to five seconds."""
    of_speaker: dict[str, list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        of_speaker[utterance.spk_id].append(utterance)
    found: list[tuple[Utterance, list[Utterance]]] = []
    for clips in of_speaker.values():
        ordered = sorted(clips, key=lambda clip: (abs(clip.duration_s - WANTED_S), clip.utt_id))
        reference = ordered[0]
        rest = [clip for clip in ordered[1:] if len(clip.text.split()) >= MIN_TEXT_WORDS]
        if REFERENCE_S[0] <= reference.duration_s <= REFERENCE_S[1] and rest:
            found.append((reference, sorted(rest, key=lambda clip: clip.utt_id)[:TESTS_PER_SPEAKER]))
    found.sort(key=lambda pair: (abs(pair[0].duration_s - WANTED_S), pair[0].spk_id))
    kept = found[:num_speakers]
    return [reference for reference, _ in kept], [clip for _, clips in kept for clip in clips]


def main() -> None:
    """Write ``DATA/voices`` and ``DATA/test``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("tests", nargs="*", help="test directories in DATA; without any, nothing is written")
    parser.add_argument("--speakers", type=int, default=20, help="at most; default: %(default)s")
    args = parser.parse_args()
    if not args.tests:
        print("test: no corpus of several speakers is given")
        return
    utterances = [utterance for name in args.tests for utterance in read_kaldi_dir(args.data / name)]
    references, tests = take_references(utterances, args.speakers)
    if not tests:
        raise DataError(f"{', '.join(args.tests)}: no speaker has a clip of 3 to 10 s and another one")
    write_kaldi_dir(args.data / "voices", references)
    write_kaldi_dir(args.data / "test", tests)
    print(f"test: {len(tests)} utterances of {len(references)} speakers")


if __name__ == "__main__":
    main()
