"""Make one data directory of LibriTTS parts; the text is the corpus' normalised one, with its punctuation.

With ``--voices`` the first clip of each reader that is long enough for a reference goes into a directory of its own.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import soundfile

from speechnar.data.download import unpacked_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError

REFERENCE_S = (3.0, 10.0)


def read_part(folder: Path) -> list[Utterance]:
    """Return the utterances of ``folder``: ``<reader>/<chapter>/<utterance>.normalized.txt``, and ``.wav`` beside it.

    Raises:
        DataError: a text is empty, a recording is missing, or there is none.
    """
    utterances = []
    for path in sorted(folder.glob("*/*/*.normalized.txt")):
        utt_id = path.name.removesuffix(".normalized.txt")
        text, wav_path = " ".join(path.read_text(encoding="utf-8").split()), path.with_name(f"{utt_id}.wav").resolve()
        if not text or not wav_path.is_file():
            raise DataError(f"{path}: must hold a text, and beside it must be {wav_path.name}")
        utterances.append(
            Utterance(utt_id, wav_path, text, utt_id.split("_")[0], soundfile.info(wav_path).duration, lang="eng")
        )
    if not utterances:
        raise DataError(f"{folder}: holds no utterance of LibriTTS")
    return utterances


def take_references(utterances: Iterable[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """Return a reference of each reader, and what is left of readers who have one."""
    references: dict[str, Utterance] = {}
    for utterance in utterances:
        if REFERENCE_S[0] <= utterance.duration_s <= REFERENCE_S[1]:
            references.setdefault(utterance.spk_id, utterance)
    taken = set(map(id, references.values()))
    return list(references.values()), [u for u in utterances if id(u) not in taken and u.spk_id in references]


def main() -> None:
    """Write ``OUT``."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="folder of the archives, or the unpacked LibriTTS")
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="+", help="such as train-clean-100")
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    parser.add_argument("--voices", type=Path, metavar="DIR")
    args = parser.parse_args()
    utterances: list[Utterance] = []
    for part in args.parts:
        archive = args.corpus / f"{part}.tar.gz"
        root = unpacked_corpus(archive if archive.is_file() else args.corpus, args.unpack_to, holds=part)
        utterances += read_part(root / part)
    if args.voices is not None:
        references, utterances = take_references(utterances)
        write_kaldi_dir(args.voices, references)
    write_kaldi_dir(args.out, utterances)
    print(f"{args.out.name}: {len(utterances)} utterances, {sum(u.duration_s for u in utterances) / 3600:.1f} hours")


if __name__ == "__main__":
    main()
