"""Orders at a coffee bar as a Kaldi data directory: a domain of new words, to fine-tune a recogniser on and measure it.

The corpus (Picovoice's speech-to-intent benchmark, Apache-2.0: 619 clips of more than 50 speakers, recorded by
themselves) says of each order which drink, size, roast and so on was asked for, in the words that were said, but has no
whole texts. So Whisper writes these (``recipes/joint/s2t/local/label_clips.py``), and of its texts only those are kept
that hold every word of the corpus' own labels. What is easy for Whisper is over-represented, therefore, and who
speaks is not told: clips that are learnt from and clips that are kept back may be of the same speakers, about ten of
each.

    python -m benchmarks.spoken_orders CLONE DATA
    python recipes/joint/s2t/local/label_clips.py WHISPER DATA DATA/labelled --floor -1
    python -m benchmarks.spoken_orders CLONE DATA/orders --labelled DATA/labelled
    python -m benchmarks.finetuning DATA/orders --name spoken_orders
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import soundfile

from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.text.normalize import get_normalizer

spoken = get_normalizer("spoken")
CLIPS, LABELS = Path("data/speech/clean"), Path("data/label/label.json")


def main() -> int:
    """Write the directory of all clips, or of those whose texts agree with the labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", type=Path, help="of Picovoice/speech-to-intent-benchmark")
    parser.add_argument("out", type=Path, help="Kaldi data directory")
    parser.add_argument("--labelled", type=Path, help="Kaldi data directory of the same clips with whole texts")
    args = parser.parse_args()
    labels = json.loads((args.clone / LABELS).read_text(encoding="utf-8"))
    if args.labelled is None:
        utterances = list_clips(args.clone, labels)
    else:
        utterances = agreeing(read_kaldi_dir(args.labelled), labels)
    if not utterances:
        raise DataError(f"{args.labelled or args.clone}: no clips that labels are known of")
    write_kaldi_dir(args.out, utterances)
    print(f"{len(utterances)} orders, {sum(one.duration_s for one in utterances) / 60:.1f} minutes")
    return 0


def list_clips(clone: Path, labels: dict[str, Any]) -> list[Utterance]:
    """Return the labelled clips that are there, with the labels' words as text and no speaker."""
    found = []
    for name, label in sorted(labels.items()):
        path = (clone / CLIPS / name).resolve()
        if path.is_file():
            text = " ".join(wanted(label))
            found.append(Utterance(path.stem, path, text, path.stem, soundfile.info(path).duration, lang="eng"))
    return found


def agreeing(utterances: list[Utterance], labels: dict[str, Any]) -> list[Utterance]:
    """Return the utterances whose text has the words of each label in a row, figures and hyphens as words."""
    found = []
    for utterance in utterances:
        text = spoken(utterance.text, "eng")
        if all(f" {words} " in f" {text} " for words in wanted(labels[f"{utterance.utt_id}.wav"])):
            found.append(replace(utterance, text=text))
    return found


def wanted(label: dict[str, Any]) -> list[str]:
    """Return what was ordered, a string of words for each slot."""
    return [spoken(words, "eng") for words in label["slots"].values()]


if __name__ == "__main__":
    sys.exit(main())
