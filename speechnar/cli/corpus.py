"""Whole corpora of speech to text: ``transcribe`` with a journal, here or on a Ray cluster."""

import argparse
from typing import TYPE_CHECKING

from speechnar.cli.options import FAILED, OK
from speechnar.cli.output import log, put
from speechnar.errors import ConfigError

if TYPE_CHECKING:
    from speechnar.asr.options import DecodeOptions

PART_FORMATS = ("jsonl", "parquet")


def add_corpus(parser: argparse.ArgumentParser) -> None:
    """Add how a corpus is gone through."""
    group = parser.add_argument_group("corpora (Kaldi directories, lhotse manifests, Shar or WebDataset tars, folders)")
    group.add_argument(
        "--engine", choices=("local", "ray"), help="with a journal in -o DIR, which the same command continues"
    )
    group.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster; default: RAY_ADDRESS, or this machine")
    group.add_argument("--workers", type=int, metavar="N", help="of Ray; default: one a GPU, or one a CPU")
    group.add_argument("--max-seconds", type=float, metavar="S", help="longer recordings are failures; default: 4 h")
    group.add_argument("--retry-failed", action="store_true", help="try again what failed before")


def find_engine(args: argparse.Namespace) -> str | None:
    """Return what goes through a corpus, if there is one among the inputs.

    Raises:
        ConfigError: an option of corpora is given and there is none.
    """
    from speechnar.data.corpus import is_corpus  # noqa: PLC0415

    engine: str | None = args.engine
    if engine is None and (args.format in PART_FORMATS or any(map(is_corpus, args.files))):
        engine = "local"
    if engine != "ray" and (args.address is not None or args.workers is not None):
        raise ConfigError("--address and --workers are of --engine ray; give that, or leave them out")
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
    from speechnar.scale.run import transcribe_corpus  # noqa: PLC0415
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
    report = transcribe_corpus(
        job, items, engine="ray" if engine == "ray" else "local",
        address=args.address, workers=args.workers, retry_failed=args.retry_failed,
    )  # fmt: skip
    log().info("%s", report)
    put(f"{args.output_dir}\n")
    return FAILED if report.num_failed else OK
