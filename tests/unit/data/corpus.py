"""A corpus of tones: small enough to make in every test, of known durations and texts."""

from pathlib import Path

import numpy as np
import soundfile

from speechnar.data.kaldi import Utterance, write_kaldi_dir

RATE = 16000
WORDS = ("one", "two", "three", "four", "five", "six", "seven")
LANGUAGES = ("eng", "fra")


def make_utterances(folder: Path, count: int = 24, *, seconds: float = 0.3) -> list[Utterance]:
    """Write tones of ``seconds`` to three times that, and return them as utterances that alternate languages."""
    folder.mkdir(parents=True, exist_ok=True)
    utterances = []
    for i in range(count):
        path = folder / f"tone{i:02d}.wav"
        duration_s = seconds * (1 + i % 3)
        time_s = np.arange(round(duration_s * RATE)) / RATE
        soundfile.write(path, 0.1 * np.sin(2 * np.pi * (200 + 20 * i) * time_s), RATE)
        lang = LANGUAGES[i % 2]
        other = LANGUAGES[1 - i % 2]
        utterances.append(
            Utterance(
                utt_id=f"spk{i % 2}-tone{i:02d}",
                wav_path=path,
                text=" ".join(WORDS[: 1 + i % len(WORDS)]),
                spk_id=f"spk{i % 2}",
                duration_s=len(time_s) / RATE,
                lang=lang,
                translations={other: " ".join(reversed(WORDS[: 1 + i % len(WORDS)]))} if i % 4 else {},
                prev_text="seven six" if i % 5 == 0 else None,
            )
        )
    return sorted(utterances, key=lambda utterance: utterance.utt_id)


def make_data_dir(folder: Path, count: int = 24) -> list[Utterance]:
    """Write ``folder`` as a data directory with its audio beside it."""
    utterances = make_utterances(folder.with_name(f"{folder.name}-audio"), count)
    write_kaldi_dir(folder, utterances)
    return utterances
