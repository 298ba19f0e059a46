"""Whole corpora of speech to text: ``transcribe`` with a journal, here or on a Ray cluster."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from speechnar.cli.options import FAILED, OK
from speechnar.cli.output import log, put
from speechnar.errors import ConfigError

if TYPE_CHECKING:
    from speechnar.asr.options import DecodeOptions
    from speechnar.scale.stages import Stage

PART_FORMATS = ("jsonl", "parquet")


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add how a corpus is gone through."""
    group = parser.add_argument_group("corpora (Kaldi directories, lhotse manifests, Shar or WebDataset tars, folders)")
    _add_engine(group, "with a journal in -o DIR, which the same command continues")
    group.add_argument("--max-seconds", type=float, metavar="S", help="longer recordings are failures; default: 4 h")
    group.add_argument("--retry-failed", action="store_true", help="try again what failed before")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add on what a stage of a recipe runs."""
    group = parser.add_argument_group("in units, with a journal")
    _add_engine(group, "goes on where it was killed; default: all at once, in this process")


def _add_engine(group: argparse._ArgumentGroup, of_engine: str) -> None:
    group.add_argument("--engine", choices=("local", "ray"), help=of_engine)
    group.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster; default: RAY_ADDRESS, or this machine")
    group.add_argument("--workers", type=int, metavar="N", help="of Ray; default: one a GPU, or one a CPU")


def check_engine(args: argparse.Namespace) -> None:
    """Refuse options of Ray without it.

    Raises:
        ConfigError: there are some.
    """
    if args.engine != "ray" and (args.address is not None or args.workers is not None):
        raise ConfigError("--address and --workers are of --engine ray; give that, or leave them out")


def parts_of(target: Path) -> Path:
    """Return the folder of the journal of a stage that writes ``target``."""
    return target.resolve().with_name(f"{target.name}.parts")


def run_stage_of(args: argparse.Namespace, stage: "Stage", data_dir: Path) -> int:
    """Do a stage of a recipe on the engine that ``args`` name; return the exit status."""
    check_engine(args)
    from speechnar.data.kaldi import read_kaldi_dir  # noqa: PLC0415
    from speechnar.scale.stages import run_stage  # noqa: PLC0415

    report = run_stage(stage, read_kaldi_dir(data_dir), engine=args.engine, address=args.address, workers=args.workers)
    log().info("%s: %s", data_dir, report)
    return FAILED if report.num_failed else OK


def find_engine(args: argparse.Namespace) -> str | None:
    """Return what goes through a corpus, if there is one among the inputs.

    Raises:
        ConfigError: an option of corpora is given and there is none.
    """
    from speechnar.data.corpus import is_corpus  # noqa: PLC0415

    engine: str | None = args.engine
    if engine is None and (args.format in PART_FORMATS or any(map(is_corpus, args.files))):
        engine = "local"
    check_engine(args)
    if engine is None and (args.max_seconds is not None or args.retry_failed):
        raise ConfigError("--max-seconds and --retry-failed are for corpora; give --engine local or ray")
    return engine


def transcribe_corpora(
    args: argparse.Namespace, engine: str, options: "DecodeOptions", formats: tuple[str, ...]
) -> int:
    """Go through the corpora that ``args`` name, and put the folder of the results; return the exit status."""
    if args.output_dir is None:
        raise ConfigError("a corpus has a journal beside its results; say where by -o DIR")
    from speechnar.data.corpus import read_corpus  # noqa: PLC0415
    from speechnar.scale.run import run_job  # noqa: PLC0415
    from speechnar.scale.transcribing import MAX_SECONDS, TranscribingJob  # noqa: PLC0415

    job = TranscribingJob(
        model=args.model,
        out=args.output_dir.resolve(),
        formats=formats,
        language=args.language,
        word_timestamps=args.word_timestamps,
        options=options,
        device=args.device,
        precision=args.precision,
        threads=args.threads,
        max_seconds=MAX_SECONDS if args.max_seconds is None else args.max_seconds,
    )
    items = read_corpus(args.files)
    report = run_job(
        job, items, engine="ray" if engine == "ray" else "local",
        address=args.address, workers=args.workers, retry_failed=args.retry_failed,
    )  # fmt: skip
    log().info("%s", report)
    put(f"{args.output_dir}\n")
    return FAILED if report.num_failed else OK
