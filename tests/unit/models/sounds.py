"""Sounds like voices, and batches of them, for tests of what codes speech."""

import numpy as np
import torch
from torch import Tensor

from speechnar.data.batch import SpeechBatch
from speechnar.text.tokenizer import CharTokenizer

RATE = 16000
LETTERS = CharTokenizer(("<blank>", "<unk>", "▁", *"abcd"))
TONES = {"a": (300, 2200), "b": (800, 1400), "c": (500, 3500), "d": (1800, 2800)}


def voice(num_samples: int, *, pitch_hz: float, formant_hz: float, sample_rate: int = 16000) -> Tensor:
    """Return (S,) harmonics of a moving pitch under two formants, which swell and fade, with breath."""
    generator = torch.Generator().manual_seed(int(pitch_hz * formant_hz))
    t = torch.arange(num_samples) / sample_rate
    phase = 2 * torch.pi * pitch_hz * (t + 0.02 * torch.sin(2 * torch.pi * 3 * t))
    wav = 0.01 * torch.randn(num_samples, generator=generator)
    for harmonic in range(1, 25):
        hz = harmonic * pitch_hz
        wav += torch.sin(harmonic * phase) / (1 + ((hz - formant_hz) / 200) ** 2) / (1 + ((hz - 2000) / 900) ** 2)
    swell = 0.55 + 0.45 * torch.sin(2 * torch.pi * 4 * t + pitch_hz)
    return 0.3 * swell * wav / wav.abs().max()


def voices(sizes: list[int], *, padding: float = 0.0, seed: int = 0, sample_rate: int = 16000) -> SpeechBatch:
    """Return utterances of ``sizes`` samples, each of another voice."""
    generator = torch.Generator().manual_seed(seed)
    wav = torch.full((len(sizes), max(sizes)), padding)
    for row, size in zip(wav, sizes, strict=True):
        pitch, formant = torch.rand(2, generator=generator).tolist()
        row[:size] = voice(size, pitch_hz=90 + 150 * pitch, formant_hz=400 + 500 * formant, sample_rate=sample_rate)
    ids, lens = torch.zeros(len(sizes), 1, dtype=torch.int64), torch.ones(len(sizes), dtype=torch.int64)
    valid = torch.ones(len(sizes), dtype=torch.bool)
    return SpeechBatch(
        wav=wav,
        wav_lens=torch.tensor(sizes),
        tokens=ids,
        token_lens=lens,
        asr_tokens=ids,
        asr_token_lens=lens,
        tokens_valid=valid,
        asr_valid=valid,
        utt_ids=tuple(f"voice{i}" for i in range(len(sizes))),
        sample_rate=sample_rate,
    )


def spell(text: str, rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """Return a sound of its own colour for each letter of `LETTERS`, and the seconds of each; ``▁`` is silence."""
    parts, seconds = [], []
    for token in LETTERS.encode(text):
        letter = LETTERS.piece_of(token)
        size = round(rng.uniform(0.04, 0.2) * RATE)
        times = np.arange(size) / RATE
        tones = [np.sin(2 * np.pi * tone * times) for tone in TONES.get(letter, ())]
        parts.append(0.1 * sum(tones, np.zeros(size)) + 1e-3 * rng.standard_normal(size))
        seconds.append(size / RATE)
    return np.concatenate(parts).astype(np.float32), seconds
