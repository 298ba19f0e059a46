"""Measure anew what a machine like this can in minutes, and say where the documents differ from it.

``make reproduce`` runs the benchmarks behind the headline numbers, decodes and scores the test sets whose data
directories are here, writes their result files, and brings the tables up to date; ``git diff`` shows the rest. Scores
of the same weights on the same data come out the same; times depend on the machine.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.run import ROOT, run_module

TIMED: dict[str, tuple[str, ...]] = {
    "speed_decoders": ("--no_espnet",),
    "generating": (),
    "synthesis": (),
    "translation": (),
}
"""Benchmarks that take minutes, with their options."""


@dataclass(frozen=True)
class ScoredSet:
    """A test set of a shipped model, and where its result file is."""

    model: str
    data_dir: str
    """Below the recipe's folder, as its stages make it."""
    result: str
    """Below the recipes' folder."""

    @property
    def decoder(self) -> str:
        """As in the name of the result file."""
        return Path(self.result).stem.split(".")[2]

    @property
    def folder(self) -> Path:
        """Where the data directory is."""
        recipe = "/".join(self.result.split("/")[:2])
        return ROOT / "recipes" / recipe / self.data_dir


SCORED = tuple(
    ScoredSet("joint-asr", f"data/{name.replace('-', '/')}/test", f"joint/s2t/results/joint-asr/{name}.asr.ctc.json")
    for name in ("an4", "fsdd", "librispeech", "commonvoice-eng", "commonvoice-fra", "commonvoice-cmn", "asterisk")
)


def main() -> int:
    """Return 1 if something failed or a score came out otherwise than the documents say."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--only", choices=("speed", "scores"), help="default: both")
    only = parser.parse_args().only
    failed: list[str] = []
    if only != "speed":
        failed += [message for scored in SCORED if (message := rescore(scored))]
    if only != "scores":
        failed += [f"benchmarks.{name} failed" for name, options in TIMED.items() if run_module(name, list(options))]
    for message in failed:
        print(message, file=sys.stderr)
    return 1 if run_module("make_tables", []) or failed else 0


def rescore(scored: ScoredSet) -> str | None:
    """Decode and score a set anew; return what is wrong: a failure, or scores that differ from its result file's."""
    if not scored.folder.is_dir():
        print(f"{scored.result}: left out, {scored.folder.relative_to(ROOT)} is not here (stages 0 and 1 make it)")
        return None
    with TemporaryDirectory() as folder:
        hyp = Path(folder) / "hyp"
        decoded = speechnar("decode", scored.model, str(scored.folder), str(hyp), "--decoder", scored.decoder)
        report = speechnar("score", str(scored.folder), str(hyp), "--json") if decoded is not None else None
    if report is None:
        return f"{scored.result}: could not be decoded"
    path = ROOT / "recipes" / scored.result
    differing = list(differences(json.loads(path.read_text(encoding="utf-8")), json.loads(report)))
    path.write_text(report, encoding="utf-8")
    return f"{scored.result}: {', '.join(differing)}" if differing else None


def differences(known: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the languages and metrics whose rates are not those known, as ``eng wer 0.25 (was 0.2)``."""
    for lang in sorted({*known["languages"], *found["languages"]}):
        for metric in ("wer", "cer"):
            old, new = (report["languages"].get(lang, {}).get(metric, {}).get("rate") for report in (known, found))
            if new != old:
                yield f"{lang} {metric} {new} (was {old})"


def speechnar(*arguments: str) -> str | None:
    """Run a verb; return what it wrote to stdout, None if it failed."""
    command: Sequence[str] = [sys.executable, "-m", "speechnar", *arguments, "--quiet"]
    ran = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    return ran.stdout if ran.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
