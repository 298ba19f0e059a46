import json

import numpy as np
import soundfile
import torch

from speechnar.data.codes import read_codes
from speechnar.data.kaldi import Utterance, write_kaldi_dir
from speechnar.evaluation.generate import main
from speechnar.models.base import save_model
from speechnar.sound.generator import Generator
from tests.unit.models.generators import WORDS, make_generator
from tests.unit.models.sounds import voice


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
    common = [str(tmp_path / "magnet"), str(data)]
    assert main([*common, str(tmp_path / "out"), "--seed", "5", "-d", "cpu"]) == 0
    sounds = {i: soundfile.read(tmp_path / f"out/u{i}.wav", dtype="float32")[0] for i in range(3)}
    assert [len(sound) for sound in sounds.values()] == [6400, 6720, 7040]
    generator = Generator.load(tmp_path / "magnet", device="cpu")
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
    assert main([*common, str(tmp_path / "out"), "--rescore", "-d", "cpu"]) == 1
    assert "need a parallel model with a partner" in capsys.readouterr().err
