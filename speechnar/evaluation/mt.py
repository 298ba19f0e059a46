"""Text translation: log what a system shows after every word (``speechnar mt decode``), and score it (``mt score``).

A log is a line of JSON about the system, then one for each sentence. Scores are of quality of what is said in the end,
flicker, lag and computation.
"""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from speechnar.data.parallel_text import Sentence, read_sentences
from speechnar.errors import DataError
from speechnar.metrics.simultaneous import WORD_S, StreamedSentence, Update, score_streams
from speechnar.metrics.translation import bleu, chrf
from speechnar.models.base import load_model
from speechnar.mt.stream import TranslationStream
from speechnar.mt.systems import TranslationOptions, build_system

WARM_UP = 3
"""Sentences translated before the first that is logged."""


def translate_data(
    stream: TranslationStream,
    sentences: Sequence[Sentence],
    source: str,
    out: str | Path,
    *,
    about: dict[str, Any],
    whole: bool = False,
) -> None:
    """Write the log ``out``, complete or not at all.

    Args:
        stream: the system.
        sentences: each must have a text in ``source``.
        source: ISO 639-3 language.
        out: a file.
        about: what to say of the system in the first line.
        whole: give each sentence to the system at once, instead of word by word.

    Raises:
        DataError: a sentence has no text in ``source``.
        ConfigError: a sentence is too long.
    """
    texts = []
    for sentence in sentences:
        text = sentence.in_language(source)
        if text is None:
            raise DataError(f"sentence {sentence.utt_id!r} has no text in {source}")
        texts.append(text)
    for text in texts[:WARM_UP]:
        _play(stream, text, whole=whole)
    temporary = Path(out).with_name(f".{Path(out).name}.partial")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps({**about, "whole": whole}, ensure_ascii=False) + "\n")
        for sentence, text in zip(sentences, texts, strict=True):
            _play(stream, text, whole=whole)
            log = stream.log()
            updates = [
                {"num_read": u.num_read, "shown": " ".join(u.shown), "seconds": round(u.seconds, 6)}
                for u in log.updates
            ]
            line = {"utt_id": sentence.utt_id, "source_words": log.num_source_words, "updates": updates}
            file.write(json.dumps({**line, "evaluations": stream.evaluations}, ensure_ascii=False) + "\n")
    temporary.replace(out)


def _play(stream: TranslationStream, text: str, *, whole: bool) -> None:
    stream.start()
    if whole:
        stream.finish(text)
        return
    for word in text.split():
        stream.push(word)
    stream.finish()


@dataclass(frozen=True)
class TranslationLog:
    """What `translate_data` wrote."""

    about: dict[str, Any]
    sentences: dict[str, StreamedSentence]
    """By id."""
    evaluations: int
    """Of decoders, one after another, in all sentences together."""


def read_log(path: str | Path) -> TranslationLog:
    """Read a log.

    Raises:
        DataError: it is not one.
    """
    try:
        first, *rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
        sentences = {row["utt_id"]: StreamedSentence(row["source_words"], _updates(row["updates"])) for row in rows}
        return TranslationLog(dict(first), sentences, sum(row["evaluations"] for row in rows))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: must be a log of `speechnar mt decode` ({error})") from None


def _updates(rows: Iterable[dict[str, Any]]) -> tuple[Update, ...]:
    return tuple(Update(row["num_read"], tuple(row["shown"].split()), row["seconds"]) for row in rows)


def _shown(value: Any) -> Any:
    """Return an option for the log; of a model, as of the first one, its name."""
    return value.resolve().name if isinstance(value, Path) else value


def translate_dir(
    model: str | Path,
    data_dir: str | Path,
    out: str | Path,
    *,
    source: str,
    target: str,
    options: TranslationOptions = TranslationOptions(),  # noqa: B008  # it is frozen
    name: str = "",
    whole: bool = False,
    num_masked: int = 0,
    limit: int | None = None,
    threads: int = 1,
    device: str = "cpu",
) -> int:
    """Translate the sentences of a directory of texts to the log ``out``, and return their number.

    Args:
        model: a model folder, whose kind says how it translates: ``reta`` anew (or by reading drafts), ``fretna`` by
            edits, ``fretna_ctc`` in one pass, ``wait_k`` behind the source.
        data_dir: a directory of texts.
        out: a file, complete or not there at all.
        source, target: ISO 639-3 languages.
        options: of the system.
        name: of the system in reports; by default that of the log.
        whole: give it each sentence at once, instead of word by word.
        num_masked: last words that are hidden until the end.
        limit: only the first sentences.
        threads: of the CPU; whoever calls this keeps theirs.
        device: of the model.

    Raises:
        DataError: the directory is malformed, or a sentence has no text in ``source``.
        ConfigError: the model does not translate, or has no such option, or a sentence is too long.
    """
    sentences = read_sentences(data_dir)[:limit]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        loaded = load_model(model, device=device)
        about = {
            "system": name or Path(out).stem,
            "model": loaded.name,
            "options": {key: _shown(value) for key, value in asdict(options).items() if value is not None},
            "masked": num_masked,
            "source": source,
            "target": target,
            "threads": threads,
            "device": device,
            "load_before": round(os.getloadavg()[0], 2),
        }
        stream = TranslationStream(build_system(loaded, options), loaded.tokenizer, num_masked=num_masked)
        translate_data(stream, sentences, source, out, about=about, whole=whole)
    finally:
        torch.set_num_threads(before)
    return len(sentences)


def score_log(
    log: TranslationLog, sentences: Mapping[str, Sentence], *, target: str, word_s: float = WORD_S
) -> dict[str, Any]:
    """Return what is known of a system, and its figures.

    Scores of texts are fractions, of detokenised and cased text (``bleu``, ``chrf``) and of lower-cased text, with
    their signatures. What needs updates (`speechnar.metrics.simultaneous.StreamScore`) is left out of logs of whole
    sentences, but for the seconds.

    Args:
        log: of a system.
        sentences: by id, with texts in ``target``.
        target: ISO 639-3 language.
        word_s: seconds from one source word to the next.

    Raises:
        DataError: a sentence of the log has no reference.
    """
    refs = []
    for utt_id in log.sentences:
        ref = sentences[utt_id].in_language(target) if utt_id in sentences else None
        if ref is None:
            raise DataError(f"sentence {utt_id!r} of the log has no reference in {target}; is it of other data?")
        refs.append(ref)
    streams = list(log.sentences.values())
    hyps = [" ".join(stream.final) for stream in streams]
    scores = {
        "bleu": bleu(refs, hyps, lang=target),
        "chrf": chrf(refs, hyps),
        "bleu_lowercase": bleu(refs, hyps, lang=target, lowercase=True),
    }
    report: dict[str, Any] = {**log.about}
    for name, score in scores.items():
        report |= {name: round(score.value, 5), f"{name}_signature": score.signature}
    streamed = asdict(score_streams(streams, [len(ref.split()) for ref in refs], word_s=word_s))
    if log.about.get("whole"):
        kept = ("seconds_per_sentence", "update_p50_s", "update_p95_s", "updates", "sentences")
        streamed = {name: streamed[name] for name in kept}
    else:
        report["word_s"] = word_s
    figures = {**streamed, "evaluations_per_update": log.evaluations / streamed["updates"]}
    return report | {
        name: None if math.isnan(value) else round(value, 6) if isinstance(value, float) else value
        for name, value in figures.items()
    }
