"""How exact word times are, on recordings whose word boundaries are known by construction.

Short held-out prompts of one speaker are joined with pauses of random length. Where a prompt begins and ends is then
known, and within it where its energy begins and ends: these are the true start of its first and the true end of its
last word (of the same word, where it has one). Words inside a prompt have no such reference and are not counted.
"""

import argparse
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.memory import TEST_SET
from benchmarks.result import RESULTS, load_average, write_result
from speechnar import SpeechnarError, Transcriber, Transcript, Word
from speechnar.audio.io import read_audio
from speechnar.data.kaldi import Utterance, read_kaldi_dir

RATE = 16000
MAX_WORDS, MAX_PROMPT_S, MAX_CLIP_S = 4, 3.0, 20.0
PAUSE_S = (0.3, 0.8)
FRAME = RATE // 100
# Speech is what comes within this of a prompt's loudest frame; the prompts are studio recordings.
FLOOR_DB = -40.0
TOLERANCE_S = 0.1

Wave = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Boundary:
    """The true time of the start or the end of one word of a clip."""

    word: int
    side: str
    """``start`` or ``end``."""
    time_s: float


@dataclass(frozen=True)
class Clip:
    """Prompts joined with pauses, their words, and the boundaries known."""

    wav: Wave
    lang: str
    words: tuple[str, ...]
    boundaries: tuple[Boundary, ...]


def main() -> int:
    """Measure `Transcriber.align` on the reference text, and `Transcriber.transcribe` on the words it gets right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="name or folder; default: the package's")
    parser.add_argument("--data", type=Path, default=TEST_SET, help="Kaldi data directory")
    parser.add_argument("--max-clips", type=int, help="default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = load_average()
    transcriber = Transcriber.load(*([args.model] if args.model else []), device="cpu")
    try:
        clips = list(assemble(read_kaldi_dir(args.data)))[: args.max_clips]
    except SpeechnarError as error:
        print(f"{error}; make the data by recipes/asterisk/s2t/run.sh --stop_stage 1, or name them by --data")
        return 1
    aligned: list[float] = []
    recognized: list[float] = []
    total = 0
    for clip in clips:
        total += len(clip.boundaries)
        text = " ".join(clip.words)
        aligned += errors(clip, transcriber.align(clip.wav, text, sample_rate=RATE, language=clip.lang))
        transcript = transcriber.transcribe(clip.wav, sample_rate=RATE, language=clip.lang, word_timestamps=True)
        recognized += errors(clip, transcript)
    sides = [summary("align, given the text", aligned), summary("transcribe, words it gets right", recognized)]
    write_result(
        "word_times",
        what="absolute error of word starts and ends (median_s is this error) on joined held-out prompts",
        threads=args.threads,
        runs=1,
        load_before=load,
        a=sides[0],
        b=sides[1],
        result="; ".join(f"{side['label']}: {shown(side)}" for side in sides),
        note=f"model {transcriber.name}; {len(clips)} clips, {total} boundaries; "
        f"truth: energy within {-FLOOR_DB:g} dB of a prompt's maximum",
        folder=args.output,
    )
    return 0


def assemble(utterances: Sequence[Utterance], seed: int = 0) -> Iterator[Clip]:
    """Join the short utterances of each speaker, in an order fixed by the seed, to clips of up to 20 seconds."""
    rng = np.random.default_rng(seed)
    by_speaker: dict[tuple[str, str], list[Utterance]] = defaultdict(list)
    for utterance in utterances:
        if utterance.duration_s <= MAX_PROMPT_S and len(utterance.text.split()) <= MAX_WORDS and utterance.lang:
            by_speaker[utterance.lang, utterance.spk_id].append(utterance)
    for (lang, _), group in sorted(by_speaker.items()):
        waiting: list[Utterance] = []
        for index in rng.permutation(len(group)):
            if sum(u.duration_s + PAUSE_S[1] for u in [*waiting, group[index]]) > MAX_CLIP_S:
                yield join(waiting, lang, rng)
                waiting = []
            waiting.append(group[index])
        if waiting:
            yield join(waiting, lang, rng)


def join(utterances: Sequence[Utterance], lang: str, rng: np.random.Generator) -> Clip:
    """Put a pause before and behind every utterance, whose own silence at the edges is cut off."""
    parts: list[Wave] = [pause(rng)]
    words: list[str] = []
    boundaries: list[Boundary] = []
    for utterance in utterances:
        wav = read_audio(utterance.wav_path, target_rate=RATE).samples
        first, last = speech_span(wav)
        at_s = sum(map(len, parts)) / RATE
        boundaries.append(Boundary(len(words), "start", at_s))
        words += utterance.text.split()
        boundaries.append(Boundary(len(words) - 1, "end", at_s + (last - first) / RATE))
        parts += [wav[first:last], pause(rng)]
    return Clip(np.concatenate(parts), lang, tuple(words), tuple(boundaries))


def pause(rng: np.random.Generator) -> Wave:
    """Return faint noise, as of a quiet room."""
    return (1e-4 * rng.standard_normal(round(rng.uniform(*PAUSE_S) * RATE))).astype(np.float32)


def speech_span(wav: Wave) -> tuple[int, int]:
    """Return the first sample of the first loud frame of 10 ms and the sample behind the last one."""
    frames = wav[: len(wav) // FRAME * FRAME].reshape(-1, FRAME)
    power = np.square(frames.astype(np.float64)).mean(1)
    loud = np.flatnonzero(power > power.max(initial=0.0) * 10 ** (FLOOR_DB / 10))
    return (int(loud[0]) * FRAME, (int(loud[-1]) + 1) * FRAME) if len(loud) else (0, len(wav))


def errors(clip: Clip, transcript: Transcript) -> list[float]:
    """Return the absolute error in seconds of every boundary whose word the transcript has in its place."""
    found: list[Word] = [word for segment in transcript.segments for word in segment.words or ()]
    matcher = SequenceMatcher(a=clip.words, b=[word.word for word in found], autojunk=False)
    place = {
        block.a + offset: found[block.b + offset]
        for block in matcher.get_matching_blocks()
        for offset in range(block.size)
    }
    return [
        abs(getattr(place[boundary.word], boundary.side) - boundary.time_s)
        for boundary in clip.boundaries
        if boundary.word in place
    ]


def summary(label: str, found: Sequence[float]) -> dict[str, str | float | int]:
    """Return the numbers of one side."""
    within = sum(error <= TOLERANCE_S for error in found)
    return {
        "label": label,
        "median_s": round(statistics.median(found), 4) if found else 0.0,
        "boundaries": len(found),
        "within_100ms": round(within / len(found), 4) if found else 0.0,
    }


def shown(side: dict[str, str | float | int]) -> str:
    """Return the numbers of one side for a table."""
    if not side["boundaries"]:
        return "no word right"
    median_ms, share = 1000 * float(side["median_s"]), 100 * float(side["within_100ms"])
    return f"median {median_ms:.0f} ms, {share:.1f} % within 100 ms ({side['boundaries']} boundaries)"


if __name__ == "__main__":
    sys.exit(main())
