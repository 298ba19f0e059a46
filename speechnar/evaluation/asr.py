"""Decode a Kaldi data directory to a hypothesis file (``speechnar decode``).

A hypothesis file is Kaldi's ``text``: an utterance id and its text on a line, the text possibly empty. Beside it,
``<file>.jsonl`` holds the whole transcript of each utterance.
"""

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from speechnar.asr.options import AUTO, DecodeOptions
from speechnar.asr.transcriber import Transcriber
from speechnar.audio.source import AudioInput
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import AudioError, ConfigError, DataError, SpeechnarError
from speechnar.evaluation.report import replace_text
from speechnar.evaluation.scores import jsonl_of
from speechnar.text.transcript import Transcript

logger = logging.getLogger(__name__)

GIVEN = "given"
"""Language option: what ``utt2lang`` says of each utterance."""


@dataclass(frozen=True)
class DecodeSummary:
    """What decoding a data directory took."""

    utterances: int
    failed: int
    audio_s: float
    wall_s: float
    """Reading included, loading the model excluded."""

    @property
    def rtf(self) -> float:
        """Return wall time over audio time."""
        return self.wall_s / self.audio_s if self.audio_s else 0.0


def decode_dir(
    transcriber: Transcriber,
    data_dir: str | Path,
    out: str | Path,
    *,
    task: str = "asr",
    language: str = AUTO,
    options: DecodeOptions | None = None,
) -> DecodeSummary:
    """Write ``out`` and ``out.jsonl``, sorted by utterance; one that fails gets an empty text and a logged error.

    Args:
        transcriber: the model.
        data_dir: a Kaldi data directory.
        out: the hypothesis file; both files appear complete or not at all.
        task: ``asr``, or ``st_xxx`` for translation into xxx.
        language: ``auto``, ``given`` (by ``utt2lang``) or a code.
        options: the rest.

    Raises:
        DataError: the directory is malformed, or lacks ``utt2lang`` where it is asked for.
        ConfigError: the model cannot honour an option.
    """
    utterances = read_kaldi_dir(data_dir)
    started = time.monotonic()
    outcomes = decode_utterances(transcriber, utterances, task=task, language=language, options=options)
    wall_s = time.monotonic() - started
    failed = {utt_id: error for utt_id, error in sorted(outcomes.items()) if isinstance(error, SpeechnarError)}
    for utt_id, error in failed.items():
        logger.error("utterance %s: %s", utt_id, error)
    write_decoded(out, (entry_of(utterance, outcomes[utterance.utt_id], task) for utterance in utterances))
    return DecodeSummary(len(utterances), len(failed), sum(utt.duration_s for utt in utterances), wall_s)


def decode_utterances(
    transcriber: Transcriber,
    utterances: Sequence[Utterance],
    *,
    task: str = "asr",
    language: str = AUTO,
    options: DecodeOptions | None = None,
) -> dict[str, Transcript | SpeechnarError]:
    """Return what is said in each utterance, or what kept it from being heard; arguments as of `decode_dir`.

    Raises:
        DataError: the language of one is asked for and not known.
        ConfigError: the model cannot honour an option.
    """
    if task != "asr" and not task.startswith("st_"):
        raise ConfigError(f"task must be asr or st_xxx (translation into language xxx), got {task!r}")
    outcomes: dict[str, Transcript | SpeechnarError] = {}
    for lang, group in _by_language(utterances, language).items():
        read: list[Utterance] = []
        found = transcriber.transcribe_many(
            _waveforms(group, transcriber.sample_rate, read, outcomes),
            to=None if task == "asr" else task.removeprefix("st_"),
            sample_rate=transcriber.sample_rate,
            language=lang,
            word_timestamps=True,
            options=options,
        )
        for index, outcome in enumerate(found):
            outcomes[read[index].utt_id] = outcome
    return outcomes


def write_decoded(out: str | Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write ``out`` and ``out.jsonl``, sorted by utterance, of what `entry_of` returns; complete or not at all."""
    ordered = sorted(entries, key=lambda entry: str(entry["utt_id"]))
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_text(jsonl_of(out), "".join(f"{json.dumps(entry, ensure_ascii=False)}\n" for entry in ordered))
    replace_text(out, "".join(f"{entry['utt_id']} {entry['text']}".rstrip() + "\n" for entry in ordered))


def _waveforms(
    utterances: Iterable[Utterance],
    sample_rate: int,
    read: list[Utterance],
    outcomes: dict[str, Transcript | SpeechnarError],
) -> Iterator[AudioInput]:
    """Yield the samples of what can be read, listing it in ``read``; the errors of the rest go to ``outcomes``."""
    for utterance in utterances:
        try:
            wav = read_utterance(utterance, sample_rate)
        except (AudioError, DataError) as error:
            outcomes[utterance.utt_id] = error
            continue
        read.append(utterance)
        yield wav


def _by_language(utterances: Sequence[Utterance], language: str) -> dict[str, list[Utterance]]:
    if language != GIVEN:
        return {language: list(utterances)}
    groups: dict[str, list[Utterance]] = {}
    for utterance in utterances:
        if utterance.lang is None:
            raise DataError(f"utterance {utterance.utt_id!r} is not in utt2lang; use auto or a code")
        groups.setdefault(utterance.lang, []).append(utterance)
    return groups


def entry_of(utterance: Utterance, outcome: Transcript | SpeechnarError, task: str) -> dict[str, Any]:
    """Return the line of an utterance in ``out.jsonl``."""
    if isinstance(outcome, SpeechnarError):
        return {"utt_id": utterance.utt_id, "text": "", "task": task, "error": str(outcome)}
    named = replace(outcome, file=str(utterance.wav_path), text=" ".join(outcome.text.split()))
    return {"utt_id": utterance.utt_id, **named.to_dict(), "task": task}
