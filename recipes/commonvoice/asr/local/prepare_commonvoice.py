"""Make train, dev and test data directories of Common Voice, any language, split by speaker.

A release or a delta segment is a folder with ``validated.tsv`` (``client_id``, ``path``, ``sentence``, ...) and its
clips in ``clips/`` or ``validated_clips/``; several are joined. Common Voice's own ``train.tsv`` may hold few speakers
(9 of Mandarin's 271), so its split is not taken: dev and test are whole speakers with few clips, drawn by the hash of
``client_id``, so that a later release moves nobody from one set to another.

Some segments hold clips that no table names: nobody knows who speaks in them, so whoever is in such a segment may be in
them. Given by ``--train-only``, all its speakers are for training, wherever else they speak, and its nameless clips
become the data directory ``unlabelled``, each a speaker of its own.
"""

import argparse
import csv
import hashlib
import re
import unicodedata
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import soundfile

from speechnar.data.download import extract_archive, find_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.text.languages import to_iso3
from speechnar.text.tokenizer import NA

TABLE, VOTED_DOWN, NOT_VOTED = "validated.tsv", "invalidated.tsv", "other.tsv"
CLIP_FOLDERS = ("clips", "validated_clips")
# Locales whose first part is no language of ISO 639 by itself, or too wide a one for what is spoken.
LANGUAGES = {"zh-CN": "cmn", "zh-TW": "cmn", "zh-HK": "yue"}
SPK_ID_CHARS = 16
"""Of the 128 hexadecimal digits of a ``client_id``; enough to tell all speakers apart."""
NEAR = 1000
"""Clips are numbered as they are uploaded. Of the clips of a speaker with ten or more, 99.4 % lie within so many of
another one by the same speaker (English segment 13): a nameless clip so near to an excluded speaker may be theirs."""
_NUMBER = re.compile(r"\d+$")
_CONTROL = re.compile(r"[\u0000-\u001f\u007f\u200b-\u200f\u202a-\u202e\ufeff]")
_QUOTED = re.compile(r'"([^"]*)"')


@dataclass(frozen=True)
class Clip:
    """A row of a table whose recording is here."""

    path: Path
    client_id: str
    text: str
    locale: str


def clean(text: str) -> str:
    """Return a sentence as people write it: composed letters, one space, straight quotes, none around the whole."""
    text = _CONTROL.sub("", unicodedata.normalize("NFC", text)).replace("’", "'").replace("“", '"').replace("”", '"')
    text = " ".join(text.split())
    whole = _QUOTED.fullmatch(text)
    return whole[1].strip() if whole else text


def read_clips(root: Path, counts: Counter[str]) -> Iterator[Clip]:
    """Yield the validated clips of a release; what is left out is counted by its reason."""
    paths = recordings(root)
    counts["voted down"] += sum(row["path"] in paths for row in _rows(root / VOTED_DOWN))
    for row in _rows(root / TABLE):
        text = clean(row["sentence"])
        if row["path"] not in paths:
            counts["without recording"] += 1
        elif not any(character.isalnum() for character in text):
            counts["without text"] += 1
        else:
            yield Clip(paths[row["path"]].resolve(), row["client_id"], text, row.get("locale") or root.name)


def recordings(root: Path) -> dict[str, Path]:
    """Return the recordings of a release by file name."""
    folders = [folder for name in CLIP_FOLDERS if (folder := root / name).is_dir()]
    if not folders:
        raise DataError(f"{root}: has {TABLE} but neither of {', '.join(CLIP_FOLDERS)}; unpack it again")
    return {path.name: path for folder in folders for path in sorted(folder.iterdir())}


def named_clips(root: Path) -> dict[str, str]:
    """Return the ``client_id`` of every clip in the tables of a release, with a recording or without."""
    return {row["path"]: row["client_id"] for name in (TABLE, VOTED_DOWN, NOT_VOTED) for row in _rows(root / name)}


def nameless_clips(
    roots: list[Path], named: dict[str, str], excluded: set[str], counts: Counter[str]
) -> Iterator[Path]:
    """Yield the recordings of releases that are not ``named`` and cannot be of an ``excluded`` speaker."""
    avoided = sorted(number(name) for name, speaker in named.items() if speaker in excluded)
    found = {name: path for root in roots for name, path in recordings(root).items() if name not in named}
    for name, path in found.items():
        place = bisect_left(avoided, number(name) - NEAR)
        if place < len(avoided) and avoided[place] <= number(name) + NEAR:
            counts["nameless near an excluded speaker"] += 1
        else:
            yield path.resolve()


def number(name: str) -> int:
    """Return the number of a clip, ``common_voice_<locale>_<number>.mp3``."""
    match = _NUMBER.search(Path(name).stem)
    if match is None:
        raise DataError(f"{name!r}: a clip's name must end in its number")
    return int(match[0])


def _rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a table, in which a quotation mark is a character like any other; none if there is no table."""
    if not path.exists():
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if missing := {"client_id", "path", "sentence"} - set(table.fieldnames or ()):
            raise DataError(f"{path}: must have the columns client_id, path and sentence, lacks {', '.join(missing)}")
        for number, row in enumerate(table, start=2):
            if not (row["client_id"] and row["path"] and row["sentence"] is not None):
                raise DataError(f"{path}:{number}: must have a client_id, a path and a sentence")
            yield row


def find_releases(corpora: list[str], unpack_to: Path) -> list[Path]:
    """Return every folder with a table of validated clips in folders and archives."""
    found: list[Path] = []
    for name in corpora:
        path = find_corpus(name)
        if path.is_file():
            path = extract_archive(path, unpack_to / path.name.split(".")[0])
        inside = sorted(table.parent for table in path.rglob(TABLE))
        if not inside:
            raise DataError(f"{path}: holds no {TABLE}; is it another corpus?")
        found += inside
    return found


def split_speakers(
    clips: list[Clip], *, train_only: set[str], eval_s: float, max_clips: int, durations: dict[Path, float]
) -> dict[str, str]:
    """Return the set of each ``client_id``: test and dev take speakers of at most ``max_clips`` clips until full.

    Those of ``train_only`` are in neither.
    """
    of_speaker: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        of_speaker[clip.client_id].append(clip)
    order = sorted(of_speaker, key=lambda speaker: hashlib.sha256(speaker.encode()).digest())
    sets = dict.fromkeys(order, "train")
    free = [speaker for speaker in order if speaker not in train_only]
    rest = iter([speaker for speaker in free if len(of_speaker[speaker]) <= max_clips])
    for name in ("test", "dev"):
        seconds = 0.0
        while seconds < eval_s and (speaker := next(rest, None)) is not None:
            sets[speaker] = name
            seconds += sum(durations[clip.path] for clip in of_speaker[speaker])
    return sets


def main() -> None:
    """Write ``DATA/{train,dev,test}``, ``DATA/unlabelled`` if there are nameless clips, and say what was left out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("corpus", nargs="+", help="archives or folders of releases and delta segments of one language")
    parser.add_argument("--train-only", nargs="*", default=[], help="more of them, with clips that no table names")
    parser.add_argument("--language", help="ISO 639-3; default: by the locale of the tables")
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    parser.add_argument("--exclude", type=Path, help="client_ids to leave out, one a line")
    parser.add_argument("--eval-minutes", type=float, default=30.0, help="of dev and of test; default: %(default)s")
    parser.add_argument("--max-eval-clips", type=int, default=20, help="of a speaker in them; default: %(default)s")
    args = parser.parse_args()
    excluded = set(args.exclude.read_text(encoding="utf-8").split()) if args.exclude else set()
    counts: Counter[str] = Counter()
    by_name: dict[str, Clip] = {}
    for_training = find_releases(args.train_only, args.unpack_to)
    releases = [*find_releases(args.corpus, args.unpack_to), *for_training]
    for root in releases:
        for clip in read_clips(root, counts):
            if clip.client_id in excluded:
                counts["of excluded speakers"] += 1
            elif clip.path.name in by_name:
                counts["in two releases"] += 1
            else:
                by_name[clip.path.name] = clip
    clips = list(by_name.values())
    locales = {clip.locale for clip in clips}
    if args.language is None and len(locales) != 1:
        raise DataError(f"the clips must be of one language, got {sorted(locales)}; name it by --language")
    locale = min(locales)
    lang = args.language or LANGUAGES.get(locale) or to_iso3(locale.split("-")[0])
    durations = read_durations([clip.path for clip in clips], counts)
    clips = [clip for clip in clips if clip.path in durations]
    sets = split_speakers(
        clips,
        train_only={speaker for root in for_training for speaker in named_clips(root).values()},
        eval_s=60 * args.eval_minutes,
        max_clips=args.max_eval_clips,
        durations=durations,
    )
    for name in ("train", "dev", "test"):
        kept = [clip for clip in clips if sets[clip.client_id] == name]
        write_kaldi_dir(args.data / name, [_utterance(clip, lang, durations[clip.path]) for clip in kept])
        hours = sum(durations[clip.path] for clip in kept) / 3600
        print(f"{name}: {len(kept)} utterances, {hours:.2f} hours, {len({clip.client_id for clip in kept})} speakers")
    named = {name: speaker for root in releases for name, speaker in named_clips(root).items()}
    nameless = list(nameless_clips(for_training, named, excluded, counts))
    if lengths := read_durations(nameless, counts):
        write_kaldi_dir(args.data / "unlabelled", [_unlabelled(path, lang, length) for path, length in lengths.items()])
        print(f"unlabelled: {len(lengths)} clips, {sum(lengths.values()) / 3600:.2f} hours")
    print("left out: " + (", ".join(f"{number} {why}" for why, number in sorted(counts.items()) if number) or "none"))


def _utterance(clip: Clip, lang: str, duration_s: float) -> Utterance:
    spk_id = clip.client_id[:SPK_ID_CHARS]
    return Utterance(f"{spk_id}-{clip.path.stem}", clip.path, clip.text, spk_id, duration_s, lang=lang)


def _unlabelled(path: Path, lang: str, duration_s: float) -> Utterance:
    return Utterance(path.stem, path, NA, path.stem, duration_s, lang=lang)


def read_durations(paths: list[Path], counts: Counter[str]) -> dict[Path, float]:
    """Return the seconds of each clip; the unreadable ones are counted and left out."""
    with ThreadPoolExecutor() as pool:
        read = zip(paths, pool.map(_duration_s, paths), strict=True)
        durations = {path: seconds for path, seconds in read if seconds > 0}
    counts["unreadable"] += len(paths) - len(durations)
    return durations


def _duration_s(path: Path) -> float:
    """Return the length of a clip, 0 where it cannot be read."""
    try:
        return float(soundfile.info(path).duration)
    except soundfile.LibsndfileError:
        return 0.0


if __name__ == "__main__":
    main()
