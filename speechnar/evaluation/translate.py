"""Translate the sentences of a directory word by word, and log what every system shows after every word.

``python -m speechnar.evaluation.translate MODEL DATA_DIR LOG --source eng --target deu`` writes ``LOG``: a line of JSON
about the system, then one for each sentence, which `speechnar.evaluation.mt` scores. What kind ``MODEL`` is of says
how it translates: ``reta`` anew (with ``--verify`` or ``--draft``, by reading drafts), ``fretna`` by edits,
``fretna_ctc`` in one pass, ``wait_k`` behind the source.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from speechnar.data.parallel_text import Sentence, read_sentences
from speechnar.errors import DataError, SpeechnarError
from speechnar.metrics.simultaneous import StreamedSentence, Update
from speechnar.models.base import load_model
from speechnar.mt.stream import TranslationStream
from speechnar.mt.systems import TranslationOptions, build_system

logger = logging.getLogger(__name__)

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
        raise DataError(f"{path}: must be a log of speechnar.evaluation.translate ({error})") from None


def _updates(rows: Iterable[dict[str, Any]]) -> tuple[Update, ...]:
    return tuple(Update(row["num_read"], tuple(row["shown"].split()), row["seconds"]) for row in rows)


def _shown(value: Any) -> Any:
    """Return an option for the log; of a model, as of the first one, its name."""
    return value.resolve().name if isinstance(value, Path) else value


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="LOG")
    parser.add_argument("--source", required=True, metavar="LANG", help="ISO 639-3")
    parser.add_argument("--target", required=True, metavar="LANG")
    parser.add_argument("--name", default="", help="of the system; default: that of the log")
    parser.add_argument("--whole", action="store_true", help="whole sentences instead of word by word")
    parser.add_argument("--masked", type=int, default=0, metavar="N", help="last words hidden until the end")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N sentences")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("-d", "--device", default="cpu")
    parser.add_argument("--verify", action="store_true", default=None)
    parser.add_argument("--draft", type=Path, metavar="MODEL")
    for name in ("beam-size", "max-iterations", "margin", "forget", "delay"):
        parser.add_argument(f"--{name}", type=int, metavar="N")
    for name in ("token-reward", "bias", "delete-cost", "insert-cost"):
        parser.add_argument(f"--{name}", type=float, metavar="X")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = TranslationOptions(**{name: getattr(args, name) for name in TranslationOptions.__dataclass_fields__})
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        sentences = read_sentences(args.data_dir)[: args.limit]
        loaded = load_model(args.model, device=args.device)
        given = {name: _shown(value) for name, value in asdict(options).items() if value is not None}
        about = {
            "system": args.name or args.out.stem,
            "model": loaded.name,
            "options": given,
            "masked": args.masked,
            "source": args.source,
            "target": args.target,
            "threads": args.threads,
            "device": args.device,
            "load_before": round(os.getloadavg()[0], 2),
        }
        stream = TranslationStream(build_system(loaded, options), loaded.tokenizer, num_masked=args.masked)
        translate_data(stream, sentences, args.source, args.out, about=about, whole=args.whole)
    except (SpeechnarError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    finally:  # whoever calls this from Python keeps theirs
        torch.set_num_threads(before)
    logger.info("%s: %d sentences", args.out, len(sentences))
    return 0


if __name__ == "__main__":
    sys.exit(main())
