"""The command ``speechnar``: arguments for the public API, for training, and for decoding and scoring directories.

Results go to stdout and nothing else does; messages, progress and timing go to stderr. Exit status: 0 all well, 1 some
inputs failed (each named, the others done), 2 wrong usage. What is slow to import is imported by the verb that needs
it, so that ``--help`` answers at once.
"""

import argparse
import io
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechnar import __version__
from speechnar.errors import ConfigError, ModelNotFoundError, SpeechnarError
from speechnar.hub import CONSENT, DEFAULT_MODEL, DEFAULT_MT_MODEL, DEFAULT_MUSIC_MODEL, DEFAULT_TTS_MODEL

if TYPE_CHECKING:
    from speechnar.asr.options import DecodeOptions
    from speechnar.asr.transcriber import DetectedLanguage, Transcriber
    from speechnar.captions import CaptionUpdate
    from speechnar.mt.stream import TranslationUpdate
    from speechnar.mt.translator import Translator
    from speechnar.sound.generator import Progress
    from speechnar.text.transcript import Transcript, TranscriptFormat
    from speechnar.tts.synthesizer import Synthesizer

OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
FORMATS: tuple["TranscriptFormat", ...] = ("txt", "json", "srt", "vtt", "tsv")
# Of these, several files one after the other on stdout would make one file that is none.
SINGLE_FILE_FORMATS = ("srt", "vtt", "tsv")

LINES_AT_ONCE = 100
"""Of text on stdin that nobody types, so that lines of similar length are translated together."""
DECODERS = ("ctc", "cassnat", "paraformer", "transformer_ar")

Handler = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    parser = build_parser()
    try:
        args = parse_arguments(parser, argv)
    except SystemExit as leaving:  # argparse has printed its help or its complaint
        return leaving.code if isinstance(leaving.code, int) else WRONG_USAGE
    _configure_logging(quiet=args.quiet)
    handler: Handler = args.handler
    try:
        status = handler(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read stdout has left; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # the last resort: one line for the user, a traceback on request
        if args.debug:
            raise
        known = isinstance(error, SpeechnarError | OSError)
        _complain(str(error) if known else f"internal error ({type(error).__name__}: {error}); see it whole by --debug")
        return WRONG_USAGE if isinstance(error, ConfigError | ModelNotFoundError) else FAILED
    return status


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse like argparse, but also where options stand between files: ``transcribe a.wav -l en b.wav``."""
    args, rest = parser.parse_known_args(argv)
    if rest and (args.repeated is None or any(item.startswith("-") for item in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        getattr(args, args.repeated).extend(rest)
    return args


def build_parser() -> argparse.ArgumentParser:
    """Describe every verb."""
    parser = argparse.ArgumentParser(
        prog="speechnar",
        description="Non-autoregressive speech recognition, translation and synthesis, and music and sound.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"speechnar {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    def add(
        name: str, handler: Handler, text: str, *parents: argparse.ArgumentParser, repeated: str | None = None
    ) -> argparse.ArgumentParser:
        verb = verbs.add_parser(name, help=text, description=text, parents=[_common(), *parents], allow_abbrev=False)
        verb.set_defaults(handler=handler, repeated=repeated)
        return verb

    add("transcribe", _transcribe, "speech to text", _loading(), _decoding(), _writing(), repeated="files")
    verb = add(
        "translate",
        _translate,
        "speech, or text, to text in another language",
        _loading(None, f"{DEFAULT_MODEL}, of text {DEFAULT_MT_MODEL}"),
        _decoding("*"),
        _writing(),
        _text_to_translate(),
        repeated="files",
    )
    verb.add_argument("--to", metavar="LANG", help="language of the result; of text, default: the model's")

    add("caption", _caption, "live captions of speech, and their translation", _loading(), _searching(), _captioning())

    verb = add("detect-language", _detect_language, "language and probability", _loading(), repeated="files")
    verb.add_argument("files", nargs="+", metavar="FILE")
    verb.add_argument("-f", "--format", choices=("txt", "json"), default="txt")

    verb = add("align", _align, "word times of a given text", _loading())
    verb.add_argument("file", metavar="FILE", help="up to 30 s")
    verb.add_argument("--text", required=True, help="what is said, in the model's own spelling")
    verb.add_argument("-l", "--language", default="auto", metavar="LANG")
    verb.add_argument("-f", "--format", choices=("txt", *FORMATS[1:4]), default="txt", help="txt: a word per line")

    add("synthesize", _synthesize, "text to speech", _speaking(), _text_to_speak()).epilog = CONSENT
    add("edit", _edit, "change the words of recorded speech", _speaking(), _words_to_change()).epilog = CONSENT

    add("generate", _generate, "music and sound", _loading(DEFAULT_MUSIC_MODEL), _sounding())

    verb = add("models", _models, "the models on this machine")
    verb.add_argument("--json", action="store_true", help="one object per line")

    verb = add("convert", _convert, "turn a checkpoint of ESPnet, FunASR or cassnat_asr into a model folder")
    verb.add_argument("source", metavar="SRC", type=Path)
    verb.add_argument("destination", metavar="DST", type=Path)
    verb.add_argument("--skip-decoder", action="store_true", help="of ESPnet's hybrid models, keep the CTC branch only")

    verb = add("train", _train, "train a model, or continue a run", repeated="overrides")
    verb.add_argument("config", metavar="CONFIG", type=Path, help="YAML file")
    verb.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change the configuration, e.g. train.seed=1")
    verb.add_argument("--exp", required=True, type=Path, metavar="DIR", help="where checkpoints and the model go")
    _add_threads(verb)

    verb = add("average", _average, "export the average of a run's best checkpoints")
    verb.add_argument("exp", metavar="EXP", type=Path)
    verb.add_argument("--num-best", type=int, default=5, metavar="N", help="default: %(default)s")

    verb = add("decode", _decode, "decode a Kaldi data directory", _searching(), _computing())
    verb.add_argument("model", metavar="MODEL", help="name or folder")
    verb.add_argument("data_dir", metavar="DATA_DIR", type=Path)
    verb.add_argument("out", metavar="OUT", type=Path, help="text file; OUT.jsonl holds language and times")
    verb.add_argument("--task", default="asr", help="asr, or st_xxx for translation into language xxx")
    verb.add_argument("-l", "--language", default="auto", metavar="LANG", help="auto, given (by utt2lang) or a code")

    verb = add("score", _score, "score a decoded data directory")
    verb.add_argument("data_dir", metavar="DATA_DIR", type=Path)
    verb.add_argument("hyp", metavar="HYP", type=Path)
    verb.add_argument("--target", metavar="LANG", help="score translations against text.LANG by BLEU and chrF")
    verb.add_argument("--normalizer", metavar="NAME", help="of the text; default: basic, and none for translations")
    verb.add_argument("--json", action="store_true")

    verb = add("demo", _demo, "a web page on this machine", _computing())
    verb.add_argument("--port", type=int, default=7860, help="default: %(default)s")
    return parser


# Groups of options that verbs share.


def _common() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    group.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors on stderr")
    return group


def _computing() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("-d", "--device", default="auto", help="auto, cpu, cuda, cuda:1 ...; default: %(default)s")
    _add_threads(group)
    return group


def _loading(model: str | None = DEFAULT_MODEL, shown: str = "%(default)s") -> argparse.ArgumentParser:
    group = _group(_computing())
    group.add_argument("-m", "--model", default=model, help=f"shipped name, folder or owner/name; default: {shown}")
    return group


def _speaking() -> argparse.ArgumentParser:
    group = _group(_computing())
    group.add_argument(
        "-m", "--model", default=DEFAULT_TTS_MODEL, help="shipped name, folder or owner/name; default: %(default)s"
    )
    group.add_argument(
        "--recognizer", default=DEFAULT_MODEL, metavar="MODEL", help="what listens to recordings; default: %(default)s"
    )
    group.add_argument(
        "--steps", type=int, metavar="N", help="evaluations of the network for a block; default: the model's, or 16"
    )
    group.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    return group


def _text_to_speak() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("text", metavar="TEXT", help="what is to be spoken, of any length; - reads it from stdin")
    group.add_argument("-o", "--output", metavar="OUT", help="audio file; - writes raw PCM to stdout, see --stream")
    group.add_argument("--voice", metavar="REF", help="a clip of up to 15 s, in whose voice to speak")
    group.add_argument("--voice-text", metavar="T", help="what is said there; default: it is transcribed")
    group.add_argument("--speed", type=float, default=1.0, metavar="X", help="0.5 to 2; default: %(default)s")
    group.add_argument(
        "--stream",
        action="store_true",
        help="write to stdout while it is being spoken: mono, 16 bits, little endian, at the model's rate",
    )
    return group


def _text_to_translate() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument(
        "--text", metavar="TEXT", help="translate this; without it and FILE, lines on stdin, each to a line"
    )
    group.add_argument("--from", metavar="LANG", help="language of the text; default: the model's")
    group.add_argument(
        "--live",
        action="store_true",
        help="the text still grows, by each line on stdin or each word of TEXT, and an empty line ends it: after each "
        "write what stays, a tab, and what is new or has changed",
    )
    group.add_argument("--json", action="store_true", help="of text: an object per line")
    return group


def _words_to_change() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("file", metavar="FILE", help="mono")
    group.add_argument(
        "--text", required=True, metavar="NEW", help="all that is to be said; only what differs is spoken anew"
    )
    group.add_argument("--old-text", metavar="OLD", help="all that is said, up to 30 s; default: it is transcribed")
    group.add_argument("-o", "--output", required=True, metavar="OUT", help="audio file")
    group.add_argument(
        "--candidates", type=int, default=8, metavar="N", help="made of each change; default: %(default)s"
    )
    group.add_argument("--json", action="store_true", help="write the changes to stdout, an object per line")
    return group


def _sounding() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="what to make, in words that the model knows; default: anything"
    )
    group.add_argument("-o", "--output", required=True, metavar="OUT", help="audio file")
    group.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="how much is made; default: %(default)s"
    )
    group.add_argument(
        "--steps",
        type=_steps,
        metavar="N[,N...]",
        help="evaluations of the network for a window, in all or in each codebook; default: the model's",
    )
    group.add_argument("--guidance", type=float, metavar="W", help="weight of the prompt; default: the model's")
    group.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    group.add_argument(
        "--continue", dest="continue_from", metavar="FILE", help="a recording to go on from; it comes first in OUT"
    )
    return group


def _steps(text: str) -> int | tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers like 30 or 16,6,4,4, got {text!r}") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _searching() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("--decoder", choices=DECODERS, help="default: the model's own, ctc where it has one")
    group.add_argument(
        "--num-alignments", type=int, metavar="N", help="cassnat: alignments to sample and rank; default: the best path"
    )
    group.add_argument("--beam-size", type=int, metavar="N", help="default: best path; 16 with --lm or --hotwords")
    group.add_argument("--lm", type=Path, metavar="FILE", help="n-gram language model (ARPA, may be gzip)")
    group.add_argument("--lm-weight", type=float, metavar="W", help="of --lm; default: 0.5")
    group.add_argument("--batch-seconds", type=float, default=120.0, metavar="S", help="default: %(default)s")
    group.add_argument("--pad", action="store_true", help="pad clips to 30 s, as the published OWSM-CTC models expect")
    return group


def _decoding(num_files: str = "+") -> argparse.ArgumentParser:
    group = _group(_searching())
    group.add_argument("files", nargs=num_files, metavar="FILE")
    group.add_argument("-l", "--language", default="auto", metavar="LANG", help="of the speech; default: %(default)s")
    group.add_argument("--word-timestamps", action="store_true", help="times and probabilities of words")
    group.add_argument("--hotwords", metavar="A,B", help="phrases to favour, separated by commas")
    group.add_argument("--hotword-weight", type=float, metavar="W", help="of --hotwords; default: 1")
    group.add_argument(
        "--vad",
        action=argparse.BooleanOptionalAction,
        help="decode only speech; default: for recordings longer than 30 s",
    )
    return group


def _captioning() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("file", metavar="FILE", help="- reads raw PCM from stdin: mono, 16 bits, little endian")
    group.add_argument("--sample-rate", type=int, metavar="HZ", help="of raw PCM; default: what the model hears")
    group.add_argument("-l", "--language", default="auto", metavar="LANG", help="of the speech; default: %(default)s")
    group.add_argument("--to", metavar="LANG", help="translate into this language")
    group.add_argument("--translator", metavar="MODEL", help=f"what translates; default: {DEFAULT_MT_MODEL}")
    group.add_argument(
        "--chunk", type=float, default=1.0, metavar="S", help="seconds between updates; default: %(default)s"
    )
    group.add_argument("--json", action="store_true", help="an object per line; else what stays, a tab, and the rest")
    return group


def _writing() -> argparse.ArgumentParser:
    group = _group()
    group.add_argument("-f", "--format", choices=(*FORMATS, "all"), default="txt", help="default: %(default)s")
    group.add_argument("-o", "--output-dir", type=Path, metavar="DIR", help="write files there instead of to stdout")
    return group


def _group(*parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False, parents=list(parents))


def _add_threads(group: argparse.ArgumentParser) -> None:
    group.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: all cores")


# Verbs: each returns an exit status.


def _transcribe(args: argparse.Namespace) -> int:
    return _recognize(args, to=None)


def _translate(args: argparse.Namespace) -> int:
    if not args.files:
        _refuse(args, "text", _decoding("*"), _writing())
        return _translate_text(args)
    _refuse(args, "a FILE", _text_to_translate())
    if args.to is None:
        raise ConfigError("say into which language: --to LANG")
    args.model = args.model or DEFAULT_MODEL
    return _recognize(args, to=args.to)


def _translate_text(args: argparse.Namespace) -> int:
    languages = {"source": getattr(args, "from"), "target": args.to}
    if args.text is None and sys.stdin.isatty() and not (args.live or any(languages.values())):
        raise ConfigError("say what to translate: FILE... of speech, --text TEXT, or lines of text on stdin")
    translator = _load_translator(args, args.model)
    started = time.monotonic()
    num_lines = 0
    if args.live:
        for update in translator.live(_stdin_lines() if args.text is None else args.text.split(), **languages):
            _put_update(update, as_json=args.json)
            num_lines += 1
    else:
        lines = _stdin_lines() if args.text is None else iter([args.text])
        while given := list(islice(lines, 1 if sys.stdin.isatty() else LINES_AT_ONCE)):
            for translation in translator.translate(given, **languages):
                if args.json:
                    _put_json(translation.to_dict())
                else:
                    _put(f"{translation.text}\n")
            sys.stdout.flush()
            num_lines += len(given)
    _log().info("%d lines in %.2f s", num_lines, time.monotonic() - started)
    return OK


def _recognize(args: argparse.Namespace, to: str | None) -> int:
    _check_output(args)
    transcriber = _load(args, args.model)
    options = _decode_options(
        args,
        hotwords=tuple(phrase.strip() for phrase in (args.hotwords or "").split(",") if phrase.strip()),
        hotword_weight=args.hotword_weight,
        vad=args.vad,
    )
    outcomes = transcriber.transcribe_many(
        args.files, to=to, language=args.language, word_timestamps=args.word_timestamps, options=options
    )
    started = time.monotonic()
    audio_s = 0.0
    num_failed = 0
    stems = _output_stems(args.files)
    for file, stem, outcome in zip(args.files, stems, _with_progress(outcomes, len(args.files)), strict=True):
        if isinstance(outcome, SpeechnarError):
            _complain_of(file, outcome, debug=args.debug)
            num_failed += 1
            continue
        audio_s += outcome.duration
        _put_transcript(outcome, args, stem)
    wall_s = time.monotonic() - started
    _log().info("%.1f s of audio in %.2f s (%.1f times real time)", audio_s, wall_s, audio_s / wall_s if wall_s else 0)
    return FAILED if num_failed else OK


def _caption(args: argparse.Namespace) -> int:
    if not 0.1 <= args.chunk <= 30:
        raise ConfigError(f"--chunk must be 0.1 to 30 seconds, got {args.chunk:g}")
    if args.translator is not None and args.to is None:
        raise ConfigError("say into which language --translator is to translate: --to LANG")
    if args.sample_rate is not None and args.file != "-":
        raise ConfigError("--sample-rate is that of raw PCM on stdin; a FILE says its own, leave that out")
    transcriber = _load(args, args.model)
    from speechnar.audio.io import AudioStream, pcm_blocks  # noqa: PLC0415
    from speechnar.captions import CaptionStream  # noqa: PLC0415

    translation = None
    if args.to is not None:
        source = None if args.language == "auto" else args.language
        translation = _load_translator(args, args.translator).stream(source=source, target=args.to)
    rate = args.sample_rate or transcriber.sample_rate
    speech = transcriber.stream(sample_rate=rate, language=args.language, options=_decode_options(args))
    stream = CaptionStream(speech, translation)
    blocks = (
        pcm_blocks(sys.stdin.buffer, round(args.chunk * rate))
        if args.file == "-"
        else AudioStream(args.file, target_rate=rate, block_seconds=args.chunk)
    )
    started = time.monotonic()
    for block in blocks:
        _put_captions(stream.push(block), as_json=args.json)
    _put_captions(stream.finish(), as_json=args.json)
    wall_s, audio_s = time.monotonic() - started, stream.transcript.duration
    _log().info("%.1f s of audio in %.2f s (%.1f times real time)", audio_s, wall_s, audio_s / wall_s if wall_s else 0)
    return OK


def _detect_language(args: argparse.Namespace) -> int:
    transcriber = _load(args, args.model)
    num_failed = 0
    for file in args.files:
        try:
            detected: DetectedLanguage = transcriber.detect_language(file)
        except ConfigError:
            raise
        except SpeechnarError as error:
            _complain_of(file, error, debug=args.debug)
            num_failed += 1
            continue
        if args.format == "json":
            _put_json({"file": file, "language": detected.language, "probability": round(detected.probability, 4)})
        else:
            name = f"{_one_line(file)}: " if len(args.files) > 1 else ""
            _put(f"{name}{detected.language} {detected.probability:.4f}\n")
    return FAILED if num_failed else OK


def _align(args: argparse.Namespace) -> int:
    transcript = _load(args, args.model).align(args.file, args.text, language=args.language)
    if args.format != "txt":
        _put(_render(transcript, args.format))
        return OK
    for segment in transcript.segments:
        for word in segment.words or ():
            _put(f"{word.start:.3f}\t{word.end:.3f}\t{word.word}\t{word.probability:.4f}\n")
    return OK


def _synthesize(args: argparse.Namespace) -> int:
    is_streamed = args.stream or args.output == "-"
    if is_streamed and args.output not in (None, "-"):
        raise ConfigError("--stream writes to stdout; leave out -o, or give -o -")
    if not is_streamed and args.output is None:
        raise ConfigError("say where the speech goes: -o OUT.wav, or --stream for raw PCM on stdout")
    if is_streamed and sys.stdout.isatty():
        raise ConfigError("raw PCM is not for a terminal; pipe stdout into a player, or write a file by -o OUT.wav")
    text = sys.stdin.read() if args.text == "-" else args.text
    if args.voice is not None:
        _log().warning("%s", CONSENT)
    synthesizer = _load_synthesizer(args)
    options = {"voice": args.voice, "voice_text": args.voice_text}
    options |= {"steps": args.steps, "seed": args.seed, "speed": args.speed}
    started = time.monotonic()
    if is_streamed:
        from speechnar.audio.io import to_int16  # noqa: PLC0415

        num_samples = 0
        parts = synthesizer.stream(text, **options)
        _log().info("mono, 16 bits, little endian, %d samples per second", synthesizer.sample_rate)
        for part in parts:
            sys.stdout.buffer.write(to_int16(part).astype("<i2").tobytes())
            sys.stdout.buffer.flush()
            num_samples += len(part)
    else:
        speech = synthesizer.synthesize(text, **options)
        speech.save(args.output)
        num_samples = len(speech.samples)
        _log().info("%s", args.output)
    wall_s, audio_s = time.monotonic() - started, num_samples / synthesizer.sample_rate
    _log().info("%.1f s of speech in %.2f s (%.1f times real time)", audio_s, wall_s, audio_s / wall_s if wall_s else 0)
    return OK


def _edit(args: argparse.Namespace) -> int:
    _log().warning("%s", CONSENT)
    edited = _load_synthesizer(args).edit(
        args.file,
        args.text,
        old_text=args.old_text,
        steps=args.steps,
        seed=args.seed,
        candidates=args.candidates,
    )
    edited.save(args.output)
    for change in edited.changes:
        if args.json:
            _put_json(asdict(change))
        _log().info(
            "%.2f to %.2f s %r is now %.2f to %.2f s %r",
            *(change.old_start, change.old_end, change.old_text, change.new_start, change.new_end, change.new_text),
        )
    if not edited.changes:
        _log().info("the words are the same, nothing is changed")
    return OK


def _generate(args: argparse.Namespace) -> int:
    from speechnar.sound.generator import Generator, GeneratorOptions  # noqa: PLC0415

    _set_threads(args.threads)
    generator = Generator.load(args.model, device=args.device)
    started = time.monotonic()
    with _stages_shown() as progress:
        sound = generator.generate(
            args.prompt,
            seconds=args.seconds,
            steps=args.steps,
            seed=args.seed,
            continue_from=args.continue_from,
            options=GeneratorOptions(guidance=args.guidance),
            progress=progress,
        )
    wall_s = time.monotonic() - started
    sound.save(args.output)
    _log().info("%s", args.output)
    _log().info("%.1f s made in %.2f s (%.1f times real time)", args.seconds, wall_s, args.seconds / wall_s)
    return OK


def _models(args: argparse.Namespace) -> int:
    from speechnar.hub import list_models  # noqa: PLC0415

    rows = [
        {
            "name": info.name,
            "task": ", ".join(info.tasks) or info.kind,
            "size": f"{info.num_bytes / 1e6:.1f} MB",
            "languages": ", ".join(info.languages) or "?",
            "licence": info.license or "?",
            "from": info.source,
            "present": "yes",
        }
        for info in list_models()
    ]
    if args.json:
        for row in rows:
            _put_json(row)
        return OK
    if not rows:
        _log().info("no model is shipped or cached; give a folder or owner/name to -m")
        return OK
    header = {key: key for key in rows[0]}
    widths = {key: max(len(row[key]) for row in [header, *rows]) for key in header}
    for row in [header, *rows]:
        _put("  ".join(f"{row[key]:<{widths[key]}}" for key in header).rstrip() + "\n")
    return OK


def _convert(args: argparse.Namespace) -> int:
    from speechnar.interop import convert  # noqa: PLC0415

    report = convert(args.source, args.destination, skip_decoder=args.skip_decoder)
    _put(f"{report}\n")
    return OK


def _train(args: argparse.Namespace) -> int:
    _set_threads(args.threads)
    from speechnar.config import load_config  # noqa: PLC0415
    from speechnar.train.run import RunConfig, run_training  # noqa: PLC0415

    result = run_training(load_config(args.config, RunConfig, args.overrides), args.exp)
    shown = " ".join(f"{name} {value:.4g}" for name, value in result.best_metrics.items())
    _log().info("best at step %d of %d: %s", result.best_step, result.step, shown)
    _put(f"{args.exp / 'model'}\n")
    return OK


def _average(args: argparse.Namespace) -> int:
    from speechnar.train.run import average  # noqa: PLC0415

    _put(f"{average(args.exp, args.num_best)}\n")
    return OK


def _decode(args: argparse.Namespace) -> int:
    from speechnar.evaluation.asr import decode_dir  # noqa: PLC0415

    transcriber = _load(args, args.model)
    options = _decode_options(args)
    summary = decode_dir(transcriber, args.data_dir, args.out, task=args.task, language=args.language, options=options)
    _put_json({**asdict(summary), "rtf": summary.rtf, "model": transcriber.name, "hyp": str(args.out)})
    return FAILED if summary.failed else OK


def _score(args: argparse.Namespace) -> int:
    from speechnar.evaluation.scores import score_dir  # noqa: PLC0415

    report = score_dir(args.data_dir, args.hyp, target=args.target, normalizer=args.normalizer)
    if args.json:
        _put_json(report.to_dict())
    else:
        _put(str(report))
    return OK


def _demo(args: argparse.Namespace) -> int:
    _set_threads(args.threads)
    from importlib.util import module_from_spec, spec_from_file_location  # noqa: PLC0415

    path = Path(__file__).parents[2] / "demo" / "app.py"
    spec = spec_from_file_location("speechnar_demo", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise ConfigError("the demo is part of the repository, not of the installed package; run demo/app.py there")
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(f"the demo needs {error.name}; install speechnar[demo]") from None
    module.main(device=args.device, port=args.port)
    return OK


# What verbs share.


def _load(args: argparse.Namespace, model: str) -> "Transcriber":
    from speechnar.asr.transcriber import Transcriber  # noqa: PLC0415

    _set_threads(args.threads)
    return Transcriber.load(model, device=args.device)


def _load_synthesizer(args: argparse.Namespace) -> "Synthesizer":
    from speechnar.tts.synthesizer import Synthesizer  # noqa: PLC0415

    _set_threads(args.threads)
    return Synthesizer.load(args.model, device=args.device, recognizer=args.recognizer)


def _load_translator(args: argparse.Namespace, model: str | None) -> "Translator":
    from speechnar.mt.translator import Translator  # noqa: PLC0415

    _set_threads(args.threads)
    return Translator.load(model or DEFAULT_MT_MODEL, device=args.device)


def _refuse(args: argparse.Namespace, what: str, *groups: argparse.ArgumentParser) -> None:
    """Complain of options that do not go with ``what`` is given."""
    defaults = vars(_group(*groups).parse_args([]))
    wrong = [name for name, value in defaults.items() if getattr(args, name) != value]
    if wrong:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise ConfigError(f"{options} cannot be used with {what}; leave that out")


def _decode_options(args: argparse.Namespace, **more: Any) -> "DecodeOptions":
    from speechnar.asr.options import DecodeOptions  # noqa: PLC0415

    names = ("decoder", "num_alignments", "beam_size", "lm", "lm_weight", "batch_seconds", "pad")
    searching = {name: getattr(args, name) for name in names}
    return DecodeOptions(**searching, **more)


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)


def _check_output(args: argparse.Namespace) -> None:
    if args.output_dir is not None:
        return
    if args.format == "all":
        raise ConfigError("-f all writes files; say where by -o DIR")
    if args.format in SINGLE_FILE_FORMATS and len(args.files) > 1:
        raise ConfigError(
            f"-f {args.format} of {len(args.files)} files needs -o DIR; stdout would hold one after another"
        )


def _output_stems(files: Iterable[str]) -> list[str]:
    """Return the name without suffix of every file, numbered where two would write to one place."""
    stems: list[str] = []
    for file in files:
        stem = Path(file).stem
        number = 2
        while stem in stems:
            stem = f"{Path(file).stem}-{number}"
            number += 1
        stems.append(stem)
    return stems


def _put_transcript(transcript: "Transcript", args: argparse.Namespace, stem: str) -> None:
    if args.output_dir is None:
        if args.format == "txt" and len(args.files) > 1:
            _put(f"{_one_line(transcript.file)}: {_one_line(transcript.text)}\n")
        else:
            _put(_render(transcript, args.format))
        return
    from speechnar.text.transcript import write_transcript  # noqa: PLC0415

    for name in FORMATS if args.format == "all" else (args.format,):
        _log().info("%s", write_transcript(transcript, name, args.output_dir, stem))


def _render(transcript: "Transcript", format: str) -> str:
    text: str = getattr(transcript, f"to_{format}")()
    return text


def _with_progress(outcomes: Iterator[Any], total: int) -> Iterator[Any]:
    """Show a bar over many files on a terminal; otherwise pass through."""
    if total < 2 or not sys.stderr.isatty():
        yield from outcomes
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    yield from track(outcomes, total=total, description="files", console=Console(stderr=True))


@contextmanager
def _stages_shown() -> Iterator["Progress | None"]:
    """Yield what shows a bar for each stage on a terminal; elsewhere nothing is shown."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total)
            bars.update(tasks[stage], completed=done)

        yield show


def _put(text: str) -> None:
    """Write a result to stdout, whatever its encoding can show."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding))


def _put_captions(updates: Iterable["CaptionUpdate"], *, as_json: bool) -> None:
    for update in updates:
        if as_json:
            values = {**asdict(update), "text": update.text}
            if update.translation is not None:
                values["translation"] = {**values["translation"], "text": update.translation.text}
            _put_json(values)
        else:
            shown = update.translation or update
            _put(f"{shown.stable}\t{shown.unstable}\n")
    sys.stdout.flush()


def _put_update(update: "TranslationUpdate", *, as_json: bool) -> None:
    if as_json:
        _put_json({**asdict(update), "text": update.text, "seconds": round(update.seconds, 6)})
    else:
        _put(f"{update.stable}\t{update.unstable}\n")
    sys.stdout.flush()


def _stdin_lines() -> Iterator[str]:
    """Yield lines as they come; what is not text in them is replaced."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    yield from sys.stdin


def _put_json(values: dict[str, Any]) -> None:
    _put(json.dumps(values, ensure_ascii=False) + "\n")


def _complain(message: str) -> None:
    sys.stderr.write(f"speechnar: {_one_line(message)}\n")


def _complain_of(file: str, error: SpeechnarError, *, debug: bool) -> None:
    name, message = _one_line(file), _one_line(error)
    _complain(message if message.startswith(name) else f"{name}: {message}")
    if debug:
        logging.getLogger(__name__).error("traceback", exc_info=error)


def _one_line(value: object) -> str:
    shown = " ".join(str(value).split())
    # File names may hold what no terminal should obey, or bytes that are not text.
    return "".join(letter if letter.isprintable() else "?" for letter in shown)


def _log() -> logging.Logger:
    return logging.getLogger("speechnar")


def _configure_logging(*, quiet: bool) -> None:
    logger = _log()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers = [handler]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    logger.propagate = False
