"""What scoring shares: whose files belong together, what systems and models are called, and how scores are written."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechnar.data.kaldi import Utterance
from speechnar.errors import DataError

RECORDED = "recorded"
"""Name of the system that is the recordings themselves."""


def check_complete(utterances: Sequence[Utterance], systems: Mapping[str, str | Path]) -> None:
    """Refuse systems whose folders lack ``<utterance id>.wav`` of an utterance.

    Raises:
        DataError: one does.
    """
    for name, folder in systems.items():
        missing = [utt.utt_id for utt in utterances if not (Path(folder) / f"{utt.utt_id}.wav").is_file()]
        if missing:
            raise DataError(
                f"{folder}: system {name!r} must have a file for each of {len(utterances)} utterances; "
                f"{len(missing)} are missing, first {missing[0]}.wav"
            )


def read_texts(path: Path) -> dict[str, str]:
    """Read lines of an utterance's id and what was heard, which may be nothing."""
    lines = [line.strip().partition(" ") for line in path.read_text(encoding="utf-8").splitlines()]
    return {utt_id: text for utt_id, _, text in lines if utt_id}


def name_of(folder: str | Path) -> str:
    """Return the name of a model, and of its run where it lies in the folder of one."""
    path = Path(folder)
    return f"{path.resolve().parent.name}/{path.name}" if path.name == "model" else path.name


def write_scores(out: Path, name: str, report: Mapping[str, Any], entries: Iterable[Mapping[str, Any]]) -> None:
    """Write ``report`` to ``out/<name>.json``, and an entry for each utterance to ``out/utterances.jsonl``."""
    out.mkdir(parents=True, exist_ok=True)
    lines = "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in entries)
    (out / "utterances.jsonl").write_text(lines, encoding="utf-8")
    text = json.dumps(report, indent=1, ensure_ascii=False)
    (out / f"{name}.json").write_text(f"{text}\n", encoding="utf-8")


def replace_text(path: Path, text: str) -> None:
    """Write a file that appears complete or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
