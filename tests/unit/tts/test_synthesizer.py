"""Text to speech with a random model: what is spoken, what is refused, and that streams give the same."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import speechnar
from speechnar.audio.io import resample
from speechnar.errors import AudioError, ConfigError, ModelNotFoundError
from speechnar.models.tts.mel_autoencoder import MelAutoencoderConfig
from speechnar.text.tokenizer import CharTokenizer
from speechnar.tts import synthesizer as module
from speechnar.tts.options import EditOptions, SynthesizeOptions
from speechnar.tts.synthesizer import Synthesizer
from tests.unit.tiny import RATE, save_tiny_model, save_tiny_tts, vowels

TEXT = "Hello there. How are you?"
SAID = "the cat sat on the mat"


@pytest.fixture(scope="session")
def recognizer(tmp_path_factory) -> str:
    return str(save_tiny_model(tmp_path_factory.mktemp("models") / "asr", tasks=False))


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return save_tiny_tts(tmp_path_factory.mktemp("models") / "tts")


@pytest.fixture(scope="session")
def tiny(folder, recognizer) -> Synthesizer:
    return Synthesizer.load(folder, device="cpu", precision="fp32", recognizer=recognizer)


@pytest.fixture(scope="session")
def letters(tmp_path_factory, recognizer) -> Synthesizer:
    """Return a model that spells small letters, without marks."""
    pieces = ["<blank>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
    folder = save_tiny_tts(tmp_path_factory.mktemp("models") / "letters", CharTokenizer(pieces))
    return Synthesizer.load(folder, device="cpu", precision="fp32", recognizer=recognizer)


# What is spoken.


def test_sentences_are_spoken_one_after_the_other(tiny, tmp_path):
    speech = tiny.synthesize(TEXT, steps=2, seed=7)
    assert speech.sample_rate == tiny.sample_rate == RATE
    assert speech.samples.dtype == np.float32
    assert [segment.text for segment in speech.segments] == ["Hello there.", "How are you?"]
    first, second = speech.segments
    assert first.start == 0
    assert second.start == pytest.approx(first.end + 0.25)
    assert second.end == pytest.approx(speech.duration)
    pause = speech.samples[round(first.end * RATE) : round(second.start * RATE)]
    assert not pause.any()
    for segment in speech.segments:
        part = speech.samples[round(segment.start * RATE) : round(segment.end * RATE)]
        assert part.std() > 1e-3
        assert abs(part[0]) == abs(part[-1]) == 0, "neither begins nor ends by a click"
    speech.save(tmp_path / "a.wav")
    assert soundfile.info(tmp_path / "a.wav").frames == len(speech.samples)


def test_a_stream_is_the_same_speech_by_pieces(tiny):
    parts = list(tiny.stream(TEXT, steps=2, seed=7))
    assert len(parts) > 4
    assert max(map(len, parts)) < RATE
    np.testing.assert_array_equal(np.concatenate(parts), tiny.synthesize(TEXT, steps=2, seed=7).samples)


def test_a_seed_gives_each_sentence_its_own_noise(tiny):
    once = tiny.synthesize("Hello. Hello.", steps=1, seed=3)
    np.testing.assert_array_equal(once.samples, tiny.synthesize("Hello. Hello.", steps=1, seed=3).samples)
    assert not np.array_equal(once.samples, tiny.synthesize("Hello. Hello.", steps=1, seed=4).samples)
    first, second = (once.samples[round(segment.start * RATE) : round(segment.end * RATE)] for segment in once.segments)
    assert first.shape == second.shape
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, tiny.synthesize("Hello.", steps=1, seed=3).samples)


def test_a_card_says_how_many_steps_a_model_needs(folder, recognizer, tiny, tmp_path):
    copied = shutil.copytree(folder, tmp_path / "one-step")
    card = copied / "README.md"
    card.write_text(card.read_text().replace("license:", "steps: 1\nlicense:"))
    model = Synthesizer.load(copied, device="cpu", precision="fp32", recognizer=recognizer)
    np.testing.assert_array_equal(model.synthesize("Hi.").samples, tiny.synthesize("Hi.", steps=1).samples)
    np.testing.assert_array_equal(tiny.synthesize("Hi.").samples, tiny.synthesize("Hi.", steps=16).samples)
    np.testing.assert_array_equal(model.synthesize("Hi.", steps=3).samples, tiny.synthesize("Hi.", steps=3).samples)
    path = tmp_path / "talk.wav"
    soundfile.write(path, vowels(2.0), RATE)
    edit = {"new_text": "the dog", "old_text": "the cat", "candidates": 1}
    np.testing.assert_array_equal(model.edit(path, **edit).samples, tiny.edit(path, **edit, steps=1).samples)
    card.write_text(card.read_text().replace("license:", "edit_steps: 2\nlicense:"))
    model = Synthesizer.load(copied, device="cpu", precision="fp32", recognizer=recognizer)
    np.testing.assert_array_equal(model.edit(path, **edit).samples, tiny.edit(path, **edit, steps=2).samples)
    np.testing.assert_array_equal(model.synthesize("Hi.").samples, tiny.synthesize("Hi.", steps=1).samples)
    card.write_text(card.read_text().replace("\nsteps: 1", "\nsteps: many"))
    with pytest.raises(ConfigError, match="got 'many'"):
        Synthesizer.load(copied, device="cpu")


def test_options_may_stand_in_their_class(tiny, tmp_path):
    path = tmp_path / "talk.wav"
    soundfile.write(path, vowels(2.0), RATE)
    spoken = tiny.synthesize("Hi.", options=SynthesizeOptions(steps=2, speed=2.0))
    np.testing.assert_array_equal(spoken.samples, tiny.synthesize("Hi.", steps=2, speed=2.0).samples)
    streamed = list(tiny.stream("Hi.", speed=2.0, options=SynthesizeOptions(steps=2)))
    np.testing.assert_array_equal(np.concatenate(streamed), spoken.samples)
    edit = {"new_text": "the dog", "old_text": "the cat"}
    edited = tiny.edit(path, **edit, options=EditOptions(steps=2, candidates=1))
    np.testing.assert_array_equal(edited.samples, tiny.edit(path, **edit, steps=2, candidates=1).samples)
    with pytest.raises(ConfigError, match="steps is given twice"):
        tiny.synthesize("Hi.", steps=3, options=SynthesizeOptions(steps=2))


def test_speed_scales_durations(tiny):
    usual = tiny.synthesize("How are you, my friend?", steps=1).duration
    for speed in (0.5, 2.0):
        assert tiny.synthesize("How are you, my friend?", steps=1, speed=speed).duration == pytest.approx(
            usual / speed, abs=0.02 + 0.02 / speed
        )


def test_pauses_that_are_asked_for_last_as_long_as_they_say(tiny):
    speech = tiny.synthesize('<break time="300ms"/>Hi <break time="1.5s"/> there.<break time="200ms"/>', steps=1)
    first, second = speech.segments
    assert first.start == pytest.approx(0.3, abs=1 / RATE)
    assert second.start - first.end == pytest.approx(1.5, abs=1 / RATE)
    assert speech.duration - second.end == pytest.approx(0.2, abs=1 / RATE)
    assert [segment.text for segment in speech.segments] == ["Hi", "there."]
    inside = tiny.synthesize("<speak>Hi.<break time='1s'/>Ho.</speak>", steps=1).segments
    assert inside[1].start - inside[0].end == pytest.approx(1.0, abs=1 / RATE)


def test_headings_and_items_are_followed_by_longer_pauses(tiny):
    segments = tiny.synthesize("# Title\n- one\n- two\n\nText", steps=1).segments
    gaps = [round(after.start - before.end, 2) for before, after in itertools.pairwise(segments)]
    assert gaps == [0.7, 0.4, 0.5]


def test_a_text_without_a_mark_is_read_to_its_end(tiny):
    np.testing.assert_array_equal(tiny.synthesize("Hi", steps=1).samples, tiny.synthesize("Hi.", steps=1).samples)
    np.testing.assert_array_equal(tiny.synthesize("# Hi\n", steps=1).samples, tiny.synthesize("Hi.", steps=1).samples)


def test_emoji_are_named_if_that_is_asked_for(tiny):
    assert [
        segment.text for segment in tiny.synthesize("Hi 🎉", options=SynthesizeOptions(steps=1, emoji="named")).segments
    ] == ["Hi, party popper"]
    np.testing.assert_array_equal(tiny.synthesize("Hi 🎉", steps=1).samples, tiny.synthesize("Hi", steps=1).samples)
    with pytest.raises(ConfigError, match="emoji must be skipped or named"):
        SynthesizeOptions(emoji="sung")


def test_words_without_a_sound_are_named(tiny, caplog):
    tiny.synthesize("Say hi你好 or Привет 🎉 to 10 000 people.", steps=1)
    assert "'hi你好', 'Привет'" in caplog.text and "000" not in caplog.text


def test_parts_of_a_long_sentence_are_closer(tiny):
    text = "and then, " * 30
    segments = tiny.synthesize(text, steps=1).segments
    assert len(segments) > 1
    gaps = [round(after.start - before.end, 3) for before, after in itertools.pairwise(segments)]
    assert gaps == [0.1] * len(gaps)


def test_ten_thousand_characters_are_spoken_as_they_come(tiny):
    text = "One, two. " * 1000
    assert len(text) == 10_000
    stream = tiny.stream(text, steps=1)
    assert all(len(part) and np.isfinite(part).all() for part in itertools.islice(stream, 20))


@pytest.mark.slow
def test_ten_thousand_characters_to_the_end(tiny):
    speech = tiny.synthesize("The quick brown fox jumps over the lazy dog, twice a day.\n" * 173, steps=1, speed=2.0)
    assert len(speech.segments) == 173
    assert speech.segments[-1].end == pytest.approx(speech.duration)


def test_a_decoder_that_sees_whole_sentences_speaks_too(tmp_path, recognizer):
    folder = save_tiny_tts(tmp_path / "tts", codec=MelAutoencoderConfig.debug())
    model = Synthesizer.load(folder, device="cpu", precision="fp32", recognizer=recognizer)
    speech = model.synthesize(TEXT, steps=1)
    np.testing.assert_array_equal(np.concatenate(list(model.stream(TEXT, steps=1))), speech.samples)
    voice = model.voice(vowels(2.0), text=SAID, sample_rate=RATE)
    other = model.synthesize(TEXT, voice=voice, steps=1)
    assert np.isfinite(other.samples).all()
    assert len(other.segments) == 2


@given(st.text(max_size=60))
@settings(max_examples=30, deadline=None)
def test_any_text_is_spoken_or_refused(tiny, text):
    try:
        speech = tiny.synthesize(text, steps=1)
    except ConfigError as error:
        assert "\n" not in str(error)
        assert not any("a" <= letter <= "z" for letter in text)
        return
    assert np.isfinite(speech.samples).all()
    assert speech.duration > 0


# Letters that a model does not know.


def test_unknown_letters_are_brought_nearer(letters, caplog):
    usual = letters.synthesize("hello there", steps=1).samples
    np.testing.assert_array_equal(letters.synthesize("Hello THERE", steps=1).samples, usual)
    assert not caplog.messages
    np.testing.assert_array_equal(letters.synthesize("Hello THERE!", steps=1).samples, usual)
    two = letters.synthesize("twenty two", steps=1).samples
    assert letters.synthesize("22", steps=1).samples.shape[0] == pytest.approx(two.shape[0], abs=0.3 * RATE)


def test_what_a_model_cannot_speak_is_named(letters, tiny, caplog):
    with pytest.raises(ConfigError, match="can speak nothing of the text 'Привет'"):
        letters.synthesize("Привет", steps=1)
    with pytest.raises(ConfigError, match="can speak nothing"):
        tiny.synthesize("你好。", steps=1)
    caplog.clear()
    speech = tiny.synthesize("你好。 Hello.", steps=1)
    assert [segment.text for segment in speech.segments] == ["Hello."]
    assert "can speak nothing of '你好。'" in caplog.text


# What is refused.


@pytest.mark.parametrize("text", ["", "   \n", "...!?", "\U0001f600 \U0001f680", "\x00\x1b\x7f", "—"])
def test_text_without_anything_to_speak(tiny, text):
    with pytest.raises(ConfigError, match="must have a letter or a digit to speak") as caught:
        tiny.stream(text)  # at once, before anything is asked of it
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed": 0.4}, r"speed must lie in \[0.5, 2\], got 0.4"),
        ({"speed": 2.1}, "speed"),
        ({"speed": float("nan")}, "speed"),
        ({"steps": 0}, "steps must be a whole number from 1 to 1000, got 0"),
        ({"steps": 1001}, "steps"),
        ({"steps": 2.5}, "steps"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": 2**63}, "seed"),
        ({"voice_text": "hello"}, "give the voice, too"),
    ],
)
def test_options_out_of_range(tiny, options, message):
    with pytest.raises(ConfigError, match=message):
        tiny.stream("Hello.", **options)


def test_models_that_do_not_speak(recognizer, folder, tmp_path):
    with pytest.raises(ConfigError, match="does not turn text into speech"):
        Synthesizer.load(recognizer, device="cpu")
    with pytest.raises(ModelNotFoundError, match="no folder"):
        Synthesizer.load("no such model")
    broken = shutil.copytree(folder, tmp_path / "broken")
    document = json.loads((broken / "config.json").read_text())
    document["config"]["ardit"]["num_layers"] = 10**6
    (broken / "config.json").write_text(json.dumps(document))
    with pytest.raises(speechnar.CheckpointError):
        Synthesizer.load(broken, device="cpu")


def test_functions_of_the_package_load_a_model_once(folder):
    module._synthesizer.cache_clear()
    speech = speechnar.synthesize("Hello.", model=str(folder), device="cpu", steps=1, seed=2)
    again = speechnar.synthesize("Hello.", model=str(folder), device="cpu", steps=1, seed=2)
    np.testing.assert_array_equal(speech.samples, again.samples)
    assert module._synthesizer.cache_info().misses == 1


# Voices.


def test_a_voice_stands_on_both_sides(tiny):
    """Its own words surround the text: the speech is other than without, and as long as its pace has it."""
    clip = vowels(3.0)
    voice = tiny.voice(clip, text=SAID, sample_rate=RATE)
    assert voice.words == (*SAID.split()[:-1], "mat.")
    shift_s = tiny._acoustic.latent_shift_s
    assert voice.durations.sum() == pytest.approx(len(voice.latents) * shift_s)
    assert (voice.durations >= 0).all()
    assert 0.5 <= voice.rate <= 2.0
    without = tiny.synthesize("How are you?", steps=2, seed=1)
    spoken = tiny.synthesize("How are you?", voice=voice, steps=2, seed=1)
    line = module._plan(tiny._acoustic, ["How", "are", "you?"], voice, 1.0)
    assert line.start == len(voice.latents)
    assert line.speech.latents.shape[1] == 2 * line.start + line.length
    np.testing.assert_array_equal(line.speech.latents[0, : line.start], voice.latents)
    np.testing.assert_array_equal(line.speech.latents[0, line.start + line.length :], voice.latents)
    # The gap is at the tokens of the text, the voice at its own.
    spelling = tiny._acoustic.spell([*voice.words, "How", "are", "you?", *voice.words])
    begin, end = spelling.words[6][0], spelling.words[8][1]
    positions = line.speech.positions[0, line.start : line.start + line.length]
    assert begin <= positions[0] < begin + 1
    assert end - 1 <= positions[-1] < end
    assert (line.speech.positions[0, : line.start] < begin).all()
    assert not np.array_equal(spoken.samples, without.samples)
    faster = tiny.synthesize("How are you?", voice=voice, steps=2, seed=1, speed=2.0)
    assert faster.duration == pytest.approx(spoken.duration / 2, abs=0.04)


def test_rounding_takes_no_time_from_the_tokens_beside_the_sentence(tiny):
    """They may last nothing, and the others a little more than all latents of the voice together."""
    voice = tiny.voice(vowels(2.0), text=SAID, sample_rate=RATE)
    durations = voice.durations * (1 + 1e-9)
    durations[[0, 1, -2, -1]] = 0.0
    durations *= voice.durations.sum() / durations.sum() * (1 + 1e-9)
    spoken = tiny.synthesize("Hello.", voice=replace(voice, durations=durations), steps=1)
    assert spoken.duration == tiny.synthesize("Hello.", voice=voice, steps=1).duration


def test_a_voice_may_be_any_recording(tiny, tmp_path, caplog):
    clip = vowels(3.0)
    path = tmp_path / "voice.wav"
    soundfile.write(path, resample(clip, RATE, 44100), 44100, subtype="FLOAT")
    speech = tiny.synthesize("Hello.", voice=path, voice_text=SAID, steps=1)
    assert tiny.synthesize("Hello.", voice=path.read_bytes(), voice_text=SAID, steps=1).duration == speech.duration
    caplog.set_level("INFO")
    heard = tiny.synthesize("Hello.", voice=tiny.voice(clip, sample_rate=RATE), steps=1)
    assert "the voice says" in caplog.text
    assert np.isfinite(heard.samples).all()
    with pytest.raises(ConfigError, match="sample_rate"):
        tiny.synthesize("Hello.", voice=clip)


def test_a_voice_whose_words_are_not_found_is_spread_evenly(tiny, caplog):
    text = "the cat sat on the mat and the dog ran home and sat " * 3
    voice = tiny.voice(vowels(1.0), text=text, sample_rate=RATE)
    assert "not found in its clip" in caplog.text
    assert voice.durations.sum() == pytest.approx(1.0)
    assert voice.rate == 0.5
    assert tiny.synthesize("Hello.", voice=voice, steps=1).duration > 0


def test_unusable_voices_are_named(tiny, tmp_path):
    silent = np.zeros(2 * RATE, dtype=np.float32)
    for clip, text, message in (
        (silent, SAID, "silent"),
        (silent, None, "silent"),
        (vowels(0.3), SAID, "at least 0.5 s of speech, got 0.30 s"),
        (vowels(16.0), SAID, "up to 15 s"),
        (1e-2 * np.random.default_rng(0).normal(size=31 * RATE), None, "no word is recognised"),
    ):
        with pytest.raises(AudioError, match=message):
            tiny.voice(clip, text=text, sample_rate=RATE)
    with pytest.raises(ConfigError, match="voice_text must be what the clip says"):
        tiny.voice(vowels(2.0), text="...", sample_rate=RATE)
    with pytest.raises(ConfigError, match="cannot speak what the voice says"):
        tiny.voice(vowels(2.0), text="你好", sample_rate=RATE)
    with pytest.raises(AudioError, match="does not exist"):
        tiny.synthesize("Hello.", voice=tmp_path / "no.wav", voice_text=SAID)
    with pytest.raises(ConfigError, match="a file has its own"):
        tiny.voice(tmp_path / "no.wav", text=SAID, sample_rate=RATE)
    with pytest.raises(ConfigError, match="knows already"):
        tiny.synthesize("Hello.", voice=tiny.voice(vowels(2.0), text=SAID, sample_rate=RATE), voice_text=SAID)


def test_of_half_an_hour_only_the_beginning_is_heard(tiny, tmp_path):
    """A sparse file: what comes after the first minute is not even read."""
    path = tmp_path / "long.flac"
    with soundfile.SoundFile(path, "w", RATE, 1) as file:
        file.write(vowels(60.0))
        for _ in range(29):
            file.write(np.zeros(60 * RATE, dtype=np.float32))
    with path.open("r+b") as file:
        file.seek(-1000, 2)
        file.truncate()  # to read it to the end would fail
    voice = tiny.voice(path)
    assert 1 < len(voice.latents) * tiny._acoustic.latent_shift_s <= 15.5


def test_speech_is_heard_while_it_is_made_and_says_when_its_sounds_are_spoken(tiny):
    heard = []
    speech = tiny.synthesize(TEXT, steps=2, seed=7, heard=heard.append)
    assert len(heard) > 4
    np.testing.assert_array_equal(np.concatenate(heard), speech.samples)
    for segment in speech.segments:
        inside = [token for token in speech.tokens if segment.start <= token.start < segment.end]
        assert "".join(token.text for token in inside).count("h") > 0
        assert all(before.end == pytest.approx(after.start) for before, after in itertools.pairwise(inside))
        assert inside[-1].end == pytest.approx(segment.end, abs=0.05)
    assert all(token.end > token.start for token in speech.tokens)
    slow = tiny.synthesize(TEXT, steps=1, speed=0.5)
    assert [token.text for token in slow.tokens] == [token.text for token in speech.tokens]


def test_sounds_of_a_sentence_in_a_voice_are_those_of_the_sentence(tiny):
    alone = tiny.synthesize("Hello there.", steps=1)
    voice = tiny.voice(vowels(2.0), text="the cat", sample_rate=16000)
    spoken = tiny.synthesize("Hello there.", voice=voice, steps=1)
    assert [token.text for token in spoken.tokens if token.text.isalpha()] == [
        token.text for token in alone.tokens if token.text.isalpha()
    ]
    assert spoken.tokens[0].start == 0 and spoken.tokens[-1].end == pytest.approx(spoken.duration, abs=0.05)
