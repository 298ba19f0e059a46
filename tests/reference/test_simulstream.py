"""Lagging of random streams against simulstream (``pip install simulstream``), an implementation by others."""

import random

import pytest

from speechnar.metrics.simultaneous import StreamedSentence, Update, average_lagging, delays

stream_laal = pytest.importorskip(
    "simulstream.metrics.scorers.latency.stream_laal", reason="needs simulstream, which is not installed"
)


@pytest.mark.slow
def test_length_adaptive_average_lagging():
    rng = random.Random(0)
    for _ in range(2000):
        num_source, words = rng.randint(1, 30), [f"w{i}" for i in range(rng.randint(1, 30))]
        updates = []
        for num_read in range(1, num_source + 1):
            shown = words[: min(len(words), round(num_read * len(words) / num_source))]
            if shown and rng.random() < 0.4:
                shown[rng.randrange(len(shown))] = "wrong"
            updates.append(Update(num_read, tuple(shown)))
        when = delays(StreamedSentence(num_source, (*updates, Update(num_source, tuple(words)))))
        ref_len = rng.randint(1, 35)
        expected = stream_laal.StreamLaal._sentence_level_laal(when, num_source, ref_len)
        assert average_lagging(when, num_source, max(len(words), ref_len)) == pytest.approx(expected, abs=1e-9)
