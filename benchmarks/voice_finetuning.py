"""What a voice gains from minutes of a new speaker: error rate as heard, distance from her recordings, time, memory.

The first minutes of a Kaldi data directory, in the order of its ids, are learnt from, the next ones choose the weights,
and texts behind these are read before and after, in as many steps. A recogniser hears both,
and the speaker's own recordings. What comes out is thrown away: her consent to a synthetic voice was not asked for.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.finetuning import split_minutes
from benchmarks.result import RESULTS, load_average
from speechnar.asr.options import DecodeOptions
from speechnar.asr.transcriber import Transcriber
from speechnar.audio.fbank import LogMel, LogMelConfig
from speechnar.audio.io import read_audio
from speechnar.config import parse_config
from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.errors import SpeechnarError
from speechnar.evaluation.tts import synthesize_data
from speechnar.files import replacing
from speechnar.metrics.error_rate import cer, wer
from speechnar.metrics.speech import mel_cepstra, mel_cepstral_distortion, warp
from speechnar.models.base import read_model_config
from speechnar.published import obtain_model
from speechnar.train.align_durations import align_dirs
from speechnar.train.run import RunConfig, run_training
from speechnar.tts.synthesizer import Synthesizer

RATE = 16000
BATCH_S = 28.0


def main() -> int:
    """Write ``voice_finetuning_NAME.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="Kaldi data directory of one speaker")
    parser.add_argument("--name", required=True)
    parser.add_argument("--judge", default="joint-asr", help="a recogniser; default: %(default)s")
    parser.add_argument("--model", default="ljspeech-tts")
    parser.add_argument("--minutes", type=float, default=10.0, help="learnt from; default: %(default)s")
    parser.add_argument("--dev-minutes", type=float, default=1.0)
    parser.add_argument("--texts", type=int, default=20)
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, help="folder that a run which was cut short goes on in")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = load_average()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        utterances = read_kaldi_dir(args.data)
        learnt, kept = split_minutes(utterances, args.minutes, args.dev_minutes)
        known = {one.text for one in (*learnt, *kept)}
        read = list({one.text: one for one in utterances if one.text not in known}.values())[: args.texts]
        folder = obtain_model(args.model)
        for name, chosen in (("learnt", learnt), ("kept", kept)):
            write_kaldi_dir(work / name, chosen)
        align_dirs(folder, [work / "learnt", work / "kept"])
        started, cpu = time.monotonic(), time.process_time()
        result = run_training(run_config(args, folder, work), work / "exp")
        minutes, cpu_minutes = (time.monotonic() - started) / 60, (time.process_time() - cpu) / 60
        peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        judge = Transcriber.load(args.judge, device="cpu", precision="fp32")
        systems = {"recorded": score(judge, read, None)}
        for name, model in (("before", folder), ("after", work / "exp" / "model")):
            synthesizer = Synthesizer.load(model, device="cpu", precision="fp32")
            synthesize_data(synthesizer, read, work / name, steps=args.steps)
            systems[name] = score(judge, read, work / name)
            print(name, json.dumps(systems[name]), flush=True)
    values = {
        "name": f"voice_finetuning_{args.name}",
        "what": f"{args.model} trained further on {args.name}, read in {args.steps} steps, heard by {judge.name}",
        "learnt_minutes": round(sum(one.duration_s for one in learnt) / 60, 2),
        "texts": len(read),
        "updates": result.step,
        "best_step": result.best_step,
        "minutes": round(minutes, 2),
        "cpu_minutes": round(cpu_minutes, 2),
        "peak_mib": round(peak_mib),
        "systems": systems,
        "threads": args.threads,
        "load_before": load,
        "load_after": load_average(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    args.output.mkdir(parents=True, exist_ok=True)
    with replacing(args.output / f"{values['name']}.json") as partial:
        partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(values))
    return 0


def run_config(args: argparse.Namespace, folder: Path, work: Path) -> RunConfig:
    """Return a short training that begins with the shipped voice."""
    schedule = {"kind": "cosine", "warmup_steps": max(args.updates // 10, 1), "total_steps": args.updates + 1}
    return parse_config(
        {
            "model": read_model_config(folder)[1],
            "data": {"train": work / "learnt", "dev": work / "kept", "batch_seconds": BATCH_S,
                     "speed_factors": [1.0], "gain_db": [0, 0]},
            "train": {"optim": {"lr": args.lr, "betas": [0.9, 0.95], "weight_decay": 0.05, "schedule": schedule},
                      "max_steps": args.updates, "validate_every": max(args.updates // 3, 1), "device": "cpu",
                      "save_every": max(args.updates // 6, 1), "clip_norm": 1.0, "log_every": 20},
            "tokenizer": folder,
            "init_from": folder,
        },
        RunConfig,
    )  # fmt: skip


def score(judge: Transcriber, read: Sequence[Utterance], folder: Path | None) -> dict[str, Any]:
    """Return error rates of what was read, as heard, and its mean mel-cepstral distortion from the recordings in dB."""
    clips = [read_utterance(one, RATE) for one in read]
    made = clips
    if folder is not None:
        made = [read_audio(folder / f"{one.utt_id}.wav", target_rate=RATE).samples for one in read]
    outcomes = list(judge.transcribe_many(made, sample_rate=RATE, language="eng", options=DecodeOptions(vad=False)))
    heard = ["" if isinstance(outcome, SpeechnarError) else outcome.text for outcome in outcomes]
    texts = [one.text for one in read]
    found: dict[str, Any] = {"wer": round(wer(texts, heard).rate, 4), "cer": round(cer(texts, heard).rate, 4)}
    if folder is not None:
        pairs = [(cepstra(clip), cepstra(other)) for clip, other in zip(clips, made, strict=True)]
        distances = [mel_cepstral_distortion(ours, theirs, warp(ours, theirs)) for ours, theirs in pairs]
        found["mcd_db"] = round(float(np.mean(distances)), 2)
    return found


def cepstra(samples: NDArray[np.float32]) -> NDArray[np.floating]:
    """Return mel-cepstra (T, C) of samples (S,)."""
    mels, _ = LogMel(LogMelConfig.for_vocoder(RATE))(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    return mel_cepstra(mels[0].double().numpy())


if __name__ == "__main__":
    sys.exit(main())
