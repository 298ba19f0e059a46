"""When the words of a recording are said: by the model's own aligner, or else by the recogniser."""

from itertools import pairwise

import numpy as np
import pytest

from speechnar.cli.main import main
from speechnar.models.base import load_model
from speechnar.models.tts.monophones import MonophonesConfig
from speechnar.text.transcript import Segment, Transcript, Word
from speechnar.tts.acoustic import AcousticModel, TimedWord
from speechnar.tts.voice import MAX_ALIGNED_S, Listener, _cuts
from tests.unit.models.sounds import LETTERS, RATE, spell
from tests.unit.tiny import save_tiny_model, save_tiny_tts
from tests.unit.train.test_align_durations import make_data

TEXT = "dab cab bad"


@pytest.fixture(scope="module")
def acoustic(tmp_path_factory) -> AcousticModel:
    """Return a model whose aligner knows the sounds of `LETTERS`."""
    root = tmp_path_factory.mktemp("models")
    make_data(root / "data", 40)
    LETTERS.save(root / "tokenizer")
    assert (
        main(["data", "durations", str(root / "tokenizer"), str(root / "data"), "--aligner", str(root / "aligner")])
        == 0
    )
    loaded = load_model(save_tiny_tts(root / "tts", LETTERS, aligner=MonophonesConfig()))
    loaded.model.aligner.load_state_dict(load_model(root / "aligner").model.state_dict())
    return AcousticModel(loaded)


@pytest.fixture(scope="module")
def listener(tmp_path_factory, acoustic) -> Listener:
    return Listener(str(save_tiny_model(tmp_path_factory.mktemp("models") / "asr", tasks=False)), "cpu", acoustic)


def times_of(text: str, seconds: list[float]) -> list[tuple[float, float]]:
    """Return start and end of each word; the tokens are letters and the spaces between words."""
    ends = [0.0, *np.cumsum(seconds)]
    spaces = [i for i, token in enumerate(LETTERS.encode(text)) if LETTERS.piece_of(token) == "▁"]
    bounds = pairwise([-1, *spaces, len(seconds)])
    return [(ends[before + 1], ends[after]) for before, after in bounds]


def check_times(found: list[TimedWord], expected: list[tuple[float, float]]) -> None:
    errors = np.abs(np.array([(word.start, word.end) for word in found]) - np.array(expected))
    assert np.median(errors) < 0.02
    assert np.quantile(errors, 0.9) < 0.1  # the pause behind the last word of a part has no token


def test_words_are_found_by_the_models_own_aligner(listener):
    wav, seconds = spell(TEXT, np.random.default_rng(1))
    found = listener.find(wav, RATE, TEXT)
    assert [word.text for word in found] == TEXT.split()
    check_times(found, times_of(TEXT, seconds))
    for word in found:
        assert len(word.sounds) == 3
        assert sum(word.sounds) == pytest.approx(word.end - word.start)
    assert listener._transcriber is None, "a recogniser was loaded for nothing"


def test_a_word_that_cannot_be_spoken_stands_between_others(acoustic):
    wav, _ = spell(TEXT, np.random.default_rng(1))
    first, nothing, *_ = acoustic.align(wav, RATE, ["dab", "☺", "cab", "bad"])
    assert nothing.start == nothing.end == first.end
    assert nothing.sounds == ()
    assert acoustic.align(wav, RATE, ["☺"]) is None
    assert acoustic.align(wav, RATE, ["dab"] * 1000) is None, "more sounds than frames"
    for size in (0, 1, 200, 511):
        assert acoustic.align(wav[:size], RATE, ["d"]) is None, "too short to be looked at"


def test_words_that_were_recognised_get_better_times(listener, monkeypatch):
    """Also in recordings too long to be aligned at once."""
    rng = np.random.default_rng(2)
    texts, parts, expected, heard = [], [], [], []
    place = 0.0
    while place < 2.5 * MAX_ALIGNED_S:
        wav, seconds = spell(TEXT, rng)
        pause = 1e-3 * rng.standard_normal(round(rng.uniform(0.1, 0.5) * RATE))
        expected += [(a + place, b + place) for a, b in times_of(TEXT, seconds)]
        texts += TEXT.split()
        parts += [wav, pause.astype(np.float32)]
        place += (len(wav) + len(pause)) / RATE
    for (start, end), text in zip(expected, texts, strict=True):
        middle = (start + end) / 2
        heard.append(Word(middle, middle + 0.05, text, 1.0))
    samples = np.concatenate(parts)
    whole = Transcript(
        file=None,
        model="ear",
        task="transcribe",
        language="eng",
        language_probability=None,
        duration=place,
        text="",
        segments=(Segment(0, 0.0, place, "", words=tuple(heard)),),
    )
    monkeypatch.setattr(listener.transcriber, "transcribe", lambda *_, **__: whole)
    found = listener.hear(samples, RATE)
    assert [word.text for word in found] == texts
    check_times(found, expected)


def test_long_speech_is_cut_in_its_pauses():
    words = [TimedWord("x", i, i + (0.5 if i == 25 else 0.9)) for i in range(70)]
    cuts = _cuts(words, 70.0)
    assert cuts[0] == (26, pytest.approx(25.75)), "the longest pause of the second half of 30 s"
    bounds = [0.0, *(time for _, time in cuts), 70.0]
    assert all(0 < b - a <= MAX_ALIGNED_S for a, b in pairwise(bounds))
    assert _cuts(words[:20], 29.0) == []
    assert _cuts([], 100.0) == []
    assert _cuts([TimedWord("x", 1, 2), TimedWord("x", 80, 81)], 90.0) == [(1, 41.0)]
    assert _cuts([TimedWord("x", 1, 2)], 90.0) == [], "no word to cut before"
