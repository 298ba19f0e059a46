"""Make a data directory of one MuST-C set: English talks in segments, their translations, and the text before each."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from speechnar.data.download import unpacked_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.text.languages import ISO3_TO_ISO1

SOURCE = "eng"


def read_lines(path: Path) -> list[str]:
    """Return the lines of ``path``, split at line feeds only."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def read_set(folder: Path, name: str, target: str) -> tuple[list[Utterance], int]:
    """Return the utterances of ``txt/<name>.{yaml,en,<target>}`` and ``wav/``, and how many lack one of the texts."""
    txt = folder / "txt"
    with (txt / f"{name}.yaml").open(encoding="utf-8") as file:
        # Not safe_load, which parses in Python: the training set is a list of a quarter million entries.
        segments: list[dict[str, Any]] = yaml.load(file, Loader=yaml.CSafeLoader)
    sources = read_lines(txt / f"{name}.{ISO3_TO_ISO1[SOURCE]}")
    targets = read_lines(txt / f"{name}.{ISO3_TO_ISO1[target]}")
    if not len(segments) == len(sources) == len(targets):
        raise DataError(
            f"{txt}: {name} must have as many segments as lines in both languages, got {len(segments)}, "
            f"{len(sources)} and {len(targets)}"
        )
    utterances: list[Utterance] = []
    previous: tuple[str, str] | None = None  # talk and text of the segment before
    dropped = 0
    for number, (segment, source, target_line) in enumerate(zip(segments, sources, targets, strict=True)):
        talk = Path(segment["wav"]).stem
        text, translation = " ".join(source.split()), " ".join(target_line.split())
        start_s, duration_s = float(segment["offset"]), float(segment["duration"])
        if text and translation and duration_s > 0:
            utterances.append(
                Utterance(
                    utt_id=f"{talk}-{number:07d}",
                    wav_path=(folder / "wav" / segment["wav"]).resolve(),
                    text=text,
                    spk_id=talk,
                    duration_s=duration_s,
                    start_s=start_s,
                    end_s=start_s + duration_s,
                    lang=SOURCE,
                    translations={target: translation},
                    prev_text=previous[1] if previous is not None and previous[0] == talk else None,
                )
            )
        else:
            dropped += 1
        previous = (talk, text) if text else None
    return utterances, dropped


def main() -> None:
    """Write ``OUT``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="MUSTC_v*_en-XX archive, or the folder that holds en-XX")
    parser.add_argument("out", type=Path)
    parser.add_argument("name", choices=("train", "dev", "tst-COMMON", "tst-HE"))
    parser.add_argument("target", choices=sorted(ISO3_TO_ISO1), metavar="LANG", help="ISO 639-3, for example deu")
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    args = parser.parse_args()
    pair = f"{ISO3_TO_ISO1[SOURCE]}-{ISO3_TO_ISO1[args.target]}"
    root = unpacked_corpus(args.corpus, args.unpack_to, holds=f"{pair}/data/{args.name}")
    utterances, dropped = read_set(root / pair / "data" / args.name, args.name, args.target)
    write_kaldi_dir(args.out, utterances)
    hours = sum(utterance.duration_s for utterance in utterances) / 3600
    print(f"{args.out.name}: {len(utterances)} utterances, {hours:.1f} hours; {dropped} without text dropped")


if __name__ == "__main__":
    main()
