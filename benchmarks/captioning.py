"""How far live captions are behind the speaker: recorded speech, pushed as fast as it was spoken.

A chunk is pushed when its last sample has been spoken, or as soon as the chunks before it are done; an update's lag is
from then, the last sample, to when there is something to show. Whatever the chunks, what captions say in the end must
be what the same utterances give as clips, to the last word: the recording ends within speech.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.memory import recordings
from benchmarks.result import RESULTS, load_average, write_result
from benchmarks.streaming import RATE, TEST_SETS, Wave, cut, join
from speechnar import CaptionStream, SpeechnarError, Transcriber, Translator
from speechnar.asr.options import DecodeOptions
from speechnar.asr.recordings import utterances
from speechnar.decode.vad import Endpointer

CHUNKS_S = (1.0, 0.5, 0.2)


def main() -> int:
    """Caption in all chunk sizes; exit status 1 without recorded speech, or if words are lost or changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="name or folder; default: the package's")
    parser.add_argument("--translator", help="name or folder of a model that translates the captions; default: none")
    parser.add_argument("--data", type=Path, help="Kaldi data directory; default: a test set of recipes/joint/s2t")
    parser.add_argument("--seconds", type=float, default=60.0, help="speech to caption (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="5 s of speech")
    parser.add_argument("--output", type=Path, default=RESULTS, help="default: %(default)s")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clips = [path for folder in ([args.data] if args.data else TEST_SETS) for path in recordings(folder)]
    if not clips:
        print("no recorded speech; make it by recipes/joint/s2t/run.sh --stop_stage 1, or name a directory by --data")
        return 1
    load = load_average()
    try:
        transcriber = Transcriber.load(*([args.model] if args.model else []), device="cpu")
        translator = Translator.load(args.translator, device="cpu") if args.translator else None
    except SpeechnarError as error:
        print(error)
        return 1
    wav, ends_s = join(clips, 5.0 if args.quick else args.seconds)
    wav = wav[: round(ends_s[-1] * RATE)]
    expected = clip_texts(transcriber, wav)
    stream = new_stream(transcriber, translator)
    stream.push(wav)
    stream.finish()
    sides = [time_captions(transcriber, translator, wav, chunk_s) for chunk_s in CHUNKS_S]
    texts = [stream.transcript.text, *(side.pop("text") for side in sides)]
    num_same = sum(text == expected for text in texts)
    write_result(
        "captioning",
        what="live captions of speech, pushed as it is spoken: seconds from a chunk's end to its update (median_s)",
        threads=args.threads,
        runs=1,
        load_before=load,
        a={**sides[0], "cases": sides},
        b=sides[-1],
        result="; ".join(shown(side) for side in sides)
        + f"; {num_same} of {len(texts)} texts, one of them pushed at once, are those of the utterances as clips",
        note=f"model {transcriber.name}, {translator.name if translator else 'no translation'}; "
        f"{len(ends_s)} recordings, {len(wav) / RATE:.0f} s, the last word at the end",
        folder=args.output,
    )
    return int(num_same < len(texts))


def new_stream(transcriber: Transcriber, translator: Translator | None) -> CaptionStream:
    """Start a recording."""
    return CaptionStream(transcriber.stream(sample_rate=RATE), None if translator is None else translator.stream())


def clip_texts(transcriber: Transcriber, wav: Wave) -> str:
    """Return the text of a recording whose utterances are decoded as clips, one by one."""
    endpointer = Endpointer(utterances(DecodeOptions().window_s))
    ends = [heard for heard in [*endpointer.push(wav), *endpointer.finish()] if heard.is_over]
    texts = [transcriber.transcribe(wav[heard.begin : heard.end], sample_rate=RATE).text for heard in ends]
    return " ".join(text for text in texts if text)


def time_captions(transcriber: Transcriber, translator: Translator | None, wav: Wave, chunk_s: float) -> dict[str, Any]:
    """Caption a recording as it is spoken, after a second of it that does not count."""
    new_stream(transcriber, translator).push(wav[:RATE])
    stream = new_stream(transcriber, translator)
    lags: list[float] = []
    busy_s = spoken_s = 0.0
    num_updates = num_erased = 0
    started = time.perf_counter()
    for chunk in (*cut(wav, chunk_s), None):
        spoken_s += 0.0 if chunk is None else len(chunk) / RATE
        time.sleep(max(started + spoken_s - time.perf_counter(), 0.0))
        begun = time.perf_counter()
        updates = stream.finish() if chunk is None else stream.push(chunk)
        done = time.perf_counter()
        busy_s += done - begun
        if updates:
            lags.append(done - started - spoken_s)
        num_updates += len(updates)
        num_erased += sum(update.erased for update in updates)
    return {
        "label": f"chunks of {1000 * chunk_s:g} ms",
        "median_s": round(statistics.median(lags), 4) if lags else 0.0,
        "p95_s": round(float(np.percentile(lags, 95)), 4) if lags else 0.0,
        "max_s": round(max(lags, default=0.0), 4),
        "rtf": round(busy_s / spoken_s, 4),
        "audio_s": round(spoken_s, 2),
        "wall_s": round(time.perf_counter() - started, 2),
        "updates": num_updates,
        "words": len(stream.transcript.text.split()),
        "erased": num_erased,
        "text": stream.transcript.text,
    }


def shown(side: dict[str, Any]) -> str:
    """Return the numbers of one side for a table."""
    return (
        f"{side['label']}: {1000 * side['median_s']:.0f} ms behind, 95 % within {1000 * side['p95_s']:.0f} ms, longest "
        f"{1000 * side['max_s']:.0f} ms, real-time factor {side['rtf']:.3f}, {side['erased']} words taken back for "
        f"{side['words']} said"
    )


if __name__ == "__main__":
    sys.exit(main())
