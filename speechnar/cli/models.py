"""Which models there are: list them, fetch them, take them out again."""

import argparse

from speechnar.cli.options import FAILED, OK, Verb, add_offline
from speechnar.cli.output import complain_of, log, put, put_json
from speechnar.errors import SpeechnarError


def _describe_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one object per line")


def _describe_pull(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="owner/name[@revision] on the Hugging Face hub")
    add_offline(parser)


def _describe_remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="owner/name, with @revision only that one")


def _models(args: argparse.Namespace) -> int:
    from speechnar.hub import list_models  # noqa: PLC0415
    from speechnar.published import published_models  # noqa: PLC0415

    present = {info.name: info for info in list_models()}
    known = {model.name: model for model in published_models()}
    sources: list[str] = []
    rows = []
    for name in [*present, *(name for name in known if name not in present)]:
        info, published = present.get(name), known.get(name)
        error, source = (published.error, published.error_source) if published else ("", "")
        if source and source not in sources:
            sources.append(source)
        mark = f" [{sources.index(source) + 1}]" if source and not args.json else ""
        tasks = info.tasks if info and info.tasks else published.tasks if published else ()
        languages = info.languages if info and info.languages else published.languages if published else ()
        row = {
            "name": name,
            "kind": info.kind if info else published.kind if published else "",
            "task": ", ".join(tasks),
            "size": f"{info.num_bytes / 1e6:.1f} MB" if info else f"{published.size} parameters" if published else "",
            "languages": ", ".join(languages) or "?",
            "licence": (info.license if info else "") or (published.license if published else "") or "?",
            "error": f"{error}{mark}" or "?",
            "from": info.source if info else "hub",
            "present": "yes" if info else "no",
        }
        if args.json and published:
            row |= {"error_source": source, "checked_with": published.checked_with}
        rows.append(row)
    if args.json:
        for row in rows:
            put_json(row)
        return OK
    header = {key: key for key in rows[0]}
    widths = {key: max(len(row[key]) for row in [header, *rows]) for key in header}
    for row in [header, *rows]:
        put("  ".join(f"{row[key]:<{widths[key]}}" for key in header).rstrip() + "\n")
    for number, source in enumerate(sources, 1):
        put(f"[{number}] {source}\n")
    return OK


def _pull(args: argparse.Namespace) -> int:
    from speechnar.interop.pull import pull_model  # noqa: PLC0415

    num_failed = 0
    for name in args.names:
        try:
            put(f"{pull_model(name)}\n")
        except SpeechnarError as error:
            complain_of(name, error, debug=args.debug)
            num_failed += 1
    return FAILED if num_failed else OK


def _remove(args: argparse.Namespace) -> int:
    from speechnar import store  # noqa: PLC0415
    from speechnar.hub import parse_address  # noqa: PLC0415

    num_failed = 0
    for name in args.names:
        try:
            num_bytes = store.remove(parse_address(name))
            log().info("%s: %.1f MB freed", name, num_bytes / 1e6)
        except SpeechnarError as error:
            complain_of(name, error, debug=args.debug)
            num_failed += 1
    return FAILED if num_failed else OK


VERBS = {
    "models": Verb("the models on this machine, and those known to work by name", _describe_models, _models),
    "pull": Verb("fetch models of the hub, converted, or again as they are now", _describe_pull, _pull, "names"),
    "remove": Verb("take fetched models out of the cache", _describe_remove, _remove, "names"),
}
