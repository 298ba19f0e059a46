"""What is no speech, a hundred times: silences, noises, hums, clicks, beeps and music, the same on every call."""

from collections.abc import Callable, Iterator

import numpy as np

RATE = 16000
SECONDS = 3.0
LEVELS_DB = (-60, -50, -40, -32, -25, -18, -12, -6, -3, 0)
"""Of the peak, dBFS."""

Wave = np.ndarray
Maker = Callable[[np.random.Generator, Wave], Wave]
"""Makes a sound of any level at these times (S,), in seconds."""


def no_speech() -> Iterator[tuple[str, Wave]]:
    """Yield the name and the samples (S,) of each: every kind at every level, no two of them alike."""
    times = np.arange(round(SECONDS * RATE)) / RATE
    for seed, (kind, make) in enumerate(MAKERS.items()):
        for turn, level_db in enumerate(LEVELS_DB):
            wav = make(np.random.default_rng((seed, turn)), times)
            peak = max(np.abs(wav).max(), 1e-9)
            yield f"{kind} at {level_db} dB", (wav * (10 ** (level_db / 20) / peak)).astype(np.float32)


def _coloured(slope: float) -> Maker:
    """Return noise whose power falls with the frequency to the power of ``slope``."""

    def make(rng: np.random.Generator, times: Wave) -> Wave:
        hz = np.fft.rfftfreq(len(times), 1 / RATE)
        hz[0] = hz[1]
        return np.fft.irfft(np.fft.rfft(rng.standard_normal(len(times))) * hz ** (-slope / 2), len(times))

    return make


def _silence(rng: np.random.Generator, times: Wave) -> Wave:
    """Return nothing but the last bit, in half of the cases."""
    return rng.integers(0, 2) * rng.integers(0, 2, len(times)) * 1e-12


def _hum(rng: np.random.Generator, times: Wave) -> Wave:
    return sum(np.sin(2 * np.pi * 50 * k * times + rng.uniform(0, 6)) / k for k in range(1, 8))


def _clicks(rng: np.random.Generator, times: Wave) -> Wave:
    clicks = np.zeros(len(times))
    clicks[rng.integers(0, len(times), rng.integers(3, 40))] = 1
    return np.convolve(clicks, 0.9 ** np.arange(100))[: len(times)]


def _beeps(rng: np.random.Generator, times: Wave) -> Wave:
    return np.sin(2 * np.pi * rng.uniform(300, 1500) * times) * ((times * rng.uniform(1, 4)) % 1 < 0.5)


def _chord(rng: np.random.Generator, times: Wave) -> Wave:
    root_hz = rng.uniform(110, 440)
    notes = (root_hz * ratio * harmonic for ratio in (1, 5 / 4, 3 / 2) for harmonic in (1, 2, 3))
    return sum(np.sin(2 * np.pi * hz * times) for hz in notes)


def _melody(rng: np.random.Generator, times: Wave) -> Wave:
    """Return four plucked notes a second."""
    since = times % 0.25
    hz = 220 * 2 ** (rng.integers(0, 24, 1 + int(4 * SECONDS))[(4 * times).astype(int)] / 12)
    return sum(np.sin(2 * np.pi * k * hz * since) / k for k in (1, 2, 3, 4)) * np.exp(-8 * since)


def _drums(rng: np.random.Generator, times: Wave) -> Wave:
    return rng.standard_normal(len(times)) * np.exp(-30 * (times % rng.uniform(0.2, 0.5)))


MAKERS: dict[str, Maker] = {
    "silence": _silence,
    "white noise": _coloured(0),
    "pink noise": _coloured(1),
    "brown noise": _coloured(2),
    "hum": _hum,
    "clicks": _clicks,
    "beeps": _beeps,
    "chord": _chord,
    "melody": _melody,
    "drums": _drums,
}
