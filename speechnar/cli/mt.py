"""Text, and speech, to text in another language: translate; decode and score directories of texts."""

import argparse
import time
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from speechnar.cli.asr import add_decoding, add_writing, recognize
from speechnar.cli.options import OK, Verb, add_direction, add_loading, load_translator, refuse
from speechnar.cli.output import flush, log, put, put_json
from speechnar.cli.stdin import is_terminal, stdin_lines
from speechnar.errors import ConfigError
from speechnar.extras import require
from speechnar.hub import DEFAULT_MODEL, DEFAULT_MT_MODEL

if TYPE_CHECKING:
    from speechnar.mt.stream import TranslationUpdate

LINES_AT_ONCE = 100
"""Of text on stdin that nobody types, so that lines of similar length are translated together."""


def _describe_translate(parser: argparse.ArgumentParser) -> None:
    add_loading(parser, None, f"of speech {DEFAULT_MODEL} and --translator, of text {DEFAULT_MT_MODEL}")
    _add_decoding(parser)
    add_writing(parser)
    _add_text(parser)
    parser.add_argument("--to", metavar="LANG", help="language of the result; of text, default: the model's")


def _add_decoding(parser: argparse.ArgumentParser) -> None:
    add_decoding(parser, "*")
    parser.add_argument(
        "--translator",
        metavar="MODEL",
        help="translates, as text, what is heard; default: nothing with -m, else " + DEFAULT_MT_MODEL,
    )


def _describe_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="LOG")
    add_direction(parser)
    parser.add_argument("--name", default="", help="of the system; default: that of the log")
    parser.add_argument("--whole", action="store_true", help="whole sentences instead of word by word")
    parser.add_argument("--masked", type=int, default=0, metavar="N", help="last words hidden until the end")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N sentences")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument("-d", "--device", default="cpu", help="default: %(default)s")
    parser.add_argument("--verify", action="store_true", default=None, help="reta: verify its last translation")
    parser.add_argument("--draft", type=Path, metavar="MODEL", help="reta: verify what this fretna_ctc says")
    for name in ("beam-size", "max-iterations", "margin", "forget", "delay"):
        parser.add_argument(f"--{name}", type=int, metavar="N")
    for name in ("token-reward", "bias", "delete-cost", "insert-cost"):
        parser.add_argument(f"--{name}", type=float, metavar="X")


def _describe_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG")
    parser.add_argument("--target", required=True, metavar="LANG", help="ISO 639-3")
    parser.add_argument("--word-s", type=float, metavar="S", help="seconds from one source word to the next")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw BLEU over latency, erasure and computation")


def _add_text(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--text", metavar="TEXT", help="translate this; without it and FILE, lines on stdin, each to a line"
    )
    parser.add_argument("--from", metavar="LANG", help="language of the text; default: the model's")
    parser.add_argument(
        "--live",
        action="store_true",
        help="the text still grows, by each line on stdin or each word of TEXT, and an empty line ends it: after each "
        "write what stays, a tab, and what is new or has changed",
    )
    parser.add_argument("--json", action="store_true", help="of text: an object per line")


def _translate(args: argparse.Namespace) -> int:
    if not args.files:
        refuse(args, "text", _add_decoding, add_writing)
        return _translate_text(args)
    refuse(args, "a FILE", _add_text)
    if args.to is None:
        raise ConfigError("say into which language: --to LANG")
    if args.model is None and args.translator is None:
        args.translator = DEFAULT_MT_MODEL
    args.model = args.model or DEFAULT_MODEL
    return recognize(args, to=args.to, translator=args.translator)


def _translate_text(args: argparse.Namespace) -> int:
    languages = {"source": getattr(args, "from"), "target": args.to}
    if args.text is None and is_terminal() and not (args.live or any(languages.values())):
        raise ConfigError("say what to translate: FILE... of speech, --text TEXT, or lines of text on stdin")
    given_lines = stdin_lines() if args.text is None else iter([args.text])
    translator = load_translator(args, args.model)
    started = time.monotonic()
    num_lines = 0
    if args.live:
        for update in translator.live(given_lines if args.text is None else args.text.split(), **languages):
            _put_update(update, as_json=args.json)
            num_lines += 1
    else:
        while given := list(islice(given_lines, 1 if is_terminal() else LINES_AT_ONCE)):
            for translation in translator.translate(given, **languages):
                if args.json:
                    put_json(translation.to_dict())
                else:
                    put(f"{translation.text}\n")
            flush()
            num_lines += len(given)
    log().info("%d lines in %.2f s", num_lines, time.monotonic() - started)
    return OK


def _put_update(update: "TranslationUpdate", *, as_json: bool) -> None:
    if as_json:
        put_json({**asdict(update), "text": update.text, "seconds": round(update.seconds, 6)})
    else:
        put(f"{update.stable}\t{update.unstable}\n")
    flush()


def _decode(args: argparse.Namespace) -> int:
    from speechnar.evaluation.mt import translate_dir  # noqa: PLC0415
    from speechnar.mt.systems import TranslationOptions  # noqa: PLC0415

    num_sentences = translate_dir(
        args.model,
        args.data_dir,
        args.out,
        source=args.source,
        target=args.target,
        options=TranslationOptions(**{name: getattr(args, name) for name in TranslationOptions.__dataclass_fields__}),
        name=args.name,
        whole=args.whole,
        num_masked=args.masked,
        limit=args.limit,
        threads=args.threads,
        device=args.device,
    )
    log().info("%s: %d sentences", args.out, num_sentences)
    return OK


def _score(args: argparse.Namespace) -> int:
    require("eval", "sacrebleu.metrics", *(["matplotlib.figure"] if args.plot is not None else []))
    from speechnar.data.parallel_text import read_sentences  # noqa: PLC0415
    from speechnar.evaluation.mt import read_log, score_log  # noqa: PLC0415
    from speechnar.metrics.simultaneous import WORD_S  # noqa: PLC0415

    sentences = {sentence.utt_id: sentence for sentence in read_sentences(args.data_dir)}
    word_s = WORD_S if args.word_s is None else args.word_s
    reports = []
    for path in args.logs:
        reports.append(score_log(read_log(path), sentences, target=args.target, word_s=word_s))
        put_json(reports[-1])
    if args.plot is not None:
        from speechnar.evaluation.plots import plot_reports  # noqa: PLC0415  # an extra

        plot_reports(reports, args.plot)
    return OK


VERBS = {
    "translate": Verb("speech, or text, to text in another language", _describe_translate, _translate, "files"),
}
GROUP = {
    "decode": Verb(
        "translate the sentences of a directory word by word, and log what is shown", _describe_decode, _decode
    ),
    "score": Verb("score such logs: quality, latency, flicker and computation", _describe_score, _score),
}
