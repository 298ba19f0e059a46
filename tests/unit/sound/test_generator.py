from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import speechnar
from speechnar.audio.loudness import loudness
from speechnar.errors import AudioError, ConfigError, ModelNotFoundError
from speechnar.hub import DEFAULT_MUSIC_MODEL
from speechnar.models.base import LoadedModel, save_model
from speechnar.models.sound.encodec import Encodec, EncodecConfig
from speechnar.sound import generator as module
from speechnar.sound.generator import LOUDNESS_LUFS, Generator
from speechnar.sound.options import GeneratorOptions
from speechnar.sound.writer import NOT_TRIED
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.models.sounds import voice

KINDS = ("magnet", "enat", "music_ar")


def loaded(model, name="tiny") -> LoadedModel:
    return LoadedModel(model, WORDS, model.config, name)


def make(kind: str, **options) -> Generator:
    partner = loaded(make_generator("music_ar")) if options.pop("partner", False) else None
    model = make_generator(kind, **options)
    if partner is not None:
        partner.model.codec.load_state_dict(model.codec.state_dict())
    return Generator(loaded(model), partner)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_of_the_wanted_length_and_loudness(kind):
    generator, ticks = make(kind), []
    audio = generator.generate("dog", seconds=1.1, progress=lambda *tick: ticks.append(tick))
    assert audio.sample_rate == 16000
    assert audio.samples.dtype == np.float32
    assert len(audio.samples) == 17600
    assert np.isfinite(audio.samples).all()
    assert loudness(audio.samples, 16000) <= LOUDNESS_LUFS + 0.5
    assert np.abs(audio.samples).max() <= 1
    assert audio.samples[0] == audio.samples[-1] == 0
    assert audio.codes.shape == (4, 55)
    assert audio.codes.dtype == np.int16
    assert audio.joins == (0.48, 0.72, 0.96)
    if kind == "music_ar":
        assert ticks == [("frames", i, 27 + 3 * 15) for i in range(1, 73)]  # three more steps than frames
        return
    for k, steps in enumerate((4, 2, 2, 2), 1):
        done = [(i, total) for stage, i, total in ticks if stage == f"codebook {k} of 4"]
        assert done == [(i, 4 * steps) for i in range(1, 4 * steps + 1)]
    assert [int(stage.split()[1]) for stage, _, _ in ticks] == [1, 1, 1, 1, 2, 2, 3, 3, 4, 4] * 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides(kind):
    generator = make(kind)
    first, again = (generator.generate("cat", seconds=0.6, seed=3).samples for _ in range(2))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != generator.generate("cat", seconds=0.6, seed=4).samples.tobytes()
    assert first.tobytes() != generator.generate("dog", seconds=0.6, seed=3).samples.tobytes()
    assert len(generator.generate(seconds=0.3).samples) == 4800


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_goes_on(kind, tmp_path):
    generator = make(kind)
    wav = voice(9999, pitch_hz=120, formant_hz=500).numpy()
    audio = generator.generate("dog", seconds=0.5, continue_from=wav, sample_rate=16000)
    kept = 31 * 320  # whole frames
    assert len(audio.samples) == kept + 8000
    fade = 160
    assert np.array_equal(audio.samples[: kept - fade], wav[: kept - fade])
    assert np.abs(audio.samples[kept:]).max() > 0
    assert audio.joins == (kept / 16000, kept / 16000 + 0.24, kept / 16000 + 0.48)
    assert audio.codes.shape == (4, 25)
    soundfile.write(tmp_path / "half.wav", wav[::2], 8000)
    slow = generator.generate("dog", seconds=0.5, continue_from=tmp_path / "half.wav")  # is resampled
    assert slow.sample_rate == 16000
    assert len(slow.samples) == pytest.approx(kept + 8000, abs=320)


@pytest.mark.parametrize("kind", ["magnet", "enat"])
@pytest.mark.parametrize("size", [4001, 9999], ids=["shorter than a window", "longer"])
def test_a_part_of_a_recording_is_made_anew(kind, size):
    generator, shown = make(kind), []
    wav = 0.5 * voice(size, pitch_hz=120, formant_hz=500).numpy()
    given = {"sample_rate": 16000, "seed": 3}
    audio = generator.infill(wav, 0.085, 0.16, "dog", watch=shown.append, **given)
    first, last, hop, fade = 4, 8, 320, 160  # 1360 and 2560 samples, to whole frames
    assert len(audio.samples) == size
    changed = np.flatnonzero(audio.samples != wav)
    assert first * hop - fade <= changed[0] <= first * hop < last * hop <= changed[-1] + 1 <= last * hop + fade
    assert audio.joins == (first * hop / 16000, last * hop / 16000)
    assert audio.codes.shape == (4, 4)
    heard = generator.recode(torch.from_numpy(wav)).codes
    part = first - max(0, min((first + last - 24) // 2, heard.shape[1] - 24))  # of a window of 24 frames, or of all
    sides = np.ones(shown[0].codes.shape[1], dtype=bool)
    sides[part : part + 4] = False
    assert not shown[0].is_final[:, ~sides].all() and (shown[0].codes[:, ~sides] == NOT_TRIED).any()
    for sketch in shown:  # what is on both sides is known, and stays
        assert sketch.is_final[:, sides].all()
    np.testing.assert_array_equal(shown[0].codes[:, sides], shown[-1].codes[:, sides])
    np.testing.assert_array_equal(shown[-1].codes[:, ~sides], audio.codes)
    if size == 4001:
        np.testing.assert_array_equal(shown[-1].codes[:, sides], heard[:, sides])
    assert np.array_equal(generator.infill(wav, 0.085, 0.16, "dog", **given).samples, audio.samples)


def test_parts_up_to_the_ends_of_a_recording_are_made_anew():
    generator = make("enat")
    wav = voice(6000, pitch_hz=120, formant_hz=500).numpy()
    start = generator.infill(wav, 0, 0.1, sample_rate=16000)
    assert start.joins == (0.1,) and np.array_equal(start.samples[1760:], wav[1760:])
    end = generator.infill(wav, 0.3, 0.375, sample_rate=16000)
    assert end.joins == (0.3,) and np.array_equal(end.samples[:4640], wav[:4640])
    assert len(end.samples) == 6000 and end.samples[4800:].any()


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("magnet", (0.2, 0.1), r"seconds must lie in \(0, 600\]"),
        ("magnet", (-0.1, 0.1), r"must lie within the 0\.62 s of it, got -0\.1 to 0\.1 s"),
        ("magnet", (0.5, 0.7), r"must lie within the 0\.62 s"),
        ("magnet", (0.0, 0.45), r"at most 0\.42 s are filled in at once, got 0\.45 s"),
        ("music_ar", (0.1, 0.2), "only a parallel model fills in"),
    ],
)
def test_parts_that_cannot_be_made_anew_are_refused(kind, given, message):
    with pytest.raises(ConfigError, match=message):
        make(kind).infill(voice(9999, pitch_hz=120, formant_hz=500).numpy(), *given, sample_rate=16000)


def test_sound_does_not_depend_on_where_it_is_cut():
    generator = make("magnet")
    codes = torch.randint(16, (1, 4, 2100))
    whole, _ = generator._model.codec.decode(codes)
    np.testing.assert_allclose(generator._decode(codes), whole[0].numpy(), atol=1e-5)


def test_fewer_steps_are_shared_out():
    for steps, expected in ((5, (2, 1, 1, 1)), ((3, 1, 2, 1), (3, 1, 2, 1))):
        ticks = []
        make("enat").generate("dog", seconds=0.2, steps=steps, progress=lambda *tick: ticks.append(tick))  # noqa: B023
        assert tuple(total for _, done, total in ticks if done == total) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0}, r"seconds must lie in \(0, 600\], got 0"),
        ({"seconds": 1e9}, "seconds must lie in"),
        ({"seconds": float("nan")}, "seconds must lie in"),
        ({"prompt": " "}, "a prompt must have a word"),
        ({"prompt": "horse"}, "the model knows no 'horse'"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"steps": 3}, r"steps must lie in \[4, 1000\], one for each codebook at least; got 3"),
        ({"steps": (4, 2, 2)}, r"steps must be one number for each of 4 codebooks, each in \[1, 1000\]; got 4,2,2"),
        ({"steps": (4, 2, 0, 2)}, r"each in \[1, 1000\]; got 4,2,0,2"),
        ({"options": GeneratorOptions(guidance=float("nan"))}, r"guidance must lie in \[0, 100\], got nan"),
        ({"options": GeneratorOptions(temperature=0.0)}, r"temperature must lie in \(0, 100\], got 0\.0"),
        ({"options": GeneratorOptions(lead_seconds=3.0)}, r"lead_seconds must lie in \[0, 0\.42\], got 3\.0"),
        ({"options": GeneratorOptions(rescore=True)}, "need a parallel model with a partner"),
        ({"prompt": None, "options": GeneratorOptions(guidance=3.0)}, "guidance is the weight of a prompt"),
        ({"steps": 4, "options": GeneratorOptions(steps=4)}, "steps are given twice"),
        ({"sample_rate": 16000}, "sample_rate is that of continue_from"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        make("magnet").generate(**{"prompt": "dog", "seconds": 0.2, **options})


def test_wrong_recordings_and_models_are_refused(tmp_path):
    generator = make("magnet")
    with pytest.raises(AudioError, match=r"a recording to go on from must last 0\.06 s, got 0\.05 s"):
        generator.generate("dog", continue_from=np.zeros(800, dtype=np.float32), sample_rate=16000)
    with pytest.raises(AudioError, match="an array needs its sample_rate"):
        generator.generate("dog", continue_from=np.zeros(8000, dtype=np.float32))
    with pytest.raises(ConfigError, match="a file has its own"):
        generator.generate("dog", continue_from=tmp_path / "a.wav", sample_rate=16000)
    with pytest.raises(AudioError, match="finite"):
        generator.generate("dog", continue_from=np.full(8000, np.nan, dtype=np.float32), sample_rate=16000)
    with pytest.raises(ConfigError, match="steps are for a parallel model"):
        make("music_ar").generate("dog", steps=9)
    torch.manual_seed(1)
    with pytest.raises(ConfigError, match="Encodec does not make music or sound"):
        Generator(loaded(Encodec(EncodecConfig.debug())))
    with pytest.raises(ConfigError, match="a partner must be of kind music_ar, got Enat"):
        Generator(loaded(make_generator("magnet")), loaded(make_generator("enat")))
    other = make_generator("music_ar")
    other.codec.quantizer.layers[0].embed += 1
    with pytest.raises(ConfigError, match="its codes are not those of tiny"):
        Generator(loaded(make_generator("magnet")), loaded(other))


def test_an_absent_default_model_is_explained(monkeypatch):
    monkeypatch.setattr("speechnar.hub.SHIPPED_FOLDER", Path("/nowhere"))
    with pytest.raises(ModelNotFoundError, match=f"{DEFAULT_MUSIC_MODEL}' is not part of this version; train one"):
        Generator.load()
    with pytest.raises(ModelNotFoundError, match="no such model"):
        Generator.load("no such model")


def test_functions_of_the_package_load_a_model_once(tmp_path):
    save_model(tmp_path / "magnet", make_generator("magnet"), WORDS)
    module._generator.cache_clear()
    options = {"seconds": 0.2, "model": str(tmp_path / "magnet"), "device": "cpu"}
    sound, again = (speechnar.generate("dog", seed=2, **options) for _ in range(2))
    assert isinstance(sound, speechnar.Sound)
    np.testing.assert_array_equal(sound.samples, again.samples)
    assert module._generator.cache_info().misses == 1


def test_folders_are_loaded(tmp_path):
    save_model(tmp_path / "magnet", make_generator("magnet"), WORDS)
    save_model(tmp_path / "ar", make_generator("music_ar"), WORDS)
    generator = Generator.load(tmp_path / "magnet", device="cpu", partner=tmp_path / "ar")
    assert (generator.name, generator.sample_rate) == ("magnet", 16000)
    options = GeneratorOptions(rescore=True, lead_seconds=0.1, guidance=1.0, temperature=0.7)
    assert len(generator.generate("dog barks", seconds=0.3, options=options).samples) == 4800


@pytest.mark.parametrize("kind", ["magnet", "music_ar"])
def test_a_recording_fades_into_what_goes_on_from_it(kind):
    """Over the last hundredth of a second, evenly from the recording to what the codec makes of its codes."""
    generator = make(kind)
    codec, kept, fade = generator._model.codec, 31 * 320, 160
    wav = voice(kept, pitch_hz=120, formant_hz=500)
    context = 12 * 320  # half a window
    audio = generator.generate("dog", seconds=0.25, continue_from=wav.numpy(), sample_rate=16000)
    with torch.no_grad():
        codes = torch.cat([codec.encode(wav[None, -context:])[0], torch.from_numpy(audio.codes)[None].long()], dim=2)
        made = codec.decode(codes)[0][0].numpy()
    weights = np.arange(fade) / (fade - 1)
    mixed = (1 - weights) * wav[-fade:].numpy() + weights * made[context - fade : context]
    np.testing.assert_allclose(audio.samples[kept - fade : kept], mixed, atol=2e-5)
    assert np.abs(made[context - fade : context] - wav[-fade:].numpy()).max() > 0.01  # or any mixture would do
    assert np.array_equal(audio.samples[: kept - fade], wav[:-fade])
    num_made = len(audio.samples) - kept
    assert num_made == 4000
    np.testing.assert_allclose(audio.samples[kept:-fade], made[context : context + num_made - fade], atol=2e-5)
    ending = made[context + num_made - fade : context + num_made] * (1 - weights)
    np.testing.assert_allclose(audio.samples[-fade:], ending, atol=2e-5)


@pytest.mark.parametrize("before", [False, True])
def test_whoever_watches_sees_codes_being_decided(before):
    generator, shown = make("magnet"), []
    wav = voice(9999, pitch_hz=120, formant_hz=500).numpy() if before else None
    given = {"continue_from": wav, "sample_rate": 16000} if before else {}
    made = generator.generate("dog", seconds=0.6, watch=shown.append, **given)
    assert made.codes.tobytes() == generator.generate("dog", seconds=0.6, **given).codes.tobytes()
    assert {sketch.codes.shape for sketch in shown} == {made.codes.shape} == {(4, 30)}
    shares = [float(sketch.is_final.mean()) for sketch in shown]
    assert shares == sorted(shares) and shares[0] < 0.3 and shares[-1] == 1
    for sketch in shown:
        np.testing.assert_array_equal(sketch.codes[sketch.is_final], made.codes[sketch.is_final])
    assert (shown[0].codes == NOT_TRIED).any()
    sounds = [generator.preview(sketch) for sketch in (shown[0], shown[-1])]
    hop = generator.sample_rate // 50
    assert [len(sound) for sound in sounds] == [30 * hop] * 2
    untried = np.flatnonzero(shown[0].codes[0] == NOT_TRIED)
    assert all(not sounds[0][frame * hop : (frame + 1) * hop].any() for frame in untried)
    assert sounds[1].any()


def test_a_model_says_which_words_it_knows():
    assert make("magnet").words == ("dog", "cat", "barks")
