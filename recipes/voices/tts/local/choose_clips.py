"""Choose the clips of a data directory that sound well enough to learn a voice from: by DNSMOS, and by their length.

What DNSMOS thinks is kept in a table, ``<utterance id> <overall>``, and asked once: the command may be stopped and
started again, and another floor costs nothing.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.errors import DataError

RATE = 16000
SECONDS = (1.0, 15.0)
WORDS_PER_SECOND = (0.7, 6.0)
"""Outside, the text is not what is said, or half of the clip is silence."""


def is_usable(utterance: Utterance) -> bool:
    """Tell whether a clip is as long as one that is learned from, and its text fits."""
    low, high = WORDS_PER_SECOND
    rate = len(utterance.text.split()) / utterance.duration_s
    return SECONDS[0] <= utterance.duration_s <= SECONDS[1] and low <= rate <= high


def read_opinions(path: Path) -> dict[str, float]:
    """Return what is known, by utterance.

    Raises:
        DataError: a line is malformed, but for a last one that was cut off.
    """
    known: dict[str, float] = {}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if not line.endswith("\n"):
            break
        if len(fields) != 2:
            raise DataError(f"{path}:{number}: must be an utterance and a number, got {line[:60]!r}")
        known[fields[0]] = float(fields[1])
    return known


def judge(utterances: Iterable[Utterance], known: dict[str, float], path: Path) -> None:
    """Ask DNSMOS for each clip that is not ``known`` yet, and write down each answer as it comes."""
    missing = [utterance for utterance in utterances if utterance.utt_id not in known]
    if not missing:
        return
    from speechnar.evaluation.judges import Dnsmos  # noqa: PLC0415  # an extra

    dnsmos = Dnsmos()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{name} {value:.4f}\n" for name, value in known.items()), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file:
        for utterance in missing:
            known[utterance.utt_id] = dnsmos.judge(read_utterance(utterance, RATE)).overall
            file.write(f"{utterance.utt_id} {known[utterance.utt_id]:.4f}\n")
            file.flush()


def main() -> None:
    """Write ``OUT``, and say what was left out."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--opinions", type=Path, required=True, help="the table, extended if need be")
    parser.add_argument("--floor", type=float, required=True, help="least overall opinion, from 1 to 5")
    args = parser.parse_args()
    utterances = read_kaldi_dir(args.data_dir)
    usable = [utterance for utterance in utterances if is_usable(utterance)]
    known = read_opinions(args.opinions)
    judge(usable, known, args.opinions)
    chosen = [utterance for utterance in usable if known[utterance.utt_id] >= args.floor]
    if not chosen:
        raise DataError(f"{args.data_dir}: no clip has an opinion of {args.floor:g}; give another --dnsmos_floor")
    write_kaldi_dir(args.out, chosen)
    hours, speakers = sum(utterance.duration_s for utterance in chosen) / 3600, {one.spk_id for one in chosen}
    print(f"{args.out.name}: {len(chosen)} utterances, {hours:.2f} hours, {len(speakers)} speakers")
    print(f"left out: {len(utterances) - len(usable)} too short, too long or of another text, "
          f"{len(usable) - len(chosen)} below {args.floor:g}")  # fmt: skip


if __name__ == "__main__":
    main()
