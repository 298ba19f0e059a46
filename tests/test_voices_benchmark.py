"""The benchmark of voices: what it counts and times."""

import argparse

import numpy as np
import pytest

from benchmarks import voices
from speechnar.data.kaldi import Utterance
from speechnar.errors import DataError


def test_a_system_is_timed_text_by_text():
    spoken: list[str] = []

    def speak(text):
        spoken.append(text)
        yield np.zeros(2400, dtype=np.float32)
        yield np.zeros(2400, dtype=np.float32)

    made = voices.time_system(speak, ["a", "b"], 24000)
    assert spoken == ["a", "a", "b"], "the first one once more, which does not count"
    assert made.audio_s == pytest.approx(0.4) and len(made.first_s) == 2
    assert [len(wav) for wav in made.wavs] == [3200, 3200]
    assert 0 < made.first_s[0] <= made.wall_s


def test_what_is_right_is_so_however_it_is_written():
    assert voices.is_right("It costs $3.50.", "it costs three dollars and fifty cents")
    assert not voices.is_right("lazy dog", "lazy ball")


def test_similarity_is_with_other_recordings_of_the_speaker(tmp_path):
    clips = [Utterance(name, tmp_path, "x", name[0], 1.0, lang="eng") for name in ("a1", "a2", "b1")]
    axes = list(np.eye(3, dtype=np.float32))
    assert voices.similarity([axes[1], axes[1], axes[2]], axes, clips) == 0.5
    assert voices.similarity(axes[2:], axes[2:], clips[2:]) is None


def test_texts_are_needed_and_peers_that_are_not_given_are_named():
    args = argparse.Namespace(data=None, texts=None, sentences=None, kokoro_voice=None, flite=None)
    with pytest.raises(DataError, match="--data, or --texts"):
        voices.read_texts(args)
    for make in (voices.make_kokoro, voices.make_flite):
        with pytest.raises(FileNotFoundError, match="is not given"):
            make(args)
