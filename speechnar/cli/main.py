"""The command ``speechnar``: arguments for the public API, for training, and for decoding and scoring directories.

Results go to stdout and nothing else does; messages, progress and timing go to stderr. Exit status: 0 all well, 1 some
inputs failed (each named, the others done), 2 wrong usage. What is slow to import is imported by the verb that needs
it, and only the verb that is asked for is described in full, so that ``--help`` answers at once.
"""

import argparse
import atexit
import gc
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from speechnar import __version__
from speechnar.cli import asr, data, models, mt, recipe, serve, sound, tts
from speechnar.cli.interrupts import INTERRUPTED, interruptible
from speechnar.cli.options import FAILED, WRONG_USAGE, Verb, add_common
from speechnar.cli.output import STDOUT, close_stdout, complain, configure_logging, flush, open_streams
from speechnar.errors import ConfigError, ModelNotFoundError, SpeechnarError
from speechnar.store import OFFLINE

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]

COLLECTED_AFTER = 50_000
"""New objects between two searches for garbage: what imports and loading make is none, and looked through in vain."""

ENDED_AT_ONCE = ("transcribe", "detect-language", "align")
"""Verbs that leave nothing open: what they imported and loaded need not be taken apart."""

VERBS: dict[str, Verb] = {
    **asr.VERBS,
    **mt.VERBS,
    **tts.VERBS,
    **sound.VERBS,
    **serve.VERBS,
    **models.VERBS,
    **recipe.VERBS,
}
GROUPS: dict[str, tuple[str, dict[str, Verb]]] = {
    "data": ("prepare data directories", data.GROUP),
    "mt": ("decode and score directories of texts", mt.GROUP),
    "tts": ("decode and score speech of data directories; parts of synthesis", tts.GROUP),
    "sound": ("decode and score sound of data directories", sound.GROUP),
}
"""Verbs of two words, as ``data describe``: by the first one, what they do, and the second ones."""


def run() -> int:
    """Run the verb that the program was given, and return the exit status, or end the program with it.

    Taking torch apart lasts longer than recognising a sentence. What asked to be called at the end is called; where
    another thread lives, or a profiler or debugger watches, the program ends as others do.
    """
    status = main()
    is_alone = threading.active_count() == 1 and sys.getprofile() is None and sys.gettrace() is None
    if is_alone and sys.argv[1:2] and sys.argv[1] in ENDED_AT_ONCE:
        atexit._run_exitfuncs()
        try:
            flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            return status
        os._exit(status)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status."""
    gc.set_threshold(COLLECTED_AFTER)
    open_streams()
    given = sys.argv[1:] if argv is None else argv
    try:
        with interruptible():
            args = parse_arguments(build_parser(given), given)
            configure_logging(quiet=args.quiet)
            if getattr(args, "offline", False):
                os.environ[OFFLINE] = "1"
            if args.quiet:
                os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            verb: Verb = args.verb
            status = verb.run(args)
        flush()
    except SystemExit as leaving:  # argparse has printed its help or its complaint
        return leaving.code if isinstance(leaving.code, int) else WRONG_USAGE
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # whoever read stdout has left
        close_stdout()
        return FAILED
    except Exception as error:  # the last resort: one line for the user, a traceback on request
        if isinstance(error, OSError) and error.filename == STDOUT:
            close_stdout()
        if "--debug" in given:
            raise
        known = isinstance(error, SpeechnarError | OSError)
        complain(str(error) if known else f"internal error ({type(error).__name__}: {error}); see it whole by --debug")
        return WRONG_USAGE if isinstance(error, ConfigError | ModelNotFoundError) else FAILED
    return status


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """Parse like argparse, but also where options stand between files: ``transcribe a.wav -l en b.wav``."""
    args, rest = parser.parse_known_args(argv)
    verb: Verb = args.verb
    if verb.repeated is not None and not any(item.startswith("-") for item in rest):
        getattr(args, verb.repeated).extend(rest)
    elif rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return args


def build_parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Describe every verb in a line, and in full the one with which ``argv`` begins."""
    parser = argparse.ArgumentParser(
        prog="speechnar",
        description="Non-autoregressive speech recognition, translation and synthesis, and music and sound.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"speechnar {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_verbs(verbs, VERBS, argv)
    for name, (text, members) in GROUPS.items():
        group = verbs.add_parser(name, help=f"{text}: {', '.join(members)}", description=f"{text}.", allow_abbrev=False)
        if name in argv[:1]:
            _add_verbs(group.add_subparsers(title="verbs", required=True, metavar="VERB"), members, argv[1:])
    return parser


def _add_verbs(verbs: "Verbs", known: Mapping[str, Verb], argv: Sequence[str]) -> None:
    for name, verb in known.items():
        parser = verbs.add_parser(name, help=verb.help, description=verb.help, epilog=verb.epilog, allow_abbrev=False)
        if name in argv[:1]:
            add_common(parser)
            verb.describe(parser)
            parser.set_defaults(verb=verb)
