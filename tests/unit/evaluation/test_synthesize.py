import pytest
import soundfile
import torch

from speechnar.data.dataset import read_utterance
from speechnar.data.kaldi import Utterance, read_kaldi_dir, write_kaldi_dir
from speechnar.evaluation.synthesize import main
from speechnar.models.base import load_model
from speechnar.tts.synthesizer import Synthesizer
from tests.unit.tiny import save_tiny_model, save_tiny_tts, speechlike

RATE = 16000


@pytest.fixture(scope="module")
def tts(tmp_path_factory):
    return save_tiny_tts(tmp_path_factory.mktemp("tts"))


def write_dir(folder, speakers, text="the cat sat"):
    utterances = []
    folder.mkdir()
    for number, speaker in enumerate(speakers):
        path = folder / f"{speaker}-{number}.wav"
        soundfile.write(path, speechlike(1.5, seed=number), RATE)
        utterances.append(Utterance(path.stem, path, text, speaker, 1.5))
    write_kaldi_dir(folder / "data", utterances)
    return folder / "data"


def test_texts_are_spoken_in_the_voices_of_their_speakers(tts, tmp_path):
    data = write_dir(tmp_path / "test", ["ann", "bob", "bob"])
    voices = write_dir(tmp_path / "voices", ["ann", "bob", "bob"])
    arguments = [str(tts), str(data), str(tmp_path / "out"), "--steps", "2", "--seed", "5"]
    assert main([*arguments, "--voices", str(voices)]) == 0
    synthesizer = Synthesizer.load(tts)
    reference = read_kaldi_dir(voices)[1]
    voice = synthesizer.voice(read_utterance(reference, RATE), text=reference.text, sample_rate=RATE)
    expected = synthesizer.synthesize("the cat sat", voice=voice, steps=2, seed=7)
    written, rate = soundfile.read(tmp_path / "out/bob-2.wav", dtype="float32")
    assert rate == RATE
    torch.testing.assert_close(torch.from_numpy(written), torch.from_numpy(expected.samples), atol=1e-4, rtol=0)
    assert main(arguments) == 0  # in the model's own voice
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["ann-0.wav", "bob-1.wav", "bob-2.wav"]


def test_recordings_pass_through_the_vocoder_or_the_codec_as_well(tts, tmp_path):
    data = write_dir(tmp_path / "test", ["ann"])
    model = load_model(tts).model
    wav = torch.from_numpy(read_utterance(read_kaldi_dir(data)[0], RATE))[None]
    lens = torch.tensor([wav.size(1)])
    with torch.no_grad():
        expected = {
            "vocoded": model.vocoder(*model.codec.frontend(wav, lens))[0][0],
            "coded": model.vocoder(*model.codec.decode(*model.codec.encode(wav, lens)))[0][0],
        }
    assert not torch.equal(expected["vocoded"][:1000], expected["coded"][:1000])
    for system, samples in expected.items():
        assert main([str(tts), str(data), str(tmp_path / system), "--system", system]) == 0
        written, _ = soundfile.read(tmp_path / system / "ann-0.wav", dtype="float32")
        torch.testing.assert_close(torch.from_numpy(written), samples.clamp(-1, 1), atol=1e-4, rtol=0)


def test_errors_name_what_is_wrong(tts, tmp_path, capsys):
    data, voices = write_dir(tmp_path / "test", ["ann"]), write_dir(tmp_path / "voices", ["bob"])
    assert main([str(tts), str(data), str(tmp_path / "out"), "--voices", str(voices)]) == 1
    assert "speaker 'ann' of utterance 'ann-0' has no recording among voices" in capsys.readouterr().err
    other = save_tiny_model(tmp_path / "asr")
    assert main([str(other), str(data), str(tmp_path / "out"), "--system", "coded"]) == 1
    assert "must be a model of kind tts" in capsys.readouterr().err
