"""Edit recordings as a list says (``speechnar tts decode-edits``), and score what a recogniser makes of them.

A line of the list is ``<utterance id>-<place>-<kind>`` and all that is to be said in that recording; place and kind are
words for the report, as ``start-insert``. ``speechnar tts score-edits`` then scores what a recogniser wrote of these
files, a line ``<edit> <text>`` each.
"""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechnar.audio.io import read_original
from speechnar.data.kaldi import Utterance
from speechnar.errors import DataError
from speechnar.metrics.error_rate import ErrorRate, wer
from speechnar.text.normalize import get_normalizer
from speechnar.tts.editor import EditedSpeech
from speechnar.tts.synthesizer import Synthesizer

logger = logging.getLogger(__name__)

LIST = "edits.jsonl"

Words = Callable[[str], list[str]]


@dataclass(frozen=True)
class Counted:
    """Edits of one kind at one place."""

    kind: str
    place: str
    edits: int
    heard: int
    """Of these, how many the recogniser heard as meant: all new words in a row, or none of those taken out."""


@dataclass(frozen=True)
class EditReport:
    """How well edits are done; `wer` is that of the whole edited recordings, words that were not edited included."""

    edits: int
    judge: str
    normalizer: str
    steps: int | None
    """None: as many as the model's card says."""
    candidates: int
    counts: tuple[Counted, ...]
    wer: ErrorRate
    untouched: int
    """Edits with every sample outside the change as it was."""
    largest_click: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers; rates are fractions."""
        return {**asdict(self), "wer": {"rate": self.wer.rate, **asdict(self.wer)}}

    def __str__(self) -> str:
        lines = [f"{part.kind} at the {part.place}: {part.heard} of {part.edits}" for part in self.counts]
        lines += [f"{self.wer}", f"untouched outside: {self.untouched} of {self.edits}"]
        return "\n".join([*lines, f"largest click: {self.largest_click:.2f}"]) + "\n"


def make_edits(
    synthesizer: Synthesizer,
    utterances: Sequence[Utterance],
    texts: Mapping[str, str],
    out: str | Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    candidates: int = 8,
) -> None:
    """Edit the recordings of ``utterances`` as ``texts`` say, into ``out``.

    Args:
        synthesizer: edits, and knows by the utterances' texts what was said.
        utterances: recordings and their texts.
        texts: what each edit (``<utterance id>-<place>-<kind>``) makes of its utterance.
        out: a folder; its `LIST` describes each edit.
        steps, seed, candidates: as of `speechnar.tts.synthesizer.Synthesizer.edit`.

    Raises:
        DataError: an edit names no utterance, place and kind, or changes nothing.
        AudioError, ConfigError: as of `speechnar.tts.synthesizer.Synthesizer.edit`.
    """
    known = {utterance.utt_id: utterance for utterance in utterances}
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    with (out / LIST).open("w", encoding="utf-8") as file:
        for edit, text in texts.items():
            utt_id, _, kind = edit.rpartition("-")
            utt_id, _, place = utt_id.rpartition("-")
            if utt_id not in known or known[utt_id].start_s is not None:
                raise DataError(f"edit {edit!r} must be named <utterance id>-<place>-<kind>, of a whole file")
            source, old_text = known[utt_id].open_audio(), known[utt_id].text
            edited = synthesizer.edit(source, text, old_text=old_text, steps=steps, seed=seed, candidates=candidates)
            if not edited.changes:
                raise DataError(f"edit {edit!r} changes nothing")
            edited.save(out / f"{edit}.wav")
            row = {
                "edit": edit,
                "place": place,
                "kind": kind,
                "old_text": old_text,
                "text": text,
                "changes": [asdict(change) for change in edited.changes],
                "untouched": is_untouched(read_original(source)[0].samples, edited),
                "steps": steps,
                "candidates": candidates,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            logger.info("%s: %s", edit, ", ".join(f"{c.old_text!r} to {c.new_text!r}" for c in edited.changes))


def read_edits(out: str | Path) -> list[dict[str, Any]]:
    """Return what `make_edits` wrote of each edit in the folder ``out``."""
    return [json.loads(line) for line in (Path(out) / LIST).read_text(encoding="utf-8").splitlines()]


def is_untouched(recording: NDArray[np.float32], edited: EditedSpeech) -> bool:
    """Return whether every sample outside the changes is that of ``recording`` (S,)."""
    rate, old_at, new_at = edited.sample_rate, 0, 0
    pairs = [(round(c.old_start * rate), round(c.old_end * rate)) for c in edited.changes]
    fresh = [(round(c.new_start * rate), round(c.new_end * rate)) for c in edited.changes]
    for (old_start, old_end), (new_start, new_end) in zip(pairs, fresh, strict=True):
        if not np.array_equal(recording[old_at:old_start], edited.samples[new_at:new_start]):
            return False
        old_at, new_at = old_end, new_end
    return np.array_equal(recording[old_at:], edited.samples[new_at:])


def score_edits(
    rows: Sequence[Mapping[str, Any]],
    heard: Mapping[str, str],
    *,
    judge: str,
    language: str = "eng",
    normalizer: str = "spoken",
) -> EditReport:
    """Score edits by what a recogniser heard of each.

    Args:
        rows: the edits, as `make_edits` lists them.
        heard: a text for each.
        judge: the recogniser's name.
        language: of the texts.
        normalizer: of the texts that are compared.

    Raises:
        DataError: there is no edit, or one has not been heard.
    """
    missing = [row["edit"] for row in rows if row["edit"] not in heard]
    if missing or not rows:
        raise DataError(f"{judge} must have heard each of {len(rows)} edits; {len(missing)} are missing, {missing[:1]}")
    normalize = get_normalizer(normalizer)

    def words(text: str) -> list[str]:
        return normalize(text, language).split()

    counts: dict[tuple[str, str], list[bool]] = {}
    for row in rows:
        meant, said = words(row["text"]), words(heard[row["edit"]])
        done = all(_is_heard(change, meant, said, words) for change in row["changes"])
        counts.setdefault((row["kind"], row["place"]), []).append(done)
    return EditReport(
        edits=len(rows),
        judge=judge,
        normalizer=normalizer,
        steps=rows[0]["steps"],
        candidates=rows[0]["candidates"],
        counts=tuple(Counted(kind, place, len(done), sum(done)) for (kind, place), done in counts.items()),
        wer=wer(
            [row["text"] for row in rows], [heard[row["edit"]] for row in rows], normalizer=normalizer, lang=language
        ),
        untouched=sum(row["untouched"] for row in rows),
        largest_click=max(change["click"] for row in rows for change in row["changes"]),
    )


def _is_heard(change: Mapping[str, Any], meant: Sequence[str], said: Sequence[str], words: Words) -> bool:
    """Return whether ``said`` has the new words of a change, or, where there are none, lacks those it took out."""
    if change["new_text"]:
        new = words(change["new_text"])
        return _count(new, said) >= _count(new, meant)
    old = words(change["old_text"])
    return _count(old, said) <= _count(old, meant)


def _count(part: Sequence[str], whole: Sequence[str]) -> int:
    """Return how often ``part`` stands in ``whole``."""
    return sum(list(whole[i : i + len(part)]) == list(part) for i in range(len(whole) - len(part) + 1))
