import json
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from speechnar.cli.main import main
from speechnar.data.codes import CODES_FILE, read_codes
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.errors import ConfigError, DataError
from speechnar.evaluation.sound import JOINS_FILE, score_sound
from speechnar.models.base import load_model, save_model
from speechnar.models.judges.sound_classifier import SoundClassifier, SoundClassifierConfig
from speechnar.models.sound.encodec import Encodec, EncodecConfig
from speechnar.sound.generator import Generator
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.models.judges.test_sound_classifier import animals
from tests.unit.models.sounds import voice

RATE = 16000
SOUNDS = {"dog": (210, 800), "cat": (110, 450)}
NUM = 8
"""Recordings of each set."""


def make(seed, *, seconds=1.0):
    """Return recordings by id, dogs and cats in turn."""
    rng = np.random.default_rng(seed)
    wavs = {}
    for i in range(NUM):
        name = ("dog", "cat")[i % 2]
        pitch_hz, formant_hz = SOUNDS[name]
        wav = voice(round(2 * seconds * RATE), pitch_hz=pitch_hz + float(rng.uniform(0, 9)), formant_hz=formant_hz)
        start = int(rng.integers(round(seconds * RATE)))
        wavs[f"{name}-{i}"] = wav.numpy()[start:][: round(seconds * RATE)]
    return wavs


def save_wavs(folder, wavs):
    folder.mkdir(parents=True, exist_ok=True)
    for utt_id, wav in wavs.items():
        soundfile.write(folder / f"{utt_id}.wav", wav, RATE, subtype="FLOAT")
    return folder


def save_data(folder, wavs):
    save_wavs(folder / "audio", wavs)
    utterances = [
        Utterance(
            utt_id=utt_id,
            wav_path=folder / "audio" / f"{utt_id}.wav",
            text=utt_id.partition("-")[0],
            spk_id="x",
            duration_s=len(wav) / RATE,
        )
        for utt_id, wav in wavs.items()
    ]
    write_kaldi_dir(folder, utterances)
    return folder


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    torch.manual_seed(0)
    model = SoundClassifier(SoundClassifierConfig.debug(), WORDS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(40):
        optimizer.zero_grad()
        model.loss(animals(step % 5)).total.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("models") / "judge"
    save_model(folder, model.eval(), WORDS)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return test, dev and train directories; the last has codes."""
    root = tmp_path_factory.mktemp("data")
    folders = [save_data(root / name, make(seed)) for seed, name in enumerate(("test", "dev", "train"))]
    save_file({utt_id: learned(i) for i, utt_id in enumerate(make(2))}, folders[2] / CODES_FILE)
    return folders


def learned(i):
    return torch.randint(256, (4, 50), generator=torch.Generator().manual_seed(i)).to(torch.int16)


@pytest.fixture(scope="module")
def systems(tmp_path_factory, data):
    root, wavs = tmp_path_factory.mktemp("systems"), make(0)
    swapped = {utt_id: wavs[other] for utt_id, other in zip(wavs, [*list(wavs)[1:], *list(wavs)[:1]], strict=True)}
    rng = np.random.default_rng(0)
    noise = {utt_id: 0.1 * rng.standard_normal(len(wav)) for utt_id, wav in wavs.items()}
    halves = {utt_id: np.concatenate([wav[: RATE // 2], noise[utt_id][RATE // 2 :]]) for utt_id, wav in wavs.items()}
    folders = {
        name: save_wavs(root / name, sounds)
        for name, sounds in {"copied": wavs, "swapped": swapped, "noise": noise, "halves": halves}.items()
    }
    save_file(
        {utt_id: learned(i)[:, 10:40].contiguous() for i, utt_id in enumerate(wavs)}, folders["copied"] / CODES_FILE
    )
    save_file({utt_id: learned(100 + i) for i, utt_id in enumerate(wavs)}, folders["swapped"] / CODES_FILE)
    for name in ("copied", "halves"):
        (folders[name] / JOINS_FILE).write_text(json.dumps({utt_id: [0.5] for utt_id in wavs}))
    return folders


@pytest.fixture(scope="module")
def scored(judge, data, systems):
    return score_sound(data[0], systems, judge=load_model(judge), reference=data[1], training=data[2])


def test_the_judge_hears_what_was_asked_for(scored):
    report, entries = scored
    assert list(report.systems) == ["recorded", "copied", "swapped", "noise", "halves"]
    recorded, copied, swapped = (report.systems[name] for name in ("recorded", "copied", "swapped"))
    assert recorded.right.value == copied.right.value == 1
    assert copied.probability.value == pytest.approx(recorded.probability.value)
    assert swapped.right.value == 0
    assert swapped.probability.value < 0.5 < recorded.probability.value
    assert (report.utterances, report.reference, report.judge) == (NUM, NUM, "judge")
    assert report.embedding == "embeddings of 8 values, the last but one layer of judge"
    assert len(entries) == 5 * NUM
    wrong = next(entry for entry in entries if entry["system"] == "swapped")
    assert {wrong["text"], wrong["heard"]} == {"dog", "cat"}


def test_other_sounds_are_further_away(scored):
    systems = scored[0].systems
    floor, far = systems["recorded"], systems["noise"]
    assert systems["swapped"].kernel.value == pytest.approx(floor.kernel.value)  # as a set they are the same
    assert systems["swapped"].frechet == pytest.approx(floor.frechet)
    assert far.frechet > 3 * floor.frechet
    assert far.kernel.value > abs(floor.kernel.value) + 2 * far.kernel.deviation


def test_what_is_learned_by_heart_shows(scored):
    systems = scored[0].systems
    assert systems["recorded"].repeated is systems["noise"].repeated is None
    copied, new = systems["copied"].repeated, systems["swapped"].repeated
    assert copied.nearest.value == 1
    assert copied.longest_frames.value == 30
    assert {n: mean.value for n, mean in copied.ngrams.items()} == {5: 1, 10: 1, 25: 1}  # 50 are longer than it is
    assert new.nearest.value < 0.2
    assert new.ngrams[5].value == 0


def test_joins_stand_out_where_there_is_a_seam(scored):
    systems = scored[0].systems
    assert systems["recorded"].joined is systems["noise"].joined is None
    assert systems["copied"].joined.outliers.value <= 0.25
    assert systems["copied"].joined.share.value == pytest.approx(0.5, abs=0.3)
    assert systems["halves"].joined.outliers.value >= 0.75


def test_the_program_writes_what_it_found(scored, judge, data, systems, *, tmp_path, capsys):
    test, dev, train = map(str, data)
    argv = ["sound", "score", test, str(tmp_path / "out"), "--judge", str(judge), "--reference", dev, "--train", train]
    argv += [item for name, folder in systems.items() for item in ("--system", f"{name}={folder}")]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "copied: right 100.0 %" in shown
    assert "joins that stand out" in shown
    written = json.loads((tmp_path / "out/sound.json").read_text())
    assert written == json.loads(json.dumps(scored[0].to_dict()))
    assert len((tmp_path / "out/utterances.jsonl").read_text().splitlines()) == 5 * NUM
    assert main([*argv, "--system", "gone=nowhere"]) == 1
    assert "system 'gone' must have a file for each of 8 utterances" in capsys.readouterr().err
    assert main([*argv[:8], "--train", test]) == 1
    assert "write it by speechnar data codes" in capsys.readouterr().err


def test_wrong_judges_and_names_are_refused(judge, data, systems, tmp_path):
    test, dev, train = data
    loaded, options = load_model(judge), {"reference": dev, "training": train}
    with pytest.raises(ConfigError, match="must not be called 'recorded'"):
        score_sound(test, {"recorded": systems["noise"]}, judge=loaded, **options)
    codec = replace(loaded, model=Encodec(EncodecConfig.debug()))
    with pytest.raises(ConfigError, match="must be a sound_classifier, got Encodec"):
        score_sound(test, systems, judge=codec, **options)
    wavs = make(0)
    strange = save_data(tmp_path / "strange", {"horse-1": wavs["dog-0"], "dog-1": wavs["dog-0"]})
    with pytest.raises(ConfigError, match="must know a word of utterance 'horse-1': 'horse'"):
        score_sound(strange, {}, judge=loaded, **options)
    one = save_data(tmp_path / "one", {"dog-1": wavs["dog-0"]})
    with pytest.raises(DataError, match="two sounds of each set at least"):
        score_sound(one, {}, judge=loaded, **options)


def write_data(folder, texts):
    folder.mkdir()
    utterances = []
    for i, text in enumerate(texts):
        path = folder / f"u{i}.wav"
        soundfile.write(path, voice(6400 + 320 * i, pitch_hz=100 + 20 * i, formant_hz=500).numpy(), 16000)
        length = 0.4 + 0.02 * i
        utterances.append(Utterance(utt_id=f"u{i}", wav_path=path, text=text, spk_id="x", duration_s=length))
    write_kaldi_dir(folder, utterances)
    return folder


def test_each_text_becomes_sound_and_each_recording_goes_through_the_codec(tmp_path, capsys):
    data = write_data(tmp_path / "data", ["dog", "cat barks", "dog"])
    save_model(tmp_path / "magnet", make_generator("magnet"), WORDS)
    save_model(tmp_path / "ar", make_generator("music_ar"), WORDS)
    common = ["sound", "decode", str(tmp_path / "magnet"), str(data)]
    assert main([*common, str(tmp_path / "out"), "--seed", "5", "-d", "cpu"]) == 0
    sounds = {i: soundfile.read(tmp_path / f"out/u{i}.wav", dtype="float32")[0] for i in range(3)}
    assert [len(sound) for sound in sounds.values()] == [6400, 6720, 7040]
    generator = Generator.load(tmp_path / "magnet", device="cpu", precision="fp32")
    again = generator.generate("dog", seconds=0.44, seed=7).samples
    np.testing.assert_allclose(sounds[2], again, atol=1e-4)
    helped = ["--partner", str(tmp_path / "ar"), "--rescore", "--lead-seconds", "0.1", "--steps", "6"]
    assert main([*common, str(tmp_path / "helped"), *helped, "-d", "cpu"]) == 0
    assert not np.array_equal(soundfile.read(tmp_path / "helped/u0.wav")[0], sounds[0])
    assert main([*common, str(tmp_path / "coded"), "--system", "coded", "-d", "cpu"]) == 0
    wav = torch.from_numpy(soundfile.read(data / "u1.wav", dtype="float32")[0])
    coded = soundfile.read(tmp_path / "coded/u1.wav", dtype="float32")[0]
    np.testing.assert_allclose(coded, generator.recode(wav).samples, atol=1e-4)
    assert len(coded) == 6720
    assert np.array_equal(read_codes(tmp_path / "coded")["u1"], generator.recode(wav).codes)
    assert {utt_id: codes.shape for utt_id, codes in read_codes(tmp_path / "out").items()} == {
        f"u{i}": (4, length) for i, length in enumerate((20, 21, 22))
    }
    assert json.loads((tmp_path / "out/joins.json").read_text()) == {"u0": [], "u1": [], "u2": []}
    assert main([*common, str(tmp_path / "long"), "--seconds", "0.9", "-d", "cpu"]) == 0
    assert soundfile.info(tmp_path / "long/u1.wav").frames == 14400
    assert json.loads((tmp_path / "long/joins.json").read_text())["u2"] == [0.48, 0.72]
    assert main([*common, str(tmp_path / "out"), "--rescore", "-d", "cpu"]) == 2
    assert "need a parallel model with a partner" in capsys.readouterr().err
