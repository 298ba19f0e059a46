"""Adapt a recogniser to one's own recordings, and show on some that were kept back what it gained (``finetune``)."""

import logging
import resource
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from speechnar.asr.options import AUTO, DecodeOptions
from speechnar.asr.transcriber import Transcriber
from speechnar.config import parse_config
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.data.own_recordings import MAX_SECONDS, OwnRecordings, read_own_recordings, split
from speechnar.errors import ConfigError
from speechnar.evaluation.asr import GIVEN, decode_dir, decode_utterances
from speechnar.evaluation.scores import ALL, Scores, score_dir
from speechnar.metrics.error_rate import cer
from speechnar.models.base import AsrModel, Trainable, load_model, read_model_config
from speechnar.published import obtain_model
from speechnar.text.transcript import Transcript
from speechnar.text.words import copy_words
from speechnar.train.loop import cpu_computes_bf16
from speechnar.train.run import RunConfig, run_training

logger = logging.getLogger(__name__)

MIN_UPDATES, MAX_UPDATES = 40, 3000
EPOCHS = 12
"""Times that a recording is heard, unless the number of updates is given or out of these bounds."""
BATCH_SECONDS = 60.0
WHOLE_LR, LORA_LR = 2e-4, 1e-3
WELL_HEARD, NOT_SAID = 0.35, 0.6
"""Error rates of characters: a model that hears the middle recording with at most the one knows that a text with more
than the other is not what its recording says."""
LEAST_LETTERS = 10
"""Shorter texts are not judged by what is heard: one hard word is most of them. Nor are those with figures, which can
be said in many ways."""


@dataclass(frozen=True)
class FinetuneReport:
    """What was learnt from, and what came of it."""

    recordings: OwnRecordings
    num_dev: int
    """Recordings kept back, on which both models are scored."""
    before: Scores
    after: Scores
    updates: int
    minutes: float
    """Of training alone."""
    peak_mib: float
    """Of this process."""
    model: Path
    """Folder of the new model."""

    @property
    def is_better(self) -> bool:
        """Whether the new model makes fewer errors of characters."""
        return _cer(self.after) < _cer(self.before)

    def __str__(self) -> str:
        return (
            f"{self.recordings}\n"
            f"before: {self.before.wer}, {self.before.cer}\nafter:  {self.after.wer}, {self.after.cer}\n"
            f"({self.num_dev} recordings kept back; {self.updates} updates in {self.minutes:.1f} minutes, "
            f"{self.peak_mib:.0f} MiB at most)"
        )


def finetune(
    model: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    dev: str | Path | None = None,
    language: str | None = None,
    updates: int | None = None,
    lr: float | None = None,
    lora: int | None = None,
    seed: int = 0,
) -> FinetuneReport:
    """Train ``model`` further on ``data`` and write the result to ``out/model``; run again, it goes on.

    Args:
        model: shipped name, folder or name on the hub of a model that recognises speech.
        data: what `speechnar.data.own_recordings.read_own_recordings` reads.
        out: folder for the data as they are used, the checkpoints and the new model.
        dev: recordings to measure by, in the same forms; None: a tenth of ``data`` is kept back.
        language: of all recordings.
        updates: None: so many that each recording is heard `EPOCHS` times, within bounds.
        lr: peak of the learning rate; layers of a pretrained encoder learn the more slowly the deeper they lie. None:
            `WHOLE_LR`, with LoRA `LORA_LR`.
        lora: rank of low-rank updates that are trained in place of the weights, and merged; None: all weights.
        seed: of the order and variation of the data.

    Raises:
        ConfigError: the model does not recognise speech, or cannot be trained.
        DataError: the data are malformed, or too few remain.
        SpeechnarError: as of `speechnar.train.run.run_training`.
    """
    folder, out = obtain_model(model), Path(out)
    loaded = load_model(folder)
    if not isinstance(loaded.model, AsrModel) or not isinstance(loaded.model, Trainable):
        raise ConfigError(f"model {loaded.name} is of kind {loaded.kind}, which is not fine-tuned; take a recogniser")
    shift_s = cast(Any, loaded.model).frame_shift_s
    found = read_own_recordings(data, loaded.tokenizer, frame_shift_s=shift_s, language=language)
    transcriber = Transcriber.load(folder, precision="fp32")
    leave_out_other_texts(found, _hear(transcriber, found.utterances))
    logger.info("%s", found)
    if dev is None:
        learnt, kept = split(found.utterances)
    else:
        learnt = found.utterances
        kept = read_own_recordings(dev, loaded.tokenizer, frame_shift_s=shift_s, language=language).utterances
    del loaded, transcriber
    for name, utterances in (("train", learnt), ("dev", kept)):
        write_kaldi_dir(out / "data" / name, utterances)
    config = _run_config(folder, out, learnt, updates=updates, lr=lr, lora=lora, seed=seed)
    before = _measure(folder, out, "before", kept)
    started = time.monotonic()
    result = run_training(config, out)
    minutes = (time.monotonic() - started) / 60
    _keep_card(folder, out / "model")
    copy_words(folder, out / "model")
    after = _measure(out / "model", out, "after", kept)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    report = FinetuneReport(found, len(kept), before, after, result.step, minutes, peak_mib, out / "model")
    if not report.is_better:
        logger.warning("the new model is no better on what was kept back; more recordings, or another --lr, may help")
    return report


def leave_out_other_texts(found: OwnRecordings, heard: Mapping[str, str]) -> None:
    """Leave out recordings whose text is not what they say, if the model hears the others well enough to tell.

    Args:
        found: read recordings.
        heard: of each utterance, what the model hears, which was not trained on it yet.
    """
    rates = {
        utterance.utt_id: cer([utterance.text], [heard[utterance.utt_id]], lang=utterance.lang or "eng").rate
        for utterance in found.utterances
        if len(utterance.text) >= LEAST_LETTERS and not any(map(str.isdigit, utterance.text))
    }
    if not rates:
        return
    if statistics.median(rates.values()) > WELL_HEARD:
        logger.info("whether texts are what recordings say is not looked at: the model hears too little of them")
        return
    wrong = [name for name, rate in rates.items() if rate > NOT_SAID]
    if wrong:
        found.left_out["another text than is heard"] += wrong
        found.utterances = [utterance for utterance in found.utterances if utterance.utt_id not in {*wrong}]


def _hear(transcriber: Transcriber, utterances: list[Utterance]) -> dict[str, str]:
    """Return what is heard in each utterance, without help of lists of words."""
    outcomes = decode_utterances(
        transcriber, utterances, language=_language(transcriber, utterances), options=DecodeOptions(word_weight=0)
    )
    return {name: heard.text if isinstance(heard, Transcript) else "" for name, heard in outcomes.items()}


def _language(transcriber: Transcriber, utterances: list[Utterance]) -> str:
    """Return whether utterances are decoded by their own languages, or by what is detected."""
    is_given = bool(transcriber.languages) and all(utterance.lang for utterance in utterances)
    return GIVEN if is_given else AUTO


def _run_config(
    folder: Path,
    out: Path,
    learnt: list[Utterance],
    *,
    updates: int | None,
    lr: float | None,
    lora: int | None,
    seed: int,
) -> RunConfig:
    seconds = sum(utterance.duration_s for utterance in learnt)
    batch_s = max(min(BATCH_SECONDS, seconds / 4), max(utterance.duration_s for utterance in learnt) * 1.2)
    if updates is None:
        updates = min(max(round(EPOCHS * seconds / batch_s), MIN_UPDATES), MAX_UPDATES)
    if lr is None:
        lr = WHOLE_LR if lora is None else LORA_LR
    schedule = {"kind": "cosine", "warmup_steps": max(updates // 10, 1), "total_steps": updates + 1}
    values = {
        "model": read_model_config(folder)[1],
        "data": {
            "train": out / "data" / "train",
            "dev": out / "data" / "dev",
            "batch_seconds": batch_s,
            "max_seconds": MAX_SECONDS * 1.2,
            "prompt_prob": 0.0,
        },
        "train": {
            "optim": {"lr": lr, "layer_decay": 0.7, "schedule": schedule},
            "max_steps": updates,
            "seed": seed,
            "device": "auto",
            "precision": "bf16" if cpu_computes_bf16() else "fp32",
            "log_every": max(updates // 20, 1),
            "validate_every": max(updates // 4, 1),
            "save_every": max(updates // 4, 1),
            "keep_checkpoints": 2,
        },
        "tokenizer": folder,
        "init_from": folder,
        "lora": lora,
        "average": 2,
    }
    return parse_config(values, RunConfig)


def _measure(model: Path, out: Path, name: str, kept: list[Utterance]) -> Scores:
    transcriber = Transcriber.load(model, precision="fp32")
    decode_dir(transcriber, out / "data" / "dev", out / f"{name}.txt", language=_language(transcriber, kept))
    by_language = score_dir(out / "data" / "dev", out / f"{name}.txt").by_language
    return by_language.get(ALL) or next(iter(by_language.values()))


def _keep_card(source: Path, target: Path) -> None:
    """Let the new model's card say what the old one's says of languages and licence."""
    card = source / "README.md"
    if not card.is_file():
        return
    text = card.read_text(encoding="utf-8", errors="replace")
    end = text.find("\n---", 3)
    if text.startswith("---\n") and end > 0:
        front = text[: end + len("\n---\n")]
        body = f"# {target.parent.name}\n\n{source.name}, trained further on own recordings by `speechnar finetune`.\n"
        (target / "README.md").write_text(front + body, encoding="utf-8")
    else:
        shutil.copy(card, target / "README.md")


def _cer(scores: Scores) -> float:
    return scores.cer.rate if scores.cer is not None else 0.0
