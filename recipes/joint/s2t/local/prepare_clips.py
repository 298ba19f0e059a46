"""Make train, dev and test data directories of a small corpus: sound files, and their texts beside them or in a table.

Texts stand in ``metadata.csv``, ``NAME|TEXT`` or ``NAME|TEXT|TEXT AS IT IS SPOKEN`` (the last is taken), with the sound
files beside it or in ``wavs/``; or each in a ``.txt`` or ``.lab`` beside its sound file. Dev and test take sentences by
the hash of their text, so that another take of a sentence is in the same set; or test takes whole speakers.
"""

import argparse
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import soundfile

from speechnar.data.download import extract_archive, find_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError

TABLE, TEXT_SUFFIXES, SOUND_SUFFIXES = "metadata.csv", (".txt", ".lab"), (".wav", ".flac", ".mp3", ".ogg")
SETS = ("test", "dev", "train")


def find_texts(root: Path, counts: Counter[str]) -> Iterator[tuple[Path, str]]:
    """Yield each sound file with its text.

    Raises:
        DataError: a line of a table is malformed.
    """
    sounds = {path.with_suffix(""): path for path in sorted(root.rglob("*")) if path.suffix in SOUND_SUFFIXES}
    for table in sorted(root.rglob(TABLE)):
        for number, line in enumerate(table.read_text(encoding="utf-8-sig").splitlines(), start=1):
            name, *texts = line.split("|")
            if not texts or Path(name).name != name:
                raise DataError(f"{table}:{number}: must be NAME|TEXT or NAME|TEXT|TEXT, got {line[:60]!r}")
            places = (table.with_name(name), table.parent / "wavs" / name)
            found = next((sounds[place] for place in places if place in sounds), None)
            if found is None:
                counts["without recording"] += 1
            else:
                yield found, texts[-1]
    for sound in sounds.values():
        beside = next((path for suffix in TEXT_SUFFIXES if (path := sound.with_suffix(suffix)).is_file()), None)
        if beside is not None:
            yield sound, beside.read_text(encoding="utf-8-sig")


def clean(text: str) -> str:
    """Return a text of composed letters on one line, with straight quotes."""
    text = unicodedata.normalize("NFC", text).replace("’", "'").replace("“", '"').replace("”", '"')
    return " ".join(text.split())


def set_of(text: str, eval_share: float) -> str:
    """Return the set of a sentence: ``eval_share`` of all sentences each for test and dev."""
    place = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 16**8
    return SETS[min(int(place / eval_share), 2)] if eval_share else "train"


def main() -> None:
    """Write ``DATA/{train,dev,test}`` of the sound files in ``CORPUS``, and say what was left out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", help="archive or folder")
    parser.add_argument("data", type=Path)
    parser.add_argument("--name", required=True, help="of the corpus: utterances and speakers begin with it")
    parser.add_argument("--language", required=True, help="ISO 639-3")
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    parser.add_argument("--letters", choices=("kept", "lower"), default="kept", help="lower: the corpus has no case")
    parser.add_argument("--test-speakers", nargs="*", default=[], help="folders; then every folder is of a speaker")
    parser.add_argument("--eval-share", type=float, default=0.03, help="of the sentences; default: %(default)s")
    args = parser.parse_args()
    root = find_corpus(args.corpus)
    if root.is_file():
        root = extract_archive(root, args.unpack_to / root.name.split(".")[0])
    counts: Counter[str] = Counter()
    sets: dict[str, list[Utterance]] = {name: [] for name in SETS}
    for path, raw in find_texts(root, counts):
        text = clean(raw).lower() if args.letters == "lower" else clean(raw)
        if not any(letter.isalnum() for letter in text):
            counts["without text"] += 1
            continue
        label = set_of(text, args.eval_share)
        speaker = args.name
        if args.test_speakers:
            speaker = f"{args.name}-{path.parent.name}"
            is_test = path.parent.name in args.test_speakers
            label = "test" if is_test else "dev" if label == "dev" else "train"
        utt_id, duration_s = f"{args.name}-{path.stem}", soundfile.info(path).duration
        sets[label].append(Utterance(utt_id, path.resolve(), text, speaker, duration_s, lang=args.language))
    if not sets["train"]:
        raise DataError(f"{root}: no text in {TABLE} or beside a sound file; is it another corpus?")
    for name, utterances in sets.items():
        if utterances:
            write_kaldi_dir(args.data / name, utterances)
        minutes = sum(utterance.duration_s for utterance in utterances) / 60
        print(f"{name}: {len(utterances)} utterances, {minutes:.1f} minutes")
    print("left out: " + (", ".join(f"{number} {why}" for why, number in sorted(counts.items())) or "none"))


if __name__ == "__main__":
    main()
