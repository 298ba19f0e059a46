"""Music and sound: generate; make sound of data directories, and score it."""

import argparse
import time
from dataclasses import replace
from pathlib import Path

from speechnar.cli.corpus import add_engine, check_engine, run_stage_of
from speechnar.cli.options import (
    OK,
    Verb,
    add_computing,
    add_loading,
    add_precision,
    add_seed,
    add_systems,
    set_threads,
)
from speechnar.cli.output import check_folder, log, put, stages_shown
from speechnar.hub import DEFAULT_MUSIC_MODEL


def _describe_generate(parser: argparse.ArgumentParser) -> None:
    add_loading(parser, DEFAULT_MUSIC_MODEL)
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="what to make, in words that the model knows; default: anything"
    )
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="audio file")
    parser.add_argument(
        "--seconds", type=float, default=10.0, metavar="S", help="how much is made; default: %(default)s"
    )
    parser.add_argument(
        "--steps",
        type=_steps,
        metavar="N[,N...]",
        help="evaluations of the network for a window, in all or in each codebook; default: the model's",
    )
    parser.add_argument("--guidance", type=float, metavar="W", help="weight of the prompt; default: the model's")
    add_seed(parser)
    parser.add_argument(
        "--continue", dest="continue_from", metavar="FILE", help="a recording to go on from; it comes first in OUT"
    )


def _describe_decode(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument(
        "out", type=Path, metavar="OUT", help="written there: <utterance id>.wav, codes.safetensors, joins.json"
    )
    parser.add_argument(
        "--system",
        choices=("generated", "coded"),
        default="generated",
        help="of the texts, or what the codec makes of the recordings",
    )
    parser.add_argument("--partner", type=Path, metavar="MODEL", help="an autoregressive model, for the next two")
    parser.add_argument("--rescore", action="store_true", help="it has a say in what is kept")
    parser.add_argument("--lead-seconds", type=float, default=0.0, metavar="S", help="it makes the first S seconds")
    parser.add_argument("--seconds", type=float, metavar="S", help="default: as long as each recording")
    parser.add_argument("--steps", type=int, metavar="N")
    add_seed(parser)
    add_computing(parser)
    add_precision(parser, "fp32")
    add_engine(parser)


def _describe_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("out", type=Path, metavar="OUT", help="written there: sound.json, utterances.jsonl")
    parser.add_argument("--judge", required=True, type=Path, metavar="FOLDER", help="a model of sound_classifier")
    parser.add_argument("--reference", required=True, type=Path, metavar="DATA_DIR", help="other recordings")
    parser.add_argument("--train", required=True, type=Path, metavar="DATA_DIR", help="what systems learned from")
    add_systems(parser)


def _steps(text: str) -> int | tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers like 30 or 16,6,4,4, got {text!r}") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _generate(args: argparse.Namespace) -> int:
    from speechnar.sound.generator import Generator  # noqa: PLC0415
    from speechnar.sound.options import GeneratorOptions  # noqa: PLC0415

    check_folder(Path(args.output).parent)
    set_threads(args.threads)
    generator = Generator.load(args.model, device=args.device, precision=args.precision)
    started = time.monotonic()
    with stages_shown() as progress:
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
    log().info("%s", args.output)
    log().info("%.1f s made in %.2f s (%.1f times real time)", args.seconds, wall_s, args.seconds / wall_s)
    return OK


def _decode(args: argparse.Namespace) -> int:
    from speechnar.data.kaldi import read_kaldi_dir  # noqa: PLC0415
    from speechnar.evaluation.sound import generate_data, recode_data  # noqa: PLC0415
    from speechnar.sound.generator import Generator  # noqa: PLC0415
    from speechnar.sound.options import GeneratorOptions  # noqa: PLC0415

    check_engine(args)
    set_threads(args.threads)
    options = GeneratorOptions(steps=args.steps, rescore=args.rescore, lead_seconds=args.lead_seconds)
    if args.engine is not None:
        from speechnar.scale.stages import Generating  # noqa: PLC0415

        stage = Generating(
            model=args.model.resolve(), out=args.out.resolve() / "parts", sounds=args.out.resolve(),
            coded=args.system == "coded", partner=None if args.partner is None else args.partner.resolve(),
            seconds=args.seconds, seed=args.seed, options=options,
            device=args.device, precision=args.precision, threads=args.threads,
        )  # fmt: skip
        return run_stage_of(args, stage, args.data_dir)
    utterances = read_kaldi_dir(args.data_dir)
    generator = Generator.load(args.model, device=args.device, precision=args.precision, partner=args.partner)
    if args.system == "coded":
        recode_data(generator, utterances, args.out)
        return OK
    rtf = generate_data(generator, utterances, args.out, seconds=args.seconds, seed=args.seed, options=options)
    log().info("%s: %d utterances, real-time factor %.3f", args.out, len(utterances), rtf)
    return OK


def _score(args: argparse.Namespace) -> int:
    from speechnar.evaluation.report import name_of, write_scores  # noqa: PLC0415
    from speechnar.evaluation.sound import score_sound  # noqa: PLC0415
    from speechnar.models.base import load_model  # noqa: PLC0415

    report, entries = score_sound(
        args.data_dir,
        dict(args.system),
        judge=replace(load_model(args.judge), name=name_of(args.judge)),
        reference=args.reference,
        training=args.train,
    )
    write_scores(args.out, "sound", report.to_dict(), entries)
    put(str(report))
    return OK


VERBS = {"generate": Verb("music and sound", _describe_generate, _generate)}
GROUP = {
    "decode": Verb("make sound of the texts of a data directory, or re-code its recordings", _describe_decode, _decode),
    "score": Verb("score made sound beside recordings", _describe_score, _score),
}
