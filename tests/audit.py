"""Pinned versions that are known to be vulnerable: what pip-audit tells, from a copy of its data instead of a network.

    python -m tests.audit CLONE [LOCK]

CLONE is a working copy of pypa/advisory-database, LOCK a file of pinned versions, ``requirements/lock.txt`` by default.
Source: "Open Source Vulnerability format", section "Evaluation", https://ossf.github.io/osv-schema.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from speechnar.plain_yaml import parse_yaml

LOCK = Path(__file__).parents[1] / "requirements" / "lock.txt"
_PINNED = re.compile(r"([\w.-]+)==([^\s;]+)")


def pinned(lock: str) -> list[tuple[str, Version]]:
    """Return every name with each of its versions, whatever Python it is for."""
    found = (_PINNED.match(line) for line in lock.splitlines())
    return [(canonicalize_name(match[1]), Version(match[2])) for match in found if match]


def is_affected(version: Version, affected: Mapping[str, Any]) -> bool:
    """Tell whether ``affected`` of an advisory lists the version, or one of its ranges holds it."""
    if str(version) in map(str, affected.get("versions") or ()):
        return True
    ranges = [r for r in affected.get("ranges") or () if r["type"] == "ECOSYSTEM"]
    return any(_holds(r["events"], version) for r in ranges)


def _holds(events: list[dict[str, Any]], version: Version) -> bool:
    inside = False
    for kind, bound in sorted((pair for event in events for pair in event.items()), key=lambda pair: _version(pair[1])):
        if version >= _version(bound) and kind in ("introduced", "fixed"):
            inside = kind == "introduced"
        elif version > _version(bound):  # last_affected
            inside = False
    return inside


def _version(text: object) -> Version:
    try:
        return Version(str(text))
    except InvalidVersion:
        return Version("0")


def audit(clone: Path, lock: str) -> Iterator[str]:
    """Yield a line for every advisory that holds of a pinned version.

    Raises:
        FileNotFoundError: CLONE is no copy of the database.
    """
    if not (clone / "vulns").is_dir():
        raise FileNotFoundError(f"{clone}: must hold the folder vulns of pypa/advisory-database")
    folders = {canonicalize_name(folder.name): folder for folder in (clone / "vulns").iterdir()}
    for name, version in pinned(lock):
        for path in sorted(folders[name].glob("*.yaml")) if name in folders else ():
            advisory = parse_yaml(path.read_text(encoding="utf-8"))
            assert isinstance(advisory, dict)
            if "withdrawn" not in advisory and any(is_affected(version, a) for a in advisory.get("affected") or ()):
                yield f"{name} {version}: {advisory['id']} {' '.join(advisory.get('aliases') or ())}"


def main() -> int:
    """Audit the pinned versions; return whether anything is known of them."""
    clone, *lock = map(Path, sys.argv[1:])
    text = (lock or [LOCK])[0].read_text(encoding="utf-8")
    found = list(audit(clone, text))
    num_advisories = sum(1 for _ in clone.glob("vulns/*/*.yaml"))
    print(*found, f"{len(found)} of {num_advisories} advisories hold of {len(pinned(text))} pinned versions", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
