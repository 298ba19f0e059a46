"""Make one data directory of LibriSpeech parts; text stays upper case without punctuation, as the corpus has it."""

import argparse
from pathlib import Path

import soundfile

from speechnar.data.download import unpacked_corpus
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import DataError

# Utterances by part, after OpenSLR's SLR12.
SIZES = {
    "train-clean-100": 28539,
    "train-clean-360": 104014,
    "train-other-500": 148688,
    "dev-clean": 2703,
    "dev-other": 2864,
    "test-clean": 2620,
    "test-other": 2939,
}


def read_part(folder: Path) -> list[Utterance]:
    """Return the utterances of ``folder``: ``<reader>/<chapter>/<reader>-<chapter>.trans.txt`` and FLAC files."""
    utterances = []
    for transcript in sorted(folder.glob("*/*/*.trans.txt")):
        for number, line in enumerate(transcript.read_text(encoding="ascii").splitlines(), start=1):
            utt_id, _, text = line.partition(" ")
            wav_path = transcript.with_name(f"{utt_id}.flac").resolve()
            if not text.strip() or not wav_path.is_file():
                raise DataError(f"{transcript}:{number}: must be an id, its text, and beside it {wav_path.name}")
            spk_id = "-".join(utt_id.split("-")[:2])  # the chapter: readers change microphones between them
            utterances.append(Utterance(utt_id, wav_path, text, spk_id, soundfile.info(wav_path).duration, lang="eng"))
    return utterances


def main() -> None:
    """Write ``OUT``; missing parts and utterances are errors."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("corpus", type=Path, help="folder of the archives or of the unpacked parts")
    parser.add_argument("out", type=Path)
    parser.add_argument("parts", nargs="+", choices=SIZES)
    parser.add_argument("--unpack-to", type=Path, default=Path("downloads"))
    parser.add_argument("--incomplete", action="store_true", help="accept parts with other numbers of utterances")
    args = parser.parse_args()
    utterances: list[Utterance] = []
    for part in args.parts:
        archive = args.corpus / f"{part}.tar.gz"
        root = unpacked_corpus(archive if archive.is_file() else args.corpus, args.unpack_to, holds=part)
        found = read_part(root / part)
        if len(found) != SIZES[part] and not args.incomplete:
            raise DataError(f"{root / part}: must hold {SIZES[part]} utterances, got {len(found)}; unpack it again")
        utterances += found
    write_kaldi_dir(args.out, utterances)
    print(f"{args.out.name}: {len(utterances)} utterances, {sum(u.duration_s for u in utterances) / 3600:.1f} hours")


if __name__ == "__main__":
    main()
