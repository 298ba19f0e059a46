"""Speech to text: transcribe, caption, detect-language, align; decode and score data directories."""

import argparse
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechnar.cli.corpus import (
    PART_FORMATS,
    add_corpus,
    add_engine,
    check_engine,
    find_engine,
    parts_of,
    run_stage_of,
    transcribe_corpora,
)
from speechnar.cli.options import (
    FAILED,
    OK,
    Verb,
    add_computing,
    add_loading,
    add_precision,
    add_searching,
    decode_options,
    load_transcriber,
    load_translator,
)
from speechnar.cli.output import complain_of, flush, log, one_line, put, put_json, with_progress
from speechnar.cli.recordings import GIVEN, find_recordings, make_output_dir, name_of, opened, place_results
from speechnar.cli.stdin import stdin_bytes
from speechnar.errors import ConfigError, SpeechnarError
from speechnar.hub import DEFAULT_MT_MODEL

if TYPE_CHECKING:
    from speechnar.asr.options import DecodeOptions
    from speechnar.asr.results import ResultPlace
    from speechnar.asr.transcriber import DetectedLanguage
    from speechnar.audio.source import AudioInput
    from speechnar.captions import CaptionUpdate
    from speechnar.text.transcript import Transcript, TranscriptFormat

FORMATS: tuple["TranscriptFormat", ...] = ("txt", "json", "srt", "vtt", "tsv")
# Of these, several files one after the other on stdout would make one file that is none.
SINGLE_FILE_FORMATS = ("srt", "vtt", "tsv")


MODELS_BY_NAME = (
    "models by name (fetched when first used): English: nvidia/parakeet-ctc-1.1b (1.1 B parameters); Chinese: "
    "funasr/paraformer-zh (220 M); many languages, speech translation: espnet/owsm_ctc_v4_1B (1.01 B); see speechnar "
    "models"
)


def _describe_transcribe(parser: argparse.ArgumentParser) -> None:
    add_loading(parser)
    add_decoding(parser)
    add_writing(parser, PART_FORMATS)
    add_corpus(parser)


def _describe_caption(parser: argparse.ArgumentParser) -> None:
    add_loading(parser)
    add_searching(parser)
    _add_captioning(parser)


def _describe_detect_language(parser: argparse.ArgumentParser) -> None:
    add_loading(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help=GIVEN)
    parser.add_argument("-f", "--format", choices=("txt", "json"), default="txt")


def _describe_align(parser: argparse.ArgumentParser) -> None:
    add_loading(parser)
    parser.add_argument("file", metavar="FILE", help="up to 30 s")
    parser.add_argument("--text", required=True, help="what is said, in the model's own spelling")
    parser.add_argument("-l", "--language", default="auto", metavar="LANG")
    parser.add_argument("-f", "--format", choices=("txt", *FORMATS[1:4]), default="txt", help="txt: a word per line")


def _describe_decode(parser: argparse.ArgumentParser) -> None:
    add_searching(parser)
    add_computing(parser)
    add_precision(parser, "fp32")
    parser.add_argument("model", metavar="MODEL", help="name or folder")
    parser.add_argument("data_dir", metavar="DATA_DIR", type=Path)
    parser.add_argument("out", metavar="OUT", type=Path, help="text file; OUT.jsonl holds language and times")
    parser.add_argument("--task", default="asr", help="asr, or st_xxx for translation into language xxx")
    parser.add_argument("-l", "--language", default="auto", metavar="LANG", help="auto, given (by utt2lang) or a code")
    add_engine(parser)


def _describe_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", metavar="DATA_DIR", type=Path)
    parser.add_argument("hyp", metavar="HYP", type=Path)
    parser.add_argument("--target", metavar="LANG", help="score translations against text.LANG by BLEU and chrF")
    parser.add_argument("--normalizer", metavar="NAME", help="of the text; default: basic, and none for translations")
    parser.add_argument("--json", action="store_true")


def add_decoding(parser: argparse.ArgumentParser, num_files: str = "+") -> None:
    """Add what the transcription of files is told."""
    add_searching(parser)
    parser.add_argument("files", nargs=num_files, metavar="FILE", help=GIVEN)
    parser.add_argument("-l", "--language", default="auto", metavar="LANG", help="of the speech; default: %(default)s")
    parser.add_argument("--word-timestamps", action="store_true", help="times and probabilities of words")
    parser.add_argument("--hotwords", metavar="A,B", help="phrases to favour, separated by commas")
    parser.add_argument("--hotword-weight", type=float, metavar="W", help="of --hotwords; default: 1")
    parser.add_argument(
        "--vad",
        action=argparse.BooleanOptionalAction,
        help="decode only speech; default: for recordings longer than 30 s",
    )


def add_writing(parser: argparse.ArgumentParser, more: tuple[str, ...] = ()) -> None:
    """Add where transcripts go, and how; formats of corpora are ``more``."""
    parser.add_argument("-f", "--format", choices=(*FORMATS, "all", *more), default="txt", help="default: %(default)s")
    parser.add_argument(
        "-o",
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="write files there, under the paths that the recordings have around it, instead of to stdout",
    )
    parser.add_argument(
        "--skip-existing", action="store_true", help="leave out what has its results in DIR: goes on where a run ended"
    )
    captions = parser.add_argument_group("captions, of srt and vtt")
    captions.add_argument("--max-line-width", type=int, metavar="N", help="columns of a line; default: 42")
    captions.add_argument("--max-lines", type=int, metavar="N", help="lines at a time; default: 2")
    captions.add_argument("--words-per-line", type=int, metavar="N", help="default: as many as fit")


def _add_captioning(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="- reads raw PCM from stdin: mono, 16 bits, little endian")
    parser.add_argument("--sample-rate", type=int, metavar="HZ", help="of raw PCM; default: what the model hears")
    parser.add_argument("-l", "--language", default="auto", metavar="LANG", help="of the speech; default: %(default)s")
    parser.add_argument("--to", metavar="LANG", help="translate into this language")
    parser.add_argument("--translator", metavar="MODEL", help=f"what translates; default: {DEFAULT_MT_MODEL}")
    parser.add_argument(
        "--chunk", type=float, default=1.0, metavar="S", help="seconds between updates; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="an object per line; else what stays, a tab, and the rest")


def _transcribe(args: argparse.Namespace) -> int:
    if (engine := find_engine(args)) is not None:
        if args.skip_existing or _caption_limits(args):
            raise ConfigError(
                "a corpus goes on by its journal, and has captions of the usual size; leave --skip-existing "
                "and the options of captions out"
            )
        formats = tuple(FORMATS) if args.format == "all" else (args.format,)
        return transcribe_corpora(args, engine, _recognizing(args), formats)
    return recognize(args, to=None)


def recognize(args: argparse.Namespace, to: str | None, translator: str | None = None) -> int:
    """Transcribe files, or translate them into the language ``to``, and write them; return the exit status.

    Without a ``translator`` of text the recogniser translates.
    """
    _check_captions(args)
    if args.skip_existing and args.output_dir is None:
        raise ConfigError("--skip-existing needs to know where results are: -o DIR")
    if args.output_dir is not None:
        make_output_dir(args)
    recordings, num_failed = find_recordings(args)
    _check_format(args, len(recordings))
    formats = FORMATS if args.format == "all" else (args.format,)
    places: dict[str, ResultPlace] = {}
    if args.output_dir is not None:
        places = place_results(recordings, args, formats)
        recordings = list(places)
    if not recordings:
        return FAILED if num_failed else OK
    audio_s = 0.0
    with opened(recordings) as audios:
        outcomes = _hear(args, audios, to, translator)
        started = time.monotonic()
        for index, outcome in with_progress(outcomes, len(recordings)):
            path, name = recordings[index], name_of(audios[index])
            if isinstance(outcome, SpeechnarError):
                complain_of(name, outcome, debug=args.debug)
                num_failed += 1
                continue
            audio_s += outcome.duration
            if path not in places:
                _put_transcript(outcome, args, is_named=recordings != args.files[:1])
                flush()
                continue
            try:
                _write_transcript(outcome, places[path], formats, _caption_limits(args))
            except OSError as error:
                complain_of(name, error, debug=args.debug)
                num_failed += 1
    wall_s = time.monotonic() - started
    log().info("%.1f s of audio in %.2f s (%.1f times real time)", audio_s, wall_s, audio_s / wall_s if wall_s else 0)
    return FAILED if num_failed else OK


def _hear(
    args: argparse.Namespace,
    audios: Iterable["AudioInput"],
    to: str | None,
    translator: str | None,
) -> Iterator[tuple[int, "Transcript | SpeechnarError"]]:
    """Yield the places of recordings and what is heard in them, for files each as soon as it is known."""
    transcriber = load_transcriber(args, args.model)
    given: dict[str, Any] = {
        "language": args.language,
        "word_timestamps": args.word_timestamps,
        "options": _recognizing(args),
    }
    if to is None or translator is None:
        found = transcriber.transcribe_as_ready(audios, to=to, **given)
    else:
        from speechnar.cascade import Cascade  # noqa: PLC0415

        found = Cascade(transcriber, load_translator(args, translator)).transcribe_as_ready(audios, to=to, **given)
    if args.output_dir is not None:
        return found
    from speechnar.asr.recordings import in_order  # noqa: PLC0415

    return enumerate(in_order(found))


def _recognizing(args: argparse.Namespace) -> "DecodeOptions":
    """Return how files are transcribed."""
    return decode_options(
        args,
        hotwords=tuple(phrase.strip() for phrase in (args.hotwords or "").split(",") if phrase.strip()),
        hotword_weight=args.hotword_weight,
        vad=args.vad,
    )


def _caption(args: argparse.Namespace) -> int:
    if not 0.1 <= args.chunk <= 30:
        raise ConfigError(f"--chunk must be 0.1 to 30 seconds, got {args.chunk:g}")
    if args.translator is not None and args.to is None:
        raise ConfigError("say into which language --translator is to translate: --to LANG")
    if args.sample_rate is not None and args.file != "-":
        raise ConfigError("--sample-rate is that of raw PCM on stdin; a FILE says its own, leave that out")
    pcm = stdin_bytes() if args.file == "-" else None
    transcriber = load_transcriber(args, args.model)
    from speechnar.audio.io import AudioStream, pcm_blocks  # noqa: PLC0415
    from speechnar.captions import CaptionStream  # noqa: PLC0415

    translation = None
    if args.to is not None:
        source = None if args.language == "auto" else args.language
        translation = load_translator(args, args.translator).stream(source=source, target=args.to)
    rate = args.sample_rate or transcriber.sample_rate
    speech = transcriber.stream(sample_rate=rate, language=args.language, options=decode_options(args))
    stream = CaptionStream(speech, translation)
    blocks = (
        pcm_blocks(pcm, round(args.chunk * rate))
        if pcm is not None
        else AudioStream(args.file, target_rate=rate, block_seconds=args.chunk)
    )
    started = time.monotonic()
    for block in blocks:
        _put_captions(stream.push(block), as_json=args.json)
    _put_captions(stream.finish(), as_json=args.json)
    wall_s, audio_s = time.monotonic() - started, stream.transcript.duration
    log().info("%.1f s of audio in %.2f s (%.1f times real time)", audio_s, wall_s, audio_s / wall_s if wall_s else 0)
    return OK


def _detect_language(args: argparse.Namespace) -> int:
    recordings, num_failed = find_recordings(args)
    if not recordings:
        return FAILED
    with opened(recordings) as audios:
        transcriber = load_transcriber(args, args.model)
        for audio in audios:
            try:
                detected: DetectedLanguage = transcriber.detect_language(audio)
            except ConfigError:
                raise
            except SpeechnarError as error:
                complain_of(name_of(audio), error, debug=args.debug)
                num_failed += 1
                continue
            if args.format == "json":
                probability = round(detected.probability, 4)
                put_json({"file": detected.file, "language": detected.language, "probability": probability})
            else:
                name = f"{one_line(detected.file)}: " if recordings != args.files[:1] else ""
                put(f"{name}{detected.language} {detected.probability:.4f}\n")
            flush()
    return FAILED if num_failed else OK


def _align(args: argparse.Namespace) -> int:
    transcript = load_transcriber(args, args.model).align(args.file, args.text, language=args.language)
    if args.format != "txt":
        put(_render(transcript, args.format))
        return OK
    for segment in transcript.segments:
        for word in segment.words or ():
            put(f"{word.start:.3f}\t{word.end:.3f}\t{word.word}\t{word.probability:.4f}\n")
    return OK


def _decode(args: argparse.Namespace) -> int:
    check_engine(args)
    if args.engine is not None:
        from speechnar.scale.stages import Decoding  # noqa: PLC0415

        stage = Decoding(
            model=args.model, out=parts_of(args.out), hyp=args.out.resolve(), task=args.task, language=args.language,
            options=decode_options(args), device=args.device, precision=args.precision, threads=args.threads,
        )  # fmt: skip
        return run_stage_of(args, stage, args.data_dir)
    from speechnar.evaluation.asr import decode_dir  # noqa: PLC0415

    transcriber = load_transcriber(args, args.model)
    options = decode_options(args)
    summary = decode_dir(transcriber, args.data_dir, args.out, task=args.task, language=args.language, options=options)
    put_json({**asdict(summary), "rtf": summary.rtf, "model": transcriber.name, "hyp": str(args.out)})
    return FAILED if summary.failed else OK


def _score(args: argparse.Namespace) -> int:
    from speechnar.evaluation.scores import score_dir  # noqa: PLC0415

    report = score_dir(args.data_dir, args.hyp, target=args.target, normalizer=args.normalizer)
    if args.json:
        put_json(report.to_dict())
    else:
        put(str(report))
    return OK


def _check_format(args: argparse.Namespace, num_recordings: int) -> None:
    if args.output_dir is not None:
        return
    if args.skip_existing:
        raise ConfigError("--skip-existing looks for results in a folder; say in which by -o DIR")
    if args.format == "all":
        raise ConfigError("-f all writes files; say where by -o DIR")
    if args.format in SINGLE_FILE_FORMATS and num_recordings > 1:
        raise ConfigError(
            f"-f {args.format} of {num_recordings} files needs -o DIR; stdout would hold one after another"
        )


def _check_captions(args: argparse.Namespace) -> None:
    given = _caption_limits(args)
    if not given:
        return
    if args.format not in ("srt", "vtt", "all"):
        raise ConfigError(f"lines of captions are laid out in -f srt and -f vtt, not in -f {args.format}")
    from speechnar.text.subtitles import lay_out  # noqa: PLC0415

    lay_out([], 0.0, **given)  # refuses what is out of range, before anything is decoded


def _caption_limits(args: argparse.Namespace) -> dict[str, int]:
    limits = {
        "max_line_width": args.max_line_width,
        "max_lines": args.max_lines,
        "max_words_per_line": args.words_per_line,
    }
    return {name: limit for name, limit in limits.items() if limit is not None}


def _put_transcript(transcript: "Transcript", args: argparse.Namespace, *, is_named: bool) -> None:
    if args.format == "txt" and is_named:
        put(f"{one_line(transcript.file)}: {one_line(transcript.text)}\n")
    else:
        put(_render(transcript, args.format, **_caption_limits(args)))


def _write_transcript(
    transcript: "Transcript", place: "ResultPlace", formats: Iterable["TranscriptFormat"], limits: dict[str, int]
) -> None:
    from speechnar.text.transcript import write_transcript  # noqa: PLC0415

    for name in formats:
        log().info("%s", write_transcript(transcript, name, place.folder, place.stem, **limits))


def _render(transcript: "Transcript", format: str, **caption_limits: int) -> str:
    text: str = getattr(transcript, f"to_{format}")(**caption_limits)
    return text


def _put_captions(updates: Iterable["CaptionUpdate"], *, as_json: bool) -> None:
    for update in updates:
        if as_json:
            values = {**asdict(update), "text": update.text}
            if update.translation is not None:
                values["translation"] = {**values["translation"], "text": update.translation.text}
            put_json(values)
        else:
            shown = update.translation or update
            put(f"{shown.stable}\t{shown.unstable}\n")
    flush()


VERBS = {
    "transcribe": Verb("speech to text", _describe_transcribe, _transcribe, repeated="files", epilog=MODELS_BY_NAME),
    "caption": Verb("live captions of speech, and their translation", _describe_caption, _caption),
    "detect-language": Verb("language and probability", _describe_detect_language, _detect_language, repeated="files"),
    "align": Verb("word times of a given text", _describe_align, _align),
    "decode": Verb("decode a Kaldi data directory", _describe_decode, _decode),
    "score": Verb("score a decoded data directory", _describe_score, _score),
}
