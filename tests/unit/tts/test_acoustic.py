"""Text and time: words as tokens, how long each lasts, and what stands between known latents."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.errors import ConfigError
from speechnar.models.base import load_model
from speechnar.text.tokenizer import CharTokenizer
from speechnar.tts.acoustic import (
    AcousticModel,
    Spelling,
    TimedWord,
    derive_seed,
    observed_durations,
    share,
    speaking_rate,
)
from tests.unit.tiny import RATE, save_tiny_model, save_tiny_tts, vowels

LETTERS = CharTokenizer(["<blank>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz,."])


@pytest.fixture(scope="module")
def acoustic(tmp_path_factory) -> AcousticModel:
    """Return a model that spells small letters."""
    return AcousticModel(load_model(save_tiny_tts(tmp_path_factory.mktemp("models") / "tts", LETTERS)))


def letters_of(acoustic: AcousticModel, spelling: Spelling) -> str:
    return "".join(acoustic.tokenizer.piece_of(token) for token in spelling.tokens)


# Words as tokens.


def test_words_know_their_tokens_and_what_is_spoken(acoustic):
    spelling = acoustic.spell(["ab,", "c"])
    assert letters_of(acoustic, spelling) == "ab,▁c"
    assert spelling.words == ((0, 3), (3, 5))  # the space is the second word's
    assert spelling.sounds == (True, True, False, False, True)


def test_a_word_is_respelled_only_as_far_as_it_must(acoustic, caplog):
    assert letters_of(acoustic, acoustic.spell(["AB", "c"])) == "ab▁c"
    spelling = acoustic.spell(["2", "b"])
    assert letters_of(acoustic, spelling) == "two▁b"
    assert spelling.words == ((0, 3), (3, 5))
    assert not caplog.messages
    spelling = acoustic.spell(["aéb", "☺", "c"])
    assert letters_of(acoustic, spelling) == "aeb▁▁c"
    assert [sum(spelling.sounds[first:end]) for first, end in spelling.words] == [3, 0, 1]
    assert "cannot speak 1 letters" in caplog.text


def test_each_token_of_a_spelling_has_its_duration(acoustic):
    spelling = acoustic.spell(["ab", "c"])
    durations = acoustic.predict(spelling)
    assert durations.shape == (4,)
    assert (durations > 0).all()
    assert acoustic.predict(Spelling((), (), ())).shape == (0,)


# Speech as latents.


def test_latents_and_log_mels_are_as_long_as_the_sound(acoustic):
    samples = vowels(1.0)
    latents, feats = acoustic.encode(samples), acoustic.log_mel(samples)
    assert latents.shape == (RATE // acoustic.latent_samples, acoustic.latent_dim)
    assert len(feats) == len(latents) * acoustic.frames_per_latent
    assert len(acoustic.decode(latents)) == len(feats)
    assert len(acoustic.vocode(feats)) == len(feats) * acoustic.hop_length
    assert acoustic.encode(samples[: acoustic.latent_samples - 1]).shape == (0, acoustic.latent_dim)


def test_text_is_stretched_over_the_latents(acoustic):
    """Positions go from the first token to the last, as the durations have it, whatever their unit."""
    spelling = acoustic.spell(["abcd"])
    latents = torch.zeros(2, 20, acoustic.latent_dim)
    batch = acoustic.batch(spelling, np.array([1.0, 1.0, 1.0, 7.0]), latents)
    assert batch.tokens.tolist() == [list(spelling.tokens)] * 2
    assert batch.latent_lens.tolist() == [20, 20]
    assert torch.equal(batch.positions[0], batch.positions[1])
    assert (batch.positions[0].diff() > 0).all()
    assert ((batch.positions[0] >= 3).float().mean() - 0.7).abs() < 0.06
    doubled = acoustic.batch(spelling, np.array([2.0, 2.0, 2.0, 14.0]), latents)
    torch.testing.assert_close(batch.positions, doubled.positions)


def test_what_does_not_speak_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="OwsmCtc does not turn text into speech"):
        AcousticModel(load_model(save_tiny_model(tmp_path / "asr")))


# Durations of what was said.


def test_times_of_words_become_those_of_tokens():
    """^ a b , c d . $ as two words with marks; silence before, between and after goes to ^, the mark, and $."""
    spelling = Spelling(tuple(range(8)), ((1, 4), (4, 7)), (False, True, True, False, True, True, False, False))
    predicted = np.array([9.0, 1.0, 3.0, 9.0, 2.0, 2.0, 9.0, 9.0])
    words = [TimedWord("ab,", 0.5, 0.9), TimedWord("cd.", 1.1, 1.5)]
    durations = observed_durations(spelling, predicted, words, 2.0)
    np.testing.assert_allclose(durations, [0.5, 0.1, 0.3, 0.2, 0.2, 0.2, 0.0, 0.5])
    bare = Spelling((0, 1), ((0, 1), (1, 2)), (True, True))
    np.testing.assert_allclose(observed_durations(bare, np.ones(2), words, 2.0), [1.1, 0.9])


@given(
    times=st.lists(st.floats(0, 3), min_size=6, max_size=6),
    total_s=st.floats(0.1, 3),
    sizes=st.lists(st.integers(0, 3), min_size=3, max_size=3).filter(any),
    edges=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_durations_fill_the_recording(times, total_s, sizes, edges):
    ends = list(itertools.accumulate(sizes, initial=int(edges)))
    size = ends[-1] + int(edges)
    spelling = Spelling(tuple(range(size)), tuple(itertools.pairwise(ends)), tuple(i % 2 == 1 for i in range(size)))
    times = sorted(times)
    words = [TimedWord("x", *times[2 * i : 2 * i + 2]) for i in range(3)]
    durations = observed_durations(spelling, np.ones(size), words, total_s)
    assert (durations >= 0).all()
    assert durations.sum() == pytest.approx(total_s)


def test_known_durations_of_sounds_stay_as_they_are():
    spelling = Spelling(tuple(range(4)), ((0, 2), (2, 4)), (True,) * 4)
    words = [TimedWord("ab", 0.5, 0.9, (0.3, 0.1)), TimedWord("cd", 1.0, 1.4)]
    durations = observed_durations(spelling, np.ones(4), words, 1.4)
    np.testing.assert_allclose(durations, [0.9 * 0.75, 0.9 * 0.25 + 0.1, 0.2, 0.2])
    other = [TimedWord("ab", 0.5, 0.9, (0.4,)), words[1]]  # as many sounds as in another spelling: not used
    np.testing.assert_allclose(observed_durations(spelling, np.ones(4), other, 1.4)[:2], [0.45, 0.55])


def test_time_is_shared_out_in_proportion():
    np.testing.assert_allclose(share(np.array([1.0, 3.0]), 2.0), [0.5, 1.5])
    np.testing.assert_allclose(share(np.zeros(4), 2.0), [0.5] * 4)
    assert share(np.zeros(0), 2.0).shape == (0,)


def test_the_pace_of_a_voice_is_that_of_its_words():
    """Three sounds of 0.1 s are said in 0.45 s; marks, words without a sound and those of no length do not count."""
    spelling = Spelling(tuple(range(6)), ((0, 3), (3, 5), (5, 5), (5, 6)), (True, True, False, True, False, True))
    predicted = np.array([0.1, 0.1, 9.0, 0.1, 9.0, 0.1])
    words = [TimedWord("ab,", 0.0, 0.3), TimedWord("c.", 1.0, 1.15), TimedWord("☺", 1.2, 1.9), TimedWord("d", 2.0, 2.0)]
    assert speaking_rate(spelling, predicted, words) == pytest.approx(1.5)
    assert speaking_rate(spelling, 0.01 * predicted, words) == 2.0
    assert speaking_rate(spelling, 100 * predicted, words) == 0.5
    assert speaking_rate(spelling, predicted, [TimedWord(word.text, 0.0, 0.0) for word in words]) == 1.0


def test_a_word_is_moved_in_time():
    word = TimedWord("a", 1.0, 1.5, (0.2, 0.3))
    assert word.moved(0.25) == TimedWord("a", 1.25, 1.75, (0.2, 0.3))


# Seeds.


def test_every_place_has_its_own_seed():
    seeds = {derive_seed(*place) for place in itertools.product(range(4), repeat=3)}
    assert len(seeds) == 4**3
    assert derive_seed(0, 1) == derive_seed(0, 1)
