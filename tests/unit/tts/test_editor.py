"""Editing with a random model: what is spoken anew, what stays, and how the joints sound."""

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechnar.audio.io import resample
from speechnar.errors import AudioError, ConfigError
from speechnar.models.tts.mel_autoencoder import MelAutoencoderConfig
from speechnar.tts import editor
from speechnar.tts.acoustic import TimedWord
from speechnar.tts.editor import click, find_changes
from speechnar.tts.synthesizer import Synthesizer
from tests.unit.tiny import RATE, save_tiny_tts, vowels
from tests.unit.tts.test_synthesizer import folder, letters, recognizer, tiny  # noqa: F401  # fixtures

OLD = "the cat sat on the mat and he ran to the dog"
EDITS = {
    "insert at the start": "so the cat sat on the mat and he ran to the dog",
    "insert in the middle": "the cat sat on the old mat and he ran to the dog",
    "insert at the end": "the cat sat on the mat and he ran to the dog again",
    "delete at the start": "cat sat on the mat and he ran to the dog",
    "delete in the middle": "the cat sat on the mat he ran to the dog",
    "delete at the end": "the cat sat on the mat and he ran to the",
    "replace at the start": "a cat sat on the mat and he ran to the dog",
    "replace in the middle": "the cat sat on the mat and she ran to the dog",
    "replace at the end": "the cat sat on the mat and he ran to the house",
    "two places": "the cat lay on the mat and he ran to the house",
    "everything": "good day",
}
MAX_CLICK = 1.5


def check_outside(edited, samples, rate=RATE):
    """Samples outside the changes are those of the recording, and the two have the same order."""
    kept_old, kept_new = [], []
    old_at = new_at = 0
    for change in edited.changes:
        assert change.old_start >= old_at / rate - 1e-9
        kept_old.append(samples[old_at : round(change.old_start * rate)])
        kept_new.append(edited.samples[new_at : round(change.new_start * rate)])
        old_at, new_at = round(change.old_end * rate), round(change.new_end * rate)
    kept_old.append(samples[old_at:])
    kept_new.append(edited.samples[new_at:])
    for old, new in zip(kept_old, kept_new, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("case", EDITS)
def test_outside_of_what_changes_every_sample_stays(tiny, case):  # noqa: F811
    samples = vowels(6.0)
    edited = tiny.edit(samples, EDITS[case], old_text=OLD, sample_rate=RATE, steps=2, candidates=2)
    check_outside(edited, samples)
    assert len(edited.changes) == (2 if case == "two places" else 1)
    assert edited.sample_rate == RATE
    assert all(change.click < MAX_CLICK for change in edited.changes)
    for change in edited.changes:
        took = change.new_end - change.new_start
        if change.new_text:
            assert took > 0.1, "words take time"
        else:
            assert took < 0.4
            assert took < change.old_end - change.old_start
    assert np.isfinite(edited.samples).all()


def test_what_changed_is_told(tiny):  # noqa: F811
    edited = tiny.edit(vowels(6.0), EDITS["two places"], old_text=OLD, sample_rate=RATE, steps=1, candidates=1)
    assert [(change.old_text, change.new_text) for change in edited.changes] == [("sat", "lay"), ("dog", "house")]
    first, second = edited.changes
    assert first.new_start == first.old_start
    moved = (first.new_end - first.new_start) - (first.old_end - first.old_start)
    assert second.new_start - second.old_start == pytest.approx(moved)


def test_nothing_changes_but_letter_case_and_marks(tiny):  # noqa: F811
    samples = vowels(3.0)
    edited = tiny.edit(samples, "The cat, sat!", old_text="the cat sat", sample_rate=RATE)
    assert edited.changes == ()
    np.testing.assert_array_equal(edited.samples, samples)


def test_a_recording_is_heard_where_its_text_is_not_given(tiny, caplog):  # noqa: F811
    samples = vowels(3.0)
    heard = tiny._listener.hear(samples, RATE)
    assert heard
    text = " ".join(word.text for word in heard)
    assert tiny.edit(samples, text, sample_rate=RATE).changes == ()
    edited = tiny.edit(samples, f"{text} again", sample_rate=RATE, steps=1, candidates=1)
    assert [(change.old_text, change.new_text) for change in edited.changes] == [("", "again")]
    check_outside(edited, samples)
    assert not caplog.messages
    tiny.edit(samples, "something else", sample_rate=RATE, steps=1, candidates=1)
    assert "differ from the new text" in caplog.text


@pytest.mark.parametrize(("rate", "suffix", "subtype"), [(8000, ".wav", "PCM_16"), (44100, ".flac", "PCM_24")])
def test_files_keep_their_rate_and_their_bits(tiny, tmp_path, rate, suffix, subtype):  # noqa: F811
    path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    soundfile.write(path, resample(vowels(4.0), RATE, rate), rate, subtype=subtype)
    before = soundfile.read(path, dtype="int32")[0]
    edited = tiny.edit(path, EDITS["replace in the middle"], old_text=OLD, steps=1, candidates=1)
    assert edited.sample_rate == rate
    edited.save(out)
    assert soundfile.info(out).subtype == subtype
    after = soundfile.read(out, dtype="int32")[0]
    (change,) = edited.changes
    np.testing.assert_array_equal(after[: round(change.new_start * rate)], before[: round(change.old_start * rate)])
    np.testing.assert_array_equal(after[round(change.new_end * rate) :], before[round(change.old_end * rate) :])
    assert change.click < MAX_CLICK


def test_the_context_is_what_surrounds_the_change(tiny):  # noqa: F811
    """In a long recording the model sees a few seconds, and hears what is there."""
    rng = np.random.default_rng(0)
    samples = vowels(40.0)
    words = [TimedWord(f"{'abcdefghij'[i % 10]}{'aeiou'[i % 5]}t", i / 2 + 0.05, i / 2 + 0.4) for i in range(78)]
    take = editor._Take(tiny._acoustic, samples, RATE, words)
    lower, upper, window = take._window(40, 41, 20.0, 20.45)
    assert words[lower].start >= 15.0
    assert words[upper - 1].end <= 25.5
    assert window.stop - window.start < 11.5 * RATE
    seeds = rng.integers(0, 99, 2).tolist()
    change = take.respeak(40, 41, ["house"], seeds=seeds, num_steps=1)
    assert 19.8 < change.old_start < 20.05
    assert 20.4 < change.old_end < 20.6
    later = take._words[41]
    moved = (change.new_end - change.new_start) - (change.old_end - change.old_start)
    assert later.start == pytest.approx(words[41].start + moved)


def test_candidates_are_compared_with_each_other_and_by_what_follows(tiny):  # noqa: F811
    """Of several, the one is kept near their mean, after which the model's next block is close to the recording's."""
    acoustic = tiny._acoustic
    spelling = acoustic.spell(OLD.split())
    latents = acoustic.encode(vowels(4.0))
    durations = acoustic.predict(spelling)
    take = editor._Take(acoustic, vowels(4.0), RATE, [])

    def generate(seeds):
        speech = acoustic.batch(spelling, durations, latents.expand(len(seeds), -1, -1))
        return take._generate(speech, 40, 10, seeds=seeds, num_steps=2)

    seeds = list(range(6))
    alone = [generate([seed]) for seed in seeds]
    chosen = generate(seeds)
    index = int(np.argmin([float((other - chosen).abs().max()) for other in alone]))
    assert float((alone[index] - chosen).abs().max()) < 1e-4
    apart, ahead = [], []
    for candidate in alone:
        speech = acoustic.batch(spelling, durations, candidate[None])
        (block,) = acoustic.fill(speech, 50, 4, seeds=[0], num_steps=2)
        ahead.append(float((block - latents[50:54]).square().mean()))
        apart.append(float((candidate - torch.stack(alone).mean(0))[40:50].square().mean()))
    assert index == int(np.argmin(editor.TYPICAL * np.array(apart) + np.array(ahead)))
    assert len(set(ahead)) == len(set(apart)) == len(alone)


def test_a_word_deleted_far_from_all_others(tiny):  # noqa: F811
    samples = vowels(30.0)
    words = [TimedWord("one", 1.0, 1.4), TimedWord("two", 15.0, 15.4), TimedWord("three", 29.0, 29.4)]
    take = editor._Take(tiny._acoustic, samples, RATE, words)
    change = take.respeak(1, 2, [], seeds=[1], num_steps=1)
    assert 14.8 < change.old_start < 15.0
    assert change.new_end - change.new_start == pytest.approx(0.01)
    assert change.click < MAX_CLICK
    assert [word.text for word in take._words] == ["one", "three"]


def test_a_decoder_that_knows_frames_edits_too(tmp_path, recognizer):  # noqa: F811
    folder = save_tiny_tts(tmp_path / "tts", codec=MelAutoencoderConfig.debug())  # noqa: F811
    model = Synthesizer.load(folder, device="cpu", recognizer=recognizer)
    samples = vowels(4.0)
    edited = model.edit(samples, EDITS["replace in the middle"], old_text=OLD, sample_rate=RATE, steps=1, candidates=2)
    check_outside(edited, samples)


@given(seed=st.integers(0, 2**32 - 1), data=st.data())
@settings(max_examples=8, deadline=None)
def test_any_edit_keeps_the_rest(tiny, seed, data):  # noqa: F811
    old = OLD.split()
    new = data.draw(st.lists(st.sampled_from([*old, "good", "day"]), min_size=1, max_size=14))
    samples = vowels(5.0)
    edited = tiny.edit(samples, " ".join(new), old_text=OLD, sample_rate=RATE, steps=1, candidates=1, seed=seed)
    check_outside(edited, samples)
    assert all(change.click < MAX_CLICK for change in edited.changes)


# What is refused.


def test_unusable_recordings_and_texts_are_named(tiny, tmp_path):  # noqa: F811
    stereo = tmp_path / "stereo.wav"
    soundfile.write(stereo, np.stack([vowels(1.0)] * 2, axis=1), RATE)
    samples = vowels(2.0)
    for audio, new, options, error, message in (
        (stereo, "a", {"old_text": "b"}, AudioError, "must be mono, has 2 channels"),
        (samples, "", {"old_text": "b"}, ConfigError, "the new text must have a letter"),
        (samples, "\U0001f600", {"old_text": "b"}, ConfigError, "the new text"),
        (samples, "a", {"old_text": " ... "}, ConfigError, "the old text"),
        (samples, "a", {"old_text": "the cat " * 100}, AudioError, "cannot hold"),
        (samples, "a", {"candidates": 0}, ConfigError, "candidates must be a whole number from 1 to 64"),
        (samples, "a", {"steps": 0}, ConfigError, "steps"),
        (samples, "a", {"seed": -1}, ConfigError, "seed"),
        (vowels(31.0), "a", {"old_text": "the cat"}, AudioError, "up to 30 s"),
        (np.zeros(31 * RATE), "a", {}, AudioError, "no word is recognised"),
        (tmp_path / "no.wav", "a", {}, AudioError, "does not exist"),
        (stereo, "a", {"sample_rate": RATE}, ConfigError, "a file has its own"),
    ):
        rate = {"sample_rate": RATE} if isinstance(audio, np.ndarray) else {}
        with pytest.raises(error, match=message) as caught:
            tiny.edit(audio, new, **rate, **options)
        assert "\n" not in str(caught.value)


# Parts.


@pytest.mark.parametrize(
    ("old", "new", "changes"),
    [
        ("a b c d e", "a b c d e", []),
        ("A, b! c", "a B c.", []),
        ("it cost $5", "it cost five dollars", [(2, 3, 2, 4)]),
        ("a b c d e", "a x c d e", [(1, 2, 1, 2)]),
        ("a b c d e", "a c d e", [(1, 2, 1, 1)]),
        ("a b c d e", "a b c d e f", [(5, 5, 5, 6)]),
        ("a b c d e", "x b y d e", [(0, 3, 0, 3)]),
        ("a b c d e", "x b c y e", [(0, 1, 0, 1), (3, 4, 3, 4)]),
        ("он идёт", "он идет", [(1, 2, 1, 2)]),
        ("the the the", "the the", [(2, 3, 2, 2)]),
    ],
)
def test_changes_are_those_of_words(old, new, changes):
    assert find_changes(old.split(), new.split()) == changes


def test_a_mark_alone_is_part_of_a_word():
    assert editor._written_words("— so , it goes …", "text") == ["—so,", "it", "goes…"]


def test_a_hard_cut_is_a_click_and_a_crossfade_is_none():
    """The measure tells one from the other in steady tones, whose phases differ at the joint."""
    times = np.arange(RATE) / RATE
    tone = (0.5 * np.sin(2 * np.pi * 200 * times)).astype(np.float32)
    other = (0.5 * np.sin(2 * np.pi * 200 * times + 2.0)).astype(np.float32)
    at = RATE // 2
    assert click(tone, RATE, at) <= 1.0
    assert click(np.concatenate([tone[:at], other[at:]]), RATE, at) > 10
    faded = editor._crossfade(tone[at : at + 160], other[at : at + 160], editor._ramp(160))
    joined = np.concatenate([tone[:at], faded, other[at + 160 :]])
    assert click(joined, RATE, at) < MAX_CLICK
    assert click(joined, RATE, at + 160) < MAX_CLICK


def test_a_crossfade_is_as_loud_as_its_ends():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20000)).astype(np.float32)
    for other in (a, b):
        faded = editor._crossfade(a, other, editor._ramp(len(a)))
        middle = faded[9000:11000]
        assert middle.std() == pytest.approx(1.0, abs=0.06)


def test_joints_are_shifted_to_where_they_match():
    times = np.arange(400) / RATE
    wave = np.sin(2 * np.pi * 150 * times).astype(np.float32)
    assert editor._find_shift(wave[100:260], wave, 70, 80) == 30
    assert editor._find_shift(wave[100:260], wave, 100, 80) == 0
    assert editor._find_shift(np.zeros(160, dtype=np.float32), wave, 100, 80) == 0
