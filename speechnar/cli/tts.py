"""Text to speech and edited speech: synthesize, edit; speak, edit and score data directories; what training needs."""

import argparse
import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from speechnar.cli.corpus import add_engine, check_engine, run_stage_of
from speechnar.cli.options import (
    OK,
    Verb,
    add_computing,
    add_precision,
    add_seed,
    add_systems,
    load_synthesizer,
    name_and_path,
    set_threads,
)
from speechnar.cli.output import check_folder, log, put, put_json
from speechnar.cli.stdin import stdin_text
from speechnar.errors import ConfigError
from speechnar.extras import require
from speechnar.hub import CONSENT, DEFAULT_MODEL, DEFAULT_TTS_MODEL


def _describe_synthesize(parser: argparse.ArgumentParser) -> None:
    _add_speaking(parser)
    _add_text_to_speak(parser)


def _describe_edit(parser: argparse.ArgumentParser) -> None:
    _add_speaking(parser)
    _add_words_to_change(parser)


def _describe_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="OUT", help="written there: <utterance id>.wav")
    parser.add_argument(
        "--system",
        choices=("synthesized", "vocoded", "coded"),
        default="synthesized",
        help="the texts spoken, or what the vocoder makes of the recordings' log-mels, or of those of their latents",
    )
    parser.add_argument("--voices", type=Path, metavar="DATA_DIR", help="a recording of each speaker, as the reference")
    parser.add_argument("--steps", type=int, metavar="N")
    add_seed(parser)
    add_computing(parser)
    add_precision(parser, "fp32")
    add_engine(parser)


def _describe_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="OUT", help="written there: speech.json, utterances.jsonl, log_mels/")
    parser.add_argument("--judge", required=True, metavar="MODEL", help="a recogniser not trained on any of this")
    parser.add_argument(
        "--heard",
        action="append",
        default=[],
        type=name_and_path,
        metavar="NAME=FILE",
        help="what another recogniser, called MODEL, made of each system: a Kaldi file of texts",
    )
    parser.add_argument("--verifier", required=True, type=Path, metavar="FOLDER", help="a model of speaker_verifier")
    add_systems(parser)
    parser.add_argument("--others", type=Path, metavar="DATA_DIR", help="recordings of other speakers")
    parser.add_argument("--language", default="eng", metavar="LANG")
    parser.add_argument("--normalizer", default="basic", metavar="NAME")


def _describe_decode_edits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument(
        "edits", type=Path, metavar="EDITS", help="lines of <utterance id>-<place>-<kind> and all that is to be said"
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="written there: <edit>.wav, edits.jsonl")
    parser.add_argument("--steps", type=int, metavar="N")
    parser.add_argument("--candidates", type=int, default=8, metavar="N", help="default: %(default)s")
    add_seed(parser)
    add_computing(parser)
    add_precision(parser, "fp32")


def _describe_score_edits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, metavar="OUT", help="of decode-edits")
    parser.add_argument("heard", type=Path, metavar="HEARD", help="lines of <edit> and what a recogniser wrote of it")
    parser.add_argument("--judge", required=True, metavar="NAME", help="who heard it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the report there")


def _describe_fit_codec(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML of the text-to-speech run")
    parser.add_argument("out", type=Path, metavar="OUT", help="the model folder to write")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="change the configuration")


def _describe_fit_letters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="path without extension; default: the package")
    parser.add_argument("--epochs", type=int, default=12, metavar="N", help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=128, metavar="WORDS", help="default: %(default)s")
    parser.add_argument("--lr", type=float, default=4e-3, help="default: %(default)s")


def _add_speaking(parser: argparse.ArgumentParser) -> None:
    add_computing(parser)
    add_precision(parser)
    parser.add_argument(
        "-m", "--model", default=DEFAULT_TTS_MODEL, help="shipped name, folder or owner/name; default: %(default)s"
    )
    parser.add_argument(
        "--recognizer", default=DEFAULT_MODEL, metavar="MODEL", help="what listens to recordings; default: %(default)s"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="evaluations of the network for a block; default: the model's, or 16"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")


def _add_text_to_speak(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "text", metavar="TEXT", help="what is to be spoken, of any length, plain or SSML; - reads it from stdin"
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="audio file; - writes raw PCM to stdout, see --stream")
    parser.add_argument("--voice", metavar="REF", help="a clip of up to 15 s, in whose voice to speak")
    parser.add_argument("--voice-text", metavar="T", help="what is said there; default: it is transcribed")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="0.5 to 2; default: %(default)s")
    parser.add_argument(
        "--emoji", choices=("skipped", "named"), default="skipped", help="in the text; default: %(default)s"
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="write to stdout while it is being spoken: mono, 16 bits, little endian, at the model's rate",
    )


def _add_words_to_change(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="mono")
    parser.add_argument(
        "--text", required=True, metavar="NEW", help="all that is to be said; only what differs is spoken anew"
    )
    parser.add_argument("--old-text", metavar="OLD", help="all that is said, up to 30 s; default: it is transcribed")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="audio file")
    parser.add_argument(
        "--candidates", type=int, default=8, metavar="N", help="made of each change; default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="write the changes to stdout, an object per line")


def _synthesize(args: argparse.Namespace) -> int:
    is_streamed = args.stream or args.output == "-"
    if is_streamed and args.output not in (None, "-"):
        raise ConfigError("--stream writes to stdout; leave out -o, or give -o -")
    if not is_streamed and args.output is None:
        raise ConfigError("say where the speech goes: -o OUT.wav, or --stream for raw PCM on stdout")
    if is_streamed and sys.stdout.isatty():
        raise ConfigError("raw PCM is not for a terminal; pipe stdout into a player, or write a file by -o OUT.wav")
    text = stdin_text() if args.text == "-" else args.text
    if args.voice is not None:
        log().warning("%s", CONSENT)
    from speechnar.tts.options import SynthesizeOptions  # noqa: PLC0415

    if not is_streamed:
        check_folder(Path(args.output).parent)
    options = SynthesizeOptions(steps=args.steps, speed=args.speed, emoji=args.emoji)
    synthesizer = load_synthesizer(args)
    started = time.monotonic()
    if is_streamed:
        from speechnar.audio.io import to_int16  # noqa: PLC0415

        num_samples = 0
        parts = synthesizer.stream(text, voice=args.voice, voice_text=args.voice_text, seed=args.seed, options=options)
        log().info("mono, 16 bits, little endian, %d samples per second", synthesizer.sample_rate)
        for part in parts:
            sys.stdout.buffer.write(to_int16(part).astype("<i2").tobytes())
            sys.stdout.buffer.flush()
            num_samples += len(part)
    else:
        speech = synthesizer.synthesize(
            text, voice=args.voice, voice_text=args.voice_text, seed=args.seed, options=options
        )
        speech.save(args.output)
        num_samples = len(speech.samples)
        log().info("%s", args.output)
    wall_s, audio_s = time.monotonic() - started, num_samples / synthesizer.sample_rate
    log().info("%.1f s of speech in %.2f s (%.1f times real time)", audio_s, wall_s, audio_s / wall_s if wall_s else 0)
    return OK


def _edit(args: argparse.Namespace) -> int:
    from speechnar.tts.options import EditOptions  # noqa: PLC0415

    log().warning("%s", CONSENT)
    check_folder(Path(args.output).parent)
    options = EditOptions(steps=args.steps, candidates=args.candidates)
    edited = load_synthesizer(args).edit(
        args.file,
        args.text,
        old_text=args.old_text,
        seed=args.seed,
        options=options,
    )
    edited.save(args.output)
    for change in edited.changes:
        if args.json:
            put_json(asdict(change))
        log().info(
            "%.2f to %.2f s %r is now %.2f to %.2f s %r",
            *(change.old_start, change.old_end, change.old_text, change.new_start, change.new_end, change.new_text),
        )
    if not edited.changes:
        log().info("the words are the same, nothing is changed")
    return OK


def _decode(args: argparse.Namespace) -> int:
    from speechnar.data.kaldi import read_kaldi_dir  # noqa: PLC0415
    from speechnar.evaluation.tts import load_tts, resynthesize_data, synthesize_data  # noqa: PLC0415
    from speechnar.tts.synthesizer import Synthesizer  # noqa: PLC0415

    check_engine(args)
    set_threads(args.threads)
    if args.engine is not None:
        from speechnar.scale.stages import Speaking  # noqa: PLC0415

        stage = Speaking(
            model=args.model.resolve(), out=args.out.resolve() / "parts", sounds=args.out.resolve(),
            system=None if args.system == "synthesized" else args.system,
            voices=None if args.voices is None else args.voices.resolve(), steps=args.steps, seed=args.seed,
            device=args.device, precision=args.precision, threads=args.threads,
        )  # fmt: skip
        return run_stage_of(args, stage, args.data_dir)
    utterances = read_kaldi_dir(args.data_dir)
    if args.system != "synthesized":
        resynthesize_data(
            load_tts(args.model, device=args.device, precision=args.precision), utterances, args.out, args.system
        )
        return OK
    synthesizer = Synthesizer.load(args.model, device=args.device, precision=args.precision)
    voices = [] if args.voices is None else read_kaldi_dir(args.voices)
    rtf = synthesize_data(synthesizer, utterances, args.out, voices=voices, steps=args.steps, seed=args.seed)
    log().info("%s: %d utterances, real-time factor %.3f", args.out, len(utterances), rtf)
    return OK


def _score(args: argparse.Namespace) -> int:
    require("eval", "librosa.sequence", "matplotlib.figure")
    from speechnar.asr.transcriber import Transcriber  # noqa: PLC0415
    from speechnar.evaluation.report import name_of, read_texts, write_scores  # noqa: PLC0415
    from speechnar.evaluation.tts import Heard, score_speech  # noqa: PLC0415
    from speechnar.models.base import load_model  # noqa: PLC0415

    judge: Transcriber | Heard
    if args.heard:
        judge = Heard(args.judge, {name: read_texts(path) for name, path in args.heard})
    else:
        judge = Transcriber.load(args.judge, precision="fp32")
    report, entries = score_speech(
        args.data_dir,
        dict(args.system),
        judge=judge,
        verifier=load_model(args.verifier),
        others=args.others,
        language=args.language,
        normalizer=args.normalizer,
        plots=args.out / "log_mels",
    )
    report = replace(report, judge=name_of(args.judge), verifier=name_of(args.verifier))
    write_scores(args.out, "speech", report.to_dict(), entries)
    put(str(report))
    return OK


def _decode_edits(args: argparse.Namespace) -> int:
    from speechnar.data.kaldi import read_kaldi_dir  # noqa: PLC0415
    from speechnar.evaluation.edits import make_edits  # noqa: PLC0415
    from speechnar.evaluation.report import read_texts  # noqa: PLC0415
    from speechnar.tts.synthesizer import Synthesizer  # noqa: PLC0415

    set_threads(args.threads)
    make_edits(
        Synthesizer.load(args.model, device=args.device, precision=args.precision),
        read_kaldi_dir(args.data_dir),
        read_texts(args.edits),
        args.out,
        steps=args.steps,
        seed=args.seed,
        candidates=args.candidates,
    )
    return OK


def _score_edits(args: argparse.Namespace) -> int:
    from speechnar.evaluation.edits import read_edits, score_edits  # noqa: PLC0415
    from speechnar.evaluation.report import read_texts  # noqa: PLC0415

    report = score_edits(read_edits(args.out), read_texts(args.heard), judge=args.judge)
    put(str(report))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="utf-8")
    return OK


def _fit_codec(args: argparse.Namespace) -> int:
    from speechnar.config import load_config  # noqa: PLC0415
    from speechnar.train.fit_codec import fit_codec  # noqa: PLC0415
    from speechnar.train.run import RunConfig  # noqa: PLC0415

    fit_codec(load_config(args.config, RunConfig, args.overrides), args.out)
    return OK


def _fit_letters(args: argparse.Namespace) -> int:
    from speechnar.text.letter_to_sound import WEIGHTS_PATH  # noqa: PLC0415
    from speechnar.train.letter_to_sound import fit  # noqa: PLC0415

    scores = fit(args.out or WEIGHTS_PATH, num_epochs=args.epochs, batch_size=args.batch_size, lr=args.lr)
    log().info("%s", scores)
    return OK


VERBS = {
    "synthesize": Verb("text to speech", _describe_synthesize, _synthesize, epilog=CONSENT),
    "edit": Verb("change the words of recorded speech", _describe_edit, _edit, epilog=CONSENT),
}
GROUP = {
    "decode": Verb("speak the texts of a Kaldi data directory, or re-code its recordings", _describe_decode, _decode),
    "score": Verb("score synthetic speech beside recordings of the same texts", _describe_score, _score),
    "decode-edits": Verb("edit the recordings of a data directory by a list", _describe_decode_edits, _decode_edits),
    "score-edits": Verb("score such edits by what a recogniser heard", _describe_score_edits, _score_edits),
    "fit-codec": Verb("fit a tokenizer of latents to the data of a run", _describe_fit_codec, _fit_codec, "overrides"),
    "fit-letters": Verb("train the pronunciation of unlisted words", _describe_fit_letters, _fit_letters),
}
