"""Run the benchmarks, each in its own process, and bring the tables of the documents up to date.

``make bench`` runs all; ``benchmarks/run.py memory`` one, and what follows ``--`` is passed on to it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BENCHMARKS = (
    *("memory", "word_times", "speed_decoders", "hotwords", "streaming", "captioning", "synthesis"),
    *("translation", "music", "generating", "serving", "cold_start", "products"),
)


def main() -> int:
    """Return 1 if a benchmark failed; the others are run all the same."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; default: all")
    ours, passed_on = sys.argv[1:], []
    if "--" in ours:
        at = ours.index("--")
        ours, passed_on = ours[:at], ours[at + 1 :]
    names = parser.parse_args(ours).names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    failed = [name for name in names if run_module(name, passed_on)]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if run_module("make_tables", []) or failed else 0


def run_module(name: str, arguments: list[str]) -> int:
    """Run ``benchmarks/<name>.py`` from the repository's root and return its exit status."""
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
