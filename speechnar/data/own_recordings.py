"""Recordings with texts as people have them: a Kaldi directory, a table, or a folder with a text beside each recording.

Everything is looked at before it is used, and what cannot be learnt from is left out under its reason.
"""

import csv
import hashlib
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import AudioError, DataError
from speechnar.text.languages import to_iso3
from speechnar.text.tokenizer import Tokenizer

RATE = 16000
MAX_SECONDS = 30.0
SILENCE = 1e-4
"""A recording whose loudest sample is below is silent."""
SPLIT_BY_SPEAKER = 5
"""Speakers from which on those of the development set are others than those of training."""
_TABLES = {".csv": ",", ".tsv": "\t"}


@dataclass
class OwnRecordings:
    """What can be learnt from, and what was left out."""

    utterances: list[Utterance] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By reason, the recordings."""

    @property
    def seconds(self) -> float:
        """Of the recordings that are used."""
        return sum(utterance.duration_s for utterance in self.utterances)

    def __str__(self) -> str:
        lines = [f"{len(self.utterances)} recordings, {self.seconds / 60:.1f} minutes"]
        lines += [
            f"left out, {reason}: {len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
            for reason, names in sorted(self.left_out.items())
        ]
        return "\n".join(lines)


def read_own_recordings(
    data: str | Path, tokenizer: Tokenizer, *, frame_shift_s: float, language: str | None = None
) -> OwnRecordings:
    """Read recordings and their texts, and leave out what a model of ``tokenizer`` cannot learn from.

    Args:
        data: a Kaldi data directory; a CSV or TSV file with the columns ``file`` and ``text``, perhaps ``speaker`` and
            ``language``, whose paths begin in its folder; or a folder, of whose recordings those are used that have a
            text (``a.txt`` beside ``a.wav``).
        tokenizer: of the model.
        frame_shift_s: seconds of one of the model's frames, of which CTC needs one for each token.
        language: of all recordings; None: as ``language`` or ``utt2lang`` says, if it does.

    Raises:
        DataError: it is none of these, or malformed.
    """
    data = Path(data)
    found = OwnRecordings()
    lang = None if language is None else to_iso3(language)
    seen: dict[str, Utterance] = {}
    for utterance in _read(data, found):
        name = utterance.utt_id
        utterance = replace(utterance, lang=lang or utterance.lang, text=" ".join(utterance.text.split()))  # noqa: PLW2901
        try:
            samples = read_utterance(utterance, RATE)
        except (AudioError, DataError) as error:
            found.left_out["cannot be read"].append(f"{name}: {error}")
            continue
        utterance = replace(utterance, duration_s=len(samples) / RATE)  # noqa: PLW2901
        if reason := _fault(utterance, samples, tokenizer, frame_shift_s):
            found.left_out[reason].append(name)
            continue
        digest = hashlib.sha256(samples.tobytes()).hexdigest()
        if digest in seen:
            is_same = seen[digest].text == utterance.text
            found.left_out["twice" if is_same else "the same sound as another with another text"].append(name)
            continue
        seen[digest] = utterance
    found.utterances = sorted(seen.values(), key=lambda utterance: utterance.utt_id)
    return found


def split(utterances: Sequence[Utterance], *, share: float = 0.1, least: int = 4) -> tuple[list[Utterance], ...]:
    """Return the recordings to learn from, and those to measure by: of other speakers where there are several.

    Which they are depends on their names alone.

    Raises:
        DataError: there are too few.
    """
    by_group: dict[str, list[Utterance]] = defaultdict(list)
    by_speaker = len({utterance.spk_id for utterance in utterances}) >= SPLIT_BY_SPEAKER
    for utterance in utterances:
        by_group[utterance.spk_id if by_speaker else utterance.utt_id].append(utterance)
    wanted = max(round(share * len(utterances)), least)
    dev: list[Utterance] = []
    for name in sorted(by_group, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(dev) >= wanted:
            break
        dev += by_group[name]
    kept = {utterance.utt_id for utterance in dev}
    train = [utterance for utterance in utterances if utterance.utt_id not in kept]
    if len(train) < len(dev):
        raise DataError(f"{len(utterances)} recordings are too few to learn from and to measure by; give {5 * least}")
    return train, dev


def _fault(utterance: Utterance, samples: "np.ndarray", tokenizer: Tokenizer, frame_shift_s: float) -> str | None:
    if not utterance.text:
        return "without a text"
    if not np.abs(samples).max() >= SILENCE:
        return "silent"
    if utterance.duration_s > MAX_SECONDS:
        return f"longer than {MAX_SECONDS:g} s"
    ids = tokenizer.encode(utterance.text)
    if tokenizer.unk_id in ids:
        unknown = sorted({letter for letter in utterance.text if tokenizer.unk_id in tokenizer.encode(letter)})
        return f"letters that the model does not know ({' '.join(unknown[:8])})"
    # CTC puts a blank between two equal tokens.
    repeats = sum(left == right for left, right in itertools.pairwise(ids))
    if len(ids) + repeats > utterance.duration_s / frame_shift_s:
        return "too short for the text"
    return None


def _read(data: Path, found: OwnRecordings) -> Iterator[Utterance]:
    if (data / "wav.scp").is_file():
        yield from read_kaldi_dir(data)
    elif data.is_dir():
        yield from _read_folder(data)
    elif data.is_file() and data.suffix.lower() in _TABLES:
        yield from _read_table(data, found)
    else:
        raise DataError(
            f"{data}: must be a Kaldi data directory, a .csv or .tsv with the columns file and text, or a folder with "
            "a .txt beside each recording"
        )


def _read_folder(folder: Path) -> Iterator[Utterance]:
    texts = sorted(path for path in folder.rglob("*.txt") if path.is_file())
    number = 0
    for text in texts:
        recordings = [path for path in sorted(text.parent.glob(f"{_escaped(text.stem)}.*")) if path != text]
        for path in recordings:
            number += 1
            yield _utterance(folder, path, text.read_text(encoding="utf-8-sig", errors="replace"), speaker=None)
    if not number:
        raise DataError(f"{folder}: no recording has a text beside it (a.txt beside a.wav)")


def _escaped(stem: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in stem)


def _read_table(path: Path, found: OwnRecordings) -> Iterator[Utterance]:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.DictReader(file, delimiter=_TABLES[path.suffix.lower()])
        missing = [name for name in ("file", "text") if name not in (rows.fieldnames or ())]
        if missing:
            raise DataError(f"{path}: the first line must name the columns file and text; {missing[0]} is missing")
        for row in rows:
            if not row["file"] or row["text"] is None:
                found.left_out["a line without file or text"].append(f"line {rows.line_num}")
                continue
            recording = path.parent / row["file"]
            yield _utterance(
                path.parent, recording, row["text"], speaker=row.get("speaker"), language=row.get("language")
            )


def _utterance(root: Path, path: Path, text: str, *, speaker: str | None, language: str | None = None) -> Utterance:
    try:
        name = str(path.relative_to(root))
    except ValueError:
        name = str(path)
    # Kaldi's ids have no spaces; the digest keeps apart what would become equal.
    safe = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    utt_id = safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    spk_id = "".join(letter if letter.isalnum() else "_" for letter in speaker or "") or utt_id
    utt_id = utt_id if spk_id == utt_id else f"{spk_id}-{utt_id}"
    return Utterance(utt_id, path.resolve(), text, spk_id, duration_s=0.0, lang=to_iso3(language) if language else None)
