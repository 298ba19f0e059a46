"""The first thing to run: transcribe recorded speech in five languages with the shipped model.

The speech is the recipe's: prompts that its split holds out, so the model has never heard them. They come from a copy
of the corpus (``--corpus``, or ``asterisk`` under ``$SPEECHNAR_CORPORA``), else from Debian packages, else from the
project's archives. Where none can be reached, sounds made on the spot stand in.
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from speechnar import SpeechnarError, Transcriber, Transcript
from speechnar.data.download import find_corpus
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import DataError
from speechnar.hub import DEFAULT_MODEL
from speechnar.text.languages import name_of
from speechnar.text.transcript import write_transcript

LOCAL = Path(__file__).parent
LANGUAGES = ("eng", "spa", "fra", "ita", "rus")
PROMPTS = 2
"""Per language, the same ones in each."""
MIN_S, MAX_S, MIN_WORDS = 1.5, 8.0, 4
RATE = 16000
SENTENCES = {
    "eng": "please enter your password",
    "spa": "por favor introduzca su contraseña",
    "fra": "veuillez entrer votre mot de passe",
    "ita": "per favore inserisca la password",
    "rus": "пожалуйста введите пароль",
}
# Frequency and bandwidth in Hz of three resonances: a, i, u.
VOWELS = (
    ((730, 90), (1090, 110), (2440, 170)),
    ((270, 60), (2290, 100), (3010, 170)),
    ((300, 60), (870, 90), (2240, 170)),
)


@dataclass(frozen=True)
class Sample:
    """A recording in the output folder, and what is said in it where that is known."""

    path: Path
    lang: str
    text: str = ""


def main() -> int:
    """Return 1 where there is no model, or it cannot do what is shown here."""
    parser = argparse.ArgumentParser(description="Transcribe recorded speech with the shipped model.")
    parser.add_argument("--corpus", type=Path, help="folder of the unpacked Asterisk sounds")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or folder; default: %(default)s")
    parser.add_argument("--output-dir", type=Path, default=Path("quickstart"), help="default: %(default)s")
    args = parser.parse_args()
    try:
        transcriber = Transcriber.load(args.model)
        samples = get_samples(args.corpus, args.output_dir)
        show(transcriber, samples, args.output_dir)
        show_decoders(transcriber, samples[0])
        print(f"\nFiles: {args.output_dir.resolve()}")
        print(f"  {len(samples)} recordings, each with its transcript as .json and .srt")
    except SpeechnarError as error:
        print(f"quickstart: {error}", file=sys.stderr)
        return 1
    return 0


def show(transcriber: Transcriber, samples: list[Sample], folder: Path) -> None:
    """Transcribe every sample, and write the results beside them."""
    print(f"Model {transcriber.name}: the language is not told, it is detected.\n")
    transcripts = transcriber.transcribe([sample.path for sample in samples], word_timestamps=True)
    for sample, transcript in zip(samples, transcripts, strict=True):
        print(sample.path)
        if sample.text:
            print(f"  said      {sample.text}")
        print(f"  heard     {transcript.text or '(nothing)'}")
        print(f"  language  {describe_language(transcript)}")
        print(f"  words     {word_times(transcript)}")
        for kind in ("json", "srt"):
            write_transcript(transcript, kind, folder, sample.path.stem)


def show_decoders(transcriber: Transcriber, sample: Sample) -> None:
    """Transcribe a sample with every decoder, where there are several."""
    if len(transcriber.decoders) > 1:
        print(f"\nIts decoders: {sample.path}")
        for item in transcriber.compare(sample.path):
            print(f"  {item.decoder:<12}{item.transcript.text or '(nothing)'}  (real-time factor {item.rtf:.4f})")


def describe_language(transcript: Transcript) -> str:
    """Return the language and its probability."""
    if transcript.language_probability is None or transcript.language == "und":
        return "not detected"
    return f"{name_of(transcript.language)}, probability {transcript.language_probability:.2f}"


def word_times(transcript: Transcript) -> str:
    """Return every word with its start and end in seconds."""
    words = [word for segment in transcript.segments for word in segment.words or ()]
    return "  ".join(f"{word.word} {word.start:.2f}-{word.end:.2f}" for word in words) or "(none)"


def get_samples(corpus: Path | None, folder: Path) -> list[Sample]:
    """Return held-out prompts in every language, or sounds made here where the corpus cannot be had."""
    for source in corpora(corpus, folder / "downloads"):
        try:
            data = prepare(source, folder / "data")
            return [keep(utterance, folder) for utterance in held_out(data)]
        except DataError as error:
            print(f"{source} does not serve ({error})", file=sys.stderr)
    print("NO RECORDED SPEECH: the Asterisk sounds could not be had (see above). Give their folder by --corpus.")
    return list(stand_ins(folder))


def corpora(corpus: Path | None, downloads: Path) -> Iterator[Path]:
    """Yield folders that may hold the corpus; the last one is downloaded if it comes to that."""
    if corpus is not None:
        yield corpus
        return
    with suppress(DataError):
        yield find_corpus("asterisk")
    print("Fetching the Asterisk sounds (about 50 MB, once) ...", file=sys.stderr)
    try:
        run_local("fetch_asterisk.py", downloads)
    except DataError as error:
        print(f"no download: {error}", file=sys.stderr)
        return
    yield downloads


def prepare(corpus: Path, data: Path) -> Path:
    """Make the recipe's data directories unless they are there, and return that of the test set."""
    if not (data / "counts.json").is_file():  # it is written last
        print("Preparing the recipe's held-out prompts ...", file=sys.stderr)
        run_local("prepare_asterisk.py", corpus, data)
    return data / "test"


def run_local(script: str, *arguments: Path) -> None:
    """Run a script of the recipe.

    Raises:
        DataError: it fails; with the last line that it wrote.
    """
    command = [sys.executable, str(LOCAL / script), *map(str, arguments)]
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise DataError(f"{script}: {lines[-1]}")


def held_out(test_set: Path) -> list[Utterance]:
    """Return the same few sentences in each language.

    Raises:
        DataError: the test set is malformed or has no such sentences.
    """
    by_name: dict[str, dict[str, Utterance]] = {}
    for utterance in read_kaldi_dir(test_set):
        if MIN_S <= utterance.duration_s <= MAX_S and len(utterance.text.split()) >= MIN_WORDS:
            name = utterance.utt_id.removeprefix(f"{utterance.spk_id}-")
            by_name.setdefault(name, {})[str(utterance.lang)] = utterance
    complete = [found for _, found in sorted(by_name.items()) if found.keys() >= set(LANGUAGES)]
    if not complete:
        raise DataError(f"{test_set}: no prompt is there in all of {', '.join(LANGUAGES)}")
    return [found[lang] for lang in LANGUAGES for found in complete[:PROMPTS]]


def keep(utterance: Utterance, folder: Path) -> Sample:
    """Copy a recording to the output folder."""
    path = folder / f"{utterance.utt_id}{utterance.wav_path.suffix}"
    shutil.copyfile(utterance.wav_path, path)
    return Sample(path, str(utterance.lang), utterance.text)


def stand_ins(folder: Path) -> Iterator[Sample]:
    """Yield sentences of espeak-ng where it is installed, else vowels that only show that everything runs."""
    folder.mkdir(parents=True, exist_ok=True)
    speaker = shutil.which("espeak-ng")
    if speaker is None:
        print("Vowel-like sounds made here stand in: they show that the model runs, not what it can do.\n")
        for seed, lang in enumerate(LANGUAGES[:PROMPTS]):
            path = folder / f"vowels-{seed + 1}.wav"
            soundfile.write(path, vowels(seed), RATE)
            yield Sample(path, lang)
        return
    print("The voice of espeak-ng stands in: the model was not trained on it and may hear little.\n")
    for lang, sentence in SENTENCES.items():
        path = folder / f"espeak-{lang}.wav"
        voice = {"eng": "en", "spa": "es-419", "fra": "fr", "ita": "it", "rus": "ru"}[lang]
        subprocess.run([speaker, "-v", voice, "-w", str(path), sentence], check=True)
        yield Sample(path, lang, sentence)


def vowels(seed: int, seconds_each: float = 0.4) -> np.ndarray:
    """Return a few vowels (S,): a glottal pulse train through three resonances each."""
    rng = np.random.default_rng(seed)
    size = round(seconds_each * RATE)
    parts = []
    for formants in rng.permutation(np.asarray(VOWELS, dtype=float)):
        times = np.arange(size) / RATE
        decaying = [
            np.exp(-np.pi * width * times) * np.sin(2 * np.pi * frequency * times) for frequency, width in formants
        ]
        pulses = np.zeros(size)
        pulses[:: RATE // 120] = 1.0
        wav = np.convolve(pulses, sum(decaying))[:size] * np.hanning(size)
        parts += [0.3 * wav / np.abs(wav).max(), np.zeros(size // 4)]
    return np.concatenate(parts).astype(np.float32)


if __name__ == "__main__":
    sys.exit(main())
