"""What verbs that hear are given: files, folders, patterns and stdin; and where what they make of it goes."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

from speechnar.cli.output import check_folder, complain, log
from speechnar.cli.stdin import stdin_recording
from speechnar.errors import ConfigError

if TYPE_CHECKING:
    from speechnar.asr.results import ResultPlace
    from speechnar.audio.source import AudioInput

GIVEN = "a recording; a folder of them; a pattern like 'talks/**/*.mp3'; - is stdin"


def find_recordings(args: argparse.Namespace) -> tuple[list[str], int]:
    """Return the recordings that are meant by ``args.files``, and how many of these hold none, of which it complains.

    Raises:
        ConfigError: stdin is to be read twice.
    """
    from speechnar.audio.listing import STDIN, list_recordings  # noqa: PLC0415  # neither help nor text needs it

    if args.files.count(STDIN) > 1:
        raise ConfigError("stdin (-) can be read only once; name it once")
    listing = list_recordings(args.files)
    for fault in listing.faults:
        complain(str(fault))
    return list(listing.recordings), len(listing.faults)


@contextmanager
def opened(recordings: Sequence[str]) -> Iterator[list["AudioInput"]]:
    """Give recordings as what can be heard: stdin is read, all else is left to whoever hears it."""
    from speechnar.audio.listing import STDIN  # noqa: PLC0415

    with ExitStack() as stack:
        yield [stack.enter_context(stdin_recording()) if path == STDIN else path for path in recordings]


def name_of(audio: "AudioInput") -> str:
    """Return what messages call one of the recordings that are `opened`."""
    return audio if isinstance(audio, str) else str(getattr(audio, "name", audio))


def place_results(
    recordings: Sequence[str], args: argparse.Namespace, formats: Sequence[str]
) -> dict[str, "ResultPlace"]:
    """Return where the results of recordings lie below ``args.output_dir``, without those that are to be skipped.

    Raises:
        ConfigError: two recordings would have one place.
    """
    from speechnar.asr.results import ResultPlaces  # noqa: PLC0415

    places = ResultPlaces(args.output_dir)
    found = {path: places.of(path) for path in recordings}
    owners: dict[ResultPlace, str] = {}
    for path, place in found.items():
        if (other := owners.setdefault(place, path)) != path and not _is_same(other, path):
            raise ConfigError(f"{other} and {path} would both be written to {place.path(formats[0])}; rename one")
    chosen = {path: found[path] for path in owners.values()}
    if args.skip_existing:
        num_all = len(chosen)
        chosen = {
            path: place for path, place in chosen.items() if not all(place.path(name).is_file() for name in formats)
        }
        log().info("%d of %d have their results already", num_all - len(chosen), num_all)
    return chosen


def make_output_dir(args: argparse.Namespace) -> None:
    """See that results can be written where ``-o`` says, before anything is read.

    Raises:
        SpeechnarError: they cannot.
    """
    with suppress(OSError):  # which is told next
        args.output_dir.mkdir(parents=True, exist_ok=True)
    check_folder(args.output_dir)


def _is_same(path: str, other: str) -> bool:
    from speechnar.audio.listing import place_of  # noqa: PLC0415

    return place_of(path) == place_of(other)
