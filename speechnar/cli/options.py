"""What verbs are, and the options they share, with what these options load."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from speechnar.errors import ConfigError
from speechnar.hub import DEFAULT_MODEL, DEFAULT_MT_MODEL, Precision

if TYPE_CHECKING:
    from speechnar.asr.options import DecodeOptions
    from speechnar.asr.transcriber import Transcriber
    from speechnar.mt.translator import Translator
    from speechnar.tts.synthesizer import Synthesizer

OK, FAILED, WRONG_USAGE = 0, 1, 2
DECODERS = ("ctc", "cassnat", "paraformer", "refiner", "transformer_ar")


@dataclass(frozen=True)
class Verb:
    """One thing that the command does."""

    help: str
    """What, in a few words."""
    describe: Callable[[argparse.ArgumentParser], None]
    """Adds its arguments to its parser."""
    run: Callable[[argparse.Namespace], int]
    """Does it and returns the exit status. What is slow to import is imported there."""
    repeated: str | None = None
    """The last positional argument, where options may stand between its values."""
    epilog: str | None = None


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add what every verb has."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("-q", "--quiet", action="store_true", help="only warnings and errors on stderr")


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Add what the computation runs on."""
    parser.add_argument("-d", "--device", default="auto", help="auto, cpu, cuda, cuda:1 ...; default: %(default)s")
    add_threads(parser)


def add_precision(parser: argparse.ArgumentParser, default: Precision = "auto") -> None:
    """Add what the model computes in; scores of a recipe are those of ``fp32``, on any machine."""
    help_text = "auto: the fastest here that makes no more errors; default: %(default)s"
    parser.add_argument("--precision", choices=get_args(Precision), default=default, help=help_text)


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add the number of threads."""
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; default: all cores")


def add_loading(parser: argparse.ArgumentParser, model: str | None = DEFAULT_MODEL, shown: str = "%(default)s") -> None:
    """Add which model is loaded, and where; ``shown`` is what the help says of the default."""
    add_computing(parser)
    add_precision(parser)
    parser.add_argument(
        "-m",
        "--model",
        default=model,
        help=f"shipped name, folder or owner/name[@revision] of the hub (see speechnar models); default: {shown}",
    )
    add_offline(parser)


def add_offline(parser: argparse.ArgumentParser) -> None:
    """Add that no hub is asked, as HF_HUB_OFFLINE=1 says."""
    parser.add_argument("--offline", action="store_true", help="use only models that are on this machine")


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Add the seed."""
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")


def add_direction(parser: argparse.ArgumentParser) -> None:
    """Add the languages of a translation."""
    parser.add_argument("--source", required=True, metavar="LANG", help="ISO 639-3")
    parser.add_argument("--target", required=True, metavar="LANG", help="ISO 639-3")


def add_systems(parser: argparse.ArgumentParser) -> None:
    """Add systems that are scored beside each other."""
    parser.add_argument("--system", action="append", default=[], type=name_and_path, metavar="NAME=FOLDER")


def name_and_path(text: str) -> tuple[str, Path]:
    """Return the two sides of ``NAME=PATH``, for argparse."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"must look like NAME=PATH, got {text!r}")
    return name, Path(path)


def add_searching(parser: argparse.ArgumentParser) -> None:
    """Add how the decoder searches."""
    parser.add_argument("--decoder", choices=DECODERS, help="default: the model's own, ctc where it has one")
    parser.add_argument(
        "--num-alignments", type=int, metavar="N", help="cassnat: alignments to sample and rank; default: the best path"
    )
    parser.add_argument(
        "--beam-size", type=int, metavar="N", help="default: best path; 16 with --lm, --hotwords or words"
    )
    parser.add_argument("--lm", type=Path, metavar="FILE", help="n-gram language model (ARPA, may be gzip)")
    parser.add_argument("--lm-weight", type=float, metavar="W", help="of --lm; default: 0.5")
    parser.add_argument(
        "--word-weight",
        type=float,
        metavar="W",
        help="of the lists of words in a model's folder; 0: without, the best path; default: 0.3 where there are some",
    )
    parser.add_argument("--plain", action="store_true", help="lower case without punctuation")
    parser.add_argument("--batch-seconds", type=float, metavar="S", help="decoded together; default: 30, on a GPU 120")
    parser.add_argument(
        "--pad",
        action=argparse.BooleanOptionalAction,
        help="pad clips to 30 s, or do not; default: as the model was trained (the published OWSM-CTC: pad)",
    )


def refuse(args: argparse.Namespace, what: str, *groups: Callable[[argparse.ArgumentParser], None]) -> None:
    """Complain of options of ``groups`` that were given though they do not go with ``what``.

    Raises:
        ConfigError: with their names.
    """
    parser = argparse.ArgumentParser(add_help=False)
    for add in groups:
        add(parser)
    defaults = vars(parser.parse_args([]))
    wrong = [name for name, value in defaults.items() if getattr(args, name) != value]
    if wrong:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in wrong)
        raise ConfigError(f"{options} cannot be used with {what}; leave that out")


def load_transcriber(args: argparse.Namespace, model: str) -> "Transcriber":
    """Load a model that transcribes."""
    from speechnar.asr.transcriber import Transcriber  # noqa: PLC0415

    set_threads(args.threads)
    return Transcriber.load(model, device=args.device, precision=args.precision)


def load_synthesizer(args: argparse.Namespace) -> "Synthesizer":
    """Load the model that speaks, and the one that listens."""
    from speechnar.tts.synthesizer import Synthesizer  # noqa: PLC0415

    set_threads(args.threads)
    return Synthesizer.load(args.model, device=args.device, precision=args.precision, recognizer=args.recognizer)


def load_translator(args: argparse.Namespace, model: str | None) -> "Translator":
    """Load a model that translates text; None is the usual one."""
    from speechnar.mt.translator import Translator  # noqa: PLC0415

    set_threads(args.threads)
    return Translator.load(model or DEFAULT_MT_MODEL, device=args.device, precision=args.precision)


def decode_options(args: argparse.Namespace, **more: Any) -> "DecodeOptions":
    """Return what `add_searching` was told, and ``more``."""
    from speechnar.asr.options import DecodeOptions  # noqa: PLC0415

    names = (
        "decoder",
        "num_alignments",
        "beam_size",
        "lm",
        "lm_weight",
        "word_weight",
        "plain",
        "batch_seconds",
        "pad",
    )
    searching = {name: getattr(args, name) for name in names}
    return DecodeOptions(**searching, **more)


def set_threads(threads: int | None) -> None:
    """Limit the threads of torch.

    Raises:
        ConfigError: there is to be less than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    import torch  # noqa: PLC0415

    torch.set_num_threads(threads)
